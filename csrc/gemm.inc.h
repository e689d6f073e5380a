/* Products with the accumulators in registers.
 *
 * Weights are packed in panels of some vectors, k-major: panel[k][column][lane]. Every element of
 * a product is one chain of fused multiply-adds in ascending k, from its start, whatever the tile
 * that it falls into; so results do not depend on the size of the batch, a row's place or threads.
 */

/* Rows of a tile of C columns, or panels that go together where there is one row: 12 accumulators of 16
 * registers, 16 of 32, which hides the latency of each. With them go as many broadcasts as there are rows
 * and one vector of weights. 24 of 32 were up to 3 % faster or slower from 128 units on, but with 32 units
 * the points of a tile, which the next one's products run beside, came in lumps: 6 to 12 % slower. */
#define TILE(C) ((C) == 1 ? 8 : (REGISTERS == 16 ? 12 : 16) / (C))
#define MOST_ROWS 8
#define ACCUMULATORS 24 /* 8 rows of 3 columns compilers see, before they leave that out */
/* Tried: an LSTM's four columns in two halves, with twice as many rows, which read half as many weights
 * and twice as many factors: 3 % slower with 16 registers, 1 to 4 with 32. A prefetch of the next panel
 * into the L2 cache, a line for each k: 1 to 2 % slower. */

/* Of weights with fewer bits no more than 4: each number of rows or panels is code of its own. */
#define TILE_OF(C, weights) \
    (((weights) == HALVES || (weights) == BYTES) && TILE(C) > 4 ? 4 : TILE(C))

/* Bytes of weights to ask for ahead. Panels of more than the L1 cache come from the L2: 6 to 14 % of
 * the time of an LSTM with H = 256 and 512; more, up to 4 KB, made no difference. With one row, where
 * weights are all that is read, it cost 2 to 6 %. */
#define PREFETCH 1024

/* What a tile reads: a[row * row_step + k * k_step] and w[panel * panel_step + k * columns * VL + ...]. */
typedef struct {
    const real *a;
    long row_step, k_step;
    const real *w;
    long panel_step;
    long K;
    const real *scales; /* of weights that are bytes: of each column */
} operands;

/* acc[(r * Q + q) * C + c] += sum of a[r][k] * w[q][k][c], for R rows and Q panels, of whose `all`
 * columns the first C are wanted. */
INLINE void chain(vec *acc, const int R, const int Q, const int C, const int all, const int weights,
                  operands o)
{
    const char *w = (const char *)o.w;
    const long vector = bytes_of_weights(VL, weights);
    /* Each third row has a pointer: an address may be one plus one or two steps, no more. */
    const real *a[3] = {o.a, o.a + 3 * o.row_step, o.a + 6 * o.row_step};
    const int held = R <= C || Q > 1; /* the factors, else the weights: what is fewer */
    for (long k = o.K; k > 0; k--) {
        vec factor[MOST_ROWS], weight[4];
        UNROLL
        for (int r = 0; held && r < R; r++)
            factor[r] = spread(a[r / 3][r % 3 * o.row_step]);
        UNROLL
        for (int q = 0; q < Q; q++) {
            UNROLL
            for (int c = 0; c < C; c++) {
                const char *at = w + bytes_of_weights(q * o.panel_step, weights) + c * vector;
                weight[c] = load_weights(at, weights);
                if (R > 1 && c * vector % 64 == 0)
                    __builtin_prefetch(at + PREFETCH);
                if (R > 1)
                    KEEP(weight[c]); /* in a register: else each row's multiply-add loads it again */
                UNROLL
                for (int r = 0; held && r < R; r++)
                    acc[(r * Q + q) * C + c] = fma_(factor[r], weight[c], acc[(r * Q + q) * C + c]);
            }
        }
        UNROLL
        for (int r = 0; !held && r < R; r++) {
            vec f = spread(a[r / 3][r % 3 * o.row_step]);
            UNROLL
            for (int c = 0; c < C; c++)
                acc[r * C + c] = fma_(f, weight[c], acc[r * C + c]);
        }
        UNROLL
        for (int i = 0; i < ceil_div(R, 3); i++)
            a[i] += o.k_step;
        w += all * vector;
    }
}

/* The same, of weights that may be bytes: their sum is scaled. */
INLINE void scaled_chain(vec *acc, const int R, const int Q, const int C, const int all,
                         const int weights, operands o)
{
    if (weights != BYTES) {
        chain(acc, R, Q, C, all, weights, o);
        return;
    }
    vec sums[ACCUMULATORS];
    UNROLL
    for (int i = 0; i < R * Q * C; i++)
        sums[i] = spread(0);
    chain(sums, R, Q, C, all, weights, o);
    UNROLL
    for (int i = 0; i < R * Q * C; i++)
        acc[i] = fma_(load(o.scales + (i / C % Q * all + i % C) * VL), sums[i], acc[i]);
}

