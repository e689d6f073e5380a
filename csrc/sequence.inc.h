/* What the loops forward and backward share: the sizes, the scratch, who does what, the masks. */

typedef struct {
    uintptr_t next;
} arena;

/* Without scratch yet, all that follows only counts. */
INLINE arena arena_of(const fastrnn_pass *p)
{
    return (arena){((uintptr_t)p->scratch + LINE - 1) / LINE * LINE};
}

/* What the scratch has to hold, wherever it begins. */
INLINE int64_t bytes_of(const arena *a, const fastrnn_pass *p)
{
    return (int64_t)(a->next - arena_of(p).next) + LINE;
}

/* Take memory for n numbers, at the beginning of a line. */
INLINE real *take(arena *a, int64_t n)
{
    uintptr_t here = a->next;
    a->next += (uintptr_t)ceil_div(n * (int64_t)sizeof(real), LINE) * LINE;
    return (real *)here;
}

/* Columns of a panel: one for each gate; two for a single gate. */
INLINE int vectors_of(const int cell)
{
    return gates_of(cell) == 1 ? 2 : 1;
}

INLINE int columns_of(const int cell)
{
    return gates_of(cell) * vectors_of(cell);
}

/* Who of a team does what: rows of the batch, or units (multiples of UNITS; all take all rows). */
typedef struct {
    int64_t b0, b1;
    int64_t u0, u1;
    int member;
    barrier *team;
    int wait; /* whether the members need one another's results at every step */
} share;

/* The first row of the k-th of n shares of the batch: as many steps for each, if not as many rows. */
INLINE int64_t first_row(const fastrnn_pass *p, int k, int n)
{
    const int64_t *lengths = p->lengths;
    if (!lengths || k == 0 || k == n)
        return part(p->B, k, n);
    double all = 0, before = 0;
    for (int64_t b = 0; b < p->B; b++)
        all += (double)lengths[b];
    int64_t b = 0;
    while (b < p->B && before + (double)lengths[b] / 2 < all * k / n)
        before += (double)lengths[b++];
    return b;
}

INLINE share share_of(const fastrnn_pass *p, int by_rows, int member, barrier *team)
{
    const int64_t H = p->H;
    share s = {0, p->B, 0, H, member, team, 0};
    int n = team->members;
    if (n == 1)
        return s;
    if (by_rows) {
        s.b0 = first_row(p, member, n);
        s.b1 = first_row(p, member + 1, n);
    } else {
        int64_t blocks = ceil_div(H, UNITS);
        s.u0 = part(blocks, member, n) * UNITS;
        s.u1 = min_of(H, part(blocks, member + 1, n) * UNITS);
        s.wait = 1;
    }
    return s;
}

INLINE void meet(const share *s)
{
    if (s->team->members > 1)
        pool_wait(s->team);
}

INLINE int is_valid(const fastrnn_pass *p, int64_t t, int64_t b)
{
    return !p->lengths || t < ((const int64_t *)p->lengths)[b];
}

/* Rows b0 ... b1 - 1 without those at either end that are not valid: the others need no products. */
INLINE void shrink(const fastrnn_pass *p, int64_t t, int64_t *b0, int64_t *b1)
{
    while (*b0 < *b1 && !is_valid(p, t, *b1 - 1))
        (*b1)--;
    while (*b0 < *b1 && !is_valid(p, t, *b0))
        (*b0)++;
}

INLINE int is_reset(const fastrnn_pass *p, int64_t t, int64_t b)
{
    return p->reset && ((const uint8_t *)p->reset)[t * p->B + b] && is_valid(p, t, b);
}

INLINE int64_t time_of(const fastrnn_pass *p, int64_t number)
{
    return p->reverse ? p->T - 1 - number : number;
}

/* The first in time of steps first ... last - 1, counted as they are processed. */
INLINE int64_t earliest_of(const fastrnn_pass *p, int64_t first, int64_t last)
{
    return time_of(p, p->reverse ? last - 1 : first);
}

