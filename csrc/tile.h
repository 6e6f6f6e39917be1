/* tile.h: codecs between any storage and a contiguous tile of REAL.
 *
 * A tile is what fits the L1 cache many times over; arrays that are dense REAL are used where
 * they lie instead (see step.h). Elements are read with memcpy: arrays from packed records or
 * byte buffers need not be aligned. One load per storage type; adding one is a case here. */

/* float16 -> float32 without branches: move exponent and mantissa into place, rebias by a
 * multiplication (which also normalises subnormals), and widen the exponent of inf and NaN. */
static inline REAL FN(from_half)(const char *at)
{
    uint16_t half;
    memcpy(&half, at, sizeof half);
    uint32_t bits = (uint32_t)(half & 0x7fffu) << 13;
    float value;
    memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
    memcpy(&bits, &value, sizeof bits);
    bits |= (half & 0x7fffu) >= 0x7c00u ? 0x7f800000u : 0u;
    bits |= (uint32_t)(half & 0x8000u) << 16;
    memcpy(&value, &bits, sizeof value);
    return (REAL)value;
}

static inline REAL FN(from_bfloat)(const char *at)
{
    uint16_t top;
    memcpy(&top, at, sizeof top);
    const uint32_t bits = (uint32_t)top << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (REAL)value;
}

static inline REAL FN(from_float)(const char *at)
{
    float value;
    memcpy(&value, at, sizeof value);
    return (REAL)value;
}

static inline REAL FN(from_double)(const char *at)
{
    double value;
    memcpy(&value, at, sizeof value);
    return (REAL)value;
}

static inline REAL FN(from_longdouble)(const char *at)
{
    long double value;
    memcpy(&value, at, sizeof value);
    return (REAL)(double)value;
}

/* tile[i] = the i-th of `count` elements of type `dtype` that lie `stride` bytes apart. */
static void FN(load_run)(REAL *restrict tile, const char *restrict at, intptr_t stride,
                         size_t count, instep_dtype dtype)
{
    const intptr_t n = (intptr_t)count;
    if (stride == sizeof(REAL) && dtype == (REAL_BITS == 32 ? INSTEP_FLOAT32 : INSTEP_FLOAT64)) {
        memcpy(tile, at, count * sizeof(REAL));
        return;
    }
    switch (dtype) {
    case INSTEP_FLOAT32:
        for (intptr_t i = 0; i < n; ++i) tile[i] = FN(from_float)(at + i * stride);
        break;
    case INSTEP_FLOAT64:
        for (intptr_t i = 0; i < n; ++i) tile[i] = FN(from_double)(at + i * stride);
        break;
    case INSTEP_FLOAT16:
        for (intptr_t i = 0; i < n; ++i) tile[i] = FN(from_half)(at + i * stride);
        break;
    case INSTEP_BFLOAT16:
        for (intptr_t i = 0; i < n; ++i) tile[i] = FN(from_bfloat)(at + i * stride);
        break;
    default: /* the callers admit no other type than INSTEP_LONGDOUBLE */
        for (intptr_t i = 0; i < n; ++i) tile[i] = FN(from_longdouble)(at + i * stride);
        break;
    }
}

/* tile[i] = element start + i of the walk, converted to REAL. */
static void FN(load)(REAL *restrict tile, const instep_view *view, size_t start, size_t count)
{
    while (count > 0) {
        const size_t run = instep_view_run(view, start, count);
        FN(load_run)(tile, instep_view_at(view, start), view->stride, run,
                     (instep_dtype)view->dtype);
        tile += run;
        start += run;
        count -= run;
    }
}

/* The i-th of `count` REAL elements `stride` bytes apart = tile[i]; no other byte is written. */
static void FN(store_run)(const REAL *restrict tile, char *restrict at, intptr_t stride,
                          size_t count)
{
    if (stride == sizeof(REAL)) {
        memcpy(at, tile, count * sizeof(REAL));
        return;
    }
    for (intptr_t i = 0; i < (intptr_t)count; ++i) memcpy(at + i * stride, tile + i, sizeof(REAL));
}

/* Element start + i of the walk = tile[i]. The view holds REAL. */
static void FN(store)(const REAL *restrict tile, const instep_view *view, size_t start,
                      size_t count)
{
    while (count > 0) {
        const size_t run = instep_view_run(view, start, count);
        FN(store_run)(tile, instep_view_at(view, start), view->stride, run);
        tile += run;
        start += run;
        count -= run;
    }
}

/* Where `count` elements from `start` on can be read as REAL: in place if they lie dense, else
 * decoded into `buffer`. */
static inline REAL *FN(borrow)(const instep_view *view, size_t start, size_t count, REAL *buffer)
{
    if (view->dense && view->dtype == (REAL_BITS == 32 ? INSTEP_FLOAT32 : INSTEP_FLOAT64))
        return (REAL *)(void *)view->data + start;
    FN(load)(buffer, view, start, count);
    return buffer;
}

/* Write back what `borrow` handed out, if it was a copy. */
static inline void FN(give_back)(const instep_view *view, size_t start, size_t count,
                                 const REAL *tile, const REAL *buffer)
{
    if (tile == buffer) FN(store)(tile, view, start, count);
}
