/* test_pool.c: the thread pool under random jobs, nested and concurrent calls, forks and idleness.
 *
 * Blocks write plain memory: ThreadSanitizer then proves that the pool orders the work. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "instep.h"

enum { MOST_BLOCKS = 400, MOST_THREADS = 8, CALLERS = 4, HANG_SECONDS = 20 };

static int failures;

static int check(int ok, const char *what)
{
    printf("%s%s\n", ok ? "ok    " : "FAIL  ", what);
    fflush(stdout);
    failures += !ok;
    return ok;
}

static uint32_t random_below(uint64_t *seed, uint32_t end)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*seed >> 33) % end;
}

static void rest(double seconds)
{
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
}

/* ---- jobs ------------------------------------------------------------------------------------ */

typedef struct {
    int count[MOST_BLOCKS]; /* how often each block was done */
    double result[MOST_BLOCKS];
    int effort;
} job;

static void do_block(void *context, size_t block)
{
    job *work = context;
    double x = (double)block;
    for (int k = 0; k < work->effort; ++k) x = x * 0.5 + 1;
    work->result[block] = x;
    ++work->count[block];
}

/* One job; 1 if each block was done once, and none beyond. */
static int run_job(job *work, size_t blocks, int threads, int effort)
{
    int ok = 1;
    memset(work->count, 0, sizeof work->count);
    work->effort = effort;
    instep_parallel(blocks, threads, do_block, work);
    for (size_t block = 0; block < MOST_BLOCKS; ++block)
        ok &= work->count[block] == (block < blocks);
    for (size_t block = 0; block < blocks; ++block)
        if (effort == 0) ok &= work->result[block] == (double)block;
    return ok;
}

/* Random sizes; now and then a rest, so that workers fall asleep. */
static int run_random_jobs(job *work, int jobs, uint64_t seed)
{
    int ok = 1;
    for (int k = 0; k < jobs; ++k) {
        const size_t blocks = random_below(&seed, random_below(&seed, 4) ? 20 : MOST_BLOCKS);
        const int threads = (int)random_below(&seed, MOST_THREADS) + 1;
        ok &= run_job(work, blocks, threads, random_below(&seed, 8) ? 0 : 300);
        if (random_below(&seed, 500) == 0) rest(0.0005);
    }
    return ok;
}

static void test_random_jobs(void)
{
    static job work;
    check(run_random_jobs(&work, 20000, 1), "20000 random jobs: every block once");
    check(run_job(&work, 0, 8, 0), "no blocks, no work");
    check(run_job(&work, 300, 0, 0) && run_job(&work, 300, -5, 0), "no threads count as one");
    check(run_job(&work, 5, 1000000, 0), "more threads than blocks");
    check(run_job(&work, 300, 64, 100), "64 threads");
}

typedef struct {
    pthread_t caller;
    size_t next;
    int ok;
} ordered;

static void in_order(void *context, size_t block)
{
    ordered *work = context;
    work->ok &= block == work->next++ && pthread_equal(work->caller, pthread_self());
}

static void test_one_thread(void)
{
    ordered work = {pthread_self(), 0, 1};
    instep_parallel(100, 1, in_order, &work);
    check(work.ok && work.next == 100, "one thread: the caller, in order");
}

enum { SLOW_BLOCKS = 60 };

static void take_slowly(void *context, size_t block)
{
    ((pthread_t *)context)[block] = pthread_self();
    rest(0.001);
}

/* How many threads took part in a job that leaves them time to wake up. */
static int takers(int threads)
{
    pthread_t taker[SLOW_BLOCKS];
    int different = 0;
    instep_parallel(SLOW_BLOCKS, threads, take_slowly, taker);
    for (int k = 0; k < SLOW_BLOCKS; ++k) {
        int before = 0;
        while (!pthread_equal(taker[before], taker[k])) ++before;
        different += before == k;
    }
    return different;
}

static void test_sharing(void)
{
    int most = 0, least = MOST_THREADS;
    for (int threads = 2; threads <= MOST_THREADS; ++threads) {
        const int awake = takers(threads);
        rest(0.02);
        const int asleep = takers(threads);
        least = awake < least ? awake : least;
        least = asleep < least ? asleep : least;
        if (awake > threads || asleep > threads) most = MOST_THREADS + 1;
    }
    check(least > 1, "workers take blocks, also when they slept");
    check(most <= MOST_THREADS, "no more threads take part than were asked for");
}

/* ---- nested and concurrent ------------------------------------------------------------------- */

static void nest(void *context, size_t block)
{
    job *inner = (job *)context + block;
    ordered alone = {pthread_self(), 0, 1};
    instep_parallel(20, 4, in_order, &alone);
    if (!alone.ok || alone.next != 20) inner->effort = -1;
    instep_parallel(MOST_BLOCKS, 3, do_block, inner);
}

static void test_nested(void)
{
    enum { OUTER = 6 };
    static job inner[OUTER];
    int ok = 1;
    for (int round = 0; round < 50; ++round) {
        memset(inner, 0, sizeof inner);
        instep_parallel(OUTER, 4, nest, inner);
        for (int k = 0; k < OUTER; ++k)
            for (int block = 0; block < MOST_BLOCKS; ++block)
                ok &= inner[k].count[block] == 1 && inner[k].effort == 0;
    }
    check(ok, "nested calls are done by their caller alone");
}

