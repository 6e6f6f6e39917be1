/* fuzz_plan.c: a plan of any leaves, and a short program of steps, sums, exchanges and changes.
 *
 * Besides what fuzz.h compares: refusals are as instep.h says, and an operation writes what it is
 * said to write and nothing else. */
#include "fuzz.h"

enum { LEAVES = 3, OPERATIONS = 6 };
enum {
    PARAMETER,
    GRADIENT,
    AVERAGE,
    COPY,
    STATES,
    SCALES = STATES + INSTEP_MAX_STATES,
    SLABS = SCALES + INSTEP_MAX_STATES
}; /* of a leaf */

typedef struct {
    extent shape;
    size_t size;
    int rule, states;
    int averaged, copied, active, shares; /* `shares`: elements of the gradient lie in one place */
    slab slab[SLABS];
    int used[SLABS];
    uint64_t hash[SLABS]; /* before an operation */
} leaf;

static leaf leaves[LEAVES];
static int count;
static double rows[LEAVES][INSTEP_MAX_COEFFICIENTS];

/* ---- leaves --------------------------------------------------------------------------------- */

static placing moved_to_c_order(placing from)
{
    placing to = in_c_order;
    memcpy(to.still, from.still, sizeof to.still);
    to.at_end = !from.at_end;
    return to;
}

static void lay_some(input *in, leaf *l, int which, instep_dtype dtype, manner how, int broadcast)
{
    const placing p = some_placing(in, l->shape.ndim, broadcast);
    const placing m = moved_to_c_order(p);
    lay(&l->slab[which], &l->shape, dtype, how.moved && which != PARAMETER ? &m : &p);
    l->used[which] = 1;
}

static void fill(input *in, leaf *l, int which, int sizes)
{
    const contents c = {.seed = next_byte(in), .how = (spread)choose(in, 3), .sizes = sizes};
    fill_slab(&l->slab[which], c);
}

/* Dense, in the memory order of the parameter. */
static placing as_walked(const leaf *l)
{
    placing p = in_c_order;
    for (int axis = 0; axis < l->shape.ndim; ++axis) {
        int place = axis;
        for (; place > 0; --place) {
            const intptr_t *strides = l->slab[PARAMETER].strides;
            if (labs(strides[p.order[place - 1]]) >= labs(strides[axis])) break;
            p.order[place] = p.order[place - 1];
        }
        p.order[place] = axis;
    }
    return p;
}

static int is_double(const leaf *l)
{
    return l->slab[PARAMETER].room.array.dtype == INSTEP_FLOAT64;
}

static void make_state(input *in, leaf *l, int k, manner how)
{
    const char *format = format_of(l->rule, k);
    const int kind = choose(in, 4), squared = strncmp(format, "SQUARED", 7) == 0;
    const int whole = kind < 2 || strcmp(format, "FULL") == 0;
    if (whole) {
        const instep_dtype computed = is_double(l) ? INSTEP_FLOAT64 : INSTEP_FLOAT32;
        lay_some(in, l, STATES + k, kind == 1 ? INSTEP_FLOAT32 : computed, how, 0);
        fill(in, l, STATES + k, squared);
        l->used[SCALES + k] = 0;
        return;
    }
    const placing p = as_walked(l);
    lay(&l->slab[STATES + k], &l->shape,
        kind == 2 ? INSTEP_BFLOAT16
        : squared ? INSTEP_UINT8
                  : INSTEP_INT8,
        &p);
    l->used[STATES + k] = 1;
    fill(in, l, STATES + k, squared);
    l->used[SCALES + k] = kind == 3;
    if (kind != 3) return;
    const extent blocks = {1, {(intptr_t)(l->size + 127) / 128}};
    lay(&l->slab[SCALES + k], &blocks, INSTEP_FLOAT32, &in_c_order);
    fill(in, l, SCALES + k, 1);
}

