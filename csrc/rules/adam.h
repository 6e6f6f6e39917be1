/* adam.h: Adam, AdamW and AMSGrad.
 *
 *     m  = beta1 * m + (1 - beta1) * g
 *     v  = beta2 * v + (1 - beta2) * g^2            AMSGrad: w = max(w, v) stands for v below
 *     p -= decay * p + step_size * m / (sqrt(v) * root_scale + eps)
 *
 * with step_size = lr / (1 - beta1^t), root_scale = 1 / sqrt(1 - beta2^t) (coefficients.c), and for
 * AdamW decay = lr * weight_decay (else 0; Adam's own weight decay is l2). Subtracting decay * p
 * instead of multiplying p by 1 - decay keeps the digits of a small decay, which 1 - decay rounds
 * away. Convention: PyTorch's. eps is added after the bias-corrected root, decay comes before the
 * step, AMSGrad's maximum is over the uncorrected v. Kingma and Ba, arXiv:1412.6980; Loshchilov
 * and Hutter, arXiv:1711.05101; Reddi et al., arXiv:1904.09237. */
static inline void RULED(adam_body)(size_t n, REAL *restrict p, const REAL *restrict gradient,
                                    KEPT *restrict exp_avg, KEPT *restrict exp_avg_sq,
                                    KEPT *restrict max_exp_avg_sq, random_key key,
                                    const struct adam_coefficients *c, int amsgrad)
{
    const REAL scale = (REAL)c->gradient_scale, limit = (REAL)c->gradient_limit;
    const REAL l2 = (REAL)c->l2, decay = (REAL)c->decay;
    const REAL beta1 = (REAL)c->beta1, one_minus_beta1 = (REAL)c->one_minus_beta1;
    const REAL beta2 = (REAL)c->beta2, one_minus_beta2 = (REAL)c->one_minus_beta2;
    const REAL root_scale = (REAL)c->root_scale, eps = (REAL)c->eps;
    const REAL step_size = (REAL)c->step_size;
    for (size_t i = 0; i < n; ++i) {
        DRAW(key);
        const REAL g = PREPARE(gradient[i], p[i], scale, limit, l2, amsgrad);
        const REAL m = beta1 * GET(exp_avg, i) + one_minus_beta1 * g;
        REAL v = beta2 * GET(exp_avg_sq, i) + one_minus_beta2 * (g * g);
        PUT(exp_avg, 0, i, m);
        PUT(exp_avg_sq, 1, i, v);
        if (amsgrad) {
            const REAL w = GET(max_exp_avg_sq, i);
            v = w > v ? w : v; /* NaN in v is kept, as torch.maximum does */
            PUT(max_exp_avg_sq, 2, i, v);
        }
        const REAL update = step_size * (m / (ROOT(v) * root_scale + eps));
        p[i] -= decay != 0 ? decay * p[i] + update : update;
    }
}

static void RULED(adam)(size_t n, REAL *p, const REAL *g, KEPT *const *state, random_key key,
                        const void *c)
{
    RULED(adam_body)(n, p, g, state[0], state[1], NULL, key, c, 0);
}

static void RULED(adam_amsgrad)(size_t n, REAL *p, const REAL *g, KEPT *const *state,
                                random_key key, const void *c)
{
    RULED(adam_body)(n, p, g, state[0], state[1], state[2], key, c, 1);
}
