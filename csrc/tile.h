/* tile.h: codecs between any storage and a contiguous tile of REAL.
 *
 * A tile is what fits the L1 cache many times over; arrays that are dense REAL are used where
 * they lie instead (see step.h). Elements are read with memcpy: arrays from packed records or
 * byte buffers need not be aligned. One load per storage type; adding one is a case here. */

/* float16 -> float32 without branches: move exponent and mantissa into place and rebias. A
 * subnormal one gets the exponent of 2^-14, which is subtracted again: no float32 on the way is
 * subnormal, which costs many CPUs a hundred cycles. Inf and NaN are rebiased twice. */
static inline REAL FN(from_half)(const char *at)
{
    uint16_t half;
    memcpy(&half, at, sizeof half);
    const uint32_t size = half & 0x7fffu, rebias = 112u << 23;
    uint32_t bits = (size << 13) + rebias;
    bits += size >= 0x7c00u ? rebias : 0u;
    bits += size < 0x0400u ? 1u << 23 : 0u;
    float value;
    memcpy(&value, &bits, sizeof value);
    value -= size < 0x0400u ? 0x1p-14f : 0.0f;
    memcpy(&bits, &value, sizeof bits);
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

/* FN(from_NAME): the element of a C type at an address. */
#define DECODER(name, type)                            \
    static inline REAL FN(from_##name)(const char *at) \
    {                                                  \
        type value;                                    \
        memcpy(&value, at, sizeof value);              \
        return (REAL)value;                            \
    }
DECODER(float, float)
DECODER(double, double)
DECODER(int8, int8_t)
DECODER(int16, int16_t)
DECODER(int32, int32_t)
DECODER(int64, int64_t)
DECODER(uint8, uint8_t)
DECODER(uint16, uint16_t)
DECODER(uint32, uint32_t)
DECODER(uint64, uint64_t)
#undef DECODER

static inline REAL FN(from_longdouble)(const char *at)
{
    long double value;
    memcpy(&value, at, sizeof value);
    return (REAL)(double)value;
}

/* tile[i] = the i-th of `count` elements that lie `stride` bytes apart. A known stride lets the
 * compiler use whole vectors. */
ALWAYS_INLINE static void FN(decode)(REAL *restrict tile, const char *restrict at, intptr_t stride,
                                     size_t count, intptr_t itemsize, REAL (*from)(const char *))
{
    if (stride == itemsize)
        for (intptr_t i = 0; i < (intptr_t)count; ++i) tile[i] = from(at + i * itemsize);
    else
        for (intptr_t i = 0; i < (intptr_t)count; ++i) tile[i] = from(at + i * stride);
}

/* FN(load_run) of a type that gradients and targets seldom have. */
SELDOM static void FN(load_other)(REAL *restrict tile, const char *restrict at, intptr_t stride,
                                  size_t count, instep_dtype dtype)
{
    switch (dtype) {
    case INSTEP_INT8: FN(decode)(tile, at, stride, count, 0, FN(from_int8)); break;
    case INSTEP_INT16: FN(decode)(tile, at, stride, count, 0, FN(from_int16)); break;
    case INSTEP_UINT16: FN(decode)(tile, at, stride, count, 0, FN(from_uint16)); break;
    case INSTEP_UINT32: FN(decode)(tile, at, stride, count, 0, FN(from_uint32)); break;
    case INSTEP_UINT64: FN(decode)(tile, at, stride, count, 0, FN(from_uint64)); break;
    default: /* INSTEP_LONGDOUBLE */
        FN(decode)(tile, at, stride, count, 0, FN(from_longdouble));
        break;
    }
}

/* tile[i] = the i-th of `count` elements of type `dtype` that lie `stride` bytes apart. */
static void FN(load_run)(REAL *restrict tile, const char *restrict at, intptr_t stride,
                         size_t count, instep_dtype dtype)
{
    switch (dtype) {
    case INSTEP_FLOAT32: FN(decode)(tile, at, stride, count, 4, FN(from_float)); break;
    case INSTEP_FLOAT64: FN(decode)(tile, at, stride, count, 8, FN(from_double)); break;
    case INSTEP_FLOAT16: FN(decode)(tile, at, stride, count, 2, FN(from_half)); break;
    case INSTEP_BFLOAT16: FN(decode)(tile, at, stride, count, 2, FN(from_bfloat)); break;
    case INSTEP_INT32: FN(decode)(tile, at, stride, count, 4, FN(from_int32)); break;
    case INSTEP_INT64: FN(decode)(tile, at, stride, count, 8, FN(from_int64)); break;
    case INSTEP_UINT8: FN(decode)(tile, at, stride, count, 1, FN(from_uint8)); break;
    default: FN(load_other)(tile, at, stride, count, dtype); break;
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

/* FN(load) of `rows` whole rows of a view that runs across: a block of columns after the other, so
 * that a cache line, which holds elements of several rows, is read once for all of them. */
APART static void FN(load_rows)(REAL *restrict tile, const instep_view *view, size_t start,
                                size_t rows)
{
    REAL block[INSTEP_COLUMNS][INSTEP_ROWS];
    const size_t width = (size_t)view->axes[view->ndim - 1];
    const intptr_t across = view->axes[2 * view->ndim - 2];
    const uintptr_t ahead = (uintptr_t)(INSTEP_COLUMNS * view->stride);
    const char *at = instep_view_at(view, start);
    for (size_t column = 0; column < width; column += INSTEP_COLUMNS) {
        const size_t left = width - column, n = left < INSTEP_COLUMNS ? left : INSTEP_COLUMNS;
        for (size_t k = 0; k < n; ++k, at += view->stride) {
            __builtin_prefetch((const void *)((uintptr_t)at + ahead)); /* of the next block */
            FN(load_run)(block[k], at, across, rows, (instep_dtype)view->dtype);
        }
        for (size_t row = 0; row < rows; ++row)
            for (size_t k = 0; k < n; ++k) tile[row * width + column + k] = block[k][row];
    }
}

/* FN(load) of a view that runs across. */
static void FN(load_across)(REAL *restrict tile, const instep_view *view, size_t start,
                            size_t count)
{
    const size_t width = (size_t)view->axes[view->ndim - 1];
    while (count > 0) {
        const size_t rows = instep_view_rows(view, start, count);
        const size_t run = rows > 1 ? rows * width : instep_view_run(view, start, count);
        if (rows > 1) FN(load_rows)(tile, view, start, rows);
        else FN(load)(tile, view, start, run);
        tile += run;
        start += run;
        count -= run;
    }
}

static inline void FN(to_real)(char *at, REAL value) { memcpy(at, &value, sizeof value); }

static inline void FN(to_float)(char *at, REAL value)
{
    const float narrow = (float)value;
    memcpy(at, &narrow, sizeof narrow);
}

/* To the nearest float16, ties to even. A normal one drops 13 bits; below 2^-14, adding 1/2 puts
 * the rounded multiple of 2^-24 into the low bits. */
static inline void FN(to_half)(char *at, REAL value)
{
    const float narrow = (float)value;
    uint32_t bits, shifted;
    memcpy(&bits, &narrow, sizeof bits);
    const uint32_t size = bits & 0x7fffffffu;
    float small;
    memcpy(&small, &size, sizeof small);
    small += 0.5f;
    memcpy(&shifted, &small, sizeof shifted);
    uint32_t half = (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
    half = size < 0x38800000u ? shifted - 0x3f000000u : half;
    half = size >= 0x477ff000u ? 0x7c00u : half; /* 65520 and beyond: inf */
    half = size > 0x7f800000u ? 0x7e00u : half;
    const uint16_t stored = (uint16_t)(half | (bits >> 16 & 0x8000u));
    memcpy(at, &stored, sizeof stored);
}

/* To the nearest bfloat16, ties to even. */
static inline void FN(to_bfloat)(char *at, REAL value)
{
    const float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    const int nan = (bits & 0x7fffffffu) > 0x7f800000u;
    const uint16_t stored = (uint16_t)(nan ? (bits >> 16 | 0x40u) : rounded);
    memcpy(at, &stored, sizeof stored);
}

ALWAYS_INLINE static void FN(encode)(const REAL *restrict tile, char *restrict at, intptr_t stride,
                                     size_t count, intptr_t itemsize, void (*to)(char *, REAL))
{
    if (stride == itemsize)
        for (intptr_t i = 0; i < (intptr_t)count; ++i) to(at + i * itemsize, tile[i]);
    else
        for (intptr_t i = 0; i < (intptr_t)count; ++i) to(at + i * stride, tile[i]);
}

/* The i-th of `count` elements `stride` bytes apart = tile[i], rounded to float16, bfloat16 or
 * float32 if `dtype` says so; no other byte is written. */
static void FN(store_run)(const REAL *restrict tile, char *restrict at, intptr_t stride,
                          size_t count, instep_dtype dtype)
{
    switch (dtype) {
    case INSTEP_FLOAT16: FN(encode)(tile, at, stride, count, 2, FN(to_half)); break;
    case INSTEP_BFLOAT16: FN(encode)(tile, at, stride, count, 2, FN(to_bfloat)); break;
    case INSTEP_FLOAT32: FN(encode)(tile, at, stride, count, 4, FN(to_float)); break;
    default: FN(encode)(tile, at, stride, count, sizeof(REAL), FN(to_real)); break;
    }
}

/* Element start + i of the walk = tile[i]. The view holds REAL, float16, bfloat16 or float32. */
static void FN(store)(const REAL *restrict tile, const instep_view *view, size_t start,
                      size_t count)
{
    while (count > 0) {
        const size_t run = instep_view_run(view, start, count);
        FN(store_run)(tile, instep_view_at(view, start), view->stride, run,
                      (instep_dtype)view->dtype);
        tile += run;
        start += run;
        count -= run;
    }
}

/* Where `count` elements from `start` on can be read as REAL: in place if they lie dense, else
 * decoded into `buffer`. */
static inline REAL *FN(borrow)(const instep_view *view, size_t start, size_t count, REAL *buffer)
{
    if (view->dense && view->dtype == REAL_DTYPE) return (REAL *)(void *)view->data + start;
    FN(load)(buffer, view, start, count);
    return buffer;
}

/* Where elements from `start` on can be written as REAL: in place if they lie dense, else in
 * `buffer`. */
static inline REAL *FN(lend)(const instep_view *view, size_t start, REAL *buffer)
{
    if (view->dense && view->dtype == REAL_DTYPE) return (REAL *)(void *)view->data + start;
    return buffer;
}

/* Write back what `borrow` or `lend` handed out, if it was a copy. */
static inline void FN(give_back)(const instep_view *view, size_t start, size_t count,
                                 const REAL *tile, const REAL *buffer)
{
    if (tile == buffer) FN(store)(tile, view, start, count);
}
