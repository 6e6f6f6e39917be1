/* plan.c: the leaves of one optimizer, cut into blocks of work. */
#include <stdlib.h>
#include <string.h>

#include "table.h"

enum {
    SPLIT = 32768,        /* elements below which waking a worker costs more than it saves */
    LARGEST_BLOCK = 16,   /* pieces */
    BLOCKS_AIMED_AT = 64, /* enough to balance any thread count in use */
    MOST_RANGES = 3 +
        2 * INSTEP_MAX_STATES /* of a leaf: parameter, average, copy, states, scales */
};

static intptr_t *gradient_axes(const instep_leaf *leaf) { return leaf->shape + 3 * leaf->ndim; }

/* As the gradient was given. */
static intptr_t *gradient_strides(const instep_leaf *leaf) { return leaf->shape + 5 * leaf->ndim; }

static intptr_t *state_axes(const instep_leaf *leaf, int state)
{
    return leaf->shape + (6 + 2 * state) * leaf->ndim;
}

static intptr_t *average_axes(const instep_leaf *leaf)
{
    return state_axes(leaf, INSTEP_MAX_STATES);
}

static intptr_t *copy_axes(const instep_leaf *leaf)
{
    return state_axes(leaf, INSTEP_MAX_STATES + 1);
}

instep_plan *instep_plan_create(int leaves)
{
    instep_plan *plan = instep_allocate(sizeof *plan);
    if (plan == NULL) return NULL;
    plan->leaves = leaves;
    plan->leaf = instep_allocate((size_t)leaves * sizeof *plan->leaf);
    plan->range = instep_allocate((size_t)leaves * MOST_RANGES * sizeof *plan->range);
    plan->reach = instep_allocate((size_t)leaves * MOST_RANGES * sizeof *plan->reach);
    plan->bound = instep_allocate((size_t)leaves * sizeof *plan->bound);
    if (plan->leaf == NULL || plan->range == NULL || plan->reach == NULL || plan->bound == NULL) {
        instep_plan_destroy(plan);
        return NULL;
    }
    return plan;
}

void instep_plan_destroy(instep_plan *plan)
{
    if (plan == NULL) return;
    for (int i = 0; plan->leaf != NULL && i < plan->leaves; ++i) {
        instep_free(plan->leaf[i].shape);
        instep_free(plan->leaf[i].order);
    }
    instep_free(plan->leaf);
    instep_free(plan->range);
    instep_free(plan->reach);
    instep_free(plan->bound);
    instep_free(plan->piece);
    instep_free(plan->block);
    instep_free(plan);
}

int instep_plan_set_parameter(instep_plan *plan, int index, const instep_array *parameter)
{
    instep_leaf *leaf = &plan->leaf[index];
    const size_t ndim = (size_t)parameter->ndim;
    /* The shape; lengths and strides of parameter and gradient, and its strides as they were
     * given; lengths and strides of states, average and copy. */
    leaf->shape = instep_allocate((10 + 2 * INSTEP_MAX_STATES) * ndim * sizeof *leaf->shape);
    leaf->order = instep_allocate(ndim * sizeof *leaf->order);
    if (leaf->shape == NULL || leaf->order == NULL) return -1;
    for (size_t axis = 0; axis < ndim; ++axis) leaf->shape[axis] = parameter->shape[axis];
    leaf->ndim = (uint8_t)ndim;
    leaf->size = instep_size(parameter);
    leaf->bits = parameter->dtype == INSTEP_FLOAT64 ? 64 : 32;
    leaf->words = parameter->dtype == INSTEP_BFLOAT16 ? 2 : 0;
    leaf->index = (uint32_t)index;
    instep_walk_order(leaf->order, parameter);
    leaf->parameter = instep_view_of(parameter, leaf->order, leaf->shape + ndim);
    return 0;
}

/* Are all states bfloat16, rounded by the bits that kept.h gives them? */
static uint8_t is_kept_by_rule(const instep_leaf *leaf)
{
    int fits = leaf->bits == 32 && leaf->states > 0 && leaf->nearest == (leaf->states > 2 ? 4 : 0);
    for (int k = 0; k < leaf->states; ++k) fits &= leaf->state[k].dtype == INSTEP_BFLOAT16;
    return (uint8_t)fits;
}

