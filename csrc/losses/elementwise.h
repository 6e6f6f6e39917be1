/* elementwise.h: the pipeline of a loss that treats each element alone.
 *
 *     decode pred, target, weight -> loss -> times weight and scale -> encode gradient, values
 *
 * The loss itself sees contiguous tiles and knows nothing of weights, means or layouts. */
static void (*const FN(elementwise_losses)[INSTEP_ELEMENTWISE_LOSSES])(size_t n, const REAL *pred,
                                                                       const REAL *target,
                                                                       REAL *gradient,
                                                                       double *value) = {
#define ELEMENTWISE(loss) FN(loss),
#include "kernels.def"
};

static void FN(apply_weight)(size_t n, const REAL *restrict weight, REAL *restrict gradient,
                             double *restrict value)
{
    for (size_t i = 0; i < n; ++i) {
        gradient[i] *= weight[i];
        value[i] *= (double)weight[i];
    }
}

static double FN(elementwise)(int loss, const instep_loss_views *views, size_t start, size_t count)
{
    _Alignas(64) REAL buffer[4][INSTEP_TILE];
    _Alignas(64) double value[INSTEP_TILE];
    double lanes[INSTEP_LANES] = {0};
    const REAL scale = (REAL)views->scale;
    for (const size_t end = start + count; start < end; start += INSTEP_TILE) {
        const size_t n = end - start < INSTEP_TILE ? end - start : INSTEP_TILE;
        const REAL *pred = FN(borrow)(&views->pred, start, n, buffer[0]);
        const REAL *target = FN(borrow)(&views->target, start, n, buffer[1]);
        REAL *gradient = buffer[2];
        FN(elementwise_losses)[loss](n, pred, target, gradient, value);
        if (views->has_weight) {
            const REAL *weight = FN(borrow)(&views->weight, start, n, buffer[3]);
            FN(apply_weight)(n, weight, gradient, value);
        }
        for (size_t i = 0; i < n; ++i) gradient[i] *= scale;
        FN(store)(gradient, &views->gradient, start, n);
        add_values_f64(lanes, value, n);
        if (views->has_values) {
            for (size_t i = 0; i < n; ++i) gradient[i] = (REAL)value[i];
            FN(store)(gradient, &views->values, start, n);
        }
    }
    return lane_sum(lanes);
}
