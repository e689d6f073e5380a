/* Networks that are run step by step: packed once, with the state kept between calls.
 *
 * A step is that of the loop forward: results have the bits of a pass over the whole sequence. Nothing is
 * allocated: all memory is laid out, and touched, beforehand. On one thread, nobody is waited for, and the
 * system is not called.
 */

typedef struct {
    forward_job j; /* begins a line of the cache, in which is all of it that changes from step to step */
    fastrnn_pass p; /* T is how many steps may be run at once */
    int threads;    /* that share a step, at most */
    double alone;   /* microseconds that it takes one, roughly */
} stream_layer;

typedef struct {
    int64_t B, I, O, R; /* R: what the last layer hands to the head */
    int64_t chunk;
    int count;
    int activation;
    int weights;            /* how they lie */
    int head_threads;       /* as of a layer */
    double head_alone;
    real *head, *head_bias; /* packed (O, R), or null; (O,) and zeros beyond, or null */
    real *head_scales;      /* of bytes */
    real *head_row;         /* of a single output: (R,), as given; else null */
    real *between[2];       /* (chunk, B, widest): what a layer hands to the next, in turn */
    stream_layer *layers;
} stream;

INLINE real *take_bytes(arena *a, int64_t bytes)
{
    return take(a, ceil_div(bytes, (int64_t)sizeof(real)));
}

/* Lay a network out in two blocks of memory, or with null ones only count their bytes. */
static void lay_out_stream(stream *s, const fastrnn_network *n, void *weights, void *state,
                           int64_t *weights_bytes, int64_t *state_bytes)
{
    const uintptr_t w_begin = ((uintptr_t)weights + LINE - 1) / LINE * LINE;
    const uintptr_t s_begin = ((uintptr_t)state + LINE - 1) / LINE * LINE;
    arena w = {w_begin}, own = {s_begin};
    const fastrnn_pass *last = &n->layers[n->count - 1];
    /* As many steps as the input's product is taken ahead for; all, where nothing lies between. */
    *s = (stream){.B = n->B,
                  .I = n->layers[0].I,
                  .R = recurrent_size(last),
                  .chunk = n->count == 1 && !n->O ? INT32_MAX : max_of(2, 64 / n->B),
                  .count = n->count,
                  .activation = n->activation,
                  .weights = NARROW ? n->weights : REALS};
    s->O = n->O ? n->O : s->R;
    take_bytes(&own, sizeof(stream));
    s->layers = (stream_layer *)take_bytes(&own, n->count * (int64_t)sizeof(stream_layer));
    int64_t widest = s->R;
    for (int k = 0; k < n->count; k++) {
        stream_layer one, *layer = weights ? &s->layers[k] : &one;
        layer->p = n->layers[k];
        layer->p.T = s->chunk;
        layer->p.B = n->B;
        lay_out_weights(&layer->j, &layer->p, s->weights, &w);
        lay_out_states(&layer->j, &own);
        widest = max_of(widest, layer->j.R);
    }
    if (n->O) {
        s->head = take_weights(&w, ceil_div(n->O, UNITS) * s->R * UNITS, s->weights);
        s->head_scales = take(&w, s->weights == BYTES ? ceil_div(n->O, UNITS) * UNITS : 0);
        s->head_row = n->O == 1 && s->weights == REALS ? take(&w, s->R) : NULL;
        s->head_bias = n->b_o ? take(&w, ceil_div(n->O, UNITS) * UNITS) : NULL;
    }
    for (int k = 0; k < 2; k++)
        s->between[k] = take(&own, n->count > 1 || n->O ? s->chunk * s->B * widest : 0);
    *weights_bytes = (int64_t)(w.next - w_begin) + LINE;
    *state_bytes = (int64_t)(own.next - s_begin) + LINE;
}

/* Where the stream itself lies in its block. */
INLINE stream *stream_in(void *state)
{
    return (stream *)(((uintptr_t)state + LINE - 1) / LINE * LINE);
}

