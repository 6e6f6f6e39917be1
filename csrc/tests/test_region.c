/* test_region.c: losses over regions between guard pages: every layout and storage gives the bits
 * of the dense baseline, which is checked against the formula in long double. */
#include "data.h"

/* How a call is made. pred is lines / columns x columns x length; the first `kept` axes number the
 * groups. */
typedef struct {
    instep_dtype dtype, given, mask_type; /* given: of the target */
    layout pred, target, gradient, mask;
    intptr_t lines, columns, length;
    int kept, masked, ignores, from_logits, in_place, hostile, threads, at_end;
    int kind; /* which coefficients */
} region_case;

/* overlap_gain, overlap, pred, target, smooth */
enum { KINDS = 4, GAIN = 0, OVERLAP, PRED, TARGET, SMOOTH, FROM_LOGITS, IGNORED, COEFFICIENTS };
static const double kinds[KINDS][5] = {
    {2, 0, 1, 1, 1},       /* Dice */
    {1, -1, 1, 1, 0},      /* IoU, where D may be 0 */
    {1, 0, 0.25, 0.75, 2}, /* Tversky */
    {2, 0, 1, 1, 0x1p-20}, /* Dice, nearly without smoothing */
};

static arena pred, target, gradient, mask, coefficients, factor, score;

/* The same numbers as dense arrays of the type computed in, and the results with them. */
static struct {
    arena pred, target, gradient, mask, score;
    uint64_t hash; /* of all results so far */
} dense;

static intptr_t groups_of(const region_case *c)
{
    return c->kept == 0 ? 1 : c->kept == 1 ? c->lines / c->columns : c->lines;
}

static intptr_t group_of(const region_case *c, intptr_t line)
{
    return c->kept == 0 ? 0 : c->kept == 1 ? line / c->columns : line;
}

/* ---- arrays ---------------------------------------------------------------------------------- */

static double target_number(const region_case *c, intptr_t line, intptr_t k)
{
    const domain set = c->ignores ? TRITS : line % 2 ? UNIT : BITS;
    return held(c->given, number_in(set, line * c->length + k, 2));
}

static double mask_number(const region_case *c, intptr_t line, intptr_t k)
{
    return number_in(BITS, line * c->length + k, 3);
}

static int exists(const region_case *c, intptr_t line, intptr_t k)
{
    const int shown = !c->masked || mask_number(c, line, k) != 0;
    return shown && !(c->ignores && target_number(c, line, k) == 2);
}

/* Hostile: what does not exist is NaN or infinite. */
static double pred_number(const region_case *c, intptr_t line, intptr_t k)
{
    const domain set = c->from_logits ? EIGHTHS : UNIT;
    if (c->hostile && !exists(c, line, k)) return k % 2 ? (double)NAN : (double)INFINITY;
    return number_in(set, line * c->length + k, 1);
}

static double factor_number(intptr_t group) { return number_in(EIGHTHS, group, 4); }

static void place_call(const region_case *c)
{
    arena_place(&pred, c->pred, c->dtype, c->lines, c->length, c->at_end);
    arena_place(&target, c->target, c->given, c->lines, c->length, c->at_end);
    arena_place(&gradient, c->gradient, c->dtype, c->lines, c->length, c->at_end);
    arena_place(&mask, c->mask, c->mask_type, c->lines, c->length, c->at_end);
    arena_place(&coefficients, DENSE, INSTEP_FLOAT64, 1, COEFFICIENTS, c->at_end);
    arena_place(&factor, DENSE, INSTEP_FLOAT64, 1, groups_of(c), c->at_end);
    arena_place(&score, DENSE, INSTEP_FLOAT64, 1, groups_of(c), c->at_end);
    memcpy(coefficients.array.data, kinds[c->kind], sizeof kinds[0]);
    put(arena_at(&coefficients, 0, FROM_LOGITS), INSTEP_FLOAT64, c->from_logits);
    put(arena_at(&coefficients, 0, IGNORED), INSTEP_FLOAT64, c->ignores ? 2 : (double)NAN);
    for (intptr_t group = 0; group < groups_of(c); ++group)
        put(arena_at(&factor, 0, group), INSTEP_FLOAT64, factor_number(group));
    for (intptr_t line = 0; line < c->lines; ++line)
        for (intptr_t k = 0; k < c->length; ++k) {
            put(arena_at(&pred, line, k), c->dtype, pred_number(c, line, k));
            put(arena_at(&target, line, k), c->given, target_number(c, line, k));
            put(arena_at(&mask, line, k), c->mask_type, mask_number(c, line, k));
        }
}

