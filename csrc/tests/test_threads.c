/* test_threads.c: equal bits on every thread count and instruction set, for steps and losses;
 * callers at the same time; no allocations. The test of the core for ThreadSanitizer. */
#include <pthread.h>

#include "arena.h"

enum { LEAVES = 18, STEPS = 3 };

static const instep_dtype floats[] = {INSTEP_FLOAT32, INSTEP_FLOAT64, INSTEP_FLOAT16,
                                      INSTEP_BFLOAT16, INSTEP_LONGDOUBLE};
static const int thread_counts[] = {1, 2, 3, 7};

static void *get_memory(size_t bytes)
{
    void *memory = calloc(1, bytes > 0 ? bytes : 1);
    if (memory == NULL) exit(1);
    return memory;
}

/* ---- a model: leaves of many sizes, one for each rule, type, layout and storage ------------- */

/* The arrays of a leaf; states and their scales come last. */
enum {
    GRADIENT,
    PARAMETER,
    AVERAGE,
    COPY,
    STATES,
    SCALES = STATES + INSTEP_MAX_STATES,
    ARRAYS = SCALES + INSTEP_MAX_STATES
};

typedef struct {
    char *memory[ARRAYS];
    size_t bytes[ARRAYS];
    intptr_t size, stride[ARRAYS];
    instep_array array[ARRAYS];
} model_leaf;

typedef struct {
    model_leaf leaf[LEAVES];
    instep_plan *plan;
    double rows[LEAVES * INSTEP_MAX_COEFFICIENTS];
} model;

/* Numbers in [0.25, 1). */
static double some_number(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return 0.25 + (double)(*seed >> 33) / 0x1p31 * 0.75;
}

/* Multiples of 1/64 in [-0.25, 0.5): exact in every float type. */
static double gradient_number(uint64_t *seed) { return floor(some_number(seed) * 64) / 64 - 0.5; }

/* Dense, every other element, or backwards. */
static void lay_out(model_leaf *leaf, int which, instep_dtype dtype, int how)
{
    const intptr_t size = size_of(dtype), step = how == 0 ? size : how == 1 ? 2 * size : -size;
    leaf->bytes[which] = (size_t)(leaf->size * (how == 1 ? 2 : 1) * size);
    leaf->memory[which] = get_memory(leaf->bytes[which]);
    leaf->stride[which] = step;
    char *data = leaf->memory[which];
    if (how == 2 && leaf->size > 0) data += (leaf->size - 1) * size;
    leaf->array[which] = (instep_array){data, &leaf->size, &leaf->stride[which], 1, dtype};
}

static void fill_model(model *m)
{
    uint64_t seed = 1;
    for (int k = 0; k < LEAVES; ++k) {
        model_leaf *leaf = &m->leaf[k];
        for (int which = 0; which < ARRAYS; ++which)
            for (intptr_t i = 0; i < leaf->size; ++i)
                put(leaf->array[which].data + i * leaf->stride[which], leaf->array[which].dtype,
                    which == GRADIENT ? gradient_number(&seed) : some_number(&seed));
    }
    for (int k = 0; k < LEAVES * INSTEP_MAX_COEFFICIENTS; ++k) m->rows[k] = some_number(&seed);
}

