/* test_classes.c: losses over classes between guard pages: every class count, axis, layout and
 * storage gives the bits of dense rows, which are checked against the formula in long double. */
#include "data.h"

enum { IGNORED = 7, MOST_LINES = 1026, MOST_CLASSES = 2100, MOST_ELEMENTS = MOST_LINES * 700 };

/* How a call is made. Lines, the rows of classes, are numbered in C order. */
typedef struct {
    int loss;
    domain set;                /* of pred */
    instep_dtype dtype, given; /* given: of the target; integers are labels */
    layout pred, gradient, target, values;
    int axis;            /* of the classes, among three */
    int at, gradient_at; /* where that axis comes in the memory of pred and target */
    intptr_t lines, columns, classes;
    int weighted, valued, in_place, hostile, at_end, threads;
    double smoothing;
} class_case;

static arena pred, target, gradient, weight, values;
static const double scale = 0.5;

/* Dense rows in the type computed in; the target as the other arrays hold it. */
static struct {
    _Alignas(64) char pred[8 * MOST_ELEMENTS], gradient[8 * MOST_ELEMENTS];
    char values[8 * MOST_LINES];
    double weight[MOST_CLASSES], target[MOST_ELEMENTS];
    int64_t label[MOST_LINES];
    double total;
    uint64_t hash; /* of all results so far */
} dense;

/* ---- arrays with a class axis ---------------------------------------------------------------- */

static void place(const class_case *c, arena *a, layout how, instep_dtype dtype, int at)
{
    const intptr_t rows = c->lines / c->columns;
    if (at == 0) arena_place(a, how, dtype, c->classes, c->lines, c->at_end);
    if (at == 1) arena_place(a, how, dtype, rows, c->classes * c->columns, c->at_end);
    if (at == 2) arena_place(a, how, dtype, c->lines, c->classes, c->at_end);
}

static int place_of(const class_case *c, const arena *a)
{
    return a == &gradient ? c->gradient_at : c->at;
}

static char *class_at(const class_case *c, const arena *a, intptr_t line, intptr_t k)
{
    const int at = place_of(c, a);
    if (at == 0) return arena_at(a, k, line);
    if (at == 2) return arena_at(a, line, k);
    return arena_at(a, line / c->columns, k * c->columns + line % c->columns);
}

/* The array of an arena that `place` laid out: lines / columns, columns and, at `axis`, classes. */
static instep_array array_of(const class_case *c, const arena *a, intptr_t shape[3],
                             intptr_t strides[3])
{
    const intptr_t outer = a->strides[0], inner = a->strides[1], columns = c->columns;
    const int at = place_of(c, a), first = c->axis == 0, second = c->axis == 2 ? 1 : 2;
    shape[first] = c->lines / columns;
    shape[second] = columns;
    shape[c->axis] = c->classes;
    strides[first] = at == 0 ? columns * inner : at == 1 ? outer : columns * outer;
    strides[second] = at == 2 ? outer : inner;
    strides[c->axis] = at == 0 ? outer : at == 1 ? columns * inner : inner;
    return (instep_array){a->array.data, shape, strides, 3, a->array.dtype};
}

/* The array of an arena that holds one number per line. */
static instep_array lines_of(const class_case *c, const arena *a, intptr_t shape[2],
                             intptr_t strides[2])
{
    shape[0] = c->lines / c->columns;
    shape[1] = c->columns;
    strides[0] = c->columns * a->strides[1];
    strides[1] = a->strides[1];
    return (instep_array){a->array.data, shape, strides, 2, a->array.dtype};
}

/* ---- contents -------------------------------------------------------------------------------- */

static int has_labels(const class_case *c) { return c->given >= INSTEP_INT8; }

/* Few lines are ignored; labels fit into int8. */
static double label_number(const class_case *c, intptr_t line)
{
    if (line % 11 == 2) return IGNORED;
    return (double)(line * 31 % (c->classes < 128 ? c->classes : 128));
}

/* Hostile: some elements of a line are infinite, NaN or huge, or that of its label towers. */
static double pred_number(const class_case *c, intptr_t line, intptr_t k)
{
    static const double hard[] = {9984, (double)INFINITY, -(double)INFINITY, -9984, (double)NAN};
    const int hits = line % 5 ? k % 29 == 3 : (double)k == label_number(c, line);
    return c->hostile && hits ? hard[line % 5] : number_in(c->set, line * c->classes + k, 1);
}

static double target_number(const class_case *c, intptr_t line, intptr_t k)
{
    const double number = number_in(c->set, line * c->classes + k, 2);
    return c->hostile && k % 3 ? 0 : number;
}

