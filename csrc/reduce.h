/* reduce.h: sums whose shape depends on the length alone.
 *
 * Element i of a piece goes to lane i % 16, each lane adds in order, in float64, and the lanes
 * are added as a fixed tree. Every vector width computes exactly this; `omp simd reduction`
 * would not. Float64 lanes hold the square of any float32 without overflow or underflow. */
static void FN(add_squares)(double *restrict lanes, const REAL *restrict x, size_t n, double scale)
{
    double lane[INSTEP_LANES];
    size_t i = 0;
    memcpy(lane, lanes, sizeof lane);
    for (; i + INSTEP_LANES <= n; i += INSTEP_LANES) {
        for (size_t j = 0; j < INSTEP_LANES; ++j) {
            const double value = scale * (double)x[i + j];
            lane[j] += value * value;
        }
    }
    for (size_t j = 0; i + j < n; ++j) {
        const double value = scale * (double)x[i + j];
        lane[j] += value * value;
    }
    memcpy(lanes, lane, sizeof lane);
}

static void FN(add_values)(double *restrict lanes, const REAL *restrict x, size_t n)
{
    double lane[INSTEP_LANES];
    size_t i = 0;
    memcpy(lane, lanes, sizeof lane);
    for (; i + INSTEP_LANES <= n; i += INSTEP_LANES)
        for (size_t j = 0; j < INSTEP_LANES; ++j) lane[j] += (double)x[i + j];
    for (size_t j = 0; i + j < n; ++j) lane[j] += (double)x[i + j];
    memcpy(lanes, lane, sizeof lane);
}

/* How many elements, or their sizes if coefficients[2] is not 0, are below coefficients[0] or above
 * coefficients[1]; NaN is neither. */
static double FN(count_outside)(const instep_loss_views *views, size_t start, size_t count)
{
    _Alignas(64) REAL buffer[INSTEP_TILE];
    const REAL low = (REAL)views->coefficients[0], high = (REAL)views->coefficients[1];
    const int sizes = views->coefficients[2] != 0;
    size_t outside = 0;
    for (const size_t end = start + count; start < end; start += INSTEP_TILE) {
        const size_t n = end - start < INSTEP_TILE ? end - start : INSTEP_TILE;
        const REAL *x = FN(borrow)(&views->pred, start, n, buffer);
        UINT found = 0;
        for (size_t i = 0; i < n; ++i) {
            const REAL value = sizes && x[i] < 0 ? -x[i] : x[i];
            found += (UINT)((value < low) | (value > high));
        }
        outside += found;
    }
    return (double)outside;
}
