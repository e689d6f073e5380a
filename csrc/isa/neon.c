/* NEON, which every 64-bit ARM has. */
#include "../kernels.h"

#if defined(__aarch64__)
#define ISA neon
#define REGISTER_BYTES 16
#define REGISTERS 32
#define FUSED 1
#ifndef REAL_BITS
#define REAL_BITS 32
#endif
#include "../kernels.inc.h"
#endif