static void place_call(const class_case *c)
{
    place(c, &pred, c->pred, c->dtype, c->at);
    place(c, &gradient, c->gradient, c->dtype, c->gradient_at);
    arena_place(&values, c->values, c->dtype, 1, c->lines, c->at_end);
    arena_place(&weight, DENSE, INSTEP_FLOAT64, 1, c->classes, c->at_end);
    fill(&weight, EIGHTHS, 3);
    if (has_labels(c)) arena_place(&target, c->target, c->given, 1, c->lines, c->at_end);
    else place(c, &target, c->target, c->given, c->at);
    for (intptr_t line = 0; line < c->lines; ++line) {
        if (has_labels(c)) put(arena_at(&target, 0, line), c->given, label_number(c, line));
        for (intptr_t k = 0; k < c->classes; ++k) {
            put(class_at(c, &pred, line, k), c->dtype, pred_number(c, line, k));
            if (!has_labels(c))
                put(class_at(c, &target, line, k), c->given, target_number(c, line, k));
        }
    }
}

static int call_intact(const class_case *c)
{
    int ok = unchanged(&weight, EIGHTHS, 3);
    for (intptr_t line = 0; line < c->lines; ++line) {
        if (has_labels(c))
            ok &= get(arena_at(&target, 0, line), c->given) == (double)dense.label[line];
        for (intptr_t k = 0; k < c->classes; ++k) {
            if (!has_labels(c))
                ok &= get(class_at(c, &target, line, k), c->given) ==
                      dense.target[line * c->classes + k];
            if (!c->in_place)
                ok &= holds(class_at(c, &pred, line, k), c->dtype, pred_number(c, line, k));
        }
    }
    ok &= arena_intact(&pred) & arena_intact(&target) & arena_intact(&weight);
    return ok & arena_intact(&gradient) & arena_intact(&values);
}

/* ---- calls ----------------------------------------------------------------------------------- */

static double call_loss(const class_case *c)
{
    intptr_t shape[5][3], strides[5][3];
    const instep_array flat = lines_of(c, &values, shape[3], strides[3]);
    instep_classwise call = {.pred = array_of(c, &pred, shape[0], strides[0]),
                             .target = array_of(c, &target, shape[1], strides[1]),
                             .gradient = array_of(c, &gradient, shape[2], strides[2]),
                             .values = c->valued ? &flat : NULL,
                             .weight = c->weighted ? (const double *)(const void *)weight.array.data
                                                   : NULL,
                             .axis = c->axis,
                             .ignore_index = IGNORED,
                             .label_smoothing = c->smoothing,
                             .scale = scale};
    if (has_labels(c)) call.target = lines_of(c, &target, shape[4], strides[4]);
    if (c->in_place) call.gradient = call.pred;
    return instep_loss_classwise(c->loss, &call, c->threads);
}

static void compute_dense(const class_case *c)
{
    const instep_dtype type = compute_type(c->dtype);
    const intptr_t size = size_of(type), shape[] = {c->lines, c->classes};
    const intptr_t strides[] = {c->classes * size, size}, wide[] = {c->classes * 8, 8};
    const instep_array flat = {dense.values, shape, &strides[1], 1, type};
    instep_classwise call = {.pred = {dense.pred, shape, strides, 2, type},
                             .target = {(char *)dense.target, shape, wide, 2, INSTEP_FLOAT64},
                             .gradient = {dense.gradient, shape, strides, 2, type},
                             .values = &flat,
                             .weight = c->weighted ? dense.weight : NULL,
                             .axis = 1,
                             .ignore_index = IGNORED,
                             .label_smoothing = c->smoothing,
                             .scale = scale};
    for (intptr_t line = 0; line < c->lines; ++line) {
        if (has_labels(c)) dense.label[line] = (int64_t)get(arena_at(&target, 0, line), c->given);
        for (intptr_t k = 0; k < c->classes; ++k) {
            const intptr_t i = line * c->classes + k;
            put(dense.pred + i * size, type, get(class_at(c, &pred, line, k), c->dtype));
            if (!has_labels(c)) dense.target[i] = get(class_at(c, &target, line, k), c->given);
        }
    }
    memcpy(dense.weight, weight.array.data, (size_t)c->classes * sizeof(double));
    if (has_labels(c))
        call.target = (instep_array){(char *)dense.label, shape, &wide[1], 1, INSTEP_INT64};
    dense.total = instep_loss_classwise(c->loss, &call, 1);
}