/* Steps of some 10 ms. */
INLINE int64_t steps_at_once(const fastrnn_pass *p)
{
    return max_of(1, (int64_t)(1e9 / step_work(p)));
}

/* What so many multiply-adds take on one thread, roughly. */
INLINE double microseconds_of(double work)
{
    return work / 20000;
}

/* How many threads, at most `most`, are worth it if each has to have so many microseconds of what takes one
 * thread `alone`. */
INLINE int threads_for(double alone, double each, int64_t most)
{
    return (int)max_of(1, min_of(most, (int64_t)(alone / each)));
}

/* Run a task of so many multiply-adds on as many threads as it is worth: waking another takes up to 100
 * microseconds. */
INLINE void run_worth(team_task *task, void *job, double work, int64_t most)
{
    const double alone = microseconds_of(work);
    pool_run(task, job, threads_for(alone, 25, most), alone);
}

/* Run a pass. If members meet at every step, which takes about half a microsecond, a step has to be
 * worth that too. */
INLINE void run(const fastrnn_pass *p, team_task *task, void *job, double work, int by_rows)
{
    const int64_t shares = by_rows ? p->B / 4 : ceil_div(p->H, UNITS);
    int64_t most = min_of(p->threads, shares);
    if (!by_rows)
        most = min_of(most, (int64_t)(step_work(p) / 1.2e4));
    run_worth(task, job, work, most);
}

/* Rows are shared out where there are enough of them, or some and weights that stay in the cache: then
 * nobody waits for others at every step. (Backward, 64 to 262 KB of weights and 32 rows: 6 % of the
 * time of a training step; more weights: 2 %. Forward, with more weights it costs 1 %.) Projections and
 * the GRU with its reset before the product have more than one product a step, which would need more
 * than one meeting. */
INLINE int shares_rows(const fastrnn_pass *p, int backward)
{
    int64_t bytes = gates_of(p->cell) * p->H * recurrent_size(p) * (int64_t)sizeof(real);
    return p->P || p->cell == FASTRNN_GRU_BEFORE || (p->B >= 8 && bytes <= 300000) ||
           (backward && p->B >= 32);
}

/* --- what the cells see of the loop forward */

typedef struct {
    fastrnn_pass *p;
    const real *x;
    real *output;
    real *states[2];       /* (B, R), what steps consume and make in turn */
    real *c;               /* (B, H) */
    int64_t R, panels;
    const real *reset_h, *reset_c; /* or null for zeros */
    real *cells, *gates, *hidden_n;
    real *w_x, *w_h;       /* panels of all gates (the GRU with its reset before: w_h without n) */
    real *w_2;             /* panels of the second product of a step: projection, or W_hn */
    real *scales_x, *scales_h, *scales_2; /* of weights that are bytes, like their panels' columns */
    real *bias, *bias_n;   /* like the panels' columns; the GRU's b_hn */
    real *pre;             /* products of the input with all gates, some steps ahead */
    real *hidden;          /* (B, H): what goes into the second product */
    real *r, *z, *hidden_product; /* (B, H): the GRU with its reset before */
    int64_t ahead;         /* steps whose input product is taken at once; 0: step by step */
    int64_t steps;         /* of a call */
    int by_rows;
    int plain;             /* nothing is masked, reset, recorded or projected, and no gate is hard */
    int weights;           /* how they lie (narrow.inc.h): UNPACKED for one step of a few rows */
} forward_job;

typedef struct {
    int64_t t;
    const real *pre;   /* its input's products, from the first row on; null: tiles take them */
    const real *h;     /* (B, R): what it consumes */
    real *h_next;      /* what the next one does */
    int64_t t_next;    /* or -1 */
} step;

INLINE vec reset_value(const real *state, int64_t at, int n)
{
    return state ? load_some(state + at, n) : spread(0);
}

INLINE int resets_next(const forward_job *j, const step *s, int64_t b)
{
    return s->t_next >= 0 && is_reset(j->p, s->t_next, b);
}

