/* GRU (Cho et al. 2014): gates r, z, n; h' = (1 - z) n + z h. */

/* n = tanh(a_n + r (W_hn h + b_hn)) */
INLINE vec gru_new(vec r, vec hidden_n, vec a_n)
{
    return tanh_(fma_(r, hidden_n, a_n));
}

INLINE vec gru_hidden(vec z, vec new, vec h)
{
    return fma_((real)1 - z, new, times(z, h));
}

INLINE void gru_put(const forward_job *j, const step *s, int64_t b, int64_t u, int n, vec r, vec z,
                    vec new, vec hidden_n)
{
    int64_t H = j->p->H, row = s->t * j->p->B + b;
    if (j->gates) {
        real *gates = j->gates + row * 3 * H + u;
        store_some(gates, r, n);
        store_some(gates + H, z, n);
        store_some(gates + 2 * H, new, n);
        store_some(j->hidden_n + row * H + u, hidden_n, n);
    }
    put_hidden(j, s, b, u, n, gru_hidden(z, new, load_some(s->h + b * H + u, n)));
}

/* The reset after the product; v: r, z, W_hn h + b_hn, a_n. */
INLINE void gru_forward(const forward_job *j, const step *s, int64_t b, int64_t u, int n,
                        const vec *v, const int hard)
{
    vec r = gate(v[0], hard), z = gate(v[1], hard);
    gru_put(j, s, b, u, n, r, z, gru_new(r, v[2], v[3]), v[2]);
}

INLINE void gru_backward(const backward_job *j, const back_step *s, int64_t b, int64_t u, int n,
                         const int hard)
{
    int64_t H = j->p->H, row = s->t * j->p->B + b;
    real *gates = j->gates + row * 3 * H + u, *hidden_n = j->hidden_n + row * H + u;
    vec r = load_some(gates, n), z = load_some(gates + H, n), new = load_some(gates + 2 * H, n);
    vec d_h = load_some(j->d_h + b * H + u, n), h = load_some(j->h + row * H + u, n);
    vec d_n = d_h * ((real)1 - z) * ((real)1 - new * new);
    store_some(gates, gate_gradient(d_n * load_some(hidden_n, n), r, hard), n);
    store_some(gates + H, gate_gradient(d_h * (h - new), z, hard), n);
    store_some(gates + 2 * H, d_n, n);
    store_some(hidden_n, d_n * r, n);
    carry(j, s, b, u, n, d_h * z);
}

/* The reset before the product, n = tanh(a_n + W_hn (r h) + b_hn), in two halves. */
INLINE void gru_before_forward(const forward_job *j, const step *s, int64_t b, int64_t u, int n,
                               const vec *v, const int hard)
{
    int64_t H = j->p->H;
    vec r = gate(v[0], hard);
    store_some(j->r + b * H + u, r, n);
    store_some(j->z + b * H + u, gate(v[1], hard), n);
    store_some(j->hidden + b * H + u, r * load_some(s->h + b * H + u, n), n);
}

INLINE void gru_before_forward_2(const forward_job *j, const step *s, int64_t b, int64_t u, int n,
                                 vec a_n)
{
    int64_t at = b * j->p->H + u;
    vec hidden_n = load_some(j->hidden_product + at, n);
    gru_put(j, s, b, u, n, load_some(j->r + at, n), load_some(j->z + at, n), tanh_(a_n + hidden_n),
            hidden_n);
}

INLINE void gru_before_backward(const backward_job *j, const back_step *s, int64_t b, int64_t u,
                                int n, const int hard)
{
    int64_t H = j->p->H, row = s->t * j->p->B + b;
    real *gates = j->gates + row * 3 * H + u, *d_h = j->d_h + b * H + u;
    vec z = load_some(gates + H, n), new = load_some(gates + 2 * H, n), d = load_some(d_h, n);
    vec d_z = d * (load_some(j->h + row * H + u, n) - new);
    store_some(gates + H, gate_gradient(d_z, z, hard), n);
    store_some(gates + 2 * H, d * ((real)1 - z) * ((real)1 - new * new), n);
    store_some(d_h, d * z, n);
}

INLINE void gru_before_backward_2(const backward_job *j, const back_step *s, int64_t b, int64_t u,
                                  int n, const int hard)
{
    int64_t H = j->p->H, row = s->t * j->p->B + b;
    real *gates = j->gates + row * 3 * H + u;
    vec r = load_some(gates, n), h = load_some(j->h + row * H + u, n);
    vec d_rh = load_some(j->d_hidden + b * H + u, n);
    store_some(gates, gate_gradient(d_rh * h, r, hard), n);
    store_some(j->ring_hidden + (s->at + b) * H + u, r * h, n);
    carry(j, s, b, u, n, fma_(d_rh, r, load_some(j->d_h + b * H + u, n)));
}
