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
void instep_powers(const double base[2], int64_t exponent, double power[2])
{
    pair result[2] = {{1, 0}, {1, 0}}, square[2] = {{base[0], 0}, {base[1], 0}};
    for (uint64_t left = (uint64_t)exponent; left > 0; left >>= 1) {
        for (int k = 0; k < 2; ++k) {
            if (left & 1) result[k] = multiply(result[k], square[k]);
            square[k] = multiply(square[k], square[k]);
        }
    }
    for (int k = 0; k < 2; ++k) power[k] = result[k].high + result[k].low;
}
