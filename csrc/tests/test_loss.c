/* test_loss.c: elementwise losses between guard pages: every length, layout and storage gives the
 * bits of the dense baseline, which is checked against the formula in long double. */
#include "twins.h"

static const instep_dtype floats[] = {INSTEP_FLOAT32, INSTEP_FLOAT64, INSTEP_FLOAT16,
                                      INSTEP_BFLOAT16, INSTEP_LONGDOUBLE};
static arena pred, target, gradient, weight, values, extra, coefficients;

/* ---- mse, exactly ---------------------------------------------------------------------------- */

/* Lays out and fills all arrays; ROWS and CONSTANT are for inputs only. */
static void place_mse(instep_dtype dtype, instep_dtype given, layout how, layout other, intptr_t n,
                      int at_end)
{
    const intptr_t rows = rows_of(n), columns = n / rows;
    arena_place(&pred, how, dtype, rows, columns, at_end);
    arena_place(&target, other, given, rows, columns, at_end);
    arena_place(&weight, how, given, rows, columns, at_end);
    arena_place(&gradient, other <= PACKED ? other : DENSE, dtype, rows, columns, at_end);
    arena_place(&values, how, dtype, rows, columns, at_end);
    arena_place(&coefficients, DENSE, INSTEP_FLOAT64, 1, INSTEP_MAX_LOSS_COEFFICIENTS, at_end);
    fill(&pred, EIGHTHS, 1);
    fill(&target, EIGHTHS, 2);
    fill(&weight, EIGHTHS, 3);
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
    double sum = 0;
    int ok = 1;
    for (intptr_t i = 0; i < rows * columns; ++i) {
        const double w = with_weight ? number_in(EIGHTHS, i, 3) : 1;
        const double error = number_in(EIGHTHS, i, 1) - number_in(EIGHTHS, target_index(i), 2);
        ok &= holds(arena_at(out, i / columns, i % columns), dtype, 2 * error * w * scale);
        ok &= holds(arena_at(&values, i / columns, i % columns), dtype, w * error * error);
        sum += w * error * error;
    }
    return ok & (total == sum);
}

/* One call against the formula: multiples of 1/512 and a scale of 3/8 are exact in any order. */
static int mse_case(int with_weight, int in_place)
{
    const arena *out = in_place ? &pred : &gradient;
    const double scale = 0.375;
    const instep_elementwise call = {.pred = pred.array,
                                     .target = target.array,
                                     .gradient = out->array,
                                     .weight = with_weight ? &weight.array : NULL,
                                     .values = &values.array,
                                     .coefficients = (double *)(void *)coefficients.array.data,
                                     .scale = scale};
    const double total = instep_loss_elementwise(loss_named("mse"), &call, 1);
    int ok = mse_results_are_right(out, with_weight, scale, total) & unchanged(&weight, EIGHTHS, 3);
    ok &= in_place || unchanged(&pred, EIGHTHS, 1);
    ok &= target.strides[0] == 0 || target.strides[1] == 0 || unchanged(&target, EIGHTHS, 2);
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
                    place_mse(dtype, floats[f], how, other, n, k % 2);
                    ok &= mse_case(1, 0);
                    place_mse(dtype, floats[f], how, other, n, 1 - k % 2);
                    ok &= mse_case(0, k % 3 == 0);
                    if (!ok)
                        check(0, "n = %ld, layouts %d %d, target %s", (long)n, how, other,
                              name_of(floats[f]));
                }
    check(ok, "mse %s on %s: every length, layout and target type", name_of(dtype), isa);
}

/* ---- every loss ------------------------------------------------------------------------------ */

typedef struct {
    const twin_case *loss;
    instep_dtype dtype, given; /* given: of target, weight and extra */
    layout how, other;
    intptr_t n;
    int weighted, valued, in_place, threads, at_end;
} loss_case;

static const double scale = 0.375;

/* The same numbers as dense arrays of the type computed in, and the results with them. */
static struct {
    arena pred, target, gradient, weight, values, extra;
    double total;
    uint64_t hash; /* of all results so far */
} dense;

