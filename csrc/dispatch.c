/* Which instruction set computes: chosen once, by what the processor and the system have. */
#include <stdatomic.h>

#include "kernels.h"

#if defined(__x86_64__)
static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}
#endif

static int always(void)
{
    return 1;
}

static const struct {
    const char *name;
    int (*runs_here)(void);
    const kernels *f32, *f64;
} ISAS[] = {
#if defined(__aarch64__)
    {"neon", always, &fastrnn_neon_f32, &fastrnn_neon_f64},
#else
    {"baseline", always, &fastrnn_baseline_f32, &fastrnn_baseline_f64},
#endif
#if defined(__x86_64__)
    {"avx2", has_avx2, &fastrnn_avx2_f32, &fastrnn_avx2_f64},
    {"avx512", has_avx512, &fastrnn_avx512_f32, &fastrnn_avx512_f64},
#endif
};
enum { ISA_COUNT = sizeof(ISAS) / sizeof(ISAS[0]) };

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
    return ISAS[isa].runs_here();
}

int fastrnn_isa(void)
{
    if (chosen < 0) {
        int best = ISA_COUNT - 1;
        while (!ISAS[best].runs_here())
            best--;
        chosen = best;
    }
    return chosen;
}

void fastrnn_set_isa(int isa)
{
    chosen = isa;
}

static const kernels *kernels_for(int real_bytes)
{
    int isa = fastrnn_isa();
    return real_bytes == 4 ? ISAS[isa].f32 : ISAS[isa].f64;
}

int64_t fastrnn_scratch(const fastrnn_pass *pass, int backward)
{
    return kernels_for(pass->real_bytes)->scratch(pass, backward);
}

int fastrnn_forward(fastrnn_pass *pass)
{
    kernels_for(pass->real_bytes)->forward(pass);
    return pass->done < pass->T;
}

int fastrnn_backward(fastrnn_backward_pass *pass)
{
    kernels_for(pass->forward.real_bytes)->backward(pass);
    return pass->forward.done < pass->forward.T;
}

void fastrnn_activation(int which, int real_bytes, const void *x, void *y, int64_t n)
{
    kernels_for(real_bytes)->activation(which, x, y, n);
}

void fastrnn_stop(void)
{
    pool_stop();
}
