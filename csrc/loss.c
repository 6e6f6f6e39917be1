/* loss.c: losses cut into blocks. The cut depends on the shape alone, so does every sum. */
#include <string.h>

#include "losses/labels.h"
#include "table.h"

enum {
    MOST_BLOCKS = 512, /* partial sums live on the stack */
    SPLIT = 16384      /* elements below which waking a worker costs more than it saves */
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
    return work->typed->cross_entropy(&work->views, start, count);
}

static double sum_values(const job *work, size_t start, size_t count)
{
    return work->kernels->sum(&work->views.pred, start, count);
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

/* Add up `run` over `size` items of `weight` elements each. */
static double run_blocks(job *work, block_sum run, size_t size, size_t weight, int threads)
{
    context all = {work, run};
    size_t block = INSTEP_PIECE / (weight > 0 ? weight : 1);
    if (block < 1) block = 1;
    while (size / block >= MOST_BLOCKS) block *= 2;
    const size_t blocks = (size + block - 1) / block;
    double total = 0;
    work->size = size;
    work->block = block;
    instep_parallel(blocks, size * weight < SPLIT ? 1 : threads, run_block, &all);
    for (size_t k = 0; k < blocks; ++k) total += work->sum[k];
    return total;
}

static void choose_kernels(job *work, instep_dtype dtype)
{
    work->kernels = instep_kernels();
    work->typed = dtype == INSTEP_FLOAT32 ? &work->kernels->f32 : &work->kernels->f64;
}

double instep_loss_elementwise(int loss, const instep_elementwise *call, int threads)
{
    int order[INSTEP_MAX_DIMS];
    intptr_t axes[5][2 * INSTEP_MAX_DIMS];
    job work;
    instep_loss_views *views = &work.views;
    instep_walk_order(order, &call->pred);
    *views = (instep_loss_views){.scale = call->scale};
    views->pred = instep_view_of(&call->pred, order, axes[0]);
    views->target = instep_view_of(&call->target, order, axes[1]);
    views->gradient = instep_view_of(&call->gradient, order, axes[2]);
    views->has_weight = call->weight != NULL;
    views->has_values = call->values != NULL;
    if (call->weight) views->weight = instep_view_of(call->weight, order, axes[3]);
    if (call->values) views->values = instep_view_of(call->values, order, axes[4]);
    choose_kernels(&work, call->pred.dtype);
    work.loss = loss;
    return run_blocks(&work, sum_elementwise, instep_size(&call->pred), 1, threads);
}

double instep_sum(const instep_array *array, int threads)
{
    int order[INSTEP_MAX_DIMS];
    intptr_t axes[2 * INSTEP_MAX_DIMS];
    job work;
    instep_walk_order(order, array);
    work.views = (instep_loss_views){.scale = 1};
    work.views.pred = instep_view_of(array, order, axes);
    choose_kernels(&work, INSTEP_FLOAT64);
    return run_blocks(&work, sum_values, instep_size(array), 1, threads);
}

/* The view of an array's rows in C order, with or without a class axis behind them. */
static instep_view rows_of(const instep_array *array, int has_classes, intptr_t *axes)
{
    int order[INSTEP_MAX_DIMS];
    instep_array rows = *array;
    rows.ndim -= has_classes;
    for (int axis = 0; axis < rows.ndim; ++axis) order[axis] = axis;
    return instep_view_of(&rows, order, axes);
}

double instep_loss_cross_entropy(const instep_softmax *call, int threads)
{
    intptr_t axes[4][2 * INSTEP_MAX_DIMS];
    const int last = call->pred.ndim - 1, labels = call->target.ndim == last;
    job work;
    instep_loss_views *views = &work.views;
    *views = (instep_loss_views){.labels = labels,
                                 .class_weight = call->weight,
                                 .ignore_index = call->ignore_index,
                                 .label_smoothing = call->label_smoothing,
                                 .scale = call->scale};
    views->pred = rows_of(&call->pred, 1, axes[0]);
    views->gradient = rows_of(&call->gradient, 1, axes[1]);
    views->target = rows_of(&call->target, !labels, axes[2]);
    views->has_values = call->values != NULL;
    if (call->values) views->values = rows_of(call->values, 0, axes[3]);
    views->classes = (size_t)call->pred.shape[last];
    views->pred_step = call->pred.strides[last];
    views->gradient_step = call->gradient.strides[last];
    views->target_step = labels ? 0 : call->target.strides[last];
    choose_kernels(&work, call->pred.dtype);
    size_t rows = 1;
    for (int axis = 0; axis < last; ++axis) rows *= (size_t)call->pred.shape[axis];
    return run_blocks(&work, sum_rows, rows, views->classes, threads);
}

int64_t instep_check_labels(const instep_array *labels, int64_t classes, int64_t ignore_index,
                            const void *weight, instep_dtype dtype, double *total)
{
    intptr_t axes[2 * INSTEP_MAX_DIMS];
    const instep_view view = rows_of(labels, 0, axes);
    const size_t size = instep_size(labels);
    *total = 0;
    for (size_t i = 0; i < size; ++i) {
        const char *at = instep_view_at(&view, i);
        if (!label_fits(at, labels->dtype)) return (int64_t)i;
        const int64_t label = read_label(at, labels->dtype);
        if (label == ignore_index) continue;
        if (label < 0 || label >= classes) return (int64_t)i;
        if (weight == NULL) *total += 1;
        else if (dtype == INSTEP_FLOAT32) *total += (double)((const float *)weight)[label];
        else *total += ((const double *)weight)[label];
    }
    return -1;
}
