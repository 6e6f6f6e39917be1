/* mse.h: squared error. value = (x - t)^2, gradient = 2 * (x - t).
 * The square is taken in float64: it neither overflows nor vanishes for any float32. */
static void FN(mse)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                    REAL *restrict gradient, double *restrict value)
{
    for (size_t i = 0; i < n; ++i) {
        const REAL error = pred[i] - target[i];
        value[i] = (double)error * (double)error;
        gradient[i] = 2 * error;
    }
}