static void create_model(model *m)
{
    static const intptr_t sizes[] = {100001, 0, 1, 513, 40000, 16384, 7, 16385, 4099};
    m->plan = instep_plan_create(LEAVES);
    for (int k = 0; k < LEAVES; ++k) {
        model_leaf *leaf = &m->leaf[k];
        const instep_dtype dtype = k % 2 ? INSTEP_FLOAT64 : INSTEP_FLOAT32;
        const instep_dtype stored[] = {dtype, INSTEP_BFLOAT16, INSTEP_INT8, INSTEP_UINT8};
        const int in_place = dtype == INSTEP_FLOAT32 && k % 7 == 0;
        float *scales[INSTEP_MAX_STATES];
        leaf->size = sizes[k % 9];
        lay_out(leaf, GRADIENT, floats[k % 5], k % 3);
        lay_out(leaf, PARAMETER, in_place ? INSTEP_BFLOAT16 : dtype, k % 4 % 3);
        lay_out(leaf, AVERAGE, dtype, k % 2);
        lay_out(leaf, COPY, k % 3 ? INSTEP_FLOAT16 : INSTEP_BFLOAT16, k % 3);
        for (int state = 0; state < INSTEP_MAX_STATES; ++state) {
            lay_out(leaf, STATES + state, stored[k % 5 ? (k + state) % 4 : 0], 0);
            lay_out(leaf, SCALES + state, INSTEP_FLOAT32, 0); /* more than there are blocks */
            scales[state] = (float *)(void *)leaf->memory[SCALES + state];
        }
        if (instep_plan_set_parameter(m->plan, k, &leaf->array[PARAMETER]) != 0) exit(1);
        instep_plan_set_rule(m->plan, k, k % instep_rule_count(), &leaf->array[STATES]);
        instep_plan_set_scales(m->plan, k, scales);
        if (k % 3) instep_plan_set_average(m->plan, k, &leaf->array[AVERAGE]);
        if (k % 4) instep_plan_set_copy(m->plan, k, &leaf->array[COPY]);
        instep_plan_set_row(m->plan, k, LEAVES - 1 - k);
    }
    if (instep_plan_finish(m->plan) != 0) exit(1);
    fill_model(m);
}

static void destroy_model(model *m)
{
    instep_plan_destroy(m->plan);
    for (int k = 0; k < LEAVES; ++k)
        for (int which = 0; which < ARRAYS; ++which) free(m->leaf[k].memory[which]);
}

static uint64_t hash_of(const void *memory, size_t bytes, uint64_t hash)
{
    const unsigned char *at = memory;
    for (size_t i = 0; i < bytes; ++i) hash = (hash ^ at[i]) * UINT64_C(0x9e3779b97f4a7c15);
    return hash;
}

/* Some steps; every fourth leaf misses one. The first does nothing but update, the last zeroes the
 * gradients. A hash of all bytes afterwards and of the sums. */
static uint64_t run_model(model *m, int threads)
{
    uint64_t hash = 0;
    instep_measures measures[LEAVES];
    for (int step = 0; step < STEPS; ++step) {
        for (int k = 0; k < LEAVES; ++k) {
            const instep_array *g = k % 4 == 3 && step == 1 ? NULL : &m->leaf[k].array[0];
            if (instep_plan_set_gradient(m->plan, k, g, 0) != 0) return 0;
        }
        const double sum = instep_plan_sum_squares(m->plan, 0.75, threads);
        hash = hash_of(&sum, sizeof sum, hash);
        const instep_step_options options = {.threads = threads,
                                             .zero_gradients = step == STEPS - 1,
                                             .measure = step > 0,
                                             .measured_scale = 0.75,
                                             .average_weight = 0.125 * step,
                                             .seed = 5,
                                             .step = (uint64_t)step};
        instep_plan_step(m->plan, m->rows, &options);
        instep_plan_measured(m->plan, measures);
        if (step > 0) hash = hash_of(measures, sizeof measures, hash);
        instep_plan_exchange(m->plan, threads);
    }
    for (int k = 0; k < LEAVES; ++k)
        for (int which = 0; which < ARRAYS; ++which)
            hash = hash_of(m->leaf[k].memory[which], m->leaf[k].bytes[which], hash);
    return hash;
}

static void test_equal_bits(void)
{
    const char *isa;
    uint64_t first = 0;
    model m;
    create_model(&m);
    for (int level = 0; (isa = instep_isa_available(level)) != NULL; ++level) {
        instep_isa_select(isa);
        for (size_t t = 0; t < sizeof thread_counts / sizeof thread_counts[0]; ++t) {
            fill_model(&m);
            const uint64_t hash = run_model(&m, thread_counts[t]);
            if (first == 0) first = hash;
            check(hash == first && hash != 0, "all rules on %s, %d threads: %016llx", isa,
                  thread_counts[t], (unsigned long long)hash);
        }
    }
    const size_t before = instep_allocations();
    run_model(&m, 7);
    check(instep_allocations() == before, "a step allocates nothing");
    destroy_model(&m);
}

