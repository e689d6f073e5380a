/* The loop forward. */

/* Take memory for n packed weights. */
INLINE real *take_weights(arena *a, int64_t n, int weights)
{
    return take(a, ceil_div(bytes_of_weights(n, weights), (int64_t)sizeof(real)));
}

/* Say what is to be done, and find the place of the packed weights. */
static void lay_out_weights(forward_job *j, fastrnn_pass *p, int weights, arena *a)
{
    const int cell = p->cell, C = columns_of(cell);
    const int64_t B = p->B, I = p->I, H = p->H, R = recurrent_size(p);
    *j = (forward_job){.p = p,
                       .R = R,
                       .panels = ceil_div(H, vectors_of(cell) * VL),
                       .reset_h = p->reset_h,
                       .reset_c = p->reset_c,
                       .x = p->x,
                       .output = p->output,
                       .cells = p->cells,
                       .gates = p->gates,
                       .hidden_n = p->hidden_n,
                       .steps = min_of(p->T - p->done, steps_at_once(p)),
                       .by_rows = shares_rows(p, 0)};
    const int before = cell == FASTRNN_GRU_BEFORE;
    j->plain = !before && !p->P && !p->hard_gates && !p->lengths && !p->reset && !p->gates && !p->cells;
    /* For a tile of rows, weights need not be packed; for two, to turn them twice took less time than to
     * pack them with AVX-512, and up to 15 % more with AVX2. */
    const int few = B <= (VECTOR_BYTES == 64 ? 2 : 1) * TILE(C);
    j->weights = p->T == 1 && few && !before && !p->P ? UNPACKED : weights;
    const int packed = j->weights != UNPACKED, bytes = weights == BYTES;
    /* Few rows are too few for a tile: take those of some steps together. Doing so with large weights
     * too, to read them less often, was 3 to 6 % slower at B = 32, H = 256 and 512. */
    if (packed && (before || B < 2 * MOST_ROWS))
        j->ahead = min_of(p->T, max_of(1, 64 / B));
    const int64_t panels_2 = ceil_div(before ? H : p->P, UNITS);
    j->w_x = take_weights(a, packed ? j->panels * I * C * VL : 0, weights);
    j->w_h = take_weights(a, packed ? j->panels * R * (before ? 2 : C) * VL : 0, weights);
    j->w_2 = take_weights(a, panels_2 * H * UNITS, weights);
    j->scales_x = take(a, bytes ? j->panels * C * VL : 0);
    j->scales_h = take(a, bytes ? j->panels * (before ? 2 : C) * VL : 0);
    j->scales_2 = take(a, bytes ? panels_2 * UNITS : 0);
    j->bias = take(a, j->panels * C * VL);
    j->bias_n = take(a, ceil_div(H, UNITS) * UNITS);
}

/* Find the place of what a pass writes besides its results. */
static void lay_out_states(forward_job *j, arena *a)
{
    const fastrnn_pass *p = j->p;
    const int cell = p->cell, before = cell == FASTRNN_GRU_BEFORE;
    const int64_t B = p->B, H = p->H;
    j->states[0] = take(a, B * j->R);
    j->states[1] = take(a, B * j->R);
    j->c = take(a, cell == FASTRNN_LSTM ? B * H : 0);
    j->pre = take(a, j->ahead * B * j->panels * columns_of(cell) * VL);
    j->hidden = take(a, before || p->P ? B * H : 0);
    j->r = take(a, before ? B * H : 0);
    j->z = take(a, before ? B * H : 0);
    j->hidden_product = take(a, before ? B * H : 0);
}

/* Find the place of everything; return the bytes of scratch. */
static int64_t lay_out_forward(forward_job *j, fastrnn_pass *p)
{
    arena a = arena_of(p);
    lay_out_weights(j, p, REALS, &a);
    lay_out_states(j, &a);
    return bytes_of(&a, p);
}