static int call_intact(const region_case *c)
{
    int ok = 1;
    for (intptr_t line = 0; line < c->lines; ++line)
        for (intptr_t k = 0; k < c->length; ++k) {
            const double t = target_number(c, line, k), m = mask_number(c, line, k);
            ok &= holds(arena_at(&target, line, k), c->given, t);
            ok &= holds(arena_at(&mask, line, k), c->mask_type, m);
            if (!c->in_place)
                ok &= holds(arena_at(&pred, line, k), c->dtype, pred_number(c, line, k));
        }
    for (intptr_t group = 0; group < groups_of(c); ++group)
        ok &= holds(arena_at(&factor, 0, group), INSTEP_FLOAT64, factor_number(group));
    ok &= arena_intact(&pred) & arena_intact(&target) & arena_intact(&gradient);
    ok &= arena_intact(&mask) & arena_intact(&factor) & arena_intact(&score);
    return ok & arena_intact(&coefficients);
}

/* ---- calls ----------------------------------------------------------------------------------- */

static instep_array array_of(const region_case *c, const arena *a, intptr_t shape[3],
                             intptr_t strides[3])
{
    shape[0] = c->lines / c->columns;
    shape[1] = c->columns;
    shape[2] = c->length;
    strides[0] = c->columns * a->strides[0];
    strides[1] = a->strides[0];
    strides[2] = a->strides[1];
    return (instep_array){a->array.data, shape, strides, 3, a->array.dtype};
}

static void call_with(const region_case *c, const arena *p, const arena *t, const arena *g,
                      const arena *m, const arena *s)
{
    intptr_t shape[4][3], strides[4][3];
    const instep_array masks = array_of(c, m, shape[3], strides[3]);
    const instep_regionwise call = {.pred = array_of(c, p, shape[0], strides[0]),
                                    .target = array_of(c, t, shape[1], strides[1]),
                                    .gradient = array_of(c, g, shape[2], strides[2]),
                                    .mask = c->masked ? &masks : NULL,
                                    .coefficients = (double *)(void *)coefficients.array.data,
                                    .factor = (double *)(void *)factor.array.data,
                                    .score = (double *)(void *)s->array.data,
                                    .kept = c->kept};
    if (instep_loss_regionwise(&call, c->threads) != 0) check(0, "out of memory");
}

/* In pred's memory order: sums follow it. */
static void compute_dense(const region_case *c)
{
    const instep_dtype type = compute_type(c->dtype);
    arena *const all[] = {&dense.pred, &dense.target, &dense.gradient, &dense.mask};
    region_case alone = *c;
    alone.threads = 1;
    for (size_t k = 0; k < sizeof all / sizeof all[0]; ++k)
        arena_place(all[k], c->pred == FORTRAN ? FORTRAN : DENSE, type, c->lines, c->length, 0);
    arena_place(&dense.score, DENSE, INSTEP_FLOAT64, 1, groups_of(c), 0);
    for (intptr_t line = 0; line < c->lines; ++line)
        for (intptr_t k = 0; k < c->length; ++k) {
            put(arena_at(&dense.pred, line, k), type, pred_number(c, line, k));
            put(arena_at(&dense.target, line, k), type, target_number(c, line, k));
            put(arena_at(&dense.mask, line, k), type, mask_number(c, line, k));
        }
    call_with(&alone, &dense.pred, &dense.target, &dense.gradient, &dense.mask, &dense.score);
}

