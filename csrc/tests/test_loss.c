/* test_loss.c: losses between guard pages: every length, layout and storage gives the bits of the
 * dense baseline; checked against the formula in long double. */
#include "arena.h"

static const instep_dtype floats[] = {INSTEP_FLOAT32, INSTEP_FLOAT64, INSTEP_FLOAT16,
                                      INSTEP_BFLOAT16, INSTEP_LONGDOUBLE};
static arena pred, target, gradient, weight, values;

/* Multiples of 1/8 in [-4, 4): exact in every float type. `which` tells arrays apart. */
static double number(intptr_t i, int which)
{
    const uint32_t mixed = ((uint32_t)i + 1) * 2654435761u + (uint32_t)which * 40503u;
    return ((double)(mixed >> 26) - 32) / 8;
}

static void fill(const arena *a, int which)
{
    for (intptr_t row = 0; row < a->shape[0]; ++row)
        for (intptr_t column = 0; column < a->shape[1]; ++column)
            put(arena_at(a, row, column), a->array.dtype,
                number(row * a->shape[1] + column, which));
}

static int unchanged(const arena *a, int which)
{
    char wanted[sizeof(long double)];
    int ok = 1;
    for (intptr_t row = 0; row < a->shape[0]; ++row)
        for (intptr_t column = 0; column < a->shape[1]; ++column) {
            put(wanted, a->array.dtype, number(row * a->shape[1] + column, which));
            ok &= equal_bytes(arena_at(a, row, column), wanted, size_of(a->array.dtype));
        }
    return ok;
}

static int near(double is, long double wanted, long double scale, instep_dtype dtype)
{
    const long double tolerance = dtype == INSTEP_FLOAT32 ? 1e-6L : 1e-14L;
    return fabsl((long double)is - wanted) <= tolerance * (scale + fabsl(wanted));
}

static void *get_memory(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size);
    if (memory == NULL) exit(1);
    return memory;
}

/* ---- elementwise ----------------------------------------------------------------------------- */

static int mse_number(void)
{
    for (int loss = 0; loss < instep_loss_count(); ++loss)
        if (strcmp(instep_loss_name(loss), "mse") == 0) return loss;
    check(0, "there is a loss mse");
    exit(1);
}

/* Lays out and fills all arrays; ROWS and CONSTANT are for inputs only. */
static void place_elementwise(instep_dtype dtype, instep_dtype given, layout how, layout other,
                              intptr_t n, int at_end)
{
    const intptr_t rows = rows_of(n), columns = n / rows;
    arena_place(&pred, how, dtype, rows, columns, at_end);
    arena_place(&target, other, given, rows, columns, at_end);
    arena_place(&weight, how, given, rows, columns, at_end);
    arena_place(&gradient, other <= PACKED ? other : DENSE, dtype, rows, columns, at_end);
    arena_place(&values, how, dtype, rows, columns, at_end);
    fill(&pred, 1);
    fill(&target, 2);
    fill(&weight, 3);
}

/* Which number a target element holds: of those that share its bytes, the last one written. */
static intptr_t target_index(intptr_t i)
{
    const intptr_t rows = target.shape[0], columns = target.shape[1];
    if (target.strides[1] == 0) return rows * columns - 1;
    return target.strides[0] == 0 ? (rows - 1) * columns + i % columns : i;
}

static int mse_results_are_right(const arena *out, int with_weight, double scale, double total)
{
    const intptr_t rows = pred.shape[0], columns = pred.shape[1];
    const instep_dtype dtype = pred.array.dtype;
    char wanted[sizeof(long double)];
    double sum = 0;
    int ok = 1;
    for (intptr_t i = 0; i < rows * columns; ++i) {
        const double w = with_weight ? number(i, 3) : 1;
        const double error = number(i, 1) - number(target_index(i), 2);
        put(wanted, dtype, 2 * error * w * scale);
        ok &= same(arena_at(out, i / columns, i % columns), wanted, dtype);
        put(wanted, dtype, w * error * error);
        ok &= same(arena_at(&values, i / columns, i % columns), wanted, dtype);
        sum += w * error * error;
    }
    return ok & (total == sum);
}

