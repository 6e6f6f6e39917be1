/* vmath.h: exp, log, log1p, tanh that vectorize and are the same bits on every instruction set.
 *
 * IEEE arithmetic, selects and bit operations only; no table, no branch, no libm. Included once
 * per REAL. Largest error in ulp over every float32 / over samples of float64 (no proof):
 *     vexp 0.98 / 0.96   vlog 0.84 / 0.87   vlog1p 0.88 / 0.90   vexpm1 0.93 / 1.10   vtanh 2.5
 * / 2.6 csrc/tests/test_vmath.c asserts 1 ulp for the first three, 1.25 and 3 for the others.
 *
 *     exp(x) = 2^n * (1 + r + r^2 q(r)),   n = round(x / ln 2),  r = x - n ln 2
 *     log(x) = k ln 2 + log(1 + f),        x = 2^k (1 + f),  1 + f in [sqrt(1/2), sqrt(2))
 *     log(1 + f) = f - (f^2/2 - s (f^2/2 + R(s^2))),   s = f / (2 + f)
 *
 * ln 2 is split in two (Cody and Waite 1980) so that n * LN2_HIGH is exact; the form of log(1 + f)
 * is that of fdlibm. q and R are our own minimax fits (Remez exchange at 200 bits); with the
 * coefficients as rounded below, the relative error they leave in the result is at most 2^-28
 * (float32) and 2^-60 (float64) for exp, 2^-30 and 2^-58 for log. */
#undef LOG2_E
#undef LN2_HIGH
#undef LN2_LOW
#undef ROUNDER
#undef MANTISSA
#undef BIAS
#undef EXP_OVERFLOW
#undef EXP_UNDERFLOW
#undef EXP_NORMAL
#undef EXPM1_FLAT
#undef ONE
#undef ROOT_HALF
#if REAL_BITS == 32
#define LOG2_E 0x1.715476p+0f
#define LN2_HIGH 0x1.62e4p-1f /* 15 bits: its product with any n is exact */
#define LN2_LOW 0x1.7f7d1cp-20f
#define ROUNDER 0x1.8p23f /* adding it rounds to an integer and leaves that in the low bits */
#define MANTISSA 23
#define BIAS 127u
#define EXP_OVERFLOW 89.0f
#define EXP_UNDERFLOW (-104.0f)
#define EXP_NORMAL (-87.0f)
#define EXPM1_FLAT (-20.0f) /* exp(x) - 1 rounds to -1 */
#define ROOT_HALF 0x3f3504f3u
#else
#define LOG2_E 0x1.71547652b82fep+0
#define LN2_HIGH 0x1.62e42feep-1 /* 32 bits */
#define LN2_LOW 0x1.a39ef35793c76p-33
#define ROUNDER 0x1.8p52
#define MANTISSA 52
#define BIAS UINT64_C(1023)
#define EXP_OVERFLOW 710.0
#define EXP_UNDERFLOW (-746.0)
#define EXP_NORMAL (-708.0)
#define EXPM1_FLAT (-40.0)
#define ROOT_HALF UINT64_C(0x3fe6a09e667f3bcd)
#endif
#define ONE (BIAS << MANTISSA)