/* ---- the formulas ---------------------------------------------------------------------------- */

static int is_ignored(const class_case *c, intptr_t line)
{
    return has_labels(c) && dense.label[line] == IGNORED;
}

/* The effective target of one class. */
static long double target_of(const class_case *c, intptr_t line, intptr_t k)
{
    const double q = has_labels(c) ? dense.label[line] == k : dense.target[line * c->classes + k];
    const long double w = c->weighted ? number_in(EIGHTHS, k, 3) : 1;
    if (is_ignored(c, line)) return 0;
    return w * ((1 - (long double)c->smoothing) * q + (long double)c->smoothing / c->classes);
}

/* Value and gradient of one line; returns the size of the terms added up. */
static long double twin_line(const class_case *c, intptr_t line, long double *value,
                             long double *slope)
{
    const int softmax = strcmp(instep_loss_name(c->loss), "cross_entropy") == 0;
    long double mass = 0, dot = 0, exponentials = 0, size = 0;
    for (intptr_t k = 0; k < c->classes; ++k) {
        const long double t = target_of(c, line, k), x = pred_number(c, line, k);
        const long double log = logl(x), held = log < -100 ? -100 : log;
        mass += t;
        dot += t * (softmax ? x : held);
        exponentials += expl(x);
        size += fabsl(t) * (fabsl(x) + 12);
        slope[k] = -t / (x < 1e-12L ? 1e-12L : x);
    }
    *value = softmax ? mass * logl(exponentials) - dot : -dot;
    for (intptr_t k = 0; softmax && k < c->classes; ++k)
        slope[k] = mass * expl(pred_number(c, line, k)) / exponentials - target_of(c, line, k);
    return size;
}

static int dense_is_right(const class_case *c)
{
    static long double slope[MOST_CLASSES];
    const instep_dtype type = compute_type(c->dtype);
    const intptr_t width = size_of(type);
    long double sum = 0, size_of_sum = 0, value;
    int ok = 1;
    for (intptr_t line = 0; line < c->lines; ++line) {
        const long double size = twin_line(c, line, &value, slope);
        ok &= near(get(dense.values + line * width, type), value, size, type);
        sum += value;
        size_of_sum += size;
        for (intptr_t k = 0; k < c->classes; ++k) {
            const double is = get(dense.gradient + (line * c->classes + k) * width, type);
            ok &= near(is, slope[k] * scale, size, type);
            if (is_ignored(c, line)) ok &= is == 0;
        }
    }
    return ok & near(dense.total, sum, size_of_sum, type);
}

/* ---- comparisons ----------------------------------------------------------------------------- */

static int results_are_right(const class_case *c, double total)
{
    const instep_dtype type = compute_type(c->dtype);
    const arena *out = c->in_place ? &pred : &gradient;
    const intptr_t width = size_of(type);
    int ok = same_double(total, dense.total);
    dense.hash = mix(dense.hash, total);
    for (intptr_t line = 0; line < c->lines; ++line) {
        const double value = get(dense.values + line * width, type);
        dense.hash = mix(dense.hash, value);
        if (c->valued) ok &= holds(arena_at(&values, 0, line), c->dtype, value);
        for (intptr_t k = 0; k < c->classes; ++k) {
            const double is = get(dense.gradient + (line * c->classes + k) * width, type);
            dense.hash = mix(dense.hash, is);
            ok &= holds(class_at(c, out, line, k), c->dtype, is);
        }
    }
    return ok;
}

/* One call in one layout; `twin`: the dense rows are to be checked, too. */
static int case_is_right(const class_case *c, int twin)
{
    place_call(c);
    compute_dense(c);
    const int formula = !twin || c->hostile || dense_is_right(c);
    const int bits = results_are_right(c, call_loss(c)), intact = call_intact(c);
    if (!formula || !bits || !intact)
        check(0,
              "%ld lines of %ld, axis %d at %d, %d, layouts %d %d %d, types %s %s, weighted %d, "
              "smoothing "
              "%g, in place %d, hostile %d: %s",
              (long)c->lines, (long)c->classes, c->axis, c->at, c->gradient_at, c->pred,
              c->gradient, c->target, name_of(c->dtype), name_of(c->given), c->weighted,
              c->smoothing, c->in_place, c->hostile,
              !formula ? "the formula"
              : !bits  ? "bits"
                       : "bytes outside");
    return formula & bits & intact;
}

