/* log_cosh.h: value = log(cosh(e)), gradient = tanh(e), e = x - t.
 *
 * cosh overflows and, near 0, log(cosh(e)) = e^2 / 2 drowns in the rounding of cosh(e). So with
 * m = exp(-2 |e|) - 1:  tanh |e| = -m / (2 + m), and
 *
 *     value = -log(1 - tanh(e)^2) / 2           for |e| < 1/2
 *             |e| + log(1 + exp(-2 |e|)) - ln 2  beyond
 *
 * Both logarithms are of 1 + y; the quotients y / (2 + y) and tanh share one division. */
static void FN(log_cosh)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                         const REAL *restrict extra, const void *coefficients,
                         REAL *restrict gradient, double *restrict value)
{
    const struct log_cosh_coefficients c = *(const struct log_cosh_coefficients *)coefficients;
    const REAL factor = (REAL)c.factor;
    (void)extra;
    for (size_t i = 0; i < n; ++i) {
        const REAL error = pred[i] - target[i], size = -FN(minus_size)(error);
        const REAL m = FN(vexpm1)(-2 * size), square = m * m;
        const int near = size < (REAL)0.5;
        const REAL above = near ? -square : 1 + m;
        const REAL below = near ? 2 * ((2 + m) * (2 + m)) - square : 3 + m;
        const REAL quotient = 1 / ((2 + m) * below);
        const REAL slope = (0 - m) * (below * quotient);
        const double log = (double)FN(vlog_ratio)(above * ((2 + m) * quotient));
        value[i] = near ? -0.5 * log : (double)size + (log - 0x1.62e42fefa39efp-1);
        gradient[i] = factor * FN(signed_as)(slope, error);
    }
}
