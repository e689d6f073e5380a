/* The loop backward. Steps are counted as they are processed forward, and run from the last. */

static int64_t lay_out_backward(backward_job *j, fastrnn_backward_pass *q)
{
    const fastrnn_pass *p = &q->forward;
    const int cell = p->cell, G = gates_of(cell);
    const int64_t B = p->B, I = p->I, H = p->H, R = recurrent_size(p);
    arena a = arena_of(p);
    *j = (backward_job){.q = q,
                        .p = p,
                        .R = R,
                        .output = p->output,
                        .cells = p->cells,
                        .h = q->h,
                        .c = q->c,
                        .d_output = q->d_output,
                        .gates = p->gates,
                        .hidden_n = p->hidden_n,
                        .d_a = p->gates,
                        .d_h = q->d_h0,
                        .d_c = q->d_c0,
                        .d_reset_h = q->d_reset_h,
                        .d_reset_c = q->d_reset_c,
                        .span = max_of(1, min_of(p->T, BLOCK_ROWS / B)),
                        .by_rows = shares_rows(p, 1)};
    j->steps = min_of(p->T - p->done, ceil_div(steps_at_once(p), j->span) * j->span);
    const int before = cell == FASTRNN_GRU_BEFORE;
    const int64_t rows = j->span * B, K = before ? 2 * H : G * H;
    j->w_x = take(&a, ceil_div(I, UNITS) * G * H * UNITS);
    j->w_h = take(&a, ceil_div(R, UNITS) * K * UNITS);
    j->w_2 = take(&a, before ? ceil_div(H, UNITS) * H * UNITS : ceil_div(H, UNITS) * p->P * UNITS);
    if (G == 1)
        j->d_a = take(&a, rows * H);
    j->d_hidden = take(&a, before || p->P ? B * H : 0);
    j->ring_hidden = take(&a, before || p->P ? rows * H : 0);
    j->ring_d_h = take(&a, rows * p->P);
    j->left = take(&a, packed_left(rows, G * H));
    j->left_2 = take(&a, G == 3 || p->P ? packed_left(rows, G == 3 ? H : p->P) : 0);
    j->right = take(&a, p->threads * rows * UNITS);
    return bytes_of(&a, p);
}

/* Pack a member's part of the panels of w, (K, N). */
static void pack_part(const void *w, int64_t K, int64_t N, real *out, int member, int members)
{
    const int64_t panels = ceil_div(N, UNITS);
    pack_columns(w, N, K, N, out, part(panels, member, members), part(panels, member + 1, members));
}

static void prepare_backward(const backward_job *j, int member, int members)
{
    const fastrnn_backward_pass *q = j->q;
    const fastrnn_pass *p = j->p;
    const int cell = p->cell, G = gates_of(cell), before = cell == FASTRNN_GRU_BEFORE;
    const int64_t B = p->B, I = p->I, H = p->H, R = j->R;
    pack_part(p->w_ih, G * H, I, j->w_x, member, members);
    pack_part(p->w_hh, before ? 2 * H : G * H, R, j->w_h, member, members);
    if (before)
        pack_part((const real *)p->w_hh + 2 * H * H, H, H, j->w_2, member, members);
    else if (p->P)
        pack_part(p->w_hr, p->P, H, j->w_2, member, members);
    if (member)
        return;
    int64_t t = time_of(p, p->T - 1);
    const real *d_h = q->d_h_n;
    for (int64_t b = 0; b < B; b++) {
        const real *d_y = j->d_output && is_valid(p, t, b) ? j->d_output + (t * B + b) * R : 0;
        for (int64_t u = 0; u < R; u++)
            j->d_h[b * R + u] = d_h[b * R + u] + (d_y ? d_y[u] : 0);
    }
    if (cell == FASTRNN_LSTM)
        memcpy(j->d_c, q->d_c_n, (size_t)(B * H) * sizeof(real));
    if (p->reset) {
        memset(j->d_reset_h, 0, (size_t)(B * R) * sizeof(real));
        if (cell == FASTRNN_LSTM)
            memset(j->d_reset_c, 0, (size_t)(B * H) * sizeof(real));
    }
}

