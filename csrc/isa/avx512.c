/* AVX-512: Intel from Skylake-SP, AMD from Zen 4. */
#include "../kernels.h"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,fma,prefer-vector-width=512")
#define ISA avx512
#define VECTOR_BYTES 64
#define REGISTERS 32
#ifndef REAL_BITS
#define REAL_BITS 32
#endif
#include "../kernels.inc.h"
#endif
