/* kl_div.h: Kullback-Leibler divergence from log-probabilities x; t the target distribution.
 *
 *     value = t (log t - x),                  gradient = -t          0 where t = 0
 *     log_target: value = exp(t) (t - x),     gradient = -exp(t)     0 where exp(t) = 0
 *
 * A NaN prediction gives a NaN gradient although the gradient does not depend on x. */
ALWAYS_INLINE static void FN(kl_div_body)(size_t n, const REAL *restrict pred,
                                          const REAL *restrict target,
                                          const struct kl_div_coefficients *c,
                                          REAL *restrict gradient, double *restrict value,
                                          int log_target)
{
    const REAL factor = (REAL)c->factor;
    for (size_t i = 0; i < n; ++i) {
        const REAL x = pred[i], t = target[i];
        const REAL share = log_target ? FN(vexp)(t) : t, log = log_target ? t : FN(vlog)(t);
        const REAL nothing = x != x ? x : 0;
        const double product = (double)share * ((double)log - (double)x);
        value[i] = share != 0 ? product : (double)nothing;
        gradient[i] = factor * (nothing - share);
    }
}

static void FN(kl_div)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                       const REAL *restrict extra, const void *coefficients,
                       REAL *restrict gradient, double *restrict value)
{
    const struct kl_div_coefficients c = *(const struct kl_div_coefficients *)coefficients;
    (void)extra;
    if (c.log_target != 0) FN(kl_div_body)(n, pred, target, &c, gradient, value, 1);
    else FN(kl_div_body)(n, pred, target, &c, gradient, value, 0);
}
