/* Which instruction set computes: chosen once, by what the processor and the system have. */
#include <stdatomic.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kernels.h"

static const struct {
    const char *name;
    unsigned needs; /* features of the processor */
    int bytes;      /* of a vector */
    const kernels *f32, *f64;
} ISAS[] = {
#if defined(__aarch64__)
    {"neon", 0, 16, &fastrnn_neon_f32, &fastrnn_neon_f64},
#else
    {"baseline", 0, 16, &fastrnn_baseline_f32, &fastrnn_baseline_f64},
#endif
#if defined(__x86_64__)
    {"avx2", FASTRNN_AVX2 | FASTRNN_FMA | FASTRNN_F16C, 32, &fastrnn_avx2_f32, &fastrnn_avx2_f64},
    {"avx512",
     FASTRNN_AVX2 | FASTRNN_FMA | FASTRNN_F16C | FASTRNN_AVX512F | FASTRNN_AVX512VL |
         FASTRNN_AVX512DQ | FASTRNN_AVX512BW,
     64, &fastrnn_avx512_f32, &fastrnn_avx512_f64},
#endif
};
enum { ISA_COUNT = sizeof(ISAS) / sizeof(ISAS[0]) };

/* What the processor has and the system lets us use: the compilers' function looks at both. Not all of
 * them know F16C, whose registers are those of AVX2. */
static unsigned features(void)
{
    unsigned found = 0;
#if defined(__x86_64__)
    unsigned a, b, c, d;
    __builtin_cpu_init(); /* which some linkers leave to us */
    found |= __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C ? FASTRNN_F16C : 0;
    found |= __builtin_cpu_supports("avx2") ? FASTRNN_AVX2 : 0;
    found |= __builtin_cpu_supports("fma") ? FASTRNN_FMA : 0;
    found |= __builtin_cpu_supports("avx512f") ? FASTRNN_AVX512F : 0;
    found |= __builtin_cpu_supports("avx512vl") ? FASTRNN_AVX512VL : 0;
    found |= __builtin_cpu_supports("avx512dq") ? FASTRNN_AVX512DQ : 0;
    found |= __builtin_cpu_supports("avx512bw") ? FASTRNN_AVX512BW : 0;
#endif
    return found;
}

static _Atomic int chosen = -1;

int fastrnn_isa_count(void)
{
    return ISA_COUNT;
}

const char *fastrnn_isa_name(int isa)
{
    return ISAS[isa].name;
}

int fastrnn_isa_runs_here(int isa)
{
    return !(ISAS[isa].needs & ~features());
}

int fastrnn_best_isa(unsigned found)
{
    int best = ISA_COUNT - 1;
    while (ISAS[best].needs & ~found)
        best--;
    return best;
}

int fastrnn_isa(void)
{
    if (chosen < 0)
        chosen = fastrnn_best_isa(features());
    return chosen;
}

void fastrnn_set_isa(int isa)
{
    chosen = isa;
}

static const kernels *kernels_of(int isa, int real_bytes)
{
    return real_bytes == 4 ? ISAS[isa].f32 : ISAS[isa].f64;
}

const kernels *fastrnn_kernels(int real_bytes)
{
    return kernels_of(fastrnn_isa(), real_bytes);
}

/* Whether the processor takes vectors of 512 bits in halves, which those of AMD say (Zen 4). */
static int splits_vectors(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    return __get_cpuid(0x8000001a, &a, &b, &c, &d) && !(a & (1u << 3));
#else
    return 0;
#endif
}

/* Shorter vectors have the same bits. They are faster where they hold all units (8 of an LSTM: 6 % with
 * AVX-512), and where halves are widened for few rows on a processor that splits vectors: 1.3 to 1.5 times. */
const kernels *fastrnn_stream_kernels(const fastrnn_network *network)
{
    int64_t widest = 0;
    for (int n = 0; n < network->count; n++)
        widest = max_of(widest, network->layers[n].H * network->real_bytes);
    const int widens = network->weights == FASTRNN_FLOAT16 && network->B < 4 && splits_vectors();
    int isa = fastrnn_isa();
    while (isa > 0 && ISAS[isa - 1].needs & FASTRNN_FMA && (widens || widest <= ISAS[isa - 1].bytes))
        isa--;
    return kernels_of(isa, network->real_bytes);
}

int64_t fastrnn_scratch(const fastrnn_pass *pass, int backward)
{
    return fastrnn_kernels(pass->real_bytes)->scratch(pass, backward);
}

int fastrnn_forward(fastrnn_pass *pass)
{
    fastrnn_kernels(pass->real_bytes)->forward(pass);
    return pass->done < pass->T;
}

int fastrnn_backward(fastrnn_backward_pass *pass)
{
    fastrnn_kernels(pass->forward.real_bytes)->backward(pass);
    return pass->forward.done < pass->forward.T;
}

int64_t fastrnn_product_scratch(int real_bytes, int threads)
{
    return fastrnn_kernels(real_bytes)->product_scratch(threads);
}

void fastrnn_product(fastrnn_matrices *matrices)
{
    fastrnn_kernels(matrices->real_bytes)->product(matrices);
}

void fastrnn_activation(int which, int real_bytes, const void *x, void *y, int64_t n)
{
    fastrnn_kernels(real_bytes)->activation(which, x, y, n);
}

double fastrnn_multiply_adds(int64_t rounds)
{
    return fastrnn_kernels(4)->multiply_adds(rounds);
}

double fastrnn_read(const void *data, int64_t size, int64_t rounds)
{
    return fastrnn_kernels(4)->read_only(data, size, rounds);
}

void fastrnn_crowd(int allowed)
{
    pool_crowd(allowed);
}

void fastrnn_stop(void)
{
    pool_stop();
}