/* One call against the formula: multiples of 1/512 and a scale of 3/8 are exact in any order. */
static int mse_case(int with_weight, int in_place)
{
    const arena *out = in_place ? &pred : &gradient;
    const double scale = 0.375;
    const instep_elementwise call = {pred.array,    target.array,
                                     out->array,    with_weight ? &weight.array : NULL,
                                     &values.array, scale};
    const double total = instep_loss_elementwise(mse_number(), &call, 1);
    int ok = mse_results_are_right(out, with_weight, scale, total) & unchanged(&weight, 3);
    ok &= in_place || unchanged(&pred, 1);
    ok &= target.strides[0] == 0 || target.strides[1] == 0 || unchanged(&target, 2);
    ok &= arena_intact(&pred) & arena_intact(&target) & arena_intact(&weight);
    return ok & (in_place || arena_intact(&gradient)) & arena_intact(&values);
}

static void test_mse(instep_dtype dtype, const char *isa)
{
    intptr_t n;
    int ok = 1;
    for (size_t f = 0; f < sizeof floats / sizeof floats[0]; ++f)
        for (layout how = DENSE; how <= PACKED; ++how)
            for (layout other = DENSE; other <= CONSTANT; ++other)
                for (int k = 0; (n = length_of(k)) >= 0 && ok; ++k) {
                    if (n > 1000 && how != DENSE) continue;
                    place_elementwise(dtype, floats[f], how, other, n, k % 2);
                    ok &= mse_case(1, 0);
                    place_elementwise(dtype, floats[f], how, other, n, 1 - k % 2);
                    ok &= mse_case(0, k % 3 == 0);
                    if (!ok)
                        check(0, "n = %ld, layouts %d %d, target %s", (long)n, how, other,
                              name_of(floats[f]));
                }
    check(ok, "mse %s on %s: every length, layout and target type", name_of(dtype), isa);
}

static void test_sum(void)
{
    intptr_t n;
    int ok = 1;
    for (size_t f = 0; f < sizeof floats / sizeof floats[0]; ++f)
        for (layout how = DENSE; how <= PACKED; ++how)
            for (int k = 0; (n = length_of(k)) >= 0; ++k) {
                double sum = 0;
                const intptr_t rows = rows_of(n);
                arena_place(&pred, how, floats[f], rows, n / rows, k % 2);
                fill(&pred, 1);
                for (intptr_t i = 0; i < n; ++i) sum += number(i, 1);
                ok &= instep_sum(&pred.array, 1 + k % 3) == sum;
                ok &= unchanged(&pred, 1) & arena_intact(&pred);
            }
    check(ok, "instep_sum is exact for every length, layout and type");
}

/* ---- cross-entropy --------------------------------------------------------------------------- */

enum { LINES = 5 };

static intptr_t classes_of(int k)
{
    static const intptr_t more[] = {511, 512, 513, 1000, 1024, 1025, 1600, -1};
    return k < 34 ? k + 1 : more[k - 34];
}

typedef struct {
    instep_dtype dtype, given; /* given: integers are labels */
    layout pred, gradient, target;
    int weighted, at_end;
    double smoothing;
} softmax_case;

static int64_t label_of(intptr_t row, intptr_t classes)
{
    return row == 2 ? 7 : row * 31 % classes; /* 7 is ignored */
}

static void place_softmax(const softmax_case *c, intptr_t classes)
{
    const int labels = c->given >= INSTEP_INT8;
    arena_place(&pred, c->pred, c->dtype, LINES, classes, c->at_end);
    arena_place(&gradient, c->gradient, c->dtype, LINES, classes, c->at_end);
    arena_place(&values, DENSE, c->dtype, 1, LINES, c->at_end);
    arena_place(&weight, DENSE, c->dtype, 1, classes, c->at_end);
    fill(&pred, 1);
    fill(&weight, 3);
    if (labels) {
        arena_place(&target, c->target, c->given, 1, LINES, c->at_end);
        for (intptr_t row = 0; row < LINES; ++row)
            put(arena_at(&target, 0, row), c->given, (double)label_of(row, classes));
    } else {
        arena_place(&target, c->target, c->given, LINES, classes, c->at_end);
        fill(&target, 2);
    }
}

