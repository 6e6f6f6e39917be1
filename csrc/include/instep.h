/* instep.h: the public C API of the optimizer core.
 *
 * Plain C11, no Python, no errno, no printing. Every function may be called
 * from any thread; a plan may be used by one thread at a time. Pointers stay
 * the caller's: a plan remembers addresses, it never owns or copies elements.
 * A call needs up to 112 KB of stack.
 *
 * Numbers: IEEE add, subtract, multiply, divide and square root only, so equal
 * input gives equal bits on every thread count and instruction set. NaN flows
 * through as in IEEE arithmetic; only the NaN's own bits may differ.
 */
#ifndef INSTEP_H
#define INSTEP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    INSTEP_MAX_STATES = 3,
    INSTEP_MAX_COEFFICIENTS = 16,
    INSTEP_MAX_LOSS_COEFFICIENTS = 4, /* behind `factor` */
    INSTEP_MAX_DIMS = 64
};

/* Element types. Parameters: the first two, bfloat16. States: also int8, uint8. Gradients of a
 * step: any float. Predictions and gradients of losses: the first four. Targets, weights, masks:
 * any. Labels: any integer. */
typedef enum {
    INSTEP_FLOAT32,
    INSTEP_FLOAT64,
    INSTEP_FLOAT16,
    INSTEP_BFLOAT16,
    INSTEP_LONGDOUBLE,
    INSTEP_INT8,
    INSTEP_INT16,
    INSTEP_INT32,
    INSTEP_INT64,
    INSTEP_UINT8,
    INSTEP_UINT16,
    INSTEP_UINT32,
    INSTEP_UINT64,
    INSTEP_DTYPES
} instep_dtype;

/* An array as its owner describes it: `ndim` lengths and byte strides, strides
 * of any sign (0 for broadcast input), `data` the address of element [0, ...].
 * Need not be aligned. `shape` and `strides` are read during the call only. */
typedef struct {
    char *data;
    const intptr_t *shape;
    const intptr_t *strides;
    int ndim;
    instep_dtype dtype;
} instep_array;

/* ---- instruction set ------------------------------------------------------ */

/* Choose the kernels: `name` is one of the available levels, NULL the best one.
 * Returns 0, or -1 (nothing changed) when `name` is unknown or unsupported.
 * Call it before anything else, and not while another thread computes. */
int instep_isa_select(const char *name);
const char *instep_isa_name(void);
/* The `index`-th level that this build has and this CPU runs, slowest first; NULL past the end. */
const char *instep_isa_available(int index);

/* ---- the registry of kernels.def ------------------------------------------ */

/* Number of update rules; names and comma-separated lists of state and coefficient names. */
int instep_rule_count(void);
const char *instep_rule_name(int rule);
const char *instep_rule_states(int rule);
const char *instep_rule_coefficients(int rule);

/* How many of the coefficients, the last ones, are computed by instep_rule_advance. */
int instep_rule_derived(int rule);

/* Names of all states, and how each may be kept in fewer bits, as kernels.def names it: "SIGNED"
 * (int8), "SQUARED", "SQUARED_NEAREST" (uint8), "FULL" (it may not). */
int instep_state_count(void);
const char *instep_state_name(int state);
const char *instep_state_format(int state);

int instep_loss_count(void);
const char *instep_loss_name(int loss);
const char *instep_loss_coefficients(int loss);

/* ---- threads --------------------------------------------------------------- */

/* Call work(context, block) once for each block in [0, blocks), on the caller and up to
 * `threads` - 1 workers. Returns when all are done. Which thread takes a block is not
 * defined. A call from within `work`, or while another thread's call runs, is done by the
 * caller alone. After fork() the child starts with a fresh pool. Allocates only when more
 * threads are asked for than ever before. */
typedef void (*instep_work)(void *context, size_t block);
void instep_parallel(size_t blocks, int threads, instep_work work, void *context);

/* ---- the step -------------------------------------------------------------- */

/* A plan holds the leaves (parameter arrays with their states) of one optimizer. */
typedef struct instep_plan instep_plan;

/* NULL when out of memory. */
instep_plan *instep_plan_create(int leaves);
void instep_plan_destroy(instep_plan *plan);

/* Describe leaf `leaf`: a writable float32, float64 or bfloat16 array whose elements do not overlap
 * each other or any other array of the plan. bfloat16 is computed in float32 and rounded
 * stochastically. Set every leaf once. Returns 0, or -1: out of memory. */
int instep_plan_set_parameter(instep_plan *plan, int leaf, const instep_array *parameter);