/* Start a state (B, width): with what is given, or zeros, or where the first step resets it. */
INLINE void start_state(const fastrnn_pass *p, const void *given, const void *reset_state,
                        int64_t width, real *state)
{
    const size_t bytes = (size_t)width * sizeof(real);
    for (int64_t b = 0; b < p->B; b++) {
        const real *from = is_reset(p, time_of(p, 0), b) ? reset_state : given;
        if (from)
            memcpy(state + b * width, from + b * width, bytes);
        else
            memset(state + b * width, 0, bytes);
    }
}

/* Pack panels of a matrix, in the way that the job wants. */
INLINE void pack_as(const forward_job *j, const void *w, int64_t K, int64_t H, int gates, int V,
                    real *out, real *scales, int64_t panel0, int64_t panel1)
{
    if (j->weights == REALS)
        pack_rows(w, K, H, gates, V, out, panel0, panel1);
    else if (NARROW && j->weights != UNPACKED)
        pack_narrow(w, K, H, gates, V, j->weights, out, scales, panel0, panel1);
}

/* Pack a part of the weights. */
static void pack_weights(const forward_job *j, int member, int members)
{
    const fastrnn_pass *p = j->p;
    const int cell = p->cell, G = gates_of(cell), V = vectors_of(cell), C = G * V;
    const int64_t H = p->H, R = j->R;
    int64_t q0 = part(j->panels, member, members), q1 = part(j->panels, member + 1, members);
    const int G_h = cell == FASTRNN_GRU_BEFORE ? 2 : G;
    pack_as(j, p->w_ih, p->I, H, G, V, j->w_x, j->scales_x, q0, q1);
    pack_as(j, p->w_hh, R, H, G_h, V, j->w_h, j->scales_h, q0, q1);
    int64_t blocks = ceil_div(cell == FASTRNN_GRU_BEFORE ? H : p->P, UNITS);
    int64_t k0 = part(blocks, member, members), k1 = part(blocks, member + 1, members);
    if (cell == FASTRNN_GRU_BEFORE)
        pack_as(j, (const real *)p->w_hh + 2 * H * H, H, H, 1, 2, j->w_2, j->scales_2, k0, k1);
    else if (p->P)
        pack_as(j, p->w_hr, H, p->P, 1, 2, j->w_2, j->scales_2, k0, k1);
    if (member)
        return;
    const real *b_ih = p->b_ih, *b_hh = p->b_hh;
    for (int64_t q = 0; q < j->panels; q++) {
        for (int i = 0; i < C; i++) {
            const int64_t g = i / V, u = (q * V + i % V) * VL;
            const int n = (int)max_of(0, min_of(H - u, VL));
            vec b = b_ih ? load_some(b_ih + g * H + u, n) : spread(0);
            vec b_h = b_ih ? load_some(b_hh + g * H + u, n) : spread(0);
            if (G == 3 && g == 2) /* the GRU's n: r comes in between */
                store(j->bias_n + u, b_h);
            else
                b = b + b_h;
            store(j->bias + (q * C + i) * VL, b);
        }
    }
}

/* Pack a part of the weights and, one member alone, start the running state. */
static void prepare_forward(const forward_job *j, int member, int members)
{
    const fastrnn_pass *p = j->p;
    pack_weights(j, member, members);
    if (member)
        return;
    start_state(p, p->h0, p->reset_h, j->R, j->states[0]);
    if (p->cell == FASTRNN_LSTM)
        start_state(p, p->c0, p->reset_c, p->H, j->c);
}

/* Take R rows of the input's product, `row` being the first of all T * B, to row `at` of `pre`. */
INLINE void input_tile(const forward_job *j, const int C, const int R, const int weights, int64_t row,
                       int64_t at, int64_t q)
{
    const int64_t I = j->p->I;
    vec acc[ACCUMULATORS];
    UNROLL
    for (int i = 0; i < R * C; i++)
        acc[i] = load(j->bias + (q * C + i % C) * VL);
    operands o = {j->x + row * I, I, 1,
                  weights_at(j->w_x, q * I * C * VL, weights), 0, I, j->scales_x + q * C * VL};
    scaled_chain(acc, R, 1, C, C, weights, o);
    UNROLL
    for (int i = 0; i < R * C; i++)
        store(j->pre + (((at + i / C) * j->panels + q) * C + i % C) * VL, acc[i]);
}

