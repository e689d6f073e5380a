/* What every processor of the architecture has: SSE2 on x86, no fused multiply-add. */
#include "../kernels.h"

#if !defined(__aarch64__)
#define ISA baseline
#define REGISTER_BYTES 16
#define REGISTERS 16
#define FUSED 0
#ifndef REAL_BITS
#define REAL_BITS 32
#endif
#include "../kernels.inc.h"
#endif