static void set_rule(input *in, instep_plan *plan, int i, manner how)
{
    leaf *l = &leaves[i];
    instep_array states[INSTEP_MAX_STATES];
    float *scales[INSTEP_MAX_STATES];
    memset(l->used + STATES, 0, 2 * INSTEP_MAX_STATES * sizeof *l->used);
    l->rule = choose(in, instep_rule_count());
    l->states = count_states(l->rule);
    for (int k = 0; k < l->states; ++k) {
        make_state(in, l, k, how);
        states[k] = l->slab[STATES + k].room.array;
        const slab *blocks = &l->slab[SCALES + k];
        scales[k] = l->used[SCALES + k] ? (float *)(void *)blocks->room.array.data : NULL;
    }
    instep_plan_set_rule(plan, i, l->rule, states);
    instep_plan_set_scales(plan, i, scales);
}

static void set_average(input *in, instep_plan *plan, int i, manner how)
{
    leaf *l = &leaves[i];
    l->averaged = l->used[AVERAGE] = one_in(in, 2);
    if (l->averaged) {
        lay_some(in, l, AVERAGE, is_double(l) ? INSTEP_FLOAT64 : INSTEP_FLOAT32, how, 0);
        fill(in, l, AVERAGE, 0);
    }
    instep_plan_set_average(plan, i, l->averaged ? &l->slab[AVERAGE].room.array : NULL);
}

static void set_copy(input *in, instep_plan *plan, int i, manner how)
{
    leaf *l = &leaves[i];
    l->copied = l->used[COPY] = one_in(in, 2);
    if (l->copied) {
        lay_some(in, l, COPY, one_in(in, 2) ? INSTEP_BFLOAT16 : INSTEP_FLOAT16, how, 0);
        fill(in, l, COPY, 0);
    }
    instep_plan_set_copy(plan, i, l->copied ? &l->slab[COPY].room.array : NULL);
}

static instep_plan *make_plan(input *in, manner how)
{
    static const instep_dtype dtypes[] = {INSTEP_FLOAT32, INSTEP_FLOAT64, INSTEP_BFLOAT16};
    count = choose(in, LEAVES + 1);
    instep_plan *plan = instep_plan_create(count);
    require(plan != NULL, "memory");
    for (int i = 0; i < count; ++i) {
        leaf *l = &leaves[i];
        memset(l->used, 0, sizeof l->used);
        l->active = 0;
        l->shape = some_extent(in);
        l->size = elements(&l->shape);
        lay_some(in, l, PARAMETER, dtypes[choose(in, 3)], how, 0);
        fill(in, l, PARAMETER, 0);
        require(instep_plan_set_parameter(plan, i, &l->slab[PARAMETER].room.array) == 0, "memory");
        set_rule(in, plan, i, how);
        set_average(in, plan, i, how);
        set_copy(in, plan, i, how);
        instep_plan_set_row(plan, i, i);
    }
    require(instep_plan_finish(plan) == 0, "memory");
    return plan;
}

/* ---- coefficients --------------------------------------------------------------------------- */

static void fill_row(input *in, int i)
{
    static const double scales[] = {1, 0.5, -1, 1e-8, 1e30, 0}, limits[] = {INFINITY, 1, 1e-3};
    static const int64_t steps[] = {1, 2, 7, 1000, (INT64_C(1) << 40) - 1};
    static instep_power_memory memory;
    double *row = rows[i], again[INSTEP_MAX_COEFFICIENTS];
    row[0] = scales[choose(in, 6)];
    row[1] = limits[choose(in, 3)];
    for (int k = 2; k < INSTEP_MAX_COEFFICIENTS; ++k) row[k] = next_byte(in) / 255.0;
    memcpy(again, row, sizeof again);
    const int64_t step = steps[choose(in, 5)];
    const int fresh = choose(in, 2);
    instep_rule_advance(leaves[i].rule, row, step, fresh, &memory);
    instep_rule_advance(leaves[i].rule, again, step, fresh, NULL);
    require(memcmp(row, again, sizeof again) == 0, "memory changes nothing");
}

/* ---- gradients ------------------------------------------------------------------------------ */

static void make_gradient(input *in, leaf *l, manner how)
{
    lay_some(in, l, GRADIENT, (instep_dtype)choose(in, INSTEP_LONGDOUBLE + 1), how, 1);
    fill(in, l, GRADIENT, 0);
    l->shares = 0;
    for (int axis = 0; axis < l->shape.ndim; ++axis)
        l->shares |=
            l->size > 0 && l->shape.length[axis] > 1 && l->slab[GRADIENT].strides[axis] == 0;
}