static void place_loss(const loss_case *c)
{
    const intptr_t rows = rows_of(c->n), columns = c->n / rows;
    const layout writable = c->other <= PACKED ? c->other : DENSE;
    arena_place(&pred, c->how, c->dtype, rows, columns, c->at_end);
    arena_place(&target, c->other, c->given, rows, columns, c->at_end);
    arena_place(&weight, c->how, c->given, rows, columns, c->at_end);
    arena_place(&gradient, writable, c->dtype, rows, columns, c->at_end);
    arena_place(&values, c->how, c->dtype, rows, columns, c->at_end);
    arena_place(&extra, writable, c->given, rows, columns, c->at_end);
    arena_place(&coefficients, DENSE, INSTEP_FLOAT64, 1, INSTEP_MAX_LOSS_COEFFICIENTS, c->at_end);
    memcpy(coefficients.array.data, c->loss->coefficients, sizeof c->loss->coefficients);
    fill(&pred, c->loss->pred, 1);
    fill(&target, c->loss->target, 2);
    fill(&weight, EIGHTHS, 3);
    fill(&extra, COUNTS, 4);
}

static void copy_elements(const arena *to, const arena *from)
{
    for (intptr_t row = 0; row < to->shape[0]; ++row)
        for (intptr_t column = 0; column < to->shape[1]; ++column)
            put(arena_at(to, row, column), to->array.dtype,
                get(arena_at(from, row, column), from->array.dtype));
}

static double call_loss(const loss_case *c)
{
    const instep_elementwise call = {.pred = pred.array,
                                     .target = target.array,
                                     .gradient = c->in_place ? pred.array : gradient.array,
                                     .weight = c->weighted ? &weight.array : NULL,
                                     .values = c->valued ? &values.array : NULL,
                                     .extra = c->loss->has_extra ? &extra.array : NULL,
                                     .coefficients = (double *)(void *)coefficients.array.data,
                                     .scale = scale};
    return instep_loss_elementwise(loss_named(c->loss->name), &call, c->threads);
}

/* The same numbers, dense in pred's memory order: sums follow it. */
static void compute_dense(const loss_case *c)
{
    const instep_dtype type = compute_type(c->dtype);
    const layout how = c->how == FORTRAN ? FORTRAN : DENSE;
    const intptr_t rows = pred.shape[0], columns = pred.shape[1];
    arena *const all[] = {&dense.pred,   &dense.target, &dense.gradient,
                          &dense.weight, &dense.values, &dense.extra};
    for (size_t k = 0; k < sizeof all / sizeof all[0]; ++k)
        arena_place(all[k], how, type, rows, columns, 0);
    copy_elements(&dense.pred, &pred);
    copy_elements(&dense.target, &target);
    copy_elements(&dense.weight, &weight);
    copy_elements(&dense.extra, &extra);
    const instep_elementwise call = {.pred = dense.pred.array,
                                     .target = dense.target.array,
                                     .gradient = dense.gradient.array,
                                     .weight = c->weighted ? &dense.weight.array : NULL,
                                     .values = &dense.values.array,
                                     .extra = c->loss->has_extra ? &dense.extra.array : NULL,
                                     .coefficients = c->loss->coefficients,
                                     .scale = scale};
    dense.total = instep_loss_elementwise(loss_named(c->loss->name), &call, 1);
    dense.hash = mix(dense.hash, dense.total);
}

static int dense_is_right(const loss_case *c)
{
    const instep_dtype type = dense.pred.array.dtype;
    long double sum = 0, size_of_sum = 0;
    int ok = 1;
    for (intptr_t row = 0; row < pred.shape[0]; ++row)
        for (intptr_t column = 0; column < pred.shape[1]; ++column) {
            const double x = get(arena_at(&dense.pred, row, column), type);
            const double t = get(arena_at(&dense.target, row, column), type);
            const double w = c->weighted ? get(arena_at(&dense.weight, row, column), type) : 1;
            const double more = c->loss->has_extra ? get(arena_at(&dense.extra, row, column), type)
                                                   : c->loss->coefficients[0];
            const twin wanted = c->loss->of(x, t, more, c->loss->coefficients);
            const long double size = fabsl((long double)w) * (wanted.size + 0.5L);
            const double value = get(arena_at(&dense.values, row, column), type);
            const double slope = get(arena_at(&dense.gradient, row, column), type);
            dense.hash = mix(mix(dense.hash, value), slope);
            ok &= near(value, w * wanted.value, size, type);
            ok &= near(slope, scale * w * wanted.slope, (long double)scale * size, type);
            sum += w * wanted.value;
            size_of_sum += size + fabsl(w * wanted.value);
        }
    return ok & near(dense.total, sum, size_of_sum, type);
}

