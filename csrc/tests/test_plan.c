/* test_plan.c: sums of squares, what a plan refuses, its ends, integer powers. */
#include "arena.h"

static const instep_dtype floats[] = {INSTEP_FLOAT32, INSTEP_FLOAT64, INSTEP_FLOAT16,
                                      INSTEP_BFLOAT16, INSTEP_LONGDOUBLE};

/* sgd: gradient_scale, gradient_limit, l2, lr. */
static const double plain_row[INSTEP_MAX_COEFFICIENTS] = {1, INFINITY, 0, 1};

/* ---- sums of squares ------------------------------------------------------------------------ */

static double sum_of(const instep_array *gradient, double scale, int threads)
{
    static double memory; /* the parameter is never touched */
    const intptr_t zero[INSTEP_MAX_DIMS] = {0};
    const instep_array p = {(char *)&memory, gradient->shape, zero, gradient->ndim, INSTEP_FLOAT64};
    instep_plan *plan = instep_plan_create(1);
    if (plan == NULL || instep_plan_set_parameter(plan, 0, &p) != 0 ||
        instep_plan_finish(plan) != 0 || instep_plan_set_gradient(plan, 0, gradient, 1) != 0)
        exit(1);
    const double sum = instep_plan_sum_squares(plan, scale, threads);
    instep_plan_destroy(plan);
    return sum;
}

static void test_exact_sums(void)
{
    arena a;
    int ok = 1;
    arena_open(&a, 1 << 20);
    for (size_t f = 0; f < sizeof floats / sizeof floats[0]; ++f)
        for (layout how = DENSE; how <= CONSTANT; ++how)
            for (int k = 0; k < 81; ++k)
                for (int at_end = 0; at_end < 2; ++at_end) {
                    const intptr_t n = length_of(k), rows = rows_of(n);
                    arena_place(&a, how, floats[f], rows, n / rows, at_end);
                    for (intptr_t i = 0; i < n; ++i)
                        put(arena_at(&a, i / (n / rows), i % (n / rows)), floats[f], -1.5);
                    ok &= sum_of(&a.array, 1, 1) == 2.25 * (double)n;
                    ok &= sum_of(&a.array, -0.5, 2) == 0.5625 * (double)n;
                    ok &= arena_intact(&a);
                }
    check(ok, "a sum of equal squares is exact for every length, layout and type");
}

static double sum_of_two(instep_dtype dtype, double x, double y, double scale)
{
    char pair[2 * sizeof(long double)];
    const intptr_t shape = 2, stride = size_of(dtype);
    const instep_array array = {pair, &shape, &stride, 1, dtype};
    put(pair, dtype, x);
    put(pair + stride, dtype, y);
    return sum_of(&array, scale, 1);
}

static int near(double is, double wanted, double tolerance)
{
    return fabs(is - wanted) <= tolerance * fabs(wanted);
}

static void test_range_of_sums(void)
{
    const instep_dtype f32 = INSTEP_FLOAT32, f64 = INSTEP_FLOAT64;
    check(near(sqrt(sum_of_two(f32, 3e19, 4e19, 1)), 5e19, 1e-7), "|3e19, 4e19| in float32");
    check(near(sqrt(sum_of_two(f32, 3e-30, 4e-30, 1)), 5e-30, 1e-7), "|3e-30, 4e-30| in float32");
    check(near(sqrt(sum_of_two(f32, 3e38, 1e38, 1)), sqrt(10.0) * 1e38, 1e-7), "|3e38, 1e38|");
    check(sum_of_two(f32, 0x1p-149, 0, 1) == 0x1p-298, "the least float32");
    check(sum_of_two(f64, 0x3p600, 0x4p600, 0x1p-600) == 25, "a float64 that the scale tames");
    check(sum_of_two(f64, 0x3p-600, 0x4p-600, 0x1p600) == 25, "a float64 that the scale lifts");
    check(isinf(sum_of_two(f64, 1e200, 0, 1)), "a sum that float64 does not hold");
    check(sum_of_two(f64, 1 + 0x1p-52, 0, 1) == 1 + 0x1p-51, "squares are float64 squares");
    check(isinf(sum_of_two(f32, INFINITY, 1, 1)), "infinity shows");
    check(isnan(sum_of_two(f32, NAN, 1, 1)), "NaN shows");
    check(isnan(sum_of_two(f64, INFINITY, NAN, 1)), "NaN shows beside infinity");
    check(isnan(sum_of_two(INSTEP_LONGDOUBLE, 1, NAN, 1)), "NaN shows in long double");
}

