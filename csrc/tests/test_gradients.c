/* test_gradients.c: which gradients may be zeroed, and what a plan remembers of those it has seen.
 */
#ifndef _WIN32
#include <pthread.h>
#endif

#include "arena.h"

static instep_array vector(float *data, const intptr_t *n, const intptr_t *stride)
{
    return (instep_array){(char *)data, n, stride, 1, INSTEP_FLOAT32};
}

enum { N = 40000 };

static float p_of[2][N], g_of[2][N], average_of_leaf[2][N];

/* Two leaves of sgd, the first without a gradient in the second step. */
static void test_leaves_without_gradient(void)
{
    static const intptr_t n = N, four = 4;
    double row[INSTEP_MAX_COEFFICIENTS] = {1, INFINITY, 0, 1};
    instep_measures measures[2];
    instep_plan *plan = instep_plan_create(2);
    for (int leaf = 0; leaf < 2; ++leaf) {
        for (int i = 0; i < N; ++i) {
            p_of[leaf][i] = 8;
            g_of[leaf][i] = average_of_leaf[leaf][i] = 4;
        }
        const instep_array p = vector(p_of[leaf], &n, &four), g = vector(g_of[leaf], &n, &four);
        const instep_array a = vector(average_of_leaf[leaf], &n, &four);
        if (plan == NULL || instep_plan_set_parameter(plan, leaf, &p) != 0) exit(1);
        instep_plan_set_rule(plan, leaf, 0, NULL);
        instep_plan_set_average(plan, leaf, &a);
        instep_plan_set_gradient(plan, leaf, leaf == 0 ? NULL : &g, 0);
    }
    if (instep_plan_finish(plan) != 0) exit(1);
    check(instep_plan_bound(plan) == N && instep_plan_work(plan) == 2 * N, "work: averages too");
    const instep_step_options options = {.threads = 2,
                                         .zero_gradients = 1,
                                         .measure = 1,
                                         .measured_scale = 1,
                                         .average_weight = 0.25};
    instep_plan_step(plan, row, &options);
    instep_plan_measured(plan, measures);
    int ok = 1;
    for (int i = 0; i < N; ++i) {
        ok &= p_of[0][i] == 8 && average_of_leaf[0][i] == 5 && g_of[0][i] == 4;
        ok &= p_of[1][i] == 4 && average_of_leaf[1][i] == 4 && g_of[1][i] == 0;
    }
    check(ok, "an average follows without a gradient, and nothing else is written");
    ok = measures[0].gradient == 0 && measures[0].parameter == 0 && measures[0].clipped == 0;
    check(ok, "nothing is measured where there is no gradient");
    check(measures[1].gradient == 16.0 * N && measures[1].update == 16.0 * N &&
              measures[1].parameter == 16.0 * N,
          "sums over many pieces");
    instep_plan_set_average(plan, 0, NULL);
    if (instep_plan_finish(plan) != 0) exit(1);
    instep_plan_step(plan, row, &options);
    check(average_of_leaf[0][N - 1] == 5, "an average that is dropped stays as it is");
    instep_plan_destroy(plan);
}

