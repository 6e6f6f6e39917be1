/* power.c: integer powers that are the same on every platform. */
#include "instep.h"

/* An unevaluated sum high + low, about 106 bits. */
typedef struct {
    double high, low;
} pair;

/* a * b exactly, by Dekker's splitting (Numerische Mathematik 18, 1971); no FMA needed. */
static pair product(double a, double b)
{
    const double splitter = 134217729.0; /* 2^27 + 1 */
    const double a_big = splitter * a - (splitter * a - a), a_small = a - a_big;
    const double b_big = splitter * b - (splitter * b - b), b_small = b - b_big;
    const double high = a * b;
    const double low =
        ((a_big * b_big - high) + a_big * b_small + a_small * b_big) + a_small * b_small;
    return (pair){high, low};
}

static pair multiply(pair a, pair b)
{
    const pair exact = product(a.high, b.high);
    const double low = exact.low + (a.high * b.low + a.low * b.high);
    const double high = exact.high + low;
    return (pair){high, low - (high - exact.high)};
}

/* Both in one loop: each is a chain of dependent operations, and two run as fast as one. */
static void raise_to(const double base[2], int64_t exponent, pair result[2])
{
    pair square[2] = {{base[0], 0}, {base[1], 0}};
    result[0] = result[1] = (pair){1, 0};
    for (uint64_t left = (uint64_t)exponent; left > 0; left >>= 1) {
        for (int k = 0; k < 2; ++k) {
            if (left & 1) result[k] = multiply(result[k], square[k]);
            square[k] = multiply(square[k], square[k]);
        }
    }
}

void instep_powers(const double base[2], int64_t exponent, double power[2],
                   instep_power_memory *memory)
{
    instep_power_memory own = {.known = 0};
    instep_power_memory *at = memory != NULL ? memory : &own;
    const int64_t fine = exponent % 64, coarse = exponent - fine;
    if (!at->known || at->exponent != coarse || at->base[0] != base[0] || at->base[1] != base[1]) {
        pair found[2];
        raise_to(base, coarse, found);
        *at = (instep_power_memory){.known = 1, .exponent = coarse};
        for (int k = 0; k < 2; ++k) {
            at->base[k] = base[k];
            at->high[k] = found[k].high;
            at->low[k] = found[k].low;
        }
    }
    pair rest[2];
    raise_to(base, fine, rest);
    for (int k = 0; k < 2; ++k) {
        const pair result = multiply((pair){at->high[k], at->low[k]}, rest[k]);
        power[k] = result.high + result.low;
    }
}
