/* LSTM (Hochreiter & Schmidhuber 1997; Gers et al. 2000): gates i, f, g, o. */

typedef struct {
    vec i, f, g, o, c; /* c' */
} lstm_values;

/* Gates and the next cell state, c' = f c + i g, from pre-activations. */
INLINE lstm_values lstm_values_of(const vec *a, vec c, const int hard)
{
    lstm_values l = {.i = gate(a[0], hard), .f = gate(a[1], hard), .g = tanh_(a[2]), .o = gate(a[3], hard)};
    l.c = fma_(l.f, c, times(l.i, l.g));
    return l;
}

INLINE vec lstm_hidden(vec o, vec c)
{
    return o * tanh_(c);
}

/* 1. v, the pre-activations, become c' and o.  2. h = o tanh(c').
 *
 * The halves are loops of their own over a tile: together, a unit's chain of two exponentials is too
 * long for the processor to look past it at the next unit's: 1 to 3 % (the GRU gained nothing). */
INLINE void lstm_forward(const forward_job *j, const step *s, int64_t b, int64_t u, int n, vec *v,
                         const int hard)
{
    int64_t H = j->p->H, row = s->t * j->p->B + b;
    lstm_values l = lstm_values_of(v, load_some(j->c + b * H + u, n), hard);
    if (j->gates) {
        real *gates = j->gates + row * 4 * H + u;
        store_some(gates, l.i, n);
        store_some(gates + H, l.f, n);
        store_some(gates + 2 * H, l.g, n);
        store_some(gates + 3 * H, l.o, n);
        store_some(j->cells + row * H + u, l.c, n);
    }
    vec next = resets_next(j, s, b) ? reset_value(j->reset_c, b * H + u, n) : l.c;
    store_some(j->c + b * H + u, next, n);
    v[0] = l.c;
    v[1] = l.o;
}

INLINE void lstm_forward_2(const forward_job *j, const step *s, int64_t b, int64_t u, int n,
                           const vec *v)
{
    vec h = lstm_hidden(v[1], v[0]);
    if (j->p->P)
        store_some(j->hidden + b * j->p->H + u, h, n);
    else
        put_hidden(j, s, b, u, n, h);
}

/* The gates become the gradients of their pre-activations; returns what is carried to h: nothing. */
INLINE void lstm_backward(const backward_job *j, const back_step *s, int64_t b, int64_t u, int n,
                          const int hard)
{
    int64_t H = j->p->H, row = s->t * j->p->B + b;
    real *gates = j->gates + row * 4 * H + u, *d_c = j->d_c + b * H + u;
    vec i = load_some(gates, n), f = load_some(gates + H, n);
    vec g = load_some(gates + 2 * H, n), o = load_some(gates + 3 * H, n);
    vec t = tanh_(load_some(j->cells + row * H + u, n));
    vec d_h = load_some((j->p->P ? j->d_hidden : j->d_h) + b * H + u, n);
    vec d = fma_(d_h * o, (real)1 - t * t, load_some(d_c, n));
    store_some(gates, gate_gradient(d * g, i, hard), n);
    store_some(gates + H, gate_gradient(d * load_some(j->c + row * H + u, n), f, hard), n);
    store_some(gates + 2 * H, d * i * ((real)1 - g * g), n);
    store_some(gates + 3 * H, gate_gradient(d_h * t, o, hard), n);
    if (j->p->P)
        store_some(j->ring_hidden + (s->at + b) * H + u, o * t, n);
    else
        carry(j, s, b, u, n, spread(0));
    carry_cell(j, s, b, u, n, d * f);
}