static double call_softmax(const softmax_case *c, const arena *out, int threads)
{
    const instep_array flat_values = {values.array.data, values.shape + 1, values.strides + 1, 1,
                                      c->dtype};
    instep_softmax call = {
        pred.array, target.array, out->array, &flat_values, c->weighted ? weight.array.data : NULL,
        7,          c->smoothing, 0.5};
    if (c->given >= INSTEP_INT8) {
        ++call.target.shape;
        ++call.target.strides;
        --call.target.ndim;
    }
    return instep_loss_cross_entropy(&call, threads);
}

/* The effective target of one class by the formula. */
static long double target_of(const softmax_case *c, intptr_t row, intptr_t k, intptr_t classes)
{
    const int labels = c->given >= INSTEP_INT8;
    const double q = labels ? label_of(row, classes) == k : number(row * classes + k, 2);
    const long double w = c->weighted ? number(k, 3) : 1;
    if (labels && label_of(row, classes) == 7) return 0;
    return w * ((1 - (long double)c->smoothing) * q + (long double)c->smoothing / classes);
}

/* Compare the arrays in `out` and `values` with the formula. */
static int softmax_is_right(const softmax_case *c, const arena *out, double total)
{
    const intptr_t classes = pred.shape[1];
    long double sum = 0, size_of_sum = 0;
    int ok = 1;
    for (intptr_t row = 0; row < LINES; ++row) {
        long double mass = 0, dot = 0, exponentials = 0, size = 0;
        for (intptr_t k = 0; k < classes; ++k) {
            const long double t = target_of(c, row, k, classes);
            const long double x = number(row * classes + k, 1);
            mass += t;
            dot += t * x;
            exponentials += expl(x);
            size += fabsl(t) * (fabsl(x) + 12);
        }
        const long double value = mass * logl(exponentials) - dot;
        ok &= near(get(arena_at(&values, 0, row), c->dtype), value, size, c->dtype);
        sum += value;
        size_of_sum += size;
        for (intptr_t k = 0; k < classes; ++k) {
            const long double x = number(row * classes + k, 1);
            const long double g = mass * expl(x) / exponentials - target_of(c, row, k, classes);
            ok &= near(get(arena_at(out, row, k), c->dtype), g / 2, size, c->dtype);
        }
    }
    return ok & near(total, sum, size_of_sum, c->dtype);
}

/* Bits of total, values and gradient in C order. */
static void copy_result(char *copy, const arena *out, double total, instep_dtype dtype)
{
    const size_t size = (size_t)size_of(dtype);
    memcpy(copy, &total, sizeof total);
    copy += sizeof total;
    for (intptr_t row = 0; row < LINES; ++row) {
        memcpy(copy, arena_at(&values, 0, row), size);
        copy += size;
        for (intptr_t k = 0; k < out->shape[1]; ++k, copy += size)
            memcpy(copy, arena_at(out, row, k), size);
    }
}

static int softmax_intact(const arena *out)
{
    int ok = unchanged(&weight, 3) & arena_intact(&weight) & arena_intact(&target);
    ok &= out == &pred || unchanged(&pred, 1);
    ok &= arena_intact(&pred) & arena_intact(&values);
    return ok & (out == &pred || arena_intact(&gradient));
}

/* A call in every layout, in place and not, has the bits of the dense one. */
static int softmax_layouts(softmax_case c, intptr_t classes)
{
    static const layout layouts[][3] = {{DENSE, DENSE, DENSE},       {STRIDED, DENSE, PACKED},
                                        {REVERSED, STRIDED, DENSE},  {FORTRAN, FORTRAN, DENSE},
                                        {PACKED, REVERSED, STRIDED}, {DENSE, PACKED, REVERSED}};
    const size_t bytes = 8 + (size_t)(LINES * (classes + 1) * size_of(c.dtype));
    char *first = get_memory(2, bytes), *copy = first + bytes;
    int ok = 1;
    for (size_t k = 0; k < 2 * sizeof layouts / sizeof layouts[0]; ++k) {
        const arena *out = k % 2 ? &pred : &gradient;
        c.pred = layouts[k / 2][0];
        c.gradient = layouts[k / 2][1];
        c.target = layouts[k / 2][2];
        c.at_end = (int)(k + (size_t)classes) % 2;
        place_softmax(&c, classes);
        const double total = call_softmax(&c, out, 1);
        copy_result(k == 0 ? first : copy, out, total, c.dtype);
        if (k == 0) ok &= softmax_is_right(&c, out, total);
        else ok &= memcmp(copy, first, bytes) == 0;
        ok &= softmax_intact(out);
    }
    free(first);
    return ok;
}

