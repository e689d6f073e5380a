/* Steps of one row of few units, of passes that record nothing; where it fits, their state is in registers.
 *
 * Such a step is a chain of latencies: of the products with the hidden state, one after the other as
 * their order is promised, and of two activations. What a tile does around them, with calls and with
 * values that go through memory, took a third of the time of 8 to 32 units. The bits are the same.
 */

/* Panels of the largest such layer, and of the largest whose states are in registers. */
enum { RESIDENT_PANELS = REGISTERS == 16 ? 8 : 4, IN_REGISTERS = 4 };

/* Of the hidden state: they are wanted before they would be back from memory. */
enum { FIRST_FACTORS = VL < 3 ? VL : 3 };

/* Units of an LSTM or a GRU whose weights are about as large as the L1 cache. */
enum { L1_UNITS = 48 };

/* Inputs whose product a step takes itself, while it waits; it has no time for more. */
enum { RESIDENT_INPUTS = 8 };

INLINE int is_resident(const forward_job *j)
{
    const fastrnn_pass *p = j->p;
    const int most = gates_of(p->cell) > 1 ? RESIDENT_PANELS : IN_REGISTERS;
    return j->plain && j->weights == REALS && p->B == 1 && j->panels <= most;
}

/* Go on with the chains of Q panels by one factor. */
INLINE void link(vec *acc, const int Q, const int C, vec factor, const real *w, long panel_step)
{
    UNROLL
    for (int i = 0; i < Q * C; i++)
        acc[i] = fma_(factor, load(w + i / C * panel_step + i % C * VL), acc[i]);
}

/* A step of panels q ... q + Q - 1 of N, from their input products or, if x is given, from their bias;
 * `before` is the first vector of the state that the step consumes. */
INLINE void resident_group(const forward_job *j, const int cell, const int N, const int Q, const int q,
                           const real *pre, const real *x, vec before, vec *h, vec *c, const vec *bias_n)
{
    const int C = columns_of(cell), V = vectors_of(cell), G = C / V;
    const int64_t H = j->p->H, I = j->p->I;
    const long panel_step = H * C * VL;
    const real *w = j->w_h + q * panel_step;
    vec acc[ACCUMULATORS], a_n[4];
    UNROLL
    for (int i = 0; i < Q * C; i++)
        acc[i] = load(pre + (q * C + i) * VL);
    if (x) {
        operands from_x = {x, 0, 1, j->w_x + q * I * C * VL, I * C * VL, I, NULL};
        chain(acc, 1, Q, C, C, REALS, from_x);
    }
    UNROLL
    for (int i = 0; G == 3 && i < Q; i++) {
        a_n[i] = acc[i * 3 + 2];
        acc[i * 3 + 2] = bias_n[q + i];
    }
    link(acc, Q, C, spread(before[0]), w, panel_step);
    if (H > 1)
        link(acc, Q, C, spread(before[1]), w + C * VL, panel_step);
    if (FIRST_FACTORS > 2 && H > 2)
        link(acc, Q, C, spread(before[FIRST_FACTORS - 1]), w + 2 * C * VL, panel_step);
    operands rest = {j->states[0] + FIRST_FACTORS, 0, 1, w + FIRST_FACTORS * C * VL, panel_step,
                     H - FIRST_FACTORS, NULL};
    chain(acc, 1, Q, C, C, REALS, rest);
    UNROLL
    for (int i = 0; i < Q * V; i++) {
        const int u = q * V + i;
        const vec *a = acc + i * G;
        if (V == 2 && u == N * V - 1 && H <= u * VL)
            break;
        if (cell == FASTRNN_LSTM) {
            lstm_values l = lstm_values_of(a, c[u], 0);
            c[u] = l.c;
            h[u] = lstm_hidden(l.o, l.c);
        } else if (cell == FASTRNN_GRU_AFTER) {
            vec r = gate(a[0], 0), z = gate(a[1], 0);
            h[u] = gru_hidden(z, gru_new(r, a[2], a_n[i]), h[u]);
        } else
            h[u] = rnn_hidden(a[0], cell);
    }
}

/* Steps first ... last - 1 of a layer of N panels, Q at a time, which have registers for their sums, from
 * the input's products, or null.
 *
 * Where the weights do not fit into the L1 cache, each step goes through the panels the other way than
 * the one before it (streams swap their states), so that those it begins with are still there: 64 units
 * took 15 to 20 % less time with 32 KB of it. */