/* Choose leaf's update rule. `states` are as many arrays as the rule names, of the parameter's
 * shape. Each is of the type computed in, and then used where it lies if dense in the parameter's
 * memory order; or float32; or bfloat16, int8 or uint8, and then aligned and dense in that order.
 * bfloat16, int8 and uint8 are rounded stochastically (SQUARED_NEAREST states to the nearest). */
void instep_plan_set_rule(instep_plan *plan, int leaf, int rule, const instep_array *states);

/* Where the states of leaf's rule that are int8 or uint8 have the scales of their blocks: one per
 * 128 elements of the walk, the last block may be shorter. Others: NULL. After
 * instep_plan_set_rule, before instep_plan_finish. */
void instep_plan_set_scales(instep_plan *plan, int leaf, float *const *scales);

/* An exponential moving average of the parameter that the step keeps: a writable array of the
 * parameter's shape and dtype (float32 for bfloat16), used where it lies if dense in the
 * parameter's memory order. NULL: none. Not after instep_plan_finish without calling that again. */
void instep_plan_set_average(instep_plan *plan, int leaf, const instep_array *average);

/* A writable float16 or bfloat16 array of the parameter's shape to which every step writes the new
 * parameter, rounded to nearest (a float64 one through float32). NULL: none. As for the average,
 * finish again. */
void instep_plan_set_copy(instep_plan *plan, int leaf, const instep_array *copy);

/* Cut the work into blocks and note which bytes the plan writes: once all parameters are set, and
 * again after instep_plan_set_rule. Returns 0, or -1: out of memory. */
int instep_plan_finish(instep_plan *plan);

/* The row of coefficients that the leaf reads in instep_plan_step. */
void instep_plan_set_row(instep_plan *plan, int leaf, int row);

/* Bind this step's gradient (any float dtype, the parameter's shape, read only); NULL: the leaf
 * takes no part. Returns 0; 1 when the shape differs; 2 when the gradient's byte range meets
 * that of an array that the plan writes and `trusted` is 0. Leaf then takes no part. What was
 * bound, trusted or not, is taken again at the same address without looking. */
int instep_plan_set_gradient(instep_plan *plan, int leaf, const instep_array *gradient,
                             int trusted);

/* How many elements have a bound gradient. */
size_t instep_plan_bound(const instep_plan *plan);

/* How many elements a step has to do with: the more of those bound and those averaged. */
size_t instep_plan_work(const instep_plan *plan);

/* Can the bound gradients be zeroed: does no byte of theirs belong to two elements? 0: their ranges
 * meet, or axes of one interleave. `trusted`: the caller knows that they can, also from now on
 * while they stay where they are. */
int instep_plan_gradients_apart(instep_plan *plan, int trusted);

/* Sum over all bound gradients of (scale * g)^2, in float64. Overflows only where the true sum
 * does; a NaN or infinite element makes it NaN or infinite. The shape of the sum depends on the
 * sizes of the leaves alone. */
double instep_plan_sum_squares(instep_plan *plan, double scale, int threads);

/* What instep_powers found last, to go on from: all zero at first, then not to be touched. */
typedef struct {
    double base[2], high[2], low[2];
    int64_t exponent;
    int known;
} instep_power_memory;

/* Bring a row of coefficients to a 1-based step; `fresh`: the states are new. `memory` (may be
 * NULL) belongs to the row and changes nothing but the time taken. */
void instep_rule_advance(int rule, double *row, int64_t step, int fresh,
                         instep_power_memory *memory);

/* What a step does besides the update. All zero but `threads`: nothing. */
typedef struct {
    int threads;
    int zero_gradients; /* write zeros to bound gradients once read; they must be writable, and no
                           element may lie in two places, of one gradient or of two */
    int measure;        /* find what instep_plan_measured tells */
    double measured_scale; /* what measured gradients are multiplied by first */
    double average_weight; /* in [0, 1]: average += average_weight * (parameter - average), for
                              every leaf that has one, also without a gradient */
    uint64_t seed, step;   /* of the random bits, which depend on these, leaf, element and state */
} instep_step_options;

/* Update every leaf with a bound gradient. `rows` holds INSTEP_MAX_COEFFICIENTS values per row,
 * in the order of instep_rule_coefficients. Writes parameters, states, averages, copies and, if
 * asked, gradients, nothing else; allocates nothing. */
void instep_plan_step(instep_plan *plan, const double *rows, const instep_step_options *options);

/* Of one leaf: sums of squares in float64 and a count of elements, whose shapes depend on the
 * leaf's size alone. */
typedef struct {
    double gradient;  /* times measured_scale, before any limit */
    double update;    /* new parameter - old parameter */
    double parameter; /* the new one */
    int64_t clipped;  /* elements that the rule's gradient_limit cut */
} instep_measures;

