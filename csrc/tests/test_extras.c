/* test_extras.c: averages, copies, zeroed gradients and measures against plain C, between guard
 * pages; and what exchanges averages.
 *
 * The expectation of a step is the same step without any of them (see test_core.c), on dense
 * arrays, and then one plain loop for each. */
#include "arena.h"

enum {
    PERIOD = 13,
    MOST = 16385,
    AVERAGE = 1,
    COPY = 2,
    ZERO = 4,
    MEASURE = 8,
    ALL = 15,
    BYTES = MOST * (int)sizeof(long double)
};

static arena parameter, gradient, average, copy, state[INSTEP_MAX_STATES];
static const instep_dtype floats[] = {INSTEP_FLOAT32, INSTEP_FLOAT64, INSTEP_FLOAT16,
                                      INSTEP_BFLOAT16, INSTEP_LONGDOUBLE};

/* The dense twin: parameter before and after, gradient, states. */
static _Alignas(64) char before[BYTES], after[BYTES], given[BYTES];
static _Alignas(64) char states[INSTEP_MAX_STATES][BYTES];

static double parameter_value(intptr_t i) { return (double)(i % PERIOD - 6) * 0.37 + 0.01; }

static double average_value(intptr_t i) { return (double)(i * 5 % PERIOD - 4) * 0.29; }

/* Exact in every float type; a third of them beyond the limit. */
static double gradient_value(intptr_t i) { return (double)(i * 7 % 11 - 5) * 1.25; }

/* gradient_scale 0.5, gradient_limit 2; the others make both rules move. */
static void fill_row(double *row, int rule)
{
    for (int k = 0; k < INSTEP_MAX_COEFFICIENTS; ++k) row[k] = 0.03125 * (k + 1);
    row[0] = 0.5;
    row[1] = 2;
    instep_rule_advance(rule, row, 3, 0, NULL);
}

/* ---- one leaf ------------------------------------------------------------------------------- */

/* What a step of one leaf is about: the arrays of the test or of the twin. */
typedef struct {
    int rule, extras;
    double weight, scale; /* of the average; of the measured gradient */
    const double *row;
    instep_array p, g, average, copy, state[INSTEP_MAX_STATES];
} leaf_step;

static instep_measures take(const leaf_step *leaf)
{
    instep_measures measures = {-1, -1, -1, -1};
    instep_plan *plan = instep_plan_create(1);
    if (plan == NULL || instep_plan_set_parameter(plan, 0, &leaf->p) != 0) exit(1);
    instep_plan_set_rule(plan, 0, leaf->rule, leaf->state);
    if (leaf->extras & AVERAGE) instep_plan_set_average(plan, 0, &leaf->average);
    if (leaf->extras & COPY) instep_plan_set_copy(plan, 0, &leaf->copy);
    if (instep_plan_finish(plan) != 0) exit(1);
    instep_plan_set_row(plan, 0, 0);
    if (instep_plan_set_gradient(plan, 0, &leaf->g, 0) != 0) exit(1);
    const instep_step_options options = {.threads = 1,
                                         .zero_gradients = leaf->extras & ZERO,
                                         .measure = leaf->extras & MEASURE,
                                         .measured_scale = leaf->scale,
                                         .average_weight = leaf->weight};
    instep_plan_step(plan, leaf->row, &options);
    if (leaf->extras & MEASURE) instep_plan_measured(plan, &measures);
    instep_plan_destroy(plan);
    return measures;
}

/* The step without extras on dense arrays of the same types. */
static void take_twin(const leaf_step *leaf, intptr_t n)
{
    const intptr_t size = size_of(leaf->p.dtype), step = size_of(leaf->g.dtype);
    leaf_step twin = {.rule = leaf->rule, .row = leaf->row};
    for (intptr_t i = 0; i < n; ++i) {
        put(before + i * size, leaf->p.dtype, parameter_value(i));
        put(given + i * step, leaf->g.dtype, gradient_value(i));
        for (int k = 0; k < INSTEP_MAX_STATES; ++k)
            put(states[k] + i * size, leaf->p.dtype, 0.11 * (double)(i % PERIOD + 1) + k);
    }
    memcpy(after, before, (size_t)(n * size));
    twin.p = (instep_array){after, &n, &size, 1, leaf->p.dtype};
    twin.g = (instep_array){given, &n, &step, 1, leaf->g.dtype};
    for (int k = 0; k < INSTEP_MAX_STATES; ++k)
        twin.state[k] = (instep_array){states[k], &n, &size, 1, leaf->p.dtype};
    take(&twin);
}

