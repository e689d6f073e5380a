/* One region at a time, from one thread at a time: others find the pool taken and work alone.
 *
 * A worker is called, and joins, or is not waited for any longer: if its processor is busy with
 * something else, the region starts without it. Between regions it looks for the next for a while
 * and then sleeps. Short regions, steps of a stream, wake nobody, which would take as long as they do,
 * unless they come one upon the other. Nothing here is read or written by the caller's thread after a
 * region is over.
 */
#define _GNU_SOURCE /* affinity */
#include "fastrnn.h"
#include "pool.h"

static void run_alone(team_task *task, void *argument)
{
    barrier one = {.members = 1};
    task(argument, 0, &one);
}

#if defined(__unix__) || defined(__APPLE__)

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Microseconds. Between two calls, Python needs some 20 to 100. */
enum { UNTIL_SLEEP = 200, UNTIL_YIELD = 50, SHORT = 40 };

enum { IDLE, CALLED, JOINED, OFFERED, STARTED, STOPPED };

/* What goes to and fro between caller and worker at every region is one line of the cache, and nothing
 * else that either looks at is in it: to fetch it takes 50 ns and more. */
typedef struct {
    _Alignas(LINE) _Atomic int state;
    int member;
    team_task *task;
    void *argument;
    _Alignas(LINE) _Atomic int asleep;
    int called; /* by the region that is under way */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
#if defined(__linux__)
    cpu_set_t processors;
#endif
} worker;

static struct {
    pthread_mutex_t region; /* held by whoever runs one */
    int count;
    worker *workers[FASTRNN_MOST_THREADS];
    double short_one;  /* when a short region last found somebody asleep */
    _Atomic int alone; /* microseconds that the caller takes if nobody comes */
    _Alignas(LINE) barrier team;
} pool = {.region = PTHREAD_MUTEX_INITIALIZER};

/* Waiting by looking again and again: what a look costs differs by a factor of ten between
 * processors, so time is taken now and then. */
typedef struct {
    int looks;
    double start, now; /* µs */
} watch;

static double microseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

/* Wait a moment; return for how long already. */
static inline double look_again(watch *w)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
    if (w->looks++ % 32 == 0) {
        w->now = microseconds();
        if (w->looks == 1)
            w->start = w->now;
    }
    return w->now - w->start;
}

/* The same where others may need the processor to get where we wait for them. */
static inline void look_and_yield(watch *w)
{
    if (look_again(w) > UNTIL_YIELD)
        sched_yield();
}

static void sleep_until_called(worker *w)
{
    pthread_mutex_lock(&w->mutex);
    w->asleep = 1; /* before the last look: whoever calls after it sees this */
    while (w->asleep && w->state == IDLE)
        pthread_cond_wait(&w->wake, &w->mutex);
    w->asleep = 0;
    pthread_mutex_unlock(&w->mutex);
}

/* Keep workers off the processor that this thread is on: where the system wakes a thread beside the
 * one that wakes it, which some do with other processors idle, the two would take turns. Return how
 * many workers there is a processor for. */
static _Atomic int crowded;

static int make_room(int others)
{
#if defined(__linux__)
    cpu_set_t set;
    int here = sched_getcpu();
    if (crowded || here < 0 || sched_getaffinity(0, sizeof(set), &set) != 0)
        return others;
    CPU_CLR(here, &set);
    int most = CPU_COUNT(&set);
    if (others > most)
        others = most;
    for (int k = 0; k < others; k++) {
        worker *w = pool.workers[k];
        if (w->asleep && !CPU_EQUAL(&w->processors, &set) &&
            pthread_setaffinity_np(w->thread, sizeof(set), &set) == 0)
            w->processors = set;
    }
#endif
    return others;
}

static void call(worker *w, int state)
{
    w->state = state;
    if (w->asleep) {
        pthread_mutex_lock(&w->mutex);
        w->asleep = 0; /* also if nobody waits for it any longer: it comes to the next region */
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->mutex);
    }
}

static void give(worker *w, team_task *task, void *argument, int member)
{
    w->task = task;
    w->argument = argument;
    w->member = member;
}

static void *work(void *argument)
{
    worker *w = argument;
    int late = 0;
    for (;;) {
        for (watch idle = {0}; w->state == IDLE && look_again(&idle) < UNTIL_SLEEP + late;)
            ;
        late = 0;
        if (w->state == IDLE)
            sleep_until_called(w);
        if (w->state == STOPPED)
            return NULL;
        int called = CALLED, offered = OFFERED;
        if (atomic_compare_exchange_strong(&w->state, &called, JOINED)) {
            for (watch joined = {0}; w->state == JOINED;)
                look_and_yield(&joined);
        } else if (!atomic_compare_exchange_strong(&w->state, &offered, STARTED)) {
            /* Asleep when the next call comes, it would be late again, and so on for ever. */
            late = pool.alone;
            continue;
        }
        w->task(w->argument, w->member, &pool.team);
        atomic_store_explicit(&w->state, IDLE, memory_order_release);
    }
}

/* In a forked child no worker is left, and whoever held the region, or waited in it, is not there. */
static void forget(void)
{
    pool.count = 0;
    pool.team.arrived = 0;
    pthread_mutex_init(&pool.region, NULL);
}

