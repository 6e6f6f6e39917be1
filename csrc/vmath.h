/* vmath.h: exp and log that vectorize and are the same bits on every instruction set.
 *
 * IEEE arithmetic, selects and bit operations only; no table, no branch, no libm. Included once
 * per REAL. Error: vexp 0.98 and vlog 0.84 ulp over every float32; 0.96 and 0.87 ulp over
 * 900 million float64 drawn where the error is large: samples, not a proof.
 * csrc/tests/test_vmath.c asserts 1 ulp for all, over every float32 and 8 million float64.
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
#if REAL_BITS == 32
#define LOG2_E 0x1.715476p+0f
#define LN2_HIGH 0x1.62e4p-1f /* 15 bits: its product with any n is exact */
#define LN2_LOW 0x1.7f7d1cp-20f
#define ROUNDER 0x1.8p23f /* adding it rounds to an integer and leaves that in the low bits */
#define MANTISSA 23
#define BIAS 127u
#define EXP_OVERFLOW 89.0f
#define EXP_UNDERFLOW (-104.0f)
#else
#define LOG2_E 0x1.71547652b82fep+0
#define LN2_HIGH 0x1.62e42feep-1 /* 32 bits */
#define LN2_LOW 0x1.a39ef35793c76p-33
#define ROUNDER 0x1.8p52
#define MANTISSA 52
#define BIAS UINT64_C(1023)
#define EXP_OVERFLOW 710.0
#define EXP_UNDERFLOW (-746.0)
#endif

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

/* z * R(z), where log((1 + s) / (1 - s)) = 2 s + s z R(z), z = s^2, |f| within the range above */
static inline REAL FN(log_tail)(REAL z)
{
#if REAL_BITS == 32
    REAL q = 0x1.ddd2eep-3f;
    q = q * z + 0x1.245b12p-2f;
    q = q * z + 0x1.9999f4p-2f;
    q = q * z + 0x1.555554p-1f;
#else
    REAL q = 0x1.2f59344bb061cp-3;
    q = q * z + 0x1.399c613190f2dp-3;
    q = q * z + 0x1.74664f2799779p-3;
    q = q * z + 0x1.c71c529dde8e5p-3;
    q = q * z + 0x1.2492493fd0d45p-2;
    q = q * z + 0x1.99999999845d8p-2;
    q = q * z + 0x1.555555555557cp-1;
#endif
    return q * z;
}

/* 2^n, where the low bits of `rounded` = ROUNDER + n hold n. */
static inline REAL FN(power_of_two)(REAL rounded)
{
    return FN(of_bits)((FN(bits_of)(rounded) + BIAS) << MANTISSA);
}

/* exp(x): NaN for NaN, inf above the range, subnormals and 0 below. */
static inline REAL FN(vexp)(REAL x)
{
    x = x > EXP_OVERFLOW ? EXP_OVERFLOW : x;
    x = x < EXP_UNDERFLOW ? EXP_UNDERFLOW : x;
    const REAL n = (x * LOG2_E + ROUNDER) - ROUNDER;
    const REAL r = (x - n * LN2_HIGH) - n * LN2_LOW;
    /* 2^n in two factors: each is normal, so the last product alone rounds subnormals. */
    const REAL half = n * (REAL)0.5 + ROUNDER;
    const REAL rest = (n - (half - ROUNDER)) + ROUNDER;
    const REAL value = 1 + (r + r * r * FN(exp_tail)(r));
    return value * FN(power_of_two)(half) * FN(power_of_two)(rest);
}

/* log(x): NaN for NaN and x < 0, -inf for 0, inf for inf. */
static inline REAL FN(vlog)(REAL x)
{
    const UINT root_half = REAL_BITS == 32 ? (UINT)0x3f3504f3u : (UINT)0x3fe6a09e667f3bcdu;
    const UINT one = (UINT)(BIAS << MANTISSA);
    const REAL smallest = FN(of_bits)((UINT)1 << MANTISSA);
    const REAL shift = REAL_BITS == 32 ? (REAL)0x1p24 : (REAL)0x1p53;
    const int subnormal = x < smallest;
    const REAL normal = subnormal ? x * shift : x;
    const UINT moved = FN(bits_of)(normal) + (one - root_half);
    /* The exponent as a REAL without an integer conversion: put it into 2^MANTISSA's low bits. */
    const REAL base = FN(of_bits)((BIAS + MANTISSA) << MANTISSA);
    const REAL exponent = FN(of_bits)(FN(bits_of)(base) | moved >> MANTISSA) - base;
    const REAL k = exponent - (REAL)BIAS - (subnormal ? (REAL)(MANTISSA + 1) : 0);
    const REAL f = FN(of_bits)((moved & (((UINT)1 << MANTISSA) - 1)) + root_half) - 1;
    const REAL s = f / (2 + f), half_square = (REAL)0.5 * f * f;
    const REAL tail = s * (half_square + FN(log_tail)(s * s));
    REAL value = k * LN2_HIGH - ((half_square - (tail + k * LN2_LOW)) - f);
    value = x == 0 ? -(REAL)INFINITY : value;
    value = x < 0 ? (REAL)NAN : value;
    return x < (REAL)INFINITY ? value : x; /* inf and NaN */
}
