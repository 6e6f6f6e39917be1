/* gradient.h: what every rule does to a gradient element before anything else:
 *     g = min(max(gradient_scale * g, -gradient_limit), gradient_limit) + l2 * p
 * gradient_scale holds unscaling, the global-norm clip and the sign of `maximize`;
 * gradient_limit is the value clip (infinite: none). NaN passes both comparisons.
 *
 * GCC makes a loop with and a loop without the clip, unless the body is too large for that: it must
 * be `one_loop` then, or it is not vectorized. */
static inline REAL FN(prepare)(REAL g, REAL p, REAL scale, REAL limit, REAL l2, int one_loop)
{
    g *= scale;
    if (one_loop || limit < (REAL)INFINITY) {
        g = g > limit ? limit : g;
        g = g < -limit ? -limit : g;
    }
    /* A zero coefficient switches the term off: 0 * inf must not turn into NaN. */
    return l2 != 0 ? g + l2 * p : g;
}

/* Does it only scale, with these coefficients of any rule? */
static inline int FN(only_scales)(const double *coefficients)
{
    return coefficients[1] == INFINITY && coefficients[2] == 0;
}
