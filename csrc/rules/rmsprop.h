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
static inline void RULED(rmsprop_body)(size_t n, REAL *restrict p, const REAL *restrict gradient,
                                       KEPT *restrict square_avg, KEPT *restrict grad_avg,
                                       KEPT *restrict buffer, random_key key,
                                       const struct rmsprop_coefficients *c, int centered,
                                       int with_momentum)
{
    const REAL scale = (REAL)c->gradient_scale, limit = (REAL)c->gradient_limit;
    const REAL l2 = (REAL)c->l2, lr = (REAL)c->lr, eps = (REAL)c->eps;
    const REAL alpha = (REAL)c->alpha, one_minus_alpha = (REAL)c->one_minus_alpha;
    const REAL momentum = (REAL)c->momentum;
    for (size_t i = 0; i < n; ++i) {
        DRAW(key);
        const REAL g = PREPARE(gradient[i], p[i], scale, limit, l2, 0);
        REAL variance = alpha * GET(square_avg, i) + one_minus_alpha * (g * g);
        PUT(square_avg, 0, i, variance);
        if (centered) {
            const REAL a = alpha * GET(grad_avg, i) + one_minus_alpha * g;
            PUT(grad_avg, 1, i, a);
            variance -= a * a;
            variance = variance < 0 ? 0 : variance;
        }
        REAL update = g / (ROOT(variance) + eps);
        if (with_momentum) {
            update = momentum * GET(buffer, i) + update;
            PUT(buffer, centered ? 2 : 1, i, update);
        }
        p[i] -= lr * update;
    }
}

static void RULED(rmsprop)(size_t n, REAL *p, const REAL *g, KEPT *const *state, random_key key,
                           const void *c)
{
    RULED(rmsprop_body)(n, p, g, state[0], NULL, NULL, key, c, 0, 0);
}

static void RULED(rmsprop_momentum)(size_t n, REAL *p, const REAL *g, KEPT *const *state,
                                    random_key key, const void *c)
{
    RULED(rmsprop_body)(n, p, g, state[0], NULL, state[1], key, c, 0, 1);
}

static void RULED(rmsprop_centered)(size_t n, REAL *p, const REAL *g, KEPT *const *state,
                                    random_key key, const void *c)
{
    RULED(rmsprop_body)(n, p, g, state[0], state[1], NULL, key, c, 1, 0);
}

static void RULED(rmsprop_centered_momentum)(size_t n, REAL *p, const REAL *g, KEPT *const *state,
                                             random_key key, const void *c)
{
    RULED(rmsprop_body)(n, p, g, state[0], state[1], state[2], key, c, 1, 1);
}