static inline UINT FN(bits_of)(REAL value)
{
    UINT bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline REAL FN(of_bits)(UINT bits)
{
    REAL value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2 */
static inline REAL FN(exp_tail)(REAL r)
{
#if REAL_BITS == 32
    REAL q = 0x1.6a23c8p-10f;
    q = q * r + 0x1.123a20p-7f;
    q = q * r + 0x1.5558f4p-5f;
    q = q * r + 0x1.555492p-3f;
    return q * r + 0x1.fffffcp-2f;
#else
    REAL q = 0x1.1e3cda596a16ap-29;
    q = q * r + 0x1.af6c19e7f5d72p-26;
    q = q * r + 0x1.27e5b4ad6cee9p-22;
    q = q * r + 0x1.71ddf004c6d4fp-19;
    q = q * r + 0x1.a01a013643754p-16;
    q = q * r + 0x1.a01a01b389281p-13;
    q = q * r + 0x1.6c16c16c305f8p-10;
    q = q * r + 0x1.111111110ec42p-7;
    q = q * r + 0x1.5555555555503p-5;
    q = q * r + 0x1.555555555555bp-3;
    return q * r + 0x1.0p-1;
#endif
}

/* z * R(z), where log((1 + s) / (1 - s)) = 2 s + s z R(z), z = s^2, |s| <= 1/3 */
static inline REAL FN(log_tail)(REAL z)
{
#if REAL_BITS == 32
    REAL q = 0x1.f1733ap-3f;
    q = q * z + 0x1.b6e6cep-3f;
    q = q * z + 0x1.2508b0p-2f;
    q = q * z + 0x1.9996b0p-2f;
    q = q * z + 0x1.555558p-1f;
#else
    REAL q = 0x1.5c5c1d20136dbp-3;
    q = q * z + 0x1.55cf5eb72d5edp-4;
    q = q * z + 0x1.efd18bd021ffbp-4;
    q = q * z + 0x1.10682eefb5a9dp-3;
    q = q * z + 0x1.3b1dd3ab0888ep-3;
    q = q * z + 0x1.745cb459c712fp-3;
    q = q * z + 0x1.c71c741a05e73p-3;
    q = q * z + 0x1.2492492091140p-2;
    q = q * z + 0x1.99999999a06c1p-2;
    q = q * z + 0x1.5555555555535p-1;
#endif
    return q * z;
}

/* log((1 + s) / (1 - s)) for |s| <= 1/3: with s = x / (2 + x), log(1 + x) for -1/2 <= x <= 1. */
static inline REAL FN(vlog_ratio)(REAL s) { return 2 * s + s * FN(log_tail)(s * s); }

/* 2^n, where the low bits of `rounded` = ROUNDER + n hold n. */
static inline REAL FN(power_of_two)(REAL rounded)
{
    return FN(of_bits)((FN(bits_of)(rounded) + BIAS) << MANTISSA);
}

/* The next two take moved = the bits of a normal x + (ONE - ROOT_HALF); x = 2^k (1 + f). */

/* k, without an integer conversion: the exponent goes into 2^MANTISSA's low bits. */
static inline REAL FN(exponent_of)(UINT moved)
{
    const REAL base = FN(of_bits)((BIAS + MANTISSA) << MANTISSA);
    return FN(of_bits)(FN(bits_of)(base) | moved >> MANTISSA) - base - (REAL)BIAS;
}

static inline REAL FN(mantissa_of)(UINT moved) /* f */
{
    return FN(of_bits)((moved & (((UINT)1 << MANTISSA) - 1)) + ROOT_HALF) - 1;
}

/* exp(r) - 1 for the r = x - n ln 2 that is left of x. */
static inline REAL FN(exp_rest)(REAL x, REAL n)
{
    const REAL r = (x - n * LN2_HIGH) - n * LN2_LOW;
    return r + r * r * FN(exp_tail)(r);
}

/* exp(x): NaN for NaN, inf above the range, subnormals and 0 below. */
static inline REAL FN(vexp)(REAL x)
{
    x = x > EXP_OVERFLOW ? EXP_OVERFLOW : x;
    x = x < EXP_UNDERFLOW ? EXP_UNDERFLOW : x;
    const REAL n = (x * LOG2_E + ROUNDER) - ROUNDER;
    /* 2^n in two factors: each is normal, so the last product alone rounds subnormals. */
    const REAL half = n * (REAL)0.5 + ROUNDER;
    const REAL rest = (n - (half - ROUNDER)) + ROUNDER;
    const REAL value = 1 + FN(exp_rest)(x, n);
    return value * FN(power_of_two)(half) * FN(power_of_two)(rest);
}

/* exp(x) for x <= 0, 0 where the result would be subnormal; NaN for NaN. Takes two thirds of vexp's
 * time. */
static inline REAL FN(vexp_negative)(REAL x)
{
    const REAL rounded = x * LOG2_E + (ROUNDER + (REAL)BIAS), n = rounded - (ROUNDER + (REAL)BIAS);
    const REAL power = FN(of_bits)(FN(bits_of)(rounded) << MANTISSA); /* 2^n, bias and all */
    const REAL value = (1 + FN(exp_rest)(x, n)) * power;
    return x < EXP_NORMAL ? 0 : value;
}

/* exp(x) - 1 for x <= 0; NaN for NaN. */
static inline REAL FN(vexpm1)(REAL x)
{
    x = x < EXPM1_FLAT ? EXPM1_FLAT : x;
    const REAL rounded = x * LOG2_E + ROUNDER, n = rounded - ROUNDER;
    const REAL power = FN(power_of_two)(rounded);
    return power * FN(exp_rest)(x, n) + (power - 1);
}

/* -|x| */
static inline REAL FN(minus_size)(REAL x)
{
    return FN(of_bits)(FN(bits_of)(x) | (UINT)1 << (REAL_BITS - 1));
}

/* value with its sign changed where x is negative. */
static inline REAL FN(signed_as)(REAL value, REAL x)
{
    return FN(of_bits)(FN(bits_of)(value) ^ (FN(bits_of)(x) & (UINT)1 << (REAL_BITS - 1)));
}

/* tanh(x) = -m / (2 + m), m = exp(-2 |x|) - 1, with the sign of x; NaN for NaN. */
static inline REAL FN(vtanh)(REAL x)
{
    const REAL m = FN(vexpm1)(2 * FN(minus_size)(x));
    return FN(signed_as)((0 - m) / (2 + m), x); /* not -m, which is -0 for 0 */
}

/* k ln 2 + log(1 + f) + correction */
static inline REAL FN(log_sum)(REAL k, REAL f, REAL correction)
{
    const REAL s = f / (2 + f), half_square = (REAL)0.5 * f * f;
    const REAL tail = s * (half_square + FN(log_tail)(s * s));
    return k * LN2_HIGH - ((half_square - (tail + (k * LN2_LOW + correction))) - f);
}

/* log(x): NaN for NaN and x < 0, -inf for 0, inf for inf. */
static inline REAL FN(vlog)(REAL x)
{
    const REAL smallest = FN(of_bits)((UINT)1 << MANTISSA);
    const REAL shift = REAL_BITS == 32 ? (REAL)0x1p24 : (REAL)0x1p53;
    const int subnormal = x < smallest;
    const UINT moved = FN(bits_of)(subnormal ? x * shift : x) + (ONE - ROOT_HALF);
    const REAL k = FN(exponent_of)(moved) - (subnormal ? (REAL)(MANTISSA + 1) : 0);
    REAL value = FN(log_sum)(k, FN(mantissa_of)(moved), 0);
    value = x == 0 ? -(REAL)INFINITY : value;
    value = x < 0 ? (REAL)NAN : value;
    return x < (REAL)INFINITY ? value : x; /* inf and NaN */
}

/* log(1 + x): NaN for NaN and x < -1, -inf for -1, inf for inf. What 1 + x loses by rounding, c,
 * adds c / (1 + x), for which one digit of the quotient is enough. */
static inline REAL FN(vlog1p)(REAL x)
{
    const REAL u = 1 + x;
    const UINT moved = FN(bits_of)(u) + (ONE - ROOT_HALF);
    const REAL k = FN(exponent_of)(moved), f = FN(mantissa_of)(moved);
    const REAL lost = x >= 1 ? 1 - (u - x) : x - (u - 1);
    const UINT most = 2 * BIAS, exponent = moved >> MANTISSA;
    const REAL shrink = FN(of_bits)((exponent < most ? most - exponent : 0) << MANTISSA); /* 2^-k */
    const REAL correction = lost * shrink * (1 - f + f * f);
    const int near = k == 0;
    REAL value = FN(log_sum)(k, near ? x : f, near ? 0 : correction);
    value = x == -1 ? -(REAL)INFINITY : value;
    value = x < -1 ? (REAL)NAN : value;
    return x < (REAL)INFINITY ? value : x; /* inf and NaN */
}
