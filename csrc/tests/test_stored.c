/* test_stored.c: states in 16 and 8 bits and bfloat16 parameters, between guard pages.
 *
 * The codecs are written again in storage_twin.h. A step from stored states must give the bits of:
 * decode, the same step from plain states, encode with the bits of the generator. */
#include "storage_twin.h"

enum { MOST = 33000, STEPS = 2 };

static const instep_dtype kinds[] = {INSTEP_BFLOAT16, INSTEP_INT8, INSTEP_UINT8};
static const instep_dtype floats[] = {INSTEP_FLOAT32, INSTEP_FLOAT64, INSTEP_FLOAT16,
                                      INSTEP_BFLOAT16, INSTEP_LONGDOUBLE};

/* ---- encoding and decoding to the nearest ---------------------------------------------------- */

static arena codes, scales, values;

static instep_array *place(arena *a, instep_dtype dtype, intptr_t n, int at_end)
{
    arena_place(a, DENSE, dtype, 1, n, at_end);
    return &a->array;
}

static int nearest_is_right(instep_dtype kind, int n, int at_end, float factor)
{
    static uint32_t half[MOST];
    static char wanted[2 * MOST], again[2 * MOST];
    static float wanted_scale[MOST / BLOCK + 1], again_scale[MOST / BLOCK + 1], x[MOST], back[MOST];
    const size_t blocks = (size_t)(n + BLOCK - 1) / BLOCK;
    place(&codes, kind, n, at_end);
    place(&scales, INSTEP_FLOAT32, (intptr_t)blocks, at_end);
    place(&values, INSTEP_FLOAT32, n, at_end);
    float *const scale = kind == INSTEP_BFLOAT16 ? NULL : (float *)(void *)scales.array.data;
    for (int i = 0; i < n; ++i) {
        x[i] = number(kind, i, n) * factor;
        half[i] = 0x8000;
    }
    memcpy(values.array.data, x, (size_t)n * sizeof *x);
    encode_all(kind, wanted, wanted_scale, x, half, (size_t)n);
    instep_state_encode((const float *)(void *)values.array.data, (size_t)n, kind, codes.array.data,
                        scale);
    int ok = memcmp(codes.array.data, wanted, (size_t)(n * size_of(kind))) == 0;
    if (scale != NULL) ok &= same_floats(scale, wanted_scale, (int)blocks);
    instep_state_decode(codes.array.data, scale, (size_t)n, kind,
                        (float *)(void *)values.array.data);
    for (int i = 0; i < n; ++i) back[i] = decode_one(kind, wanted, wanted_scale, i);
    ok &= same_floats((const float *)(void *)values.array.data, back, n);
    instep_state_encode(back, (size_t)n, kind, again, again_scale);
    ok &= memcmp(again, wanted, (size_t)(n * size_of(kind))) == 0;
    return ok & arena_intact(&codes) & arena_intact(&scales) & arena_intact(&values);
}

static void test_nearest(instep_dtype kind)
{
    static const float factors[] = {1, 0x1p-90f, 0x1p-110f, 0x1p-130f, 0x1p110f, 0};
    const char *isa;
    for (int level = 0; (isa = instep_isa_available(level)) != NULL; ++level) {
        int ok = 1;
        instep_isa_select(isa);
        for (int k = 0; length_of(k) >= 0; ++k)
            for (size_t f = 0; f < sizeof factors / sizeof factors[0]; ++f)
                for (int at_end = 0; at_end < 2; ++at_end)
                    ok &= nearest_is_right(kind, (int)length_of(k), at_end, factors[f]);
        check(ok, "%s on %s: nearest codes, values, and codes of these", name_of(kind), isa);
    }
}

