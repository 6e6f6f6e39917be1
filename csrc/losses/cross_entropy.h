/* cross_entropy.h: softmax cross-entropy over the class axis, value and gradient.
 *
 *     value    = sum_k t_k * (log(sum_j exp(x_j - max)) - (x_k - max))      0 where t_k = 0
 *     gradient = sum_k t_k * softmax(x) - t
 *
 * with the effective target t of classes.h. Few classes, or classes that do not lie side by side,
 * go to softmax_rows.h, whose vectors run over rows; here they run over the classes of one row.
 *
 * A row is walked three times (maximum, exponentials, gradient) in tiles: the first walk reads it
 * from memory, the others find it in the cache. The exponentials rest in the gradient, unless that
 * is too narrow for them (float16, bfloat16): then they are computed again. */

/* The maximum of n values and `top`; NaN is passed over (its exponential will tell). Any number of
 * lanes gives the same maximum. */
static REAL FN(largest)(const REAL *x, size_t n, REAL top)
{
    enum { LANES = 32, STEP = 8 };
    REAL lane[LANES];
    size_t i = 0;
    for (size_t j = 0; j < LANES; ++j) lane[j] = top;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; ++j) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (; i + STEP <= n; i += STEP)
        for (size_t j = 0; j < STEP; ++j) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (; i < n; ++i) top = x[i] > top ? x[i] : top;
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t j = 0; j < width; ++j)
            lane[j] = lane[j + width] > lane[j] ? lane[j + width] : lane[j];
    return lane[0] > top ? lane[0] : top;
}

static void FN(exponentials)(REAL *restrict e, const REAL *restrict x, REAL top, size_t n)
{
    for (size_t i = 0; i < n; ++i) e[i] = FN(vexp_negative)(x[i] - top);
}

/* product = t * (x - top); a zero target hides even x = -inf. */
static void FN(target_products)(double *restrict product, const double *restrict t,
                                const REAL *restrict x, REAL top, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        const double full = t[i] * ((double)x[i] - (double)top);
        product[i] = t[i] != 0 ? full : 0;
    }
}

/* Add sum t and sum t * (x - top) of one tile to the lanes. */
static void FN(add_targets)(double *mass, double *dot, const instep_loss_views *views,
                            const instep_class_row *row, const REAL *x, REAL top, size_t start,
                            size_t n)
{
    _Alignas(64) double t[INSTEP_TILE], product[INSTEP_TILE];
    if (row->spike) {
        const size_t at = FN(label_at)(row, start, n);
        if (at == n || row->height == 0) return;
        mass[0] = row->height;
        dot[0] = row->height * ((double)x[at] - (double)top);
        return;
    }
    FN(effective_target)(t, views, row, start, n);
    FN(target_products)(product, t, x, top, n);
    add_values_f64(mass, t, n);
    add_values_f64(dot, product, n);
}

/* e becomes the gradient e * ratio - t * scale of one tile. */
static void FN(class_gradient)(REAL *restrict e, const instep_loss_views *views,
                               const instep_class_row *row, double ratio, size_t start, size_t n)
{
    _Alignas(64) double t[INSTEP_TILE];
    const REAL rounded = (REAL)ratio;
    if (row->spike) {
        const size_t at = FN(label_at)(row, start, n);
        const double label = at < n ? (double)e[at] * ratio - row->height * views->scale : 0;
        for (size_t i = 0; i < n; ++i) e[i] *= rounded;
        if (at < n) e[at] = (REAL)label;
    } else {
        FN(effective_target)(t, views, row, start, n);
        for (size_t i = 0; i < n; ++i) e[i] = (REAL)((double)e[i] * ratio - t[i] * views->scale);
    }
}

/* One row; returns its value. */
static double FN(cross_entropy_row)(const instep_loss_views *views, const instep_class_row *row)
{
    _Alignas(64) REAL buffer[INSTEP_TILE], rest[INSTEP_TILE];
    const size_t classes = views->classes;
    const int single = classes <= INSTEP_TILE, rests = views->gradient.dtype == REAL_DTYPE;
    double mass[INSTEP_LANES] = {0}, dot[INSTEP_LANES] = {0}, total[INSTEP_LANES] = {0};
    REAL top = -(REAL)INFINITY;
    for (size_t start = 0; start < classes; start += INSTEP_TILE) {
        const size_t n = classes - start < INSTEP_TILE ? classes - start : INSTEP_TILE;
        top = FN(largest)(FN(class_tile)(buffer, views, row, start, n), n, top);
    }
    for (size_t start = 0; start < classes; start += INSTEP_TILE) {
        const size_t n = classes - start < INSTEP_TILE ? classes - start : INSTEP_TILE;
        const REAL *x = single && views->pred.dtype != REAL_DTYPE
                            ? buffer
                            : FN(class_tile)(buffer, views, row, start, n);
        REAL *e = FN(lend_classes)(rest, views, row, start);
        FN(add_targets)(mass, dot, views, row, x, top, start, n);
        FN(exponentials)(e, x, top, n);
        FN(add_values)(total, e, n);
        if (e == rest && !single && rests) FN(store_classes)(e, views, row, start, n);
    }
    const double target_mass = lane_sum(mass), sum = lane_sum(total);
    const double ratio = target_mass / sum * views->scale;
    for (size_t start = 0; start < classes; start += INSTEP_TILE) {
        const size_t n = classes - start < INSTEP_TILE ? classes - start : INSTEP_TILE;
        REAL *e = FN(lend_classes)(rest, views, row, start);
        if (e == rest && !single && rests)
            FN(load_run)(e, row->gradient + (intptr_t)start * views->gradient_step,
                         views->gradient_step, n, REAL_DTYPE);
        else if (e == rest && !single)
            FN(exponentials)(e, FN(class_tile)(buffer, views, row, start, n), top, n);
        FN(class_gradient)(e, views, row, ratio, start, n);
        if (e == rest) FN(store_classes)(e, views, row, start, n);
    }
    return target_mass * vlog_f64(sum) - lane_sum(dot);
}