static int start_worker(void)
{
    static _Atomic int watching;
    if (!atomic_exchange(&watching, 1))
        pthread_atfork(NULL, NULL, forget);
    worker *w = aligned_alloc(LINE, sizeof(worker));
    if (!w)
        return 0;
    memset(w, 0, sizeof(worker));
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->wake, NULL);
    sigset_t all, before; /* signals are for the caller's threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&w->thread, NULL, work, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        free(w);
        return 0;
    }
    pool.workers[pool.count++] = w;
    return 1;
}

/* Microseconds that others are waited for. */
static double patience_of(double alone)
{
    return alone < 8 * 200 ? alone / 8 : 200;
}

/* Whether the last short region that found somebody asleep is not long ago. */
static int follows_soon(void)
{
    const double before = pool.short_one;
    pool.short_one = microseconds();
    return pool.short_one - before < UNTIL_SLEEP;
}

/* Take the pool for a region, and mark the workers that are to be called; return how many there are to
 * look through, or -1 if the caller is alone. */
static int enter(int most, double alone)
{
    if (most > FASTRNN_MOST_THREADS)
        most = FASTRNN_MOST_THREADS;
    if (most <= 1 || pthread_mutex_trylock(&pool.region) != 0)
        return -1;
    while (pool.count < most - 1 && start_worker())
        ;
    pool.alone = (int)(8 * patience_of(alone));
    int others = pool.count < most - 1 ? pool.count : most - 1, asleep = 0;
    for (int k = 0; k < others; k++)
        asleep |= pool.workers[k]->asleep;
    const int waking = asleep && (alone > SHORT || follows_soon());
    if (waking)
        others = make_room(others);
    for (int k = 0; k < others; k++)
        pool.workers[k]->called = waking || !pool.workers[k]->asleep;
    return others;
}

static void set_members(int members)
{
    if (pool.team.members != members) /* as before, they still have it in their caches */
        pool.team.members = members;
}

static void wait_until_idle(const worker *w)
{
    for (watch done = {0}; w->state != IDLE;)
        look_and_yield(&done);
}

void pool_run(team_task *task, void *argument, int most, double alone)
{
    const int others = enter(most, alone);
    if (others < 0) {
        run_alone(task, argument);
        return;
    }
    for (int k = 0; k < others; k++)
        if (pool.workers[k]->called)
            call(pool.workers[k], CALLED);
    const double patience = patience_of(alone);
    int members = 1;
    watch waited = {0};
    for (int k = 0; k < others; k++) {
        worker *w = pool.workers[k];
        while (w->called && w->state == CALLED && look_again(&waited) < patience)
            ;
        int called = CALLED;
        if (w->called && w->state == CALLED && atomic_compare_exchange_strong(&w->state, &called, IDLE))
            w->called = 0;
        if (w->called)
            give(w, task, argument, members++);
    }
    set_members(members);
    for (int k = 0; k < others; k++)
        if (pool.workers[k]->called)
            atomic_store_explicit(&pool.workers[k]->state, STARTED, memory_order_release);
    task(argument, 0, &pool.team);
    for (int k = 0; k < others; k++)
        if (pool.workers[k]->called)
            wait_until_idle(pool.workers[k]);
    pthread_mutex_unlock(&pool.region);
}

void pool_share(team_task *task, void *argument, int most, double alone)
{
    const int others = enter(most, alone);
    if (others < 0) {
        run_alone(task, argument);
        return;
    }
    int members = 1;
    for (int k = 0; k < others; k++)
        if (pool.workers[k]->called)
            give(pool.workers[k], task, argument, members++);
    set_members(members);
    for (int k = 0; k < others; k++)
        if (pool.workers[k]->called)
            call(pool.workers[k], OFFERED);
    task(argument, 0, &pool.team);
    for (int k = 0; k < others; k++) {
        worker *w = pool.workers[k];
        int offered = OFFERED;
        if (w->called && atomic_compare_exchange_strong(&w->state, &offered, IDLE))
            task(argument, w->member, &pool.team);
        else if (w->called)
            wait_until_idle(w);
    }
    pthread_mutex_unlock(&pool.region);
}

void pool_crowd(int allowed)
{
    crowded = allowed;
}

void pool_stop(void)
{
    if (pthread_mutex_trylock(&pool.region) != 0)
        return; /* a thread that is left behind at exit is in there */
    for (; pool.count > 0; pool.count--) {
        worker *w = pool.workers[pool.count - 1];
        call(w, STOPPED);
        pthread_join(w->thread, NULL);
        pthread_cond_destroy(&w->wake);
        pthread_mutex_destroy(&w->mutex);
        free(w);
    }
    pthread_mutex_unlock(&pool.region);
}

void pool_wait(barrier *team)
{
    unsigned generation = team->generation;
    if (atomic_fetch_add(&team->arrived, 1) + 1 == team->members) {
        team->arrived = 0;
        team->generation = generation + 1;
        return;
    }
    for (watch others = {0}; team->generation == generation;)
        look_and_yield(&others);
}

#else /* no POSIX threads: one thread */

void pool_run(team_task *task, void *argument, int most, double alone)
{
    pool_share(task, argument, most, alone);
}

void pool_share(team_task *task, void *argument, int most, double alone)
{
    (void)most;
    (void)alone;
    run_alone(task, argument);
}

void pool_wait(barrier *team)
{
    (void)team;
}

void pool_crowd(int allowed)
{
    (void)allowed;
}

void pool_stop(void)
{
}

#endif
