/* The doubles of baseline.c. */
#define REAL_BITS 64
#include "baseline.c"
