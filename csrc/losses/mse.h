/* mse.h: squared error of e = x - t. value = e^2, gradient = 2 e.
 * In float64 throughout: no difference or square of float32 overflows or vanishes. */
static void FN(mse)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                    const REAL *restrict extra, const void *coefficients,
                    REAL *restrict gradient, double *restrict value)
{
    const struct mse_coefficients c = *(const struct mse_coefficients *)coefficients;
    const double twice = 2 * c.factor;
    (void)extra;
    for (size_t i = 0; i < n; ++i) {
        const double error = (double)pred[i] - (double)target[i];
        value[i] = error * error;
        gradient[i] = (REAL)(twice * error);
    }
}
