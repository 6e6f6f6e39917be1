/* mse.h: squared error of e = x - t. value = e^2, gradient = 2 e.
 * e / 2 is computed, since e may overflow where the gradient of a mean does not; squares are
 * float64, where those of float32 neither overflow nor vanish. */
static void FN(mse)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                    const REAL *restrict extra, const void *coefficients, REAL *restrict gradient,
                    double *restrict value)
{
    const struct mse_coefficients c = *(const struct mse_coefficients *)coefficients;
    const REAL factor = (REAL)(4 * c.factor);
    (void)extra;
    for (size_t i = 0; i < n; ++i) {
        const REAL half = (REAL)0.5 * pred[i] - (REAL)0.5 * target[i];
        const double error = 2 * (double)half;
        value[i] = error * error;
        gradient[i] = factor * half;
    }
}
