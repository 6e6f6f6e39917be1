/* focal.h: binary cross-entropy that fades where the prediction is right; from logits x.
 *
 *     p = sigmoid(x),   m = (1 - t) p + t (1 - p)            the probability of being wrong
 *     a = alpha_positive t + alpha_negative (1 - t)
 *     value    = a m^gamma bce,    bce = (1 - t) softplus(x) + t softplus(-x)
 *     gradient = a m^gamma (p - t + gamma bce (1 - 2 t) p (1 - p) / m)
 *
 * Lin et al., arXiv:1708.02002. m^gamma = exp(gamma log m); a gradient of m = 0 is 0. */
static void FN(focal)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                      const REAL *restrict extra, const void *coefficients, REAL *restrict gradient,
                      double *restrict value)
{
    const struct focal_coefficients c = *(const struct focal_coefficients *)coefficients;
    const REAL factor = (REAL)c.factor, gamma = (REAL)c.gamma;
    const REAL alpha_positive = (REAL)c.alpha_positive, alpha_negative = (REAL)c.alpha_negative;
    (void)extra;
    for (size_t i = 0; i < n; ++i) {
        const REAL x = pred[i], t = target[i], not_t = 1 - t;
        const FN(logistic_parts) part = FN(logistic)(x);
        const REAL p = x < 0 ? part.small : part.large, not_p = x < 0 ? part.large : part.small;
        const REAL up = (x > 0 ? x : 0) + part.log, down = (x < 0 ? -x : 0) + part.log;
        const REAL entropy = (not_t != 0 ? not_t * up : 0) + (t != 0 ? t * down : 0);
        const REAL miss = not_t * p + t * not_p;
        const REAL power = gamma != 0 ? FN(vexp)(gamma * FN(vlog)(miss)) : 1;
        const REAL fade = (alpha_positive * t + alpha_negative * not_t) * power;
        const REAL turn = gamma * entropy * ((not_t - t) * (p * not_p / miss));
        /* p (1 - p) is 0 where the logit is so large that the product is not a number. */
        const REAL slope = (not_t * p - t * not_p) + (p * not_p != 0 ? turn : 0);
        const REAL nothing = x != x ? x : 0; /* a fade of 0 hides no NaN */
        value[i] = fade != 0 ? (double)fade * (double)entropy : (double)nothing;
        gradient[i] = factor * (fade != 0 ? fade * slope : nothing);
    }
}
