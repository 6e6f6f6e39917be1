/* print_bits.c: a hash of what each rule, storage, extra and loss makes of fixed data, a line each.
 *
 * Usage: print_bits [level]. All levels and all machines must print the same; NaN counts as NaN.
 * The data come from an integer generator: ordinary numbers among zeros of both signs, subnormals,
 * infinities and numbers near the ends of the range. */
#include "../view.h"
#include "twins.h"

enum { SIZE = 4099, LINES = 23, MOST_CLASSES = 1000, BYTES = 8 * LINES * MOST_CLASSES };
enum { HEIGHT = 11, WIDTH = INSTEP_WIDE + 3 }; /* of a gradient that runs across the walk */

static const instep_dtype types[] = {INSTEP_FLOAT32, INSTEP_FLOAT64, INSTEP_FLOAT16,
                                     INSTEP_BFLOAT16};

static uint64_t bits_at(uint64_t i, uint64_t which)
{
    uint64_t z = (i + 1) * UINT64_C(0x9e3779b97f4a7c15) + which * UINT64_C(0xd1342543de82ef95);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9); /* splitmix64 */
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Numbers that a type holds, a third of them hard. */
static double any_number(instep_dtype dtype, intptr_t i, int which)
{
    static const int lowest[] = {-149, -1074, -24, -133}, highest[] = {127, 1023, 15, 127};
    const uint64_t bits = bits_at((uint64_t)i, (uint64_t)which);
    const double part = (double)(bits >> 44), sign = bits & 16 ? -1 : 1; /* part: 20 bits */
    const int known = dtype <= INSTEP_BFLOAT16 ? (int)dtype : 0;
    switch (bits & 15) {
    case 0: return sign * 0.0;
    case 1: return sign * (double)INFINITY;
    case 2: return sign * ldexp((double)(bits >> 57), lowest[known]);
    case 3: return sign * ldexp(1 + part * 0x1p-20, highest[known]);
    case 4: return sign * ldexp(1 + part * 0x1p-20, lowest[known] / 2);
    default: return sign * part * 0x1p-17; /* below 8 */
    }
}

/* A dense array of rows x columns with its own memory. */
typedef struct {
    _Alignas(64) char memory[BYTES];
    intptr_t shape[2], strides[2];
    instep_array array;
} block;

static block pred, target, gradient, weight, values, extra, states[INSTEP_MAX_STATES];
static block average, copied, scales[INSTEP_MAX_STATES];

static void shape_block(block *b, instep_dtype dtype, intptr_t rows, intptr_t columns)
{
    const intptr_t size = size_of(dtype);
    b->shape[0] = rows;
    b->shape[1] = columns;
    b->strides[0] = columns * size;
    b->strides[1] = size;
    b->array = (instep_array){b->memory, b->shape, b->strides, 2, dtype};
}

static char *element(block *b, intptr_t i) { return b->memory + i * b->strides[1]; }

/* Every `often`-th number is any, the others are from `set`; often = 0: all are from it. */
static void fill_block(block *b, domain set, int which, int often)
{
    const instep_dtype dtype = b->array.dtype;
    for (intptr_t i = 0; i < b->shape[0] * b->shape[1]; ++i) {
        const int any = often > 0 && i % often == 0;
        const double value = any ? any_number(dtype, i, which) : number_in(set, i, which);
        put(element(b, i), dtype, held(dtype, value));
    }
}

static uint64_t mix_block(uint64_t hash, block *b)
{
    for (intptr_t i = 0; i < b->shape[0] * b->shape[1]; ++i)
        hash = mix(hash, get(element(b, i), b->array.dtype));
    return hash;
}

