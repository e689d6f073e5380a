/* Short inference without ceremony: for a small network the checks and conversions in Python would
 * take ten times as long as the network.
 *
 * Arrays come as the addresses of their Python objects, as id() gives them in CPython, and what is
 * read of them is PyArrayObject_fields, a part of NumPy's public interface of which nothing has
 * changed between 1.x and 2.x. fastrnn_know_arrays makes sure on known arrays that this is so here;
 * elsewhere, and for everything that is not the plain case, the answer is "not here", and the way
 * through validation.py is taken. Nothing is written before everything is checked.
 */
#include <stddef.h>
#include <stdlib.h>

#include "kernels.h"

typedef struct {
    intptr_t references;
    uintptr_t type;
    char *data;
    int dimensions;
    intptr_t *shape, *strides;
    uintptr_t base, dtype;
    int flags;
} array;

enum { PLAIN = 0x1 | 0x100, WRITEABLE = 0x400 }; /* C-contiguous and aligned */

static struct {
    uintptr_t array_type, float32, float64, none;
} known;

int fastrnn_know_arrays(uintptr_t array_type, uintptr_t float32, uintptr_t float64, uintptr_t none,
                        uintptr_t probe, uintptr_t data)
{
    /* The probe is a writable array of float64 with the shape (3, 5). */
    const array *a = (const array *)probe;
    int as_expected = sizeof(void *) == 8 && a->type == array_type &&
                      (uintptr_t)a->data == data && a->dimensions == 2 && a->shape[0] == 3 &&
                      a->shape[1] == 5 && a->strides[0] == 40 && a->strides[1] == 8 &&
                      a->dtype == float64 && (a->flags & (PLAIN | WRITEABLE)) == (PLAIN | WRITEABLE);
    known.array_type = as_expected ? array_type : 0;
    known.float32 = float32;
    known.float64 = float64;
    known.none = none;
    return as_expected;
}

/* Return the data of a plain array of this type and shape, (1, rows, columns) if `layers`, else
 * (rows, columns), and for no rows (columns,); null if it is anything else. */
static void *plain(uintptr_t object, uintptr_t dtype, int layers, int64_t rows, int64_t columns)
{
    const array *a = (const array *)object;
    if (a->type != known.array_type || a->dtype != dtype || (a->flags & PLAIN) != PLAIN)
        return NULL;
    const int dimensions = rows ? 2 + layers : 1;
    if (a->dimensions != dimensions || a->shape[dimensions - 1] != columns ||
        (rows && a->shape[dimensions - 2] != rows) || (layers && a->shape[0] != 1))
        return NULL;
    return a->data;
}

/* Replace the pointers that begin at `first` and end before `last`. */
static void find(char *first, const char *last)
{
    for (; first < last; first += sizeof(void *)) {
        uintptr_t object;
        memcpy(&object, first, sizeof object);
        void *data = object && object != known.none ? ((const array *)object)->data : NULL;
        memcpy(first, &data, sizeof data);
    }
}

void fastrnn_find_arrays(void *pass, int backward)
{
    char *p = pass;
    find(p + offsetof(fastrnn_pass, lengths), p + offsetof(fastrnn_pass, scratch));
    if (backward)
        find(p + sizeof(fastrnn_pass), p + sizeof(fastrnn_backward_pass));
}

/* Run a pass that lacks nothing but its scratch, and maybe its output. */
static int run_at_once(fastrnn_backward_pass *q, int backward)
{
    fastrnn_pass *p = &q->forward;
    const int64_t size = fastrnn_scratch(p, backward);
    char *memory = malloc((size_t)size);
    if (!memory)
        return -1;
    p->scratch = memory;
    while (backward ? fastrnn_backward(q) : fastrnn_forward(p))
        ;
    free(memory);
    return 1;
}

int fastrnn_at_once(const char *pass, int backward)
{
    fastrnn_backward_pass q;
    memcpy(&q, pass, backward ? sizeof q : sizeof q.forward);
    return run_at_once(&q, backward);
}

