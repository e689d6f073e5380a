/* Weights that are stored with fewer bits than they are computed with: halves (IEEE 754 binary16), of
 * which a chain has the bits of the widened numbers; or bytes and a scale of each row, which a chain's
 * sum from zero is multiplied with. (Bytes multiplied one by one took AVX2 up to twice the time, which
 * then is no longer that of reading.)
 */

/* How weights lie: as fastrnn_network says, packed; or not packed at all, as they were given. */
enum { REALS = FASTRNN_AS_GIVEN, HALVES = FASTRNN_FLOAT16, BYTES = FASTRNN_INT8, UNPACKED };

/* Doubles are stored as they are. */
#define NARROW (REAL_BITS == 32)

INLINE long bytes_of_weights(long n, const int weights)
{
    const int narrow = NARROW && (weights == HALVES || weights == BYTES);
    return n * (long)(!narrow ? sizeof(real) : weights == HALVES ? sizeof(uint16_t) : sizeof(int8_t));
}

/* Call `body(weights)` with a constant; the code of doubles is of one kind alone. */
#define WITH_WEIGHTS(weights, body)           \
    if (NARROW && (weights) == HALVES) {      \
        body(HALVES);                         \
    } else if (NARROW && (weights) == BYTES) { \
        body(BYTES);                          \
    } else {                                  \
        body(REALS);                          \
    }

/* The place of the n-th of them. */
INLINE const real *weights_at(const real *w, long n, const int weights)
{
    return (const real *)((const char *)w + bytes_of_weights(n, weights));
}

/* VL halves and bytes, widened: exact. */
#if REAL_BITS == 64
#define HALVES_TO_VEC(p) load((const real *)(p))
#define BYTES_TO_VEC(p) load((const real *)(p))
#elif X86_BYTES == 64
#define HALVES_TO_VEC(p) (vec) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define BYTES_TO_VEC(p) \
    (vec) _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p))))
#elif X86_BYTES == 32
#define HALVES_TO_VEC(p) (vec) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define BYTES_TO_VEC(p) \
    (vec) _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p))))
#else
typedef uint16_t halves __attribute__((vector_size(VL * 2)));
typedef int8_t bytes __attribute__((vector_size(VL)));

/* Moves the exponent, which has another offset, and lets a subtraction make what has none normal: as a
 * denormal it would count for zero. */
INLINE vec widen_halves(const void *p)
{
    halves h;
    __builtin_memcpy(&h, p, sizeof h);
    const ivec bits = __builtin_convertvector(h, ivec);
    const ivec moved = ((bits & 0x7fff) << 13) + (112 << 23), sign = (bits & 0x8000) << 16;
    const vec tiny = (vec)(moved + (1 << 23)) - (vec)((ivec){0} + (113 << 23));
    const ivec is_tiny = (bits & 0x7c00) == 0;
    return (vec)(((is_tiny & (ivec)tiny) | (~is_tiny & moved)) | sign);
}

INLINE vec widen_bytes(const void *p)
{
    bytes b;
    __builtin_memcpy(&b, p, sizeof b);
    return __builtin_convertvector(__builtin_convertvector(b, ivec), vec);
}
#define HALVES_TO_VEC(p) widen_halves(p)
#define BYTES_TO_VEC(p) widen_bytes(p)
#endif

/* Load VL weights, of bytes without their scales. */
INLINE vec load_weights(const char *p, const int weights)
{
    return weights == HALVES  ? HALVES_TO_VEC(p)
           : weights == BYTES ? BYTES_TO_VEC(p)
                              : load((const real *)p);
}

/* The nearest whole number, of two the even one, of numbers up to 2^22. */
INLINE float nearest(float x)
{
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

/* The nearest half, of two the even one; what is too large becomes infinite. */
INLINE uint16_t half_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (size >= 0x477ff000)
        return (uint16_t)(sign | 0x7c00);
    if (size < 0x38800000) /* a denormal half: a multiple of 2^-24, to which adding 1/2 rounds */
        return (uint16_t)(sign | (uint32_t)nearest(__builtin_fabsf(x) * 0x1p24f));
    return (uint16_t)(sign | ((size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13));
}

/* The greatest magnitude of n numbers. */
INLINE real greatest_of(const real *row, int64_t n)
{
    real greatest = 0;
    for (int64_t k = 0; k < n; k++)
        greatest = row[k] > greatest ? row[k] : -row[k] > greatest ? -row[k] : greatest;
    return greatest;
}

/* Pack as pack_rows does, but halves or bytes, of floats; `scales` are like the columns of the panels: a
 * row's greatest magnitude / 127. */
static void pack_narrow(const real *w, int64_t K, int64_t H, int gates, int V, int weights, real *out,
                        real *scales, int64_t panel0, int64_t panel1)
{
    const int C = gates * V;
    for (int64_t row = panel0 * C * VL; row < panel1 * C * VL; row++) {
        const int64_t panel = row / (C * VL), c = row / VL % C, lane = row % VL;
        const int64_t unit = (panel * V + c % V) * VL + lane;
        const real *from = unit < H ? w + (c / V * H + unit) * K : NULL;
        const real scale = from ? greatest_of(from, K) / 127 : 0;
        if (weights == BYTES)
            scales[row] = scale;
        for (int64_t k = 0; k < K; k++) {
            const int64_t at = ((panel * K + k) * C + c) * VL + lane;
            if (weights == HALVES)
                ((uint16_t *)out)[at] = half_of(from ? (float)from[k] : 0);
            else
                ((int8_t *)out)[at] = scale > 0 ? (int8_t)nearest((float)(from[k] / scale)) : 0;
        }
    }
}