INLINE void input_columns(const forward_job *j, const int C, const int weights, int64_t t0,
                          int64_t steps, const share *s)
{
    const int V = vectors_of(j->p->cell);
    const int64_t B = j->p->B;
    const int whole_batch = s->b1 - s->b0 == B;
    for (int64_t q = s->u0 / (V * VL); q * V * VL < s->u1; q++) {
        for (int64_t t = 0; t < (whole_batch ? 1 : steps); t++) {
            int64_t row = t * B + s->b0, end = whole_batch ? steps * B : t * B + s->b1;
            while (row < end) {
                int rows = tile_rows(end - row, TILE_OF(C, weights));
#define BODY(R) input_tile(j, C, R, weights, t0 * B + row, row, q)
                WITH_ROWS(rows, TILE_OF(C, weights), BODY)
#undef BODY
                row += rows;
            }
        }
    }
}

/* Call `body(C, weights)` with both constants: the columns of a panel, and how the weights lie. */
#define WITH_COLUMNS(C, weights, body) \
    switch (C) {                       \
    case 2: body(2, weights); break;   \
    case 3: body(3, weights); break;   \
    default: body(4, weights);         \
    }

/* Take the input's product for some steps, counted in time. */
SHARED void input_ahead(const forward_job *j, int64_t t0, int64_t steps, const share *s)
{
    const int columns = columns_of(j->p->cell);
#define COLUMNS(C, weights) input_columns(j, C, weights, t0, steps, s)
#define BODY(weights) WITH_COLUMNS(columns, weights, COLUMNS)
    WITH_WEIGHTS(j->weights, BODY)
#undef BODY
#undef COLUMNS
}

/* Gates and states of a tile, from its pre-activations v[row * panels + panel][column]: what a cell
 * with gates that are hard or not does for each vector of units, of the LSTM the first half or the
 * second. */
INLINE void points_of(const forward_job *j, const step *s, const int cell, const int hard,
                      const int half, int64_t b, int rows, int64_t q, int panels, vec (*v)[4])
{
    const int V = vectors_of(cell);
    for (int r = 0; r < rows; r++) {
        const int valid = is_valid(j->p, s->t, b + r);
        for (int k = 0; k < panels * V; k++) {
            const int64_t u = (q * V + k) * VL;
            const int n = (int)min_of(j->p->H - u, VL);
            vec *a = v[r * panels + k / V];
            if (n <= 0)
                break;
            if (!valid && half == 1)
                idle(j, s, cell, b + r, u, n);
            else if (!valid)
                continue;
            else if (cell == FASTRNN_LSTM && half == 1)
                lstm_forward(j, s, b + r, u, n, a, hard);
            else if (cell == FASTRNN_LSTM)
                lstm_forward_2(j, s, b + r, u, n, a);
            else if (cell == FASTRNN_GRU_AFTER)
                gru_forward(j, s, b + r, u, n, a, hard);
            else if (cell == FASTRNN_GRU_BEFORE)
                gru_before_forward(j, s, b + r, u, n, a, hard);
            else
                rnn_forward(j, s, b + r, u, n, a + k % V, cell);
        }
    }
}

