/* fuzz_loss.c: one call of a loss or of a reduction, on any arrays. */
#include "fuzz.h"

enum { PRED, TARGET, GRADIENT, WEIGHT, VALUES, EXTRA, SLABS };

static slab slabs[SLABS];
static int used[SLABS];
static uint64_t hash[SLABS];

static const instep_array *array_of(int which) { return &slabs[which].room.array; }

static const instep_array *array_or_null(int which) { return used[which] ? array_of(which) : NULL; }

/* `in_place`: it stays where it is in all manners, since sums are in its order. */
static void make(input *in, int which, const extent *shape, instep_dtype dtype, manner how,
                 int in_place, int broadcast)
{
    const placing p = some_placing(in, shape->ndim, broadcast);
    placing m = in_c_order;
    memcpy(m.still, p.still, sizeof m.still);
    lay(&slabs[which], shape, dtype, how.moved && !in_place ? &m : &p);
    const contents c = {.seed = next_byte(in), .how = (spread)choose(in, 3)};
    fill_slab(&slabs[which], c);
    used[which] = 1;
}

static instep_dtype some_prediction(input *in) { return (instep_dtype)choose(in, 4); }

static instep_dtype some_real(input *in) { return (instep_dtype)choose(in, INSTEP_DTYPES); }

/* The array that gradients are written to: now and then pred itself. */
static instep_array make_gradient(input *in, const extent *shape, manner how)
{
    if (one_in(in, 4)) return *array_of(PRED);
    make(in, GRADIENT, shape, array_of(PRED)->dtype, how, 0, 0);
    return *array_of(GRADIENT);
}

static void remember(void)
{
    for (int k = 0; k < SLABS; ++k)
        if (used[k]) hash[k] = hash_slab(&slabs[k]);
}

static void require_inputs(const instep_array *gradient)
{
    const int in_place = gradient != NULL && gradient->data == array_of(PRED)->data;
    for (int k = 0; k < SLABS; ++k) {
        if (!used[k] || k == GRADIENT || k == VALUES || (k == PRED && in_place)) continue;
        require(hash_slab(&slabs[k]) == hash[k], "input %d was written", k);
    }
}

static void take_elementwise(input *in, int loss, manner how, record *found)
{
    double coefficients[INSTEP_MAX_LOSS_COEFFICIENTS];
    const extent shape = some_extent(in);
    make(in, PRED, &shape, some_prediction(in), how, 1, 0);
    make(in, TARGET, &shape, some_real(in), how, 0, 1);
    if (one_in(in, 2)) make(in, WEIGHT, &shape, some_real(in), how, 0, 1);
    if (one_in(in, 2)) make(in, VALUES, &shape, array_of(PRED)->dtype, how, 0, 0);
    if (strcmp(instep_loss_name(loss), "binary_cross_entropy_with_logits") == 0 && one_in(in, 2))
        make(in, EXTRA, &shape, some_real(in), how, 0, 1);
    for (int k = 0; k < INSTEP_MAX_LOSS_COEFFICIENTS; ++k) coefficients[k] = next_byte(in) / 64.0;
    const instep_array gradient = make_gradient(in, &shape, how);
    const instep_elementwise call = {.pred = *array_of(PRED),
                                     .target = *array_of(TARGET),
                                     .gradient = gradient,
                                     .weight = array_or_null(WEIGHT),
                                     .values = array_or_null(VALUES),
                                     .extra = array_or_null(EXTRA),
                                     .coefficients = coefficients,
                                     .scale = one_in(in, 2) ? 0.25 : 1};
    remember();
    note_number(found, "sum", 0, instep_loss_elementwise(loss, &call, how.threads));
    require_inputs(&gradient);
}

static extent without(const extent *shape, int axis)
{
    extent rows = {.ndim = shape->ndim - 1};
    for (int k = 0; k < rows.ndim; ++k) rows.length[k] = shape->length[k + (k >= axis)];
    return rows;
}

/* Labels, of which few are out of range. Returns whether all are fine. */
static int make_labels(input *in, const extent *rows, int64_t classes, int64_t ignore,
                       const double *weight, manner how, record *found)
{
    const int most = (int)classes + one_in(in, 8);
    double total;
    make(in, TARGET, rows, (instep_dtype)(INSTEP_INT8 + choose(in, 8)), how, 0, 1);
    const contents c = {.seed = next_byte(in), .whole = most < 127 ? most : 127};
    if (!one_in(in, 8)) fill_slab(&slabs[TARGET], c);
    const int64_t bad = instep_check_labels(array_of(TARGET), classes, ignore, weight, &total);
    require(bad >= -1 && bad < (int64_t)elements(rows) + (elements(rows) == 0), "position");
    note(found, "bad label", 0, (uint64_t)bad);
    if (bad < 0) note_number(found, "total", 0, total);
    return bad < 0;
}

