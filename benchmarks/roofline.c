/* roofline.c: the ceiling that memory sets for an optimizer step, and for a loss.
 *
 * The same streams as an update rule with 0 to 3 state arrays, and as little arithmetic as keeps
 * the compiler from dropping one:
 *     s_k += c;  p += c * g
 * so p and each s_k are read and written and g is read. Of a loss, prediction x and target t are
 * read and the gradient d is written; where the target is a label per row, only x is read:
 *     d = c * (x - t)        d = c * x
 * Of pipelines: `around` reads all g first, then also moves an average e and writes zeros to g;
 * `mixed` reads g of two bytes and writes a copy of p of two bytes; the states of `halves` and
 * `bytes` have two bytes and one.
 * Nothing with these streams can be faster where memory is the limit. Compiled when the benchmark
 * starts, with -O3 -march=native. */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

enum { SLOTS = 5, MAX_THREADS = 256 };
/* The kinds; less than these: a step with so many states. */
enum { LOSS_OF_LABELS = 4, LOSS = 5, AROUND = 6, MIXED = 7, HALVES = 8, BYTES = 9 };

struct span {
    const size_t *lengths;
    void *const *arrays; /* per leaf SLOTS: p, g and states (and e or the copy), or d, x and t;
                            unused ones NULL */
    size_t leaves, repeats;
    int kind, thread, threads;
    float c;
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

static __attribute__((noinline)) void loss_of_labels(size_t n, float *restrict d,
                                                     const float *restrict x, float c)
{
    for (size_t i = 0; i < n; ++i) {
        d[i] = c * x[i];
    }
}

static __attribute__((noinline)) void loss(size_t n, float *restrict d, const float *restrict x,
                                           const float *restrict t, float c)
{
    for (size_t i = 0; i < n; ++i) {
        d[i] = c * (x[i] - t[i]);
    }
}

static __attribute__((noinline)) float sum(size_t n, const float *restrict g)
{
    float lane[64] = {0}, total = 0;
    for (size_t i = 0; i + 64 <= n; i += 64) {
        for (size_t j = 0; j < 64; ++j) {
            lane[j] += g[i + j];
        }
    }
    for (size_t j = 0; j < 64; ++j) {
        total += lane[j];
    }
    return total;
}

static __attribute__((noinline)) void around(size_t n, float *restrict p, float *restrict g,
                                             float *restrict a, float *restrict b,
                                             float *restrict e, float c)
{
    for (size_t i = 0; i < n; ++i) {
        a[i] += c;
        b[i] += c;
        p[i] += c * g[i];
        e[i] += c * p[i];
        g[i] = 0;
    }
}

static __attribute__((noinline)) void mixed(size_t n, float *restrict p, const uint16_t *restrict g,
                                            float *restrict a, float *restrict b,
                                            uint16_t *restrict copy, float c)
{
    for (size_t i = 0; i < n; ++i) {
        a[i] += c;
        b[i] += c;
        p[i] += c * (float)g[i];
        copy[i] = (uint16_t)(g[i] + 1);
    }
}

static __attribute__((noinline)) void halves(size_t n, float *restrict p, const float *restrict g,
                                             uint16_t *restrict a, uint16_t *restrict b, float c)
{
    for (size_t i = 0; i < n; ++i) {
        a[i] = (uint16_t)(a[i] + 1);
        b[i] = (uint16_t)(b[i] + 1);
        p[i] += c * g[i];
    }
}

static __attribute__((noinline)) void bytes(size_t n, float *restrict p, const float *restrict g,
                                            uint8_t *restrict a, uint8_t *restrict b, float c)
{
    for (size_t i = 0; i < n; ++i) {
        a[i] = (uint8_t)(a[i] + 1);
        b[i] = (uint8_t)(b[i] + 1);
        p[i] += c * g[i];
    }
}

static void pass_pipeline(int kind, size_t n, size_t start, void *const *array, float c)
{
    float *p = (float *)array[0] + start, *g = (float *)array[1] + start;
    float *a = (float *)array[2] + start, *b = (float *)array[3] + start;
    switch (kind) {
    case AROUND: around(n, p, g, a, b, (float *)array[4] + start, c + 0 * sum(n, g)); break;
    case MIXED:
        mixed(n, p, (uint16_t *)array[1] + start, a, b, (uint16_t *)array[4] + start, c);
        break;
    case HALVES:
        halves(n, p, g, (uint16_t *)array[2] + start, (uint16_t *)array[3] + start, c);
        break;
    default: bytes(n, p, g, (uint8_t *)array[2] + start, (uint8_t *)array[3] + start, c); break;
    }
}

static void pass(const struct span *span, size_t leaf)
{
    void *const *array = span->arrays + leaf * SLOTS;
    const size_t length = span->lengths[leaf];
    const size_t count = (size_t)span->threads, rank = (size_t)span->thread;
    /* Whole cache lines per thread: 16 floats. */
    const size_t share = (length / count + 15) / 16 * 16;
    const size_t start = rank * share < length ? rank * share : length;
    const size_t stop = rank + 1 == count || start + share > length ? length : start + share;
    const size_t n = stop - start;
    const float c = span->c;
    float *p = (float *)array[0] + start, *a = (float *)array[2] + start;
    float *b = (float *)array[3] + start, *d = (float *)array[4] + start;
    const float *g = (float *)array[1] + start;
    if (span->kind >= AROUND) {
        pass_pipeline(span->kind, n, start, array, c);
        return;
    }
    switch (span->kind) {
    case 0: pass0(n, p, g, c); break;
    case 1: pass1(n, p, g, a, c); break;
    case 2: pass2(n, p, g, a, b, c); break;
    case 3: pass3(n, p, g, a, b, d, c); break;
    case LOSS_OF_LABELS: loss_of_labels(n, p, g, c); break;
    default: loss(n, p, g, a, c); break;
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

/* Do it `repeats` times over all leaves. Each thread keeps to its own share of every array, so they
 * need no barrier between them: creating the threads is paid once per call. 0 on success. */
int roofline(size_t leaves, const size_t *lengths, void *const *arrays, int kind, float c,
             int threads, size_t repeats)
{
    pthread_t ids[MAX_THREADS];
    struct span spans[MAX_THREADS];
    if (threads < 1 || threads > MAX_THREADS || kind < 0 || kind > BYTES) {
        return -1;
    }
    for (int k = 0; k < threads; ++k) {
        spans[k] = (struct span){lengths, arrays, leaves, repeats, kind, k, threads, c};
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
