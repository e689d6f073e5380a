/* AVX2 and FMA: Intel from Haswell, AMD from Zen. */
#include "../kernels.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define ISA avx2
#define VECTOR_BYTES 32
#define REGISTERS 16
#ifndef REAL_BITS
#define REAL_BITS 32
#endif
#include "../kernels.inc.h"
#endif
