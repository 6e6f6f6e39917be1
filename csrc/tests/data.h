/* data.h: what the arrays of the losses' tests hold, and how results are compared. */
#ifndef INSTEP_TESTS_DATA_H
#define INSTEP_TESTS_DATA_H

#include "arena.h"

/* Sets of numbers, exact in every float type: multiples of 1/8 in [-4, 4) or (-8, 0], of 1/64 in
 * [0, 1]; whole numbers; +-1. */
typedef enum { EIGHTHS, LOGARITHMS, UNIT, COUNTS, BITS, TRITS, SIGNS } domain;

/* The `i`-th number of an array; `which` tells arrays apart. */
static inline double number_in(domain set, intptr_t i, int which)
{
    const uint32_t mixed = ((uint32_t)i + 1) * 2654435761u + (uint32_t)which * 40503u;
    const double sixty_fourth = (double)(mixed >> 26);
    switch (set) {
    case EIGHTHS: return (sixty_fourth - 32) / 8;
    case LOGARITHMS: return -sixty_fourth / 8;
    case UNIT: return (sixty_fourth + (double)(mixed >> 25 & 1)) / 64;
    case COUNTS: return mixed >> 29;
    case BITS: return mixed >> 31;
    case TRITS: return (mixed >> 28) % 3;
    default: return mixed >> 31 ? 1 : -1;
    }
}

/* The number that an element of type `dtype` holds instead: unsigned, whole. */
static inline double held(instep_dtype dtype, double value)
{
    if (dtype < INSTEP_INT8) return value;
    return trunc(dtype >= INSTEP_UINT8 ? fabs(value) : value) + 0.0;
}

static inline void fill(const arena *a, domain set, int which)
{
    const instep_dtype dtype = a->array.dtype;
    for (intptr_t row = 0; row < a->shape[0]; ++row)
        for (intptr_t column = 0; column < a->shape[1]; ++column) {
            const double value = number_in(set, row * a->shape[1] + column, which);
            put(arena_at(a, row, column), dtype, held(dtype, value));
        }
}

/* Is an array whose elements do not share bytes as `fill` left it? */
static inline int unchanged(const arena *a, domain set, int which)
{
    const instep_dtype dtype = a->array.dtype;
    char wanted[sizeof(long double)];
    int ok = 1;
    for (intptr_t row = 0; row < a->shape[0]; ++row)
        for (intptr_t column = 0; column < a->shape[1]; ++column) {
            const double value = number_in(set, row * a->shape[1] + column, which);
            put(wanted, dtype, held(dtype, value));
            ok &= equal_bytes(arena_at(a, row, column), wanted, size_of(dtype));
        }
    return ok;
}

/* The type that losses of predictions of type `dtype` are computed in. */
static inline instep_dtype compute_type(instep_dtype dtype)
{
    return dtype == INSTEP_FLOAT64 ? INSTEP_FLOAT64 : INSTEP_FLOAT32;
}

/* Is `is`, computed in type `dtype`, `wanted` up to rounding? `scale`: the largest term. */
static inline int near(double is, long double wanted, long double scale, instep_dtype dtype)
{
    const long double tolerance = dtype == INSTEP_FLOAT32 ? 1e-6L : 1e-14L;
    const long double most = tolerance * (scale + fabsl(wanted));
    return fabsl((long double)is - wanted) <= most;
}

/* Does the element at `at` hold `result`, rounded once to its type? */
static inline int holds(const char *at, instep_dtype dtype, double result)
{
    char wanted[sizeof(long double)];
    put(wanted, dtype, result);
    return same(at, wanted, dtype);
}

static inline int same_double(double a, double b)
{
    return same((const char *)&a, (const char *)&b, INSTEP_FLOAT64);
}

/* A hash of numbers by their bits; NaN counts as NaN. */
static inline uint64_t mix(uint64_t hash, double value)
{
    uint64_t bits = 1;
    if (value == value) memcpy(&bits, &value, sizeof bits);
    hash = (hash ^ bits) * UINT64_C(0x9e3779b97f4a7c15);
    return hash ^ hash >> 32;
}

static inline int loss_named(const char *name)
{
    for (int loss = 0; loss < instep_loss_count(); ++loss)
        if (strcmp(instep_loss_name(loss), name) == 0) return loss;
    check(0, "there is a loss %s", name);
    exit(1);
}

static inline void *get_memory(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size);
    if (memory == NULL) exit(1);
    return memory;
}

#endif
