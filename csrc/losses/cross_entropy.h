/* cross_entropy.h: softmax cross-entropy over the class axis, value and gradient.
 *
 *     value    = sum_k t_k * (log(sum_j exp(x_j - max)) - (x_k - max))      0 where t_k = 0
 *     gradient = sum_k t_k * softmax(x) - t
 *
 * with the effective target t_k = w_k * ((1 - s) * q_k + s / C): class weights w, label
 * smoothing s, and q the soft target or the indicator of the label. Hence weighted smoothing
 * weighs every class by its own w, as PyTorch does.
 *
 * A row is walked in tiles. Rows of one tile stay in registers and L1; longer rows are walked
 * three times (maximum, exponentials, gradient), the exponentials resting in the gradient. */
typedef struct {
    const char *pred, *target;
    char *gradient;
    int64_t label; /* -1 with soft targets */
} FN(class_row);

/* t = the effective target of classes [start, start + n). */
static void FN(effective_target)(REAL *restrict t, const instep_loss_views *views,
                                 const FN(class_row) *row, size_t start, size_t n)
{
    const REAL *weight = views->class_weight;
    const REAL uniform = (REAL)(views->label_smoothing / (double)views->classes);
    const REAL kept = (REAL)(1 - views->label_smoothing);
    if (row->label < 0) {
        FN(load_run)(t, row->target + (intptr_t)start * views->target_step, views->target_step, n,
                     (instep_dtype)views->target.dtype);
        for (size_t k = 0; k < n; ++k) t[k] = kept * t[k] + uniform;
    } else {
        const size_t label = (size_t)row->label;
        for (size_t k = 0; k < n; ++k) t[k] = uniform;
        if (label >= start && label - start < n) t[label - start] += kept;
    }
    if (weight)
        for (size_t k = 0; k < n; ++k) t[k] *= weight[start + k];
}

static REAL FN(largest)(const REAL *x, size_t n, REAL top)
{
    REAL lane[INSTEP_LANES];
    size_t i = 0;
    for (size_t j = 0; j < INSTEP_LANES; ++j) lane[j] = top;
    for (; i + INSTEP_LANES <= n; i += INSTEP_LANES)
        for (size_t j = 0; j < INSTEP_LANES; ++j)
            lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (size_t j = 0; i + j < n; ++j) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (size_t j = 0; j < INSTEP_LANES; ++j) top = lane[j] > top ? lane[j] : top;
    return top;
}

/* value[k] = t * (x - top); a zero target hides even x = -inf. */
static void FN(target_products)(double *restrict value, const REAL *restrict t,
                                const REAL *restrict x, REAL top, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        const double product = (double)t[i] * (double)(x[i] - top);
        value[i] = t[i] != 0 ? product : 0;
    }
}

static void FN(exponentials)(REAL *restrict e, const REAL *restrict x, REAL top, size_t n)
{
    for (size_t i = 0; i < n; ++i) e[i] = FN(vexp)(x[i] - top);
}

static void FN(class_gradient)(REAL *restrict g, const REAL *restrict e, const REAL *restrict t,
                               REAL ratio, REAL scale, size_t n)
{
    for (size_t i = 0; i < n; ++i) g[i] = e[i] * ratio - t[i] * scale;
}

/* One row; returns its value. */
static double FN(cross_entropy_row)(const instep_loss_views *views, const FN(class_row) *row)
{
    _Alignas(64) REAL x[INSTEP_TILE], t[INSTEP_TILE], e[INSTEP_TILE];
    _Alignas(64) double product[INSTEP_TILE];
    const size_t classes = views->classes;
    const instep_dtype dtype = REAL_BITS == 32 ? INSTEP_FLOAT32 : INSTEP_FLOAT64;
    const int single = classes <= INSTEP_TILE;
    double mass[INSTEP_LANES] = {0}, dot[INSTEP_LANES] = {0}, total[INSTEP_LANES] = {0};
    REAL top = -(REAL)INFINITY;
    for (size_t start = 0; start < classes; start += INSTEP_TILE) {
        const size_t n = classes - start < INSTEP_TILE ? classes - start : INSTEP_TILE;
        FN(load_run)(x, row->pred + (intptr_t)start * views->pred_step, views->pred_step, n, dtype);
        top = FN(largest)(x, n, top);
    }
    for (size_t start = 0; start < classes; start += INSTEP_TILE) {
        const size_t n = classes - start < INSTEP_TILE ? classes - start : INSTEP_TILE;
        if (!single)
            FN(load_run)(x, row->pred + (intptr_t)start * views->pred_step, views->pred_step, n,
                         dtype);
        FN(effective_target)(t, views, row, start, n);
        FN(target_products)(product, t, x, top, n);
        FN(add_values)(mass, t, n);
        add_values_f64(dot, product, n);
        FN(exponentials)(e, x, top, n);
        FN(add_values)(total, e, n);
        if (!single)
            FN(store_run)(e, row->gradient + (intptr_t)start * views->gradient_step,
                          views->gradient_step, n);
    }
    const double target_mass = lane_sum(mass), sum = lane_sum(total);
    const REAL ratio = (REAL)(target_mass / sum * views->scale), scale = (REAL)views->scale;
    for (size_t start = 0; start < classes; start += INSTEP_TILE) {
        const size_t n = classes - start < INSTEP_TILE ? classes - start : INSTEP_TILE;
        char *gradient = row->gradient + (intptr_t)start * views->gradient_step;
        if (!single) {
            FN(load_run)(e, gradient, views->gradient_step, n, dtype);
            FN(effective_target)(t, views, row, start, n);
        }
        FN(class_gradient)(x, e, t, ratio, scale, n);
        FN(store_run)(x, gradient, views->gradient_step, n);
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
    double sum = 0;
    for (size_t i = start; i < start + count; ++i) {
        const char *target = instep_view_at(&views->target, i);
        FN(class_row) row = {.pred = instep_view_at(&views->pred, i),
                             .target = target,
                             .gradient = instep_view_at(&views->gradient, i),
                             .label = -1};
        double value = 0;
        if (views->labels)
            row.label = read_label(target, (instep_dtype)views->target.dtype);
        if (views->labels && row.label == views->ignore_index)
            FN(clear_row)(views, row.gradient);
        else value = FN(cross_entropy_row)(views, &row);
        if (views->has_values) {
            const REAL stored = (REAL)value;
            memcpy(instep_view_at(&views->values, i), &stored, sizeof stored);
        }
        sum += value;
    }
    return sum;
}
