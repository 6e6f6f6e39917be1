/* table.h: what one instruction-set variant exports (see variant.h). */
#ifndef INSTEP_TABLE_H
#define INSTEP_TABLE_H

#include "plan.h"

#define FAMILY(family, derived, ...) \
    struct family##_coefficients {   \
        double __VA_ARGS__;          \
    };
#include "kernels.def"

enum {
#define RULE(rule, family, count, states) INSTEP_RULE_##rule,
#include "kernels.def"
    INSTEP_RULES
};

enum {
#define ELEMENTWISE(loss) INSTEP_LOSS_##loss,
#include "kernels.def"
    INSTEP_ELEMENTWISE_LOSSES
};

/* A rule over n contiguous elements; the arrays do not overlap. */
typedef void (*instep_rule_f32)(size_t n, float *p, const float *g, float *const *state,
                                const void *coefficients);
typedef void (*instep_rule_f64)(size_t n, double *p, const double *g, double *const *state,
                                const void *coefficients);

/* The arrays of a loss call as the pipeline walks them. */
typedef struct {
    instep_view pred, target, gradient, weight, values;
    const void *class_weight;
    int has_weight, has_values, labels;
    size_t classes;
    intptr_t pred_step, target_step, gradient_step; /* bytes from class to class */
    int64_t ignore_index;
    double label_smoothing, scale;
} instep_loss_views;

/* The functions of one compute type. */
typedef struct {
    void (*step)(const instep_leaf *leaf, size_t start, size_t count, const double *row);
    /* The following return the sum over elements (rows) [start, start + count) of the walk. */
    double (*elementwise)(int loss, const instep_loss_views *views, size_t start, size_t count);
    double (*cross_entropy)(const instep_loss_views *views, size_t start, size_t count);
} instep_typed;

typedef struct {
    const char *name;
    instep_typed f32, f64;
    double (*sum_squares)(const instep_view *view, size_t start, size_t count, double scale);
    double (*sum)(const instep_view *view, size_t start, size_t count);
} instep_variant;

extern const instep_variant instep_variant_baseline, instep_variant_avx2, instep_variant_avx512;

/* The variant in use. */
const instep_variant *instep_kernels(void);

/* Zeroed memory or NULL; counted for instep_allocations(). */
void *instep_allocate(size_t bytes);
void instep_free(void *memory);

#endif