static void *run_own_model(void *result)
{
    model m;
    create_model(&m);
    for (int round = 0; round < 3; ++round) {
        fill_model(&m);
        *(uint64_t *)result = run_model(&m, 3);
    }
    destroy_model(&m);
    return NULL;
}

static void test_plans_at_once(void)
{
    enum { CALLERS = 4 };
    pthread_t caller[CALLERS];
    uint64_t hash[CALLERS] = {0}, alone;
    run_own_model(&alone);
    for (int k = 0; k < CALLERS; ++k)
        if (pthread_create(&caller[k], NULL, run_own_model, &hash[k]) != 0) exit(1);
    int ok = 1;
    for (int k = 0; k < CALLERS; ++k) {
        pthread_join(caller[k], NULL);
        ok &= hash[k] == alone;
    }
    check(ok, "four threads step four plans at once");
}

/* ---- losses ---------------------------------------------------------------------------------- */

enum { LINES = 700, CLASSES = 130, GROUPS = 7, MOST_LOSSES = 32 };

typedef struct {
    float pred[LINES * CLASSES], target[LINES * CLASSES], weight[LINES * CLASSES];
    float gradient[LINES * CLASSES], values[LINES];
    int16_t label[LINES];
    double class_weight[LINES], factor[GROUPS], score[GROUPS];
    double total[2 * MOST_LOSSES];
} loss_data;

static void fill_losses(loss_data *data)
{
    uint64_t seed = 2;
    memset(data, 0, sizeof *data);
    for (int i = 0; i < LINES * CLASSES; ++i) {
        data->pred[i] = (float)(8 * some_number(&seed));
        data->target[i] = (float)some_number(&seed);
        data->weight[i] = (float)some_number(&seed);
    }
    for (int i = 0; i < LINES; ++i) {
        data->label[i] = (int16_t)(i * 37 % CLASSES);
        data->class_weight[i] = some_number(&seed);
    }
    for (int i = 0; i < GROUPS; ++i) data->factor[i] = some_number(&seed);
}

static int loss_named(const char *name)
{
    for (int loss = 0; loss < instep_loss_count(); ++loss)
        if (strcmp(instep_loss_name(loss), name) == 0) return loss;
    check(0, "there is a loss %s", name);
    exit(1);
}

/* Losses over classes, of one row's classes and of every column's. */
static void run_classwise(loss_data *data, instep_array pred, instep_array target,
                          instep_array gradient, int threads)
{
    const intptr_t strides[] = {4}, narrow[] = {2};
    const instep_array values = {(char *)data->values, pred.shape, strides, 1, INSTEP_FLOAT32};
    const instep_array label = {(char *)data->label, pred.shape, narrow, 1, INSTEP_INT16};
    const instep_array across = {(char *)data->label, pred.shape + 1, narrow, 1, INSTEP_INT16};
    const int cross = loss_named("cross_entropy");
    const int categorical = loss_named("categorical_cross_entropy");
    instep_classwise hard = {.pred = pred,
                             .target = label,
                             .gradient = gradient,
                             .values = &values,
                             .weight = data->class_weight,
                             .axis = 1,
                             .ignore_index = 5,
                             .label_smoothing = 0.1,
                             .scale = 1};
    instep_classwise soft = {
        .pred = gradient, .target = target, .gradient = gradient, .axis = 1, .scale = 1};
    data->total[0] = instep_loss_classwise(cross, &hard, threads);
    data->total[1] = instep_loss_classwise(cross, &soft, threads);
    hard.axis = 0;
    hard.values = NULL;
    hard.target = across;
    hard.label_smoothing = 0;
    soft.axis = 0;
    data->total[2] = instep_loss_classwise(cross, &hard, threads);
    data->total[3] = instep_loss_classwise(cross, &soft, threads);
    hard.axis = soft.axis = 1;
    hard.target = label;
    soft.pred = target;
    data->total[4] = instep_loss_classwise(categorical, &hard, threads);
    data->total[5] = instep_loss_classwise(categorical, &soft, threads);
}

