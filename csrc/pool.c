/* pool.c: a small pool of sleeping threads.
 *
 * One job at a time. A job is published through `gate`, one 64-bit word:
 *
 *     serial (32 bits) | open (1) | seats left (15) | workers inside (16)
 *
 * A worker enters by taking a seat while the gate is open; the caller works too, then shuts the
 * gate and waits only for workers that are inside, never for one that has not woken. Blocks are
 * claimed from a counter. Idle workers spin for some microseconds, then sleep on a condition.
 * No OpenMP: two of its runtimes in one process fight, and it hangs after fork. */
#include <stdatomic.h>
#include <string.h>

#include "table.h"

#ifdef _WIN32
#include <windows.h>
typedef SRWLOCK mutex;
typedef CONDITION_VARIABLE condition;
#define mutex_lock AcquireSRWLockExclusive
#define mutex_unlock ReleaseSRWLockExclusive
#define condition_wait(c, m) SleepConditionVariableSRW(c, m, INFINITE, 0)
#define condition_signal WakeConditionVariable
#define give_way() SwitchToThread()
#else
#include <pthread.h>
#include <sched.h>
#include <signal.h>
typedef pthread_mutex_t mutex;
typedef pthread_cond_t condition;
#define mutex_lock pthread_mutex_lock
#define mutex_unlock pthread_mutex_unlock
#define condition_wait pthread_cond_wait
#define condition_signal pthread_cond_signal
#define give_way() sched_yield()
#endif

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define pause_cpu() _mm_pause()
#elif defined(__aarch64__)
#define pause_cpu() __asm__ volatile("yield")
#else
#define pause_cpu() ((void)0)
#endif

enum { MOST_WORKERS = 255, WORKER_SPINS = 1000, CALLER_SPINS = 4000 };

/* Of a worker, where the system does not give as much: a panel of step.h and what lies below it on
 * the stack are 105 KB, and musl's threads have 128. */
enum { STACK_BYTES = 1 << 20 };

#define INSIDE UINT64_C(0xffff)
#define SEAT UINT64_C(0x10000)
#define SEATS UINT64_C(0x7fff0000)
#define OPEN UINT64_C(0x80000000)

static struct {
    _Alignas(64) _Atomic uint64_t gate;
    _Alignas(64) atomic_size_t next; /* block to claim */
    _Alignas(64) atomic_int sleepers;
    atomic_flag busy; /* a caller has the pool */
    int workers;      /* started so far; touched by the caller that is busy */
    instep_work work; /* the job: written while the gate is shut and nobody is inside */
    void *context;
    size_t blocks;
    mutex lock;
    condition wake;
} pool
#ifndef _WIN32
    = {.busy = ATOMIC_FLAG_INIT,
       .lock = PTHREAD_MUTEX_INITIALIZER,
       .wake = PTHREAD_COND_INITIALIZER}
#endif
;

static uint32_t serial(uint64_t gate) { return (uint32_t)(gate >> 32); }

static void drain(instep_work work, void *context, size_t blocks)
{
    size_t block;
    while ((block = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed)) < blocks)
        work(context, block);
}

/* Take a seat in the current job. */
static int enter(void)
{
    uint64_t gate = atomic_load(&pool.gate);
    while ((gate & OPEN) && (gate & SEATS))
        if (atomic_compare_exchange_weak(&pool.gate, &gate, gate - SEAT + 1)) return 1;
    return 0;
}

static void sleep_until_after(uint32_t seen)
{
    mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.sleepers, 1);
    while (serial(atomic_load(&pool.gate)) == seen) condition_wait(&pool.wake, &pool.lock);
    atomic_fetch_sub(&pool.sleepers, 1);
    mutex_unlock(&pool.lock);
}

static void serve(uint32_t seen)
{
    for (;;) {
        for (int spin = 0; spin < WORKER_SPINS; ++spin) {
            if (serial(atomic_load_explicit(&pool.gate, memory_order_acquire)) != seen) break;
            pause_cpu();
        }
        if (serial(atomic_load(&pool.gate)) == seen) sleep_until_after(seen);
        seen = serial(atomic_load(&pool.gate));
        if (enter()) {
            drain(pool.work, pool.context, pool.blocks);
            atomic_fetch_sub(&pool.gate, 1);
        }
    }
}

#ifdef _WIN32
static DWORD WINAPI worker_main(LPVOID seen)
{
    serve((uint32_t)(uintptr_t)seen);
    return 0;
}

static int start_worker(uint32_t seen)
{
    HANDLE thread = CreateThread(NULL, 0, worker_main, (LPVOID)(uintptr_t)seen, 0, NULL);
    if (thread == NULL) return -1;
    CloseHandle(thread);
    return 0;
}
#else
static void *worker_main(void *seen)
{
    serve((uint32_t)(uintptr_t)seen);
    return NULL;
}

/* The child of a fork has no workers and must not wait for any. */
static void forget_workers(void)
{
    memset(&pool, 0, sizeof pool);
    atomic_flag_clear(&pool.busy);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forget_workers); }

static int start_worker(uint32_t seen)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_once(&once, watch_forks);
    if (pthread_attr_init(&attributes) != 0) return -1;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all); /* signals are for the program's own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&thread, &attributes, worker_main, (void *)(uintptr_t)seen);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failed ? -1 : 0;
}
#endif

/* Fewer workers than asked for is no error: the caller does what they do not. */
static int hire(int wanted)
{
    const uint32_t seen = serial(atomic_load(&pool.gate));
    if (wanted > MOST_WORKERS) wanted = MOST_WORKERS;
    while (pool.workers < wanted) {
        instep_free(instep_allocate(0)); /* a thread is an allocation: let it be counted */
        if (start_worker(seen) != 0) break;
        ++pool.workers;
    }
    return pool.workers < wanted ? pool.workers : wanted;
}

static void publish(uint64_t seats)
{
    const uint64_t next = (uint64_t)(serial(atomic_load(&pool.gate)) + 1u) << 32;
    atomic_store(&pool.next, 0);
    atomic_store(&pool.gate, next | OPEN | seats * SEAT);
    const uint64_t sleepers = (uint64_t)atomic_load(&pool.sleepers);
    if (sleepers == 0) return;
    mutex_lock(&pool.lock);
    for (uint64_t k = 0; k < seats && k < sleepers; ++k) condition_signal(&pool.wake);
    mutex_unlock(&pool.lock);
}

static void shut(void)
{
    atomic_fetch_and(&pool.gate, ~(OPEN | SEATS));
    for (int spin = 0; atomic_load_explicit(&pool.gate, memory_order_acquire) & INSIDE; ++spin) {
        if (spin < CALLER_SPINS) pause_cpu();
        else give_way();
    }
}

void instep_parallel(size_t blocks, int threads, instep_work work, void *context)
{
    size_t wanted = threads > 1 ? (size_t)threads - 1 : 0;
    if (blocks > 0 && wanted > blocks - 1) wanted = blocks - 1;
    if (blocks <= 1 || wanted == 0 || atomic_flag_test_and_set(&pool.busy)) {
        for (size_t block = 0; block < blocks; ++block) work(context, block);
        return;
    }
    const int workers = hire((int)(wanted < MOST_WORKERS ? wanted : MOST_WORKERS));
    pool.work = work;
    pool.context = context;
    pool.blocks = blocks;
    publish((uint64_t)workers);
    drain(work, context, blocks);
    shut();
    atomic_flag_clear(&pool.busy);
}