SHARED void points(const forward_job *j, const step *s, int64_t b, int rows, int64_t q, int panels,
                   vec (*v)[4])
{
#define POINTS(cell, hard, half) points_of(j, s, cell, hard, half, b, rows, q, panels, v)
#define WITH_GATES(cell) j->p->hard_gates ? POINTS(cell, 1, 1) : POINTS(cell, 0, 1)
    switch (j->p->cell) {
    case FASTRNN_RNN_TANH: POINTS(FASTRNN_RNN_TANH, 0, 1); break;
    case FASTRNN_RNN_RELU: POINTS(FASTRNN_RNN_RELU, 0, 1); break;
    case FASTRNN_GRU_BEFORE: WITH_GATES(FASTRNN_GRU_BEFORE); break;
    case FASTRNN_GRU_AFTER: WITH_GATES(FASTRNN_GRU_AFTER); break;
    default:
        WITH_GATES(FASTRNN_LSTM);
        POINTS(FASTRNN_LSTM, 0, 2); /* which has no gates */
    }
#undef WITH_GATES
#undef POINTS
}

/* The same of a plain job, where the tile is: compilers leave out what is known not to be there. */
INLINE void plain_points(const forward_job *j, const step *s, const int cell, int64_t b, int rows, int64_t q,
                         vec (*v)[4])
{
    fastrnn_pass p = *j->p;
    forward_job plain = *j;
    plain.p = &p;
    plain.R = p.H;
    plain.gates = plain.cells = NULL;
    p.lengths = p.reset = NULL;
    p.P = 0;
    points_of(&plain, s, cell, 0, 1, b, rows, q, 1, v);
    if (cell == FASTRNN_LSTM)
        points_of(&plain, s, cell, 0, 2, b, rows, q, 1, v);
}

/* Go on with the chains of a tile of weights (gates * H, K) as they are; a[row * a_step + k]. */
INLINE void chain_unpacked(vec *acc, const int R, const int Q, const int C, const real *a, long a_step,
                           const real *w, int64_t H, int64_t K, int V, int64_t q)
{
    vec sums[ACCUMULATORS]; /* others than `acc`, which has to stay in registers elsewhere */
    UNROLL
    for (int i = 0; i < R * Q * C; i++)
        sums[i] = acc[i];
    multiply_rows(sums, R, Q, C, V, a, a_step, w, H, K, q);
    UNROLL
    for (int i = 0; i < R * Q * C; i++)
        acc[i] = sums[i];
}

/* One step for R rows and Q panels of C columns: pre-activations in registers, then the points. */
INLINE void forward_tile(const forward_job *j, const step *s, const int C, const int R, const int Q,
                         const int weights, int64_t b, int64_t q)
{
    const int64_t B = j->p->B, I = j->p->I;
    vec acc[ACCUMULATORS], v[ACCUMULATORS][4];
    if (s->pre) {
        const int all = columns_of(j->p->cell);
        UNROLL
        for (int i = 0; i < R * Q * C; i++) {
            int64_t row = b + i / C / Q, panel = q + i / C % Q;
            acc[i] = load(s->pre + ((row * j->panels + panel) * all + i % C) * VL);
        }
    } else {
        UNROLL
        for (int i = 0; i < R * Q * C; i++)
            acc[i] = load(j->bias + ((q + i / C % Q) * C + i % C) * VL);
        operands x = {j->x + (s->t * B + b) * I, I, 1,
                      weights_at(j->w_x, q * I * C * VL, weights), I * C * VL, I,
                      j->scales_x + q * C * VL};
        if (weights == UNPACKED)
            chain_unpacked(acc, R, Q, C, x.a, I, j->p->w_ih, j->p->H, I, vectors_of(j->p->cell), q);
        else
            scaled_chain(acc, R, Q, C, C, weights, x);
    }
    if (C == 3) { /* the GRU: r comes in between n's two sums */
        UNROLL
        for (int i = 0; i < R * Q; i++) {
            v[i][3] = acc[i * C + 2];
            acc[i * C + 2] = load(j->bias_n + (q + i % Q) * VL);
        }
    }
    operands h = {s->h + b * j->R, j->R, 1, weights_at(j->w_h, q * j->R * C * VL, weights),
                  j->R * C * VL, j->R, j->scales_h + q * C * VL};
    if (weights == UNPACKED)
        chain_unpacked(acc, R, Q, C, h.a, j->R, j->p->w_hh, j->p->H, j->R, vectors_of(j->p->cell), q);
    else
        scaled_chain(acc, R, Q, C, C, weights, h);
    UNROLL
    for (int i = 0; i < R * Q * C; i++)
        v[i / C][i % C] = acc[i];
    if (weights == REALS && R > 1 && R == TILE(C) && j->plain && j->p->cell != FASTRNN_RNN_RELU)
        plain_points(j, s, C == 4 ? FASTRNN_LSTM : C == 3 ? FASTRNN_GRU_AFTER : FASTRNN_RNN_TANH, b, R, q, v);
    else
        points(j, s, b, R, q, Q, v);
}