/* The elements of a step that are not products, for some rows and units. */
INLINE void pointwise(const backward_job *j, const back_step *s, const int cell, const int hard,
                      const share *who)
{
    const fastrnn_pass *p = j->p;
    const int G = gates_of(cell);
    for (int64_t b = who->b0; b < who->b1; b++) {
        const int valid = is_valid(p, s->t, b);
        for (int64_t u = who->u0; u < who->u1; u += VL) {
            int n = (int)min_of(who->u1 - u, VL);
            if (!valid) { /* a step that was not taken */
                real *d_a = j->d_a + ((G == 1 ? s->at : s->t * p->B) + b) * G * p->H + u;
                for (int g = 0; g < G; g++)
                    store_some(d_a + g * p->H, spread(0), n);
                if (cell == FASTRNN_GRU_AFTER)
                    store_some(j->hidden_n + (s->t * p->B + b) * p->H + u, spread(0), n);
                if (cell == FASTRNN_GRU_BEFORE || p->P)
                    store_some(j->ring_hidden + (s->at + b) * p->H + u, spread(0), n);
                if (cell != FASTRNN_GRU_BEFORE && !p->P)
                    carry(j, s, b, u, n, load_some(j->d_h + b * j->R + u, n));
            } else if (cell == FASTRNN_LSTM)
                lstm_backward(j, s, b, u, n, hard);
            else if (cell == FASTRNN_GRU_AFTER)
                gru_backward(j, s, b, u, n, hard);
            else if (cell == FASTRNN_GRU_BEFORE)
                gru_before_backward(j, s, b, u, n, hard);
            else
                rnn_backward(j, s, b, u, n, cell);
        }
    }
}

SHARED void all_points(const backward_job *j, const back_step *s, const share *who)
{
#define WITH_GATES(cell) \
    j->p->hard_gates ? pointwise(j, s, cell, 1, who) : pointwise(j, s, cell, 0, who)
    switch (j->p->cell) {
    case FASTRNN_RNN_TANH: pointwise(j, s, FASTRNN_RNN_TANH, 0, who); break;
    case FASTRNN_RNN_RELU: pointwise(j, s, FASTRNN_RNN_RELU, 0, who); break;
    case FASTRNN_GRU_AFTER: WITH_GATES(FASTRNN_GRU_AFTER); break;
    case FASTRNN_GRU_BEFORE: WITH_GATES(FASTRNN_GRU_BEFORE); break;
    default: WITH_GATES(FASTRNN_LSTM);
    }
#undef WITH_GATES
}

/* Before the elements of a projected step: the gradient of what was projected. */
static void project_backward(const backward_job *j, const back_step *s, const share *who)
{
    const fastrnn_pass *p = j->p;
    const int64_t P = p->P, H = p->H;
    product m = {{j->d_h, P, 1, j->w_2, P * UNITS, P, NULL}, 0, 0, j->d_hidden, H, H, 0, REALS};
    multiply(&m, who->b0, who->b1, 0, ceil_div(H, UNITS));
    for (int64_t b = who->b0; b < who->b1; b++) {
        const int valid = is_valid(p, s->t, b);
        for (int64_t u = 0; u < P; u += VL) {
            int n = (int)min_of(P - u, VL);
            vec d_h = load_some(j->d_h + b * P + u, n);
            store_some(j->ring_d_h + (s->at + b) * P + u, valid ? d_h : spread(0), n);
            carry(j, s, b, u, n, valid ? spread(0) : d_h);
        }
    }
}

/* After the first half of a step of the GRU with its reset before: back through W_hn (r h). */
static void second_half_backward(const backward_job *j, const back_step *s, const share *who)
{
    const fastrnn_pass *p = j->p;
    const int64_t H = p->H;
    product m = {{j->gates + s->t * p->B * 3 * H + 2 * H, 3 * H, 1, j->w_2, H * UNITS, H, NULL},
                 0, 0, j->d_hidden, H, H, 0, REALS};
    multiply(&m, who->b0, who->b1, 0, ceil_div(H, UNITS));
    for (int64_t b = who->b0; b < who->b1; b++) {
        const int valid = is_valid(p, s->t, b);
        for (int64_t u = 0; u < H; u += VL) {
            int n = (int)min_of(H - u, VL);
            if (valid && p->hard_gates)
                gru_before_backward_2(j, s, b, u, n, 1);
            else if (valid)
                gru_before_backward_2(j, s, b, u, n, 0);
            else
                carry(j, s, b, u, n, load_some(j->d_h + b * H + u, n));
        }
    }
}