static void print_hash(const char *name, const char *type, uint64_t hash)
{
    printf("%-34s %-4s %016llx\n", name, type, (unsigned long long)hash);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static int count_names(const char *list)
{
    int count = *list != '\0';
    for (; *list != '\0'; ++list) count += *list == ',';
    return count;
}

static instep_plan *plan_of_pred(void)
{
    instep_plan *plan = instep_plan_create(1);
    if (plan == NULL || instep_plan_set_parameter(plan, 0, &pred.array) != 0) exit(1);
    return plan;
}

/* Three steps of one leaf, each with another type of gradient; then the sum of its squares. */
static void print_rule(int rule, instep_dtype dtype)
{
    double row[INSTEP_MAX_COEFFICIENTS] = {0};
    instep_array arrays[INSTEP_MAX_STATES];
    uint64_t hash = 1;
    shape_block(&pred, dtype, 1, SIZE);
    fill_block(&pred, EIGHTHS, 1, 3);
    for (int k = 0; k < INSTEP_MAX_STATES; ++k) {
        shape_block(&states[k], dtype, 1, SIZE);
        fill_block(&states[k], UNIT, 2 + k, 3);
        arrays[k] = states[k].array;
    }
    for (int k = 0; k < count_names(instep_rule_coefficients(rule)); ++k)
        row[k] = k == 1 ? 6 : 0.03125 + (double)(bits_at((uint64_t)k, 9) >> 40) * 0x1p-25;
    instep_plan *plan = plan_of_pred();
    instep_plan_set_rule(plan, 0, rule, arrays);
    if (instep_plan_finish(plan) != 0) exit(1);
    instep_plan_set_row(plan, 0, 0);
    for (int step = 0; step < 4; ++step) {
        shape_block(&gradient, types[step], 1, SIZE);
        fill_block(&gradient, EIGHTHS, 5 + step, 4);
        instep_rule_advance(rule, row, step + 1, step == 0, NULL);
        if (instep_plan_set_gradient(plan, 0, &gradient.array, 1) != 0) exit(1);
        hash = mix(hash, instep_plan_sum_squares(plan, 0.75, 1));
        instep_plan_step(plan, row, &(instep_step_options){.threads = 1});
        hash = mix_block(hash, &pred);
    }
    for (int k = 0; k < count_names(instep_rule_states(rule)); ++k)
        hash = mix_block(hash, &states[k]);
    for (int k = 0; k < INSTEP_MAX_COEFFICIENTS; ++k) hash = mix(hash, row[k]);
    instep_plan_destroy(plan);
    print_hash(instep_rule_name(rule), name_of(dtype), hash);
}

/* A step with a gradient that runs across the walk, and the sum of its squares. */
static void print_across(instep_dtype dtype, instep_dtype given)
{
    static _Alignas(64) char memory[WIDTH * INSTEP_FAR];
    const double row[INSTEP_MAX_COEFFICIENTS] = {0.75, 6, 0, 0.25};
    const intptr_t strides[] = {size_of(given), INSTEP_FAR};
    char name[64];
    shape_block(&pred, dtype, HEIGHT, WIDTH);
    fill_block(&pred, EIGHTHS, 1, 3);
    for (intptr_t i = 0; i < HEIGHT * WIDTH; ++i) {
        const double value = held(given, number_in(UNIT, i, 2));
        put(memory + i / WIDTH * strides[0] + i % WIDTH * INSTEP_FAR, given, value);
    }
    const instep_array across = {memory, pred.shape, strides, 2, given};
    instep_plan *plan = plan_of_pred();
    instep_plan_set_rule(plan, 0, 0, NULL); /* sgd */
    if (instep_plan_finish(plan) != 0) exit(1);
    if (instep_plan_set_gradient(plan, 0, &across, 1) != 0) exit(1);
    const uint64_t hash = mix(1, instep_plan_sum_squares(plan, 0.75, 1));
    instep_plan_step(plan, row, &(instep_step_options){.threads = 1});
    instep_plan_destroy(plan);
    snprintf(name, sizeof name, "gradient across, %s", name_of(given));
    print_hash(name, name_of(dtype), mix_block(hash, &pred));
}

/* Steps of one leaf whose states are stored, or whose parameter is a bfloat16. 8-bit: signed. */
static void print_stored(int rule, instep_dtype dtype, instep_dtype stored)
{
    double row[INSTEP_MAX_COEFFICIENTS];
    instep_array arrays[INSTEP_MAX_STATES];
    float *units[INSTEP_MAX_STATES];
    uint64_t hash = 1;
    char name[64];
    shape_block(&pred, dtype, 1, SIZE);
    fill_block(&pred, EIGHTHS, 1, 0);
    for (int k = 0; k < INSTEP_MAX_STATES; ++k) {
        const int unsign = stored == INSTEP_INT8 && strstr(instep_rule_states(rule), "_sq") != NULL;
        shape_block(&states[k], unsign && k > 0 ? INSTEP_UINT8 : stored, 1, SIZE);
        shape_block(&scales[k], INSTEP_FLOAT32, 1, SIZE / 128 + 1);
        memset(states[k].memory, 0, SIZE * sizeof(double));
        memset(scales[k].memory, 0, SIZE);
        arrays[k] = states[k].array;
        units[k] = (float *)(void *)scales[k].memory;
    }
    for (int k = 0; k < INSTEP_MAX_COEFFICIENTS; ++k)
        row[k] = k == 1 ? 6 : 0.25 + (double)(bits_at((uint64_t)k, 9) >> 40) * 0x1p-25;
    instep_plan *plan = plan_of_pred();
    instep_plan_set_rule(plan, 0, rule, arrays);
    instep_plan_set_scales(plan, 0, units);
    if (instep_plan_finish(plan) != 0) exit(1);
    for (int step = 0; step < 6; ++step) {
        shape_block(&gradient, types[step % 4], 1, SIZE);
        fill_block(&gradient, EIGHTHS, 5 + step, step < 4 ? 0 : 997); /* then some are hard */
        if (instep_plan_set_gradient(plan, 0, &gradient.array, 1) != 0) exit(1);
        const instep_step_options options = {.threads = 1, .seed = 7, .step = (uint64_t)step};
        instep_plan_step(plan, row, &options);
        hash = mix_block(hash, &pred);
        for (int k = 0; k < count_names(instep_rule_states(rule)); ++k)
            hash = mix_block(mix_block(hash, &states[k]), &scales[k]);
    }
    instep_plan_destroy(plan);
    snprintf(name, sizeof name, "%s, states %s", instep_rule_name(rule), name_of(stored));
    print_hash(name, name_of(dtype), hash);
}

/* Steps of one leaf that average, copy, measure and zero, by weights from 0 to 1. */
static void print_extras(instep_dtype dtype, instep_dtype narrow)
{
    double row[INSTEP_MAX_COEFFICIENTS] = {0.75, 6, 0, 0.25};
    uint64_t hash = 1;
    instep_measures found;
    shape_block(&pred, dtype, 1, SIZE);
    shape_block(&average, dtype, 1, SIZE);
    shape_block(&copied, narrow, 1, SIZE);
    fill_block(&average, EIGHTHS, 2, 5);
    instep_plan *plan = plan_of_pred();
    instep_plan_set_rule(plan, 0, 0, NULL); /* sgd */
    instep_plan_set_average(plan, 0, &average.array);
    instep_plan_set_copy(plan, 0, &copied.array);
    if (instep_plan_finish(plan) != 0) exit(1);
    for (int step = 0; step < 8; ++step) {
        fill_block(&pred, EIGHTHS, 1 + step, step % 2 ? 3 : 0); /* a measured NaN hides the rest */
        shape_block(&gradient, types[step % 4], 1, SIZE);
        fill_block(&gradient, EIGHTHS, 9 + step, step % 2 ? 4 : 0);
        if (instep_plan_set_gradient(plan, 0, &gradient.array, 1) != 0) exit(1);
        const instep_step_options options = {.threads = 1,
                                             .zero_gradients = step % 3,
                                             .measure = 1,
                                             .measured_scale = 0.3,
                                             .average_weight = step / 7.0};
        instep_plan_step(plan, row, &options);
        instep_plan_measured(plan, &found);
        hash = mix(mix(hash, found.gradient), found.update);
        hash = mix(mix(hash, found.parameter), (double)found.clipped);
        instep_plan_exchange(plan, 1);
        hash = mix_block(mix_block(hash, &average), &copied);
        hash = mix_block(mix_block(hash, &pred), &gradient);
    }
    instep_plan_destroy(plan);
    print_hash(narrow == INSTEP_FLOAT16 ? "extras, float16 copy" : "extras, bfloat16 copy",
               name_of(dtype), hash);
}

/* ---- losses ---------------------------------------------------------------------------------- */

static void shape_all(instep_dtype dtype, intptr_t rows, intptr_t columns)
{
    block *const all[] = {&pred, &target, &gradient, &weight, &values, &extra};
    for (size_t k = 0; k < sizeof all / sizeof all[0]; ++k)
        shape_block(all[k], dtype, rows, columns);
}

static uint64_t hash_elementwise(const twin_case *loss, int weighted, uint64_t hash)
{
    const instep_elementwise call = {.pred = pred.array,
                                     .target = target.array,
                                     .gradient = gradient.array,
                                     .weight = weighted ? &weight.array : NULL,
                                     .values = &values.array,
                                     .extra = loss->has_extra ? &extra.array : NULL,
                                     .coefficients = loss->coefficients,
                                     .scale = 0.375};
    hash = mix(hash, instep_loss_elementwise(loss_named(loss->name), &call, 1));
    return mix_block(mix_block(hash, &gradient), &values);
}

static void print_elementwise(const twin_case *loss, instep_dtype dtype)
{
    uint64_t hash = 1;
    for (int often = 0; often <= 3; ++often) {
        shape_all(dtype, 1, SIZE);
        fill_block(&pred, loss->pred, 1, often);
        fill_block(&target, loss->target, 2, often == 2 ? 5 : 0);
        fill_block(&weight, EIGHTHS, 3, often == 3 ? 7 : 0);
        fill_block(&extra, COUNTS, 4, 0);
        hash = hash_elementwise(loss, often % 2, hash);
    }
    print_hash(loss->name, name_of(dtype), hash);
}

/* Labels, then soft targets, of rows that lie side by side or (axis 0) across. */
static uint64_t hash_classes(int loss, instep_dtype dtype, intptr_t classes, int axis, int often,
                             uint64_t hash)
{
    static int64_t label[LINES];
    const intptr_t lines = LINES, eight = 8, size = size_of(dtype);
    const domain set = strcmp(instep_loss_name(loss), "cross_entropy") == 0 ? EIGHTHS : UNIT;
    instep_array flat = {values.memory, &lines, &size, 1, dtype};
    instep_classwise call = {.axis = axis,
                             .values = &flat,
                             .weight = (const double *)(const void *)weight.memory,
                             .ignore_index = 7,
                             .scale = 0.5};
    shape_all(dtype, axis == 0 ? classes : LINES, axis == 0 ? LINES : classes);
    shape_block(&weight, INSTEP_FLOAT64, 1, classes);
    shape_block(&values, dtype, 1, LINES);
    fill_block(&pred, set, 1, often);
    fill_block(&target, UNIT, 2, often);
    fill_block(&weight, EIGHTHS, 3, 0);
    for (intptr_t k = 0; k < LINES; ++k) label[k] = k * 31 % classes;
    call.pred = pred.array;
    call.gradient = gradient.array;
    for (int options = 0; options < 4; ++options) {
        call.target = target.array;
        if (options < 2)
            call.target = (instep_array){(char *)label, &lines, &eight, 1, INSTEP_INT64};
        call.label_smoothing = options % 2 ? 0.125 : 0;
        hash = mix(hash, instep_loss_classwise(loss, &call, 1));
        hash = mix_block(mix_block(hash, &gradient), &values);
    }
    return hash;
}

static void print_classwise(const char *name, instep_dtype dtype)
{
    static const intptr_t classes[] = {1, 2, 10, 96, 97, 513, MOST_CLASSES};
    uint64_t hash = 1;
    for (size_t k = 0; k < sizeof classes / sizeof classes[0]; ++k)
        for (int axis = 0; axis < 2; ++axis)
            for (int often = 0; often <= 600; often += 300)
                hash = hash_classes(loss_named(name), dtype, classes[k], axis, often, hash);
    print_hash(name, name_of(dtype), hash);
}

static void print_regionwise(instep_dtype dtype)
{
    static const double factor[LINES] = {1, -2, 0.5, 0.125, 3};
    double score[LINES], by[] = {2, 0, 1, 1, 1, 0, (double)NAN};
    uint64_t hash = 1;
    for (int options = 0; options < 4; ++options) {
        const instep_regionwise call = {.pred = pred.array,
                                        .target = target.array,
                                        .gradient = gradient.array,
                                        .mask = options % 2 ? &extra.array : NULL,
                                        .coefficients = by,
                                        .factor = factor,
                                        .score = score,
                                        .kept = 1};
        by[5] = options / 2; /* from_logits */
        shape_all(dtype, LINES, MOST_CLASSES);
        fill_block(&pred, options / 2 ? EIGHTHS : UNIT, 1, 700);
        fill_block(&target, UNIT, 2, 0);
        fill_block(&extra, BITS, 4, 0);
        if (instep_loss_regionwise(&call, 1) != 0) exit(1);
        hash = mix_block(hash, &gradient);
        for (int k = 0; k < LINES; ++k) hash = mix(hash, score[k]);
    }
    print_hash("region", name_of(dtype), hash);
}

static void print_reductions(instep_dtype dtype)
{
    uint64_t hash = 1;
    for (int often = 0; often <= 200; often += 100) {
        shape_block(&pred, dtype, 1, SIZE);
        fill_block(&pred, EIGHTHS, 1, often);
        hash = mix(hash, instep_sum(&pred.array, 1));
        hash = mix(hash, (double)instep_count_outside(&pred.array, -0.5, 2, 0, 1));
    }
    print_hash("sum, count_outside", name_of(dtype), hash);
}

static void print_powers(void)
{
    uint64_t hash = 1;
    for (int64_t exponent = 0; exponent < INT64_C(1) << 40; exponent = 3 * exponent + 1) {
        const double base[] = {0.9, 1 - 0x1p-30};
        double power[2];
        instep_powers(base, exponent, power, NULL);
        hash = mix(mix(hash, power[0]), power[1]);
    }
    print_hash("powers", "f64", hash);
}

int main(int count, char **arguments)
{
    if (count > 1 && instep_isa_select(arguments[1]) != 0) {
        fprintf(stderr, "this CPU lacks %s\n", arguments[1]);
        return 2;
    }
    for (int rule = 0; rule < instep_rule_count(); ++rule)
        for (int k = 0; k < 2; ++k) print_rule(rule, types[k]);
    for (int rule = 0; rule < instep_rule_count(); ++rule)
        for (int k = 0; k < 4; ++k) {
            if (types[k] == INSTEP_FLOAT16) continue;
            print_stored(rule, types[k], INSTEP_FLOAT32);
            print_stored(rule, types[k], INSTEP_BFLOAT16);
            print_stored(rule, types[k], INSTEP_INT8);
        }
    for (int k = 0; k < 2; ++k)
        for (int given = 0; given < 4; ++given) print_across(types[k], types[given]);
    for (int k = 0; k < 2; ++k) {
        print_extras(types[k], INSTEP_FLOAT16);
        print_extras(types[k], INSTEP_BFLOAT16);
    }
    for (int k = 0; k < 4; ++k) {
        for (int loss = 0; loss < TWIN_CASES; ++loss)
            print_elementwise(&twin_cases[loss], types[k]);
        print_classwise("cross_entropy", types[k]);
        print_classwise("categorical_cross_entropy", types[k]);
        print_regionwise(types[k]);
    }
    for (instep_dtype dtype = INSTEP_FLOAT32; dtype <= INSTEP_BFLOAT16; ++dtype)
        print_reductions(dtype);
    print_powers();
    return failures > 0;
}
