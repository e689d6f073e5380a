/* AVX-512: Intel from Skylake-SP, AMD from Zen 4. */
#include "../kernels.h"

#if defined(__x86_64__)
TARGET("avx512f,avx512vl,avx512dq,avx512bw,fma")
#define ISA avx512
#define REGISTER_BYTES 64
#define REGISTERS 32
#define FUSED 1
#ifndef REAL_BITS
#define REAL_BITS 32
#endif
#include "../kernels.inc.h"
END_OF_TARGET
#endif
