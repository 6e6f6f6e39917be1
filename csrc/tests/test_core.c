/* test_core.c: the step of every rule between guard pages; sums, overlap, powers, allocations.
 *
 * The expectation is the rule itself on one element at a time (checked against hand values), so
 * any length, layout, gradient type, instruction set or thread count must give those bits. */
#include "arena.h"

/* Periods of the values: no divisors of any lane, tile or piece. */
enum { PARAMETERS = 13, GRADIENTS = 11 };

static arena parameter, gradient, state[INSTEP_MAX_STATES];
static const instep_dtype floats[] = {INSTEP_FLOAT32, INSTEP_FLOAT64, INSTEP_FLOAT16,
                                      INSTEP_BFLOAT16, INSTEP_LONGDOUBLE};

static int rule_named(const char *name)
{
    for (int rule = 0; rule < instep_rule_count(); ++rule)
        if (strcmp(instep_rule_name(rule), name) == 0) return rule;
    check(0, "there is a rule %s", name);
    exit(1);
}

/* How many names a comma-separated list holds, and which of them is `wanted` (-1: none). */
static int names_in(const char *list, const char *wanted, int *found)
{
    int count = 0;
    *found = -1;
    while (*list != '\0') {
        const size_t length = strcspn(list, ", ");
        if (wanted != NULL && length == strlen(wanted) && memcmp(list, wanted, length) == 0)
            *found = count;
        count += length > 0;
        list += length + strspn(list + length, ", ");
    }
    return count;
}

static int states_of(int rule)
{
    int found;
    return names_in(instep_rule_states(rule), NULL, &found);
}

/* Set a coefficient by its name, where the rule has one of that name. */
static void set(double *row, int rule, const char *name, double value)
{
    int place;
    names_in(instep_rule_coefficients(rule), name, &place);
    if (place >= 0) row[place] = value;
}

/* A row with every coefficient off its neutral value. */
static void fill_row(double *row, int rule)
{
    static const struct {
        const char *name;
        double value;
    } all[] = {{"gradient_scale", 0.5},
               {"gradient_limit", 3},
               {"l2", 0.01},
               {"lr", 0.1},
               {"momentum", 0.9},
               {"gain", 0.7},
               {"nesterov", 1},
               {"alpha", 0.95},
               {"one_minus_alpha", 0.05},
               {"eps", 1e-3},
               {"decay", 0.99},
               {"beta1", 0.8},
               {"one_minus_beta1", 0.2},
               {"beta2", 0.9},
               {"one_minus_beta2", 0.1},
               {"root_scale", 1.5},
               {"step_size", 0.07}};
    for (size_t k = 0; k < sizeof all / sizeof all[0]; ++k)
        set(row, rule, all[k].name, all[k].value);
}

static double parameter_value(intptr_t i) { return (double)(i % PARAMETERS - 6) * 0.37 + 0.01; }

static double state_value(intptr_t i, int which)
{
    return 0.11 * (double)(i % PARAMETERS + 1) + 0.4 * which;
}

/* Exact in every float type. */
static double gradient_value(intptr_t i)
{
    return (double)((i % GRADIENTS) * 7 % GRADIENTS - 5) * 1.25;
}

/* ---- one leaf ------------------------------------------------------------------------------ */

static void step_once(int rule, const double *row, const instep_array *p, const instep_array *g,
                      const instep_array *s)
{
    instep_plan *plan = instep_plan_create(1);
    if (plan == NULL || instep_plan_set_parameter(plan, 0, p) != 0) exit(1);
    instep_plan_set_rule(plan, 0, rule, s);
    if (instep_plan_finish(plan) != 0) exit(1);
    instep_plan_set_row(plan, 0, 0);
    const int status = instep_plan_set_gradient(plan, 0, g, 0);
    if (status != 0) check(0, "set_gradient gave %d", status);
    instep_plan_step(plan, row, &(instep_step_options){.threads = 1});
    instep_plan_destroy(plan);
}

/* result[0] and result[1..] = parameter and states after a step of one element. */
static void step_element(int rule, const double *row, instep_dtype dtype, double p, double g,
                         const double *s, double *result)
{
    char at[2 + INSTEP_MAX_STATES][sizeof(long double)] = {{0}};
    instep_array array[2 + INSTEP_MAX_STATES];
    const int states = states_of(rule);
    for (int k = 0; k < 2 + states; ++k) {
        put(at[k], dtype, k == 0 ? p : k == 1 ? g : s[k - 2]);
        array[k] = (instep_array){at[k], NULL, NULL, 0, dtype};
    }
    step_once(rule, row, &array[0], &array[1], &array[2]);
    result[0] = get(at[0], dtype);
    for (int k = 0; k < states; ++k) result[1 + k] = get(at[2 + k], dtype);
}

