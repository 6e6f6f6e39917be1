/* loss.c: losses cut into blocks. The cut depends on the shape alone, so does every sum. */
#include <string.h>

#include "losses/labels.h"
#include "table.h"

enum {
    MOST_BLOCKS = 512, /* partial sums live on the stack */
    CLASS_COST = 8,    /* elements of cheap work that one logit is worth */
    ROWS = 64          /* that softmax_rows.h takes at a time */
};

typedef struct {
    instep_loss_views views;
    const instep_variant *kernels;
    const instep_typed *typed;
    int loss;
    size_t size, block;      /* elements or rows, in all and per block */
    double sum[MOST_BLOCKS]; /* one per block */
} job;

typedef double (*block_sum)(const job *work, size_t start, size_t count);

static double sum_elementwise(const job *work, size_t start, size_t count)
{
    return work->typed->elementwise(work->loss, &work->views, start, count);
}

static double sum_rows(const job *work, size_t start, size_t count)
{
    return work->typed->classwise[work->loss](&work->views, start, count);
}

static double sum_values(const job *work, size_t start, size_t count)
{
    return work->kernels->sum(&work->views.pred, start, count);
}

static double sum_outside(const job *work, size_t start, size_t count)
{
    return work->typed->count_outside(&work->views, start, count);
}

typedef struct {
    job *work;
    block_sum run;
} context;

static void run_block(void *opaque, size_t block)
{
    const context *all = opaque;
    const size_t start = block * all->work->block, left = all->work->size - start;
    all->work->sum[block] =
        all->run(all->work, start, left < all->work->block ? left : all->work->block);
}

/* Add up `run` over `size` items, each worth `weight` elements of cheap work. */
static double run_blocks(job *work, block_sum run, size_t size, size_t weight, int threads)
{
    context all = {work, run};
    size_t block = INSTEP_PIECE / (weight > 0 ? weight : 1);
    if (block < 1) block = 1;
    if (block > ROWS) block -= block % ROWS;
    while (size / block >= MOST_BLOCKS) block *= 2;
    const size_t blocks = (size + block - 1) / block;
    double total = 0;
    work->size = size;
    work->block = block;
    instep_parallel(blocks, size * weight < INSTEP_LOSS_SPLIT ? 1 : threads, run_block, &all);
    for (size_t k = 0; k < blocks; ++k) total += work->sum[k];
    return total;
}

static void choose_kernels(job *work, instep_dtype dtype)
{
    work->kernels = instep_kernels();
    work->typed = dtype == INSTEP_FLOAT64 ? work->kernels->f64 : work->kernels->f32;
}

double instep_loss_elementwise(int loss, const instep_elementwise *call, int threads)
{
    enum { MOST = 1 + INSTEP_MAX_LOSS_COEFFICIENTS };
    int order[INSTEP_MAX_DIMS];
    intptr_t axes[6][2 * INSTEP_MAX_DIMS];
    double coefficients[MOST];
    job work;
    instep_loss_views *views = &work.views;
    instep_walk_order(order, &call->pred);
    *views = (instep_loss_views){.scale = call->scale, .coefficients = coefficients};
    views->pred = instep_view_of(&call->pred, order, axes[0]);
    views->target = instep_view_of(&call->target, order, axes[1]);
    views->gradient = instep_view_of(&call->gradient, order, axes[2]);
    views->in_place = call->gradient.data == call->pred.data;
    views->has_weight = call->weight != NULL;
    views->has_values = call->values != NULL;
    views->has_extra = call->extra != NULL;
    if (call->weight) views->weight = instep_view_of(call->weight, order, axes[3]);
    if (call->values) views->values = instep_view_of(call->values, order, axes[4]);
    if (call->extra) views->extra = instep_view_of(call->extra, order, axes[5]);
    coefficients[0] = call->weight ? 1 : call->scale; /* factor */
    memcpy(coefficients + 1, call->coefficients, sizeof coefficients - sizeof *coefficients);
    choose_kernels(&work, call->pred.dtype);
    work.loss = loss;
    return run_blocks(&work, sum_elementwise, instep_size(&call->pred), 1, threads);
}

/* What needs one array alone. */
static double reduce(const instep_array *array, instep_dtype compute, block_sum run,
                     const double *coefficients, int threads)
{
    int order[INSTEP_MAX_DIMS];
    intptr_t axes[2 * INSTEP_MAX_DIMS];
    job work;
    instep_walk_order(order, array);
    work.views = (instep_loss_views){.coefficients = coefficients};
    work.views.pred = instep_view_of(array, order, axes);
    choose_kernels(&work, compute);
    return run_blocks(&work, run, instep_size(array), 1, threads);
}