/* Write n units of a row's output, and of its state to what the next step consumes. */
INLINE void put_output(const forward_job *j, const step *s, int64_t b, int64_t u, int n, vec output,
                       vec state)
{
    int64_t at = b * j->R + u;
    store_some(j->output + s->t * j->p->B * j->R + at, output, n);
    vec next = resets_next(j, s, b) ? reset_value(j->reset_h, at, n) : state;
    store_some(s->h_next + at, next, n);
}

INLINE void put_hidden(const forward_job *j, const step *s, int64_t b, int64_t u, int n, vec h)
{
    put_output(j, s, b, u, n, h, h);
}

/* Where the row has ended, or not yet begun, the state stays and the output is zero. */
INLINE void keep_hidden(const forward_job *j, const step *s, int64_t b, int64_t u, int n)
{
    put_output(j, s, b, u, n, spread(0), load_some(s->h + b * j->R + u, n));
}

/* The whole of such a step, the hidden state of one with a second product apart. */
INLINE void idle(const forward_job *j, const step *s, const int cell, int64_t b, int64_t u, int n)
{
    const int64_t H = j->p->H, row = s->t * j->p->B + b;
    const int G = gates_of(cell);
    for (int g = 0; j->gates && g < G; g++)
        store_some(j->gates + (row * G + g) * H + u, spread(0), n);
    if (j->hidden_n)
        store_some(j->hidden_n + row * H + u, spread(0), n);
    if (j->cells)
        store_some(j->cells + row * H + u, spread(0), n);
    if (cell == FASTRNN_LSTM && resets_next(j, s, b))
        store_some(j->c + b * H + u, reset_value(j->reset_c, b * H + u, n), n);
    if (!j->p->P && cell != FASTRNN_GRU_BEFORE)
        keep_hidden(j, s, b, u, n);
}

/* --- and of the loop backward */

typedef struct {
    fastrnn_backward_pass *q;
    const fastrnn_pass *p;
    int64_t R;
    const real *output, *cells, *h, *c, *d_output; /* h, c: what the steps consumed */
    real *gates, *hidden_n;
    real *d_a;             /* gradient of the pre-activations: the gates' place, or a ring */
    real *d_h, *d_c;       /* (B, R), (B, H): running gradients */
    real *d_hidden;        /* (B, H): gradient of what went into the second product */
    real *ring_hidden;     /* (steps, B, H): that itself */
    real *ring_d_h;        /* (steps, B, P): gradient of the projection */
    real *d_reset_h, *d_reset_c;
    real *w_x, *w_h, *w_2; /* packed, from gates to input, to hidden state, and of the second product */
    real *left, *left_2;   /* packed factors of the weights' gradients */
    real *right;           /* the same: a panel for each member */
    int64_t span;          /* steps that a gradient of weights sums up at once */
    int64_t steps;         /* of a call: whole spans, counted from the last step */
    int by_rows;
} backward_job;

typedef struct {
    int64_t t;
    int64_t at;            /* row of the step's first in the rings */
    const real *d_next;    /* (B, R): gradient of the output that the step consumed, or null */
    int64_t t_next;
} back_step;

/* Begin the gradient of the state that a step consumed: what it adds to, and a value. */
INLINE void carry(const backward_job *j, const back_step *s, int64_t b, int64_t u, int n, vec value)
{
    int64_t at = b * j->R + u;
    if (s->d_next && !is_reset(j->p, s->t, b) && is_valid(j->p, s->t_next, b))
        value = value + load_some(s->d_next + at, n);
    store_some(j->d_h + at, value, n);
}

INLINE void carry_cell(const backward_job *j, const back_step *s, int64_t b, int64_t u, int n,
                       vec value)
{
    int64_t at = b * j->p->H + u;
    if (is_reset(j->p, s->t, b)) {
        store_some(j->d_reset_c + at, load_some(j->d_reset_c + at, n) + value, n);
        value = spread(0);
    }
    store_some(j->d_c + at, value, n);
}