/* average + weight * (p - average) in the type of the parameter, from the nearer end. */
static double moved(instep_dtype dtype, double from, double p, double weight)
{
    if (dtype == INSTEP_FLOAT64) {
        if (weight == 1) return p;
        return weight < 0.5 ? from + weight * (p - from) : p - (1 - weight) * (p - from);
    }
    const float a = (float)from, b = (float)p, w = (float)weight;
    if (w == 1) return (double)b;
    return (double)(w < 0.5F ? a + w * (b - a) : b - (1 - w) * (b - a));
}

static void lay_out(leaf_step *leaf, layout how, layout gradients, instep_dtype dtype,
                    instep_dtype of_gradient, instep_dtype of_copy, intptr_t n, int at_end)
{
    const intptr_t rows = rows_of(n), columns = n / rows;
    arena_place(&parameter, how, dtype, rows, columns, at_end);
    arena_place(&gradient, gradients, of_gradient, rows, columns, at_end);
    arena_place(&average, n % 2 ? DENSE : how, dtype, rows, columns, at_end);
    arena_place(&copy, n % 3 ? how : DENSE, of_copy, rows, columns, at_end);
    leaf->p = parameter.array;
    leaf->g = gradient.array;
    leaf->average = average.array;
    leaf->copy = copy.array;
    for (int k = 0; k < INSTEP_MAX_STATES; ++k) {
        arena_place(&state[k], DENSE, dtype, rows, columns, at_end);
        leaf->state[k] = state[k].array;
    }
    for (intptr_t i = 0; i < n; ++i) {
        const intptr_t row = i / columns, column = i % columns;
        put(arena_at(&parameter, row, column), dtype, parameter_value(i));
        put(arena_at(&gradient, row, column), of_gradient, gradient_value(i));
        put(arena_at(&average, row, column), dtype, average_value(i));
        put(arena_at(&copy, row, column), of_copy, 9);
        for (int k = 0; k < INSTEP_MAX_STATES; ++k)
            put(arena_at(&state[k], row, column), dtype, 0.11 * (double)(i % PERIOD + 1) + k);
    }
}

static int holds(const arena *a, intptr_t i, double value)
{
    char wanted[sizeof(long double)];
    const intptr_t columns = a->shape[1];
    put(wanted, a->array.dtype, value);
    return same(arena_at(a, i / columns, i % columns), wanted, a->array.dtype);
}

static int element_is_right(const leaf_step *leaf, intptr_t i)
{
    const instep_dtype dtype = leaf->p.dtype;
    const double p = get(after + i * size_of(dtype), dtype);
    const double g = get(given + i * size_of(leaf->g.dtype), leaf->g.dtype);
    char start[sizeof(long double)];
    put(start, dtype, average_value(i)); /* rounded to its type */
    const double from = get(start, dtype);
    int ok = holds(&parameter, i, p) & holds(&gradient, i, leaf->extras & ZERO ? 0 : g);
    ok &= holds(&average, i, leaf->extras & AVERAGE ? moved(dtype, from, p, leaf->weight) : from);
    ok &= holds(&copy, i, leaf->extras & COPY ? (double)(float)p : 9);
    for (int k = 0; k < INSTEP_MAX_STATES; ++k)
        ok &= holds(&state[k], i, get(states[k] + i * size_of(dtype), dtype));
    return ok;
}

static int is_near(double is, long double wanted)
{
    return fabsl((long double)is - wanted) <= 1e-14L * (fabsl(wanted) + 1e-300L);
}

