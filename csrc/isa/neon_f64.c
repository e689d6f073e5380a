/* The doubles of neon.c. */
#define REAL_BITS 64
#include "neon.c"
