/* binary_cross_entropy_with_logits.h: from logits x; s = label_smoothing, w = pos_weight.
 *
 *     t <- (1 - s) t + s / 2
 *     value    = (1 - t) softplus(x)  + w t softplus(-x)
 *     gradient = (1 - t) sigmoid(x)   - w t sigmoid(-x)
 *
 * With the parts of logistic.h no difference of large numbers occurs, and a term of weight 0 hides
 * even an infinite logit. `extra`, unless NULL, holds w element by element. */

/* One element, whose positive and negative parts weigh `positive` and `negative`; their sum is
 * given apart because it is mostly 1. */
ALWAYS_INLINE static REAL FN(logistic_slope)(REAL x, REAL positive, REAL negative, REAL sum,
                                             double *value)
{
    const FN(logistic_parts) part = FN(logistic)(x);
    const REAL against = x < 0 ? positive : negative, along = x < 0 ? negative : positive;
    const REAL distance = against * -FN(minus_size)(x);
    *value = (double)(sum * part.log + (against != 0 ? distance : 0));
    return FN(signed_as)(against * part.large - along * part.small, x);
}

/* Without label smoothing and pos_weight: sum = 1, and the parts are t and 1 - t. */
static void FN(plain_binary_cross_entropy)(size_t n, const REAL *restrict pred,
                                           const REAL *restrict target, REAL factor,
                                           REAL *restrict gradient, double *restrict value)
{
    for (size_t i = 0; i < n; ++i)
        gradient[i] = factor * FN(logistic_slope)(pred[i], target[i], 1 - target[i], 1, &value[i]);
}

ALWAYS_INLINE static void
FN(weighted_binary_cross_entropy)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                                  const REAL *restrict extra,
                                  const struct binary_cross_entropy_with_logits_coefficients *c,
                                  REAL *restrict gradient, double *restrict value, int has_extra)
{
    const REAL factor = (REAL)c->factor, kept = (REAL)(1 - c->label_smoothing);
    const REAL added = (REAL)(0.5 * c->label_smoothing), pos_weight = (REAL)c->pos_weight;
    for (size_t i = 0; i < n; ++i) {
        const REAL weight = has_extra ? extra[i] : pos_weight;
        const REAL positive = weight * (kept * target[i] + added);
        const REAL negative = kept * (1 - target[i]) + added;
        const REAL sum = positive + negative;
        gradient[i] = factor * FN(logistic_slope)(pred[i], positive, negative, sum, &value[i]);
    }
}

static void FN(binary_cross_entropy_with_logits)(size_t n, const REAL *restrict pred,
                                                 const REAL *restrict target,
                                                 const REAL *restrict extra,
                                                 const void *coefficients, REAL *restrict gradient,
                                                 double *restrict value)
{
    const struct binary_cross_entropy_with_logits_coefficients c =
        *(const struct binary_cross_entropy_with_logits_coefficients *)coefficients;
    if (extra) FN(weighted_binary_cross_entropy)(n, pred, target, extra, &c, gradient, value, 1);
    else if (c.label_smoothing != 0 || c.pos_weight != 1)
        FN(weighted_binary_cross_entropy)(n, pred, target, extra, &c, gradient, value, 0);
    else FN(plain_binary_cross_entropy)(n, pred, target, (REAL)c.factor, gradient, value);
}