static void stream_bytes(const fastrnn_network *n, int64_t *weights_bytes, int64_t *state_bytes)
{
    stream s;
    lay_out_stream(&s, n, NULL, NULL, weights_bytes, state_bytes);
}

/* Say how many threads a step is worth, and how long it takes one. To share it costs a fifth of a
 * microsecond, but where processors are far from each other a whole one. */
INLINE int worth_sharing(double work, int64_t most, double *alone)
{
    *alone = microseconds_of(work);
    return threads_for(*alone, 2, most);
}

static void share_out(stream *s, int threads)
{
    for (int k = 0; k < s->count; k++) {
        stream_layer *layer = &s->layers[k];
        const forward_job *j = &layer->j;
        const int64_t shares = is_resident(j) ? 1 : j->by_rows ? s->B / 4 : ceil_div(j->p->H, UNITS);
        layer->threads = worth_sharing(step_work(j->p), min_of(threads, shares), &layer->alone);
    }
    if (s->head)
        s->head_threads = worth_sharing((double)(s->B * s->R * s->O), min_of(threads, ceil_div(s->O, UNITS)),
                                        &s->head_alone);
}

/* Make a stream, in zeroed memory; pack the weights, unless another has done so. */
static void stream_start(const fastrnn_network *n, void *weights, void *state, int pack)
{
    int64_t w_bytes, s_bytes;
    stream *s = stream_in(state);
    stream laid_out;
    lay_out_stream(&laid_out, n, weights, state, &w_bytes, &s_bytes);
    *s = laid_out;
    share_out(s, n->threads);
    for (int k = 0; pack && k < s->count; k++)
        pack_weights(&s->layers[k].j, 0, 1);
    if (pack && n->O) {
        pack_as(&s->layers[0].j, n->w_o, s->R, n->O, 1, 2, s->head, s->head_scales, 0,
                ceil_div(n->O, UNITS));
        if (s->head_row)
            memcpy(s->head_row, n->w_o, (size_t)s->R * sizeof(real));
        if (n->b_o)
            memcpy(s->head_bias, n->b_o, (size_t)n->O * sizeof(real));
    }
}

/* exp(x - greatest) / sum, of n numbers. */
INLINE void softmax_row(real *row, int64_t n)
{
    real greatest = row[0], sum = 0;
    for (int64_t k = 1; k < n; k++)
        greatest = row[k] > greatest || row[k] != row[k] ? row[k] : greatest;
    for (int64_t k = 0; k < n; k += VL) {
        const int some = (int)min_of(n - k, VL);
        store_some(row + k, exp_(load_some(row + k, some) - greatest), some);
    }
    for (int64_t k = 0; k < n; k++)
        sum += row[k];
    for (int64_t k = 0; k < n; k += VL) {
        const int some = (int)min_of(n - k, VL);
        store_some(row + k, load_some(row + k, some) / sum, some);
    }
}

SHARED void activate(int activation, real *rows, int64_t count, int64_t n)
{
    for (int64_t k = 0; activation == FASTRNN_TO_SOFTMAX && k < count; k++)
        softmax_row(rows + k * n, n);
    if (activation == FASTRNN_TO_SOFTMAX || activation == FASTRNN_TO_ITSELF)
        return;
    for (int64_t k = 0; k < count * n; k += VL) {
        const int some = (int)min_of(count * n - k, VL);
        vec v = load_some(rows + k, some);
        switch (activation) {
        case FASTRNN_TO_TANH: v = tanh_(v); break;
        case FASTRNN_TO_SIGMOID: v = sigmoid(v); break;
        default: v = relu(v);
        }
        store_some(rows + k, v, some);
    }
}

/* y = W x + b of some rows, of the panels q0 ... q1 - 1. A single output would fill one lane of a vector:
 * its rows are the lanes, which took 1 ns a row for 6, with 8 units. */