/* ---- the formula ----------------------------------------------------------------------------- */

static long double probability(const region_case *c, intptr_t line, intptr_t k)
{
    const long double x = pred_number(c, line, k);
    return c->from_logits ? 1 / (1 + expl(-x)) : x;
}

/* Score, and the gradient = rise * t + base before the sigmoid's own slope. */
static void twin_group(const region_case *c, intptr_t group, long double result[3])
{
    const double *by = kinds[c->kind];
    long double both = 0, sum_pred = 0, sum_target = 0;
    for (intptr_t line = 0; line < c->lines; ++line)
        for (intptr_t k = 0; group_of(c, line) == group && k < c->length; ++k) {
            if (!exists(c, line, k)) continue;
            const long double p = probability(c, line, k), t = target_number(c, line, k);
            both += p * t;
            sum_pred += p;
            sum_target += t;
        }
    const long double above = by[GAIN] * both + by[SMOOTH];
    const long double below =
        by[OVERLAP] * both + by[PRED] * sum_pred + by[TARGET] * sum_target + by[SMOOTH];
    result[0] = result[1] = result[2] = 0;
    if (below == 0) return;
    result[0] = 1 - above / below;
    result[1] = (above * by[OVERLAP] - below * by[GAIN]) / (below * below);
    result[2] = above * by[PRED] / (below * below);
}

static int dense_is_right(const region_case *c)
{
    const instep_dtype type = compute_type(c->dtype);
    int ok = 1;
    for (intptr_t group = 0; group < groups_of(c); ++group) {
        long double result[3];
        const long double by = factor_number(group);
        twin_group(c, group, result);
        ok &= near(get(arena_at(&dense.score, 0, group), INSTEP_FLOAT64), result[0], 1, type);
        for (intptr_t line = 0; line < c->lines; ++line)
            for (intptr_t k = 0; group_of(c, line) == group && k < c->length; ++k) {
                const double is = get(arena_at(&dense.gradient, line, k), type);
                const long double p = probability(c, line, k), t = target_number(c, line, k);
                const long double slope = c->from_logits ? p * (1 - p) : 1;
                const long double size = fabsl(result[1] * t) + fabsl(result[2]);
                const long double wanted = by * slope * (result[1] * t + result[2]);
                if (exists(c, line, k)) ok &= near(is, wanted, fabsl(by) * slope * size, type);
                else ok &= is == 0;
            }
    }
    return ok;
}

/* ---- comparisons ----------------------------------------------------------------------------- */

static int results_are_right(const region_case *c)
{
    const instep_dtype type = compute_type(c->dtype);
    const arena *out = c->in_place ? &pred : &gradient;
    int ok = 1;
    for (intptr_t group = 0; group < groups_of(c); ++group) {
        const double is = get(arena_at(&dense.score, 0, group), INSTEP_FLOAT64);
        dense.hash = mix(dense.hash, is);
        ok &= holds(arena_at(&score, 0, group), INSTEP_FLOAT64, is);
    }
    for (intptr_t line = 0; line < c->lines; ++line)
        for (intptr_t k = 0; k < c->length; ++k) {
            const double is = get(arena_at(&dense.gradient, line, k), type);
            dense.hash = mix(dense.hash, is);
            ok &= holds(arena_at(out, line, k), c->dtype, is);
        }
    return ok;
}

