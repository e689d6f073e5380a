/* The gradients of the weights and of the input, for a span of steps that the loop backward has passed:
 * products over all their rows. */

/* Rows that a gradient of weights sums up at once: a chain, to which the next is added. */
#define BLOCK_ROWS 256

/* Rows of a tile of weights' gradients, and numbers from tile to tile of a packed left factor: a line
 * more than it has, else all tiles of 256 rows would fall into one set of the cache. */
enum { LEFT_ROWS = TILE(2), LEFT_GAP = LINE / sizeof(real) };

INLINE int64_t left_step(int64_t rows)
{
    return rows * LEFT_ROWS + LEFT_GAP;
}

INLINE int64_t packed_left(int64_t rows, int64_t M)
{
    return ceil_div(M, LEFT_ROWS) * left_step(rows);
}

/* A factor of sums over the rows of a span; `ring`: it holds the rows of one span only. */
typedef struct {
    const real *rows;
    long step;
    int ring;
} factor;

/* One gradient of weights: (M, N), and of their bias, or null. */
typedef struct {
    factor right; /* (rows, N) */
    int64_t M, N;
    real *out, *bias;
} weight_gradient;

/* The next run of valid rows of a step, from *b1 on, which is 0 at first: sums go over these alone. */
INLINE int next_run(const fastrnn_pass *p, int64_t t, int64_t *b0, int64_t *b1)
{
    *b0 = *b1;
    while (*b0 < p->B && !is_valid(p, t, *b0))
        (*b0)++;
    *b1 = p->lengths ? *b0 : p->B;
    while (*b1 < p->B && is_valid(p, t, *b1))
        (*b1)++;
    return *b0 < *b1;
}

INLINE const real *factor_rows(const fastrnn_pass *p, const factor *f, int64_t t, int64_t earliest)
{
    return f->rows + (f->ring ? t - earliest : t) * p->B * f->step;
}

/* Sum up V vectors of a left factor from its column m on, of the last one n lanes, and add them to
 * biases. */
INLINE void take_bias(const backward_job *j, const factor *left, const weight_gradient *g, int count,
                      int64_t first, int64_t last, int64_t m, const int V, int n)
{
    const fastrnn_pass *p = j->p;
    const int64_t earliest = earliest_of(p, first, last);
    vec sum[8] = {{0}};
    for (int64_t number = last - 1; number >= first; number--) {
        const int64_t t = time_of(p, number);
        const real *rows = factor_rows(p, left, t, earliest) + m;
        for (int64_t b0, b1 = 0; next_run(p, t, &b0, &b1);) {
            const real *row = rows + b0 * left->step;
            for (int64_t b = b0; b < b1; b++, row += left->step) {
                UNROLL
                for (int v = 0; v < V; v++)
                    sum[v] = sum[v] + (v < V - 1 ? load(row + v * VL) : load_some(row + v * VL, n));
            }
        }
    }
    for (int i = 0; i < count; i++) {
        UNROLL
        for (int v = 0; v < V; v++) {
            real *bias = g[i].bias + m + v * VL;
            const int some = (int)min_of(g[i].M - m - v * VL, v < V - 1 ? VL : n);
            if (some > 0) /* the last steps come first: then nothing is there to add to */
                store_some(bias, last < p->T ? load_some(bias, some) + sum[v] : sum[v], some);
        }
    }
}

/* Take a member's part of gradients that have their left factor, (rows, M), in common, with room to
 * pack it that no other call uses meanwhile. Rows go as the loop has gone: against the order of
 * processing, within a step in that of the batch. */
