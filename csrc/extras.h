/* extras.h: what a step does with a tile besides the update, while it is in the L1 cache.
 *
 *     average += weight * (p - average)      weight = 1 - decay
 *     copy     = p, rounded to nearest
 *     gradient = 0
 *     measures += squares of gradient, update and p; elements that the limit cut */

/* From the nearer end, as torch's lerp_ does: a weight of 1 gives p itself. */
static void FN(move_average)(size_t n, REAL *restrict average, const REAL *restrict p, REAL weight)
{
    const REAL rest = 1 - weight;
    if (weight < (REAL)0.5)
        for (size_t i = 0; i < n; ++i) average[i] += weight * (p[i] - average[i]);
    else
        for (size_t i = 0; i < n; ++i)
            average[i] = rest != 0 ? p[i] - rest * (p[i] - average[i]) : p[i];
}

static void FN(average)(const instep_leaf *leaf, size_t start, size_t n, const REAL *p,
                        double weight)
{
    _Alignas(64) REAL buffer[INSTEP_TILE];
    REAL *average = FN(borrow)(&leaf->average, start, n, buffer);
    FN(move_average)(n, average, p, (REAL)weight);
    FN(give_back)(&leaf->average, start, n, average, buffer);
}

/* The average of a leaf without a gradient in this step. */
static void FN(follow)(const instep_leaf *leaf, size_t start, size_t count, double weight)
{
    _Alignas(64) REAL buffer[INSTEP_TILE];
    for (const size_t end = start + count; start < end; start += INSTEP_TILE) {
        const size_t n = end - start < INSTEP_TILE ? end - start : INSTEP_TILE;
        FN(average)(leaf, start, n, FN(borrow)(&leaf->parameter, start, n, buffer), weight);
    }
}

/* The parameter and its average change places; the copy follows the parameter. */
static void FN(exchange)(const instep_leaf *leaf, size_t start, size_t count)
{
    _Alignas(64) REAL buffer[2][INSTEP_TILE];
    for (const size_t end = start + count; start < end; start += INSTEP_TILE) {
        const size_t n = end - start < INSTEP_TILE ? end - start : INSTEP_TILE;
        REAL *restrict p = FN(borrow)(&leaf->parameter, start, n, buffer[0]);
        REAL *restrict average = FN(borrow)(&leaf->average, start, n, buffer[1]);
        for (size_t i = 0; i < n; ++i) {
            const REAL value = p[i];
            p[i] = average[i];
            average[i] = value;
        }
        if (leaf->copied) FN(store)(p, &leaf->copy, start, n);
        FN(give_back)(&leaf->parameter, start, n, p, buffer[0]);
        FN(give_back)(&leaf->average, start, n, average, buffer[1]);
    }
}

ALWAYS_INLINE static void FN(zero_run)(char *at, intptr_t stride, size_t count, size_t size)
{
    if (stride == (intptr_t)size) memset(at, 0, count * size);
    else
        for (intptr_t i = 0; i < (intptr_t)count; ++i) memset(at + i * stride, 0, size);
}

/* All bits zero are 0 in every float type. A known size makes each memset a store. */
static void FN(zero)(const instep_view *view, size_t start, size_t count)
{
    while (count > 0) {
        const size_t run = instep_view_run(view, start, count);
        char *at = instep_view_at(view, start);
        switch (instep_itemsize((instep_dtype)view->dtype)) {
        case 2: FN(zero_run)(at, view->stride, run, 2); break;
        case 4: FN(zero_run)(at, view->stride, run, 4); break;
        case 8: FN(zero_run)(at, view->stride, run, 8); break;
        default: FN(zero_run)(at, view->stride, run, sizeof(long double)); break;
        }
        start += run;
        count -= run;
    }
}

/* The sums of a piece, in lanes. Its tiles must begin at multiples of INSTEP_LANES. */
typedef struct {
    double gradient[INSTEP_LANES], update[INSTEP_LANES], parameter[INSTEP_LANES];
    UINT clipped;
} FN(lanes);

/* What there is to see before the rule, which will multiply g by coefficients[0]. `scaled`: g has
 * been scaled already, since REAL does not hold the gradient as it is. */
static void FN(measure_gradient)(FN(lanes) * lanes, const instep_leaf *leaf, size_t start, size_t n,
                                 const REAL *g, int scaled, double scale,
                                 const double *coefficients)
{
    _Alignas(64) double wide[INSTEP_TILE];
    const REAL factor = (REAL)coefficients[0], limit = (REAL)coefficients[1];
    UINT clipped = 0;
    if (scaled) {
        load_f64(wide, &leaf->gradient, start, n);
        add_squares_f64(lanes->gradient, wide, n, scale);
    } else {
        FN(add_squares)(lanes->gradient, g, n, scale);
    }
    for (size_t i = 0; i < n; ++i) {
        const REAL value = factor * g[i];
        clipped += (UINT)((value > limit) | (value < -limit));
    }
    lanes->clipped += clipped;
}

/* Add the squares of after - before; in float64 a difference of float32 is exact or nearly so. */
static void FN(add_changes)(double *restrict lanes, const REAL *restrict after,
                            const REAL *restrict before, size_t n)
{
    double lane[INSTEP_LANES];
    size_t i = 0;
    memcpy(lane, lanes, sizeof lane);
    for (; i + INSTEP_LANES <= n; i += INSTEP_LANES)
        for (size_t j = 0; j < INSTEP_LANES; ++j) {
            const double change = (double)after[i + j] - (double)before[i + j];
            lane[j] += change * change;
        }
    for (size_t j = 0; i + j < n; ++j) {
        const double change = (double)after[i + j] - (double)before[i + j];
        lane[j] += change * change;
    }
    memcpy(lanes, lane, sizeof lane);
}

static void FN(measure_parameter)(FN(lanes) * lanes, const REAL *after, const REAL *before,
                                  size_t n)
{
    FN(add_changes)(lanes->update, after, before, n);
    FN(add_squares)(lanes->parameter, after, n, 1);
}

static instep_measures FN(sum_up)(const FN(lanes) * lanes)
{
    return (instep_measures){lane_sum(lanes->gradient), lane_sum(lanes->update),
                             lane_sum(lanes->parameter), (int64_t)lanes->clipped};
}
