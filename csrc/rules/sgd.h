/* sgd.h: stochastic gradient descent with momentum, dampening and Nesterov's step.
 *
 *     b  = momentum * b + gain * g             gain = 1 - dampening; 1 for the first gradient
 *     p -= lr * (b, or g + momentum * b)       the latter with Nesterov; g without momentum
 *
 * Convention: PyTorch's. The learning rate stays outside the buffer, the first buffer is the
 * undamped gradient. Sutskever et al., ICML 2013. */
static inline void FN(sgd_body)(size_t n, REAL *restrict p, const REAL *restrict gradient,
                                REAL *restrict buffer, const struct sgd_coefficients *c,
                                int with_momentum)
{
    const REAL scale = (REAL)c->gradient_scale, limit = (REAL)c->gradient_limit;
    const REAL l2 = (REAL)c->l2, lr = (REAL)c->lr, momentum = (REAL)c->momentum;
    const REAL gain = (REAL)c->gain;
    const int nesterov = c->nesterov != 0;
    for (size_t i = 0; i < n; ++i) {
        REAL g = FN(prepare)(gradient[i], p[i], scale, limit, l2);
        if (with_momentum) {
            const REAL b = momentum * buffer[i] + gain * g;
            buffer[i] = b;
            g = nesterov ? g + momentum * b : b;
        }
        p[i] -= lr * g;
    }
}

static void FN(sgd)(size_t n, REAL *p, const REAL *g, REAL *const *state, const void *c)
{
    (void)state;
    FN(sgd_body)(n, p, g, NULL, c, 0);
}

static void FN(sgd_momentum)(size_t n, REAL *p, const REAL *g, REAL *const *state, const void *c)
{
    FN(sgd_body)(n, p, g, state[0], c, 1);
}