SHARED void take_gradient(const backward_job *j, const factor *left, real *packed,
                          const weight_gradient *g, int count, int64_t first, int64_t last,
                          const share *who)
{
    const fastrnn_pass *p = j->p;
    enum { ROWS = LEFT_ROWS, TOGETHER = 32 };
    const int64_t M = g->M, tiles = ceil_div(M, ROWS), step = left_step((last - first) * p->B);
    const int members = who->team->members;
    const int64_t tile0 = part(tiles, who->member, members);
    const int64_t tile1 = part(tiles, who->member + 1, members);
    const int64_t m0 = tile0 * ROWS, m1 = min_of(M, tile1 * ROWS);
    const int64_t earliest = earliest_of(p, first, last);
    const int fresh = last == p->T; /* nothing to add to: the last steps come first */
    if (m0 >= m1)
        return;
    int64_t K = 0;
    for (int64_t number = first; number < last; number++)
        for (int64_t b0, b1 = 0; next_run(p, time_of(p, number), &b0, &b1);)
            K += b1 - b0;

    /* 1. The left factor: [tile][k][row], some tiles at a time, for the sake of the processor's table
     * of pages. */
    for (int64_t some = tile0; some < tile1; some += TOGETHER) {
        const int64_t end = min_of(tile1, some + TOGETHER), whole = min_of(end, M / ROWS);
        int64_t k = 0;
        for (int64_t number = last - 1; number >= first; number--) {
            const int64_t t = time_of(p, number);
            const real *rows = factor_rows(p, left, t, earliest);
            for (int64_t b0, b1 = 0; next_run(p, t, &b0, &b1);) {
                const real *row = rows + b0 * left->step;
                for (int64_t b = b0; b < b1; b++, k++, row += left->step) {
                    real *to = packed + some * step + k * ROWS;
                    for (int64_t tile = some; tile < whole; tile++, to += step)
                        memcpy(to, row + tile * ROWS, ROWS * sizeof(real));
                    if (whole < end)
                        memcpy(to, row + whole * ROWS, (size_t)(M - whole * ROWS) * sizeof(real));
                }
            }
        }
    }

    /* 2. For each panel of a right factor: pack it, and multiply all tiles with it. */
    real *panel = j->right + who->member * j->span * p->B * UNITS;
    for (int i = 0; i < count; i++) {
        const weight_gradient *one = &g[i];
        for (int64_t n = 0; n < one->N; n += UNITS) {
            int64_t k = 0;
            for (int64_t number = last - 1; number >= first; number--) {
                const int64_t t = time_of(p, number), some = min_of(one->N - n, UNITS);
                const real *rows = factor_rows(p, &one->right, t, earliest) + n;
                for (int64_t b0, b1 = 0; next_run(p, t, &b0, &b1); k += b1 - b0)
                    pack_columns(rows + b0 * one->N, one->N, b1 - b0, some, panel + k * UNITS, 0, 1);
            }
            for (int64_t tile = tile0; tile < tile1 && tile * ROWS < one->M; tile++) {
                product m = {{packed + tile * step, 1, ROWS, panel, 0, K, NULL}, 0, 0,
                             one->out + tile * ROWS * one->N + n, one->N,
                             min_of(one->N - n, UNITS), !fresh, REALS};
                const int rows = (int)min_of(ROWS, one->M - tile * ROWS);
#define BODY(R) product_tile(&m, R, REALS, 0, 0)
                WITH_ROWS(rows, ROWS, BODY)
#undef BODY
            }
        }
    }

    /* 3. The biases, some vectors of units at a time: one alone would wait for each of its sums. */
    if (!g->bias)
        return;
    int64_t m = m0;
    for (; m + 8 * VL <= m1; m += 8 * VL)
        take_bias(j, left, g, count, first, last, m, 8, VL);
    for (; m + 2 * VL <= m1; m += 2 * VL)
        take_bias(j, left, g, count, first, last, m, 2, VL);
    for (; m < m1; m += VL)
        take_bias(j, left, g, count, first, last, m, 1, (int)min_of(m1 - m, VL));
}

/* The gradient of the input: of a step's valid rows, zero for the others. */
static void take_input_gradient(const backward_job *j, int64_t first, int64_t last, const share *who)
{
    const fastrnn_pass *p = j->p;
    const int G = gates_of(p->cell), members = who->team->members;
    const int64_t B = p->B, I = p->I, GH = G * p->H, rows = (last - first) * B;
    const int64_t earliest = earliest_of(p, first, last);
    real *d_x = (real *)j->q->d_x + earliest * B * I;
    product m = {{j->d_a + (G == 1 ? 0 : earliest * B * GH), GH, 1, j->w_x, GH * UNITS, GH, NULL},
                 0, 0, d_x, I, I, 0, REALS};
    const int64_t end = part(rows, who->member + 1, members);
    for (int64_t row = part(rows, who->member, members), next; row < end; row = next) {
        next = p->lengths ? min_of(end, (row / B + 1) * B) : end;
        int64_t r0 = row, r1 = next;
        if (p->lengths) { /* of one step */
            const int64_t start = row / B * B;
            r0 -= start, r1 -= start;
            shrink(p, earliest + row / B, &r0, &r1);
            r0 += start, r1 += start;
            memset(d_x + row * I, 0, (size_t)((r0 - row) * I) * sizeof(real));
            memset(d_x + r1 * I, 0, (size_t)((next - r1) * I) * sizeof(real));
        }
        multiply(&m, r0, r1, 0, ceil_div(I, UNITS));
    }
}

/* The gradients of the input and of the weights for a span of steps, once all have its d_a. */
SHARED void take_gradients(const backward_job *j, int64_t first, int64_t last, const share *who)
{
    const fastrnn_backward_pass *q = j->q;
    const fastrnn_pass *p = j->p;
    const int cell = p->cell, G = gates_of(cell);
    const int64_t I = p->I, H = p->H, GH = G * H, R = j->R;
    if (q->d_x)
        take_input_gradient(j, first, last, who);
    real *d_w_hh = q->d_w_hh, *d_b_hh = q->d_b_hh;
    const factor x = {p->x, I, 0}, h = {j->h, R, 0}, hidden = {j->ring_hidden, H, 1};
    const factor d_a = {j->d_a, GH, G == 1};
    const weight_gradient shared[2] = {{x, GH, I, q->d_w_ih, q->d_b_ih},
                                       {h, G == 3 ? 2 * H : GH, R, d_w_hh, d_b_hh}};
    take_gradient(j, &d_a, j->left, shared, 2, first, last, who);
    if (G == 3) { /* W_hn has a factor of its own: after the product, or before it */
        const int before = cell == FASTRNN_GRU_BEFORE;
        const factor d_n = before ? (factor){j->d_a + 2 * H, GH, 0} : (factor){j->hidden_n, H, 0};
        const weight_gradient own = {before ? hidden : h, H, H, d_w_hh + 2 * H * H,
                                     d_b_hh ? d_b_hh + 2 * H : 0};
        take_gradient(j, &d_n, j->left_2, &own, 1, first, last, who);
    }
    if (p->P) {
        const factor d_h = {j->ring_d_h, p->P, 1};
        const weight_gradient own = {hidden, p->P, H, q->d_w_hr, 0};
        take_gradient(j, &d_h, j->left_2, &own, 1, first, last, who);
    }
}
