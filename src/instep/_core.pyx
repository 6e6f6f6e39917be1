"""Arrays to pointers. Checks only what memory safety needs; policy and messages are Python's."""

cimport cython
cimport numpy as cnp
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t, intptr_t
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
        const void *weight
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
    void instep_rule_advance(int rule, double *row, int64_t step, int fresh,
                             instep_power_memory *memory)
    int instep_loss_count()
    const char *instep_loss_name(int loss)
    const char *instep_loss_coefficients(int loss)
    instep_plan *instep_plan_create(int leaves)
    void instep_plan_destroy(instep_plan *plan)
    int instep_plan_set_parameter(instep_plan *plan, int leaf, const instep_array *parameter)
    void instep_plan_set_rule(instep_plan *plan, int leaf, int rule, const instep_array *states)
    int instep_plan_finish(instep_plan *plan)
    void instep_plan_set_row(instep_plan *plan, int leaf, int row)
    int instep_plan_set_gradient(instep_plan *plan, int leaf, const instep_array *gradient,
                                 int trusted)
    double instep_plan_sum_squares(instep_plan *plan, double scale, int threads)
    void instep_plan_step(instep_plan *plan, const double *rows, int threads)
    size_t instep_plan_bound(const instep_plan *plan)
    size_t instep_allocations()
    double instep_loss_elementwise(int loss, const instep_elementwise *call, int threads)
    double instep_sum(const instep_array *array, int threads)
    int64_t instep_count_outside(const instep_array *array, double low, double high, int sizes,
                                 int threads)
    double instep_loss_classwise(int loss, const instep_classwise *call, int threads)
    int instep_loss_regionwise(const instep_regionwise *call, int threads)
    int64_t instep_check_labels(const instep_array *labels, int64_t classes,
                                int64_t ignore_index, const void *weight, instep_dtype dtype,
                                double *total)

cpdef enum:  # what `Plan.bind` returns unless it stops at a leaf
    ALL_BOUND = -1
    SOME_BOUND = -2

cpdef enum:  # why it stops: the first two as instep_plan_set_gradient says
    WRONG_SHAPE = 1
    MAY_OVERLAP = 2
    NOT_AN_ARRAY = 3
    WRONG_DTYPE = 4
    READ_ONLY = 5  # the parameter

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


cdef instep_array describe(cnp.ndarray array, int code) noexcept:
    cdef instep_array out
    out.data = <char *>cnp.PyArray_DATA(array)
    out.shape = <const intptr_t *>cnp.PyArray_DIMS(array)
    out.strides = <const intptr_t *>cnp.PyArray_STRIDES(array)
    out.ndim = cnp.PyArray_NDIM(array)
    out.dtype = <instep_dtype>code
    return out


@cython.auto_pickle(False)
cdef class Row:
    """What leaves with the same coefficients share. The step keeps `steps` and `fresh`."""

    cdef public int64_t steps
    cdef public bint fresh  # their states have not been written yet
    cdef public bint active  # they take part in this step
    cdef int rule_number
    cdef double[INSTEP_MAX_COEFFICIENTS] coefficients
    cdef instep_power_memory powers

    def set(self, int rule, double sign, tuple coefficients):
        """Use `rule` with these coefficients behind gradient_scale and gradient_limit."""
        cdef int k
        if len(coefficients) > INSTEP_MAX_COEFFICIENTS - 2:
            raise IndexError(len(coefficients))
        self.rule_number = rule
        self.coefficients[0] = sign
        for k in range(len(coefficients)):
            self.coefficients[2 + k] = coefficients[k]