static double run_regionwise(loss_data *data, instep_array pred, instep_array target,
                             instep_array mask, instep_array gradient, int threads)
{
    static const double by[] = {2, 0, 1, 1, 1, 0, (double)NAN};
    const intptr_t shape[] = {GROUPS, LINES / GROUPS * CLASSES}, strides[] = {4 * shape[1], 4};
    instep_array *const all[] = {&pred, &target, &mask, &gradient};
    for (int k = 0; k < 4; ++k) all[k]->shape = shape, all[k]->strides = strides;
    const instep_regionwise call = {.pred = pred,
                                    .target = target,
                                    .gradient = gradient,
                                    .mask = &mask,
                                    .coefficients = by,
                                    .factor = data->factor,
                                    .score = data->score,
                                    .kept = 1};
    double sum = instep_loss_regionwise(&call, threads);
    for (int k = 0; k < GROUPS; ++k) sum += data->score[k];
    return sum;
}

/* All losses one after the other, a number of them in place on the gradient of the one before. */
static uint64_t run_losses(loss_data *data, int threads)
{
    static const double by[INSTEP_MAX_LOSS_COEFFICIENTS] = {1, 0.5, 0.25};
    const intptr_t shape[] = {LINES, CLASSES}, strides[] = {4 * CLASSES, 4};
    const instep_array pred = {(char *)data->pred, shape, strides, 2, INSTEP_FLOAT32};
    const instep_array target = {(char *)data->target, shape, strides, 2, INSTEP_FLOAT32};
    const instep_array weight = {(char *)data->weight, shape, strides, 2, INSTEP_FLOAT32};
    const instep_array gradient = {(char *)data->gradient, shape, strides, 2, INSTEP_FLOAT32};
    uint64_t hash = 0;
    run_classwise(data, pred, target, gradient, threads);
    const instep_elementwise square = {.pred = gradient,
                                       .target = target,
                                       .gradient = gradient,
                                       .weight = &weight,
                                       .coefficients = by,
                                       .scale = 0.3};
    data->total[6] = instep_loss_elementwise(loss_named("mse"), &square, threads);
    data->total[7] = instep_sum(&gradient, threads);
    data->total[8] = (double)instep_count_outside(&gradient, -0.5, 1.5, 0, threads);
    data->total[9] = run_regionwise(data, target, weight, pred, gradient, threads);
    hash = hash_of(data, sizeof *data, hash);
    const int elementwise = loss_named("cross_entropy"); /* those before it */
    for (int loss = 0; loss < elementwise && loss < MOST_LOSSES; ++loss) {
        const instep_elementwise call = {.pred = target,
                                         .target = weight,
                                         .gradient = gradient,
                                         .weight = loss % 2 ? &pred : NULL,
                                         .coefficients = by,
                                         .scale = 0.3};
        data->total[MOST_LOSSES + loss] = instep_loss_elementwise(loss, &call, threads);
        hash = hash_of(data->gradient, sizeof data->gradient, hash);
    }
    return hash_of(data->total, sizeof data->total, hash);
}

static void test_losses(void)
{
    const char *isa;
    uint64_t first = 0;
    loss_data *data = get_memory(sizeof *data);
    for (int level = 0; (isa = instep_isa_available(level)) != NULL; ++level) {
        instep_isa_select(isa);
        for (size_t t = 0; t < sizeof thread_counts / sizeof thread_counts[0]; ++t) {
            fill_losses(data);
            const uint64_t hash = run_losses(data, thread_counts[t]);
            if (first == 0) first = hash;
            check(hash == first, "all losses on %s, %d threads: %016llx", isa, thread_counts[t],
                  (unsigned long long)hash);
        }
    }
    const size_t before = instep_allocations();
    run_losses(data, 7);
    check(instep_allocations() == before + 1, "losses allocate nothing, that over regions once");
    free(data);
}

int main(void)
{
    test_equal_bits();
    test_plans_at_once();
    test_losses();
    printf("%d failures\n", failures);
    return failures > 0;
}
