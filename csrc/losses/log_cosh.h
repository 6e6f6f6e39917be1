/* log_cosh.h: value = log(cosh(e)), gradient = tanh(e), e = x - t.
 *
 * cosh overflows and, near 0, log(cosh(e)) = e^2 / 2 drowns in the rounding of cosh(e). So with
 * m = exp(-2 |e|) - 1:  tanh |e| = -m / (2 + m), and
 *
 *     value = -log1p(-tanh(e)^2) / 2          for |e| < 1
 *             |e| + log1p(exp(-2 |e|)) - ln 2  beyond */
static void FN(log_cosh)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                         const REAL *restrict extra, const void *coefficients,
                         REAL *restrict gradient, double *restrict value)
{
    const struct log_cosh_coefficients c = *(const struct log_cosh_coefficients *)coefficients;
    const REAL factor = (REAL)c.factor;
    (void)extra;
    for (size_t i = 0; i < n; ++i) {
        const REAL error = pred[i] - target[i], size = error < 0 ? -error : error;
        const REAL m = FN(vexpm1)(-2 * size), slope = (0 - m) / (2 + m);
        const int near = size < 1;
        const REAL log = FN(vlog1p)(near ? -slope * slope : 1 + m);
        const double far = (double)size + ((double)log - 0x1.62e42fefa39efp-1);
        value[i] = near ? -0.5 * (double)log : far;
        gradient[i] = factor * (error < 0 ? -slope : slope);
    }
}