/* A gradient that shares memory with what the plan writes, if there is one of its shape. */
static int bind_written(input *in, instep_plan *plan, int i)
{
    const leaf *l = &leaves[i], *other = &leaves[choose(in, count)];
    const int which = choose(in, SCALES);
    const instep_array *array = &other->slab[which].room.array;
    if (which == GRADIENT || !other->used[which] || array->dtype >= INSTEP_INT8) return 0;
    if (memcmp(&other->shape, &l->shape, sizeof l->shape) != 0) return 0;
    require(instep_plan_set_gradient(plan, i, array, 0) == (l->size > 0 ? 2 : 0), "overlap");
    return 1;
}

static void bind(input *in, instep_plan *plan, int i, manner how)
{
    leaf *l = &leaves[i];
    const int kind = choose(in, 8);
    instep_array array;
    if (kind < 5) make_gradient(in, l, how);
    l->active = kind < 5;
    l->used[GRADIENT] &= l->active;
    array = l->slab[GRADIENT].room.array;
    if (kind < 5) {
        require(instep_plan_set_gradient(plan, i, &array, kind == 4) == 0, "a gradient that fits");
    } else if (kind == 5) {
        require(instep_plan_set_gradient(plan, i, NULL, 0) == 0, "none");
    } else if (kind == 6 && bind_written(in, plan, i)) {
        instep_plan_set_gradient(plan, i, NULL, 0);
    } else {
        intptr_t shape[AXES + 1] = {0}, strides[AXES + 1] = {0};
        for (int axis = 0; axis < l->shape.ndim; ++axis) shape[axis] = l->shape.length[axis];
        const int longer = l->shape.ndim == 0 || one_in(in, 2);
        if (!longer) ++shape[choose(in, l->shape.ndim)];
        array =
            (instep_array){(char *)shape, shape, strides, l->shape.ndim + longer, INSTEP_FLOAT32};
        require(instep_plan_set_gradient(plan, i, &array, choose(in, 2)) == 1, "shape");
    }
}

static int all_apart(void)
{
    for (int i = 0; i < count; ++i)
        if (leaves[i].active && leaves[i].shares) return 0;
    return 1;
}

/* ---- what an operation may write ------------------------------------------------------------ */

static void remember(void)
{
    for (int i = 0; i < count; ++i)
        for (int k = 0; k < SLABS; ++k)
            if (leaves[i].used[k]) leaves[i].hash[k] = hash_slab(&leaves[i].slab[k]);
}

static void require_unchanged(int i, unsigned which)
{
    for (int k = 0; k < SLABS; ++k)
        require(!leaves[i].used[k] || !(which >> k & 1) ||
                    hash_slab(&leaves[i].slab[k]) == leaves[i].hash[k],
                "array %d of leaf %d was written", k, i);
}

static void require_zero(void *context, char *at, size_t i)
{
    require(get(at, *(instep_dtype *)context) == 0, "element %zu is not zeroed", i);
}

/* Copies are the parameters, rounded to nearest. */
static void require_copied(leaf *l)
{
    const slab *p = &l->slab[PARAMETER], *c = &l->slab[COPY];
    intptr_t index[AXES] = {0};
    char wanted[sizeof(long double)];
    for (size_t i = 0; i < l->size; ++i) {
        const char *from = p->room.array.data, *to = c->room.array.data;
        for (int axis = 0; axis < l->shape.ndim; ++axis) {
            from += index[axis] * p->strides[axis];
            to += index[axis] * c->strides[axis];
        }
        put(wanted, c->room.array.dtype, (double)(float)get(from, p->room.array.dtype));
        require(same(to, wanted, c->room.array.dtype), "copy of element %zu", i);
        for (int axis = l->shape.ndim - 1; axis >= 0; --axis) {
            if (++index[axis] < l->shape.length[axis]) break;
            index[axis] = 0;
        }
    }
}

#define ALL (~0u)
#define ONLY(which) (1u << (which))

static void require_stepped(const instep_step_options *options)
{
    for (int i = 0; i < count; ++i) {
        leaf *l = &leaves[i];
        instep_dtype *dtype = &l->slab[GRADIENT].room.array.dtype;
        if (!l->active) {
            require_unchanged(i, ALL & ~ONLY(AVERAGE));
            continue;
        }
        if (options->zero_gradients) each(&l->slab[GRADIENT].room.array, require_zero, dtype);
        else require_unchanged(i, ONLY(GRADIENT));
        if (l->copied) require_copied(l);
    }
}

