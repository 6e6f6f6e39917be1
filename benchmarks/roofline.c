/* roofline.c: the ceiling that memory sets for an optimizer step.
 *
 * The same streams as an update rule with 0 to 3 state arrays, and as little arithmetic as keeps
 * the compiler from dropping one:
 *     s_k += c;  p += c * g
 * so p and each s_k are read and written and g is read. No rule with these streams can be faster
 * where memory is the limit. Compiled when the benchmark starts, with -O3 -march=native. */
#include <pthread.h>
#include <stddef.h>

enum { MAX_STATES = 3, MAX_THREADS = 256 };

struct span {
    const size_t *lengths;
    float *const *arrays; /* per leaf: p, g, then MAX_STATES states, unused ones NULL */
    size_t leaves, repeats;
    int states, thread, threads;
};

/* Functions of their own, so that no compiler fuses one repeat with the next. */
static __attribute__((noinline)) void pass0(size_t n, float *restrict p, const float *restrict g,
                                            float c)
{
    for (size_t i = 0; i < n; ++i) {
        p[i] += c * g[i];
    }
}

static __attribute__((noinline)) void pass1(size_t n, float *restrict p, const float *restrict g,
                                            float *restrict a, float c)
{
    for (size_t i = 0; i < n; ++i) {
        a[i] += c;
        p[i] += c * g[i];
    }
}

static __attribute__((noinline)) void pass2(size_t n, float *restrict p, const float *restrict g,
                                            float *restrict a, float *restrict b, float c)
{
    for (size_t i = 0; i < n; ++i) {
        a[i] += c;
        b[i] += c;
        p[i] += c * g[i];
    }
}

static __attribute__((noinline)) void pass3(size_t n, float *restrict p, const float *restrict g,
                                            float *restrict a, float *restrict b, float *restrict d,
                                            float c)
{
    for (size_t i = 0; i < n; ++i) {
        a[i] += c;
        b[i] += c;
        d[i] += c;
        p[i] += c * g[i];
    }
}

static void pass(const struct span *span, size_t leaf)
{
    float *const *array = span->arrays + leaf * (2 + MAX_STATES);
    const size_t length = span->lengths[leaf];
    const size_t count = (size_t)span->threads, rank = (size_t)span->thread;
    /* Whole cache lines per thread: 16 floats. */
    const size_t share = (length / count + 15) / 16 * 16;
    const size_t start = rank * share < length ? rank * share : length;
    const size_t stop = rank + 1 == count || start + share > length ? length : start + share;
    const size_t n = stop - start;
    const float c = 1e-3f;
    float *p = array[0] + start;
    const float *g = array[1] + start;
    switch (span->states) {
    case 0: pass0(n, p, g, c); break;
    case 1: pass1(n, p, g, array[2] + start, c); break;
    case 2: pass2(n, p, g, array[2] + start, array[3] + start, c); break;
    default: pass3(n, p, g, array[2] + start, array[3] + start, array[4] + start, c); break;
    }
}

static void *work(void *argument)
{
    const struct span *span = argument;
    for (size_t repeat = 0; repeat < span->repeats; ++repeat) {
        for (size_t leaf = 0; leaf < span->leaves; ++leaf) {
            pass(span, leaf);
        }
    }
    return NULL;
}

/* Do `repeats` steps over all leaves. Each thread keeps to its own share of every array, so steps
 * need no barrier between them: creating the threads is paid once per call. 0 on success. */
int roofline(size_t leaves, const size_t *lengths, float *const *arrays, int states, int threads,
             size_t repeats)
{
    pthread_t ids[MAX_THREADS];
    struct span spans[MAX_THREADS];
    if (threads < 1 || threads > MAX_THREADS || states < 0 || states > MAX_STATES) {
        return -1;
    }
    for (int k = 0; k < threads; ++k) {
        spans[k] = (struct span){lengths, arrays, leaves, repeats, states, k, threads};
    }
    int started = 1, failed = 0;
    while (started < threads && !failed) {
        failed = pthread_create(&ids[started], NULL, work, &spans[started]);
        started += !failed;
    }
    work(&spans[0]);
    for (int k = 1; k < started; ++k) {
        pthread_join(ids[k], NULL);
    }
    return failed ? -1 : 0;
}
