/* view.c: see view.h. */
#include "view.h"

static inline intptr_t magnitude(intptr_t stride) { return stride < 0 ? -stride : stride; }

size_t instep_size(const instep_array *array)
{
    size_t size = 1;
    for (int axis = 0; axis < array->ndim; ++axis) size *= (size_t)array->shape[axis];
    return size;
}

void instep_walk_order(int *order, const instep_array *array)
{
    for (int axis = 0; axis < array->ndim; ++axis) {
        int place = axis;
        while (place > 0 &&
               magnitude(array->strides[order[place - 1]]) < magnitude(array->strides[axis])) {
            order[place] = order[place - 1];
            --place;
        }
        order[place] = axis;
    }
}

int instep_is_nested(const instep_array *array)
{
    int order[INSTEP_MAX_DIMS];
    intptr_t extent = instep_itemsize(array->dtype);
    instep_walk_order(order, array);
    for (int k = array->ndim - 1; k >= 0; --k) {
        const intptr_t length = array->shape[order[k]];
        const intptr_t stride = magnitude(array->strides[order[k]]);
        if (length == 1) continue;
        if (stride < extent) return 0;
        extent += stride * (length - 1);
    }
    return 1;
}

instep_view instep_view_of(const instep_array *array, const int *order, intptr_t *axes)
{
    const intptr_t itemsize = instep_itemsize(array->dtype);
    instep_view view = {
        .data = array->data, .stride = itemsize, .axes = axes, .dtype = (uint8_t)array->dtype};
    intptr_t *shape = axes, *stride = axes + array->ndim;
    int ndim = 0;
    for (int k = 0; k < array->ndim; ++k) {
        const intptr_t length = array->shape[order[k]], step = array->strides[order[k]];
        if (length == 1) continue;
        if (ndim > 0 && stride[ndim - 1] == length * step) {
            shape[ndim - 1] *= length;
            stride[ndim - 1] = step;
        } else {
            shape[ndim] = length;
            stride[ndim] = step;
            ++ndim;
        }
    }
    if (ndim > 0) view.stride = stride[ndim - 1];
    /* Close the gap between the two lists: at() finds the strides behind the lengths. */
    for (int k = 0; k < ndim; ++k) axes[ndim + k] = stride[k];
    view.ndim = (uint8_t)ndim;
    const uintptr_t alignment = itemsize > 8 ? 8 : (uintptr_t)itemsize;
    view.dense = ndim <= 1 && view.stride == itemsize && (uintptr_t)view.data % alignment == 0;
    return view;
}

void instep_view_range(const instep_view *view, size_t size, uintptr_t *low, uintptr_t *high)
{
    intptr_t below = 0, above = instep_itemsize((instep_dtype)view->dtype);
    for (int axis = 0; axis < (view->ndim > 1 ? view->ndim : 1); ++axis) {
        const intptr_t steps = view->ndim > 1 ? view->axes[axis] - 1 : (intptr_t)size - 1;
        const intptr_t stride = view->ndim > 1 ? view->axes[view->ndim + axis] : view->stride;
        if (stride < 0) below += steps * stride;
        else above += steps * stride;
    }
    *low = (uintptr_t)view->data + (uintptr_t)below;
    *high = (uintptr_t)view->data + (uintptr_t)above;
}
