/* The kernels in a process of their own, without Python: for another processor under an emulator, and
 * for the sanitizer of threads. tests/remote.py is the other end.
 *
 * Requests come on the standard input: one byte, and what it asks for. Numbers are int64_t.
 *   l                              list the instruction sets: how many; runs here?, name (16 bytes)
 *   i index                        compute with one of them
 *   f, b  callers, pass, arrays    run a pass, forward or backward, from so many threads at once
 *   a     which, bytes, n, x       y = exp(x), sigmoid(x), ... of n numbers
 * An array is the offset of its pointer in the pass, its size in bytes, and its bytes; after the last
 * comes an offset of -1. Answers are the arrays' bytes as they are afterwards. Each is a block of its
 * own of just its size, so that reading or writing past its end can be noticed.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastrnn.h"

enum { MOST_ARRAYS = 40, MOST_CALLERS = 8 };

typedef struct {
    int64_t offset, bytes;
    void *data;
} array;

typedef struct {
    int backward, count;
    fastrnn_backward_pass pass; /* of which a forward pass is the beginning */
    array arrays[MOST_ARRAYS];
} request;

static void fail(const char *why)
{
    fprintf(stderr, "server: %s\n", why);
    exit(1);
}

static void *allocate(int64_t bytes)
{
    void *block = malloc(bytes > 0 ? (size_t)bytes : 1);
    if (!block)
        fail("no memory");
    return block;
}

static void receive(void *data, int64_t bytes)
{
    if (fread(data, 1, (size_t)bytes, stdin) != (size_t)bytes)
        fail("a request is cut short");
}

static int64_t receive_number(void)
{
    int64_t number;
    receive(&number, sizeof(number));
    return number;
}

static void send(const void *data, int64_t bytes)
{
    if (fwrite(data, 1, (size_t)bytes, stdout) != (size_t)bytes)
        fail("nobody reads the answer");
}

static void list_isas(void)
{
    int64_t count = fastrnn_isa_count();
    send(&count, sizeof(count));
    for (int k = 0; k < count; k++) {
        int64_t runs = fastrnn_isa_runs_here(k);
        char name[16] = {0};
        strncpy(name, fastrnn_isa_name(k), sizeof(name) - 1);
        send(&runs, sizeof(runs));
        send(name, sizeof(name));
    }
}

static void receive_pass(request *r)
{
    receive(&r->pass, r->backward ? sizeof(fastrnn_backward_pass) : sizeof(fastrnn_pass));
    r->count = 0;
    for (int64_t offset; (offset = receive_number()) >= 0;) {
        if (r->count == MOST_ARRAYS)
            fail("too many arrays");
        array *a = &r->arrays[r->count++];
        a->offset = offset;
        a->bytes = receive_number();
        a->data = allocate(a->bytes);
        receive(a->data, a->bytes);
    }
}

static void copy_pass(request *to, const request *from)
{
    *to = *from;
    for (int k = 0; k < from->count; k++) {
        to->arrays[k].data = allocate(from->arrays[k].bytes);
        memcpy(to->arrays[k].data, from->arrays[k].data, (size_t)from->arrays[k].bytes);
    }
}

static void *run(void *argument)
{
    request *r = argument;
    fastrnn_pass *p = &r->pass.forward;
    for (int k = 0; k < r->count; k++)
        memcpy((char *)&r->pass + r->arrays[k].offset, &r->arrays[k].data, sizeof(void *));
    p->scratch = allocate(fastrnn_scratch(p, r->backward));
    while (r->backward ? fastrnn_backward(&r->pass) : fastrnn_forward(p))
        ;
    free(p->scratch);
    return NULL;
}

static void run_pass(int backward)
{
    static request requests[MOST_CALLERS];
    pthread_t threads[MOST_CALLERS];
    int64_t callers = receive_number();
    if (callers < 1 || callers > MOST_CALLERS)
        fail("a wrong number of callers");
    requests[0].backward = backward;
    receive_pass(&requests[0]);
    for (int k = 1; k < callers; k++)
        copy_pass(&requests[k], &requests[0]);
    for (int k = 1; k < callers; k++)
        if (pthread_create(&threads[k], NULL, run, &requests[k]))
            fail("no thread");
    run(&requests[0]);
    for (int k = 1; k < callers; k++)
        pthread_join(threads[k], NULL);
    for (int j = 0; j < requests[0].count; j++) {
        const array *first = &requests[0].arrays[j];
        for (int k = 1; k < callers; k++) {
            if (memcmp(first->data, requests[k].arrays[j].data, (size_t)first->bytes))
                fail("callers at the same time got different bits");
            free(requests[k].arrays[j].data);
        }
        send(first->data, first->bytes);
        free(first->data);
    }
}

static void evaluate(void)
{
    int64_t which = receive_number(), real_bytes = receive_number(), n = receive_number();
    void *x = allocate(n * real_bytes), *y = allocate(n * real_bytes);
    receive(x, n * real_bytes);
    fastrnn_activation((int)which, (int)real_bytes, x, y, n);
    send(y, n * real_bytes);
    free(x);
    free(y);
}

int main(void)
{
    fastrnn_crowd(1);
    for (int what; (what = getchar()) != EOF; fflush(stdout)) {
        if (what == 'l')
            list_isas();
        else if (what == 'i')
            fastrnn_set_isa((int)receive_number());
        else if (what == 'f' || what == 'b')
            run_pass(what == 'b');
        else if (what == 'a')
            evaluate();
        else
            fail("an unknown request");
    }
    fastrnn_stop();
    return 0;
}