static void take_classwise(input *in, int loss, manner how, record *found)
{
    static double weight[MANY];
    extent shape = some_extent(in);
    if (shape.ndim == 0) shape = (extent){1, {5}};
    const int axis = choose(in, shape.ndim), weighted = one_in(in, 2);
    if (shape.length[axis] == 0) shape.length[axis] = 1;
    const extent rows = without(&shape, axis);
    const int64_t classes = shape.length[axis], ignore = one_in(in, 2) ? choose(in, 4) : -100;
    for (int64_t k = 0; k < classes; ++k) weight[k] = some_value(5, (uint32_t)k, TAME);
    make(in, PRED, &shape, some_prediction(in), how, 0, 0);
    int soft = one_in(in, 2);
    if (!soft) {
        const double *weights = weighted ? weight : NULL;
        soft = !make_labels(in, &rows, classes, ignore, weights, how, found);
    }
    if (soft) make(in, TARGET, &shape, (instep_dtype)choose(in, INSTEP_INT8), how, 0, 1);
    if (one_in(in, 2)) make(in, VALUES, &rows, array_of(PRED)->dtype, how, 0, 0);
    const instep_array gradient = make_gradient(in, &shape, how);
    const instep_classwise call = {.pred = *array_of(PRED),
                                   .target = *array_of(TARGET),
                                   .gradient = gradient,
                                   .values = array_or_null(VALUES),
                                   .weight = weighted ? weight : NULL,
                                   .axis = axis,
                                   .ignore_index = ignore,
                                   .label_smoothing = next_byte(in) / 255.0,
                                   .scale = one_in(in, 2) ? 0.25 : 1};
    remember();
    note_number(found, "sum", 0, instep_loss_classwise(loss, &call, how.threads));
    require_inputs(&gradient);
}

static void take_regionwise(input *in, manner how, record *found)
{
    static double factor[MANY], score[MANY + 1];
    double coefficients[INSTEP_MAX_COEFFICIENTS] = {0};
    const extent shape = some_extent(in);
    const int kept = choose(in, shape.ndim + 1);
    extent groups = {.ndim = kept};
    for (int k = 0; k < kept; ++k) groups.length[k] = shape.length[k];
    const size_t count = elements(&groups);
    make(in, PRED, &shape, some_prediction(in), how, 1, 0);
    make(in, TARGET, &shape, some_real(in), how, 0, 1);
    if (one_in(in, 2)) make(in, WEIGHT, &shape, some_real(in), how, 0, 1);
    const instep_array gradient = make_gradient(in, &shape, how);
    for (int k = 0; k < 8; ++k) coefficients[k] = choose(in, 5) / 2.0;
    for (size_t k = 0; k < count; ++k) factor[k] = some_value(9, (uint32_t)k, TAME);
    score[count] = 17;
    const instep_regionwise call = {.pred = *array_of(PRED),
                                    .target = *array_of(TARGET),
                                    .gradient = gradient,
                                    .mask = array_or_null(WEIGHT),
                                    .coefficients = coefficients,
                                    .factor = factor,
                                    .score = score,
                                    .kept = kept};
    remember();
    require(instep_loss_regionwise(&call, how.threads) == 0, "memory");
    require_inputs(&gradient);
    require(score[count] == 17, "one score per group");
    for (size_t k = 0; k < count && k < 64; ++k) note_number(found, "score", (int)k, score[k]);
}

static void take_reduction(input *in, manner how, record *found)
{
    const extent shape = some_extent(in);
    make(in, PRED, &shape, some_real(in), how, 1, 1);
    remember();
    const double low = (choose(in, 9) - 4) / 2.0, high = low + choose(in, 5);
    note_number(found, "sum", 0, instep_sum(array_of(PRED), how.threads));
    for (int sizes = 0; sizes < 2; ++sizes) {
        const int64_t outside = instep_count_outside(array_of(PRED), low, high, sizes, how.threads);
        require(outside >= 0 && outside <= (int64_t)elements(&shape), "%lld", (long long)outside);
        note(found, "outside", sizes, (uint64_t)outside);
    }
    require_inputs(NULL);
}

static void take(input *in, manner how, record *found)
{
    static const char *const names[SLABS] = {"pred",   "target", "gradient",
                                             "weight", "values", "extra"};
    const int kind = choose(in, instep_loss_count() + 1);
    memset(used, 0, sizeof used);
    if (kind == instep_loss_count()) take_reduction(in, how, found);
    else if (strcmp(instep_loss_name(kind), "region") == 0) take_regionwise(in, how, found);
    else if (strstr(instep_loss_name(kind), "cross_entropy") != NULL &&
             strncmp(instep_loss_name(kind), "binary", 6) != 0)
        take_classwise(in, kind, how, found);
    else take_elementwise(in, kind, how, found);
    for (int k = 0; k < SLABS; ++k) {
        if (!used[k]) continue;
        if (k == PRED || k == GRADIENT || k == VALUES) note_slab(found, names[k], 0, &slabs[k]);
        require(slab_intact(&slabs[k]), "beside %s", names[k]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    compare_manners(data, size, take);
    return 0;
}
