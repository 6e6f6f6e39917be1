/* logistic.h: what the losses of logits share, from one exponential and one division.
 *
 *     e = exp(-|x|),   large = 1 / (1 + e) = sigmoid(|x|),   small = e / (1 + e) = sigmoid(-|x|)
 *     log = log(1 + e),   so softplus(+-x) = max(+-x, 0) + log */
typedef struct {
    REAL large, small, log;
} FN(logistic_parts);

ALWAYS_INLINE static FN(logistic_parts) FN(logistic)(REAL x)
{
    const REAL e = FN(vexp_negative)(FN(minus_size)(x));
    const REAL quotient = 1 / ((1 + e) * (2 + e)), large = (2 + e) * quotient;
    const REAL log = FN(vlog_ratio)(e * ((1 + e) * quotient));
    return (FN(logistic_parts)){large, e * large, log};
}