INLINE void resident_panels(const forward_job *j, const int cell, const int N, const int Q, int64_t first,
                            int64_t last, const real *pre)
{
    const int C = columns_of(cell), V = vectors_of(cell), G = C / V;
    const int64_t H = j->p->H, I = j->p->I;
    const int empty = V == 2 && H <= (N * V - 1) * VL; /* the second half of the last panel */
    const int ahead = pre != NULL;
    const int64_t odd = j->states[0] > j->states[1];
    const long way = j->p->reverse ? -1 : 1;
    const real *x = j->x + time_of(j->p, first) * I;
    const real *begin = j->states[first % 2];
    real *out = j->output + time_of(j->p, first) * H;
    vec h[8] = {{0}}, c[4], bias_n[4];
    if (!ahead)
        pre = j->bias;
    else if (way < 0)
        pre += (last - first - 1) * N * C * VL;
    UNROLL
    for (int i = 0; i < N * V; i++) {
        if (i == N * V - 1 && empty)
            break;
        h[i] = load(begin + i * VL);
        store(j->states[0] + i * VL, h[i]);
        if (cell == FASTRNN_LSTM)
            c[i] = load(j->c + i * VL);
        if (G == 3)
            bias_n[i] = load(j->bias_n + i * VL);
    }
    for (int64_t n = first; n < last; n++) {
        const vec before = h[0];
#define GROUP(q) \
    if (q < N) \
    resident_group(j, cell, N, Q, q, pre, ahead ? NULL : x, before, h, c, bias_n)
        if (N == Q || (n + odd) % 2 == 0) {
            GROUP(0);
            GROUP(Q);
            GROUP(2 * Q);
            GROUP(3 * Q);
        } else {
            GROUP(3 * Q);
            GROUP(2 * Q);
            GROUP(Q);
            GROUP(0);
        }
#undef GROUP
        UNROLL
        for (int i = 0; i < N * V; i++) {
            if (i == N * V - 1 && empty)
                break;
            store(j->states[0] + i * VL, h[i]);
            if (i < (N - 1) * V)
                store(out + i * VL, h[i]);
            else
                store_some(out + i * VL, h[i], (int)min_of(H - i * VL, VL));
        }
        if (ahead)
            pre += way * N * C * VL;
        x += way * I;
        out += way * H;
    }
    UNROLL
    for (int i = 0; i < N * V; i++) {
        if (i == N * V - 1 && empty)
            break;
        store(j->states[last % 2] + i * VL, h[i]);
        if (cell == FASTRNN_LSTM)
            store(j->c + i * VL, c[i]);
    }
}

/* The same of more panels, two at a time, of an LSTM or a GRU: states do not fit into registers any more. */
INLINE void many_panels(const forward_job *j, const int cell, int64_t first, int64_t last, const real *pre)
{
    const int C = columns_of(cell), N = (int)j->panels;
    const int64_t H = j->p->H, I = j->p->I, odd = j->states[0] > j->states[1];
    const int ahead = pre != NULL;
    const long way = j->p->reverse ? -1 : 1;
    const real *x = j->x + time_of(j->p, first) * I, *begin = j->states[first % 2];
    real *out = j->output + time_of(j->p, first) * H;
    vec h[RESIDENT_PANELS], c[RESIDENT_PANELS], bias_n[RESIDENT_PANELS];
    if (!ahead)
        pre = j->bias;
    else if (way < 0)
        pre += (last - first - 1) * N * C * VL;
    for (int i = 0; i < N; i++) {
        h[i] = load(begin + i * VL);
        store(j->states[0] + i * VL, h[i]);
        if (cell == FASTRNN_LSTM)
            c[i] = load(j->c + i * VL);
        else
            bias_n[i] = load(j->bias_n + i * VL);
    }
    for (int64_t n = first; n < last; n++) {
        const vec before = h[0];
        const int back = (int)((n + odd) % 2);
        for (int k = 0; k < N; k += 2) {
            const int q = back ? (N - 1) / 2 * 2 - k : k;
            if (q + 1 < N)
                resident_group(j, cell, N, 2, q, pre, ahead ? NULL : x, before, h, c, bias_n);
            else
                resident_group(j, cell, N, 1, q, pre, ahead ? NULL : x, before, h, c, bias_n);
        }
        for (int i = 0; i < N; i++) {
            store(j->states[0] + i * VL, h[i]);
            store_some(out + i * VL, h[i], (int)min_of(H - i * VL, VL));
        }
        if (ahead)
            pre += way * N * C * VL;
        x += way * I;
        out += way * H;
    }
    for (int i = 0; i < N; i++) {
        store(j->states[last % 2] + i * VL, h[i]);
        if (cell == FASTRNN_LSTM)
            store(j->c + i * VL, c[i]);
    }
}

SHARED void many_steps(const forward_job *j, int64_t first, int64_t last, const real *pre)
{
    if (j->p->cell == FASTRNN_LSTM)
        many_panels(j, FASTRNN_LSTM, first, last, pre);
    else
        many_panels(j, FASTRNN_GRU_AFTER, first, last, pre);
}

/* Steps of a layer for which is_resident, from the input's products, or null: it takes them itself. */
SHARED void resident_steps(const forward_job *j, int64_t first, int64_t last, const real *pre)
{
    if (j->panels > IN_REGISTERS) { /* apart: beside it, compilers spilled more of the others */
        many_steps(j, first, last, pre);
        return;
    }
#define LSTM(N) resident_panels(j, FASTRNN_LSTM, N, N * VL > L1_UNITS ? 1 : N > TILE(4) ? N / 2 : N, first, last, pre)
#define GRU(N) resident_panels(j, FASTRNN_GRU_AFTER, N, N * VL > L1_UNITS ? N / 2 : N, first, last, pre)
#define TANH(N) resident_panels(j, FASTRNN_RNN_TANH, N, N, first, last, pre)
#define RELU(N) resident_panels(j, FASTRNN_RNN_RELU, N, N, first, last, pre)
    switch (j->p->cell) {
    case FASTRNN_LSTM: WITH_ROWS(j->panels, IN_REGISTERS, LSTM) break;
    case FASTRNN_GRU_AFTER: WITH_ROWS(j->panels, IN_REGISTERS, GRU) break;
    case FASTRNN_RNN_TANH: WITH_ROWS(j->panels, IN_REGISTERS, TANH) break;
    default: WITH_ROWS(j->panels, IN_REGISTERS, RELU)
    }
#undef LSTM
#undef GRU
#undef TANH
#undef RELU
}
