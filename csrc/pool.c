/* One region at a time, from one thread at a time: others find the pool taken and work alone.
 *
 * A worker is called, and joins, or is not waited for any longer: if its processor is busy with
 * something else, the region starts without it. Between regions it looks for the next for a while
 * and then sleeps. Nothing here is read or written by the caller's thread after a region is over.
 */
#include "pool.h"

#if defined(__unix__) || defined(__APPLE__)

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

enum { MOST_THREADS = 256 };
enum { LOOKS_BEFORE_SLEEP = 2000 }; /* 50 to 100 µs: longer than Python needs between two calls */
enum { LOOKS_BEFORE_YIELD = 1000 };

enum { IDLE, CALLED, JOINED, STARTED, STOPPED };

typedef struct {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    _Atomic int state;
    _Atomic int asleep;
    int member;
} worker;

static struct {
    pthread_mutex_t region; /* held by whoever runs one */
    int count;
    worker *workers[MOST_THREADS];
    team_task *task;
    void *argument;
    barrier team;
    _Atomic int working; /* workers that have not finished */
} pool = {.region = PTHREAD_MUTEX_INITIALIZER};

static inline void look_again(int *looks)
{
    if (++*looks > LOOKS_BEFORE_YIELD)
        sched_yield();
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void sleep_until_called(worker *w)
{
    pthread_mutex_lock(&w->mutex);
    w->asleep = 1; /* before the last look: whoever calls after it sees this */
    while (w->state == IDLE)
        pthread_cond_wait(&w->wake, &w->mutex);
    w->asleep = 0;
    pthread_mutex_unlock(&w->mutex);
}

static void call(worker *w, int state)
{
    w->state = state;
    if (w->asleep) {
        pthread_mutex_lock(&w->mutex);
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->mutex);
    }
}

static void *work(void *argument)
{
    worker *w = argument;
    for (;;) {
        for (int looks = 0; w->state == IDLE && looks < LOOKS_BEFORE_SLEEP;) {
            look_again(&(int){0});
            looks++;
        }
        if (w->state == IDLE)
            sleep_until_called(w);
        if (w->state == STOPPED)
            return NULL;
        int called = CALLED;
        if (!atomic_compare_exchange_strong(&w->state, &called, JOINED))
            continue; /* too late */
        for (int looks = 0; w->state == JOINED;)
            look_again(&looks);
        pool.task(pool.argument, w->member, &pool.team);
        w->state = IDLE;
        atomic_fetch_sub(&pool.working, 1);
    }
}

/* In a forked child no worker is left, and whoever held the region is not there. */
static void forget(void)
{
    pool.count = 0;
    pthread_mutex_init(&pool.region, NULL);
}

static int start_worker(void)
{
    static _Atomic int watching;
    if (!atomic_exchange(&watching, 1))
        pthread_atfork(NULL, NULL, forget);
    worker *w = calloc(1, sizeof(worker));
    if (!w)
        return 0;
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

void pool_run(team_task *task, void *argument, int most, int patience)
{
    if (most > MOST_THREADS)
        most = MOST_THREADS;
    if (most <= 1 || pthread_mutex_trylock(&pool.region) != 0) {
        barrier alone = {.members = 1};
        task(argument, 0, &alone);
        return;
    }
    while (pool.count < most - 1 && start_worker())
        ;
    int others = pool.count < most - 1 ? pool.count : most - 1;
    for (int k = 0; k < others; k++)
        call(pool.workers[k], CALLED);
    int members = 1;
    for (int k = 0; k < others; k++) {
        worker *w = pool.workers[k];
        for (; w->state == CALLED && patience > 0; patience--)
            look_again(&(int){0});
        int called = CALLED;
        if (!atomic_compare_exchange_strong(&w->state, &called, IDLE))
            w->member = members++; /* it has joined */
        else
            w->member = 0;
    }
    pool.task = task;
    pool.argument = argument;
    pool.team.members = members;
    pool.team.arrived = 0;
    pool.working = members - 1;
    for (int k = 0; k < others; k++)
        if (pool.workers[k]->member)
            pool.workers[k]->state = STARTED;
    task(argument, 0, &pool.team);
    for (int looks = 0; pool.working;)
        look_again(&looks);
    pthread_mutex_unlock(&pool.region);
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
    for (int looks = 0; team->generation == generation;)
        look_again(&looks);
}

#else /* no POSIX threads: one thread */

void pool_run(team_task *task, void *argument, int most, int patience)
{
    barrier alone = {.members = 1};
    (void)most;
    (void)patience;
    task(argument, 0, &alone);
}

void pool_wait(barrier *team)
{
    (void)team;
}

void pool_stop(void)
{
}

#endif
