/* sgd.h: stochastic gradient descent with momentum, dampening and Nesterov's step.
 *
 *     b  = momentum * b + gain * g             gain = 1 - dampening; 1 for the first gradient
 *     p -= lr * (b, or g + momentum * b)       the latter with Nesterov; g without momentum
 *
 * Convention: PyTorch's. The learning rate stays outside the buffer, the first buffer is the
 * undamped gradient. Sutskever et al., ICML 2013. */
static inline void RULED(sgd_body)(size_t n, REAL *restrict p, const REAL *restrict gradient,
                                   KEPT *restrict buffer, random_key key,
                                   const struct sgd_coefficients *c, int with_momentum)
{
    const REAL scale = (REAL)c->gradient_scale, limit = (REAL)c->gradient_limit;
    const REAL l2 = (REAL)c->l2, lr = (REAL)c->lr, momentum = (REAL)c->momentum;
    const REAL gain = (REAL)c->gain;
    const int nesterov = c->nesterov != 0;
    for (size_t i = 0; i < n; ++i) {
        DRAW(key);
        REAL g = PREPARE(gradient[i], p[i], scale, limit, l2, 0);
        if (with_momentum) {
            const REAL b = momentum * GET(buffer, i) + gain * g;
            PUT(buffer, 0, i, b);
            g = nesterov ? g + momentum * b : b;
        }
        p[i] -= lr * g;
    }
}

static void RULED(sgd)(size_t n, REAL *p, const REAL *g, KEPT *const *state, random_key key,
                       const void *c)
{
    (void)state;
    RULED(sgd_body)(n, p, g, NULL, key, c, 0);
}

static void RULED(sgd_momentum)(size_t n, REAL *p, const REAL *g, KEPT *const *state,
                                random_key key, const void *c)
{
    RULED(sgd_body)(n, p, g, state[0], key, c, 1);
}
