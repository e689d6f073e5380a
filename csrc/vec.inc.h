/* Vectors of `real`, VECTOR_BYTES wide, in the vector extensions of GCC and Clang.
 *
 * A vector may be wider than the machine's: the compiler splits it. Everything that includes this
 * is static, and compiled for one instruction set and one type of number.
 */

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef whole ivec __attribute__((vector_size(VECTOR_BYTES)));
typedef real unaligned_vec __attribute__((vector_size(VECTOR_BYTES), aligned(1), may_alias));

#define VL ((int)(VECTOR_BYTES / sizeof(real)))

#define SPREAD_2(x) x, x
#define SPREAD_4(x) SPREAD_2(x), SPREAD_2(x)
#define SPREAD_8(x) SPREAD_4(x), SPREAD_4(x)
#define SPREAD_16(x) SPREAD_8(x), SPREAD_8(x)

/* Where there may be instructions of x86 for what compilers make badly. */
#if defined(__x86_64__) && VECTOR_BYTES == REGISTER_BYTES
#define X86_BYTES VECTOR_BYTES
#else
#define X86_BYTES 0
#endif

/* The number of lanes is VECTOR_BYTES / (REAL_BITS / 8), as the preprocessor sees it. */
#if VECTOR_BYTES * 8 / REAL_BITS == 2
#define LANES(x) {SPREAD_2(x)}
#elif VECTOR_BYTES * 8 / REAL_BITS == 4
#define LANES(x) {SPREAD_4(x)}
#elif VECTOR_BYTES * 8 / REAL_BITS == 8
#define LANES(x) {SPREAD_8(x)}
#else
#define LANES(x) {SPREAD_16(x)}
#endif

/* Keep a vector in a register: the compiler may not fold its load into each use. One that is wider
 * than the machine's is split in two, which no constraint can name. */
#if defined(__aarch64__)
#define KEEP(v) __asm__("" : "+w"(v))
#elif X86_BYTES
#define KEEP(v) __asm__("" : "+v"(v))
#else
#define KEEP(v) (void)0
#endif

INLINE vec spread(real x)
{
    return (vec)LANES(x);
}

INLINE vec load(const real *p)
{
    return *(const unaligned_vec *)p;
}

INLINE void store(real *p, vec v)
{
    *(unaligned_vec *)p = v;
}

/* The first n lanes of a vector in memory, fewer than all: without masks every ragged end goes through
 * the stack, which made a third of the time of a very small network. */
#if X86_BYTES == 64 && REAL_BITS == 32
#define LOAD_FIRST(p, n) (vec) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p)
#define STORE_FIRST(p, v, n) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1), (__m512)(v))
#elif X86_BYTES == 64
#define LOAD_FIRST(p, n) (vec) _mm512_maskz_loadu_pd((__mmask8)((1u << (n)) - 1), p)
#define STORE_FIRST(p, v, n) _mm512_mask_storeu_pd(p, (__mmask8)((1u << (n)) - 1), (__m512d)(v))
#elif X86_BYTES == 32 && REAL_BITS == 32
#define FIRST(n) ((__m256i)((ivec){0, 1, 2, 3, 4, 5, 6, 7} < (n)))
#define LOAD_FIRST(p, n) (vec) _mm256_maskload_ps(p, FIRST(n))
#define STORE_FIRST(p, v, n) store_first(p, v, n)
#elif X86_BYTES == 32
#define FIRST(n) ((__m256i)((ivec){0, 1, 2, 3} < (n)))
#define LOAD_FIRST(p, n) (vec) _mm256_maskload_pd(p, FIRST(n))
#define STORE_FIRST(p, v, n) store_first(p, v, n)
#else
INLINE vec load_first(const real *p, int n)
{
    vec v = {0};
    __builtin_memcpy(&v, p, (size_t)n * sizeof(real));
    return v;
}
#define LOAD_FIRST(p, n) load_first(p, n)
INLINE void store_first(real *p, vec v, int n)
{
    __builtin_memcpy(p, &v, (size_t)n * sizeof(real));
}
#define STORE_FIRST(p, v, n) store_first(p, v, n)
#endif

