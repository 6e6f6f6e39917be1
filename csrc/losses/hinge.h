/* hinge.h: the margin loss of targets t = -1 or 1; m = 1 - t x.
 *
 *     value    = max(0, m)
 *     gradient = -t where m > 0, 0 elsewhere (also where m = 0), NaN for NaN */
static void FN(hinge)(size_t n, const REAL *restrict pred, const REAL *restrict target,
                      const REAL *restrict extra, const void *coefficients, REAL *restrict gradient,
                      double *restrict value)
{
    const struct hinge_coefficients c = *(const struct hinge_coefficients *)coefficients;
    const REAL factor = (REAL)c.factor;
    (void)extra;
    for (size_t i = 0; i < n; ++i) {
        const REAL margin = 1 - target[i] * pred[i]; /* rounded once: t x is exact */
        const REAL slope = margin > 0 ? -target[i] : margin <= 0 ? 0 : margin;
        value[i] = (double)(margin <= 0 ? 0 : margin);
        gradient[i] = factor * slope;
    }
}
