/* Steps of one row whose state fits into registers, of passes that record nothing.
 *
 * Such a step is a chain of latencies: of the products with the hidden state, one after the other as
 * their order is promised, and of two activations. What a tile does around them, with calls and with
 * values that go through memory, took a third of the time of 8 to 32 units. The bits are the same.
 */

/* Panels of the largest such layer: with them all accumulators, and the states, have registers. */
#define RESIDENT_PANELS(C) (TILE(C) < 4 ? TILE(C) : 4)

/* Of the hidden state: they are wanted before they would be back from memory. */
enum { FIRST_FACTORS = VL < 3 ? VL : 3 };

/* Inputs whose product a step takes itself, while it waits; it has no time for more. */
enum { RESIDENT_INPUTS = 8 };

INLINE int is_resident(const fastrnn_pass *p)
{
    const int C = columns_of(p->cell), V = vectors_of(p->cell);
    const int plain = p->cell != FASTRNN_GRU_BEFORE && !p->P && !p->hard_gates;
    const int alone = !p->lengths && !p->reset && !p->gates && !p->cells;
    return p->B == 1 && p->T > 1 && plain && alone && p->H <= RESIDENT_PANELS(C) * V * VL;
}

/* Go on with the chains of Q panels by one factor. */
INLINE void link(vec *acc, const int Q, const int C, vec factor, const real *w, long panel_step)
{
    UNROLL
    for (int i = 0; i < Q * C; i++)
        acc[i] = fma_(factor, load(w + i / C * panel_step + i % C * VL), acc[i]);
}

/* Steps first ... last - 1 of Q panels, whose input products are there. */
INLINE void resident_panels(const forward_job *j, const int cell, const int Q, int64_t first,
                            int64_t last)
{
    const int C = columns_of(cell), V = vectors_of(cell), G = C / V;
    const int64_t H = j->p->H, I = j->p->I;
    const int empty = V == 2 && H <= (Q * V - 1) * VL; /* the second half of the last panel */
    const int ahead = I > RESIDENT_INPUTS;
    const long panel_step = H * C * VL, way = j->p->reverse ? -1 : 1;
    const operands rest = {j->states[0] + FIRST_FACTORS, 0, 1, j->w_h + FIRST_FACTORS * C * VL, panel_step,
                           H - FIRST_FACTORS, NULL};
    operands x = {(const real *)j->p->x + time_of(j->p, first) * I, 0, 1, j->w_x, I * C * VL, I, NULL};
    const real *pre = ahead ? j->pre : j->bias, *begin = j->states[first % 2];
    real *out = j->output + time_of(j->p, first) * H;
    vec h[8] = {{0}}, c[4], bias_n[4];
    if (way < 0 && ahead)
        pre += (last - first - 1) * Q * C * VL;
    UNROLL
    for (int i = 0; i < Q * V; i++) {
        if (i == Q * V - 1 && empty)
            break;
        h[i] = load(begin + i * VL);
        store(j->states[0] + i * VL, h[i]);
        if (cell == FASTRNN_LSTM)
            c[i] = load(j->c + i * VL);
        if (G == 3)
            bias_n[i] = load(j->bias_n + i * VL);
    }
    for (int64_t n = first; n < last; n++) {
        vec acc[ACCUMULATORS], o[4], a_n[4];
        UNROLL
        for (int i = 0; i < Q * C; i++)
            acc[i] = load(pre + i * VL);
        if (ahead)
            pre += way * Q * C * VL;
        else
            chain(acc, 1, Q, C, C, REALS, x);
        UNROLL
        for (int i = 0; G == 3 && i < Q; i++) {
            a_n[i] = acc[i * 3 + 2];
            acc[i * 3 + 2] = bias_n[i];
        }
        link(acc, Q, C, spread(h[0][0]), j->w_h, panel_step);
        if (H > 1)
            link(acc, Q, C, spread(h[0][1]), j->w_h + C * VL, panel_step);
        if (FIRST_FACTORS > 2 && H > 2)
            link(acc, Q, C, spread(h[0][FIRST_FACTORS - 1]), j->w_h + 2 * C * VL, panel_step);
        chain(acc, 1, Q, C, C, REALS, rest);
        UNROLL
        for (int i = 0; i < Q * V; i++) {
            const vec *a = acc + i * G;
            if (i == Q * V - 1 && empty)
                break;
            if (cell == FASTRNN_LSTM) {
                lstm_values l = lstm_values_of(a, c[i], 0);
                c[i] = l.c;
                o[i] = l.o;
            } else if (cell == FASTRNN_GRU_AFTER) {
                vec r = gate(a[0], 0), z = gate(a[1], 0);
                h[i] = gru_hidden(z, gru_new(r, a[2], a_n[i]), h[i]);
            } else
                h[i] = rnn_hidden(a[0], cell);
        }
        UNROLL
        for (int i = 0; i < Q * V; i++) {
            if (i == Q * V - 1 && empty)
                break;
            if (cell == FASTRNN_LSTM)
                h[i] = lstm_hidden(o[i], c[i]);
            store(j->states[0] + i * VL, h[i]);
            if (i < (Q - 1) * V)
                store(out + i * VL, h[i]);
            else
                store_some(out + i * VL, h[i], (int)min_of(H - i * VL, VL));
        }
        x.a += way * I;
        out += way * H;
    }
    UNROLL
    for (int i = 0; i < Q * V; i++) {
        if (i == Q * V - 1 && empty)
            break;
        store(j->states[last % 2] + i * VL, h[i]);
        if (cell == FASTRNN_LSTM)
            store(j->c + i * VL, c[i]);
    }
}

/* Steps of a layer for which is_resident; the products of the input for them are there. */
SHARED void resident_steps(const forward_job *j, int64_t first, int64_t last)
{
#define LSTM(Q) resident_panels(j, FASTRNN_LSTM, Q, first, last)
#define GRU(Q) resident_panels(j, FASTRNN_GRU_AFTER, Q, first, last)
#define TANH(Q) resident_panels(j, FASTRNN_RNN_TANH, Q, first, last)
#define RELU(Q) resident_panels(j, FASTRNN_RNN_RELU, Q, first, last)
    switch (j->p->cell) {
    case FASTRNN_LSTM: WITH_ROWS(j->panels, RESIDENT_PANELS(4), LSTM) break;
    case FASTRNN_GRU_AFTER: WITH_ROWS(j->panels, RESIDENT_PANELS(3), GRU) break;
    case FASTRNN_RNN_TANH: WITH_ROWS(j->panels, RESIDENT_PANELS(2), TANH) break;
    default: WITH_ROWS(j->panels, RESIDENT_PANELS(2), RELU)
    }
#undef LSTM
#undef GRU
#undef TANH
#undef RELU
}
