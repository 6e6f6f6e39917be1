/* test_vmath.c: the error of vexp, vlog, vlog1p, vexpm1, vtanh and
 * vexp_negative, over every float32 and over samples of float64. With VMATH_EVERY=16 in the
 * environment, over one block of float32 in 16.
 *
 * Usage: test_vmath [threads]. Prints a line per check and a hash of all float32 results, which
 * must be the same at every instruction-set level; exits 1 if a bound is broken.
 *
 *        test_vmath hash [threads]. Leaves out the errors of the float32 results: where the hash is
 * that of a level whose errors are known, so are they.
 *
 *        test_vmath sample. Checks the special values and prints a hash of a sample of both types:
 * for emulators, on which the whole takes hours. */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REAL_BITS 64
#include "../real.h"
#include "../vmath.h"
#undef REAL_BITS
#define REAL_BITS 32
#include "../real.h"
#include "../vmath.h"

enum { CHUNK = 1 << 16, MOST_THREADS = 64, SAMPLES = 8000000 };
enum { SAMPLE_CHUNKS = 128, SAMPLE_STEP = 509 /* prime: the low bits vary, too */ };
enum { EXP, LOG, LOG1P, EXPM1, TANH, EXP_NEGATIVE, FUNCTIONS };

static const char *const name[FUNCTIONS] = {"exp",  "log",         "log1p", "expm1 of x <= 0",
                                            "tanh", "exp_negative"};
static const double bound[FUNCTIONS] = {1, 1, 1, 1.25, 3, 1};

typedef struct {
    uint64_t first, last; /* bit patterns [first, last) */
    double error[FUNCTIONS];
    uint64_t hash;
} part;

/* Error in units of the last place of the float next to `exact`; huge where kinds differ. */
static double error_in_ulp(float value, double exact)
{
    const float near = (float)exact;
    if (isnan(exact) || isnan(value)) return isnan(exact) && isnan(value) ? 0 : 1e9;
    if (isinf(near) || isinf(value)) return near == value ? 0 : 1e9;
    const float size = fabsf(near);
    const uint32_t bits = bits_of_f32(size);
    const double ulp = (double)of_bits_f32(bits + 1) - (double)size;
    return fabs((double)value - exact) / (isinf(ulp) ? (double)0x1p104 : ulp);
}

static double error_in_ulp_f64(double value, long double exact)
{
    const double near = (double)exact;
    if (isnan(exact) || isnan(value)) return isnan(exact) && isnan(value) ? 0 : 1e9;
    if (isinf(near) || isinf(value)) return near == value ? 0 : 1e9;
    const double size = fabs(near);
    const long double ulp = (long double)of_bits_f64(bits_of_f64(size) + 1) - (long double)size;
    return (double)(fabsl((long double)value - exact) / ulp);
}

/* The functions of float64 that the results are compared with; known where calling them is slow. */
static double exact(int function, float x)
{
    const double wide = (double)x;
    if (isnan(x)) return wide;
    switch (function) {
    case EXP:
        if (x > 104) return INFINITY;
        if (x < -104) return 0;
        return fabsf(x) < 0x1p-27f ? 1 + wide : exp(wide);
    case LOG: return x < 0 ? NAN : log(wide);
    case LOG1P:
        if (x < -1) return NAN;
        return fabsf(x) < 0x1p-27f ? wide - wide * wide / 2 : log1p(wide);
    case EXPM1:
        if (x < -104) return -1;
        return fabsf(x) < 0x1p-27f ? wide + wide * wide / 2 : expm1(wide);
    case EXP_NEGATIVE: return x < -87 ? 0 : fabsf(x) < 0x1p-27f ? 1 + wide : exp(wide);
    default:
        if (fabsf(x) > 20) return x > 0 ? 1 : -1;
        return fabsf(x) < 0x1p-27f ? wide : tanh(wide);
    }
}