static intptr_t classes_of(int k)
{
    static const intptr_t more[] = {48,  64,  65,   95,   96,   97,   98,   128,          511,
                                    512, 513, 1000, 1024, 1025, 1600, 2048, MOST_CLASSES, -1};
    return k < 34 ? k + 1 : more[k - 34];
}

/* All layouts, in place and not, each on another axis and with the classes elsewhere in memory. */
static int layouts_are_right(class_case c, int turn)
{
    static const layout layouts[][3] = {{DENSE, DENSE, DENSE},       {STRIDED, DENSE, PACKED},
                                        {REVERSED, STRIDED, DENSE},  {FORTRAN, FORTRAN, FORTRAN},
                                        {PACKED, REVERSED, STRIDED}, {DENSE, PACKED, REVERSED},
                                        {FORTRAN, DENSE, CONSTANT},  {DENSE, STRIDED, ROWS}};
    const int count = 2 * (int)(sizeof layouts / sizeof layouts[0]);
    int ok = 1;
    for (int k = 0; k < count && ok; ++k) {
        c.pred = layouts[k / 2][0];
        c.gradient = layouts[k / 2][1];
        c.target = layouts[k / 2][2];
        c.values = (layout)((turn + k) % 5);
        c.axis = (turn + k) % 3;
        c.at = (turn + k / 2) % 3;
        c.gradient_at = (turn + k / 2 + k % 4 / 2) % 3;
        c.in_place = k % 2;
        c.valued = k / 2 % 3 > 0;
        c.threads = 1 + k % 3;
        c.at_end = (turn + k) % 2;
        ok &= case_is_right(&c, k == 0 || c.target >= ROWS);
    }
    return ok;
}

/* Enough rows for groups of several whose classes take more than one tile. */
static int many_lines_are_right(class_case c)
{
    int ok = 1;
    c.lines = MOST_LINES;
    c.columns = 3;
    c.classes = MOST_ELEMENTS / MOST_LINES;
    c.valued = 1;
    for (int k = 0; k < 4 && ok; ++k) {
        c.given = k % 2 ? INSTEP_INT16 : INSTEP_FLOAT32;
        c.axis = k % 3;
        c.at = c.gradient_at = k / 2;
        c.gradient = k == 2 ? REVERSED : DENSE;
        c.in_place = k != 2;
        c.smoothing = k == 3 ? 0.125 : 0;
        c.threads = 1 + k;
        ok &= case_is_right(&c, k == 0);
    }
    return ok;
}

/* `hash` is of the results on the level before, or 0. */
static void test_class_loss(const char *name, domain set, instep_dtype dtype, uint64_t *hash)
{
    class_case c = {.loss = loss_named(name), .set = set, .dtype = dtype};
    int turn = 0, ok = 1;
    dense.hash = 1;
    for (c.given = INSTEP_FLOAT32; c.given < INSTEP_DTYPES; ++c.given)
        for (int k = 0; (c.classes = classes_of(k)) >= 0; ++k, ++turn) {
            const int options = turn % 5;
            c.columns = k < 43 && turn % 7 == 0 ? 35 : k % 3 + 1;
            c.lines = (k % 2 + 1) * c.columns;
            c.weighted = options == 4 ? turn / 5 % 2 : options % 2;
            c.smoothing = options / 2 == 1 ? 0.125 : 0;
            c.hostile = options == 4;
            ok &= layouts_are_right(c, turn);
        }
    ok &= many_lines_are_right((class_case){.loss = c.loss, .set = set, .dtype = dtype});
    ok &= *hash == 0 || *hash == dense.hash;
    *hash = dense.hash;
    check(ok, "%s %s on %s: every layout, axis, target type and class count: %016llx", name,
          name_of(dtype), instep_isa_name(), (unsigned long long)*hash);
}

int main(void)
{
    arena *const all[] = {&pred, &target, &gradient, &weight, &values};
    uint64_t hash[INSTEP_BFLOAT16 + 1][2] = {{0}};
    const char *isa;
    for (size_t k = 0; k < sizeof all / sizeof all[0]; ++k) arena_open(all[k], 1 << 23);
    for (int level = 0; (isa = instep_isa_available(level)) != NULL; ++level) {
        instep_isa_select(isa);
        for (instep_dtype dtype = INSTEP_FLOAT32; dtype <= INSTEP_BFLOAT16; ++dtype) {
            test_class_loss("cross_entropy", EIGHTHS, dtype, &hash[dtype][0]);
            test_class_loss("categorical_cross_entropy", UNIT, dtype, &hash[dtype][1]);
        }
    }
    printf("%d failures\n", failures);
    return failures > 0;
}
