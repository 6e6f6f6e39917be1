/* classes.h: rows of classes and their effective targets.
 *
 *     t_k = w_k * ((1 - s) * q_k + s / C)
 *
 * with class weights w, label smoothing s, and q the soft target or the indicator of the label.
 * Hence weighted smoothing weighs every class by its own w, as PyTorch does. Targets and
 * weights are float64, so that products neither overflow nor vanish. A plain label
 * (no smoothing) is a spike: t is `height` at the label and 0 elsewhere. */

/* The row at position `index` of the walk. */
static instep_class_row FN(class_row)(const instep_loss_views *views, size_t index)
{
    const double *weight = views->class_weight;
    const char *target = instep_view_at(&views->target, index);
    instep_class_row row = {.pred = instep_view_at(&views->pred, index),
                            .target = target,
                            .gradient = instep_view_at(&views->gradient, index),
                            .label = -1};
    if (!views->labels) return row;
    row.label = read_label(target, (instep_dtype)views->target.dtype);
    row.ignored = is_ignored(views, row.label);
    row.spike = views->label_smoothing == 0 && !row.ignored;
    if (row.spike) row.height = weight ? weight[row.label] : 1;
    return row;
}

/* The label's place in the tile that begins at class `start`, or n if it lies elsewhere. */
static inline size_t FN(label_at)(const instep_class_row *row, size_t start, size_t n)
{
    const size_t label = (size_t)row->label;
    return label >= start && label - start < n ? label - start : n;
}

/* t = the effective target of classes [start, start + n); 0 in an ignored row. */
static void FN(effective_target)(double *restrict t, const instep_loss_views *views,
                                 const instep_class_row *row, size_t start, size_t n)
{
    const double *weight = views->class_weight;
    const double kept = row->ignored ? 0 : 1 - views->label_smoothing;
    const double uniform = row->ignored ? 0 : views->label_smoothing / (double)views->classes;
    if (views->labels) {
        const size_t at = FN(label_at)(row, start, n);
        for (size_t k = 0; k < n; ++k) t[k] = uniform;
        if (at < n) t[at] += kept;
    } else {
        load_run_f64(t, row->target + (intptr_t)start * views->target_step, views->target_step, n,
                     (instep_dtype)views->target.dtype);
        for (size_t k = 0; k < n; ++k) t[k] = kept * t[k] + uniform;
    }
    if (weight)
        for (size_t k = 0; k < n; ++k) t[k] *= weight[start + k];
}

/* Where REAL elements lie at `at`, `step` bytes apart: there if they are dense, else NULL. */
static inline REAL *FN(dense_run)(char *at, intptr_t step, int dtype)
{
    const int dense =
        dtype == REAL_DTYPE && step == sizeof(REAL) && (uintptr_t)at % sizeof(REAL) == 0;
    return dense ? (REAL *)(void *)at : NULL;
}

/* The predictions of classes [start, start + n): where they lie, or decoded into `buffer`. */
static const REAL *FN(class_tile)(REAL *buffer, const instep_loss_views *views,
                                  const instep_class_row *row, size_t start, size_t n)
{
    char *at = row->pred + (intptr_t)start * views->pred_step;
    const REAL *there = FN(dense_run)(at, views->pred_step, views->pred.dtype);
    if (there == NULL)
        FN(load_run)(buffer, at, views->pred_step, n, (instep_dtype)views->pred.dtype);
    return there ? there : buffer;
}

/* Where the gradient of the classes from `start` on can be written: in place, or in `buffer`. */
static REAL *FN(lend_classes)(REAL *buffer, const instep_loss_views *views,
                              const instep_class_row *row, size_t start)
{
    char *at = row->gradient + (intptr_t)start * views->gradient_step;
    REAL *there = FN(dense_run)(at, views->gradient_step, views->gradient.dtype);
    return there && !views->in_place ? there : buffer;
}

static void FN(store_classes)(const REAL *tile, const instep_loss_views *views,
                              const instep_class_row *row, size_t start, size_t n)
{
    FN(store_run)(tile, row->gradient + (intptr_t)start * views->gradient_step,
                  views->gradient_step, n, (instep_dtype)views->gradient.dtype);
}

/* Store the value of the row at position `index`, if values are wanted. */
static void FN(store_value)(const instep_loss_views *views, size_t index, double value)
{
    const REAL stored = (REAL)value;
    if (views->has_values) FN(store)(&stored, &views->values, index, 1);
}

/* A row that does not count: gradient 0. */
static void FN(clear_row)(const instep_loss_views *views, const instep_class_row *row)
{
    const REAL zeros[INSTEP_TILE] = {0};
    for (size_t start = 0; start < views->classes; start += INSTEP_TILE) {
        const size_t left = views->classes - start;
        FN(store_classes)(zeros, views, row, start, left < INSTEP_TILE ? left : INSTEP_TILE);
    }
}

/* Sum of the values of rows [start, start + count), computed one by one. */
ALWAYS_INLINE static double FN(each_row)(const instep_loss_views *views, size_t start, size_t count,
                                         double (*loss)(const instep_loss_views *,
                                                        const instep_class_row *))
{
    double sum = 0;
    for (size_t i = start; i < start + count; ++i) {
        const instep_class_row row = FN(class_row)(views, i);
        double value = 0;
        if (row.ignored) FN(clear_row)(views, &row);
        else value = loss(views, &row);
        FN(store_value)(views, i, value);
        sum += value;
    }
    return sum;
}