/* y[i] = function(x[i]); one loop per function, so that each is vectorized as in a kernel. */
static void compute(int function, float *restrict y, const float *restrict x)
{
    switch (function) {
    case EXP:
        for (size_t i = 0; i < CHUNK; ++i) y[i] = vexp_f32(x[i]);
        break;
    case LOG:
        for (size_t i = 0; i < CHUNK; ++i) y[i] = vlog_f32(x[i]);
        break;
    case LOG1P:
        for (size_t i = 0; i < CHUNK; ++i) y[i] = vlog1p_f32(x[i]);
        break;
    case EXPM1:
        for (size_t i = 0; i < CHUNK; ++i) y[i] = vexpm1_f32(x[i]);
        break;
    case EXP_NEGATIVE:
        for (size_t i = 0; i < CHUNK; ++i) y[i] = vexp_negative_f32(x[i]);
        break;
    default:
        for (size_t i = 0; i < CHUNK; ++i) y[i] = vtanh_f32(x[i]);
        break;
    }
}

static int hash_alone;     /* the errors of float32 results are not wanted */
static uint64_t every = 1; /* one chunk in so many is looked at */

static void *check_part(void *context)
{
    static const uint64_t prime = UINT64_C(1099511628211);
    part *work = context;
    float *memory = malloc(2 * CHUNK * sizeof *memory), *x = memory, *y = memory + CHUNK;
    if (memory == NULL) exit(2);
    work->hash = UINT64_C(14695981039346656037);
    for (uint64_t start = work->first; start < work->last; start += every * CHUNK) {
        for (size_t i = 0; i < CHUNK; ++i) x[i] = of_bits_f32((uint32_t)(start + i));
        for (int k = 0; k < FUNCTIONS; ++k) {
            if ((k == EXPM1 || k == EXP_NEGATIVE) && x[0] >= 0) continue; /* a chunk has one sign */
            compute(k, y, x);
            for (size_t i = 0; i < CHUNK; ++i)
                work->hash = (work->hash ^ (isnan(y[i]) ? 1 : bits_of_f32(y[i]))) * prime;
            for (size_t i = 0; i < CHUNK && !hash_alone; ++i) {
                const double error = error_in_ulp(y[i], exact(k, x[i]));
                if (error > work->error[k]) work->error[k] = error;
            }
        }
    }
    free(memory);
    return NULL;
}

static int failures;

static void expect(const char *what, double error, double most)
{
    printf("%-44s %.4f (bound %.2f) %s\n", what, error, most, error <= most ? "ok" : "FAILED");
    if (!(error <= most)) ++failures;
}

static void expect_bounds(const char *where, const double error[FUNCTIONS])
{
    char what[80];
    for (int k = 0; k < FUNCTIONS; ++k) {
        snprintf(what, sizeof what, "%s, %s, ulp", name[k], where);
        expect(what, error[k], bound[k]);
    }
}

static void raise_to(double *error, double found)
{
    if (found > *error) *error = found;
}

static void check_every_float32(int threads)
{
    pthread_t thread[MOST_THREADS];
    part parts[MOST_THREADS];
    const uint64_t share = (UINT64_C(1) << 32) / CHUNK / 256 * CHUNK; /* 256 equal parts */
    double error[FUNCTIONS] = {0};
    uint64_t hash = 0;
    for (uint64_t first = 0; first < 256; first += (uint64_t)threads) {
        int running = 0;
        for (; running < threads && first + (uint64_t)running < 256; ++running) {
            const uint64_t k = first + (uint64_t)running;
            /* another of the chunks in each part, so that all mantissas have their turn */
            const uint64_t first_chunk = k * share + k % every * CHUNK;
            parts[running] = (part){.first = first_chunk, .last = (k + 1) * share};
            if (pthread_create(&thread[running], NULL, check_part, &parts[running])) exit(2);
        }
        for (int k = 0; k < running; ++k) {
            pthread_join(thread[k], NULL);
            for (int f = 0; f < FUNCTIONS; ++f) raise_to(&error[f], parts[k].error[f]);
            hash = hash * 31 + parts[k].hash; /* in order: the same for any thread count */
        }
    }
    if (!hash_alone) expect_bounds(every == 1 ? "every float32" : "float32, some blocks", error);
    printf("hash of %s float32 results %016llx\n", every == 1 ? "all" : "some",
           (unsigned long long)hash);
}