/* What is not finite, and the ends of the range: {value among ones, kind, what all become}. */
static void test_hard_values(void)
{
    static const struct {
        instep_dtype kind;
        float value, alone, others;
    } cases[] = {{INSTEP_INT8, NAN, NAN, NAN},       {INSTEP_INT8, -INFINITY, NAN, NAN},
                 {INSTEP_UINT8, NAN, NAN, NAN},      {INSTEP_UINT8, INFINITY, NAN, NAN},
                 {INSTEP_UINT8, -1, NAN, NAN},       {INSTEP_UINT8, -0.0f, 0, 1},
                 {INSTEP_BFLOAT16, NAN, NAN, 1},     {INSTEP_BFLOAT16, INFINITY, INFINITY, 1},
                 {INSTEP_INT8, FLT_MAX, FLT_MAX, 0}, {INSTEP_BFLOAT16, FLT_MAX, 0x1.fep127f, 1},
                 {INSTEP_UINT8, 0x1p-140f, 0, 1},    {INSTEP_INT8, 0x1p-140f, 0, 1}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; ++c) {
        float x[BLOCK], scale[1], back[BLOCK];
        char code[2 * BLOCK];
        for (int i = 0; i < BLOCK; ++i) x[i] = i == 77 ? cases[c].value : 1;
        instep_state_encode(x, BLOCK, cases[c].kind, code, scale);
        instep_state_decode(code, scale, BLOCK, cases[c].kind, back);
        const float rest = cases[c].others, alone = cases[c].alone, close = 1e-5f;
        const int tiny = cases[c].kind == INSTEP_UINT8 && alone == 0 && cases[c].value > 0;
        const float wanted = tiny ? 1.0f / 65025 : alone; /* what is above 0 stays above 0 */
        int ok = isnan(wanted)   ? isnan(back[77])
                 : isinf(wanted) ? back[77] == wanted
                                 : fabsf(back[77] / 2 - wanted / 2) <= close * wanted;
        ok &= isnan(rest) ? isnan(back[5]) : fabsf(back[5] - rest) <= close;
        check(ok, "%s: %g among ones is %g, the ones %g", name_of(cases[c].kind),
              (double)cases[c].value, (double)back[77], (double)back[5]);
    }
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* A leaf as it is stored, and beside it the same in plain arrays of the type computed in. */
typedef struct {
    int rule, states;
    instep_dtype parameter, gradient, computed, kind[INSTEP_MAX_STATES];
    layout parameter_layout, gradient_layout;
    intptr_t n;
    uint64_t seed;
} leaf_case;

static arena parameter, gradient, state[INSTEP_MAX_STATES], scale[INSTEP_MAX_STATES];
static double plain_parameter[MOST], plain_state[INSTEP_MAX_STATES][MOST];

/* The address of the i-th element of the walk. */
static char *walked(const arena *a, layout how, intptr_t i)
{
    const intptr_t rows = a->shape[0], columns = a->shape[1];
    return how == FORTRAN ? arena_at(a, i % rows, i / rows) : arena_at(a, i / columns, i % columns);
}

static int state_is(int rule, int k, const char *format)
{
    const char *name = instep_rule_states(rule);
    for (; k > 0; --k) name += strcspn(name, " ") + 1;
    const size_t length = strcspn(name, ",");
    for (int i = 0; i < instep_state_count(); ++i)
        if (strlen(instep_state_name(i)) == length &&
            memcmp(instep_state_name(i), name, length) == 0)
            return strcmp(instep_state_format(i), format) == 0;
    return 0;
}

static int count_states(int rule)
{
    int count = *instep_rule_states(rule) != '\0';
    for (const char *at = instep_rule_states(rule); *at != '\0'; ++at) count += *at == ',';
    return count;
}

static float *scale_of(int k) { return (float *)(void *)scale[k].array.data; }

static void place_leaf(const leaf_case *c, int at_end)
{
    const intptr_t rows = rows_of(c->n), columns = c->n / rows;
    const layout dense = c->parameter_layout == FORTRAN ? FORTRAN : DENSE;
    arena_place(&parameter, c->parameter_layout, c->parameter, rows, columns, at_end);
    arena_place(&gradient, c->gradient_layout, c->gradient, rows, columns, at_end);
    for (int k = 0; k < c->states; ++k) {
        arena_place(&state[k], dense, c->kind[k], rows, columns, at_end);
        arena_place(&scale[k], DENSE, INSTEP_FLOAT32, 1, (c->n + BLOCK - 1) / BLOCK, at_end);
    }
}

static int is_rounded(instep_dtype kind) { return kind >= INSTEP_BFLOAT16; }

/* Round plain values to what the storage can hold: codes and scales go to `code`, `units`. */
static void round_plain(const leaf_case *c, int k, const uint32_t *r, char *code, float *units)
{
    static float x[MOST];
    if (!is_rounded(c->kind[k])) {
        for (int i = 0; i < c->n && c->kind[k] == INSTEP_FLOAT32; ++i)
            plain_state[k][i] = (double)(float)plain_state[k][i];
        return;
    }
    for (int i = 0; i < c->n; ++i) x[i] = (float)plain_state[k][i];
    encode_all(c->kind[k], code, units, x, r, (size_t)c->n);
    for (int i = 0; i < c->n; ++i)
        plain_state[k][i] = (double)decode_one(c->kind[k], code, units, i);
}

static void fill_leaf(const leaf_case *c)
{
    static uint32_t half[MOST];
    for (int i = 0; i < MOST; ++i) half[i] = 0x8000;
    for (intptr_t i = 0; i < c->n; ++i) {
        char *const p = walked(&parameter, c->parameter_layout, i);
        put(p, c->parameter, (double)number(INSTEP_INT8, (int)i, 60));
        plain_parameter[i] = get(p, c->parameter);
    }
    for (int k = 0; k < c->states; ++k) {
        const int signs = state_is(c->rule, k, "SIGNED");
        for (int i = 0; i < c->n; ++i)
            plain_state[k][i] = (double)number(signs ? INSTEP_INT8 : INSTEP_UINT8, i, k);
        round_plain(c, k, half, state[k].array.data, scale_of(k));
        for (intptr_t i = 0; i < c->n && !is_rounded(c->kind[k]); ++i)
            put(state[k].array.data + i * size_of(c->kind[k]), c->kind[k], plain_state[k][i]);
    }
}

static instep_plan *plan_of(int rule, const instep_array *p, const instep_array *s,
                            float *const *units)
{
    instep_plan *plan = instep_plan_create(1);
    if (plan == NULL || instep_plan_set_parameter(plan, 0, p) != 0) exit(1);
    instep_plan_set_rule(plan, 0, rule, s);
    if (units != NULL) instep_plan_set_scales(plan, 0, units);
    if (instep_plan_finish(plan) != 0) exit(1);
    instep_plan_set_row(plan, 0, 0);
    return plan;
}

/* One step of the plain arrays, dense and of the type computed in. */
static void step_plain(const leaf_case *c, const double *row)
{
    static char memory[2 + INSTEP_MAX_STATES][MOST * sizeof(double)];
    static char given[MOST * sizeof(long double)];
    const intptr_t n = c->n, size = size_of(c->computed), width = size_of(c->gradient);
    instep_array arrays[2 + INSTEP_MAX_STATES];
    for (int a = 0; a < 2 + c->states; ++a)
        arrays[a] = (instep_array){memory[a], &n, &size, 1, c->computed};
    arrays[1] = (instep_array){given, &n, &width, 1, c->gradient};
    for (intptr_t i = 0; i < n; ++i) {
        memcpy(given + i * width, walked(&gradient, c->parameter_layout, i), (size_t)width);
        put(memory[0] + i * size, c->computed, plain_parameter[i]);
        for (int k = 0; k < c->states; ++k)
            put(memory[2 + k] + i * size, c->computed, plain_state[k][i]);
    }
    instep_plan *plan = plan_of(c->rule, &arrays[0], &arrays[2], NULL);
    if (instep_plan_set_gradient(plan, 0, &arrays[1], 0) != 0) exit(1);
    instep_plan_step(plan, row, &(instep_step_options){.threads = 1});
    instep_plan_destroy(plan);
    for (intptr_t i = 0; i < n; ++i) {
        plain_parameter[i] = get(memory[0] + i * size, c->computed);
        for (int k = 0; k < c->states; ++k)
            plain_state[k][i] = get(memory[2 + k] + i * size, c->computed);
    }
}

/* Round the plain arrays as step `step` does; are they what is stored? */
static int is_as_plain(const leaf_case *c, uint64_t step)
{
    static uint32_t r[MOST];
    static char code[2 * MOST], wanted[sizeof(long double)];
    static float units[MOST / BLOCK + 1];
    int ok = 1;
    for (int k = 0; k < c->states; ++k) {
        const int nearest = state_is(c->rule, k, "SQUARED_NEAREST");
        for (intptr_t i = 0; i < c->n; ++i)
            r[i] = nearest ? 0x8000 : random_bits(c->seed, step, 0, (uint64_t)i, k);
        round_plain(c, k, r, code, units);
        if (c->kind[k] > INSTEP_BFLOAT16)
            ok &= same_floats(scale_of(k), units, (int)(c->n + BLOCK - 1) / BLOCK);
        for (intptr_t i = 0; i < c->n; ++i) {
            const intptr_t size = size_of(c->kind[k]);
            put(wanted, c->kind[k], plain_state[k][i]);
            if (is_rounded(c->kind[k])) memcpy(wanted, code + i * size, (size_t)size);
            ok &= same(state[k].array.data + i * size, wanted, c->kind[k]);
        }
    }
    for (intptr_t i = 0; i < c->n; ++i) {
        put(wanted, c->parameter, plain_parameter[i]);
        if (c->parameter == INSTEP_BFLOAT16) {
            const uint32_t bits = random_bits(c->seed, step, 0, (uint64_t)i, 3);
            put_bits(wanted, bfloat_by((float)plain_parameter[i], bits));
            plain_parameter[i] = get(wanted, INSTEP_BFLOAT16);
        }
        ok &= same(walked(&parameter, c->parameter_layout, i), wanted, c->parameter);
    }
    return ok;
}

static int case_is_right(const leaf_case *c, int at_end)
{
    double row[INSTEP_MAX_COEFFICIENTS];
    instep_array arrays[INSTEP_MAX_STATES];
    float *units[INSTEP_MAX_STATES];
    int ok = 1;
    for (int k = 0; k < INSTEP_MAX_COEFFICIENTS; ++k)
        row[k] = k == 1 ? 100 : 0.25 + (double)(next_of((uint64_t)k) >> 40) * 0x1p-25;
    place_leaf(c, at_end);
    fill_leaf(c);
    for (int k = 0; k < c->states; ++k) {
        arrays[k] = state[k].array;
        units[k] = c->kind[k] > INSTEP_BFLOAT16 ? scale_of(k) : NULL;
    }
    instep_plan *plan = plan_of(c->rule, &parameter.array, arrays, units);
    for (uint64_t step = 0; step < STEPS; ++step) {
        for (intptr_t i = 0; i < c->n; ++i)
            put(walked(&gradient, c->parameter_layout, i), c->gradient,
                (double)number(INSTEP_INT8, (int)i, 30 + (int)step));
        if (instep_plan_set_gradient(plan, 0, &gradient.array, 0) != 0) exit(1);
        instep_plan_step(plan, row,
                         &(instep_step_options){.threads = 2, .seed = c->seed, .step = step});
        step_plain(c, row);
        ok &= is_as_plain(c, step);
    }
    instep_plan_destroy(plan);
    ok &= arena_intact(&parameter) & arena_intact(&gradient);
    for (int k = 0; k < c->states; ++k) ok &= arena_intact(&state[k]) & arena_intact(&scale[k]);
    return ok;
}

static instep_dtype kind_of(int rule, int k, instep_dtype storage)
{
    if (storage != INSTEP_INT8) return storage;
    const int squared = state_is(rule, k, "SQUARED") || state_is(rule, k, "SQUARED_NEAREST");
    return squared ? INSTEP_UINT8 : INSTEP_INT8;
}

static void test_steps(int rule, instep_dtype dtype, instep_dtype storage)
{
    static const intptr_t lengths[] = {0,   1,   2,   17,   127,   128, 129,
                                       511, 512, 513, 1000, 16385, MOST};
    static const layout layouts[][2] = {{DENSE, DENSE},       {DENSE, STRIDED},  {STRIDED, DENSE},
                                        {FORTRAN, FORTRAN},   {FORTRAN, PACKED}, {PACKED, REVERSED},
                                        {REVERSED, REVERSED}, {DENSE, FORTRAN}};
    const char *isa;
    for (int level = 0; (isa = instep_isa_available(level)) != NULL; ++level) {
        int ok = 1;
        instep_isa_select(isa);
        for (size_t l = 0; l < sizeof layouts / sizeof layouts[0]; ++l)
            for (size_t n = 0; n < sizeof lengths / sizeof lengths[0]; ++n) {
                if (n > 10 && l > 0 && (int)(l + n) % 4 != level) continue; /* these take long */
                leaf_case c = {.rule = rule, .states = count_states(rule), .parameter = dtype};
                c.gradient = l == 0 ? dtype : floats[(l + n) % 5];
                c.computed = dtype == INSTEP_FLOAT64 ? INSTEP_FLOAT64 : INSTEP_FLOAT32;
                c.parameter_layout = layouts[l][0];
                c.gradient_layout = layouts[l][1];
                c.n = lengths[n];
                c.seed = UINT64_MAX / 7 * l;
                for (int k = 0; k < c.states; ++k) c.kind[k] = kind_of(rule, k, storage);
                for (int at_end = c.n > 1000; at_end < 2; ++at_end)
                    if (!case_is_right(&c, at_end))
                        ok = check(0, "layouts %d %d, n = %ld, gradients %s", layouts[l][0],
                                   layouts[l][1], (long)c.n, name_of(c.gradient));
            }
        check(ok, "%s %s, states %s, on %s", instep_rule_name(rule), name_of(dtype),
              storage == INSTEP_INT8 ? "in 8 bits" : name_of(storage), isa);
    }
}

/* 100 steps of 0.001 arrive where float32 does, on the mean of many parameters of 1. */
static void test_small_steps(void)
{
    enum { N = 10000 };
    static uint16_t p[N], g[N];
    const double row[INSTEP_MAX_COEFFICIENTS] = {1, (double)INFINITY, 0, 1e-3}; /* sgd */
    const intptr_t n = N, two = 2;
    const instep_array array = {(char *)p, &n, &two, 1, INSTEP_BFLOAT16};
    const instep_array given = {(char *)g, &n, &two, 1, INSTEP_BFLOAT16};
    double mean = 0;
    for (int i = 0; i < N; ++i) p[i] = g[i] = 0x3f80;
    instep_plan *plan = plan_of(0, &array, NULL, NULL);
    if (instep_plan_set_gradient(plan, 0, &given, 0) != 0) exit(1);
    for (uint64_t step = 0; step < 100; ++step)
        instep_plan_step(plan, row, &(instep_step_options){.threads = 1, .step = step});
    for (int i = 0; i < N; ++i) mean += of_bfloat(p[i]) / N;
    instep_plan_destroy(plan);
    /* 10 standard deviations: each step adds at most (2^-8 / 2)^2 of variance. */
    check(fabs(mean - 0.9) < 10 * 0x1p-9 * 10 / 100, "bfloat16 after 100 steps: mean %.5f", mean);
}

/* A gradient must not lie over scales. */
static void test_overlap(void)
{
    static float memory[4 * BLOCK];
    static int8_t code[2 * BLOCK];
    const intptr_t n = 2 * BLOCK, four = 4, one = 1;
    const instep_array p = {(char *)memory, &n, &four, 1, INSTEP_FLOAT32};
    const instep_array s = {(char *)code, &n, &one, 1, INSTEP_INT8};
    const instep_array over = {(char *)(memory + n + 1), &n, &(intptr_t){0}, 1, INSTEP_FLOAT32};
    const instep_array beside = {(char *)(memory + n + 2), &n, &(intptr_t){0}, 1, INSTEP_FLOAT32};
    instep_plan *plan = plan_of(1, &p, &s, &(float *){memory + n}); /* two scales */
    check(instep_plan_set_gradient(plan, 0, &over, 0) == 2, "gradient over the last scale");
    check(instep_plan_set_gradient(plan, 0, &beside, 0) == 0, "gradient behind it");
    instep_plan_destroy(plan);
}

int main(void)
{
    static const instep_dtype dtypes[] = {INSTEP_FLOAT32, INSTEP_FLOAT64, INSTEP_BFLOAT16};
    static const instep_dtype storages[] = {INSTEP_FLOAT32, INSTEP_BFLOAT16, INSTEP_INT8};
    arena *const all[] = {&codes, &scales, &values, &parameter, &gradient};
    for (size_t k = 0; k < sizeof all / sizeof all[0]; ++k) arena_open(all[k], 2 << 20);
    for (int k = 0; k < INSTEP_MAX_STATES; ++k) {
        arena_open(&state[k], 1 << 20);
        arena_open(&scale[k], 1 << 20);
    }
    for (size_t k = 0; k < 3; ++k) test_nearest(kinds[k]);
    test_hard_values();
    for (int rule = 0; rule < instep_rule_count(); ++rule)
        for (size_t d = 0; d < 3; ++d)
            for (size_t k = 0; k < 3; ++k)
                if (count_states(rule) > 0 || k == 0) test_steps(rule, dtypes[d], storages[k]);
    test_small_steps();
    test_overlap();
    printf("%d failures\n", failures);
    return failures > 0;
}