SHARED void take_head(const stream *s, const real *x, real *y, int64_t rows, int64_t q0, int64_t q1)
{
    if (!s->head_row || rows < VL) {
        product m = {{x, s->R, 1, s->head, s->R * UNITS, s->R, s->head_scales},
                     s->head_bias, 0, y, s->O, s->O, 0, s->weights};
        multiply(&m, 0, rows, q0, q1);
        return;
    }
    for (int64_t row = 0; q0 < q1 && row < rows; row += VL) {
        const int some = (int)min_of(rows - row, VL);
        vec sum = spread(s->head_bias ? s->head_bias[0] : 0);
        for (int64_t k = 0; k < s->R; k += VL)
            add_rows(&sum, 1, 0, s->head_row + k, 0, x + row * s->R + k, s->R, some,
                     (int)min_of(s->R - k, VL));
        store_some(y + row, sum, some);
    }
}

/* Members take rows or units of a layer; from step to step they meet only if it is units. */
typedef struct {
    forward_job *j;
    int64_t steps;
} layer_job;

static void layer_member(void *argument, int member, barrier *team)
{
    const layer_job *job = argument;
    const forward_job *j = job->j;
    const unsigned long before = set_float_state();
    const share who = share_of(j->p, j->by_rows, member, team);
    forward_steps(j, 0, job->steps, &who);
    restore_float_state(before);
}

/* Members take outputs of the head, with all rows. */
typedef struct {
    const stream *s;
    const real *x;
    real *y;
    int64_t rows;
} head_job;

static void head_member(void *argument, int member, barrier *team)
{
    const head_job *job = argument;
    const int64_t panels = ceil_div(job->s->O, UNITS);
    const unsigned long before = set_float_state();
    take_head(job->s, job->x, job->y, job->rows, part(panels, member, team->members),
              part(panels, member + 1, team->members));
    restore_float_state(before);
}

/* Run so many steps, of one layer after the other. */
INLINE void stream_chunk(stream *s, const real *x, real *y, int64_t steps)
{
    barrier alone = {.members = 1};
    for (int k = 0; k < s->count; k++) {
        stream_layer *layer = &s->layers[k];
        forward_job *j = &layer->j;
        const int last = k == s->count - 1;
        j->x = x;
        j->output = last && !s->head ? y : s->between[k % 2];
        layer_job job = {j, steps};
        if (layer->threads > 1 && (j->by_rows || steps == 1))
            pool_share(layer_member, &job, layer->threads, layer->alone * (double)steps);
        else if (layer->threads > 1)
            pool_run(layer_member, &job, layer->threads, layer->alone * (double)steps);
        else {
            share all = share_of(j->p, 1, 0, &alone);
            forward_steps(j, 0, steps, &all);
        }
        if (steps % 2) { /* the next steps begin where these have ended */
            real *state = j->states[0];
            j->states[0] = j->states[1];
            j->states[1] = state;
        }
        x = j->output;
    }
    if (s->head_threads > 1) {
        head_job job = {s, x, y, steps * s->B};
        pool_share(head_member, &job, s->head_threads, s->head_alone * (double)steps);
    } else if (s->head)
        take_head(s, x, y, steps * s->B, 0, ceil_div(s->O, UNITS));
    activate(s->activation, y, steps * s->B, s->O);
}

static void stream_run(void *state, const void *x, void *y, int64_t steps)
{
    stream *s = stream_in(state);
    const unsigned long before = set_float_state();
    for (int64_t t = 0; t < steps; t += s->chunk)
        stream_chunk(s, (const real *)x + t * s->B * s->I, (real *)y + t * s->B * s->O,
                     min_of(s->chunk, steps - t));
    restore_float_state(before);
}

/* Give the places of a layer's state, (B, R) and (B, H), the latter null if it has none. */
static void stream_state(void *state, int layer, void **h, void **c)
{
    forward_job *j = &stream_in(state)->layers[layer].j;
    *h = j->states[0];
    *c = j->p->cell == FASTRNN_LSTM ? j->c : NULL;
}
