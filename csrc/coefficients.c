/* coefficients.c: what of a rule's coefficients depends on the step, in float64.
 *
 * One function per family of kernels.def. The rest of a row comes from the caller and changes only
 * when a hyperparameter does. */
#include <math.h>

#include "table.h"

static void sgd_at(struct sgd_coefficients *c, int64_t step, int fresh, instep_power_memory *memory)
{
    (void)step, (void)memory;
    if (fresh) c->gain = 1; /* the first gradient is not damped */
}

static void rmsprop_at(struct rmsprop_coefficients *c, int64_t step, int fresh,
                       instep_power_memory *memory)
{
    (void)c, (void)step, (void)fresh, (void)memory;
}

static void adam_at(struct adam_coefficients *c, int64_t step, int fresh,
                    instep_power_memory *memory)
{
    double power[2];
    (void)fresh;
    instep_powers((const double[]){c->beta1, c->beta2}, step, power, memory);
    c->step_size = c->lr / (1 - power[0]);
    c->root_scale = 1 / sqrt(1 - power[1]);
}

void instep_rule_advance(int rule, double *row, int64_t step, int fresh,
                         instep_power_memory *memory)
{
    switch (rule) {
#define RULE(rule, family, count, states)                                      \
    case INSTEP_RULE_##rule:                                                   \
        family##_at((struct family##_coefficients *)row, step, fresh, memory); \
        break;
#include "kernels.def"
    default: break;
    }
}