static int measures_are_right(const leaf_step *leaf, const instep_measures *is, intptr_t n)
{
    long double sums[3] = {0};
    int64_t clipped = 0;
    for (intptr_t i = 0; i < n; ++i) {
        const intptr_t size = size_of(leaf->p.dtype);
        const long double g = gradient_value(i) * leaf->scale;
        const long double p = get(after + i * size, leaf->p.dtype);
        const long double change = p - (long double)get(before + i * size, leaf->p.dtype);
        sums[0] += g * g;
        sums[1] += change * change;
        sums[2] += p * p;
        clipped += fabs(0.5 * gradient_value(i)) > 2;
    }
    return is_near(is->gradient, sums[0]) & is_near(is->update, sums[1]) &
           is_near(is->parameter, sums[2]) & (is->clipped == clipped);
}

static int leaf_is_right(const leaf_step *leaf, const instep_measures *measures, intptr_t n)
{
    int ok = 1;
    for (intptr_t i = 0; i < n; ++i) ok &= element_is_right(leaf, i);
    if (leaf->extras & MEASURE) ok &= measures_are_right(leaf, measures, n);
    ok &= arena_intact(&parameter) & arena_intact(&gradient) & arena_intact(&average);
    ok &= arena_intact(&copy);
    for (int k = 0; k < INSTEP_MAX_STATES; ++k) ok &= arena_intact(&state[k]);
    return ok;
}

static const struct {
    layout parameter, gradient;
} layouts[] = {{DENSE, DENSE},     {DENSE, STRIDED},   {DENSE, FORTRAN},
               {DENSE, PACKED},    {STRIDED, DENSE},   {FORTRAN, DENSE},
               {PACKED, REVERSED}, {REVERSED, PACKED}, {FORTRAN, FORTRAN}};
static const double weights[] = {0.001, 0.3, 0.5, 0.9, 1, 0, 1e-9};

/* Every length, each with another set of extras, weight, end and copy. */
static int step_lengths(leaf_step *leaf, size_t how, instep_dtype dtype, instep_dtype of_gradient)
{
    intptr_t n;
    for (int k = 0; (n = length_of(k)) >= 0; ++k) {
        const int turn = k + (int)how;
        leaf->extras = k % 2 ? ALL : turn % (ALL + 1);
        leaf->weight = weights[turn % 7];
        leaf->scale = turn % 3 ? 0.25 : 3;
        lay_out(leaf, layouts[how].parameter, layouts[how].gradient, dtype, of_gradient,
                turn % 2 ? INSTEP_FLOAT16 : INSTEP_BFLOAT16, n, k / 2 % 2);
        take_twin(leaf, n);
        const instep_measures measures = take(leaf);
        if (!leaf_is_right(leaf, &measures, n))
            return check(0, "n = %ld, layouts %d %d, extras %d, weight %g", (long)n,
                         layouts[how].parameter, layouts[how].gradient, leaf->extras, leaf->weight);
    }
    return 1;
}

static void test_steps(int rule, instep_dtype dtype)
{
    double row[INSTEP_MAX_COEFFICIENTS];
    leaf_step leaf = {.rule = rule, .row = row};
    const char *isa;
    fill_row(row, rule);
    for (int level = 0; (isa = instep_isa_available(level)) != NULL; ++level) {
        int ok = 1;
        instep_isa_select(isa);
        for (size_t f = 0; f < sizeof floats / sizeof floats[0]; ++f)
            for (size_t how = 0; how < sizeof layouts / sizeof layouts[0]; ++how)
                if (!step_lengths(&leaf, how, dtype, floats[f])) {
                    check(0, "... gradients %s", name_of(floats[f]));
                    ok = 0;
                }
        check(ok, "%s %s on %s: every extra, length, layout and gradient type",
              instep_rule_name(rule), name_of(dtype), isa);
    }
}

/* ---- numbers -------------------------------------------------------------------------------- */

