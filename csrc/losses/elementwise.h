/* elementwise.h: the pipeline of a loss that treats each element alone.
 *
 *     decode pred, target, extra, weight -> loss -> encode gradient, values
 *
 * The loss sees contiguous tiles and knows nothing of weights, means or layouts: it multiplies its
 * gradient by its first coefficient, `factor`. With weights the factor is 1, and what comes out is
 * weighted here. */
static void (*const FN(elementwise_losses)[INSTEP_ELEMENTWISE_LOSSES])(
    size_t n, const REAL *pred, const REAL *target, const REAL *extra, const void *coefficients,
    REAL *gradient, double *value) = {
#define ELEMENTWISE(loss, ...) FN(loss),
#include "kernels.def"
};

static void FN(weigh)(REAL *restrict gradient, double *restrict value,
                      const double *restrict weight, double scale, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        gradient[i] = (REAL)((double)gradient[i] * (scale * weight[i]));
        value[i] *= weight[i];
    }
}

static double FN(elementwise)(int loss, const instep_loss_views *views, size_t start, size_t count)
{
    _Alignas(64) REAL buffer[4][INSTEP_TILE];
    _Alignas(64) double value[INSTEP_TILE], weights[INSTEP_TILE];
    double lanes[INSTEP_LANES] = {0};
    for (const size_t end = start + count; start < end; start += INSTEP_TILE) {
        const size_t n = end - start < INSTEP_TILE ? end - start : INSTEP_TILE;
        const REAL *pred = FN(borrow)(&views->pred, start, n, buffer[0]);
        const REAL *target = FN(borrow)(&views->target, start, n, buffer[1]);
        const REAL *extra = NULL;
        if (views->has_extra) extra = FN(borrow)(&views->extra, start, n, buffer[2]);
        REAL *gradient = buffer[3];
        if (!views->in_place) gradient = FN(lend)(&views->gradient, start, buffer[3]);
        FN(elementwise_losses)[loss](n, pred, target, extra, views->coefficients, gradient, value);
        if (views->has_weight)
            FN(weigh)(gradient, value, borrow_f64(&views->weight, start, n, weights), views->scale,
                      n);
        FN(give_back)(&views->gradient, start, n, gradient, buffer[3]);
        add_values_f64(lanes, value, n);
        if (views->has_values) {
            for (size_t i = 0; i < n; ++i) buffer[3][i] = (REAL)value[i];
            FN(store)(buffer[3], &views->values, start, n);
        }
    }
    return lane_sum(lanes);
}
