/* twins.h: the elementwise losses by their formulas, in long double. */
#ifndef INSTEP_TESTS_TWINS_H
#define INSTEP_TESTS_TWINS_H

#include "data.h"

/* The loss of one element. `size`: the largest term of value and slope, by which errors count. */
typedef struct {
    long double value, slope, size;
} twin;

typedef long double wide;

static inline wide at_least(wide least, wide x) { return x < least ? least : x; }
static inline wide sign_of(wide x) { return (wide)(x > 0) - (wide)(x < 0); }
static inline wide softplus(wide x) { return at_least(0, x) + log1pl(expl(-fabsl(x))); }
static inline wide sigmoid(wide x) { return 1 / (1 + expl(-x)); }

static inline twin mse(wide x, wide t, wide extra, const double *c)
{
    (void)extra, (void)c;
    return (twin){(x - t) * (x - t), 2 * (x - t), 0};
}

static inline twin mae(wide x, wide t, wide extra, const double *c)
{
    (void)extra, (void)c;
    return (twin){fabsl(x - t), sign_of(x - t), 0};
}

static inline twin huber(wide x, wide t, wide extra, const double *c)
{
    const wide e = x - t, delta = c[0];
    (void)extra;
    if (fabsl(e) <= delta) return (twin){e * e / 2, e, 0};
    return (twin){delta * (fabsl(e) - delta / 2), delta * sign_of(e), 0};
}

static inline twin smooth_l1(wide x, wide t, wide extra, const double *c)
{
    const wide e = x - t, beta = c[0];
    (void)extra;
    if (fabsl(e) < beta) return (twin){e * e / (2 * beta), e / beta, 0};
    return (twin){fabsl(e) - beta / 2, sign_of(e), 0};
}

static inline twin log_cosh(wide x, wide t, wide extra, const double *c)
{
    (void)extra, (void)c;
    return (twin){logl(coshl(x - t)), tanhl(x - t), 0};
}

static inline twin quantile(wide x, wide t, wide extra, const double *c)
{
    const wide e = x - t, q = c[0];
    (void)extra;
    if (e > 0) return (twin){(1 - q) * e, 1 - q, 0};
    return (twin){-q * e, e < 0 ? -q : 0, 0};
}

static inline twin poisson_nll(wide x, wide t, wide extra, const double *c)
{
    const int log_input = c[0] != 0, full = c[1] != 0;
    const wide rate = log_input ? expl(x) : x, eps = c[2];
    const wide value = rate - t * (log_input ? x : logl(x + eps));
    const wide rest = full && t > 1 ? t * logl(t) - t + logl(2 * acosl(-1) * t) / 2 : 0;
    (void)extra;
    return (twin){value + rest, log_input ? rate - t : 1 - t / (x + eps), rate + 8 * t};
}

static inline twin binary_cross_entropy(wide x, wide t, wide extra, const double *c)
{
    const wide yes = at_least(-100, logl(x)), no = at_least(-100, log1pl(-x));
    (void)extra, (void)c;
    return (twin){-(t * yes + (1 - t) * no), (x - t) / at_least(1e-12L, x * (1 - x)), 0};
}

static inline twin binary_cross_entropy_with_logits(wide x, wide t, wide extra, const double *c)
{
    const wide w = extra, s = c[1], y = (1 - s) * t + s / 2;
    const wide value = (1 - y) * softplus(x) + w * y * softplus(-x);
    const wide slope = (1 - y) * sigmoid(x) - w * y * sigmoid(-x);
    return (twin){value, slope, (fabsl(1 - y) + fabsl(w * y)) * (1 + fabsl(x))};
}

static inline twin focal(wide x, wide t, wide extra, const double *c)
{
    const wide gamma = c[0], p = sigmoid(x), m = (1 - t) * p + t * (1 - p);
    const wide fade = (c[1] * t + c[2] * (1 - t)) * powl(m, gamma);
    const wide entropy = (1 - t) * softplus(x) + t * softplus(-x);
    const wide turn = gamma * entropy * (1 - 2 * t) * p * (1 - p) / m;
    (void)extra;
    return (twin){fade * entropy, fade * (p - t + turn), 1};
}

static inline twin hinge(wide x, wide t, wide extra, const double *c)
{
    (void)extra, (void)c;
    return (twin){at_least(0, 1 - t * x), 1 - t * x > 0 ? -t : 0, 0};
}

static inline twin kl_div(wide x, wide t, wide extra, const double *c)
{
    const wide share = c[0] != 0 ? expl(t) : t, log = c[0] != 0 ? t : logl(t);
    (void)extra;
    return (twin){share != 0 ? share * (log - x) : 0, -share, share * (1 + fabsl(x))};
}

/* What each loss is called with: its coefficients, and the sets that the arrays are from. */
typedef struct {
    const char *name;
    twin (*of)(wide x, wide t, wide extra, const double *c);
    double coefficients[INSTEP_MAX_LOSS_COEFFICIENTS];
    domain pred, target;
    int has_extra;
} twin_case;

static const twin_case twin_cases[] = {
    {"mse", mse, {0}, EIGHTHS, EIGHTHS, 0},
    {"mae", mae, {0}, EIGHTHS, EIGHTHS, 0},
    {"huber", huber, {1.25}, EIGHTHS, EIGHTHS, 0},
    {"smooth_l1", smooth_l1, {0.75}, EIGHTHS, EIGHTHS, 0},
    {"log_cosh", log_cosh, {0}, EIGHTHS, EIGHTHS, 0},
    {"quantile", quantile, {0.25}, EIGHTHS, EIGHTHS, 0},
    {"poisson_nll", poisson_nll, {1, 0, 0}, EIGHTHS, COUNTS, 0},
    {"poisson_nll", poisson_nll, {1, 1, 0}, EIGHTHS, COUNTS, 0},
    {"poisson_nll", poisson_nll, {0, 0, 0.5}, COUNTS, COUNTS, 0},
    {"poisson_nll", poisson_nll, {0, 1, 0x1p-10}, UNIT, COUNTS, 0},
    {"binary_cross_entropy", binary_cross_entropy, {0}, UNIT, UNIT, 0},
    {"binary_cross_entropy_with_logits",
     binary_cross_entropy_with_logits,
     {2.5, 0.125},
     EIGHTHS,
     UNIT,
     0},
    {"binary_cross_entropy_with_logits",
     binary_cross_entropy_with_logits,
     {1, 0},
     EIGHTHS,
     BITS,
     1},
    {"focal", focal, {2, 0.25, 0.75}, EIGHTHS, BITS, 0},
    {"focal", focal, {0, 1, 1}, EIGHTHS, UNIT, 0},
    {"focal", focal, {0.5, 0, 2}, EIGHTHS, UNIT, 0},
    {"hinge", hinge, {0}, EIGHTHS, SIGNS, 0},
    {"kl_div", kl_div, {0}, LOGARITHMS, UNIT, 0},
    {"kl_div", kl_div, {1}, LOGARITHMS, LOGARITHMS, 0},
};

enum { TWIN_CASES = sizeof twin_cases / sizeof twin_cases[0] };

#endif
