/* The plain cell (Elman 1990): h' = tanh(a), or relu. */

INLINE vec rnn_hidden(vec a, const int cell)
{
    return cell == FASTRNN_RNN_RELU ? relu(a) : tanh_(a);
}

INLINE void rnn_forward(const forward_job *j, const step *s, int64_t b, int64_t u, int n,
                        const vec *v, const int cell)
{
    put_hidden(j, s, b, u, n, rnn_hidden(v[0], cell));
}

INLINE void rnn_backward(const backward_job *j, const back_step *s, int64_t b, int64_t u, int n,
                         const int cell)
{
    int64_t H = j->p->H;
    vec h = load_some(j->output + (s->t * j->p->B + b) * H + u, n);
    vec d = load_some(j->d_h + b * H + u, n);
    d = cell == FASTRNN_RNN_RELU ? select_less(spread(0), h, d, spread(0)) : d * ((real)1 - h * h);
    store_some(j->d_a + (s->at + b) * H + u, d, n);
    carry(j, s, b, u, n, spread(0));
}