static double expected[PARAMETERS][GRADIENTS][1 + INSTEP_MAX_STATES];

static void compute_expected(int rule, const double *row, instep_dtype dtype)
{
    instep_isa_select("baseline");
    for (int i = 0; i < PARAMETERS; ++i) {
        double states[INSTEP_MAX_STATES];
        for (int k = 0; k < INSTEP_MAX_STATES; ++k) states[k] = state_value(i, k);
        for (int j = 0; j < GRADIENTS; ++j)
            step_element(rule, row, dtype, parameter_value(i), gradient_value(j), states,
                         expected[i][j]);
    }
}

typedef struct {
    layout parameter, gradient, state;
} combination;

static intptr_t gradient_index(layout how, intptr_t row, intptr_t column, intptr_t columns)
{
    return how == CONSTANT ? 0 : how == ROWS ? column : row * columns + column;
}

static void fill_leaf(const combination *how, instep_dtype dtype, instep_dtype given, int states,
                      intptr_t n, int at_end)
{
    const intptr_t rows = rows_of(n), columns = n / rows;
    arena_place(&parameter, how->parameter, dtype, rows, columns, at_end);
    arena_place(&gradient, how->gradient, given, rows, columns, at_end);
    for (int k = 0; k < states; ++k)
        arena_place(&state[k], how->state, dtype, rows, columns, at_end);
    for (intptr_t i = 0; i < n; ++i) {
        const intptr_t row = i / columns, column = i % columns;
        const intptr_t j = gradient_index(how->gradient, row, column, columns);
        put(arena_at(&parameter, row, column), dtype, parameter_value(i));
        put(arena_at(&gradient, row, column), given, gradient_value(j));
        for (int k = 0; k < states; ++k)
            put(arena_at(&state[k], row, column), dtype, state_value(i, k));
    }
}

static int leaf_is_as_expected(const combination *how, int states)
{
    const instep_dtype dtype = parameter.array.dtype, given = gradient.array.dtype;
    const intptr_t rows = parameter.shape[0], columns = parameter.shape[1];
    int ok = 1;
    char wanted[sizeof(long double)];
    for (intptr_t i = 0; i < rows * columns; ++i) {
        const intptr_t row = i / columns, column = i % columns;
        const intptr_t j = gradient_index(how->gradient, row, column, columns);
        const double *result = expected[i % PARAMETERS][j % GRADIENTS];
        put(wanted, dtype, result[0]);
        ok &= same(arena_at(&parameter, row, column), wanted, dtype);
        for (int k = 0; k < states; ++k) {
            put(wanted, dtype, result[1 + k]);
            ok &= same(arena_at(&state[k], row, column), wanted, dtype);
        }
        put(wanted, given, gradient_value(j));
        ok &= equal_bytes(arena_at(&gradient, row, column), wanted, size_of(given));
    }
    ok &= arena_intact(&parameter) & arena_intact(&gradient);
    for (int k = 0; k < states; ++k) ok &= arena_intact(&state[k]);
    return ok;
}

static const combination combinations[] = {
    {DENSE, DENSE, DENSE},       {DENSE, STRIDED, DENSE},       {DENSE, REVERSED, DENSE},
    {DENSE, FORTRAN, DENSE},     {DENSE, PACKED, DENSE},        {DENSE, ROWS, DENSE},
    {DENSE, CONSTANT, DENSE},    {STRIDED, DENSE, DENSE},       {REVERSED, STRIDED, STRIDED},
    {FORTRAN, FORTRAN, FORTRAN}, {FORTRAN, CONSTANT, REVERSED}, {PACKED, PACKED, PACKED},
};

/* All lengths of one combination; the short ones against both guard pages. */
static int step_lengths(int rule, const double *row, instep_dtype dtype, instep_dtype given,
                        const combination *how)
{
    const int states = states_of(rule);
    instep_array arrays[INSTEP_MAX_STATES];
    intptr_t n;
    for (int k = 0; (n = length_of(k)) >= 0; ++k) {
        /* Pieces do not care how a gradient is stored. */
        if (n > 1000 && given != dtype && given != INSTEP_FLOAT64) continue;
        for (int at_end = n > 1000; at_end < 2; ++at_end) {
            fill_leaf(how, dtype, given, states, n, at_end);
            for (int s = 0; s < states; ++s) arrays[s] = state[s].array;
            step_once(rule, row, &parameter.array, &gradient.array, arrays);
            if (!leaf_is_as_expected(how, states))
                return check(0, "n = %ld, layouts %d %d %d, %s", (long)n, how->parameter,
                             how->gradient, how->state, at_end ? "end" : "start");
        }
    }
    return 1;
}