/* Call `body(R)` with R a constant equal to `rows`, 1 to MOST_ROWS. */
#define WITH_ROWS(rows, limit, body) \
    switch (rows) {                  \
    case 1: body(1); break;          \
    case 2: body(2); break;          \
    case 3: body(3); break;          \
    case 4: if (limit >= 4) body(4); break; \
    case 5: if (limit >= 5) body(5); break; \
    case 6: if (limit >= 6) body(6); break; \
    case 7: if (limit >= 7) body(7); break; \
    default: if (limit >= 8) body(8); break; \
    }

/* The next tile's rows, where `left` are left: tiles of nearly even height. */
INLINE int tile_rows(int64_t left, int most)
{
    return (int)ceil_div(left, ceil_div(left, most));
}

/* --- plain products, with panels of two columns */

#define UNITS (2 * VL)

/* out[r][n] = start[r][n] + sum of a[r][k] * w[k][n]; `start` may be `out`, or null for zeros. */
typedef struct {
    operands o; /* of the first row and panel */
    const real *start;
    long start_step;
    real *out;
    long out_step;
    int64_t N;
    int add; /* add the product, summed up from zero, to what is there */
    int weights;
} product;

/* C is 2, or 1 where the second column is beyond N. */
INLINE void product_columns(const product *p, const int R, const int C, const int weights, int64_t row,
                            int64_t panel)
{
    const int64_t n = panel * UNITS;
    const int last = (int)min_of(p->N - n - (C - 1) * VL, VL); /* lanes of the last column */
    vec acc[ACCUMULATORS];
    UNROLL
    for (int i = 0; i < C * R; i++)
        acc[i] = p->start ? load_some(p->start + (row + i / C) * p->start_step + n + i % C * VL,
                                      i % C == C - 1 ? last : VL)
                          : spread(0);
    operands o = p->o;
    o.a += row * o.row_step;
    o.w = weights_at(o.w, panel * o.panel_step, weights);
    o.scales += weights == BYTES ? panel * UNITS : 0;
    scaled_chain(acc, R, 1, C, 2, weights, o);
    UNROLL
    for (int i = 0; i < C * R; i++) {
        real *out = p->out + (row + i / C) * p->out_step + n + i % C * VL;
        const int some = i % C == C - 1 ? last : VL;
        if (p->add)
            acc[i] = load_some(out, some) + acc[i];
        store_some(out, acc[i], some);
    }
}

INLINE void product_tile(const product *p, const int R, const int weights, int64_t row, int64_t panel)
{
    if (p->N - panel * UNITS > VL)
        product_columns(p, R, 2, weights, row, panel);
    else
        product_columns(p, R, 1, weights, row, panel);
}

INLINE void multiply_as(const product *p, const int weights, int64_t row0, int64_t row1, int64_t panel0,
                        int64_t panel1)
{
    for (int64_t panel = panel0; panel < panel1; panel++) {
        for (int64_t row = row0; row < row1;) {
            int rows = tile_rows(row1 - row, TILE_OF(2, weights));
#define BODY(R) product_tile(p, R, weights, row, panel)
            WITH_ROWS(rows, TILE_OF(2, weights), BODY)
#undef BODY
            row += rows;
        }
    }
}

/* Take the product for some rows and panels. */
SHARED void multiply(const product *p, int64_t row0, int64_t row1, int64_t panel0, int64_t panel1)
{
#define BODY(weights) multiply_as(p, weights, row0, row1, panel0, panel1)
    WITH_WEIGHTS(p->weights, BODY)
#undef BODY
}

/* --- packing */

/* Write `units` rows of K numbers, `step` apart, as columns: out[k * out_step + lane], zero beyond. */
INLINE void turn_rows(const real *rows, int64_t step, int units, int64_t K, real *out, int64_t out_step)
{
    row_places places = rows_at(rows, step);
    int64_t k = 0;
    for (; units == VL && k + PIECE <= K; k += PIECE) {
        vec v[PIECE];
        take_turned(&places, v);
        UNROLL
        for (int i = 0; i < PIECE; i++)
            store(out + (k + i) * out_step, v[i]);
    }
    for (; k < K; k += VL) {
        const int some = (int)min_of(K - k, VL);
        vec v[VL];
        load_turned(rows + k, step, units, some, v);
        for (int i = 0; i < some; i++)
            store(out + (k + i) * out_step, v[i]);
    }
}

/* Pack panels panel0 ... panel1 - 1 of w, (gates * H, K), each gate in V columns of its own, to be
 * multiplied from the right, transposed: out[panel][k][gate * V + v][lane], zero beyond H. */