static int case_is_right(const region_case *c)
{
    place_call(c);
    compute_dense(c);
    const int formula = dense_is_right(c);
    call_with(c, &pred, &target, c->in_place ? &pred : &gradient, &mask, &score);
    const int bits = results_are_right(c), intact = call_intact(c);
    if (!formula || !bits || !intact)
        check(0,
              "%ld lines of %ld, %ld columns, kept %d, kind %d, layouts %d %d %d, types %s %s %s, "
              "masked %d, ignores %d, logits %d, in place %d, hostile %d, threads %d: %s",
              (long)c->lines, (long)c->length, (long)c->columns, c->kept, c->kind, c->pred,
              c->gradient, c->target, name_of(c->dtype), name_of(c->given), name_of(c->mask_type),
              c->masked, c->ignores, c->from_logits, c->in_place, c->hostile, c->threads,
              !formula ? "the formula"
              : !bits  ? "bits"
                       : "bytes outside");
    return formula & bits & intact;
}

/* Every option and kept (or each `step`-th) on one shape, each in another layout and type. */
static int options_are_right(region_case c, int turn, int step)
{
    int ok = 1;
    for (c.kept = 0; c.kept <= 2; ++c.kept)
        for (int options = turn % step; options < 16 && ok; options += step, ++turn) {
            c.given = (instep_dtype)(turn % INSTEP_DTYPES);
            c.mask_type = (instep_dtype)(turn / 3 % INSTEP_DTYPES);
            c.pred = (layout)(turn % 5);
            c.target = (layout)(turn / 5 % 5);
            c.gradient = (layout)(turn / 2 % 5);
            c.mask = (layout)(turn / 3 % 5);
            c.masked = options & 1;
            c.ignores = options >> 1 & 1;
            c.from_logits = options >> 2 & 1;
            c.in_place = options >> 3;
            c.hostile = turn % 2;
            c.kind = turn % KINDS;
            c.threads = 1 + turn % 3;
            c.at_end = turn / 4 % 2;
            ok &= case_is_right(&c);
        }
    return ok;
}

/* `hash` is of the results on the level before, or 0. */
static void test_region(instep_dtype dtype, uint64_t *hash)
{
    static const intptr_t shapes[][3] = {
        {1, 1, 16383}, {1, 1, 16384}, {1, 1, 16385}, {4, 2, 16385}, {6, 3, 5461}, {2, 2, 8192},
        {70, 10, 513}, {0, 1, 5},     {0, 2, 0},     {6, 3, 0},     {1, 1, 0},    {9000, 4500, 2}};
    region_case c = {.dtype = dtype};
    intptr_t n;
    int ok = 1, turn = 0;
    dense.hash = 1;
    for (int k = 0; (n = length_of(k)) <= 1000; ++k, turn += 7) {
        c.columns = k % 3 + 1;
        c.lines = c.columns * (k % 2 + 1);
        c.length = n;
        ok &= options_are_right(c, turn, 1);
    }
    for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; ++k, turn += 7) {
        c.lines = shapes[k][0];
        c.columns = shapes[k][1];
        c.length = shapes[k][2];
        ok &= options_are_right(c, turn, c.lines * c.length < 1000 ? 1 : 5);
    }
    ok &= *hash == 0 || *hash == dense.hash;
    *hash = dense.hash;
    check(ok, "region %s on %s: every option, layout, target type and size: %016llx",
          name_of(dtype), instep_isa_name(), (unsigned long long)*hash);
}

int main(void)
{
    arena *const all[] = {&pred,       &target,       &gradient,       &mask,
                          &factor,     &coefficients, &score,          &dense.pred,
                          &dense.mask, &dense.target, &dense.gradient, &dense.score};
    uint64_t hash[INSTEP_BFLOAT16 + 1] = {0};
    const char *isa;
    for (size_t k = 0; k < sizeof all / sizeof all[0]; ++k) arena_open(all[k], 1 << 23);
    for (int level = 0; (isa = instep_isa_available(level)) != NULL; ++level) {
        instep_isa_select(isa);
        for (instep_dtype dtype = INSTEP_FLOAT32; dtype <= INSTEP_BFLOAT16; ++dtype)
            test_region(dtype, &hash[dtype]);
    }
    printf("%d failures\n", failures);
    return failures > 0;
}
