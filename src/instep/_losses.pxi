# Part of _core.pyx: one call of a loss.
#
# Each takes arrays as the user gave them, and returns None where it finds something unusual:
# another type, another shape, memory that may overlap. Python then converts or explains, and calls
# again with `checked` arrays. So the usual call pays for no check twice.

cdef extern from "numpy/arrayobject.h":
    object PyArray_NewLikeArray(cnp.ndarray prototype, cnp.NPY_ORDER order, void *dtype,
                                int subok)
    bint PyArray_ISONESEGMENT(cnp.ndarray array)

# How the losses of elements or rows become one number.
cdef enum:
    MEAN
    SUM
    NONE
    BATCHMEAN
    UNKNOWN

# The largest 1 / x is finite from here on.
cdef double SMALLEST_DIVISOR = 2.0 ** -1022


cdef int reduction_code(object reduction) except -1:
    if not isinstance(reduction, str):
        return UNKNOWN
    if reduction == "mean":
        return MEAN
    if reduction == "sum":
        return SUM
    if reduction == "none":
        return NONE
    return BATCHMEAN if reduction == "batchmean" else UNKNOWN


cdef int prediction_code(cnp.ndarray array) noexcept:
    """float32, float64, float16 or bfloat16, or -1."""
    cdef int code = float_code(array)
    return -1 if code == INSTEP_LONGDOUBLE else code


cdef bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int axis
    if cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b):
        return False
    for axis in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, axis) != cnp.PyArray_DIM(b, axis):
            return False
    return True


cdef void byte_range(cnp.ndarray array, intptr_t *low, intptr_t *high) noexcept:
    cdef int axis
    cdef intptr_t reach
    low[0] = high[0] = <intptr_t>cnp.PyArray_DATA(array)
    if cnp.PyArray_SIZE(array) == 0:
        return
    high[0] += cnp.PyArray_ITEMSIZE(array)
    for axis in range(cnp.PyArray_NDIM(array)):
        reach = (cnp.PyArray_DIM(array, axis) - 1) * cnp.PyArray_STRIDE(array, axis)
        if reach < 0:
            low[0] += reach
        else:
            high[0] += reach


cdef bint apart(cnp.ndarray a, cnp.ndarray b) noexcept:
    """No byte of one lies between the first and the last of the other."""
    cdef intptr_t a_low, a_high, b_low, b_high
    byte_range(a, &a_low, &a_high)
    byte_range(b, &b_low, &b_high)
    return a_high <= b_low or b_high <= a_low


cpdef bint is_output(object out, cnp.ndarray pred, cnp.ndarray target, object weight):
    """An array like pred that can surely be written: pred itself, or dense memory of its own."""
    if not cnp.PyArray_CheckExact(out) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out):
        return False
    if not PyArray_ISONESEGMENT(<cnp.ndarray>out) or not same_shape(<cnp.ndarray>out, pred):
        return False
    if float_code(<cnp.ndarray>out) != float_code(pred) or not apart(<cnp.ndarray>out, target):
        return False
    if weight is not None and not apart(<cnp.ndarray>out, <cnp.ndarray>weight):
        return False
    return out is pred or apart(<cnp.ndarray>out, pred)


cdef cnp.ndarray new_like(cnp.ndarray array):
    return PyArray_NewLikeArray(array, cnp.NPY_KEEPORDER, NULL, 0)


cdef nothing_counts(cnp.ndarray gradient):
    gradient.fill(0)
    return 0.0, gradient


# ---- elements ------------------------------------------------------------------------------------

cdef struct elementwise_call:
    instep_elementwise call  # points to the others
    instep_array weight
    instep_array values
    instep_array extra
    double[INSTEP_MAX_LOSS_COEFFICIENTS] coefficients


cdef bint take_elementwise(elementwise_call *at, pred, target, weight, out, extra, bint checked):
    """Describe the inputs, unless something is unusual."""
    cdef int code
    if not cnp.PyArray_CheckExact(pred) or not cnp.PyArray_CheckExact(target):
        return False
    at.call.weight = at.call.values = at.call.extra = NULL
    code = prediction_code(pred)
    if code < 0:
        return False
    at.call.pred = describe(pred, code)
    code = real_code(target)
    if code < 0 or not same_shape(pred, target):
        return False
    at.call.target = describe(target, code)
    if weight is not None:
        if not cnp.PyArray_CheckExact(weight):
            return False
        code = real_code(weight)
        if code < 0 or not same_shape(pred, weight):
            return False
        at.weight = describe(weight, code)
        at.call.weight = &at.weight
    if extra is not None:
        at.extra = describe(extra, real_code(extra))
        at.call.extra = &at.extra
    if out is None or checked:
        return True
    return extra is None and is_output(out, pred, target, weight)


