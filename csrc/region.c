/* region.c: losses over groups of elements. Groups are cut into pieces, whose sums come first. */
#include "table.h"

/* The sums of a piece; those of a group's first piece become its factors. */
typedef union {
    double sum[3];
    struct {
        double rise, base;
    } factor;
} piece;

typedef struct {
    instep_loss_views views;
    const instep_typed *typed;
    size_t group, length; /* elements of a group, and of a piece */
    size_t pieces, all;   /* pieces of a group, and of all */
    size_t block;         /* pieces in a block */
    piece *piece;
} job;

static size_t start_of(const job *work, size_t k)
{
    return k / work->pieces * work->group + k % work->pieces * work->length;
}

static size_t length_of(const job *work, size_t k)
{
    const size_t left = work->group - k % work->pieces * work->length;
    return left < work->length ? left : work->length;
}

static size_t end_of_block(const job *work, size_t block)
{
    const size_t end = (block + 1) * work->block;
    return end < work->all ? end : work->all;
}

static void sum_block(void *context, size_t block)
{
    const job *work = context;
    for (size_t k = block * work->block; k < end_of_block(work, block); ++k)
        work->typed->region_sums(&work->views, start_of(work, k), length_of(work, k),
                                 work->piece[k].sum);
}

static void gradient_block(void *context, size_t block)
{
    const job *work = context;
    for (size_t k = block * work->block; k < end_of_block(work, block); ++k) {
        const piece *first = &work->piece[k / work->pieces * work->pieces];
        work->typed->region_gradient(&work->views, start_of(work, k), length_of(work, k),
                                     first->factor.rise, first->factor.base);
    }
}

/* See losses/region.h for the formulas. */
static double finish_group(piece *pieces, size_t count, const struct region_coefficients *c,
                           double factor)
{
    double sum[3] = {0};
    for (size_t k = 0; k < count; ++k)
        for (int j = 0; j < 3; ++j) sum[j] += pieces[k].sum[j];
    const double above = c->overlap_gain * sum[0] + c->smooth;
    const double below = c->overlap * sum[0] + c->pred * sum[1] + c->target * sum[2] + c->smooth;
    pieces->factor.rise = pieces->factor.base = 0;
    if (below == 0) return 0;
    pieces->factor.rise = factor * ((above / below * c->overlap - c->overlap_gain) / below);
    pieces->factor.base = factor * (above / below * c->pred / below);
    return (below - above) / below;
}

static void view_call(job *work, const instep_regionwise *call,
                      intptr_t axes[4][2 * INSTEP_MAX_DIMS])
{
    int order[INSTEP_MAX_DIMS];
    instep_array summed = call->pred;
    summed.ndim -= call->kept;
    summed.strides += call->kept;
    instep_walk_order(order + call->kept, &summed);
    for (int k = 0; k < call->pred.ndim; ++k) order[k] = k < call->kept ? k : order[k] + call->kept;
    work->views = (instep_loss_views){.coefficients = call->coefficients};
    work->views.pred = instep_view_of(&call->pred, order, axes[0]);
    work->views.target = instep_view_of(&call->target, order, axes[1]);
    work->views.gradient = instep_view_of(&call->gradient, order, axes[2]);
    work->views.has_extra = call->mask != NULL;
    if (call->mask) work->views.extra = instep_view_of(call->mask, order, axes[3]);
}

int instep_loss_regionwise(const instep_regionwise *call, int threads)
{
    intptr_t axes[4][2 * INSTEP_MAX_DIMS];
    const instep_variant *kernels = instep_kernels();
    const size_t size = instep_size(&call->pred);
    size_t groups = 1;
    job work;
    for (int axis = 0; axis < call->kept; ++axis) groups *= (size_t)call->pred.shape[axis];
    if (groups == 0) return 0;
    view_call(&work, call, axes);
    work.typed = call->pred.dtype == INSTEP_FLOAT64 ? kernels->f64 : kernels->f32;
    work.group = size / groups;
    work.length = work.group < INSTEP_PIECE ? work.group : INSTEP_PIECE;
    work.pieces = work.group > 0 ? (work.group + work.length - 1) / work.length : 1;
    work.all = groups * work.pieces;
    work.block = work.length > 0 ? INSTEP_PIECE / work.length : INSTEP_PIECE;
    work.piece = instep_allocate(work.all * sizeof *work.piece);
    if (work.piece == NULL) return -1;
    const size_t blocks = (work.all + work.block - 1) / work.block;
    if (size < INSTEP_LOSS_SPLIT) threads = 1;
    instep_parallel(blocks, threads, sum_block, &work);
    for (size_t g = 0; g < groups; ++g)
        call->score[g] = finish_group(work.piece + g * work.pieces, work.pieces,
                                      (const void *)call->coefficients, call->factor[g]);
    instep_parallel(blocks, threads, gradient_block, &work);
    instep_free(work.piece);
    return 0;
}
