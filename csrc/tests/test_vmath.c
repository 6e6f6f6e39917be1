/* test_vmath.c: the error of vexp and vlog, over every float32 and over samples of float64.
 *
 * Usage: test_vmath [threads]. Prints a line per check and a hash of all float32 results, which
 * must be the same at every instruction-set level; exits 1 if a bound is broken. */
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

typedef struct {
    uint64_t first, last; /* bit patterns [first, last) */
    double exp_error, log_error;
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

/* Outside (2^-27, 104) in size the reference is known without calling it. */
static double exact_exp(float x)
{
    if (isnan(x)) return x;
    if (x > 104) return INFINITY;
    if (x < -104) return 0;
    return fabsf(x) < 0x1p-27f ? 1 + (double)x : exp((double)x);
}

static double exact_log(float x)
{
    if (isnan(x) || x < 0) return NAN;
    return log((double)x);
}

static void *check_part(void *context)
{
    static const uint64_t prime = UINT64_C(1099511628211);
    part *work = context;
    float *memory = malloc(3 * CHUNK * sizeof *memory);
    float *x = memory, *e = memory + CHUNK, *l = memory + 2 * CHUNK;
    if (memory == NULL) exit(2);
    work->hash = UINT64_C(14695981039346656037);
    for (uint64_t start = work->first; start < work->last; start += CHUNK) {
        for (size_t i = 0; i < CHUNK; ++i) x[i] = of_bits_f32((uint32_t)(start + i));
        for (size_t i = 0; i < CHUNK; ++i) e[i] = vexp_f32(x[i]);
        for (size_t i = 0; i < CHUNK; ++i) l[i] = vlog_f32(x[i]);
        for (size_t i = 0; i < CHUNK; ++i) {
            const double exp_error = error_in_ulp(e[i], exact_exp(x[i]));
            const double log_error = error_in_ulp(l[i], exact_log(x[i]));
            if (exp_error > work->exp_error) work->exp_error = exp_error;
            if (log_error > work->log_error) work->log_error = log_error;
            work->hash = (work->hash ^ (isnan(e[i]) ? 1 : bits_of_f32(e[i]))) * prime;
            work->hash = (work->hash ^ (isnan(l[i]) ? 1 : bits_of_f32(l[i]))) * prime;
        }
    }
    free(memory);
    return NULL;
}

static int failures;

static void expect(const char *what, double error, double bound)
{
    printf("%-44s %.4f (bound %.1f) %s\n", what, error, bound, error <= bound ? "ok" : "FAILED");
    if (!(error <= bound)) ++failures;
}

static void check_every_float32(int threads)
{
    pthread_t thread[MOST_THREADS];
    part parts[MOST_THREADS];
    const uint64_t share = (UINT64_C(1) << 32) / CHUNK / 256 * CHUNK; /* 256 equal parts */
    double exp_error = 0, log_error = 0;
    uint64_t hash = 0;
    for (uint64_t first = 0; first < 256; first += (uint64_t)threads) {
        int running = 0;
        for (; running < threads && first + (uint64_t)running < 256; ++running) {
            const uint64_t k = first + (uint64_t)running;
            parts[running] = (part){.first = k * share, .last = (k + 1) * share};
            if (pthread_create(&thread[running], NULL, check_part, &parts[running])) exit(2);
        }
        for (int k = 0; k < running; ++k) {
            pthread_join(thread[k], NULL);
            if (parts[k].exp_error > exp_error) exp_error = parts[k].exp_error;
            if (parts[k].log_error > log_error) log_error = parts[k].log_error;
            hash = hash * 31 + parts[k].hash; /* in order: the same for any thread count */
        }
    }
    expect("exp, every float32, ulp", exp_error, 1.0);
    expect("log, every float32, ulp", log_error, 1.0);
    printf("hash of all float32 results %016llx\n", (unsigned long long)hash);
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
    double exp_error = 0, log_error = 0;
    for (int i = 0; i < SAMPLES; ++i) {
        const double unit = (double)(random_bits(&state) >> 11) * 0x1p-53;
        /* The last of each list is where a longer search found the largest errors. */
        const double worst = (i / 6 % 41 - 20) * 0.6931471805599453 - (0.286 + 0.0606 * unit);
        const double x[] = {1492 * unit - 746, 2 * unit - 1,     80 * unit - 40,
                            709 + unit,        -708 - 38 * unit, worst};
        double error = error_in_ulp_f64(vexp_f64(x[i % 6]), expl(x[i % 6]));
        if (error > exp_error) exp_error = error;
        const double normal = of_bits_f64(random_bits(&state) % UINT64_C(0x7ff0000000000000));
        const double subnormal = of_bits_f64((random_bits(&state) >> (12 + i / 6 % 52)) | 1);
        const double y[] = {
            normal,    0.5 + unit,        1 + (unit - 0.5) * 1e-3, 1 + (unit - 0.5) * 1e-9,
            subnormal, 0.69 + 0.02 * unit};
        error = error_in_ulp_f64(vlog_f64(y[i % 6]), logl(y[i % 6]));
        if (error > log_error) log_error = error;
    }
    expect("exp, float64 samples, ulp", exp_error, 1.0);
    expect("log, float64 samples, ulp", log_error, 1.0);
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
}

int main(int count, char **arguments)
{
    const int threads = count > 1 ? atoi(arguments[1]) : 2;
    if (threads < 1 || threads > MOST_THREADS) return 2;
    check_special_values();
    check_float64();
    check_every_float32(threads);
    return failures > 0;
}