static void test_steps(int rule, instep_dtype dtype)
{
    double row[INSTEP_MAX_COEFFICIENTS] = {0};
    const char *isa;
    fill_row(row, rule);
    compute_expected(rule, row, dtype);
    for (int level = 0; (isa = instep_isa_available(level)) != NULL; ++level) {
        int ok = 1;
        instep_isa_select(isa);
        for (size_t f = 0; f < sizeof floats / sizeof floats[0]; ++f)
            for (size_t c = 0; c < sizeof combinations / sizeof combinations[0]; ++c)
                if (!step_lengths(rule, row, dtype, floats[f], &combinations[c])) {
                    check(0, "... gradients %s", name_of(floats[f]));
                    ok = 0;
                }
        check(ok, "%s %s on %s: every length, layout and gradient type", instep_rule_name(rule),
              name_of(dtype), isa);
    }
}

/* Steps from p = 3, g = 4 whose result is exact, worked out by hand from the head of each rule. */
static const struct {
    const char *rule;
    double scale, limit, l2, nesterov, state[INSTEP_MAX_STATES], result[1 + INSTEP_MAX_STATES];
} by_hand[] = {
    {"sgd", 0.5, 9, 0, 0, {0}, {2}},
    {"sgd", 0.5, 1.5, 0, 0, {0}, {2.25}},
    {"sgd", -0.5, 1.5, 0, 0, {0}, {3.75}},
    {"sgd", 0.5, 1.5, 1, 0, {0}, {0.75}},
    {"sgd_momentum", 0.5, 9, 0, 0, {8}, {0.5, 5}},
    {"sgd_momentum", 0.5, 9, 0, 1, {8}, {0.75, 5}},
    {"sgd_momentum", 0.5, 9, -2, 0, {8}, {2, 2}},
    {"rmsprop", 0.5, 9, 0, 0, {4}, {2.75, 4}},
    {"rmsprop_momentum", 0.5, 9, 0, 0, {4, 6}, {1.25, 4, 3.5}},
    {"rmsprop_centered", 0.5, 9, 0, 0, {12, 2}, {2.75, 8, 2}},
    {"rmsprop_centered", 0.5, 9, 0, 0, {0, 6}, {2.5, 2, 4}}, /* variance below 0 */
    {"rmsprop_centered_momentum", 0.5, 9, 0, 0, {12, 2, 6}, {1.25, 8, 2, 3.5}},
    {"adam", 0.5, 9, 0, 0, {6, 4}, {1.25, 4, 4}},
    {"adam", -0.5, 9, 0, 0, {6, 4}, {1.375, 2, 4}},
    {"adam_amsgrad", 0.5, 9, 0, 0, {6, 4, 1}, {1.25, 4, 4, 4}},
    {"adam_amsgrad", 0.5, 9, 0, 0, {6, 4, 100}, {1.4375, 4, 4, 100}},
};

static void test_hand_values(instep_dtype dtype)
{
    static const char *const halves[] = {"lr",    "momentum",        "gain",     "alpha",
                                         "decay", "one_minus_alpha", "beta1",    "one_minus_beta1",
                                         "beta2", "one_minus_beta2", "step_size"};
    for (size_t k = 0; k < sizeof by_hand / sizeof by_hand[0]; ++k) {
        const int rule = rule_named(by_hand[k].rule);
        double row[INSTEP_MAX_COEFFICIENTS] = {0}, result[1 + INSTEP_MAX_STATES] = {0};
        for (size_t h = 0; h < sizeof halves / sizeof halves[0]; ++h)
            set(row, rule, halves[h], 0.5);
        set(row, rule, "eps", 2);
        set(row, rule, "root_scale", 3);
        set(row, rule, "gradient_scale", by_hand[k].scale);
        set(row, rule, "gradient_limit", by_hand[k].limit);
        set(row, rule, "l2", by_hand[k].l2);
        set(row, rule, "nesterov", by_hand[k].nesterov);
        step_element(rule, row, dtype, 3, 4, by_hand[k].state, result);
        check(memcmp(result, by_hand[k].result, sizeof result) == 0, "%s %s by hand: %g, %g %g %g",
              by_hand[k].rule, name_of(dtype), result[0], result[1], result[2], result[3]);
    }
}