/* Parameters and averages exchange their contents; copies are written from what parameters then
 * hold. Leaves without an average stay as they are, and so do bfloat16
 * parameters, whose averages have another type. */
void instep_plan_exchange(instep_plan *plan, int threads);

/* What the last step with `measure` found, one entry per leaf; zeros where it had no gradient. */
void instep_plan_measured(const instep_plan *plan, instep_measures *leaves);

/* Between float32 values and states kept as bfloat16, int8 or uint8, `count` of them in the order
 * of the walk; `scales` as in instep_plan_set_scales, NULL for bfloat16. Encoding rounds to the
 * nearest; decoding and encoding again gives the same bits, but for the scale of a block whose
 * codes are all 0, which becomes 0. An element that is not finite, or below 0 for uint8, makes its
 * block NaN; in bfloat16 it stays alone. */
void instep_state_encode(const float *values, size_t count, instep_dtype dtype, void *codes,
                         float *scales);
void instep_state_decode(const void *codes, const float *scales, size_t count, instep_dtype dtype,
                         float *values);

/* Allocations made by the core so far: equal before and after a step shows it made none. */
size_t instep_allocations(void);

/* power[k] = base[k] ** exponent for 0 <= base <= 1 and exponent >= 0, carried in double-double
 * arithmetic: the same bits on every platform (pow() of the C library is not), error below 1 ulp
 * for exponent < 2^40. `memory` (may be NULL) changes nothing but the time taken. */
void instep_powers(const double base[2], int64_t exponent, double power[2],
                   instep_power_memory *memory);

/* ---- losses ---------------------------------------------------------------- */

/* All losses: pred, gradient and values are float32, float64, float16 or bfloat16, all of one type;
 * computed in float64 for float64, else in float32. `gradient` may be pred itself; otherwise no
 * output overlaps an input. Sums are float64, their shape depends on the shapes of the arrays
 * and on the order of their strides. Losses are numbered as instep_loss_name names them. */

/* One call of an elementwise loss. All arrays have pred's shape; weight, values and extra may be
 * NULL. */
typedef struct {
    instep_array pred, target, gradient;
    const instep_array *weight, *values;
    const instep_array *extra;  /* binary_cross_entropy_with_logits: pos_weight; else NULL */
    const double *coefficients; /* INSTEP_MAX_LOSS_COEFFICIENTS, in instep_loss_coefficients' order
                                   behind `factor` */
    double scale;               /* the gradient is multiplied by it: 1 / N for a mean */
} instep_elementwise;

/* Returns the sum of weight * loss, in float64; writes the gradient and, if given, the values. */
double instep_loss_elementwise(int loss, const instep_elementwise *call, int threads);

/* Sum of an array's elements in float64 in the fixed order that the losses use. */
double instep_sum(const instep_array *array, int threads);

/* How many elements (`sizes`: whose absolute values) are below `low` or above `high`; NaN is
 * neither. */
int64_t instep_count_outside(const instep_array *array, double low, double high, int sizes,
                             int threads);

/* One call of a loss over classes. pred, gradient (and soft targets) are rows along `axis`; labels
 * and values have pred's shape without it. `weight`: one number per class, or NULL. Labels must
 * have passed instep_check_labels. */
typedef struct {
    instep_array pred, target, gradient;
    const instep_array *values;
    const double *weight;
    int axis;
    int64_t ignore_index; /* rows with this label have value 0 and gradient 0; labels only */
    double label_smoothing, scale;
} instep_classwise;

double instep_loss_classwise(int loss, const instep_classwise *call, int threads);

/* Read all labels. Returns the position in C order of the first that is neither ignore_index nor
 * in [0, classes), or -1 when all are fine; then *total is the sum of weight[label]
 * (NULL: 1 each) over the labels that are not ignored. */
int64_t instep_check_labels(const instep_array *labels, int64_t classes, int64_t ignore_index,
                            const double *weight, double *total);

/* One call of a loss over regions. The first `kept` axes of pred number the groups in C order, the
 * others are summed. target, gradient and mask (NULL: all elements) have pred's shape. */
typedef struct {
    instep_array pred, target, gradient;
    const instep_array *mask;   /* an element where it is 0 does not exist */
    const double *coefficients; /* as instep_loss_coefficients names them */
    const double *factor;       /* one per group: what its gradient is multiplied by */
    double *score;              /* one per group: its value */
    int kept;
} instep_regionwise;

/* Writes the scores and the gradient. Returns 0, or -1: out of memory, nothing written. */
int instep_loss_regionwise(const instep_regionwise *call, int threads);

#ifdef __cplusplus
}
#endif
#endif