/* The second product of a step, and what comes after it: rows of one member alone. */
SHARED void second_half(const forward_job *j, const step *s, const share *who)
{
    const fastrnn_pass *p = j->p;
    const int64_t H = p->H, B = p->B, R = j->R;
    /* A projection goes straight into the output, and from there to the next step. */
    real *out = p->P ? j->output + s->t * B * R : j->hidden_product;
    product m = {{j->hidden, H, 1, j->w_2, H * UNITS, H, j->scales_2},
                 p->P ? 0 : j->bias_n, 0, out, R, R, 0, j->weights};
    int64_t b0 = who->b0, b1 = who->b1;
    shrink(p, s->t, &b0, &b1);
    multiply(&m, b0, b1, 0, ceil_div(R, UNITS));
    for (int64_t b = who->b0; b < who->b1; b++) {
        for (int64_t u = 0; u < R; u += VL) {
            int n = (int)min_of(R - u, VL);
            if (!is_valid(p, s->t, b))
                keep_hidden(j, s, b, u, n);
            else if (p->P)
                put_hidden(j, s, b, u, n, load_some(out + b * R + u, n));
            else
                gru_before_forward_2(
                    j, s, b, u, n, load(s->pre + ((b * j->panels + u / VL) * 3 + 2) * VL));
        }
    }
}

/* The rows of a step that no tile has. */
SHARED void rest(const forward_job *j, const step *s, const share *who, int64_t b0, int64_t b1)
{
    for (int64_t b = b0; b < b1; b++)
        for (int64_t u = who->u0; u < who->u1; u += VL)
            idle(j, s, j->p->cell, b, u, (int)min_of(j->p->H - u, VL));
}

/* All tiles of a step, of C columns: from step to step to and fro, so that a cache which does not hold all
 * weights still has those that come first. */
INLINE void tiles(const forward_job *j, const step *s, const int C, const int weights, const share *who)
{
    const int64_t units = vectors_of(j->p->cell) * VL;
    const int64_t first = who->u0 / units, count = ceil_div(who->u1, units) - first;
    const int alone = who->b1 - who->b0 == 1, back = s->h > s->h_next;
    for (int64_t done = 0; done < count;) {
        const int panels = alone ? tile_rows(count - done, TILE_OF(C, weights)) : 1;
        const int64_t q = first + (back ? count - done - panels : done);
        if (alone) {
#define BODY(Q) forward_tile(j, s, C, 1, Q, weights, who->b0, q)
            WITH_ROWS(panels, TILE_OF(C, weights), BODY)
#undef BODY
        } else {
            for (int64_t b = who->b0; b < who->b1;) {
                int rows = tile_rows(who->b1 - b, TILE_OF(C, weights));
#define BODY(R) forward_tile(j, s, C, R, 1, weights, b, q)
                WITH_ROWS(rows, TILE_OF(C, weights), BODY)
#undef BODY
                b += rows;
            }
        }
        done += panels;
    }
}

/* The same of weights with fewer bits: apart, as the others' code is large enough. */
SHARED void narrow_tiles(const forward_job *j, const step *s, int columns, const share *who)
{
#define BODY(C, weights) tiles(j, s, C, weights, who)
    if (j->weights == HALVES) {
        WITH_COLUMNS(columns, HALVES, BODY)
    } else {
        WITH_COLUMNS(columns, BYTES, BODY)
    }
#undef BODY
}

