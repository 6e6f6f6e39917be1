/* cross_entropy.h: softmax cross-entropy over the class axis, value and gradient.
 *
 *     value    = sum_k t_k * (log(sum_j exp(x_j - max)) - (x_k - max))      0 where t_k = 0
 *     gradient = sum_k t_k * softmax(x) - t
 *
 * with the effective target t_k = w_k * ((1 - s) * q_k + s / C): class weights w, label
 * smoothing s, and q the soft target or the indicator of the label. Hence weighted smoothing
 * weighs every class by its own w, as PyTorch does.
 *
 * A row is walked in tiles, padded with -inf to whole lanes: exp(-inf) = 0 adds nothing. Rows of
 * one tile stay in L1; longer rows are walked three times (maximum, exponentials, gradient), the
 * exponentials resting in the gradient. A plain label (no smoothing) is a spike: t is 0 elsewhere,
 * and only the label's class is touched. Targets are float64, so that weights of any size and
 * logits at the ends of float32 neither overflow nor vanish. */

static inline size_t FN(padded)(size_t n)
{
    return (n + INSTEP_LANES - 1) / INSTEP_LANES * INSTEP_LANES;
}

/* The label's place in the tile that begins at class `start`, or n if it lies elsewhere. */
static inline size_t FN(label_at)(const instep_class_row *row, size_t start, size_t n)
{
    const size_t label = (size_t)row->label;
    return label >= start && label - start < n ? label - start : n;
}

/* t = the effective target of classes [start, start + n). */
static void FN(effective_target)(double *restrict t, const instep_loss_views *views,
                                 const instep_class_row *row, size_t start, size_t n)
{
    const REAL *weight = views->class_weight;
    const double uniform = views->label_smoothing / (double)views->classes;
    const double kept = 1 - views->label_smoothing;
    if (row->label < 0) {
        load_run_f64(t, row->target + (intptr_t)start * views->target_step, views->target_step, n,
                     (instep_dtype)views->target.dtype);
        for (size_t k = 0; k < n; ++k) t[k] = kept * t[k] + uniform;
    } else {
        const size_t at = FN(label_at)(row, start, n);
        for (size_t k = 0; k < n; ++k) t[k] = uniform;
        if (at < n) t[at] += kept;
    }
    if (weight)
        for (size_t k = 0; k < n; ++k) t[k] *= (double)weight[start + k];
}

/* x = the logits of classes [start, start + n), -inf in the padding. */
static void FN(load_logits)(REAL *restrict x, const instep_loss_views *views,
                            const instep_class_row *row, size_t start, size_t n)
{
    FN(load_run)(x, row->pred + (intptr_t)start * views->pred_step, views->pred_step, n,
                 REAL_BITS == 32 ? INSTEP_FLOAT32 : INSTEP_FLOAT64);
    for (size_t k = n; k < FN(padded)(n); ++k) x[k] = -(REAL)INFINITY;
}

/* The next two take n = whole lanes. */

static REAL FN(largest)(const REAL *x, size_t n, REAL top)
{
    REAL lane[INSTEP_LANES];
    for (size_t j = 0; j < INSTEP_LANES; ++j) lane[j] = top;
    for (size_t i = 0; i < n; i += INSTEP_LANES)
        for (size_t j = 0; j < INSTEP_LANES; ++j) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (size_t j = 0; j < INSTEP_LANES; ++j) top = lane[j] > top ? lane[j] : top;
    return top;
}

static void FN(exponentials)(REAL *restrict e, const REAL *restrict x, REAL top, size_t n)
{
    for (size_t i = 0; i < n; i += INSTEP_LANES)
        for (size_t j = 0; j < INSTEP_LANES; ++j) e[i + j] = FN(vexp)(x[i + j] - top);
}

