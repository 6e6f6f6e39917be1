/* mse.h: squared error. value = (x - t)^2, gradient = 2 * (x - t).
 * In float64 throughout: no difference or square of float32 overflows or vanishes. */
static void FN(mse)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                    const double *restrict factor, REAL *restrict gradient, double *restrict value)
{
    for (size_t i = 0; i < n; ++i) {
        const double error = (double)pred[i] - (double)target[i];
        value[i] = error * error;
        gradient[i] = (REAL)(2 * factor[i] * error);
    }
}
