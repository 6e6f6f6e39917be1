"""Arrays to pointers. Checks only what memory safety needs; policy and messages are Python's."""

cimport cython
cimport numpy as cnp
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, intptr_t, uint64_t
from libc.string cimport memcpy

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    int NPY_HALF  # missing from Cython's numpy.pxd

cdef extern from "instep.h" nogil:
    enum:
        INSTEP_MAX_COEFFICIENTS
        INSTEP_MAX_STATES
        INSTEP_MAX_LOSS_COEFFICIENTS
        INSTEP_MAX_DIMS
    ctypedef enum instep_dtype:
        INSTEP_FLOAT32
        INSTEP_FLOAT64
        INSTEP_FLOAT16
        INSTEP_BFLOAT16
        INSTEP_LONGDOUBLE
        INSTEP_INT8
        INSTEP_INT16
        INSTEP_INT32
        INSTEP_INT64
        INSTEP_UINT8
        INSTEP_UINT16
        INSTEP_UINT32
        INSTEP_UINT64
        INSTEP_DTYPES
    ctypedef struct instep_array:
        char *data
        const intptr_t *shape
        const intptr_t *strides
        int ndim
        instep_dtype dtype
    ctypedef struct instep_plan:
        pass
    ctypedef struct instep_power_memory:
        pass
    ctypedef struct instep_step_options:
        int threads
        int zero_gradients
        int measure
        double measured_scale
        double average_weight
        uint64_t seed
        uint64_t step
    ctypedef struct instep_measures:
        double gradient
        double update
        double parameter
        int64_t clipped
    ctypedef struct instep_elementwise:
        instep_array pred
        instep_array target
        instep_array gradient
        const instep_array *weight
        const instep_array *values
        const instep_array *extra
        const double *coefficients
        double scale
    ctypedef struct instep_classwise:
        instep_array pred
        instep_array target
        instep_array gradient
        const instep_array *values
        const double *weight
        int axis
        int64_t ignore_index
        double label_smoothing
        double scale
    ctypedef struct instep_regionwise:
        instep_array pred
        instep_array target
        instep_array gradient
        const instep_array *mask
        const double *coefficients
        const double *factor
        double *score
        int kept

    int instep_isa_select(const char *name)
    const char *instep_isa_name()
    const char *instep_isa_available(int index)
    int instep_rule_count()
    const char *instep_rule_name(int rule)
    const char *instep_rule_states(int rule)
    const char *instep_rule_coefficients(int rule)
    int instep_rule_derived(int rule)
    int instep_state_count()
    const char *instep_state_name(int state)
    const char *instep_state_format(int state)
    void instep_rule_advance(int rule, double *row, int64_t step, int fresh,
                             instep_power_memory *memory)
    int instep_loss_count()
    const char *instep_loss_name(int loss)
    const char *instep_loss_coefficients(int loss)
    instep_plan *instep_plan_create(int leaves)
    void instep_plan_destroy(instep_plan *plan)
    int instep_plan_set_parameter(instep_plan *plan, int leaf, const instep_array *parameter)
    void instep_plan_set_rule(instep_plan *plan, int leaf, int rule, const instep_array *states)
    void instep_plan_set_scales(instep_plan *plan, int leaf, float **scales)
    int instep_plan_finish(instep_plan *plan)
    void instep_plan_set_average(instep_plan *plan, int leaf, const instep_array *average)
    void instep_plan_set_copy(instep_plan *plan, int leaf, const instep_array *copy)
    void instep_plan_set_row(instep_plan *plan, int leaf, int row)
    int instep_plan_set_gradient(instep_plan *plan, int leaf, const instep_array *gradient,
                                 int trusted)
    double instep_plan_sum_squares(instep_plan *plan, double scale, int threads)
    void instep_plan_step(instep_plan *plan, const double *rows,
                          const instep_step_options *options)
    void instep_plan_measured(const instep_plan *plan, instep_measures *leaves)
    size_t instep_plan_bound(const instep_plan *plan)
    void instep_state_encode(const float *values, size_t count, instep_dtype dtype, void *codes,
                             float *scales)
    void instep_state_decode(const void *codes, const float *scales, size_t count,
                             instep_dtype dtype, float *values)
    size_t instep_plan_work(const instep_plan *plan)
    int instep_plan_gradients_apart(instep_plan *plan, int trusted)
    void instep_plan_exchange(instep_plan *plan, int threads)
    size_t instep_allocations()
    double instep_loss_elementwise(int loss, const instep_elementwise *call, int threads)
    double instep_sum(const instep_array *array, int threads)
    int64_t instep_count_outside(const instep_array *array, double low, double high, int sizes,
                                 int threads)
    double instep_loss_classwise(int loss, const instep_classwise *call, int threads)
    int instep_loss_regionwise(const instep_regionwise *call, int threads)
    int64_t instep_check_labels(const instep_array *labels, int64_t classes,
                                int64_t ignore_index, const double *weight,
                                double *total)

cpdef enum:  # what `Plan.bind` returns unless it stops at a leaf
    ALL_BOUND = -1
    SOME_BOUND = -2
    MAY_SHARE = -3  # all, but zeroing one of them may zero another

cpdef enum:  # why it stops: the first two as instep_plan_set_gradient says
    WRONG_SHAPE = 1
    MAY_OVERLAP = 2
    NOT_AN_ARRAY = 3
    WRONG_DTYPE = 4
    READ_ONLY = 5  # the parameter, or the copy of it that is the user's
    READ_ONLY_GRADIENT = 6  # which is to be zeroed

