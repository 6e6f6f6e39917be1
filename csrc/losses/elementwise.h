/* elementwise.h: the pipeline of a loss that treats each element alone.
 *
 *     decode pred, target, weight -> loss -> encode gradient, values
 *
 * The loss sees contiguous tiles and knows nothing of weights, means or layouts: it multiplies its
 * gradient by factor = weight * scale, and its value is weighted here. */
static void (*const FN(elementwise_losses)[INSTEP_ELEMENTWISE_LOSSES])(size_t n, const REAL *pred,
                                                                       const REAL *target,
                                                                       const double *factor,
                                                                       REAL *gradient,
                                                                       double *value) = {
#define ELEMENTWISE(loss) FN(loss),
#include "kernels.def"
};

static double FN(elementwise)(int loss, const instep_loss_views *views, size_t start, size_t count)
{
    _Alignas(64) REAL buffer[3][INSTEP_TILE];
    _Alignas(64) double value[INSTEP_TILE], weights[INSTEP_TILE], factor[INSTEP_TILE];
    double lanes[INSTEP_LANES] = {0};
    for (size_t i = 0; i < INSTEP_TILE; ++i) factor[i] = views->scale;
    for (const size_t end = start + count; start < end; start += INSTEP_TILE) {
        const size_t n = end - start < INSTEP_TILE ? end - start : INSTEP_TILE;
        const REAL *pred = FN(borrow)(&views->pred, start, n, buffer[0]);
        const REAL *target = FN(borrow)(&views->target, start, n, buffer[1]);
        REAL *gradient = buffer[2];
        const double *weight = weights;
        if (views->has_weight) {
            weight = borrow_f64(&views->weight, start, n, weights);
            for (size_t i = 0; i < n; ++i) factor[i] = views->scale * weight[i];
        }
        FN(elementwise_losses)[loss](n, pred, target, factor, gradient, value);
        if (views->has_weight)
            for (size_t i = 0; i < n; ++i) value[i] *= weight[i];
        FN(store)(gradient, &views->gradient, start, n);
        add_values_f64(lanes, value, n);
        if (views->has_values) {
            for (size_t i = 0; i < n; ++i) gradient[i] = (REAL)value[i];
            FN(store)(gradient, &views->values, start, n);
        }
    }
    return lane_sum(lanes);
}
