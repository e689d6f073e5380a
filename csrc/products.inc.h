/* Products of matrices, for layers without memory. Every element is a chain for each block of terms,
 * blocks added in ascending order: it does not depend on threads, nor on the other rows and columns. */

/* Terms of a block: packed, a panel of so many stays in the L1 cache. */
enum { TERMS = 256, PACKED = TERMS * UNITS + LINE / sizeof(real) };

static int64_t product_scratch(int threads)
{
    return (int64_t)sizeof(real) * PACKED * threads;
}

/* Pack `units` rows of a right factor that is given transposed: out[k][unit], zero beyond. */
SHARED void pack_turned(const real *rows, long step, int64_t K, int units, real *out)
{
    for (int c = 0; c < UNITS; c += VL) {
        const int some = (int)max_of(0, min_of(units - c, VL));
        turn_rows(rows + c * step, step, some, K, out + c, UNITS);
    }
}

/* A member takes some panels of columns, with all rows. */
static void product_member(void *argument, int member, barrier *team)
{
    const fastrnn_matrices *p = argument;
    const unsigned long before = set_float_state();
    const int64_t panels = ceil_div(p->N, UNITS), end = part(panels, member + 1, team->members);
    const real *a = p->a, *b = p->b;
    const long row_step = p->turn_a ? 1 : p->a_step, k_step = p->turn_a ? p->a_step : 1;
    real *packed = (real *)p->scratch + member * PACKED;
    for (int64_t panel = part(panels, member, team->members); panel < end; panel++) {
        const int64_t n = panel * UNITS, units = min_of(p->N - n, UNITS);
        for (int64_t k = 0; k < p->K; k += TERMS) {
            const int64_t terms = min_of(p->K - k, TERMS);
            if (p->turn_b)
                pack_turned(b + n * p->b_step + k, p->b_step, terms, (int)units, packed);
            else
                pack_columns(b + k * p->b_step + n, p->b_step, terms, units, packed, 0, 1);
            product m = {{a + k * k_step, row_step, k_step, packed, 0, terms, NULL}, 0, 0,
                         (real *)p->out + n, p->out_step, units, k > 0, REALS};
            multiply(&m, 0, p->M, 0, 1);
        }
    }
    restore_float_state(before);
}

static void take_product(fastrnn_matrices *p)
{
    const int64_t panels = ceil_div(p->N, UNITS);
    run_worth(product_member, p, (double)p->M * (double)p->N * (double)p->K, min_of(p->threads, panels));
}