double instep_sum(const instep_array *array, int threads)
{
    return reduce(array, INSTEP_FLOAT64, sum_values, NULL, threads);
}

int64_t instep_count_outside(const instep_array *array, double low, double high, int sizes,
                             int threads)
{
    const int narrow = array->dtype == INSTEP_FLOAT32 || array->dtype == INSTEP_FLOAT16 ||
                       array->dtype == INSTEP_BFLOAT16;
    const instep_dtype compute = narrow ? INSTEP_FLOAT32 : INSTEP_FLOAT64;
    const double coefficients[] = {low, high, sizes};
    return (int64_t)reduce(array, compute, sum_outside, coefficients, threads);
}

/* The view of an array's rows in C order: all axes but `axis` (-1: it has no such axis). */
static instep_view rows_of(const instep_array *array, int axis, intptr_t *axes)
{
    int order[INSTEP_MAX_DIMS];
    intptr_t shape[INSTEP_MAX_DIMS], strides[INSTEP_MAX_DIMS];
    instep_array rows = *array;
    rows.ndim = 0;
    rows.shape = shape;
    rows.strides = strides;
    for (int k = 0; k < array->ndim; ++k) {
        if (k == axis) continue;
        order[rows.ndim] = rows.ndim;
        shape[rows.ndim] = array->shape[k];
        strides[rows.ndim++] = array->strides[k];
    }
    return instep_view_of(&rows, order, axes);
}

double instep_loss_classwise(int loss, const instep_classwise *call, int threads)
{
    intptr_t axes[4][2 * INSTEP_MAX_DIMS];
    const int axis = call->axis, labels = call->target.ndim == call->pred.ndim - 1;
    job work;
    instep_loss_views *views = &work.views;
    *views = (instep_loss_views){.labels = labels,
                                 .class_weight = call->weight,
                                 .ignore_index = call->ignore_index,
                                 .label_smoothing = call->label_smoothing,
                                 .scale = call->scale};
    views->pred = rows_of(&call->pred, axis, axes[0]);
    views->gradient = rows_of(&call->gradient, axis, axes[1]);
    views->target = rows_of(&call->target, labels ? -1 : axis, axes[2]);
    views->in_place = call->gradient.data == call->pred.data;
    views->has_values = call->values != NULL;
    if (call->values) views->values = rows_of(call->values, -1, axes[3]);
    views->classes = (size_t)call->pred.shape[axis];
    views->pred_step = call->pred.strides[axis];
    views->gradient_step = call->gradient.strides[axis];
    views->target_step = labels ? 0 : call->target.strides[axis];
    choose_kernels(&work, call->pred.dtype);
    work.loss = loss - INSTEP_ELEMENTWISE_LOSSES;
    return run_blocks(&work, sum_rows, instep_size(&call->pred) / views->classes,
                      views->classes * CLASS_COST, threads);
}

int64_t instep_check_labels(const instep_array *labels, int64_t classes, int64_t ignore_index,
                            const double *weight, double *total)
{
    intptr_t axes[2 * INSTEP_MAX_DIMS];
    int64_t label[INSTEP_TILE];
    const instep_variant *kernels = instep_kernels();
    const instep_view view = rows_of(labels, -1, axes);
    const size_t size = instep_size(labels);
    /* What int64 does not hold is read as INT64_MIN, which is then no label to be ignored. */
    if (labels->dtype == INSTEP_UINT64 && ignore_index < 0) ignore_index = -1;
    *total = 0;
    for (size_t start = 0; start < size; start += INSTEP_TILE) {
        const size_t n = size - start < INSTEP_TILE ? size - start : INSTEP_TILE;
        size_t used = 0;
        load_labels(label, &view, start, n);
        if (kernels->count_labels(label, n, classes, ignore_index, &used) > 0) {
            size_t first = 0;
            while (kernels->count_labels(label + first, 1, classes, ignore_index, &used) == 0)
                ++first;
            return (int64_t)(start + first);
        }
        if (weight == NULL) *total += (double)used;
        else
            for (size_t i = 0; i < n; ++i)
                if (label[i] != ignore_index) *total += weight[label[i]];
    }
    return -1;
}
