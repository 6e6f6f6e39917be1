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

double instep_power(double base, int64_t exponent)
{
    pair result = {1, 0}, square = {base, 0};
    for (uint64_t left = (uint64_t)exponent; left > 0; left >>= 1) {
        if (left & 1) result = multiply(result, square);
        if (left > 1) square = multiply(square, square);
    }
    return result.high + result.low;
}