def elementwise(int loss, pred, target, weight, out, reduction, tuple coefficients, extra,
                bint by_weight, int last_reduction, bint checked):
    """(value, gradient) of an elementwise loss, or None.

    `coefficients` and `extra` have been checked. `by_weight`: a mean divides by the sum of the
    weights. `last_reduction`: NONE or BATCHMEAN, whether the latter is known."""
    cdef elementwise_call at
    cdef double total, divisor = 1
    cdef int k, how = reduction_code(reduction)
    cdef cnp.ndarray gradient
    cdef object values = None
    if how > last_reduction or not take_elementwise(&at, pred, target, weight, out, extra, checked):
        return None
    if how == BATCHMEAN:
        divisor = cnp.PyArray_DIM(pred, 0) if at.call.pred.ndim > 0 else 1
    elif how == MEAN and weight is not None and by_weight:
        divisor = instep_sum(&at.weight, default_threads)
    elif how == MEAN:
        divisor = cnp.PyArray_SIZE(pred)
    if 0 < abs(divisor) < SMALLEST_DIVISOR:
        return None
    gradient = new_like(pred) if out is None else out
    if divisor == 0:
        return nothing_counts(gradient)
    at.call.gradient = describe(gradient, at.call.pred.dtype)
    if how == NONE:
        values = new_like(pred)
        at.values = describe(values, at.call.pred.dtype)
        at.call.values = &at.values
    for k in range(len(coefficients)):
        at.coefficients[k] = coefficients[k]
    at.call.coefficients = at.coefficients
    at.call.scale = 1 / divisor
    if cnp.PyArray_SIZE(pred) < KEEP_GIL:
        total = instep_loss_elementwise(loss, &at.call, default_threads)
    else:
        with nogil:
            total = instep_loss_elementwise(loss, &at.call, default_threads)
    return (total / divisor if values is None else values), gradient


# ---- classes -------------------------------------------------------------------------------------

cdef bint same_rows(cnp.ndarray labels, cnp.ndarray pred, int axis) noexcept:
    """Are labels shaped like pred without the class axis?"""
    cdef int k, ndim = cnp.PyArray_NDIM(labels)
    if ndim != cnp.PyArray_NDIM(pred) - 1:
        return False
    for k in range(ndim):
        if cnp.PyArray_DIM(labels, k) != cnp.PyArray_DIM(pred, k + (k >= axis)):
            return False
    return True


cdef object as_class_weight(object weight, cnp.ndarray pred, int axis):
    """One aligned float64 per class; widened from float32; None if it is anything else."""
    cdef cnp.ndarray array
    if not cnp.PyArray_CheckExact(weight):
        return None
    array = weight
    if cnp.PyArray_NDIM(array) != 1 or not cnp.PyArray_ISCARRAY_RO(array):
        return None
    if cnp.PyArray_DIM(array, 0) != cnp.PyArray_DIM(pred, axis):
        return None
    if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT:
        return cnp.PyArray_Cast(array, cnp.NPY_DOUBLE)
    return array if cnp.PyArray_TYPE(array) == cnp.NPY_DOUBLE else None


cdef cnp.ndarray new_rows(cnp.ndarray pred, int axis):
    """A new array of pred's dtype and of its shape without the class axis."""
    cdef cnp.npy_intp[INSTEP_MAX_DIMS] shape
    cdef int k, ndim = cnp.PyArray_NDIM(pred)
    for k in range(ndim - 1):
        shape[k] = cnp.PyArray_DIM(pred, k + (k >= axis))
    return cnp.PyArray_EMPTY(ndim - 1, shape, cnp.PyArray_TYPE(pred), 0)


cdef bint take_classwise(instep_classwise *call, pred, target, out, bint checked):
    """Describe the inputs, unless something is unusual."""
    cdef int code
    if not cnp.PyArray_CheckExact(pred) or not cnp.PyArray_CheckExact(target):
        return False
    code = prediction_code(pred)
    if code < 0 or cnp.PyArray_NDIM(pred) == 0:
        return False
    call.pred = describe(pred, code)
    call.axis = 1 if call.pred.ndim > 1 else 0
    if call.pred.shape[call.axis] == 0:
        return False
    code = integer_code(target)
    if code < 0:
        code = float_code(target)
        if code < 0 or not same_shape(pred, target) or call.ignore_index != -100:
            return False
    elif not same_rows(target, pred, call.axis):
        return False
    call.target = describe(target, code)
    call.weight = call.values = NULL
    return out is None or checked or is_output(out, pred, target, None)