/* The same values in another type or layout give the same bits. */
static void test_shape_of_sums(void)
{
    enum { N = 50000 };
    static float narrow[N];
    static double wide[3 * N];
    const intptr_t shape = N, four = 4, eight = 8, back = -24;
    for (int i = 0; i < N; ++i) {
        narrow[i] = sinf((float)i);
        wide[i] = (double)narrow[i];
    }
    const double one =
        sum_of(&(instep_array){(char *)narrow, &shape, &four, 1, INSTEP_FLOAT32}, 0.3, 1);
    const double two =
        sum_of(&(instep_array){(char *)wide, &shape, &eight, 1, INSTEP_FLOAT64}, 0.3, 3);
    for (int i = 0; i < N; ++i) wide[3 * (N - 1 - i)] = (double)narrow[i];
    const double three = sum_of(
        &(instep_array){(char *)(wide + 3 * (N - 1)), &shape, &back, 1, INSTEP_FLOAT64}, 0.3, 2);
    check(one == two && one == three, "a sum does not depend on storage: %.17g", one);
}

/* ---- what is refused ------------------------------------------------------------------------ */

static instep_array vector(double *data, const intptr_t *shape, const intptr_t *stride)
{
    return (instep_array){(char *)data, shape, stride, 1, INSTEP_FLOAT64};
}

