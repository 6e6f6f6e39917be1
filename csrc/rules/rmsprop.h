/* rmsprop.h: RMSprop, optionally centred and with momentum.
 *
 *     v  = alpha * v + (1 - alpha) * g^2
 *     a  = alpha * a + (1 - alpha) * g              centred only
 *     u  = g / (sqrt(v - a^2) + eps)                a = 0 unless centred
 *     p -= lr * u, or with momentum  b = momentum * b + u;  p -= lr * b
 *
 * Convention: PyTorch's, eps outside the root. The centred variance is clamped at 0: rounding
 * can make v - a^2 negative, where PyTorch yields NaN. Tieleman and Hinton, Coursera lecture 6e,
 * 2012; centred: Graves, arXiv:1308.0850. */
static inline void FN(rmsprop_body)(size_t n, REAL *restrict p, const REAL *restrict gradient,
                                    REAL *restrict square_avg, REAL *restrict grad_avg,
                                    REAL *restrict buffer, const struct rmsprop_coefficients *c,
                                    int centered, int with_momentum)
{
    const REAL scale = (REAL)c->gradient_scale, limit = (REAL)c->gradient_limit;
    const REAL l2 = (REAL)c->l2, lr = (REAL)c->lr, eps = (REAL)c->eps;
    const REAL alpha = (REAL)c->alpha, one_minus_alpha = (REAL)c->one_minus_alpha;
    const REAL momentum = (REAL)c->momentum;
    for (size_t i = 0; i < n; ++i) {
        const REAL g = FN(prepare)(gradient[i], p[i], scale, limit, l2);
        REAL variance = alpha * square_avg[i] + one_minus_alpha * (g * g);
        square_avg[i] = variance;
        if (centered) {
            const REAL a = alpha * grad_avg[i] + one_minus_alpha * g;
            grad_avg[i] = a;
            variance -= a * a;
            variance = variance < 0 ? 0 : variance;
        }
        REAL update = g / (ROOT(variance) + eps);
        if (with_momentum) {
            update = momentum * buffer[i] + update;
            buffer[i] = update;
        }
        p[i] -= lr * update;
    }
}

static void FN(rmsprop)(size_t n, REAL *p, const REAL *g, REAL *const *state, const void *c)
{
    FN(rmsprop_body)(n, p, g, state[0], NULL, NULL, c, 0, 0);
}

static void FN(rmsprop_momentum)(size_t n, REAL *p, const REAL *g, REAL *const *state,
                                 const void *c)
{
    FN(rmsprop_body)(n, p, g, state[0], NULL, state[1], c, 0, 1);
}

static void FN(rmsprop_centered)(size_t n, REAL *p, const REAL *g, REAL *const *state,
                                 const void *c)
{
    FN(rmsprop_body)(n, p, g, state[0], state[1], NULL, c, 1, 0);
}

static void FN(rmsprop_centered_momentum)(size_t n, REAL *p, const REAL *g, REAL *const *state,
                                          const void *c)
{
    FN(rmsprop_body)(n, p, g, state[0], state[1], state[2], c, 1, 1);
}
