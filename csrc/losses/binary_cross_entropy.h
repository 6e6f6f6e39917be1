/* binary_cross_entropy.h: from probabilities x in [0, 1].
 *
 *     value    = -(t max(log x, -100) + (1 - t) max(log(1 - x), -100))
 *     gradient = (x - t) / max(x (1 - x), 1e-12)
 *
 * The limits are PyTorch's: a wrong certainty costs 100 and its gradient is 1e12, not infinite. */
static void FN(binary_cross_entropy)(size_t n, const REAL *restrict pred,
                                     const REAL *restrict target, const REAL *restrict extra,
                                     const void *coefficients, REAL *restrict gradient,
                                     double *restrict value)
{
    const struct binary_cross_entropy_coefficients c =
        *(const struct binary_cross_entropy_coefficients *)coefficients;
    const REAL factor = (REAL)c.factor, least = (REAL)1e-12;
    (void)extra;
    for (size_t i = 0; i < n; ++i) {
        const REAL x = pred[i], t = target[i], spread = x * (1 - x);
        const REAL yes = FN(vlog)(x), no = FN(vlog1p)(-x);
        const double yes_held = (double)(yes < -100 ? -100 : yes);
        const double no_held = (double)(no < -100 ? -100 : no);
        value[i] = -((double)t * yes_held + (1 - (double)t) * no_held);
        gradient[i] = factor * ((x - t) / (spread < least ? least : spread));
    }
}
