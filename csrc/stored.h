/* stored.h: states in 16 and 8 bits, between float32 and storage. docs/math.md has the formulas.
 *
 * Every encoder takes 16 bits r per element, u = r / 2^16 in [0, 1), and rounds up if the part that
 * does not fit is above what u says: random bits give stochastic rounding, r = 2^15 (NEAREST) the
 * nearest. The 8-bit formats work in blocks of INSTEP_BLOCK elements with a scale each:
 *
 *     INT8    value = code * scale, code in [-127, 127]         momenta
 *     UINT8   value = code^2 * scale, code in [0, 255]          second moments
 *
 * where scale = largest size in the block / 127 or 255^2, kept to 21 bits so that decoding and
 * encoding again gives the same bits. A block with an element that is not finite (in UINT8 also:
 * below 0) becomes NaN. Numbers come out of arithmetic: a NaN among them is quiet. */
#ifndef INSTEP_STORED_H
#define INSTEP_STORED_H

#include "rng.h"

static const uint32_t NEAREST = UINT32_C(0x80008000);

static inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- bfloat16 -------------------------------------------------------------------------------- */

/* The bits of `value` rounded to a bfloat16, in their upper half. Finite numbers stay finite. */
static inline uint32_t rounded_bfloat(float value, uint32_t r)
{
    return bits_of(value) + (fabsf(value) < 0x1.fep+127f ? r : 0);
}

ALWAYS_INLINE static void encode_bfloats(uint16_t *restrict code, const float *restrict x,
                                         const uint32_t *restrict word, int odd, size_t n)
{
    for (size_t i = 0; i < n; ++i)
        code[i] = (uint16_t)(rounded_bfloat(x[i], random_share(word[i], odd)) >> 16);
}

static void decode_bfloats(float *restrict x, const uint16_t *restrict code, size_t n)
{
    for (size_t i = 0; i < n; ++i) x[i] = float_of((uint32_t)code[i] << 16);
}

/* Round in place: what an encoder to bfloat16 then leaves as it is. */
static void round_bfloats(float *x, const uint32_t *restrict word, size_t n)
{
    for (size_t i = 0; i < n; ++i)
        x[i] = float_of(rounded_bfloat(x[i], random_share(word[i], 1)) & UINT32_C(0xffff0000));
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* largest / parts to 21 bits, but at most `most`, so that the largest value stays finite. */
static inline float scale_of(float largest, float parts, float most)
{
    const float scale = float_of((bits_of(largest / parts) + 4) & ~UINT32_C(7));
    return scale < most ? scale : most;
}

static inline int has_codes(uint32_t most) { return most - 1 < UINT32_C(0x7f800000) - 1; }

/* A block's largest size counts as 2^-100 if it is below: no scale is subnormal. */
static inline float largest_of(uint32_t most)
{
    const float largest = float_of(most);
    return largest > 0x1p-100f ? largest : 0x1p-100f;
}

/* The bits of the largest size of a block. */
ALWAYS_INLINE static uint32_t most_of(const float *x, uint32_t mask, size_t n)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; ++i) {
        const uint32_t size = bits_of(x[i]) & mask;
        most = size > most ? size : most;
    }
    return most;
}

/* Of each block in a tile: its scale, and the factor that makes codes of its elements, which is 0
 * if all codes are to be 0. All blocks before any is encoded, or each would wait for its own
 * division. */
ALWAYS_INLINE static void measure_blocks(float *restrict scale, float *restrict factor,
                                         const float *restrict x, int is_signed, size_t n)
{
    /* Without a sign, what is below 0 counts as not finite. */
    const uint32_t mask = is_signed ? UINT32_C(0x7fffffff) : UINT32_C(0xffffffff);
    for (size_t i = 0; i < n; i += INSTEP_BLOCK, ++scale, ++factor) {
        const uint32_t most = n - i >= INSTEP_BLOCK ? most_of(x + i, mask, INSTEP_BLOCK)
                                                    : most_of(x + i, mask, n - i);
        const float largest = largest_of(most);
        *scale = is_signed ? scale_of(largest, 127, 0x1.0204p+121f)
                           : scale_of(largest, 65025, 0x1.0203p+112f);
        *factor = (is_signed ? 127 * 0x1p15f : 65025) / largest;
        if (!has_codes(most)) {
            *scale = float_of(most == 0 ? 0 : UINT32_C(0x7fc00000));
            *factor = 0;
        }
    }
}