cdef bint take_options(instep_classwise *call, ignore_index, label_smoothing):
    if type(ignore_index) is not int or type(label_smoothing) is not float:
        return False
    try:
        call.ignore_index = ignore_index
    except OverflowError:
        return False
    call.label_smoothing = label_smoothing
    return 0 <= call.label_smoothing <= 1


cdef int64_t count_rows(const instep_classwise *call, double *used) noexcept nogil:
    """*used = what the mean divides by. The position of a label that is out of range, or -1."""
    cdef int axis
    if call.target.ndim < call.pred.ndim:
        return instep_check_labels(&call.target, call.pred.shape[call.axis], call.ignore_index,
                                   call.weight, used)
    used[0] = 1
    for axis in range(call.pred.ndim):
        if axis != call.axis:
            used[0] *= call.pred.shape[axis]
    return -1


def classwise(int loss, pred, target, weight, out, reduction, ignore_index, label_smoothing,
              bint checked):
    """(value, gradient) of a loss over the class axis, or None.

    Of checked arguments with labels out of range: the position of the first, in C order."""
    cdef instep_classwise call
    cdef instep_array values_array
    cdef double total, used, divisor
    cdef int64_t position
    cdef int how = reduction_code(reduction)
    cdef cnp.ndarray gradient
    cdef object values = None
    if how > NONE or not take_options(&call, ignore_index, label_smoothing):
        return None
    if not take_classwise(&call, pred, target, out, checked):
        return None
    cdef object wide = None  # kept until the end
    if weight is not None:
        wide = as_class_weight(weight, pred, call.axis)
        if wide is None or (out is not None and not checked and not apart(out, weight)):
            return None
        call.weight = <const double *>cnp.PyArray_DATA(<cnp.ndarray>wide)
    if cnp.PyArray_SIZE(pred) < KEEP_GIL:
        position = count_rows(&call, &used)
    else:
        with nogil:
            position = count_rows(&call, &used)
    if position >= 0:
        return position if checked else None
    divisor = used if how == MEAN else 1
    if 0 < abs(divisor) < SMALLEST_DIVISOR:
        return None
    gradient = new_like(pred) if out is None else out
    if divisor == 0:
        return nothing_counts(gradient)
    call.gradient = describe(gradient, call.pred.dtype)
    if how == NONE:
        values = new_rows(pred, call.axis)
        values_array = describe(values, call.pred.dtype)
        call.values = &values_array
    call.scale = 1 / divisor
    if cnp.PyArray_SIZE(pred) < KEEP_GIL:
        total = instep_loss_classwise(loss, &call, default_threads)
    else:
        with nogil:
            total = instep_loss_classwise(loss, &call, default_threads)
    return (total / divisor if values is None else values), gradient


# ---- regions, and whole arrays -------------------------------------------------------------------

def regionwise(cnp.ndarray pred, cnp.ndarray target, mask, cnp.ndarray gradient, int kept,
               cnp.ndarray factor, cnp.ndarray score, tuple coefficients):
    """Write the gradient and one score per group. The first `kept` axes number the groups;
    `factor` and `score` are dense float64. Everything has been checked."""
    cdef instep_regionwise call
    cdef instep_array mask_array
    cdef double[INSTEP_MAX_COEFFICIENTS] numbers
    cdef int k, failed
    call.pred = describe(pred, float_code(pred))
    call.target = describe(target, real_code(target))
    call.gradient = describe(gradient, float_code(gradient))
    call.mask = NULL
    if mask is not None:
        mask_array = describe(mask, real_code(mask))
        call.mask = &mask_array
    for k in range(len(coefficients)):
        numbers[k] = coefficients[k]
    call.coefficients = numbers
    call.factor = <const double *>cnp.PyArray_DATA(factor)
    call.score = <double *>cnp.PyArray_DATA(score)
    call.kept = kept
    with nogil:
        failed = instep_loss_regionwise(&call, default_threads)
    if failed:
        raise MemoryError


def count_outside(cnp.ndarray array, double low, double high, bint sizes):
    """How many elements, or their absolute values, are below `low` or above `high`."""
    cdef instep_array view = describe(array, real_code(array))
    cdef int64_t count
    with nogil:
        count = instep_count_outside(&view, low, high, sizes, default_threads)
    return count


def array_sum(cnp.ndarray array):
    cdef instep_array view = describe(array, real_code(array))
    cdef double total
    with nogil:
        total = instep_sum(&view, default_threads)
    return total
