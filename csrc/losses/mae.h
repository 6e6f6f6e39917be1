/* mae.h: absolute error of e = x - t. value = |e|, gradient = sign(e): 0 at 0, NaN for NaN. */
static void FN(mae)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                    const REAL *restrict extra, const void *coefficients, REAL *restrict gradient,
                    double *restrict value)
{
    const struct mae_coefficients c = *(const struct mae_coefficients *)coefficients;
    const REAL factor = (REAL)c.factor;
    (void)extra;
    for (size_t i = 0; i < n; ++i) {
        const REAL x = pred[i], t = target[i], neither = x - t; /* 0 or NaN where it is used */
        const double error = (double)x - (double)t;
        value[i] = error < 0 ? -error : error;
        gradient[i] = x > t ? factor : x < t ? -factor : neither;
    }
}