static void require_exchanged(void)
{
    for (int i = 0; i < count; ++i) {
        leaf *l = &leaves[i];
        const int swaps = l->averaged && l->slab[PARAMETER].room.array.dtype != INSTEP_BFLOAT16;
        const unsigned written = ONLY(PARAMETER) | ONLY(AVERAGE) | ONLY(COPY);
        require_unchanged(i, swaps ? ALL & ~written : ALL);
        if (!swaps) continue;
        require(hash_slab(&l->slab[PARAMETER]) == l->hash[AVERAGE], "not exchanged");
        require(hash_slab(&l->slab[AVERAGE]) == l->hash[PARAMETER], "not exchanged");
        if (l->copied) require_copied(l);
    }
}

/* ---- operations ----------------------------------------------------------------------------- */

static void step(input *in, instep_plan *plan, manner how, record *found)
{
    static const double weights[] = {0.3, 0, 1, 0.001, 0.9, 0.5};
    static instep_measures measured[LEAVES];
    const int apart = instep_plan_gradients_apart(plan, 0);
    require(apart == all_apart(), "gradients apart: %d", apart);
    const instep_step_options options = {.threads = how.threads,
                                         .zero_gradients = one_in(in, 2) && apart,
                                         .measure = one_in(in, 2),
                                         .measured_scale = one_in(in, 2) ? 0.5 : 1,
                                         .average_weight = weights[choose(in, 6)],
                                         .seed = next_byte(in) * UINT64_C(0x0101010101010101),
                                         .step = next_byte(in)};
    for (int i = 0; i < count; ++i) fill_row(in, i);
    instep_plan_step(plan, rows[0], &options);
    require_stepped(&options);
    if (!options.measure) return;
    instep_plan_measured(plan, measured);
    for (int i = 0; i < count; ++i) {
        note_number(found, "the gradient's measure", i, measured[i].gradient);
        note_number(found, "the update's measure", i, measured[i].update);
        note_number(found, "the parameter's measure", i, measured[i].parameter);
        note(found, "the count of clipped elements", i, (uint64_t)measured[i].clipped);
    }
}

static void operate(input *in, instep_plan *plan, manner how, record *found)
{
    const int kind = choose(in, 8), i = count > 0 ? choose(in, count) : 0;
    remember();
    if (kind < 3) {
        step(in, plan, how, found);
    } else if (kind == 3) {
        const double scale = one_in(in, 2) ? 0.25 : 1;
        note_number(found, "sum", 0, instep_plan_sum_squares(plan, scale, how.threads));
        for (int k = 0; k < count; ++k) require_unchanged(k, ALL);
    } else if (kind == 4) {
        instep_plan_exchange(plan, how.threads);
        require_exchanged();
    } else if (count > 0) {
        if (kind == 5) set_rule(in, plan, i, how);
        if (kind == 6) set_average(in, plan, i, how);
        if (kind == 7) set_copy(in, plan, i, how);
        require(instep_plan_finish(plan) == 0, "memory");
        bind(in, plan, i, how);
    }
}

static void take(input *in, manner how, record *found)
{
    static const char *const names[SLABS] = {"parameter", "gradient", "average", "copy",
                                             "state 0",   "state 1",  "state 2", "scale 0",
                                             "scale 1",   "scale 2"};
    instep_plan *plan = make_plan(in, how);
    for (int i = 0; i < count; ++i) bind(in, plan, i, how);
    const size_t allocations = instep_allocations();
    for (int k = 1 + choose(in, OPERATIONS); k > 0; --k) operate(in, plan, how, found);
    require(instep_allocations() - allocations <= 8, "only threads are allocated");
    instep_plan_destroy(plan);
    for (int i = 0; i < count; ++i)
        for (int k = 0; k < SLABS; ++k) {
            if (!leaves[i].used[k]) continue;
            note_slab(found, names[k], i, &leaves[i].slab[k]);
            require(slab_intact(&leaves[i].slab[k]), "beside the %s of leaf %d", names[k], i);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    compare_manners(data, size, take);
    return 0;
}