# Elements below which a step takes about a microsecond: not worth a switch of the GIL.
cdef enum:
    KEEP_GIL = 4096

# ml_dtypes gives bfloat16 its type number when it is imported.
cdef int bfloat16_number = -1


def register_bfloat16(cnp.dtype dtype):
    global bfloat16_number
    bfloat16_number = dtype.type_num


cdef int float_code(cnp.ndarray array) noexcept:
    """The dtype of a float array in native byte order, or -1."""
    cdef int number = cnp.PyArray_TYPE(array)
    if number == cnp.NPY_FLOAT:
        number = INSTEP_FLOAT32
    elif number == cnp.NPY_DOUBLE:
        number = INSTEP_FLOAT64
    elif number == NPY_HALF:
        number = INSTEP_FLOAT16
    elif number == cnp.NPY_LONGDOUBLE:
        number = INSTEP_LONGDOUBLE
    elif number == bfloat16_number:
        number = INSTEP_BFLOAT16
    else:
        return -1
    return number if cnp.PyArray_ISNOTSWAPPED(array) else -1


cdef int integer_code(cnp.ndarray array) noexcept:
    """The dtype of an integer array in native byte order, or -1. bool is no integer here."""
    cdef int number = cnp.PyArray_TYPE(array)
    cdef intptr_t size = cnp.PyArray_ITEMSIZE(array)
    cdef int width = 0 if size == 1 else 1 if size == 2 else 2 if size == 4 else 3
    if not cnp.PyArray_ISINTEGER(array) or not cnp.PyArray_ISNOTSWAPPED(array):
        return -1
    if cnp.PyTypeNum_ISUNSIGNED(number):
        return INSTEP_UINT8 + width
    return INSTEP_INT8 + width


cdef int real_code(cnp.ndarray array) noexcept:
    """The dtype of an array of real numbers, bool included, in native byte order, or -1."""
    cdef int code = float_code(array)
    if code >= 0:
        return code
    if cnp.PyArray_TYPE(array) == cnp.NPY_BOOL:
        return INSTEP_UINT8
    return integer_code(array)


cdef int state_code(cnp.ndarray array) noexcept:
    """The dtype of a state: float32, float64, bfloat16 (or uint16, its bits), int8 or uint8."""
    cdef int code = float_code(array)
    if code < 0:
        code = integer_code(array)
    return INSTEP_BFLOAT16 if code == INSTEP_UINT16 else code


cdef instep_array describe(cnp.ndarray array, int code) noexcept:
    cdef instep_array out
    out.data = <char *>cnp.PyArray_DATA(array)
    out.shape = <const intptr_t *>cnp.PyArray_DIMS(array)
    out.strides = <const intptr_t *>cnp.PyArray_STRIDES(array)
    out.ndim = cnp.PyArray_NDIM(array)
    out.dtype = <instep_dtype>code
    return out


include "_plan.pxi"
include "_losses.pxi"


def encode_state(cnp.ndarray values, cnp.ndarray codes, cnp.ndarray scales):
    """Round float32 values to the nearest codes, all dense; scales: None for bfloat16."""
    instep_state_encode(<float *>cnp.PyArray_DATA(values), cnp.PyArray_SIZE(values),
                        <instep_dtype>state_code(codes), cnp.PyArray_DATA(codes), floats(scales))


def decode_state(cnp.ndarray codes, cnp.ndarray scales, cnp.ndarray values):
    """Write what the codes stand for to float32 values, all dense."""
    instep_state_decode(cnp.PyArray_DATA(codes), floats(scales), cnp.PyArray_SIZE(values),
                        <instep_dtype>state_code(codes), <float *>cnp.PyArray_DATA(values))


cdef float *floats(cnp.ndarray scales) noexcept:
    return NULL if scales is None else <float *>cnp.PyArray_DATA(scales)


def is_float(cnp.ndarray array):
    """Can the core read it as floating-point numbers?"""
    return float_code(array) >= 0


def is_real(cnp.ndarray array):
    """Can the core read it as real numbers: of any float, integer or bool type?"""
    return real_code(array) >= 0


def is_integer(cnp.ndarray array):
    """Can the core read it as labels?"""
    return integer_code(array) >= 0


def allocations():
    return instep_allocations()


def select_isa(name):
    """Use the kernels of level `name` (None: the best). False if unknown or unsupported."""
    cdef bytes text
    if name is None:
        return instep_isa_select(NULL) == 0
    text = name.encode()
    return instep_isa_select(text) == 0


def isa():
    return instep_isa_name().decode()


def available_isas():
    cdef int index = 0
    found = []
    while instep_isa_available(index) != NULL:
        found.append(instep_isa_available(index).decode())
        index += 1
    return found


cdef tuple names(const char *text):
    return tuple([name.strip() for name in text.decode().split(",") if name.strip()])


def rules():
    """The registry: {rule: (number, names of states, of coefficients, how many are derived)}."""
    return {instep_rule_name(k).decode(): (k, names(instep_rule_states(k)),
                                           names(instep_rule_coefficients(k)),
                                           instep_rule_derived(k))
            for k in range(instep_rule_count())}


def states():
    """The registry: {state: how it may be kept in fewer bits}."""
    return {instep_state_name(k).decode(): instep_state_format(k).decode()
            for k in range(instep_state_count())}


def losses():
    """The registry: {loss: (number, names of coefficients)}."""
    return {instep_loss_name(k).decode(): (k, names(instep_loss_coefficients(k)))
            for k in range(instep_loss_count())}