@cython.auto_pickle(False)
cdef class Plan:
    """The leaves of one optimizer. Not safe for concurrent use: the optimizer holds a lock."""

    cdef instep_plan *plan
    cdef double *rows
    cdef int *row_of
    cdef int *counts
    cdef int leaves, row_capacity, row_count
    cdef list parameters
    cdef list states
    cdef list row_list
    cdef readonly int reason
    cdef int bound

    def __cinit__(self, list parameters):
        cdef int leaf
        cdef instep_array array
        self.leaves = len(parameters)
        self.parameters = parameters
        self.states = [None] * self.leaves
        self.plan = instep_plan_create(self.leaves)
        self.row_of = <int *>PyMem_Calloc(self.leaves + 1, sizeof(int))
        if self.plan == NULL or self.row_of == NULL:
            raise MemoryError
        for leaf in range(self.leaves):
            array = describe(parameters[leaf], float_code(parameters[leaf]))
            if array.dtype > INSTEP_FLOAT64 or instep_plan_set_parameter(self.plan, leaf, &array):
                raise MemoryError
        self.finish()

    def __dealloc__(self):
        instep_plan_destroy(self.plan)
        PyMem_Free(self.rows)
        PyMem_Free(self.row_of)
        PyMem_Free(self.counts)

    def finish(self):
        """Call after the last of a series of set_rule."""
        if instep_plan_finish(self.plan):
            raise MemoryError

    def set_rule(self, int leaf, int rule, tuple states):
        """Use `rule` with `states`: writable arrays of the parameter's shape and dtype."""
        cdef instep_array arrays[INSTEP_MAX_STATES]
        cdef int k
        for k in range(len(states)):
            arrays[k] = describe(states[k], float_code(states[k]))
        instep_plan_set_rule(self.plan, leaf, rule, arrays)
        self.states[leaf] = states

    def set_rows(self, list row_of_leaf, list rows):
        """The rows of coefficients, and which of them each leaf has."""
        cdef int leaf, row, count = len(rows)
        if count > self.row_capacity:
            PyMem_Free(self.rows)
            PyMem_Free(self.counts)
            self.row_capacity = 0
            self.rows = <double *>PyMem_Calloc(count * INSTEP_MAX_COEFFICIENTS, sizeof(double))
            self.counts = <int *>PyMem_Calloc(count, sizeof(int))
            if self.rows == NULL or self.counts == NULL:
                raise MemoryError
            self.row_capacity = count
        self.row_count = count
        self.row_list = rows
        for leaf in range(self.leaves):
            row = row_of_leaf[leaf]
            self.row_of[leaf] = row
            instep_plan_set_row(self.plan, leaf, row)

    def bind(self, list gradients):
        """Bind this step's gradients; None: no part in it.

        ALL_BOUND, SOME_BOUND, or the leaf where it stopped: `reason` says why."""
        self.bound = 0
        return self.bind_rest(gradients, 0, -1)

    def bind_from(self, list gradients, int start, int trusted):
        """Go on from leaf `start`. `trusted`: a leaf known to be clear of all writes, or -1."""
        return self.bind_rest(gradients, start, trusted)

    cdef int bind_rest(self, list gradients, int start, int trusted) except? -9:
        cdef int leaf, status
        cdef int code
        cdef instep_array array
        cdef object gradient
        if len(gradients) != self.leaves:
            raise ValueError("one gradient per leaf")
        for leaf in range(start, self.leaves):
            gradient = gradients[leaf]
            if gradient is None:
                instep_plan_set_gradient(self.plan, leaf, NULL, 0)
                continue
            if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>self.parameters[leaf]):
                self.reason = READ_ONLY
                return leaf
            if not cnp.PyArray_CheckExact(gradient):
                self.reason = NOT_AN_ARRAY
                return leaf
            code = float_code(<cnp.ndarray>gradient)
            if code < 0:
                self.reason = WRONG_DTYPE
                return leaf
            array = describe(<cnp.ndarray>gradient, code)
            status = instep_plan_set_gradient(self.plan, leaf, &array, leaf == trusted)
            if status:
                self.reason = status
                return leaf
            self.bound += 1
        return ALL_BOUND if self.bound == self.leaves else SOME_BOUND

    def bound_per_row(self, list gradients):
        """How many of the leaves of each row have a gradient."""
        cdef int leaf, row
        for row in range(self.row_count):
            self.counts[row] = 0
        for leaf in range(self.leaves):
            if gradients[leaf] is not None:
                self.counts[self.row_of[leaf]] += 1
        return [self.counts[row] for row in range(self.row_count)]

    def sum_squares(self, double scale, int threads):
        cdef double total
        if instep_plan_bound(self.plan) < KEEP_GIL:
            return instep_plan_sum_squares(self.plan, scale, threads)
        with nogil:
            total = instep_plan_sum_squares(self.plan, scale, threads)
        return total

    def step(self, double scale, double limit, int threads):
        """Update all bound leaves with their gradients scaled and clipped to +-limit."""
        cdef Row row
        cdef double *at
        cdef int k
        for k in range(self.row_count):
            row = <Row>self.row_list[k]
            if row.active:
                at = self.rows + k * INSTEP_MAX_COEFFICIENTS
                memcpy(at, row.coefficients, sizeof(row.coefficients))
                at[0] *= scale
                at[1] = limit
                instep_rule_advance(row.rule_number, at, row.steps + 1, row.fresh, &row.powers)
        self.update(threads)
        for k in range(self.row_count):
            row = <Row>self.row_list[k]
            if row.active:
                row.steps += 1
                row.fresh = False

    cdef void update(self, int threads) noexcept:
        if instep_plan_bound(self.plan) < KEEP_GIL:
            instep_plan_step(self.plan, self.rows, threads)
            return
        with nogil:
            instep_plan_step(self.plan, self.rows, threads)


include "_losses.pxi"


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


def losses():
    """The registry: {loss: (number, names of coefficients)}."""
    return {instep_loss_name(k).decode(): (k, names(instep_loss_coefficients(k)))
            for k in range(instep_loss_count())}
