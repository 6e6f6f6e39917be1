/* smooth_l1.h: Huber's loss divided by its threshold; e = x - t, b = beta > 0.
 *
 *     value    = e^2 / (2 b)        for |e| < b, else |e| - b / 2
 *     gradient = e / b clipped to +-1
 *
 * Girshick, arXiv:1504.08083. */
static void FN(smooth_l1)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                          const REAL *restrict extra, const void *coefficients,
                          REAL *restrict gradient, double *restrict value)
{
    const struct smooth_l1_coefficients c = *(const struct smooth_l1_coefficients *)coefficients;
    (void)extra;
    for (size_t i = 0; i < n; ++i) {
        const double error = (double)pred[i] - (double)target[i];
        const double size = error < 0 ? -error : error, near = size > c.beta ? c.beta : size;
        const double slope = error / c.beta;
        value[i] = 0.5 * near * (near / c.beta) + (size - near);
        gradient[i] = (REAL)(c.factor * (slope > 1 ? 1 : slope < -1 ? -1 : slope));
    }
}