static void test_gradients_apart(void)
{
    static float m[64], p[2][12];
    const intptr_t shape[] = {3, 4}, dense[] = {16, 4}, rows[] = {0, 4}, wide[] = {32, 8};
    const intptr_t window[] = {4, 4}, turned[] = {4, 12}, back[] = {-16, -4}, odd[] = {8, 12};
    const struct {
        int at[2];
        const intptr_t *strides[2];
        int apart;
        const char *what;
    } cases[] = {
        {{0, 12}, {dense, dense}, 1, "side by side"},
        {{0, 11}, {dense, dense}, 0, "one shared element"},
        {{12, 0}, {dense, turned}, 1, "in another order"},
        {{0, 0}, {dense, dense}, 0, "one array twice"},
        {{11, 12}, {back, dense}, 1, "backwards, below"},
        {{12, 12}, {back, dense}, 0, "backwards, into the other"},
        {{0, 30}, {rows, dense}, 0, "equal rows"},
        {{0, 30}, {dense, window}, 0, "a sliding window"},
        {{0, 1}, {wide, wide}, 0, "interleaved (the ranges meet)"},
        {{0, 30}, {wide, dense}, 1, "every other element"},
        {{0, 30}, {odd, dense}, 0, "axes that interleave"},
    };
    instep_plan *plan = instep_plan_create(2);
    for (int leaf = 0; leaf < 2; ++leaf) {
        const instep_array a = {(char *)p[leaf], shape, dense, 2, INSTEP_FLOAT32};
        if (plan == NULL || instep_plan_set_parameter(plan, leaf, &a) != 0) exit(1);
    }
    if (instep_plan_finish(plan) != 0) exit(1);
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; ++k) {
        int found[3];
        for (int time = 0; time < 3; ++time) {
            for (int leaf = 0; leaf < 2; ++leaf) {
                const instep_array g = {(char *)(m + cases[k].at[leaf]), shape,
                                        cases[k].strides[leaf], 2, INSTEP_FLOAT32};
                if (instep_plan_set_gradient(plan, leaf, &g, 0) != 0) exit(1);
            }
            found[time] = instep_plan_gradients_apart(plan, time == 1);
        }
        check(found[0] == cases[k].apart && found[1] && found[2],
              "%s: %sto be zeroed; and what is trusted stays so", cases[k].what,
              cases[k].apart ? "" : "not ");
    }
    instep_plan_destroy(plan);
}

/* What was found apart is looked at again when another leaf's gradient comes to lie there. */
static void test_gradients_that_come_and_go(void)
{
    static float m[64], p[2][8];
    const intptr_t eight = 8, four = 4;
    const instep_array x = vector(m, &eight, &four), y = vector(m + 8, &eight, &four);
    const struct {
        const instep_array *first, *second;
        int apart;
    } steps[] = {{&x, &y, 1},   {NULL, &x, 1}, {&x, &x, 0}, {&x, NULL, 1},
                 {&y, NULL, 1}, {&y, &x, 1},   {&y, &y, 0}, {&x, &y, 1}};
    instep_plan *plan = instep_plan_create(2);
    for (int leaf = 0; leaf < 2; ++leaf) {
        const instep_array a = vector(p[leaf], &eight, &four);
        if (plan == NULL || instep_plan_set_parameter(plan, leaf, &a) != 0) exit(1);
    }
    if (instep_plan_finish(plan) != 0) exit(1);
    int ok = 1;
    for (size_t k = 0; k < sizeof steps / sizeof steps[0]; ++k) {
        ok &= instep_plan_set_gradient(plan, 0, steps[k].first, 0) == 0;
        ok &= instep_plan_set_gradient(plan, 1, steps[k].second, 0) == 0;
        ok &= instep_plan_gradients_apart(plan, 0) == steps[k].apart;
    }
    check(ok, "gradients that come, go and change places");
    instep_plan_destroy(plan);
}

/* A gradient that was clear stays so at its address, but not with other strides, nor when the plan
 * writes more. */
static void test_gradients_over_averages(void)
{
    static float m[64];
    const intptr_t eight = 8, four = 4, sixteen = 16, back = -4;
    const instep_array p = vector(m + 24, &eight, &four), g = vector(m, &eight, &four);
    const instep_array longer = vector(m, &eight, &sixteen), under = vector(m + 7, &eight, &back);
    instep_plan *plan = instep_plan_create(1);
    if (plan == NULL || instep_plan_set_parameter(plan, 0, &p) != 0) exit(1);
    if (instep_plan_finish(plan) != 0) exit(1);
    check(instep_plan_set_gradient(plan, 0, &g, 0) == 0 &&
              instep_plan_set_gradient(plan, 0, &g, 0) == 0,
          "a gradient twice");
    check(instep_plan_set_gradient(plan, 0, &longer, 0) == 2, "longer, into the parameter");
    check(instep_plan_set_gradient(plan, 0, &longer, 0) == 2, "and again");
    check(instep_plan_set_gradient(plan, 0, &longer, 1) == 0 &&
              instep_plan_set_gradient(plan, 0, &longer, 0) == 0,
          "what is trusted is taken again");
    check(instep_plan_set_gradient(plan, 0, &under, 0) == 0, "backwards");
    instep_plan_set_average(plan, 0, &g);
    if (instep_plan_finish(plan) != 0) exit(1);
    check(instep_plan_set_gradient(plan, 0, &under, 0) == 2, "a gradient over the average");
    instep_plan_set_average(plan, 0, NULL);
    instep_plan_set_copy(plan, 0, &(instep_array){(char *)m, &eight, &four, 1, INSTEP_BFLOAT16});
    if (instep_plan_finish(plan) != 0) exit(1);
    check(instep_plan_set_gradient(plan, 0, &g, 0) == 2, "a gradient over the copy");
    instep_plan_destroy(plan);
}

