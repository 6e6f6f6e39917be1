/* storage_twin.h: the generator of random bits and the codecs of states, an element at a time. */
#ifndef INSTEP_TESTS_STORAGE_TWIN_H
#define INSTEP_TESTS_STORAGE_TWIN_H

#include "arena.h"

enum { BLOCK = 128, PIECE = 16384 };

static inline uint64_t next_of(uint64_t z)
{
    z += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* The 16 bits of an element in a stream. */
static inline uint32_t random_bits(uint64_t seed, uint64_t step, uint64_t leaf, uint64_t element,
                                   int stream)
{
    const uint64_t part = 2 * (element / PIECE) + (uint64_t)stream / 2;
    const uint64_t key = next_of(next_of(next_of(next_of(seed) ^ step) ^ leaf) ^ part);
    uint32_t x = (uint32_t)(element % PIECE) * UINT32_C(0x9e3779b9) + (uint32_t)key;
    x = (x ^ x >> 15 ^ (uint32_t)(key >> 32)) * UINT32_C(0x735a2d97);
    x ^= x >> 16;
    return stream % 2 ? x & 0xffff : x >> 16;
}

static inline float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline uint16_t bfloat_by(float value, uint32_t r)
{
    const uint32_t bits = bits_of_float(value);
    if (!(fabsf(value) < float_of_bits(0x7f7f0000))) return (uint16_t)(bits >> 16);
    return (uint16_t)((bits + r) >> 16);
}

static inline int8_t signed_by(float value, float largest, uint32_t r)
{
    const float factor = 127 * 32768.0f / largest;
    return (int8_t)floor(((double)rintf(value * factor) + r / 2) / 32768);
}

static inline uint8_t squared_by(float value, float largest, uint32_t r)
{
    const float z = value * (65025 / largest), k = floorf(sqrtf(z));
    const float width = k < 1 ? 0 : k * 0x1p-15f + 0x1p-16f;
    const int code = (int)k + (width * (float)r < z - k * k);
    return (uint8_t)(code < 255 ? code : 255);
}

static inline float reduced(float scale)
{
    int exponent;
    const double part = frexp((double)scale, &exponent);
    return (float)ldexp(floor(ldexp(part, 21) + 0.5), exponent - 21);
}

/* Encode a block of n; `r` has the bits of each element. Returns its scale. */
static inline float encode_block(instep_dtype kind, char *code, const float *x, const uint32_t *r,
                                 size_t n)
{
    const float parts = kind == INSTEP_INT8 ? 127 : 65025;
    const float most = kind == INSTEP_INT8 ? 0x1.0204p+121f : 0x1.0203p+112f;
    float largest = 0;
    int bad = 0;
    for (size_t i = 0; i < n; ++i) {
        bad |= !isfinite(x[i]) || (kind == INSTEP_UINT8 && x[i] < 0);
        largest = fmaxf(largest, fabsf(x[i]));
    }
    memset(code, 0, n);
    if (bad || largest == 0) return bad ? NAN : 0;
    largest = fmaxf(largest, 0x1p-100f);
    for (size_t i = 0; i < n; ++i)
        if (kind == INSTEP_INT8) code[i] = (char)signed_by(x[i], largest, r[i]);
        else code[i] = (char)squared_by(x[i], largest, r[i]);
    return fminf(reduced(largest / parts), most);
}

static inline void encode_all(instep_dtype kind, char *code, float *scale, const float *x,
                              const uint32_t *r, size_t n)
{
    for (size_t i = 0; i < n && kind == INSTEP_BFLOAT16; ++i) {
        const uint16_t bits = bfloat_by(x[i], r[i]);
        memcpy(code + 2 * i, &bits, 2);
    }
    for (size_t i = 0; i < n && kind != INSTEP_BFLOAT16; i += BLOCK)
        scale[i / BLOCK] =
            encode_block(kind, code + i, x + i, r + i, n - i < BLOCK ? n - i : BLOCK);
}

static inline float decode_one(instep_dtype kind, const char *code, const float *scale, int i)
{
    uint16_t bits;
    if (kind == INSTEP_INT8) return (float)(int8_t)code[i] * scale[i / BLOCK];
    if (kind == INSTEP_UINT8)
        return (float)((uint8_t)code[i] * (uint8_t)code[i]) * scale[i / BLOCK];
    memcpy(&bits, code + 2 * i, sizeof bits);
    return float_of_bits((uint32_t)bits << 16);
}

static inline int same_floats(const float *a, const float *b, int n)
{
    int ok = 1;
    for (int i = 0; i < n; ++i)
        ok &= same((const char *)&a[i], (const char *)&b[i], INSTEP_FLOAT32);
    return ok;
}

/* Numbers of all sizes; second moments are not below 0. */
static inline float number(instep_dtype kind, int i, int which)
{
    const uint64_t bits = next_of((uint64_t)i * 64 + (uint64_t)which);
    const float size = ldexpf(1 + (float)(bits >> 48) * 0x1p-16f, (int)(bits % 40) - 30);
    if (bits >> 8 & 15) return kind == INSTEP_UINT8 || bits & 16 ? size : -size;
    return 0;
}

#endif