/* What the call left behind, against the dense results. */
static int loss_results_are_right(const loss_case *c, double total)
{
    const arena *out = c->in_place ? &pred : &gradient;
    const instep_dtype type = dense.pred.array.dtype;
    int ok = same_double(total, dense.total);
    for (intptr_t row = 0; row < pred.shape[0]; ++row)
        for (intptr_t column = 0; column < pred.shape[1]; ++column) {
            const double slope = get(arena_at(&dense.gradient, row, column), type);
            const double value = get(arena_at(&dense.values, row, column), type);
            ok &= holds(arena_at(out, row, column), c->dtype, slope);
            if (c->valued) ok &= holds(arena_at(&values, row, column), c->dtype, value);
        }
    ok &= c->in_place || unchanged(&pred, c->loss->pred, 1);
    ok &= c->other >= ROWS || unchanged(&target, c->loss->target, 2);
    ok &= unchanged(&weight, EIGHTHS, 3) & unchanged(&extra, COUNTS, 4);
    ok &= arena_intact(&pred) & arena_intact(&target) & arena_intact(&gradient);
    return ok & arena_intact(&weight) & arena_intact(&values) & arena_intact(&extra);
}

static int loss_is_right(const loss_case *c)
{
    place_loss(c);
    compute_dense(c);
    const int formula = dense_is_right(c), bits = loss_results_are_right(c, call_loss(c));
    if (!formula || !bits)
        check(0, "%s: n = %ld, layouts %d %d, types %s %s, weighted %d valued %d in place %d: %s",
              c->loss->name, (long)c->n, c->how, c->other, name_of(c->dtype), name_of(c->given),
              c->weighted, c->valued, c->in_place,
              formula ? "other bits than dense" : "dense is not what the formula gives");
    return formula & bits;
}

/* The full product of options (values are wanted every other time), each at another one of the
 * shorter lengths. */
static int every_option(loss_case c)
{
    int turn = 0, ok = 1;
    for (c.given = INSTEP_FLOAT32; c.given < INSTEP_DTYPES; ++c.given)
        for (c.how = DENSE; c.how <= PACKED; ++c.how)
            for (c.other = DENSE; c.other <= CONSTANT; ++c.other)
                for (int options = 0; options < 4 && ok; ++options) {
                    c.n = length_of(turn % 78);
                    c.weighted = options & 1;
                    c.in_place = options >> 1;
                    c.valued = turn / 4 % 2;
                    c.threads = 1;
                    c.at_end = ++turn / 3 % 2;
                    ok &= loss_is_right(&c);
                }
    return ok;
}

/* Around whole pieces, and where several threads share the work. */
static int long_arrays(loss_case c)
{
    static const intptr_t lengths[] = {16383, 16384, 16385, 50003};
    int ok = 1;
    for (int turn = 0; turn < 16 && ok; ++turn) {
        c.n = lengths[turn % 4];
        c.how = turn % 3 ? DENSE : (layout)(turn / 3 % 5);
        c.other = (layout)(turn % 7);
        c.given = turn % 2 ? c.dtype : (instep_dtype)(turn % INSTEP_DTYPES);
        c.weighted = turn / 4 % 2;
        c.valued = turn / 2 % 2;
        c.in_place = turn / 8;
        c.threads = 1 + turn % 5;
        c.at_end = turn % 2;
        ok &= loss_is_right(&c);
    }
    return ok;
}

/* `hash` is of the results on the level before, or 0. */
static void test_loss(const twin_case *loss, instep_dtype dtype, uint64_t *hash)
{
    const loss_case c = {.loss = loss, .dtype = dtype};
    dense.hash = 1;
    int ok = every_option(c) & long_arrays(c);
    ok &= *hash == 0 || *hash == dense.hash;
    *hash = dense.hash;
    check(ok, "%s (%g, %g, %g) %s on %s: every option, layout and target type: %016llx", loss->name,
          loss->coefficients[0], loss->coefficients[1], loss->coefficients[2], name_of(dtype),
          instep_isa_name(), (unsigned long long)*hash);
}

