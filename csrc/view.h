/* view.h: how the pipeline walks an array.
 *
 * All arrays of a leaf are walked in one order: the parameter's memory order (axes by falling
 * |stride|), so a parameter in Fortran order is as fast as one in C order. A view holds the axes
 * in that order, merged where two are one run of equal steps. */
#ifndef INSTEP_VIEW_H
#define INSTEP_VIEW_H

#include "instep.h"

/* Elements that a codec converts at a time: a handful of such tiles fill half an L1 cache. */
enum { INSTEP_TILE = 512 };

/* Elements of a state in 8 bits that share a scale; divides INSTEP_TILE. */
enum { INSTEP_BLOCK = 128 };

/* Of a view that runs across: the least length of its rows, and the least bytes from one element of
 * a row to the next; how many rows and columns are read together, the fewest rows that a panel must
 * hold, and its bytes. */
enum {
    INSTEP_WIDE = 512,
    INSTEP_FAR = 1024,
    INSTEP_ROWS = 32,
    INSTEP_COLUMNS = 16,
    INSTEP_FEWEST_ROWS = 4,
    INSTEP_PANEL = 65536
};

/* Bytes of a cache line, and of the longest vector. */
enum { INSTEP_LINE = 64 };

typedef struct {
    char *data;
    intptr_t stride; /* bytes from one element to the next on the innermost axis */
    intptr_t *axes;  /* used when ndim > 1: ndim lengths, then ndim strides, outermost first */
    uint8_t ndim;    /* after merging; 0 and 1 are one run */
    uint8_t dense;   /* aligned, and each element follows the one before */
    uint8_t dtype;
} instep_view;

/* Bytes of one element. */
static inline intptr_t instep_itemsize(instep_dtype dtype)
{
    static const uint8_t size[INSTEP_DTYPES] = {4, 8, 2, 2, sizeof(long double), 1, 2, 4, 8,
                                                1, 2, 4, 8};
    return size[dtype];
}

/* Fill `order` with the axes of `array` by falling |stride|, ties in C order. */
void instep_walk_order(int *order, const instep_array *array);

/* Describe `array` walked in `order`. `axes` has room for 2 * array->ndim values and stays in
 * use as long as the view. */
instep_view instep_view_of(const instep_array *array, const int *order, intptr_t *axes);

/* The half-open byte range [*low, *high) that a view of `size` > 0 elements touches. */
void instep_view_range(const instep_view *view, size_t size, uintptr_t *low, uintptr_t *high);

size_t instep_size(const instep_array *array);

/* Do no two elements share a byte, since each axis steps over all that lies within it? 0 may also
 * mean that the axes interleave. */
int instep_is_nested(const instep_array *array);

/* The element at position `index` of the walk. */
static inline char *instep_view_at(const instep_view *view, size_t index)
{
    if (view->ndim <= 1) return view->data + (intptr_t)index * view->stride;
    const intptr_t *shape = view->axes, *stride = view->axes + view->ndim;
    char *at = view->data;
    for (int axis = view->ndim - 1; axis >= 0; --axis) {
        const size_t length = (size_t)shape[axis];
        at += (intptr_t)(index % length) * stride[axis];
        index /= length;
    }
    return at;
}

/* How many elements from `index` on lie `view->stride` apart, at most `count`. */
static inline size_t instep_view_run(const instep_view *view, size_t index, size_t count)
{
    if (view->ndim <= 1) return count;
    const size_t length = (size_t)view->axes[view->ndim - 1];
    const size_t left = length - index % length;
    return left < count ? left : count;
}

/* Do neighbours in memory lie in different rows, as in a transposed matrix, and so far apart that
 * the cache lines of a row are gone before the next row wants them? A row is a run of the innermost
 * axis. `size`: the bytes of an element in a panel. */
static inline int instep_view_runs_across(const instep_view *view, size_t size)
{
    if (view->ndim < 2) return 0;
    const size_t width = (size_t)view->axes[view->ndim - 1];
    const intptr_t along = view->stride, across = view->axes[2 * view->ndim - 2];
    const intptr_t step = along < 0 ? -along : along;
    if (width < INSTEP_WIDE || width * INSTEP_FEWEST_ROWS > INSTEP_PANEL / size) return 0;
    return step >= INSTEP_FAR && (across < 0 ? -across : across) < step;
}

/* How many whole rows of one matrix begin at `start`, at most INSTEP_ROWS and `count` elements. */
static inline size_t instep_view_rows(const instep_view *view, size_t start, size_t count)
{
    const size_t height = (size_t)view->axes[view->ndim - 2];
    const size_t width = (size_t)view->axes[view->ndim - 1];
    const size_t below = height - start / width % height, fit = count / width;
    if (start % width != 0) return 0;
    const size_t most = below < INSTEP_ROWS ? below : INSTEP_ROWS;
    return most < fit ? most : fit;
}

#endif