int fastrnn_step(const char *pass, int threads, int64_t B, uintptr_t x, uintptr_t h0, uintptr_t c0,
                 uintptr_t h_n, uintptr_t c_n, uintptr_t gates, uintptr_t hidden_n)
{
    fastrnn_backward_pass q;
    memcpy(&q, pass, sizeof q.forward);
    fastrnn_pass *p = &q.forward;
    p->threads = threads;
    p->B = B;
    p->x = (const void *)x;
    p->h0 = (const void *)h0;
    p->c0 = (const void *)c0;
    p->output = p->h_n = (void *)h_n; /* the same numbers */
    p->c_n = (void *)c_n;
    p->cells = gates ? p->c_n : NULL; /* likewise */
    p->gates = (void *)gates;
    p->hidden_n = (void *)hidden_n;
    return run_at_once(&q, 0);
}

int fastrnn_infer(int cell, int hard_gates, int form, int threads, uintptr_t x, uintptr_t h0,
                  uintptr_t c0, uintptr_t w_ih, uintptr_t w_hh, uintptr_t b_ih, uintptr_t b_hh,
                  uintptr_t output, uintptr_t h_n, uintptr_t c_n)
{
    const array *in = (const array *)x, *hh = (const array *)w_hh;
    const int lstm = cell == FASTRNN_LSTM, layers = form == FASTRNN_LAYER;
    const int G = gates_of(cell);
    if (!known.array_type || in->type != known.array_type || hh->type != known.array_type ||
        (in->flags & PLAIN) != PLAIN || hh->dimensions != 2 ||
        in->dimensions != (form == FASTRNN_CELL ? 2 : 3))
        return 0;
    const uintptr_t dtype = in->dtype;
    const intptr_t *last = in->shape + in->dimensions - 1;
    fastrnn_backward_pass q = {0};
    fastrnn_pass *p = &q.forward;
    *p = (fastrnn_pass){.T = form == FASTRNN_CELL ? 1 : in->shape[0],
                        .B = last[-1],
                        .I = last[0],
                        .H = hh->shape[1],
                        .cell = cell,
                        .hard_gates = hard_gates,
                        .real_bytes = dtype == known.float32 ? 4 : 8,
                        .threads = threads,
                        .x = in->data};
    if ((dtype != known.float32 && dtype != known.float64) || !p->T || !p->B || !p->I || !p->H ||
        (double)p->T * step_work(p) > FASTRNN_AT_ONCE)
        return 0;
    const int stateless = h0 == known.none, unbiased = b_ih == known.none;
    if ((lstm && (c0 == known.none) != stateless) || (b_hh == known.none) != unbiased)
        return 0;
    if (!(p->w_ih = plain(w_ih, dtype, 0, G * p->H, p->I)) ||
        !(p->w_hh = plain(w_hh, dtype, 0, G * p->H, p->H)) ||
        (!unbiased && !(p->b_ih = plain(b_ih, dtype, 0, 0, G * p->H))) ||
        (!unbiased && !(p->b_hh = plain(b_hh, dtype, 0, 0, G * p->H))) ||
        (!stateless && !(p->h0 = plain(h0, dtype, layers, p->B, p->H))) ||
        (!stateless && lstm && !(p->c0 = plain(c0, dtype, layers, p->B, p->H))))
        return 0;
    /* What is written has just been allocated for this. */
    p->h_n = ((array *)h_n)->data;
    p->c_n = lstm ? ((array *)c_n)->data : NULL;
    p->output = form == FASTRNN_CELL ? p->h_n : ((array *)output)->data; /* the same numbers */
    return run_at_once(&q, 0);
}

int fastrnn_stream_arrays(fastrnn_stream *stream, uintptr_t x, uintptr_t y)
{
    int64_t B, I, O;
    const int real_bytes = fastrnn_stream_sizes(stream, &B, &I, &O);
    const uintptr_t dtype = real_bytes == 4 ? known.float32 : known.float64;
    if (!known.array_type)
        return 0;
    const char *in = plain(x, dtype, 0, B, I);
    char *out = plain(y, dtype, 0, B, O);
    if (!in || !out || !(((const array *)y)->flags & WRITEABLE) ||
        (in < out + B * O * real_bytes && out < in + B * I * real_bytes))
        return 0;
    fastrnn_stream_step(stream, in, out);
    return 1;
}

int fastrnn_stream_again(uintptr_t call)
{
    const fastrnn_stream_call *c = (const fastrnn_stream_call *)call;
    return fastrnn_stream_arrays(c->stream, c->x, c->y);
}
