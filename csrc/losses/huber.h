/* huber.h: squared near 0, absolute far away; e = x - t, d = delta.
 *
 *     value    = e^2 / 2            for |e| <= d, else d (|e| - d / 2)
 *     gradient = e clipped to +-d
 *
 * The value is computed as q^2 / 2 + d (|e| - q), q = min(|e|, d): no branch, no overflow.
 * Huber, Annals of Mathematical Statistics 35 (1964). */
static void FN(huber)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                      const REAL *restrict extra, const void *coefficients, REAL *restrict gradient,
                      double *restrict value)
{
    const struct huber_coefficients c = *(const struct huber_coefficients *)coefficients;
    (void)extra;
    for (size_t i = 0; i < n; ++i) {
        const double error = (double)pred[i] - (double)target[i];
        const double size = error < 0 ? -error : error, near = size > c.delta ? c.delta : size;
        const double slope = error > c.delta ? c.delta : error < -c.delta ? -c.delta : error;
        value[i] = 0.5 * near * near + c.delta * (size - near);
        gradient[i] = (REAL)(c.factor * slope);
    }
}
