/* Does a step of a stream keep its promise: no allocation, no lock, no system call, no page fault?
 *
 * The linker sends every call of the functions below to a counter first (Makefile). System calls are
 * seen by the kernel: in a child that may make none but write and exit, any other is its end.
 *
 *   realtime [offence]     exit code 0: kept; 1: broken, and the standard output says how
 *
 * An offence ("allocate", "lock", "fault", "call") is committed between the steps: then the answer has to
 * be 1, or this program sees nothing.
 */
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fastrnn.h"

enum { I = 8, H = 64, O = 10, MOST_ROWS = 5, STEPS = 100000, SOME = 2000, BLOCK = 70 };

static long calls; /* of the functions below */

#define COUNTED(type, name, parameters, arguments) \
    type __real_##name parameters;                 \
    type __wrap_##name parameters;                 \
    type __wrap_##name parameters                  \
    {                                              \
        calls++;                                   \
        return __real_##name arguments;            \
    }
COUNTED(void *, malloc, (size_t n), (n))
COUNTED(void *, calloc, (size_t n, size_t size), (n, size))
COUNTED(void *, realloc, (void *block, size_t n), (block, n))
COUNTED(void *, aligned_alloc, (size_t alignment, size_t n), (alignment, n))
COUNTED(int, posix_memalign, (void **block, size_t alignment, size_t n), (block, alignment, n))
COUNTED(void, free, (void *block), (block))
COUNTED(int, pthread_mutex_lock, (pthread_mutex_t *mutex), (mutex))
COUNTED(int, pthread_mutex_trylock, (pthread_mutex_t *mutex), (mutex))
COUNTED(int, pthread_cond_wait, (pthread_cond_t *c, pthread_mutex_t *m), (c, m))
COUNTED(int, pthread_create,
        (pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *with),
        (thread, how, run, with))

/* Of 8 bytes or of 4: whatever weight or bias is asked for, input and output. */
static double numbers[4 * H * H], x[BLOCK * MOST_ROWS * I], y[BLOCK * MOST_ROWS * H];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char *fresh; /* a page a step that nobody has touched */
static const char *offence = "";

static void commit(int step)
{
    if (!strcmp(offence, "allocate")) {
        void *volatile block = malloc(100); /* else both are left out */
        free(block);
    } else if (!strcmp(offence, "lock")) {
        pthread_mutex_lock(&mutex);
        pthread_mutex_unlock(&mutex);
    } else if (!strcmp(offence, "fault"))
        fresh[(size_t)step * 4096] = 1;
    else if (!strcmp(offence, "call"))
        syscall(SYS_getppid);
}

static void fill(double *array, size_t bytes, int real_bytes)
{
    for (size_t k = 0; k < bytes / (size_t)real_bytes; k++) {
        const double value = 0.05 * (double)((int)(k % 7) - 3);
        if (real_bytes == 8)
            array[k] = value;
        else
            ((float *)array)[k] = (float)value;
    }
}

/* Two layers and, of LSTMs, a head. */
static fastrnn_stream *make(int cell, int real_bytes, int weights, int B)
{
    fastrnn_pass layers[2] = {{.I = I, .H = H}, {.I = H, .H = H}};
    for (int k = 0; k < 2; k++) {
        layers[k].cell = cell;
        layers[k].real_bytes = real_bytes;
        layers[k].w_ih = layers[k].w_hh = layers[k].b_ih = layers[k].b_hh = numbers;
    }
    fastrnn_network n = {.B = B, .layers = layers, .count = 2, .real_bytes = real_bytes,
                         .weights = weights};
    if (cell == FASTRNN_LSTM) {
        n.O = O;
        n.w_o = n.b_o = numbers;
        n.activation = FASTRNN_TO_SOFTMAX;
    }
    fastrnn_stream *made = fastrnn_stream_new(&n, NULL);
    if (!made)
        exit(2);
    return made;
}

static void run(fastrnn_stream *s, int steps)
{
    for (int k = 0; k < steps; k++) {
        fastrnn_stream_step(s, x, y);
        commit(k);
    }
    fastrnn_stream_push(s, x, y, BLOCK);
}

static long faults(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_minflt + used.ru_majflt;
}

/* Run where no system call is allowed: 0 if it comes to its end. */
static int forbidden(fastrnn_stream *s, int steps)
{
    int status;
    const pid_t child = fork();
    if (!child) {
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
            _exit(77); /* this kernel has no such mode */
        run(s, steps);
        syscall(SYS_exit, 0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        exit(2);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        printf("seccomp is not there\n");
        exit(77);
    }
    return !WIFEXITED(status) || WEXITSTATUS(status);
}

/* Check the steps of one network, the first one of a new stream among them. */
static int check(const char *isa, int cell, int real_bytes, int weights, int B, int steps)
{
    fill(numbers, sizeof numbers, real_bytes);
    fill(x, sizeof x, real_bytes);
    fill(y, sizeof y, real_bytes);
    const char *committed = offence;
    offence = "";
    fastrnn_stream *first = make(cell, real_bytes, weights, B); /* brings the code into memory */
    run(first, 1);
    fastrnn_stream_free(first);
    offence = committed;
    fastrnn_stream *s = make(cell, real_bytes, weights, B);
    faults();
    const long calls_before = calls, faults_before = faults();
    run(s, steps);
    const long faults_after = faults(), calls_after = calls;
    const int killed = forbidden(s, SOME);
    fastrnn_stream_free(s);
    if (calls_after == calls_before && faults_after == faults_before && !killed)
        return 0;
    printf("%s, cell %d, %d bytes, weights %d, %d rows: %ld calls, %ld page faults, %s\n", isa, cell,
           real_bytes, weights, B, calls_after - calls_before, faults_after - faults_before,
           killed ? "a system call" : "no system call");
    return 1;
}

int main(int argc, char **argv)
{
    offence = argc > 1 ? argv[1] : "";
    fresh = mmap(NULL, (size_t)STEPS * 4096, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fresh == MAP_FAILED)
        return 2;
    int broken = 0;
    const int best = fastrnn_isa();
    broken += check(fastrnn_isa_name(best), FASTRNN_LSTM, 4, 0, 1, *offence ? SOME : STEPS);
    for (int isa = 0; isa < fastrnn_isa_count() && !*offence; isa++) {
        if (!fastrnn_isa_runs_here(isa))
            continue;
        fastrnn_set_isa(isa);
        for (int cell = FASTRNN_RNN_TANH; cell <= FASTRNN_LSTM; cell++)
            for (int B = 1; B <= MOST_ROWS; B += MOST_ROWS - 1) {
                broken += check(fastrnn_isa_name(isa), cell, 8, FASTRNN_AS_GIVEN, B, SOME);
                for (int weights = FASTRNN_AS_GIVEN; weights <= FASTRNN_INT8; weights++)
                    broken += check(fastrnn_isa_name(isa), cell, 4, weights, B, SOME);
            }
    }
    if (!broken)
        printf("kept\n");
    return broken > 0;
}
