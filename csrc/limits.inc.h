/* What the machine can do at most, against which benchmarks hold everything else. */

/* Multiply-adds on registers, in so many chains that none waits for another. */
static double multiply_adds(int64_t rounds)
{
    enum {
        FITTING = REGISTERS * REGISTER_BYTES / VECTOR_BYTES,
        CHAINS = FITTING >= 20 ? 16 : FITTING > 8 ? FITTING - 4 : 4, /* with more GCC spills some */
        UNROLLED = 8
    };
    vec sum[CHAINS], a = spread((real)0.999), b = spread((real)0.001);
    UNROLL
    for (int c = 0; c < CHAINS; c++)
        sum[c] = spread((real)c);
    for (int64_t k = 0; k < rounds; k++) {
        UNROLL
        for (int n = 0; n < UNROLLED; n++) {
            UNROLL
            for (int c = 0; c < CHAINS; c++) {
                sum[c] = fma_(sum[c], a, b);
                KEEP(sum[c]);
            }
        }
    }
    vec all = sum[0];
    UNROLL
    for (int c = 1; c < CHAINS; c++)
        all = all + sum[c];
    volatile vec sink = all; /* else the compiler would leave everything out */
    (void)sink;
    return 2.0 * (double)rounds * UNROLLED * CHAINS * VL;
}

/* Reading, `size` bytes again and again. */
static double read_only(const void *data, int64_t size, int64_t rounds)
{
    enum { CHAINS = 8 };
    const int64_t step = CHAINS * VL, n = size / (int64_t)sizeof(real) / step * step;
    vec sum[CHAINS] = {{0}};
    for (int64_t k = 0; k < rounds; k++)
        for (const real *p = data, *end = p + n; p < end; p += step) {
            UNROLL
            for (int c = 0; c < CHAINS; c++) {
                sum[c] = sum[c] + load(p + c * VL);
                KEEP(sum[c]);
            }
        }
    vec all = sum[0];
    UNROLL
    for (int c = 1; c < CHAINS; c++)
        all = all + sum[c];
    volatile vec sink = all;
    (void)sink;
    return (double)rounds * (double)n * (double)sizeof(real);
}
