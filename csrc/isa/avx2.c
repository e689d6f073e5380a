/* AVX2, FMA and F16C: Intel from Haswell, AMD from Zen. */
#include "../kernels.h"

#if defined(__x86_64__)
TARGET("avx2,fma,f16c")
#define ISA avx2
#define REGISTER_BYTES 32
#define REGISTERS 16
#define FUSED 1
#ifndef REAL_BITS
#define REAL_BITS 32
#endif
#include "../kernels.inc.h"
END_OF_TARGET
#endif