void instep_plan_set_rule(instep_plan *plan, int index, int rule, const instep_array *states)
{
    static const uint8_t counts[INSTEP_RULES] = {
#define RULE(rule, family, count, states) count,
#include "kernels.def"
    };
    instep_leaf *leaf = &plan->leaf[index];
    leaf->rule = (int16_t)rule;
    leaf->states = counts[rule];
    leaf->words = leaf->parameter.dtype == INSTEP_BFLOAT16 ? 2 : 0;
    leaf->nearest = leaf->blocked = 0;
    for (int k = 0; k < leaf->states; ++k) {
        const instep_dtype dtype = states[k].dtype;
        leaf->state[k] = instep_view_of(&states[k], leaf->order, state_axes(leaf, k));
        leaf->scale[k] = NULL;
        if (dtype <= INSTEP_FLOAT64) continue;
        leaf->blocked |= dtype != INSTEP_BFLOAT16;
        if (instep_rounds_to_nearest(rule, k)) leaf->nearest |= (uint8_t)(1 << k);
        else leaf->words |= (uint8_t)(1 << k / 2);
    }
    leaf->in_rule = is_kept_by_rule(leaf);
}

void instep_plan_set_scales(instep_plan *plan, int index, float *const *scales)
{
    instep_leaf *leaf = &plan->leaf[index];
    for (int k = 0; k < leaf->states; ++k) leaf->scale[k] = scales[k];
}

void instep_plan_set_average(instep_plan *plan, int index, const instep_array *average)
{
    instep_leaf *leaf = &plan->leaf[index];
    leaf->averaged = average != NULL;
    if (average != NULL) leaf->average = instep_view_of(average, leaf->order, average_axes(leaf));
}

void instep_plan_set_copy(instep_plan *plan, int index, const instep_array *copy)
{
    instep_leaf *leaf = &plan->leaf[index];
    leaf->copied = copy != NULL;
    if (copy != NULL) leaf->copy = instep_view_of(copy, leaf->order, copy_axes(leaf));
}

void instep_plan_set_row(instep_plan *plan, int index, int row) { plan->leaf[index].row = row; }

/* Leaves become pieces of at most INSTEP_PIECE elements, consecutive pieces become blocks. */
static int cut(instep_plan *plan)
{
    size_t pieces = 0, total = 0;
    for (int i = 0; i < plan->leaves; ++i) {
        pieces += (plan->leaf[i].size + INSTEP_PIECE - 1) / INSTEP_PIECE;
        total += plan->leaf[i].size;
    }
    plan->piece = instep_allocate(pieces * sizeof *plan->piece);
    plan->block = instep_allocate((pieces + 1) * sizeof *plan->block);
    if (plan->piece == NULL || plan->block == NULL) return -1;

    size_t aim = total / BLOCKS_AIMED_AT / INSTEP_PIECE * INSTEP_PIECE, filled = 0;
    if (aim < INSTEP_PIECE) aim = INSTEP_PIECE;
    if (aim > LARGEST_BLOCK * INSTEP_PIECE) aim = LARGEST_BLOCK * INSTEP_PIECE;
    for (int i = 0; i < plan->leaves; ++i) {
        const size_t size = plan->leaf[i].size;
        for (size_t start = 0; start < size; start += INSTEP_PIECE) {
            const size_t count = size - start < INSTEP_PIECE ? size - start : INSTEP_PIECE;
            plan->piece[plan->pieces++] =
                (instep_piece){.start = start, .count = (int32_t)count, .leaf = i};
            filled += count;
            if (filled >= aim) {
                plan->block[++plan->blocks] = plan->pieces;
                filled = 0;
            }
        }
    }
    if (plan->block[plan->blocks] < plan->pieces) plan->block[++plan->blocks] = plan->pieces;
    return 0;
}

static int by_low(const void *a, const void *b)
{
    const uintptr_t left = ((const instep_range *)a)->low, right = ((const instep_range *)b)->low;
    return (left > right) - (left < right);
}

static void note_range(instep_plan *plan, const instep_view *view, size_t size)
{
    instep_range *range = &plan->range[plan->ranges++];
    instep_view_range(view, size, &range->low, &range->high);
}

static int has_scales(const instep_view *state)
{
    return state->dtype == INSTEP_INT8 || state->dtype == INSTEP_UINT8;
}

