/* The doubles of avx512.c. */
#define REAL_BITS 64
#include "avx512.c"