/* factor * largest is 127 * 2^15 up to 0.4, so the largest element gets the code 127 whatever r is.
 * Adding 3 * 2^22 rounds to an integer, which then stands in the low bits. */
ALWAYS_INLINE static void encode_signed(int8_t *restrict code, float factor,
                                        const float *restrict x, const uint32_t *restrict word,
                                        int odd, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        const uint32_t steps = bits_of(x[i] * factor + 3 * 0x1p22f);
        const uint32_t r = random_share(word[i], odd) >> 1;
        code[i] = (int8_t)((uint8_t)((steps + r) >> 15) ^ 0x80); /* 3 * 2^22 is 0x4b400000 */
    }
}

/* Up from code k with the probability (z - k^2) / (2 k + 1) that makes the mean z; what is above 0
 * never gets the code 0. */
ALWAYS_INLINE static void encode_squared(uint8_t *restrict code, float factor,
                                         const float *restrict x, const uint32_t *restrict word,
                                         int odd, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        const float z = x[i] * factor, k = (float)(int32_t)sqrtf(z);
        const float rest = z - k * k, width = k * 0x1p-15f + 0x1p-16f;
        const float r = (float)(int32_t)random_share(word[i], odd);
        const uint32_t bits = bits_of(x[i]), least = bits < 1 ? bits : 1; /* z may underflow */
        int32_t rounded = (int32_t)k + (width * r < rest);
        rounded = rounded > (int32_t)least ? rounded : (int32_t)least;
        code[i] = (uint8_t)(rounded < 255 ? rounded : 255); /* z may be 65025.004 */
    }
}

/* One block; the compiler knows the length of a full one. */
ALWAYS_INLINE static void encode_block(char *code, float factor, const float *x,
                                       const uint32_t *word, int is_signed, int odd, size_t n)
{
    if (factor == 0) memset(code, 0, n);
    else if (is_signed) encode_signed((int8_t *)code, factor, x, word, odd, n);
    else encode_squared((uint8_t *)code, factor, x, word, odd, n);
}

ALWAYS_INLINE static void encode_blocks(char *code, float *scale, const float *x,
                                        const uint32_t *word, int is_signed, int odd, size_t n)
{
    float factor[INSTEP_TILE / INSTEP_BLOCK];
    size_t i = 0;
    measure_blocks(scale, factor, x, is_signed, n);
    for (; i + INSTEP_BLOCK <= n; i += INSTEP_BLOCK)
        encode_block(code + i, factor[i / INSTEP_BLOCK], x + i, word + i, is_signed, odd,
                     INSTEP_BLOCK);
    if (i < n)
        encode_block(code + i, factor[i / INSTEP_BLOCK], x + i, word + i, is_signed, odd, n - i);
}

ALWAYS_INLINE static void decode_block(float *restrict x, instep_dtype dtype,
                                       const char *restrict code, float unit, size_t n)
{
    if (dtype == INSTEP_INT8)
        for (size_t i = 0; i < n; ++i) x[i] = (float)(int8_t)code[i] * unit;
    else
        for (size_t i = 0; i < n; ++i) {
            const uint16_t root = (uint8_t)code[i]; /* its square is exact: half the vectors */
            x[i] = (float)(int32_t)(uint16_t)(root * root) * unit;
        }
}

static void decode_blocks(float *restrict x, instep_dtype dtype, const char *restrict code,
                          const float *restrict scale, size_t n)
{
    size_t i = 0;
    for (; i + INSTEP_BLOCK <= n; i += INSTEP_BLOCK)
        decode_block(x + i, dtype, code + i, scale[i / INSTEP_BLOCK], INSTEP_BLOCK);
    if (i < n) decode_block(x + i, dtype, code + i, scale[i / INSTEP_BLOCK], n - i);
}

