/* What the kernels of every instruction set have in common, and the table of them. */
#ifndef FASTRNN_KERNELS_H
#define FASTRNN_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "fastrnn.h"
#include "pool.h"

#define INLINE static inline __attribute__((always_inline))
/* One copy, however it is called: it is large, and every tile calls it. */
#if defined(__clang__)
#define SHARED static __attribute__((noinline))
#else
#define SHARED static __attribute__((noinline, noclone))
#endif
#define UNROLL _Pragma("GCC unroll 16")

/* What follows is compiled for more than the baseline. */
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define TARGET(features) \
    PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END_OF_TARGET _Pragma("clang attribute pop")
#else
#define TARGET(features) PRAGMA(GCC target(features))
#define END_OF_TARGET
#endif

/* The kernels for one type of numbers and one instruction set. */
typedef struct {
    int64_t (*scratch)(const fastrnn_pass *pass, int backward);
    void (*forward)(fastrnn_pass *pass);
    void (*backward)(fastrnn_backward_pass *pass);
    int64_t (*product_scratch)(int threads);
    void (*product)(fastrnn_matrices *matrices);
    void (*activation)(int which, const void *x, void *y, int64_t n);
    void (*stream_bytes)(const fastrnn_network *network, int64_t *weights, int64_t *state);
    void (*stream_start)(const fastrnn_network *network, void *weights, void *state, int pack);
    void (*stream_run)(void *state, const void *x, void *y, int64_t steps);
    void (*stream_state)(void *state, int layer, void **h, void **c);
    double (*multiply_adds)(int64_t rounds);
    double (*read_only)(const void *data, int64_t size, int64_t rounds);
} kernels;

/* Those that compute, for numbers of 4 or 8 bytes (dispatch.c). */
const kernels *fastrnn_kernels(int real_bytes);

/* The same for a stream of a network. */
const kernels *fastrnn_stream_kernels(const fastrnn_network *network);

/* The sizes of a stream; returns the bytes of a number (stream.c). */
int fastrnn_stream_sizes(const fastrnn_stream *stream, int64_t *B, int64_t *I, int64_t *O);

extern const kernels fastrnn_baseline_f32, fastrnn_baseline_f64, fastrnn_avx2_f32, fastrnn_avx2_f64,
    fastrnn_avx512_f32, fastrnn_avx512_f64, fastrnn_neon_f32, fastrnn_neon_f64;

/* The floating-point state of a member while it computes: rounding to nearest, nothing trapped, and
 * denormals are zero, which would make some processors 20 times slower. The state before is put
 * back, whatever the caller had, without the flags that were raised in between. */
INLINE unsigned long set_float_state(void)
{
#if defined(__x86_64__)
    unsigned before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(0x1f80 | 0x8040);
    return before;
#elif defined(__aarch64__)
    unsigned long before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(1ul << 24));
    return before;
#else
    return 0;
#endif
}

INLINE void restore_float_state(unsigned long before)
{
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr((unsigned)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
#else
    (void)before;
#endif
}

INLINE int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

INLINE int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

INLINE int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Gates of a cell. */
INLINE int gates_of(const int cell)
{
    return cell == FASTRNN_LSTM ? 4 : cell == FASTRNN_RNN_TANH || cell == FASTRNN_RNN_RELU ? 1 : 3;
}

/* R: how many values go from step to step. */
INLINE int64_t recurrent_size(const fastrnn_pass *p)
{
    return p->P ? p->P : p->H;
}

/* Multiply-adds of a step, one way. */
INLINE double step_work(const fastrnn_pass *p)
{
    const int64_t row = gates_of(p->cell) * p->H * (p->I + recurrent_size(p)) + p->P * p->H;
    return (double)p->B * (double)row;
}

/* The beginning of the k-th of n nearly even parts of `size`. */
INLINE int64_t part(int64_t size, int64_t k, int64_t n)
{
    return size * k / n;
}

#endif