SHARED void pack_rows(const real *w, int64_t K, int64_t H, int gates, int V, real *out,
                      int64_t panel0, int64_t panel1)
{
    const int C = gates * V;
    for (int64_t panel = panel0; panel < panel1; panel++) {
        for (int c = 0; c < C; c++) {
            const int64_t unit = (panel * V + c % V) * VL;
            const int units = (int)max_of(0, min_of(H - unit, VL));
            const real *rows = w + (c / V * H + unit) * K;
            real *to = out + (panel * K * C + c) * VL;
            turn_rows(rows, K, units, K, to, C * VL);
        }
    }
}

/* Pack panels of w, K rows of N with `step` from row to row: out[panel][k][...], zero beyond N. */
SHARED void pack_columns(const real *w, long step, int64_t K, int64_t N, real *out, int64_t panel0,
                         int64_t panel1)
{
    for (int64_t panel = panel0; panel < panel1; panel++) {
        int some = (int)min_of(N - panel * UNITS, UNITS);
        real *to = out + panel * K * UNITS;
        for (int64_t k = 0; k < K; k++) {
            const real *row = w + k * step + panel * UNITS;
            store(to + k * UNITS, load_some(row, some));
            store(to + k * UNITS + VL, some > VL ? load_some(row + VL, some - VL) : spread(0));
        }
    }
}

/* Go on with chains of R rows of a, `sum_step` apart: by a[0] times the first numbers of rows of weights,
 * a[1] times the second, and so on. */
INLINE void add_rows(vec *sums, int R, long sum_step, const real *a, long a_step, const real *rows,
                     int64_t step, int units, int some)
{
    vec v[VL];
    load_turned(rows, step, units, some, v);
    for (int r = 0; r < R; r++, sums += sum_step, a += a_step) {
        vec sum = sums[0];
        if (some == VL) {
            UNROLL
            for (int n = 0; n < VL; n++)
                sum = fma_(spread(a[n]), v[n], sum);
        } else
            for (int n = 0; n < some; n++)
                sum = fma_(spread(a[n]), v[n], sum);
        sums[0] = sum;
    }
}

/* The same for N vectors of whole rows; return how many of their K numbers that were. */
INLINE int64_t add_whole_rows(vec *sums, const int R, long sum_step, const real *a, long a_step, const int N,
                              const real *const *rows, int64_t K)
{
    vec sum[MOST_ROWS]; /* in registers */
    row_places places[MOST_ROWS];
    int64_t k = 0;
    UNROLL
    for (int i = 0; i < N; i++)
        places[i] = rows_at(rows[i], K);
    UNROLL
    for (int i = 0; i < R * N; i++)
        sum[i] = sums[i / N * sum_step + i % N];
    for (; k + PIECE <= K; k += PIECE) {
        UNROLL
        for (int i = 0; i < N; i++) {
            vec v[PIECE];
            take_turned(&places[i], v);
            UNROLL
            for (int n = 0; n < PIECE; n++) {
                UNROLL
                for (int r = 0; r < R; r++)
                    sum[r * N + i] = fma_(spread(a[r * a_step + k + n]), v[n], sum[r * N + i]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < R * N; i++)
        sums[i / N * sum_step + i % N] = sum[i];
    return k;
}

/* sums[(r * Q + panel) * C + column] += a[r][k] * w[unit][k] in ascending k, for R rows and Q panels, one
 * of them at most more than one, from panel q on, of weights (gates * H, K) that are not packed. For a
 * single use, packing would write and read them once more: 40 % of the time of a step of 128 units. */
SHARED void multiply_rows(vec *sums, int R, int Q, int C, int V, const real *a, long a_step, const real *w,
                          int64_t H, int64_t K, int64_t q)
{
    /* Of columns: 64 bytes of rows. More are read from too many places, fewer wait for their chain. */
    enum { CHAINS = VECTOR_BYTES < 64 ? 64 / VECTOR_BYTES : 1 };
    for (int first = 0, count; first < Q * C; first += count) {
        count = R > 1 || Q * C - first < CHAINS ? 1 : CHAINS;
        const real *rows[CHAINS];
        int units[CHAINS], whole = 1;
        for (int i = 0; i < count; i++) {
            const int column = (first + i) % C;
            const int64_t unit = ((q + (first + i) / C) * V + column % V) * VL;
            units[i] = (int)max_of(0, min_of(H - unit, VL));
            whole &= units[i] == VL;
            rows[i] = w + (column / V * H + unit) * K;
        }
        int64_t k = 0;
        if (whole && count > 1)
            k = add_whole_rows(sums + first, 1, C, a, a_step, CHAINS, rows, K);
        else if (whole) {
#define WHOLE(R) k = add_whole_rows(sums + first, R, C, a, a_step, 1, rows, K)
            WITH_ROWS(R, MOST_ROWS, WHOLE)
#undef WHOLE
        }
        for (; k < K; k += VL) {
            for (int i = 0; i < count; i++)
                add_rows(sums + first + i, R, C, a + k, a_step, rows[i] + k, K, units[i],
                         (int)min_of(K - k, VL));
        }
    }
}
