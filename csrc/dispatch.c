/* dispatch.c: choose the instruction set; answer questions about the registry. */
#include <string.h>

#include "cpu.h"
#include "table.h"

#ifdef __AVX__
#error "dispatch.c runs on every CPU: build it without ISA flags"
#endif

static const struct {
    const instep_variant *variant;
    int level;
} variants[] = {
    {&instep_variant_baseline, 1},
#ifdef INSTEP_HAVE_AVX2
    {&instep_variant_avx2, 3},
#endif
#ifdef INSTEP_HAVE_AVX512
    {&instep_variant_avx512, 4},
#endif
};

static const instep_variant *chosen = &instep_variant_baseline;

const instep_variant *instep_kernels(void) { return chosen; }

const char *instep_isa_available(int index)
{
    const int count = (int)(sizeof variants / sizeof variants[0]);
    if (index < 0 || index >= count || variants[index].level > instep_cpu_level()) return NULL;
    return variants[index].variant->name;
}

int instep_isa_select(const char *name)
{
    int found = -1;
    const char *level;
    for (int i = 0; (level = instep_isa_available(i)) != NULL; ++i)
        if (name == NULL || strcmp(name, level) == 0) found = i;
    if (found < 0) return -1;
    chosen = variants[found].variant;
    return 0;
}

const char *instep_isa_name(void) { return chosen->name; }

static const struct {
    const char *name, *states, *family;
} rules[] = {
#define RULE(rule, family, count, states) {#rule, states, #family},
#include "kernels.def"
};

static const struct {
    const char *family, *coefficients;
    int derived;
} families[] = {
#define FAMILY(family, derived, ...) {#family, #__VA_ARGS__, derived},
#include "kernels.def"
};

static const struct {
    const char *name, *format;
} states[] = {
#define STATE(state, format) {#state, #format},
#include "kernels.def"
};

static const struct {
    const char *name, *coefficients;
} losses[] = {
#define ELEMENTWISE(loss, ...) {#loss, #__VA_ARGS__},
#include "kernels.def"
#define CLASSWISE(loss) {#loss, ""},
#include "kernels.def"
#define REGIONWISE(loss, ...) {#loss, #__VA_ARGS__},
#include "kernels.def"
};

int instep_rule_count(void) { return INSTEP_RULES; }

const char *instep_rule_name(int rule) { return rules[rule].name; }

const char *instep_rule_states(int rule) { return rules[rule].states; }

static size_t family_of(int rule)
{
    size_t k = 0;
    while (strcmp(families[k].family, rules[rule].family) != 0) ++k;
    return k;
}

const char *instep_rule_coefficients(int rule) { return families[family_of(rule)].coefficients; }

int instep_rule_derived(int rule) { return families[family_of(rule)].derived; }

int instep_state_count(void) { return (int)(sizeof states / sizeof states[0]); }

const char *instep_state_name(int state) { return states[state].name; }

const char *instep_state_format(int state) { return states[state].format; }

int instep_rounds_to_nearest(int rule, int state)
{
    const char *name = rules[rule].states;
    for (; state > 0; --state) name += strcspn(name, " ") + 1;
    const size_t length = strcspn(name, ",");
    for (int k = 0; k < instep_state_count(); ++k)
        if (strlen(states[k].name) == length && memcmp(states[k].name, name, length) == 0)
            return strcmp(states[k].format, "SQUARED_NEAREST") == 0;
    return 0;
}

int instep_loss_count(void) { return (int)(sizeof losses / sizeof losses[0]); }

const char *instep_loss_name(int loss) { return losses[loss].name; }

const char *instep_loss_coefficients(int loss) { return losses[loss].coefficients; }
