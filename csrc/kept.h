/* kept.h: the rules of rules.h for states that are REAL, and for float32 for states of bfloat16,
 * which the loop of the rule decodes and rounds as stored.h does. Beside a square root and a
 * division this costs little, and a step is as fast as memory; tile by tile it was not.
 *
 * That second form is for steps without value clip and l2: with all three options GCC splits no
 * loop of this size into one for each, and does not vectorize it. */
#define KEPT REAL
#define RULED(name) FN(name)
#define PREPARE FN(prepare)
#define DRAW(key) (void)(key)
#define GET(state, i) (state)[i]
#define PUT(state, k, i, value) (state)[i] = (value)
#include "rules/rules.h"

static void (*const FN(rules)[INSTEP_RULES])(size_t n, REAL *p, const REAL *g, REAL *const *state,
                                             random_key key, const void *coefficients) = {
#define RULE(rule, family, count, states) FN(rule),
#include "kernels.def"
};

#if REAL_BITS == 32
#define KEPT uint16_t
#define RULED(name) name##_bf16
#define PREPARE(g, p, scale, limit, l2, one_loop) ((void)(limit), (void)(l2), (g) * (scale))
#define DRAW(key) const uint32_t word = random_next(&(key))
#define GET(state, i) float_of((uint32_t)(state)[i] << 16)
/* States have the streams of stored.h; a third one is a maximum and goes to the nearest. */
#define SHARE(k) ((k) == 2 ? random_share(NEAREST, 0) : random_share(word, k))
#define PUT(state, k, i, value) (state)[i] = (uint16_t)(rounded_bfloat(value, SHARE(k)) >> 16)
#include "rules/rules.h"
#undef SHARE

static void (*const rules_bf16[INSTEP_RULES])(size_t n, float *p, const float *g,
                                              uint16_t *const *state, random_key key,
                                              const void *coefficients) = {
#define RULE(rule, family, count, states) rule##_bf16,
#include "kernels.def"
};
#endif