/* ---- any of them ----------------------------------------------------------------------------- */

static inline int is_stored(instep_dtype dtype)
{
    return dtype == INSTEP_BFLOAT16 || dtype == INSTEP_INT8 || dtype == INSTEP_UINT8;
}

/* x[i] = what the i-th of n codes stands for. Codes and scales begin at a block. */
static void decode_state(float *restrict x, instep_dtype dtype, const char *restrict code,
                         const float *restrict scale, size_t n)
{
    if (dtype == INSTEP_BFLOAT16) decode_bfloats(x, (const uint16_t *)(const void *)code, n);
    else decode_blocks(x, dtype, code, scale, n);
}

ALWAYS_INLINE static void encode_share(instep_dtype dtype, char *code, float *scale, const float *x,
                                       const uint32_t *word, int odd, size_t n)
{
    switch (dtype) {
    case INSTEP_INT8: encode_blocks(code, scale, x, word, 1, odd, n); break;
    case INSTEP_UINT8: encode_blocks(code, scale, x, word, 0, odd, n); break;
    default: encode_bfloats((uint16_t *)(void *)code, x, word, odd, n); break;
    }
}

/* The i-th of n codes = x[i], rounded by the random bits of a stream. */
APART static void encode_state(instep_dtype dtype, char *code, float *scale, const float *x,
                               const uint32_t *word, int odd, size_t n)
{
    if (odd) encode_share(dtype, code, scale, x, word, 1, n);
    else encode_share(dtype, code, scale, x, word, 0, n);
}

/* The same to the nearest, of numbers from anywhere: adding 0 quiets a NaN, and turns -0 into 0,
 * which a second moment must be. */
static void encode_nearest(instep_dtype dtype, char *code, float *scale, const float *x, size_t n)
{
    float tile[INSTEP_TILE];
    uint32_t word[INSTEP_TILE];
    for (size_t i = 0; i < INSTEP_TILE; ++i) word[i] = NEAREST;
    for (size_t start = 0; start < n; start += INSTEP_TILE) {
        const size_t count = n - start < INSTEP_TILE ? n - start : INSTEP_TILE;
        float *to = dtype == INSTEP_BFLOAT16 ? NULL : scale + start / INSTEP_BLOCK;
        for (size_t i = 0; i < count; ++i) {
            const float value = x[start + i];
            tile[i] = value == 0 && dtype != INSTEP_UINT8 ? value : value + 0.0f;
        }
        encode_state(dtype, code + start * (size_t)instep_itemsize(dtype), to, tile, word, 0,
                     count);
    }
}

/* ---- a tile of a leaf ------------------------------------------------------------------------ */

/* The scales of state k from element `start` on; NULL if it has none. */
static inline float *scales_from(const instep_leaf *leaf, int k, size_t start)
{
    return leaf->scale[k] != NULL ? leaf->scale[k] + start / INSTEP_BLOCK : NULL;
}

/* What a tile needs to round by; filled for the words that leaf->words names. */
typedef struct {
    int in_rule; /* the rule itself decodes, draws the first word, and rounds: kept.h */
    random_key key[2];
    _Alignas(64) uint32_t word[2][INSTEP_TILE];
    uint32_t nearest[INSTEP_TILE];
} rounding;

/* For the piece that begins at `start`. */
static void prepare_rounding(rounding *by, const instep_leaf *leaf, size_t start,
                             const instep_step_options *options)
{
    for (uint32_t k = 0; k < 2; ++k) by->key[k] = random_key_of(options, leaf->index, start, k);
    if (leaf->nearest != 0)
        for (size_t i = 0; i < INSTEP_TILE; ++i) by->nearest[i] = NEAREST;
}

static void draw_words(rounding *by, const instep_leaf *leaf, size_t start, size_t n)
{
    for (int k = by->in_rule; k < 2; ++k)
        if (leaf->words >> k & 1) draw(by->word[k], by->key[k], start, n);
}

#endif
