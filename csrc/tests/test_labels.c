/* test_labels.c: instep_check_labels between guard pages. */
#include "arena.h"

static arena target;

static void test_labels(void)
{
    double total;
    const double weight[] = {0.5, 2, 8};
    for (instep_dtype dtype = INSTEP_INT8; dtype <= INSTEP_UINT64; ++dtype) {
        int ok = 1;
        for (layout how = DENSE; how <= PACKED; ++how)
            for (intptr_t n = 1; n < 40; ++n) {
                arena_place(&target, how, dtype, rows_of(n), n / rows_of(n), (int)n % 2);
                for (intptr_t i = 0; i < n; ++i)
                    put(arena_at(&target, i / target.shape[1], i % target.shape[1]), dtype,
                        (double)(i % 4));
                const intptr_t used = n - n / 4;
                ok &= instep_check_labels(&target.array, 3, 3, NULL, &total) == -1;
                ok &= total == (double)used;
                instep_check_labels(&target.array, 3, 3, weight, &total);
                ok &= total == 10.5 * (double)(n / 4) + (n % 4 > 0) * 0.5 + (n % 4 > 1) * 2 +
                                   (n % 4 > 2) * 8;
                const int64_t wrong = instep_check_labels(&target.array, 3, 0, NULL, &total);
                ok &= wrong == (n > 3 ? 3 : -1);
                ok &= arena_intact(&target);
            }
        check(ok, "labels of type %s are checked", name_of(dtype));
    }
    const uint64_t huge[] = {0, UINT64_MAX, UINT64_C(1) << 63};
    const intptr_t shape = 3, stride = 8;
    const instep_array labels = {(char *)(uintptr_t)huge, &shape, &stride, 1, INSTEP_UINT64};
    check(instep_check_labels(&labels, 3, -1, NULL, &total) == 1, "a label of 2^64 - 1 is not -1");
    check(instep_check_labels(&labels, 3, INT64_MAX, NULL, &total) == 1,
          "a label of 2^64 - 1 is not 2^63 - 1");
}

int main(void)
{
    const char *isa;
    arena_open(&target, 1 << 16);
    for (int level = 0; (isa = instep_isa_available(level)) != NULL; ++level) {
        instep_isa_select(isa);
        test_labels();
    }
    printf("%d failures\n", failures);
    return failures > 0;
}
