/* poisson_nll.h: negative log-likelihood of counts t under a Poisson distribution.
 *
 *     log_input: value = exp(x) - t x,            gradient = exp(x) - t
 *     else:      value = x - t log(x + eps),      gradient = 1 - t / (x + eps)
 *     full:      value + t log t - t + log(2 pi t) / 2 where t > 1: Stirling's log(t!) */
ALWAYS_INLINE static void FN(poisson_nll_body)(size_t n, const REAL *restrict pred,
                                               const REAL *restrict target,
                                               const struct poisson_nll_coefficients *c,
                                               REAL *restrict gradient, double *restrict value,
                                               int log_input, int full)
{
    const REAL factor = (REAL)c->factor, eps = (REAL)c->eps;
    for (size_t i = 0; i < n; ++i) {
        const REAL x = pred[i], t = target[i];
        const REAL rate = log_input ? FN(vexp)(x) : x, log = log_input ? x : FN(vlog)(x + eps);
        double total = (double)rate - (double)t * (double)log;
        if (full) {
            const double log_t = (double)FN(vlog)(t);
            const double stirling =
                (double)t * log_t - (double)t + 0.5 * (1.8378770664093453 + log_t);
            total += t > 1 ? stirling : 0; /* 1.83... = log(2 pi) */
        }
        value[i] = total;
        gradient[i] = factor * (log_input ? rate - t : 1 - t / (x + eps));
    }
}

static void FN(poisson_nll)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                            const REAL *restrict extra, const void *coefficients,
                            REAL *restrict gradient, double *restrict value)
{
    const struct poisson_nll_coefficients c =
        *(const struct poisson_nll_coefficients *)coefficients;
    (void)extra;
    if (c.log_input != 0 && c.full != 0)
        FN(poisson_nll_body)(n, pred, target, &c, gradient, value, 1, 1);
    else if (c.log_input != 0) FN(poisson_nll_body)(n, pred, target, &c, gradient, value, 1, 0);
    else if (c.full != 0) FN(poisson_nll_body)(n, pred, target, &c, gradient, value, 0, 1);
    else FN(poisson_nll_body)(n, pred, target, &c, gradient, value, 0, 0);
}