static void *call_often(void *result)
{
    job *work = malloc(sizeof *work);
    if (work == NULL) exit(1);
    *(int *)result = run_random_jobs(work, 3000, (uint64_t)(uintptr_t)result);
    free(work);
    return NULL;
}

static void test_concurrent(void)
{
    pthread_t caller[CALLERS];
    int ok[CALLERS], all = 1;
    for (int k = 0; k < CALLERS; ++k)
        if (pthread_create(&caller[k], NULL, call_often, &ok[k]) != 0) exit(1);
    for (int k = 0; k < CALLERS; ++k) {
        pthread_join(caller[k], NULL);
        all &= ok[k];
    }
    check(all, "four threads call at once");
}

/* ---- fork ------------------------------------------------------------------------------------ */

static void run_as_child(uint64_t seed)
{
    static job work;
    sigset_t none;
    sigemptyset(&none); /* a worker blocks all signals, and may be the one that forked */
    pthread_sigmask(SIG_SETMASK, &none, NULL);
    alarm(HANG_SECONDS);
    _exit(run_random_jobs(&work, 100, seed) && takers(3) > 1 ? 0 : 1);
}

static int child_succeeds(pid_t child)
{
    int status = -1;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void test_fork(void)
{
    static job work;
    int ok = 1;
    for (int k = 0; k < 20; ++k) {
        ok &= run_job(&work, 100, 1 + k % MOST_THREADS, 0);
        if (k % 2) rest(0.001); /* workers spin at one fork, sleep at the next */
        const pid_t child = fork();
        if (child == 0) run_as_child((uint64_t)k);
        ok &= run_job(&work, 100, 4, 0);
        ok &= child_succeeds(child);
    }
    check(ok, "children of a process with workers run jobs, and so does the parent");

    const pid_t child = fork();
    if (child == 0) {
        alarm(HANG_SECONDS);
        ok = run_job(&work, 100, 4, 0);
        const pid_t grandchild = fork();
        if (grandchild == 0) run_as_child(7);
        _exit(ok && child_succeeds(grandchild) ? 0 : 1);
    }
    check(child_succeeds(child), "a grandchild runs jobs");
}

static atomic_int stop, wrong, callers;

static void *call_until_stopped(void *nothing)
{
    job *work = malloc(sizeof *work);
    if (work == NULL) exit(1);
    for (uint64_t seed = 0; !atomic_load(&stop); ++seed)
        if (!run_random_jobs(work, 50, seed)) atomic_store(&wrong, 1);
    free(work);
    atomic_fetch_sub(&callers, 1);
    return nothing;
}

/* Forks while another thread has the pool: that the pool is taken must not be inherited. */
static void test_fork_in_a_job(void)
{
    int ok = 1;
    for (int k = 0; k < CALLERS; ++k) {
        pthread_t caller;
        if (pthread_create(&caller, NULL, call_until_stopped, NULL) != 0) exit(1);
        pthread_detach(caller); /* ThreadSanitizer: a child may get its address for a new thread */
        atomic_fetch_add(&callers, 1);
    }
    for (int k = 0; k < 20; ++k) {
        const pid_t child = fork();
        if (child == 0) run_as_child((uint64_t)k);
        ok &= child_succeeds(child);
    }
    atomic_store(&stop, 1);
    while (atomic_load(&callers) > 0) rest(0.001);
    check(ok && !atomic_load(&wrong), "children forked in other threads' jobs run jobs");
}

static void fork_at_block(void *context, size_t block)
{
    int *ok = context;
    if (block != 7) return;
    const pid_t child = fork();
    if (child == 0) run_as_child(3);
    *ok = child_succeeds(child);
}

static void test_fork_from_a_block(void)
{
    int ok = 0;
    instep_parallel(50, 4, fork_at_block, &ok);
    check(ok, "a child forked by a block runs jobs");
}

/* ---- idleness and cost ----------------------------------------------------------------------- */

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void test_idle(void)
{
    static job work;
    run_job(&work, 300, MOST_THREADS, 1000);
    rest(0.05); /* a short spin after a job is meant */
    const double before = cpu_seconds();
    rest(0.3);
    const double used = cpu_seconds() - before;
    printf("      idle for 0.3 s: %.4f s of CPU\n", used);
    check(used < 0.03, "idle workers burn no CPU");
}

static void test_allocations(void)
{
    static job work;
    run_job(&work, 300, 100, 0);
    const size_t before = instep_allocations();
    const int ok = run_random_jobs(&work, 500, 11);
    check(ok && instep_allocations() == before, "no allocations once the workers exist");
    run_job(&work, 300, 101, 0);
    check(instep_allocations() > before, "one worker more is counted");
}

int main(void)
{
    test_one_thread();
    test_random_jobs();
    test_sharing();
    test_nested();
    test_concurrent();
    test_fork();
    test_fork_in_a_job();
    test_fork_from_a_block();
    test_allocations();
    test_idle();
    printf("%d failures\n", failures);
    return failures > 0;
}
