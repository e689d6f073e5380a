/* The doubles of avx2.c. */
#define REAL_BITS 64
#include "avx2.c"