/* One element of `dtype`; sgd with lr = 0, so that the parameter stays. */
static double average_of(instep_dtype dtype, double from, double p, double weight)
{
    double row[INSTEP_MAX_COEFFICIENTS] = {1, INFINITY};
    char at[3][sizeof(long double)] = {{0}};
    leaf_step leaf = {.extras = AVERAGE, .weight = weight, .row = row};
    put(at[0], dtype, p);
    put(at[2], dtype, from);
    leaf.p = (instep_array){at[0], NULL, NULL, 0, dtype};
    leaf.g = (instep_array){at[1], NULL, NULL, 0, dtype};
    leaf.average = (instep_array){at[2], NULL, NULL, 0, dtype};
    take(&leaf);
    return get(at[2], dtype);
}

static void test_averages_by_hand(instep_dtype dtype)
{
    static const struct {
        double from, p, weight, result;
    } cases[] = {{1, 3, 0.25, 1.5},
                 {1, 3, 0.75, 2.5},
                 {1, 3, 0.5, 2},
                 {-4, 4, 0.125, -3},
                 {7, 3, 0, 7},
                 {0x1p60, 1, 1, 1},          /* from the nearer end, nothing is lost */
                 {1, INFINITY, 1, INFINITY}, /* and 0 * inf is not computed */
                 {-INFINITY, 2, 1, 2},
                 {1, INFINITY, 0.25, INFINITY},
                 {INFINITY, 1, 0.25, NAN},
                 {NAN, 1, 1, 1},
                 {NAN, 1, 0.5, NAN},
                 {1, NAN, 1, NAN}};
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; ++k) {
        const double is = average_of(dtype, cases[k].from, cases[k].p, cases[k].weight);
        check(is == cases[k].result || (is != is && cases[k].result != cases[k].result),
              "%s: from %g towards %g by %g is %g", name_of(dtype), cases[k].from, cases[k].p,
              cases[k].weight, is);
    }
}

/* All numbers that lie at or beside the middle of two copies, of both signs. */
static void test_copies(instep_dtype dtype, instep_dtype narrow)
{
    enum { COUNT = 3 * 65536 };
    static char p[COUNT * 8], g[COUNT * 8], c[COUNT * 2];
    const intptr_t n = COUNT, size = size_of(dtype), two = 2;
    double row[INSTEP_MAX_COEFFICIENTS] = {1, INFINITY};
    leaf_step leaf = {.extras = COPY, .row = row};
    int ok = 1;
    memset(g, 0, sizeof g);
    for (uint32_t k = 0; k < COUNT; ++k) {
        const uint32_t below = narrow == INSTEP_BFLOAT16 ? (k / 3) << 16 | 0x8000u : 0;
        float value;
        memcpy(&value, &below, sizeof value);
        if (narrow == INSTEP_FLOAT16) { /* the middle of it and its neighbour */
            const uint16_t bits = (uint16_t)(k / 3);
            const double next = of_half((uint16_t)(bits + ((bits & 0x7fff) < 0x7c00)));
            value = (float)((of_half(bits) + (isinf(next) ? copysign(65536, next) : next)) / 2);
        }
        if (k % 3 != 1) value = nextafterf(value, k % 3 ? INFINITY : -INFINITY);
        put(p + (intptr_t)k * size, dtype, (double)value);
    }
    leaf.p = (instep_array){p, &n, &size, 1, dtype};
    leaf.g = (instep_array){g, &n, &size, 1, dtype};
    leaf.copy = (instep_array){c, &n, &two, 1, narrow};
    take(&leaf);
    for (intptr_t k = 0; k < COUNT; ++k) {
        char wanted[sizeof(long double)];
        put(wanted, narrow, get(p + k * size, dtype));
        ok &= same(c + 2 * k, wanted, narrow);
    }
    check(ok, "%s is copied to the nearest %s, ties to even", name_of(dtype), name_of(narrow));
}

