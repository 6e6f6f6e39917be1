/* plan.h: what a plan holds; shared by plan.c and the pipeline of step.h. */
#ifndef INSTEP_PLAN_H
#define INSTEP_PLAN_H

#include "view.h"

/* Leaves are cut into pieces of this many elements: whole tiles, whole cache lines, the unit of
 * every sum. The cut depends on a leaf's size alone. */
enum { INSTEP_PIECE = 16384 };

typedef struct {
    size_t size;
    intptr_t *shape; /* as given, ndim lengths; the axes of all views follow it */
    int *order;      /* the walk order, ndim axes */
    int32_t row;
    uint32_t index; /* its number in the plan */
    int16_t rule;
    uint8_t ndim, states, bits, active, averaged, copied;
    uint8_t blocked;        /* has states in 8 bits */
    uint8_t in_rule;        /* all states are bfloat16, as kept.h has them */
    uint8_t words, nearest; /* bits: words of random bits drawn, states rounded to the nearest */
    uint8_t clear;          /* the last gradient is known to be clear of what the plan writes */
    instep_view gradient, parameter, state[INSTEP_MAX_STATES];
    instep_view average, copy;       /* if `averaged`, `copied` */
    float *scale[INSTEP_MAX_STATES]; /* of the blocks of states in 8 bits */
} instep_leaf;

typedef struct {
    size_t start;
    int32_t count, leaf;
    double sum; /* of squares, see instep_plan_sum_squares */
    instep_measures measures;
} instep_piece;

typedef struct {
    uintptr_t low, high;
} instep_range;

struct instep_plan {
    int leaves;
    int backwards; /* the direction of the last step */
    size_t pieces, blocks, ranges;
    size_t active;   /* elements with a bound gradient */
    size_t averaged; /* elements with an average */
    int apart;       /* the bound gradients are known to share no byte, also within themselves */
    instep_leaf *leaf;
    instep_piece *piece;
    size_t *block;       /* pieces block[k] to block[k + 1] are one unit of work for a thread */
    instep_range *range; /* bytes of parameters and states, ascending by low */
    uintptr_t *reach;    /* reach[k]: the highest end among range[0..k] */
    instep_range *bound; /* of the gradients, while they are compared */
};

#endif