static void test_registry(void)
{
    static const char *const others[] = {"cross_entropy", "categorical_cross_entropy", "region"};
    for (int loss = 0; loss < instep_loss_count(); ++loss) {
        const char *name = instep_loss_name(loss);
        int known = 0;
        for (int k = 0; k < TWIN_CASES; ++k) known |= strcmp(name, twin_cases[k].name) == 0;
        for (int k = 0; k < 3; ++k) known |= strcmp(name, others[k]) == 0;
        check(known, "%s is tested", name);
    }
}

/* ---- reductions ------------------------------------------------------------------------------ */

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
                fill(&pred, EIGHTHS, 1);
                for (intptr_t i = 0; i < n; ++i) sum += number_in(EIGHTHS, i, 1);
                ok &= instep_sum(&pred.array, 1 + k % 3) == sum;
                ok &= unchanged(&pred, EIGHTHS, 1) & arena_intact(&pred);
            }
    check(ok, "instep_sum is exact for every length, layout and type");
}

/* How many numbers of pred lie outside; NaN does not. */
static int64_t count_simply(double low, double high, int sizes)
{
    int64_t count = 0;
    for (intptr_t row = 0; row < pred.shape[0]; ++row)
        for (intptr_t column = 0; column < pred.shape[1]; ++column) {
            const double value = get(arena_at(&pred, row, column), pred.array.dtype);
            const double size = sizes ? fabs(value) : value;
            count += (size < low) | (size > high);
        }
    return count;
}

static void test_count_outside(instep_dtype dtype, const char *isa)
{
    static const double limits[][3] = {{-1, 1, 0},     {1, 3, 1},       {0, 0, 0},
                                       {0, 0x1p60, 0}, {-0x1p60, 2, 1}, {1, 1, 1}};
    intptr_t n;
    int ok = 1;
    for (layout how = DENSE; how <= CONSTANT; ++how)
        for (int k = 0; (n = length_of(k)) >= 0; ++k) {
            const double *limit = limits[k % 6], hard = k % 2 ? (double)NAN : -(double)INFINITY;
            const intptr_t rows = rows_of(n);
            const int sizes = limit[2] != 0;
            arena_place(&pred, how, dtype, rows, n / rows, k / 2 % 2);
            fill(&pred, EIGHTHS, k);
            if (n > 0 && dtype < INSTEP_INT8) put(arena_at(&pred, rows - 1, 0), dtype, hard);
            const int64_t wanted = count_simply(limit[0], limit[1], sizes);
            ok &= wanted == instep_count_outside(&pred.array, limit[0], limit[1], sizes, 1 + k % 3);
            ok &= arena_intact(&pred);
        }
    check(ok, "instep_count_outside counts %s right on %s", name_of(dtype), isa);
}

int main(void)
{
    arena *const all[] = {&pred,          &target,       &gradient,     &weight,
                          &values,        &extra,        &coefficients, &dense.pred,
                          &dense.target,  &dense.weight, &dense.values, &dense.extra,
                          &dense.gradient};
    const char *isa;
    uint64_t hash[INSTEP_BFLOAT16 + 1][TWIN_CASES] = {{0}};
    for (size_t k = 0; k < sizeof all / sizeof all[0]; ++k) arena_open(all[k], 1 << 22);
    for (int level = 0; (isa = instep_isa_available(level)) != NULL; ++level) {
        instep_isa_select(isa);
        for (instep_dtype dtype = INSTEP_FLOAT32; dtype <= INSTEP_FLOAT64; ++dtype)
            test_mse(dtype, isa);
        for (instep_dtype dtype = INSTEP_FLOAT32; dtype <= INSTEP_BFLOAT16; ++dtype)
            for (int k = 0; k < TWIN_CASES; ++k) test_loss(&twin_cases[k], dtype, &hash[dtype][k]);
        for (instep_dtype dtype = INSTEP_FLOAT32; dtype < INSTEP_DTYPES; ++dtype)
            test_count_outside(dtype, isa);
    }
    test_registry();
    test_sum();
    printf("%d failures\n", failures);
    return failures > 0;
}