/* The same of weights that are not packed. */
SHARED void unpacked_tiles(const forward_job *j, const step *s, int columns, const share *who)
{
#define BODY(C, weights) tiles(j, s, C, weights, who)
    WITH_COLUMNS(columns, UNPACKED, BODY)
#undef BODY
}

SHARED void forward_steps(const forward_job *j, int64_t first, int64_t last, const share *who)
{
    const fastrnn_pass *p = j->p;
    const int twice = p->P || p->cell == FASTRNN_GRU_BEFORE;
    const int columns = p->cell == FASTRNN_GRU_BEFORE ? 2 : columns_of(p->cell);
    const int narrow = j->weights == HALVES || j->weights == BYTES;
    /* Of a single step nothing is gained by it, and one row's would be fewer chains than hide a latency. */
    const int ahead = j->ahead && (last - first > 1 || p->cell == FASTRNN_GRU_BEFORE);
    int64_t ahead_t = 0;
    if (is_resident(j) && who->team->members == 1) {
        const int themselves = !ahead || p->I <= RESIDENT_INPUTS;
        for (int64_t n = first, end; n < last; n = end) {
            end = themselves ? last : min_of(n + j->ahead, last);
            if (!themselves)
                input_ahead(j, earliest_of(p, n, end), end - n, who);
            resident_steps(j, n, end, themselves ? NULL : j->pre);
        }
        return;
    }
    for (int64_t number = first; number < last; number++) {
        step s = {.t = time_of(p, number),
                  .h = j->states[number % 2],
                  .h_next = j->states[(number + 1) % 2],
                  .t_next = number + 1 < p->T ? time_of(p, number + 1) : -1};
        if (ahead) {
            if ((number - first) % j->ahead == 0) {
                int64_t steps = min_of(j->ahead, last - number);
                ahead_t = earliest_of(p, number, number + steps);
                input_ahead(j, ahead_t, steps, who);
            }
            s.pre = j->pre + (s.t - ahead_t) * p->B * j->panels * columns_of(p->cell) * VL;
        }
        share some = *who;
        shrink(p, s.t, &some.b0, &some.b1);
        if (NARROW && narrow) {
            narrow_tiles(j, &s, columns, &some);
        } else if (j->weights == UNPACKED) {
            unpacked_tiles(j, &s, columns, &some);
        } else {
#define BODY(C, weights) tiles(j, &s, C, weights, &some)
            WITH_COLUMNS(columns, REALS, BODY)
#undef BODY
        }
        if (p->lengths) {
            rest(j, &s, who, who->b0, some.b0);
            rest(j, &s, who, some.b1, who->b1);
        }
        if (twice)
            second_half(j, &s, who);
        if (who->wait && number + 1 < last)
            meet(who);
    }
}

static void forward_member(void *argument, int member, barrier *team)
{
    forward_job *j = argument;
    fastrnn_pass *p = j->p;
    const unsigned long before = set_float_state();
    share who = share_of(p, j->by_rows, member, team);
    if (p->done == 0) {
        prepare_forward(j, member, team->members);
        meet(&who);
    }
    forward_steps(j, p->done, p->done + j->steps, &who);
    restore_float_state(before);
}

static void forward(fastrnn_pass *p)
{
    forward_job j;
    lay_out_forward(&j, p);
    if (is_resident(&j)) /* a step takes no longer than threads take to meet */
        pool_run(forward_member, &j, 1, 0);
    else
        run(p, forward_member, &j, step_work(p) * (double)j.steps, j.by_rows);
    p->done += j.steps;
    if (p->done == p->T) {
        memcpy(p->h_n, j.states[p->T % 2], (size_t)(p->B * j.R) * sizeof(real));
        if (p->cell == FASTRNN_LSTM)
            memcpy(p->c_n, j.c, (size_t)(p->B * p->H) * sizeof(real));
    }
}