#if X86_BYTES == 32
/* In parts: for a store with a mask AMD's processors take some 20 operations. */
INLINE void store_first(real *p, vec v, int n)
{
    const int words = n * (REAL_BITS / 32);
    float *to = (float *)p;
    __m128 part = _mm256_castps256_ps128((__m256)v);
    if (words & 4) {
        _mm_storeu_ps(to, part);
        to += 4;
        part = _mm256_extractf128_ps((__m256)v, 1);
    }
    if (words & 2) {
        _mm_storel_pi((__m64 *)to, part);
        to += 2;
        part = _mm_movehl_ps(part, part);
    }
    if (words & 1)
        _mm_store_ss(to, part);
}
#endif

/* The first n elements; the other lanes are zero, and their memory is not touched. */
INLINE vec load_some(const real *p, int n)
{
    return n >= VL ? load(p) : LOAD_FIRST(p, n);
}

INLINE void store_some(real *p, vec v, int n)
{
    if (n >= VL)
        store(p, v);
    else
        STORE_FIRST(p, v, n);
}

/* a * b + c, rounded once where the machine can. Compilers contract a sum with a product, as they do by
 * default, but not across a branch, to where GCC may move one of the two. */
INLINE vec fma_(vec a, vec b, vec c)
{
#if FUSED && X86_BYTES == 64 && REAL_BITS == 32
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FUSED && X86_BYTES == 64
    return (vec)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif FUSED && X86_BYTES == 32 && REAL_BITS == 32
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif FUSED && X86_BYTES == 32
    return (vec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__) && VECTOR_BYTES == 16 && REAL_BITS == 32
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif defined(__aarch64__) && VECTOR_BYTES == 16
    return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}

/* a * b, rounded, also where something is added to it: of two products in a sum one is not contracted,
 * and which must not be the compiler's choice. */
INLINE vec times(vec a, vec b)
{
    vec product = a * b;
#if X86_BYTES || defined(__aarch64__)
    KEEP(product);
#else
    __asm__("" : "+m"(product)); /* split vectors, in tests */
#endif
    return product;
}

/* a < b ? then : otherwise, and the lesser and the greater of x and a number, where a NaN in x stays.
 * Out of comparisons and masks GCC 12 makes three instructions where the machine has one. */
#if X86_BYTES == 64 && REAL_BITS == 32
#define SELECT_LESS(a, b, then, otherwise) \
    (vec) _mm512_mask_mov_ps((otherwise), _mm512_cmp_ps_mask((a), (b), _CMP_LT_OQ), (then))
#define LESSER(x, limit) (vec) _mm512_min_ps(limit, x)
#define GREATER(x, limit) (vec) _mm512_max_ps(limit, x)
#elif X86_BYTES == 64
#define SELECT_LESS(a, b, then, otherwise) \
    (vec) _mm512_mask_mov_pd((otherwise), _mm512_cmp_pd_mask((a), (b), _CMP_LT_OQ), (then))
#define LESSER(x, limit) (vec) _mm512_min_pd(limit, x)
#define GREATER(x, limit) (vec) _mm512_max_pd(limit, x)
#elif X86_BYTES == 32 && REAL_BITS == 32
#define SELECT_LESS(a, b, then, otherwise) \
    (vec) _mm256_blendv_ps((otherwise), (then), _mm256_cmp_ps((a), (b), _CMP_LT_OQ))
#define LESSER(x, limit) (vec) _mm256_min_ps(limit, x)
#define GREATER(x, limit) (vec) _mm256_max_ps(limit, x)
#elif X86_BYTES == 32
#define SELECT_LESS(a, b, then, otherwise) \
    (vec) _mm256_blendv_pd((otherwise), (then), _mm256_cmp_pd((a), (b), _CMP_LT_OQ))
#define LESSER(x, limit) (vec) _mm256_min_pd(limit, x)
#define GREATER(x, limit) (vec) _mm256_max_pd(limit, x)
#else
#define SELECT_LESS(a, b, then, otherwise) \
    (vec)((((a) < (b)) & (ivec)(then)) | (~((a) < (b)) & (ivec)(otherwise)))
#define LESSER(x, limit) SELECT_LESS(limit, x, limit, x)
#define GREATER(x, limit) SELECT_LESS(x, limit, limit, x)
#endif