static void test_overlap(void)
{
    static double m[64];
    const intptr_t eight = 8, nothing = 0, one = 8, two = 16, back = -8;
    instep_plan *plan = instep_plan_create(3);
    const instep_array p = vector(m + 16, &eight, &one), q = vector(m + 47, &eight, &back);
    const instep_array empty = vector(m + 18, &nothing, &one), s = vector(m + 28, &eight, &one);
    if (plan == NULL || instep_plan_set_parameter(plan, 0, &p) != 0 ||
        instep_plan_set_parameter(plan, 1, &q) != 0 ||
        instep_plan_set_parameter(plan, 2, &empty) != 0 || instep_plan_finish(plan) != 0)
        exit(1);
    struct {
        int leaf, code;
        instep_array gradient;
        const char *what;
    } cases[] = {
        {0, 2, p, "the parameter itself"},
        {0, 2, vector(m + 9, &eight, &one), "the parameter's first element"},
        {0, 2, vector(m + 23, &eight, &one), "the parameter's last element"},
        {0, 0, vector(m + 8, &eight, &one), "memory right below"},
        {0, 0, vector(m + 24, &eight, &one), "memory right above"},
        {0, 2, vector((double *)(void *)((char *)(m + 8) + 1), &eight, &one), "one byte"},
        {0, 2, vector(m + 47, &eight, &back), "another leaf's parameter, backwards"},
        {0, 2, vector(m + 40, &eight, &nothing), "a broadcast of its element"},
        {0, 0, vector(m + 48, &eight, &nothing), "a broadcast beside it"},
        {0, 2, vector(m + 9, &eight, &two), "interleaved bytes (the range meets)"},
        {0, 0, vector(m, &eight, &two), "every other element below"},
        {0, 2, vector(m + 63, &eight, &(intptr_t){-24}), "from above down into it"},
        {1, 2, p, "the other leaf's parameter"},
        {1, 0, vector(m + 28, &eight, &one), "free memory"},
        {2, 0, empty, "nothing"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; ++k) {
        const int code = instep_plan_set_gradient(plan, cases[k].leaf, &cases[k].gradient, 0);
        const int trusted = instep_plan_set_gradient(plan, cases[k].leaf, &cases[k].gradient, 1);
        check(code == cases[k].code && trusted == 0, "gradient over %s: %d", cases[k].what, code);
    }
    /* What was clear may not be any more once the leaf has a state there. */
    const instep_array g = vector(m + 28, &eight, &one);
    check(instep_plan_set_gradient(plan, 0, &g, 0) == 0, "before the state");
    instep_plan_set_rule(plan, 0, 1, &s);
    if (instep_plan_finish(plan) != 0) exit(1);
    check(instep_plan_set_gradient(plan, 0, &g, 0) == 2, "gradient over the state");
    check(instep_plan_set_gradient(plan, 1, &g, 0) == 2, "gradient over another leaf's state");
    instep_plan_destroy(plan);
}

/* A byte range that reaches over the ones behind it. */
static void test_overlap_of_nested_ranges(void)
{
    static double m[32];
    const intptr_t three = 3, two = 2, one = 8, wide = 80;
    instep_plan *plan = instep_plan_create(2);
    const instep_array outer = vector(m, &three, &wide), inner = vector(m + 2, &two, &one);
    const instep_array between = vector(m + 6, &two, &one), beyond = vector(m + 21, &two, &one);
    if (plan == NULL || instep_plan_set_parameter(plan, 0, &outer) != 0 ||
        instep_plan_set_parameter(plan, 1, &inner) != 0 || instep_plan_finish(plan) != 0)
        exit(1);
    check(instep_plan_set_gradient(plan, 1, &between, 0) == 2, "gradient in a parameter's gap");
    check(instep_plan_set_gradient(plan, 1, &beyond, 0) == 0, "gradient beyond all gaps");
    instep_plan_destroy(plan);
}

static void test_shapes(void)
{
    double p[6] = {1, 2, 3, 4, 5, 6}, g[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    const intptr_t shape[] = {2, 3, 1}, strides[] = {24, 8, 8}, other[] = {3, 2, 1};
    const instep_array array = {(char *)p, shape, strides, 2, INSTEP_FLOAT64};
    instep_array given = {(char *)g, shape, strides, 2, INSTEP_FLOAT64};
    instep_plan *plan = instep_plan_create(1);
    if (plan == NULL || instep_plan_set_parameter(plan, 0, &array) != 0) exit(1);
    instep_plan_set_rule(plan, 0, 0, NULL);
    if (instep_plan_finish(plan) != 0) exit(1);
    check(instep_plan_bound(plan) == 0, "nothing is bound at first");
    check(instep_plan_set_gradient(plan, 0, &given, 0) == 0, "the right shape");
    check(instep_plan_bound(plan) == 6, "six elements are bound");
    given.ndim = 3;
    check(instep_plan_set_gradient(plan, 0, &given, 0) == 1, "one axis too many");
    check(instep_plan_bound(plan) == 0, "a refused gradient is not bound");
    given.ndim = 1;
    check(instep_plan_set_gradient(plan, 0, &given, 1) == 1, "one axis too few");
    given.ndim = 2;
    given.shape = other;
    check(instep_plan_set_gradient(plan, 0, &given, 1) == 1, "axes swapped");
    instep_plan_step(plan, plain_row, &(instep_step_options){.threads = 1});
    check(p[0] == 1 && p[5] == 6, "a refused gradient takes no part");
    check(instep_plan_sum_squares(plan, 1, 1) == 0, "... in the sum neither");
    given.shape = shape;
    instep_plan_set_gradient(plan, 0, &given, 0);
    instep_plan_set_gradient(plan, 0, NULL, 0);
    instep_plan_step(plan, plain_row, &(instep_step_options){.threads = 1});
    check(p[0] == 1 && p[5] == 6, "NULL takes a gradient back");
    instep_plan_set_gradient(plan, 0, &given, 0);
    instep_plan_step(plan, plain_row, &(instep_step_options){.threads = 1});
    check(p[0] == 0 && p[5] == 5, "the step is taken in the end");
    instep_plan_destroy(plan);
}

static void test_ends(void)
{
    intptr_t shape[INSTEP_MAX_DIMS], strides[INSTEP_MAX_DIMS];
    double p[6] = {1, 1, 1, 1, 1, 1}, g[6] = {1, 2, 3, 4, 5, 6};
    for (int axis = 0; axis < INSTEP_MAX_DIMS; ++axis) {
        shape[axis] = axis == 3 ? 2 : axis == 60 ? 3 : 1;
        strides[axis] = axis == 3 ? 8 : axis == 60 ? 16 : 999; /* Fortran order */
    }
    const instep_array array = {(char *)p, shape, strides, INSTEP_MAX_DIMS, INSTEP_FLOAT64};
    const instep_array given = {(char *)g, shape, strides, INSTEP_MAX_DIMS, INSTEP_FLOAT64};
    instep_plan *plan = instep_plan_create(1);
    if (plan == NULL || instep_plan_set_parameter(plan, 0, &array) != 0) exit(1);
    instep_plan_set_rule(plan, 0, 0, NULL);
    if (instep_plan_finish(plan) != 0) exit(1);
    instep_plan_set_gradient(plan, 0, &given, 0);
    instep_plan_step(plan, plain_row, &(instep_step_options){.threads = 2});
    check(p[0] == 0 && p[1] == -1 && p[5] == -5, "64 axes");
    instep_plan_destroy(plan);

    plan = instep_plan_create(0);
    if (plan == NULL || instep_plan_finish(plan) != 0) exit(1);
    instep_plan_step(plan, plain_row, &(instep_step_options){.threads = 4});
    check(instep_plan_sum_squares(plan, 1, 4) == 0, "a plan without leaves");
    instep_plan_destroy(plan);
    instep_plan_destroy(NULL);
    check(instep_isa_select("sse9") == -1 && instep_isa_select("") == -1, "unknown levels");
    check(instep_isa_select(NULL) == 0 && instep_isa_available(-1) == NULL, "the best level");
}

/* ---- powers --------------------------------------------------------------------------------- */

/* Distance from `exact` in units of the last place of a double of its size. */
static double ulps(double is, long double exact)
{
    int exponent;
    if (isinf((double)exact)) return is == (double)exact ? 0 : INFINITY;
    frexpl(exact, &exponent);
    if (exponent < -1021) exponent = -1021; /* subnormal */
    return (double)(fabsl((long double)is - exact) / ldexpl(1, exponent - 53));
}

static void test_powers(void)
{
    static const double bases[] = {0,      0.5,      0.8,         0.9, 0.95,   0.99,  0.999,
                                   0.9999, 0.999999, 1 - 0x1p-53, 1,   1e-100, 1e-300};
    for (size_t b = 0; b < sizeof bases / sizeof bases[0]; ++b) {
        double worst = 0;
        int64_t at = 0;
        int apart = 1;
        for (int64_t exponent = 0; exponent < (INT64_C(1) << 40);
             exponent = exponent < 2000 ? exponent + 1 : exponent * 9 / 7) {
            const long double exact = powl((long double)bases[b], (long double)exponent);
            double power[2];
            instep_powers((const double[]){bases[b], 0.5}, exponent, power, NULL);
            apart &= power[1] == ldexp(1, -(int)(exponent < 2000 ? exponent : 2000));
            const double error = ulps(power[0], exact);
            if (!(error <= worst)) {
                worst = error;
                at = exponent;
            }
        }
        check(apart, "%.17g ** n does not disturb 0.5 ** n", bases[b]);
        check(worst < 1, "%.17g ** n: at most %.3f ulp, at n = %lld", bases[b], worst,
              (long long)at);
    }
}

int main(void)
{
    test_exact_sums();
    test_range_of_sums();
    test_shape_of_sums();
    test_overlap();
    test_overlap_of_nested_ranges();
    test_shapes();
    test_ends();
    test_powers();
    printf("%d failures\n", failures);
    return failures > 0;
}