static void note_state(instep_plan *plan, const instep_leaf *leaf, int k)
{
    const uintptr_t scales = (uintptr_t)leaf->scale[k];
    const size_t blocks = (leaf->size + INSTEP_BLOCK - 1) / INSTEP_BLOCK;
    note_range(plan, &leaf->state[k], leaf->size);
    if (has_scales(&leaf->state[k]))
        plan->range[plan->ranges++] =
            (instep_range){scales, scales + blocks * sizeof *leaf->scale[k]};
}

int instep_plan_finish(instep_plan *plan)
{
    if (plan->piece == NULL && cut(plan) != 0) return -1;
    plan->ranges = plan->averaged = 0;
    for (int i = 0; i < plan->leaves; ++i) {
        instep_leaf *leaf = &plan->leaf[i];
        leaf->clear = 0; /* what was found clear may not be any more */
        if (leaf->size == 0) continue;
        plan->averaged += leaf->averaged ? leaf->size : 0;
        note_range(plan, &leaf->parameter, leaf->size);
        for (int k = 0; k < leaf->states; ++k) note_state(plan, leaf, k);
        if (leaf->averaged) note_range(plan, &leaf->average, leaf->size);
        if (leaf->copied) note_range(plan, &leaf->copy, leaf->size);
    }
    qsort(plan->range, plan->ranges, sizeof *plan->range, by_low);
    for (size_t k = 0; k < plan->ranges; ++k) {
        const uintptr_t before = k > 0 ? plan->reach[k - 1] : 0;
        plan->reach[k] = plan->range[k].high > before ? plan->range[k].high : before;
    }
    return 0;
}

/* Do the bytes [low, high) meet a byte range of the plan? */
static int meets(const instep_plan *plan, uintptr_t low, uintptr_t high)
{
    size_t below = 0, above = plan->ranges; /* ranges [0, below) begin before `high` */
    while (below < above) {
        const size_t middle = below + (above - below) / 2;
        if (plan->range[middle].low < high) below = middle + 1;
        else above = middle;
    }
    return below > 0 && plan->reach[below - 1] > low;
}

/* Does it lie as the last one of the leaf? */
static int lies_as_before(const instep_leaf *leaf, const instep_array *gradient)
{
    const intptr_t *strides = gradient_strides(leaf);
    if (gradient->data != leaf->gradient.data) return 0;
    if (gradient->dtype != (instep_dtype)leaf->gradient.dtype) return 0;
    for (int axis = 0; axis < leaf->ndim; ++axis)
        if (gradient->strides[axis] != strides[axis]) return 0;
    return 1;
}

int instep_plan_set_gradient(instep_plan *plan, int index, const instep_array *gradient,
                             int trusted)
{
    instep_leaf *leaf = &plan->leaf[index];
    const int was_active = leaf->active;
    if (was_active) plan->active -= leaf->size;
    leaf->active = 0;
    plan->apart &= was_active == (gradient != NULL);
    if (gradient == NULL) return 0;
    if (gradient->ndim != leaf->ndim) return 1;
    for (int axis = 0; axis < leaf->ndim; ++axis)
        if (gradient->shape[axis] != leaf->shape[axis]) return 1;
    if (!lies_as_before(leaf, gradient)) {
        plan->apart = leaf->clear = 0;
        leaf->gradient = instep_view_of(gradient, leaf->order, gradient_axes(leaf));
        for (int axis = 0; axis < leaf->ndim; ++axis)
            gradient_strides(leaf)[axis] = gradient->strides[axis];
    }
    if (!leaf->clear && !trusted && leaf->size > 0) {
        uintptr_t low, high;
        instep_view_range(&leaf->gradient, leaf->size, &low, &high);
        if (meets(plan, low, high)) return 2;
    }
    leaf->clear = 1;
    leaf->active = 1;
    plan->active += leaf->size;
    return 0;
}

size_t instep_plan_bound(const instep_plan *plan) { return plan->active; }

size_t instep_plan_work(const instep_plan *plan)
{
    return plan->active > plan->averaged ? plan->active : plan->averaged;
}

int instep_plan_gradients_apart(instep_plan *plan, int trusted)
{
    size_t count = 0;
    plan->apart |= trusted;
    if (plan->apart) return 1;
    for (int i = 0; i < plan->leaves; ++i) {
        const instep_leaf *leaf = &plan->leaf[i];
        if (!leaf->active || leaf->size == 0) continue;
        const instep_array given = {leaf->gradient.data, leaf->shape, gradient_strides(leaf),
                                    leaf->ndim, (instep_dtype)leaf->gradient.dtype};
        if (!leaf->gradient.dense && !instep_is_nested(&given)) return 0;
        instep_range *range = &plan->bound[count++];
        instep_view_range(&leaf->gradient, leaf->size, &range->low, &range->high);
    }
    qsort(plan->bound, count, sizeof *plan->bound, by_low);
    for (size_t k = 1; k < count; ++k)
        if (plan->bound[k].low < plan->bound[k - 1].high) return 0;
    return plan->apart = 1;
}