/* A gradient that the parameter's type does not hold is measured as it is given. */
static void test_measures_of_wide_gradients(void)
{
    static const struct {
        instep_dtype given;
        double g, scale, measured, wanted;
        int64_t clipped;
    } cases[] = {{INSTEP_FLOAT64, 0x3p600, 0x1p-600, 0x1p-600, 9, 1},
                 {INSTEP_LONGDOUBLE, 0x3p-600, 0x1p600, 0x1p600, 9, 1},
                 {INSTEP_FLOAT64, 0x1p300, 1, 1, 0x1p600, 1},
                 {INSTEP_FLOAT32, 0x1p-140, 0x1p140, 0x1p140, 1, 0},
                 {INSTEP_FLOAT32, 2, 1, 1, 4, 0}, /* at the limit is not beyond it */
                 {INSTEP_FLOAT32, -2.5, 1, 1, 6.25, 1},
                 {INSTEP_FLOAT32, INFINITY, 1, 1, INFINITY, 1},
                 {INSTEP_FLOAT64, 1e200, 1, 1, INFINITY, 1}, /* squares beyond float64 */
                 {INSTEP_FLOAT32, NAN, 1, 1, NAN, 0}};
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; ++k) {
        double row[INSTEP_MAX_COEFFICIENTS] = {cases[k].scale, 2};
        char p[sizeof(long double)] = {0}, g[sizeof(long double)];
        leaf_step leaf = {.extras = MEASURE, .row = row, .scale = cases[k].measured};
        put(g, cases[k].given, cases[k].g);
        leaf.p = (instep_array){p, NULL, NULL, 0, INSTEP_FLOAT32};
        leaf.g = (instep_array){g, NULL, NULL, 0, cases[k].given};
        const instep_measures is = take(&leaf);
        const double wanted = cases[k].wanted;
        check((is.gradient == wanted || (is.gradient != is.gradient && wanted != wanted)) &&
                  is.clipped == cases[k].clipped,
              "%g (%s) times %g: square %g, clipped %d", cases[k].g, name_of(cases[k].given),
              cases[k].measured, is.gradient, (int)is.clipped);
    }
}

/* ---- exchange ------------------------------------------------------------------------------- */

static void test_exchange(layout how, instep_dtype dtype)
{
    leaf_step leaf;
    intptr_t n;
    int ok = 1;
    for (int k = 0; (n = length_of(k)) >= 0; ++k) {
        lay_out(&leaf, how, DENSE, dtype, INSTEP_FLOAT32, INSTEP_BFLOAT16, n, k % 2);
        instep_plan *plan = instep_plan_create(1);
        if (plan == NULL || instep_plan_set_parameter(plan, 0, &leaf.p) != 0) exit(1);
        instep_plan_exchange(plan, 1); /* nothing to do yet */
        instep_plan_set_average(plan, 0, &leaf.average);
        if (k % 3) instep_plan_set_copy(plan, 0, &leaf.copy);
        if (instep_plan_finish(plan) != 0) exit(1);
        for (int times = 1; times < 3; ++times) {
            instep_plan_exchange(plan, 2);
            for (intptr_t i = 0; i < n; ++i) {
                const int back = times == 2;
                const double p = back ? parameter_value(i) : average_value(i);
                ok &= holds(&parameter, i, p) & holds(&copy, i, k % 3 ? p : 9);
                ok &= holds(&average, i, back ? average_value(i) : parameter_value(i));
                ok &= holds(&gradient, i, gradient_value(i));
            }
        }
        instep_plan_destroy(plan);
        ok &= arena_intact(&parameter) & arena_intact(&average) & arena_intact(&copy);
    }
    check(ok, "%s, layout %d: parameter and average exchange, and exchange back", name_of(dtype),
          how);
}

int main(void)
{
    arena *const all[] = {&parameter, &gradient, &average, &copy, &state[0], &state[1], &state[2]};
    for (size_t k = 0; k < sizeof all / sizeof all[0]; ++k) arena_open(all[k], 1 << 20);
    for (int bits = 0; bits < 2; ++bits) {
        const instep_dtype dtype = bits ? INSTEP_FLOAT64 : INSTEP_FLOAT32;
        test_steps(0, dtype); /* without states, and with the most */
        test_steps(instep_rule_count() - 1, dtype);
        test_averages_by_hand(dtype);
        test_copies(dtype, INSTEP_FLOAT16);
        test_copies(dtype, INSTEP_BFLOAT16);
        for (layout how = DENSE; how <= PACKED; ++how) test_exchange(how, dtype);
    }
    test_measures_of_wide_gradients();
    printf("%d failures\n", failures);
    return failures > 0;
}