INLINE vec select_less(vec a, vec b, vec then, vec otherwise)
{
    return SELECT_LESS(a, b, then, otherwise);
}

INLINE vec min_(vec x, real limit)
{
    return LESSER(x, spread(limit));
}

INLINE vec max_(vec x, real limit)
{
    return GREATER(x, spread(limit));
}

/* Numbers of a row that a transposition takes at once: where loads can put pieces of 16 bytes into their
 * places, half of the shuffles are not needed, and it is they that take the time. */
#define PIECE (X86_BYTES ? (int)(16 / sizeof(real)) : VL)

/* Lanes of a and b by turns, within blocks of PIECE lanes: of the blocks' lower halves, and of the upper. */
INLINE void interleave(vec a, vec b, vec *low, vec *high)
{
    ivec l = {0}, h = {0};
    UNROLL
    for (int k = 0; k < VL; k++) {
        l[k] = k % 2 * VL + k / PIECE * PIECE + k % PIECE / 2;
        h[k] = l[k] + PIECE / 2;
    }
#if defined(__clang__) /* which makes shuffles of this */
    vec x = a, y = b;
    UNROLL
    for (int k = 0; k < VL; k++) {
        (*low)[k] = k % 2 ? y[l[k] - VL] : x[l[k]];
        (*high)[k] = k % 2 ? y[h[k] - VL] : x[h[k]];
    }
#else
    *low = __builtin_shuffle(a, b, l);
    *high = __builtin_shuffle(a, b, h);
#endif
}

/* VL rows that are read side by side, `step` apart. Each fourth has a pointer: all would be more than there
 * are registers for. */
typedef struct {
    const real *fourth[(VL + 3) / 4];
    int64_t step;
} row_places;

INLINE row_places rows_at(const real *rows, int64_t step)
{
    row_places p = {.step = step};
    UNROLL
    for (int i = 0; i < (VL + 3) / 4; i++)
        p.fourth[i] = rows + 4 * i * step;
    return p;
}

/* The next PIECE numbers of rows `first`, first + PIECE, and so on. */
INLINE vec load_pieces(const row_places *p, const int first)
{
#define ROW(i) ((const float *)(p->fourth[(i) / 4] + (i) % 4 * p->step))
#if X86_BYTES == 64
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(ROW(first)));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(ROW(first + PIECE)), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(ROW(first + 2 * PIECE)), 2);
    return (vec)_mm512_insertf32x4(v, _mm_loadu_ps(ROW(first + 3 * PIECE)), 3);
#elif X86_BYTES == 32
    const __m256 v = _mm256_castps128_ps256(_mm_loadu_ps(ROW(first)));
    return (vec)_mm256_insertf128_ps(v, _mm_loadu_ps(ROW(first + PIECE)), 1);
#else
    return load((const real *)ROW(first));
#endif
#undef ROW
}

/* Take the next PIECE numbers of the rows, as vectors of their first numbers, second, ... */
INLINE void take_turned(row_places *p, vec *v)
{
    UNROLL
    for (int i = 0; i < PIECE; i++)
        v[i] = load_pieces(p, i);
    UNROLL
    for (int n = 1; n < PIECE; n *= 2) {
        vec old[PIECE];
        UNROLL
        for (int i = 0; i < PIECE; i++)
            old[i] = v[i];
        UNROLL
        for (int i = 0; i < PIECE / 2; i++)
            interleave(old[i], old[i + PIECE / 2], &v[2 * i], &v[2 * i + 1]);
    }
    UNROLL
    for (int i = 0; i < (VL + 3) / 4; i++)
        p->fourth[i] += PIECE;
}

/* Load `units` rows of `some` numbers, `step` apart, as vectors of their first numbers, second, ... */
INLINE void load_turned(const real *rows, int64_t step, int units, int some, vec *v)
{
    real all[VL * VL];
    UNROLL
    for (int lane = 0; lane < VL; lane++)
        store(all + lane * VL, lane < units ? load_some(rows + lane * step, some) : spread(0));
    row_places places = rows_at(all, VL);
    UNROLL
    for (int k = 0; k < VL; k += PIECE)
        take_turned(&places, v + k);
}