static uint64_t random_bits(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static void check_float64(void)
{
    uint64_t state = 1;
    double found[FUNCTIONS] = {0};
    for (int i = 0; i < SAMPLES; ++i) {
        const double unit = (double)(random_bits(&state) >> 11) * 0x1p-53;
        const double tiny = unit * of_bits_f64((uint64_t)(1023 - i / 6 % 64) << 52);
        /* The last of the first two lists is where a longer search found the largest errors. */
        const double worst = (i / 6 % 41 - 20) * 0.6931471805599453 - (0.286 + 0.0606 * unit);
        const double x[] = {1492 * unit - 746, 2 * unit - 1,     80 * unit - 40,
                            709 + unit,        -708 - 38 * unit, worst};
        const double normal = of_bits_f64(random_bits(&state) % UINT64_C(0x7ff0000000000000));
        const double subnormal = of_bits_f64((random_bits(&state) >> (12 + i / 6 % 52)) | 1);
        const double y[] = {
            normal,    0.5 + unit,        1 + (unit - 0.5) * 1e-3, 1 + (unit - 0.5) * 1e-9,
            subnormal, 0.69 + 0.02 * unit};
        const double z[] = {tiny, -tiny, 3 * unit, -unit, normal, 0.41 + 0.02 * unit};
        const double w[] = {tiny, 20 * unit, 2 * unit, unit, subnormal, 0.1 + 0.5 * unit};
        const double at = x[i % 6], positive = y[i % 6], above = z[i % 6], size = w[i % 6];
        raise_to(&found[EXP], error_in_ulp_f64(vexp_f64(at), expl(at)));
        raise_to(&found[LOG], error_in_ulp_f64(vlog_f64(positive), logl(positive)));
        raise_to(&found[LOG1P], error_in_ulp_f64(vlog1p_f64(above), log1pl(above)));
        raise_to(&found[EXPM1], error_in_ulp_f64(vexpm1_f64(-size), expm1l(-size)));
        const double below = -708 * unit;
        raise_to(&found[EXP_NEGATIVE], error_in_ulp_f64(vexp_negative_f64(below), expl(below)));
        raise_to(&found[TANH], error_in_ulp_f64(vtanh_f64(-size), tanhl(-size)));
    }
    expect_bounds("float64 samples", found);
}

/* SAMPLE_STEP * i for all i reaches every exponent of both signs. */
static uint64_t hash_float32_sample(uint64_t hash)
{
    static float x[CHUNK], y[CHUNK];
    for (uint32_t chunk = 0; chunk < SAMPLE_CHUNKS; ++chunk)
        for (int k = 0; k < FUNCTIONS; ++k) {
            for (uint32_t i = 0; i < CHUNK; ++i) {
                const float value = of_bits_f32((chunk * CHUNK + i) * SAMPLE_STEP);
                x[i] = k == EXPM1 || k == EXP_NEGATIVE ? minus_size_f32(value) : value;
            }
            compute(k, y, x);
            for (size_t i = 0; i < CHUNK; ++i)
                hash = (hash ^ (isnan(y[i]) ? 1 : bits_of_f32(y[i]))) * UINT64_C(1099511628211);
        }
    return hash;
}

/* Numbers of every size and, every other time, between 2^-16 and 2^16. */
static uint64_t hash_float64_sample(uint64_t hash)
{
    static double (*const functions[FUNCTIONS])(double) = {
        vexp_f64, vlog_f64, vlog1p_f64, vexpm1_f64, vtanh_f64, vexp_negative_f64};
    const uint64_t exponents = UINT64_C(31) << 52, lowest = UINT64_C(1007) << 52;
    uint64_t state = 2;
    for (int i = 0; i < CHUNK * 4; ++i) {
        const uint64_t bits = random_bits(&state), low = bits & ((UINT64_C(1) << 52) - 1);
        const uint64_t mild = (bits >> 63 << 63) + lowest + (bits & exponents) + low;
        const double value = of_bits_f64(i % 2 ? bits : mild);
        for (int k = 0; k < FUNCTIONS; ++k) {
            const int below = k == EXPM1 || k == EXP_NEGATIVE;
            const double y = functions[k](below ? minus_size_f64(value) : value);
            hash = (hash ^ (isnan(y) ? 1 : bits_of_f64(y))) * UINT64_C(1099511628211);
        }
    }
    return hash;
}

static void check_special_values(void)
{
    const double inf = (double)INFINITY;
    expect("exp(0) = 1", fabs(vexp_f64(0) - 1) + fabs((double)vexp_f32(0) - 1), 0);
    expect("exp(-0) = 1", fabs(vexp_f64(-0.0) - 1) + fabs((double)vexp_f32(-0.0f) - 1), 0);
    /* The last finite result and the last subnormal, and the float64 beyond each. */
    const double top = 0x1.62e42fefa39efp+9, bottom = -0x1.74910d52d3051p+9;
    expect("exp overflows where it should",
           vexp_f64(top) < inf && vexp_f64(nextafter(top, inf)) == inf ? 0 : 1, 0);
    expect("exp underflows where it should",
           vexp_f64(bottom) == 0x1p-1074 && vexp_f64(nextafter(bottom, -inf)) == 0 ? 0 : 1, 0);
    expect("log(1) = 0", fabs(vlog_f64(1)) + fabs((double)vlog_f32(1)), 0);
    expect("exp(-inf) = 0", vexp_f64(-inf) + (double)vexp_f32(-INFINITY), 0);
    expect("exp(inf) = inf", vexp_f64(inf) == inf && vexp_f32(INFINITY) == INFINITY ? 0 : 1, 0);
    expect("exp(NaN), log(NaN) = NaN", isnan(vexp_f64(NAN)) && isnan(vlog_f64(NAN)) ? 0 : 1, 0);
    expect("log(0), log(-0) = -inf", vlog_f64(0) == -inf && vlog_f64(-0.0) == -inf ? 0 : 1, 0);
    expect("log(inf) = inf", vlog_f64(inf) == inf ? 0 : 1, 0);
    expect("log(-1), log(-inf) = NaN", isnan(vlog_f64(-1)) && isnan(vlog_f64(-inf)) ? 0 : 1, 0);
    expect("log1p(-1) = -inf, log1p(inf) = inf",
           vlog1p_f64(-1) == -inf && vlog1p_f64(inf) == inf ? 0 : 1, 0);
    expect("log1p(-1.5), log1p(NaN) = NaN",
           isnan(vlog1p_f64(-1.5)) && isnan(vlog1p_f64(NAN)) ? 0 : 1, 0);
    expect("expm1(0) = 0, expm1(-inf) = -1", vexpm1_f64(0) == 0 && vexpm1_f64(-inf) == -1 ? 0 : 1,
           0);
    expect("exp_negative(-inf) = 0, of 0 = 1",
           vexp_negative_f64(-inf) == 0 && vexp_negative_f64(0) == 1 ? 0 : 1, 0);
    expect("tanh(inf) = 1, tanh(-inf) = -1", vtanh_f64(inf) == 1 && vtanh_f64(-inf) == -1 ? 0 : 1,
           0);
    expect("tanh(-0) = -0", vtanh_f64(-0.0) == 0 && signbit(vtanh_f64(-0.0)) ? 0 : 1, 0);
    expect("tanh(NaN), expm1(NaN) = NaN", isnan(vtanh_f64(NAN)) && isnan(vexpm1_f64(NAN)) ? 0 : 1,
           0);
}

int main(int count, char **arguments)
{
    if (count > 1 && strcmp(arguments[1], "sample") == 0) {
        const uint64_t narrow = hash_float32_sample(UINT64_C(14695981039346656037));
        check_special_values();
        printf("hash of a sample %016llx\n", (unsigned long long)hash_float64_sample(narrow));
        return failures > 0;
    }
    hash_alone = count > 1 && strcmp(arguments[1], "hash") == 0;
    const int threads = count > 1 + hash_alone ? atoi(arguments[1 + hash_alone]) : 2;
    const char *blocks = getenv("VMATH_EVERY");
    if (blocks != NULL) every = strtoull(blocks, NULL, 10);
    if (threads < 1 || threads > MOST_THREADS || every < 1 || every > 256) return 2;
    check_special_values();
    check_float64();
    check_every_float32(threads);
    return failures > 0;
}
