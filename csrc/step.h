/* step.h: the step pipeline over one piece of one leaf.
 *
 *     decode gradient, parameter, states -> rule -> encode parameter, states
 *
 * tile by tile. Dense arrays of the compute type are used where they lie, and when all are, the
 * piece is one tile. What an element becomes does not depend on where a tile begins, so tiles of a
 * dense parameter begin at cache lines: vectors that straddle two lines cost half as much again. */
static const struct {
    void (*run)(size_t n, REAL *p, const REAL *g, REAL *const *state, const void *coefficients);
} FN(rules)[INSTEP_RULES] = {
#define RULE(rule, family, count, states) {FN(rule)},
#include "kernels.def"
};

/* A scale that REAL cannot hold to full precision (float32 only). */
static inline int FN(is_extreme)(double scale)
{
    const double size = scale < 0 ? -scale : scale;
    return REAL_BITS == 32 && (size < 0x1p-100 || size > 0x1p100);
}

/* Decode a gradient that REAL cannot hold as it is: scale in float64, then round once, so that
 * 1e300 * 1e-300 arrives as 1. */
static void FN(load_scaled)(REAL *restrict tile, const instep_view *view, size_t start,
                            size_t count, double scale)
{
    _Alignas(64) double wide[INSTEP_TILE];
    load_f64(wide, view, start, count);
    for (size_t i = 0; i < count; ++i) tile[i] = (REAL)(wide[i] * scale);
}

/* Elements from `start` to the parameter's next cache line. */
static inline size_t FN(head)(const instep_leaf *leaf, size_t start)
{
    const uintptr_t address = (uintptr_t)leaf->parameter.data + start * sizeof(REAL);
    return leaf->parameter.dense ? (0 - address) % INSTEP_LINE / sizeof(REAL) : 0;
}

static void FN(step)(const instep_leaf *leaf, size_t start, size_t count, const double *row)
{
    _Alignas(64) REAL buffer[2 + INSTEP_MAX_STATES][INSTEP_TILE];
    double coefficients[INSTEP_MAX_COEFFICIENTS];
    const instep_dtype given = (instep_dtype)leaf->gradient.dtype;
    const int wide = REAL_BITS == 32 && (given == INSTEP_FLOAT64 || given == INSTEP_LONGDOUBLE);
    const int scaled = wide || FN(is_extreme)(row[0]);
    const size_t end = start + count, head = count > INSTEP_TILE ? FN(head)(leaf, start) : 0;
    size_t tile = count;
    int dense = leaf->gradient.dense && !scaled && leaf->parameter.dense && given == REAL_DTYPE;
    for (int k = 0; k < leaf->states; ++k) dense &= leaf->state[k].dense;
    if (!dense && tile > INSTEP_TILE) tile = INSTEP_TILE;

    memcpy(coefficients, row, sizeof coefficients);
    if (scaled) coefficients[0] = 1; /* gradient_scale: load_scaled has applied it */
    for (size_t n = head > 0 ? head : tile; start < end; start += n, n = tile) {
        if (n > end - start) n = end - start;
        REAL *state[INSTEP_MAX_STATES];
        const REAL *g = buffer[0];
        if (scaled) FN(load_scaled)(buffer[0], &leaf->gradient, start, n, row[0]);
        else g = FN(borrow)(&leaf->gradient, start, n, buffer[0]);
        REAL *p = FN(borrow)(&leaf->parameter, start, n, buffer[1]);
        for (int k = 0; k < leaf->states; ++k)
            state[k] = FN(borrow)(&leaf->state[k], start, n, buffer[2 + k]);
        FN(rules)[leaf->rule].run(n, p, g, state, coefficients);
        FN(give_back)(&leaf->parameter, start, n, p, buffer[1]);
        for (int k = 0; k < leaf->states; ++k)
            FN(give_back)(&leaf->state[k], start, n, state[k], buffer[2 + k]);
    }
}