typedef struct {
    instep_plan *plan;
    const instep_variant *kernels;
    const double *rows;
    const instep_step_options *options;
    double scale;
    int backwards;
} job;

static void step_block(void *context, size_t block)
{
    const job *work = context;
    const instep_plan *plan = work->plan;
    const instep_step_options *options = work->options;
    if (work->backwards) block = plan->blocks - 1 - block;
    for (size_t k = plan->block[block]; k < plan->block[block + 1]; ++k) {
        instep_piece *piece = &plan->piece[k];
        const instep_leaf *leaf = &plan->leaf[piece->leaf];
        const instep_typed *typed = leaf->bits == 32 ? work->kernels->f32 : work->kernels->f64;
        const size_t count = (size_t)piece->count;
        if (options->measure) piece->measures = (instep_measures){0};
        if (leaf->active)
            typed->step(leaf, piece->start, count,
                        work->rows + (size_t)leaf->row * INSTEP_MAX_COEFFICIENTS, options,
                        &piece->measures);
        else if (leaf->averaged) typed->follow(leaf, piece->start, count, options->average_weight);
    }
}

static void sum_block(void *context, size_t block)
{
    const job *work = context;
    const instep_plan *plan = work->plan;
    for (size_t k = plan->block[block]; k < plan->block[block + 1]; ++k) {
        instep_piece *piece = &plan->piece[k];
        const instep_leaf *leaf = &plan->leaf[piece->leaf];
        piece->sum = leaf->active ? work->kernels->sum_squares(&leaf->gradient, piece->start,
                                                               (size_t)piece->count, work->scale)
                                  : 0;
    }
}

double instep_plan_sum_squares(instep_plan *plan, double scale, int threads)
{
    job work = {.plan = plan, .kernels = instep_kernels(), .scale = scale};
    double total = 0;
    instep_parallel(plan->blocks, plan->active < SPLIT ? 1 : threads, sum_block, &work);
    for (size_t k = 0; k < plan->pieces; ++k) total += plan->piece[k].sum;
    return total;
}

void instep_plan_step(instep_plan *plan, const double *rows, const instep_step_options *options)
{
    job work = {.plan = plan, .kernels = instep_kernels(), .rows = rows, .options = options};
    const int threads = instep_plan_work(plan) < SPLIT ? 1 : options->threads;
    /* To and fro: what the last step touched last is still in the cache. With more threads a
     * block would change cores. */
    plan->backwards = threads == 1 && !plan->backwards;
    work.backwards = plan->backwards;
    instep_parallel(plan->blocks, threads, step_block, &work);
}

static void exchange_block(void *context, size_t block)
{
    const job *work = context;
    const instep_plan *plan = work->plan;
    for (size_t k = plan->block[block]; k < plan->block[block + 1]; ++k) {
        const instep_piece *piece = &plan->piece[k];
        const instep_leaf *leaf = &plan->leaf[piece->leaf];
        const instep_typed *typed = leaf->bits == 32 ? work->kernels->f32 : work->kernels->f64;
        if (leaf->averaged && leaf->average.dtype == leaf->parameter.dtype)
            typed->exchange(leaf, piece->start, (size_t)piece->count);
    }
}

void instep_plan_exchange(instep_plan *plan, int threads)
{
    job work = {.plan = plan, .kernels = instep_kernels()};
    instep_parallel(plan->blocks, plan->averaged < SPLIT ? 1 : threads, exchange_block, &work);
}

void instep_plan_measured(const instep_plan *plan, instep_measures *leaves)
{
    memset(leaves, 0, (size_t)plan->leaves * sizeof *leaves);
    for (size_t k = 0; k < plan->pieces; ++k) {
        const instep_piece *piece = &plan->piece[k];
        instep_measures *total = &leaves[piece->leaf];
        total->gradient += piece->measures.gradient;
        total->update += piece->measures.update;
        total->parameter += piece->measures.parameter;
        total->clipped += piece->measures.clipped;
    }
}