/* ---- gradient codecs ----------------------------------------------------------------------- */

static double value_of_half(unsigned bits)
{
    const int exponent = (int)(bits >> 10 & 31), mantissa = (int)(bits & 1023);
    const double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * ldexp(mantissa, -24);
    return sign * ldexp(1024 + mantissa, exponent - 25);
}

static double value_of_bfloat(unsigned bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return (double)value;
}

/* p = 0 and lr = -1: the parameter becomes the gradient. All 65536 values. */
static void test_sixteen_bits(instep_dtype dtype, instep_dtype given, int strided)
{
    enum { ALL = 65536 };
    static uint16_t bits[2 * ALL];
    static double narrow_or_wide[ALL];
    const intptr_t shape = ALL, dense = size_of(dtype), step = strided ? 4 : 2;
    const instep_array p = {(char *)narrow_or_wide, &shape, &dense, 1, dtype};
    const instep_array g = {(char *)bits, &shape, &step, 1, given};
    double row[INSTEP_MAX_COEFFICIENTS] = {0};
    int ok = 1;
    const int rule = rule_named("sgd");
    set(row, rule, "gradient_scale", 1);
    set(row, rule, "gradient_limit", INFINITY);
    set(row, rule, "lr", -1);
    memset(narrow_or_wide, 0, sizeof narrow_or_wide);
    for (unsigned k = 0; k < ALL; ++k) bits[strided ? 2 * k : k] = (uint16_t)k;
    step_once(rule, row, &p, &g, NULL);
    for (unsigned k = 0; k < ALL; ++k) {
        const double wanted = given == INSTEP_FLOAT16 ? value_of_half(k) : value_of_bfloat(k);
        const double is = get(p.data + (intptr_t)k * dense, dtype);
        ok &= is == wanted || (is != is && wanted != wanted);
    }
    check(ok, "every %s gradient is decoded into %s%s", name_of(given), name_of(dtype),
          strided ? ", strided" : "");
}

/* A scale that float32 cannot hold is applied in float64, and a wide gradient is rounded once. */
static void test_extreme_scales(void)
{
    static const struct {
        instep_dtype given;
        double g, scale, result;
    } cases[] = {
        {INSTEP_FLOAT64, 0x1p1000, 0x1p-1000, 1},  {INSTEP_FLOAT64, -3e-300, 1e300, -3},
        {INSTEP_FLOAT32, 0x1p-140f, 0x1p140, 1},   {INSTEP_FLOAT32, 0x1p120f, 0x1p-121, 0.5},
        {INSTEP_LONGDOUBLE, 0x1p900, 0x1p-899, 2}, {INSTEP_FLOAT64, 1 + 0x1p-24, 2, 2}};
    const int rule = rule_named("sgd");
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; ++k) {
        double row[INSTEP_MAX_COEFFICIENTS] = {0};
        char g[sizeof(long double)], p[sizeof(long double)] = {0};
        const instep_array array = {p, NULL, NULL, 0, INSTEP_FLOAT32};
        const instep_array given = {g, NULL, NULL, 0, cases[k].given};
        put(g, cases[k].given, cases[k].g);
        set(row, rule, "gradient_scale", cases[k].scale);
        set(row, rule, "gradient_limit", INFINITY);
        set(row, rule, "lr", -1);
        step_once(rule, row, &array, &given, NULL);
        const double is = get(p, INSTEP_FLOAT32);
        check(is == (double)(float)cases[k].result, "%g (%s) times %g is %g", cases[k].g,
              name_of(cases[k].given), cases[k].scale, is);
    }
}

int main(void)
{
    arena_open(&parameter, 1 << 20);
    arena_open(&gradient, 1 << 20);
    for (int k = 0; k < INSTEP_MAX_STATES; ++k) arena_open(&state[k], 1 << 20);
    for (int bits = 0; bits < 2; ++bits) {
        const instep_dtype dtype = bits ? INSTEP_FLOAT64 : INSTEP_FLOAT32;
        test_hand_values(dtype);
        for (int rule = 0; rule < instep_rule_count(); ++rule) test_steps(rule, dtype);
        for (int strided = 0; strided < 2; ++strided) {
            test_sixteen_bits(dtype, INSTEP_FLOAT16, strided);
            test_sixteen_bits(dtype, INSTEP_BFLOAT16, strided);
        }
    }
    test_extreme_scales();
    printf("%d failures\n", failures);
    return failures > 0;
}
