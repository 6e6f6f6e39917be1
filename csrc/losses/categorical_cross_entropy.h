/* categorical_cross_entropy.h: cross-entropy of class probabilities x.
 *
 *     value    = -sum_k t_k max(log x_k, -100)
 *     gradient = -t_k / max(x_k, 1e-12)
 *
 * with the effective target t of classes.h and the limits of binary_cross_entropy.h. The
 * probabilities are taken as they are: whether they sum to 1 is the model's business. */
static void FN(categorical_tile)(REAL *restrict gradient, double *restrict value,
                                 const REAL *restrict x, const double *restrict t, double scale,
                                 size_t n)
{
    const REAL least = (REAL)1e-12;
    for (size_t i = 0; i < n; ++i) {
        const REAL log = FN(vlog)(x[i]), nothing = x[i] != x[i] ? x[i] : 0;
        const double held = (double)(log < -100 ? -100 : log);
        const double divisor = (double)(x[i] < least ? least : x[i]);
        value[i] = -(t[i] * held);
        gradient[i] = (REAL)((double)nothing - t[i] * scale / divisor);
    }
}

/* The same for the target of a plain label: `height` at `at` (n: elsewhere), 0 in the other
 * classes, whose predictions are only looked at for NaN. */
static void FN(categorical_spike)(REAL *restrict gradient, double *value, const REAL *restrict x,
                                  double height, size_t at, double scale, size_t n)
{
    UINT nans = 0; /* as wide as x: the loop is one of vectors */
    for (size_t i = 0; i < n; ++i) {
        nans |= x[i] != x[i];
        gradient[i] = x[i] != x[i] ? x[i] : 0;
    }
    *value = nans ? (double)NAN : 0;
    if (at < n) {
        double here;
        FN(categorical_tile)(gradient + at, &here, x + at, &height, scale, 1);
        *value += here;
    }
}

static double FN(categorical_row)(const instep_loss_views *views, const instep_class_row *row)
{
    _Alignas(64) REAL buffer[INSTEP_TILE], room[INSTEP_TILE];
    _Alignas(64) double t[INSTEP_TILE], value[INSTEP_TILE];
    double lanes[INSTEP_LANES] = {0};
    for (size_t start = 0; start < views->classes; start += INSTEP_TILE) {
        const size_t left = views->classes - start, n = left < INSTEP_TILE ? left : INSTEP_TILE;
        const REAL *x = FN(class_tile)(buffer, views, row, start, n);
        REAL *gradient = FN(lend_classes)(room, views, row, start);
        if (row->spike) {
            FN(categorical_spike)(gradient, value, x, row->height, FN(label_at)(row, start, n),
                                  views->scale, n);
            lanes[0] += value[0];
        } else {
            FN(effective_target)(t, views, row, start, n);
            FN(categorical_tile)(gradient, value, x, t, views->scale, n);
            add_values_f64(lanes, value, n);
        }
        if (gradient == room) FN(store_classes)(gradient, views, row, start, n);
    }
    return lane_sum(lanes);
}

static double FN(categorical_cross_entropy)(const instep_loss_views *views, size_t start,
                                            size_t count)
{
    return FN(each_row)(views, start, count, FN(categorical_row));
}
