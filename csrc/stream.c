/* Streams: a network's packed weights, which streams may share, and the state of each. */
#include <stdlib.h>

#include "kernels.h"

typedef struct {
    _Atomic long owners;
    char memory[];
} shared_weights;

struct fastrnn_stream {
    const kernels *kernels; /* those that have packed the weights */
    shared_weights *weights;
    void *state; /* behind this struct */
    fastrnn_network network;
    fastrnn_pass *layers;
};

/* Zeroed memory of which every page is there: zeros are written. Compilers would make malloc and memset
 * one calloc, whose pages come when they are first touched, in the middle of a step: the block is hidden
 * from them in between. */
static void *zeroed(size_t bytes)
{
    void *block = malloc(bytes);
    __asm__ volatile("" : "+r"(block));
    return block ? memset(block, 0, bytes) : NULL;
}

fastrnn_stream *fastrnn_stream_new(const fastrnn_network *network, fastrnn_stream *like)
{
    const kernels *k = like ? like->kernels : fastrnn_stream_kernels(network);
    const size_t passes = (size_t)network->count * sizeof(fastrnn_pass);
    int64_t weights_bytes, state_bytes;
    k->stream_bytes(network, &weights_bytes, &state_bytes);
    fastrnn_stream *s = zeroed(sizeof(fastrnn_stream) + passes + (size_t)state_bytes);
    shared_weights *w = like ? like->weights : zeroed(sizeof *w + (size_t)weights_bytes);
    if (!s || !w) {
        free(s);
        if (!like)
            free(w);
        return NULL;
    }
    if (like)
        atomic_fetch_add(&w->owners, 1);
    else
        atomic_init(&w->owners, 1);
    s->kernels = k;
    s->weights = w;
    s->layers = (fastrnn_pass *)(s + 1);
    s->state = (char *)(s + 1) + passes;
    memcpy(s->layers, network->layers, passes);
    s->network = *network;
    s->network.layers = s->layers;
    k->stream_start(&s->network, w->memory, s->state, !like);
    return s;
}

void fastrnn_stream_free(fastrnn_stream *s)
{
    if (s && atomic_fetch_sub(&s->weights->owners, 1) == 1)
        free(s->weights);
    free(s);
}

void fastrnn_stream_step(fastrnn_stream *s, const void *x, void *y)
{
    s->kernels->stream_run(s->state, x, y, 1);
}

void fastrnn_stream_push(fastrnn_stream *s, const void *x, void *y, int64_t steps)
{
    s->kernels->stream_run(s->state, x, y, steps);
}

int fastrnn_stream_sizes(const fastrnn_stream *s, int64_t *B, int64_t *I, int64_t *O)
{
    *B = s->network.B;
    *I = s->layers[0].I;
    *O = s->network.O ? s->network.O : recurrent_size(&s->layers[s->network.count - 1]);
    return s->network.real_bytes;
}

/* Copy a row of `bytes` from or to a state, or zeros into it. */
static void exchange_row(char *state, void *other, size_t bytes, int set)
{
    if (!set)
        memcpy(other, state, bytes);
    else if (other)
        memcpy(state, other, bytes);
    else
        memset(state, 0, bytes);
}

void fastrnn_stream_state(fastrnn_stream *s, int layer, void *h, void *c, int set)
{
    const fastrnn_pass *p = &s->layers[layer];
    const size_t row = (size_t)s->network.B * (size_t)s->network.real_bytes;
    void *own_h, *own_c;
    s->kernels->stream_state(s->state, layer, &own_h, &own_c);
    exchange_row(own_h, h, row * (size_t)recurrent_size(p), set);
    if (own_c)
        exchange_row(own_c, c, row * (size_t)p->H, set);
}

void fastrnn_stream_reset(fastrnn_stream *s, const unsigned char *rows)
{
    for (int k = 0; k < s->network.count; k++) {
        const fastrnn_pass *p = &s->layers[k];
        const size_t R = (size_t)(recurrent_size(p) * s->network.real_bytes);
        const size_t H = (size_t)(p->H * s->network.real_bytes);
        void *h, *c;
        s->kernels->stream_state(s->state, k, &h, &c);
        for (int64_t b = 0; b < s->network.B; b++) {
            if (rows && !rows[b])
                continue;
            memset((char *)h + (size_t)b * R, 0, R);
            if (c)
                memset((char *)c + (size_t)b * H, 0, H);
        }
    }
}
