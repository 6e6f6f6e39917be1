/* quantile.h: the pinball loss, whose minimiser is the q-quantile; e = x - t.
 *
 *     value    = (1 - q) e   for e > 0, else -q e
 *     gradient =  1 - q      for e > 0, -q for e < 0, 0 at 0
 *
 * Koenker and Bassett, Econometrica 46 (1978). */
static void FN(quantile)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                         const REAL *restrict extra, const void *coefficients,
                         REAL *restrict gradient, double *restrict value)
{
    const struct quantile_coefficients c = *(const struct quantile_coefficients *)coefficients;
    const double above = 1 - c.q, below = -c.q;
    (void)extra;
    for (size_t i = 0; i < n; ++i) {
        const double error = (double)pred[i] - (double)target[i];
        const double slope = error > 0 ? above : error < 0 ? below : error;
        value[i] = error > 0 ? above * error : below * error;
        gradient[i] = (REAL)(c.factor * slope);
    }
}