/* Read by panels in every type: 1 KB and more from one element of a row to the next. */
enum { HEIGHT = 516, WIDTH = 520 };

static arena parameters[2], across;

/* A step of sgd and the sum of squares, with a gradient of this layout. */
static double step_with(arena *p, layout how, instep_dtype dtype, instep_dtype given, int at_end)
{
    double row[INSTEP_MAX_COEFFICIENTS] = {1, INFINITY, 0, 0.5};
    arena_place(p, DENSE, dtype, HEIGHT, WIDTH, at_end);
    arena_place(&across, how, given, HEIGHT, WIDTH, at_end);
    for (intptr_t i = 0; i < HEIGHT; ++i)
        for (intptr_t j = 0; j < WIDTH; ++j) {
            put(arena_at(p, i, j), dtype, (double)(i - j));
            put(arena_at(&across, i, j), given, (double)((i * 7 + j * 3) % 64));
        }
    instep_plan *plan = instep_plan_create(1);
    if (plan == NULL || instep_plan_set_parameter(plan, 0, &p->array) != 0) exit(1);
    instep_plan_set_rule(plan, 0, 0, NULL);
    if (instep_plan_finish(plan) != 0) exit(1);
    if (instep_plan_set_gradient(plan, 0, &across.array, 0) != 0) exit(1);
    const double sum = instep_plan_sum_squares(plan, 1, 2);
    instep_plan_step(plan, row, &(instep_step_options){.threads = 2});
    instep_plan_destroy(plan);
    return sum;
}

/* Panels of a transposed gradient: the values of the dense one, and no byte beside it is read. */
static void test_transposed(void)
{
    static const instep_dtype given[] = {INSTEP_FLOAT32, INSTEP_FLOAT64, INSTEP_FLOAT16};
    for (int k = 0; k < 2; ++k) arena_open(&parameters[k], HEIGHT * WIDTH * sizeof(double));
    arena_open(&across, HEIGHT * WIDTH * sizeof(double));
    for (int k = 0; k < 12; ++k) {
        const instep_dtype dtype = k % 2 ? INSTEP_FLOAT64 : INSTEP_FLOAT32, g = given[k / 2 % 3];
        const int at_end = k >= 6;
        const double plain = step_with(&parameters[0], DENSE, dtype, g, at_end);
        const double turned = step_with(&parameters[1], FORTRAN, dtype, g, at_end);
        const size_t bytes = (size_t)(parameters[0].last - parameters[0].first);
        check(plain == turned && memcmp(parameters[0].first, parameters[1].first, bytes) == 0 &&
                  arena_intact(&across),
              "a transposed %s gradient of %s", name_of(g), name_of(dtype));
    }
}

#if !defined(_WIN32) && !defined(__SANITIZE_ADDRESS__) /* whose frames are larger */
#define LITTLE_STACK
static void *on_little_stack(void *unused)
{
    test_transposed();
    return unused;
}

/* What musl gives a thread is enough. */
static void test_little_stack(void)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 128 << 10);
    check(pthread_create(&thread, &attributes, on_little_stack, NULL) == 0, "128 KB of stack");
    pthread_join(thread, NULL);
}
#endif

int main(void)
{
    test_leaves_without_gradient();
    test_gradients_apart();
    test_gradients_that_come_and_go();
    test_gradients_over_averages();
#ifdef LITTLE_STACK
    test_little_stack();
#else
    test_transposed();
#endif
    printf("%d failures\n", failures);
    return failures > 0;
}