/* d_h += W_hh^T d_a, then what a reset cuts off. */
SHARED void state_gradient(const backward_job *j, const back_step *s, const share *who)
{
    const fastrnn_pass *p = j->p;
    const int cell = p->cell;
    const int64_t GH = gates_of(cell) * p->H, H = p->H, R = j->R;
    const int64_t n0 = p->P ? 0 : who->u0, n1 = p->P ? R : who->u1;
    const int64_t row = (gates_of(cell) == 1 ? s->at : s->t * p->B);
    int64_t K = gates_of(cell) == 3 ? 2 * H : GH;
    product m = {{j->d_a + row * GH, GH, 1, j->w_h, (cell == FASTRNN_GRU_BEFORE ? K : GH) * UNITS, K,
                  NULL},
                 j->d_h, R, j->d_h, R, R, 0, REALS};
    int64_t b0 = who->b0, b1 = who->b1;
    shrink(p, s->t, &b0, &b1);
    multiply(&m, b0, b1, n0 / UNITS, ceil_div(n1, UNITS));
    if (cell == FASTRNN_GRU_AFTER) { /* the chain goes on over the rows of n */
        m.o = (operands){j->hidden_n + s->t * p->B * H, H, 1, j->w_h + K * UNITS, GH * UNITS, H, NULL};
        multiply(&m, b0, b1, n0 / UNITS, ceil_div(n1, UNITS));
    }
    if (!p->reset)
        return;
    for (int64_t b = who->b0; b < who->b1; b++) {
        if (!is_reset(p, s->t, b))
            continue;
        int next = s->d_next && is_valid(p, s->t_next, b);
        for (int64_t u = n0; u < n1; u++) {
            j->d_reset_h[b * R + u] += j->d_h[b * R + u];
            j->d_h[b * R + u] = next ? s->d_next[b * R + u] : 0;
        }
    }
}

SHARED void backward_steps(const backward_job *j, int64_t first, int64_t last, const share *who)
{
    const fastrnn_pass *p = j->p;
    for (int64_t end = last; end > first; end -= j->span) {
        int64_t begin = max_of(first, end - j->span);
        int64_t earliest = earliest_of(p, begin, end);
        for (int64_t number = end - 1; number >= begin; number--) {
            back_step s = {.t = time_of(p, number)};
            s.at = (s.t - earliest) * p->B;
            if (number > 0) {
                s.t_next = time_of(p, number - 1);
                s.d_next = j->d_output ? j->d_output + s.t_next * p->B * j->R : 0;
            }
            if (p->P)
                project_backward(j, &s, who);
            all_points(j, &s, who);
            if (p->cell == FASTRNN_GRU_BEFORE)
                second_half_backward(j, &s, who);
            if (who->wait)
                meet(who);
            state_gradient(j, &s, who);
        }
        meet(who);
        take_gradients(j, begin, end, who);
        meet(who); /* before the rings are written again */
    }
}

static void backward_member(void *argument, int member, barrier *team)
{
    backward_job *j = argument;
    const fastrnn_pass *p = j->p;
    const unsigned long before = set_float_state();
    share who = share_of(p, j->by_rows, member, team);
    if (p->done == 0) {
        prepare_backward(j, member, team->members);
        meet(&who);
    }
    const int64_t last = p->T - p->done;
    backward_steps(j, last - j->steps, last, &who);
    restore_float_state(before);
}

static void backward(fastrnn_backward_pass *q)
{
    backward_job j;
    fastrnn_pass *p = &q->forward;
    lay_out_backward(&j, q);
    run(p, backward_member, &j, 2 * step_work(p) * (double)j.steps, j.by_rows);
    p->done += j.steps;
}

static int64_t scratch_bytes(const fastrnn_pass *pass, int backward)
{
    if (backward) {
        backward_job j;
        fastrnn_backward_pass q = {.forward = *pass};
        q.forward.scratch = 0;
        return lay_out_backward(&j, &q);
    }
    forward_job j;
    fastrnn_pass p = *pass;
    p.scratch = 0;
    return lay_out_forward(&j, &p);
}
