/* variant.h: one instruction-set variant of everything; included by the stubs in isa/. The stub
 * defines INSTEP_ISA, the build gives it its flags, and all but the table is static. */
#include <math.h>
#include <string.h>

#include "table.h"
#include "lanes.h"
#include "losses/labels.h"

/* Labels out of range have been refused, unless somebody writes them meanwhile. */
static inline int is_ignored(const instep_loss_views *views, int64_t label)
{
    return label == views->ignore_index || (uint64_t)label >= views->classes;
}

#define REAL_BITS 64
#include "typed.h"
#undef REAL_BITS
#define REAL_BITS 32
#include "typed.h"
#undef REAL_BITS

/* Sums take any storage: as float64 where the type is not one of the two computed in. */
static void add_squares_of(double *lanes, const instep_view *view, size_t start, size_t count,
                           double scale)
{
    _Alignas(64) double tile[INSTEP_TILE];
    for (const size_t end = start + count; start < end; start += INSTEP_TILE) {
        const size_t n = end - start < INSTEP_TILE ? end - start : INSTEP_TILE;
        add_squares_f64(lanes, borrow_f64(view, start, n, tile), n, scale);
    }
}

/* The same by panels, of a view that runs across the walk. */
APART static void add_squares_across(double *lanes, const instep_view *view, size_t start,
                                     size_t count, double scale)
{
    _Alignas(64) double panel[INSTEP_PANEL / sizeof(double)];
    for (const size_t end = start + count; start < end; start += INSTEP_PANEL / sizeof(double)) {
        const size_t left = end - start, all = INSTEP_PANEL / sizeof(double);
        const size_t n = left < all ? left : all;
        load_across_f64(panel, view, start, n);
        add_squares_f64(lanes, panel, n, scale);
    }
}

static double sum_squares(const instep_view *view, size_t start, size_t count, double scale)
{
    double lanes[INSTEP_LANES] = {0};
    if (view->dense && view->dtype == INSTEP_FLOAT32)
        add_squares_f32(lanes, (const float *)(const void *)view->data + start, count, scale);
    else if (instep_view_runs_across(view, sizeof(double)))
        add_squares_across(lanes, view, start, count, scale);
    else add_squares_of(lanes, view, start, count, scale);
    return lane_sum(lanes);
}

static double sum(const instep_view *view, size_t start, size_t count)
{
    _Alignas(64) double tile[INSTEP_TILE];
    double lanes[INSTEP_LANES] = {0};
    for (const size_t end = start + count; start < end; start += INSTEP_TILE) {
        const size_t n = end - start < INSTEP_TILE ? end - start : INSTEP_TILE;
        add_values_f64(lanes, borrow_f64(view, start, n, tile), n);
    }
    return lane_sum(lanes);
}

static size_t count_labels(const int64_t *restrict label, size_t n, int64_t classes,
                           int64_t ignore_index, size_t *used)
{
    uint64_t bad = 0, counted = 0;
    for (size_t i = 0; i < n; ++i) {
        const uint64_t counts = label[i] != ignore_index;
        const uint64_t inside = (uint64_t)label[i] < (uint64_t)classes;
        counted += counts;
        bad += counts & ~inside;
    }
    *used = counted;
    return bad;
}

#define PASTE(a, b) a##b
#define VARIANT(isa) PASTE(instep_variant_, isa)
#define TEXT(name) #name
#define NAME(isa) TEXT(isa)

const instep_variant VARIANT(INSTEP_ISA) = {
    .name = NAME(INSTEP_ISA),
    .f32 = &typed_f32,
    .f64 = &typed_f64,
    .sum_squares = sum_squares,
    .sum = sum,
    .count_labels = count_labels,
    .encode = encode_nearest,
    .decode = decode_state,
};
