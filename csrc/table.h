/* table.h: what one instruction-set variant exports (see variant.h). */
#ifndef INSTEP_TABLE_H
#define INSTEP_TABLE_H

#include "plan.h"

#define FAMILY(family, derived, ...) \
    struct family##_coefficients {   \
        double __VA_ARGS__;          \
    };
#include "kernels.def"

#define ELEMENTWISE(loss, ...)   \
    struct loss##_coefficients { \
        double __VA_ARGS__;      \
    };
#define REGIONWISE(loss, ...) ELEMENTWISE(loss, __VA_ARGS__)
#include "kernels.def"

enum {
#define RULE(rule, family, count, states) INSTEP_RULE_##rule,
#include "kernels.def"
    INSTEP_RULES
};

enum {
#define ELEMENTWISE(loss, ...) INSTEP_LOSS_##loss,
#include "kernels.def"
    INSTEP_ELEMENTWISE_LOSSES
};

enum {
#define CLASSWISE(loss) INSTEP_CLASSWISE_##loss,
#include "kernels.def"
    INSTEP_CLASSWISE_LOSSES
};

/* A rule over n contiguous elements; the arrays do not overlap. */
typedef void (*instep_rule_f32)(size_t n, float *p, const float *g, float *const *state,
                                const void *coefficients);
typedef void (*instep_rule_f64)(size_t n, double *p, const double *g, double *const *state,
                                const void *coefficients);

/* The arrays of a loss call as the pipeline walks them. */
typedef struct {
    instep_view pred, target, gradient, weight, values, extra;
    const double *coefficients;
    int has_weight, has_values, has_extra;
    int in_place; /* the gradient's memory is pred's */
    double scale;
    /* of losses over classes: */
    int labels; /* the target holds labels */
    size_t classes;
    intptr_t pred_step, target_step, gradient_step; /* bytes from class to class */
    const double *class_weight;
    int64_t ignore_index;
    double label_smoothing;
} instep_loss_views;

/* Elements of a loss below which waking a worker costs more than it saves. */
enum { INSTEP_LOSS_SPLIT = 16384 };

/* Returns a sum over elements (rows) [start, start + count) of the walk. */
typedef double (*instep_span)(const instep_loss_views *views, size_t start, size_t count);

/* The functions of one compute type. */
typedef struct {
    void (*step)(const instep_leaf *leaf, size_t start, size_t count, const double *row,
                 const instep_step_options *options, instep_measures *measures);
    void (*follow)(const instep_leaf *leaf, size_t start, size_t count, double weight);
    void (*exchange)(const instep_leaf *leaf, size_t start, size_t count);
    double (*elementwise)(int loss, const instep_loss_views *views, size_t start, size_t count);
    instep_span classwise[INSTEP_CLASSWISE_LOSSES];
    void (*region_sums)(const instep_loss_views *views, size_t start, size_t count, double sums[3]);
    void (*region_gradient)(const instep_loss_views *views, size_t start, size_t count, double rise,
                            double base);
    instep_span count_outside; /* of pred, by coefficients: lowest, highest */
} instep_typed;

typedef struct {
    const char *name;
    const instep_typed *f32, *f64;
    double (*sum_squares)(const instep_view *view, size_t start, size_t count, double scale);
    double (*sum)(const instep_view *view, size_t start, size_t count);
    /* Returns how many labels are neither ignore_index nor in [0, classes); *used: how many are
     * not ignore_index. */
    size_t (*count_labels)(const int64_t *label, size_t n, int64_t classes, int64_t ignore_index,
                           size_t *used);
    /* States in 16 and 8 bits, dense and from a block on (see stored.h). */
    void (*encode)(instep_dtype dtype, char *code, float *scale, const float *x, size_t n);
    void (*decode)(float *x, instep_dtype dtype, const char *code, const float *scale, size_t n);
} instep_variant;

extern const instep_variant instep_variant_baseline, instep_variant_avx2, instep_variant_avx512;

/* The variant in use. */
const instep_variant *instep_kernels(void);

/* Is the rule's k-th state rounded to the nearest where it is kept in fewer bits? */
int instep_rounds_to_nearest(int rule, int state);

/* Zeroed memory or NULL; counted for instep_allocations(). */
void *instep_allocate(size_t bytes);
void instep_free(void *memory);

#endif
