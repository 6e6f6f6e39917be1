/* mae.h: absolute error of e = x - t. value = |e|, gradient = sign(e): 0 at 0, NaN for NaN. */
static void FN(mae)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                    const REAL *restrict extra, const void *coefficients, REAL *restrict gradient,
                    double *restrict value)
{
    const struct mae_coefficients c = *(const struct mae_coefficients *)coefficients;
    (void)extra;
    for (size_t i = 0; i < n; ++i) {
        const double error = (double)pred[i] - (double)target[i];
        const double sign = error > 0 ? 1 : error < 0 ? -1 : error;
        value[i] = error < 0 ? -error : error;
        gradient[i] = (REAL)(c.factor * sign);
    }
}