static void test_cross_entropy(instep_dtype dtype, instep_dtype given, const char *isa)
{
    intptr_t classes;
    int ok = 1;
    for (int k = 0; (classes = classes_of(k)) >= 0; ++k)
        for (int options = 0; options < 4; ++options) {
            const softmax_case c = {.dtype = dtype,
                                    .given = given,
                                    .weighted = options % 2,
                                    .smoothing = options / 2 ? 0.125 : 0};
            if (!softmax_layouts(c, classes))
                ok = check(0, "%ld classes, options %d", (long)classes, options);
        }
    check(ok, "cross_entropy %s on %s: %s targets, every layout and class count", name_of(dtype),
          isa, name_of(given));
}

/* ---- labels ---------------------------------------------------------------------------------- */

static void test_labels(void)
{
    double total;
    const float narrow[] = {0.5f, 2, 8};
    const double wide[] = {0.5, 2, 8};
    for (instep_dtype dtype = INSTEP_INT8; dtype <= INSTEP_UINT64; ++dtype) {
        int ok = 1;
        for (layout how = DENSE; how <= PACKED; ++how)
            for (intptr_t n = 1; n < 40; ++n) {
                arena_place(&target, how, dtype, rows_of(n), n / rows_of(n), (int)n % 2);
                for (intptr_t i = 0; i < n; ++i)
                    put(arena_at(&target, i / target.shape[1], i % target.shape[1]), dtype,
                        (double)(i % 4));
                const intptr_t used = n - n / 4;
                ok &= instep_check_labels(&target.array, 3, 3, NULL, dtype, &total) == -1;
                ok &= total == (double)used;
                instep_check_labels(&target.array, 3, 3, narrow, INSTEP_FLOAT32, &total);
                ok &= total == 10.5 * (double)(n / 4) + (n % 4 > 0) * 0.5 + (n % 4 > 1) * 2 +
                                   (n % 4 > 2) * 8;
                const double before = total;
                instep_check_labels(&target.array, 3, 3, wide, INSTEP_FLOAT64, &total);
                ok &= total == before;
                const int64_t wrong = instep_check_labels(&target.array, 3, 0, NULL, dtype, &total);
                ok &= wrong == (n > 3 ? 3 : -1);
                ok &= arena_intact(&target);
            }
        check(ok, "labels of type %s are checked", name_of(dtype));
    }
    const uint64_t huge[] = {0, UINT64_MAX, UINT64_C(1) << 63};
    const intptr_t shape = 3, stride = 8;
    const instep_array labels = {(char *)(uintptr_t)huge, &shape, &stride, 1, INSTEP_UINT64};
    check(instep_check_labels(&labels, 3, -1, NULL, INSTEP_FLOAT64, &total) == 1,
          "a label of 2^64 - 1 is not -1");
    check(instep_check_labels(&labels, 3, INT64_MAX, NULL, INSTEP_FLOAT64, &total) == 1,
          "a label of 2^64 - 1 is not 2^63 - 1");
}

int main(void)
{
    arena *const all[] = {&pred, &target, &gradient, &weight, &values};
    const char *isa;
    for (size_t k = 0; k < sizeof all / sizeof all[0]; ++k) arena_open(all[k], 1 << 21);
    for (int level = 0; (isa = instep_isa_available(level)) != NULL; ++level) {
        instep_isa_select(isa);
        for (instep_dtype dtype = INSTEP_FLOAT32; dtype <= INSTEP_FLOAT64; ++dtype) {
            test_mse(dtype, isa);
            for (instep_dtype given = INSTEP_FLOAT32; given <= INSTEP_UINT64; ++given)
                test_cross_entropy(dtype, given, isa);
        }
    }
    test_sum();
    test_labels();
    printf("%d failures\n", failures);
    return failures > 0;
}