/* value[k] = t * (x - top); a zero target hides even x = -inf. */
static void FN(target_products)(double *restrict value, const double *restrict t,
                                const REAL *restrict x, REAL top, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        const double product = t[i] * ((double)x[i] - (double)top);
        value[i] = t[i] != 0 ? product : 0;
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

/* gradient of one tile = e * ratio - t * scale */
static void FN(class_gradient)(const instep_loss_views *views, const instep_class_row *row,
                               const REAL *restrict e, double ratio, size_t start, size_t n)
{
    _Alignas(64) REAL g[INSTEP_TILE];
    _Alignas(64) double t[INSTEP_TILE];
    const REAL rounded = (REAL)ratio;
    if (row->spike) {
        const size_t at = FN(label_at)(row, start, n);
        for (size_t i = 0; i < FN(padded)(n); ++i) g[i] = e[i] * rounded;
        if (at < n) g[at] = (REAL)((double)e[at] * ratio - row->height * views->scale);
    } else {
        FN(effective_target)(t, views, row, start, n);
        for (size_t i = 0; i < n; ++i) g[i] = (REAL)((double)e[i] * ratio - t[i] * views->scale);
    }
    FN(store_run)(g, row->gradient + (intptr_t)start * views->gradient_step, views->gradient_step,
                  n);
}

/* One row; returns its value. */
static double FN(cross_entropy_row)(const instep_loss_views *views, const instep_class_row *row)
{
    _Alignas(64) REAL x[INSTEP_TILE], e[INSTEP_TILE];
    const size_t classes = views->classes;
    const int single = classes <= INSTEP_TILE;
    double mass[INSTEP_LANES] = {0}, dot[INSTEP_LANES] = {0}, total[INSTEP_LANES] = {0};
    REAL top = -(REAL)INFINITY;
    for (size_t start = 0; start < classes; start += INSTEP_TILE) {
        const size_t n = classes - start < INSTEP_TILE ? classes - start : INSTEP_TILE;
        FN(load_logits)(x, views, row, start, n);
        top = FN(largest)(x, FN(padded)(n), top);
    }
    for (size_t start = 0; start < classes; start += INSTEP_TILE) {
        const size_t n = classes - start < INSTEP_TILE ? classes - start : INSTEP_TILE;
        if (!single) FN(load_logits)(x, views, row, start, n);
        FN(add_targets)(mass, dot, views, row, x, top, start, n);
        FN(exponentials)(e, x, top, FN(padded)(n));
        FN(add_values)(total, e, FN(padded)(n));
        if (!single)
            FN(store_run)(e, row->gradient + (intptr_t)start * views->gradient_step,
                          views->gradient_step, n);
    }
    const double target_mass = lane_sum(mass), sum = lane_sum(total);
    const double ratio = target_mass / sum * views->scale;
    for (size_t start = 0; start < classes; start += INSTEP_TILE) {
        const size_t n = classes - start < INSTEP_TILE ? classes - start : INSTEP_TILE;
        if (!single)
            FN(load_run)(e, row->gradient + (intptr_t)start * views->gradient_step,
                         views->gradient_step, n,
                         REAL_BITS == 32 ? INSTEP_FLOAT32 : INSTEP_FLOAT64);
        FN(class_gradient)(views, row, e, ratio, start, n);
    }
    return target_mass * vlog_f64(sum) - lane_sum(dot);
}

/* A row that does not count: gradient 0. */
static void FN(clear_row)(const instep_loss_views *views, char *gradient)
{
    const REAL zero = 0;
    for (size_t k = 0; k < views->classes; ++k)
        memcpy(gradient + (intptr_t)k * views->gradient_step, &zero, sizeof zero);
}

static double FN(cross_entropy)(const instep_loss_views *views, size_t start, size_t count)
{
    const REAL *weight = views->class_weight;
    double sum = 0;
    for (size_t i = start; i < start + count; ++i) {
        const char *target = instep_view_at(&views->target, i);
        instep_class_row row = {.pred = instep_view_at(&views->pred, i),
                                .target = target,
                                .gradient = instep_view_at(&views->gradient, i),
                                .label = -1};
        double value = 0;
        if (views->labels) {
            row.label = read_label(target, (instep_dtype)views->target.dtype);
            row.spike = views->label_smoothing == 0 && row.label != views->ignore_index;
        }
        if (row.spike) row.height = weight ? (double)weight[row.label] : 1;
        if (views->labels && row.label == views->ignore_index) FN(clear_row)(views, row.gradient);
        else value = FN(cross_entropy_row)(views, &row);
        if (views->has_values) {
            const REAL stored = (REAL)value;
            memcpy(instep_view_at(&views->values, i), &stored, sizeof stored);
        }
        sum += value;
    }
    return sum;
}
