/* The C interface of fastrnn.
 *
 * build_ffi.py reads what stands between the two marks and declares it to Python: it is written once.
 * Sizes are T (time), B (batch), I (input), H (hidden), P (projection, 0 for none), R (P or H),
 * G (gates). Arrays are contiguous and hold floats or doubles (`real_bytes`).
 */
#ifndef FASTRNN_H
#define FASTRNN_H

#include <stdint.h>

#if defined(__GNUC__)
#define FASTRNN_API __attribute__((visibility("default")))
#else
#define FASTRNN_API
#endif

/* begin of the interface */
enum { FASTRNN_RNN_TANH, FASTRNN_RNN_RELU, FASTRNN_GRU_AFTER, FASTRNN_GRU_BEFORE, FASTRNN_LSTM };

enum { FASTRNN_MOST_THREADS = 256 };

/* A layer in one direction over a window, and what its forward pass reads and writes. */
typedef struct {
    int64_t T, B, I, H, P;
    int32_t cell;       /* one of the above */
    int32_t hard_gates; /* gates are hard sigmoids; GRU and LSTM */
    int32_t real_bytes; /* 4 or 8 */
    int32_t reverse;    /* from t = T-1 to 0 */
    int32_t threads;    /* at most; no more than FASTRNN_MOST_THREADS */
    const void *lengths; /* int64_t (B,), or null */
    const void *reset;   /* bytes (T, B), or null */
    const void *x;                          /* (T, B, I); where t >= lengths[b] anything */
    const void *w_ih, *w_hh, *b_ih, *b_hh;  /* (G*H, I), (G*H, R), (G*H,) or null */
    const void *w_hr;                       /* (P, H), or null */
    const void *h0, *c0;                    /* (B, R), (B, H), or null for zeros */
    const void *reset_h, *reset_c;          /* what a reset makes of them, or null for zeros */
    void *output;    /* (T, B, R) */
    void *h_n, *c_n; /* (B, R), (B, H) */
    void *cells;     /* (T, B, H), or null: not wanted */
    void *gates;     /* (T, B, G, H), or null */
    void *hidden_n;  /* (T, B, H), or null; GRU */
    void *scratch;   /* keeps the state of a pass between calls */
    int64_t done;    /* steps that are; 0 at first */
} fastrnn_pass;

/* What a backward pass reads and writes besides; it overwrites `gates` and `hidden_n`. */
typedef struct {
    fastrnn_pass forward;
    const void *h, *c;                    /* (T, B, R), (T, B, H): the states that steps consumed */
    const void *d_output, *d_h_n, *d_c_n; /* (T, B, R) or null for zeros, (B, R), (B, H) */
    void *d_x, *d_w_ih, *d_w_hh, *d_b_ih, *d_b_hh, *d_w_hr; /* d_x may be null: not wanted */
    void *d_h0, *d_c0, *d_reset_h, *d_reset_c; /* the last two may be null without resets */
} fastrnn_backward_pass;

/* Bytes of scratch that a pass needs. */
FASTRNN_API int64_t fastrnn_scratch(const fastrnn_pass *pass, int backward);

/* Go on with a pass for some 10 ms; return whether steps are left. */
FASTRNN_API int fastrnn_forward(fastrnn_pass *pass);
FASTRNN_API int fastrnn_backward(fastrnn_backward_pass *pass);

/* Inference from Python objects, by their addresses, for the plain case (infer.c says more): return
 * 1, or 0 if this is not the plain case and nothing was done, or -1 if there is no memory. x is
 * (T, B, I) and states (B, H); of a layer they are (1, B, H); a cell takes x (B, I) and has no output. */
enum { FASTRNN_FUNCTION, FASTRNN_LAYER, FASTRNN_CELL };
FASTRNN_API int fastrnn_know_arrays(uintptr_t array_type, uintptr_t float32, uintptr_t float64,
                                    uintptr_t none, uintptr_t probe, uintptr_t data);
FASTRNN_API int fastrnn_infer(int cell, int hard_gates, int form, int threads, uintptr_t x,
                              uintptr_t h0, uintptr_t c0, uintptr_t w_ih, uintptr_t w_hh,
                              uintptr_t b_ih, uintptr_t b_hh, uintptr_t output, uintptr_t h_n,
                              uintptr_t c_n);

/* In place of its arrays a pass, or with `backward` a backward one, has the addresses of their Python
 * objects, None or 0 for null: put those of their numbers there. Only where arrays are known. */
FASTRNN_API void fastrnn_find_arrays(void *pass, int backward);

/* Run a whole pass, forward or backward, that lacks nothing but its scratch, given as the bytes of its
 * struct: return 1, or -1 if there is no memory. Its arrays are checked and not empty, and those of
 * the output and of h_n may be one if there is one step. Ctrl-C has to wait: it should have no more
 * multiply-adds forward than this. A step is a pass that lacks what is given besides. */
enum { FASTRNN_AT_ONCE = 300000000 };
FASTRNN_API int fastrnn_at_once(const char *pass, int backward);
FASTRNN_API int fastrnn_step(const char *pass, int threads, int64_t B, uintptr_t x, uintptr_t h0,
                             uintptr_t c0, uintptr_t h_n, uintptr_t c_n, uintptr_t gates,
                             uintptr_t hidden_n);

/* Streams: a network that is run step by step, its weights packed once, its state kept. It is layers of
 * one direction, of which only the sizes, cells and weights are read, and a head after the last one,
 * activation(W h + b), if O is not 0. What it was made of may go away then. */
enum {
    FASTRNN_TO_ITSELF,
    FASTRNN_TO_TANH,
    FASTRNN_TO_SIGMOID,
    FASTRNN_TO_RELU,
    FASTRNN_TO_SOFTMAX
};
/* How matrices are kept, of finite floats: as they are; rounded to the nearest half; or each row as whole
 * numbers, from -127 to 127, times its greatest magnitude / 127. What is computed is float32: of halves
 * with the bits that floats of their values give; of whole numbers a row's sum is scaled as a whole. */
enum { FASTRNN_AS_GIVEN, FASTRNN_FLOAT16, FASTRNN_INT8 };
typedef struct {
    int64_t B, O;               /* rows; numbers of the head, or 0: no head */
    const fastrnn_pass *layers; /* each with I that the one before puts out */
    const void *w_o, *b_o;      /* (O, R), (O,) or null */
    int32_t count;              /* of layers, at least 1 */
    int32_t activation;         /* one of the above, of the head or of the last layer's output */
    int32_t real_bytes;
    int32_t weights;            /* one of the above; doubles are kept as they are */
    int32_t threads;            /* at most, for a step; 0 or 1: the caller's alone */
} fastrnn_network;
typedef struct fastrnn_stream fastrnn_stream;

/* Make a stream, all states zero; return null if there is no memory. Another stream of the same network
 * may share its weights. Streams are independent of each other; one must not be used by two threads at
 * a time. */
FASTRNN_API fastrnn_stream *fastrnn_stream_new(const fastrnn_network *network, fastrnn_stream *like);
FASTRNN_API void fastrnn_stream_free(fastrnn_stream *stream);

/* Take one step, or some: x (B, I) or (steps, B, I), y (B, O or R) or (steps, B, O or R), which must not
 * overlap. They leave the floating-point state as it is. With one thread, they neither allocate nor lock nor
 * call the system, and may be called from a real-time thread; others have to be started, woken and waited for. */
FASTRNN_API void fastrnn_stream_step(fastrnn_stream *stream, const void *x, void *y);
FASTRNN_API void fastrnn_stream_push(fastrnn_stream *stream, const void *x, void *y, int64_t steps);

/* The same from Python objects (infer.c): a step if x is an array (B, I), and y one for its result, both
 * plain and apart from each other; else return 0, and nothing was done. */
FASTRNN_API int fastrnn_stream_arrays(fastrnn_stream *stream, uintptr_t x, uintptr_t y);

/* Its arguments, gathered, and the same by their address: Python passes one argument in a third of the
 * time that three take. */
typedef struct {
    fastrnn_stream *stream;
    uintptr_t x, y;
} fastrnn_stream_call;
FASTRNN_API int fastrnn_stream_again(uintptr_t call);

/* Read or `set` the state of a layer, h (B, R) and, of an LSTM, c (B, H); null sets zeros. Make states
 * zero: of the rows whose byte is not 0, or of all rows if `rows` is null. */
FASTRNN_API void fastrnn_stream_state(fastrnn_stream *stream, int layer, void *h, void *c, int set);
FASTRNN_API void fastrnn_stream_reset(fastrnn_stream *stream, const unsigned char *rows);

/* A product of matrices, out (M, N) = a (M, K) b (K, N), for layers without memory. Steps are numbers
 * from row to row. Ctrl-C has to wait, as for a pass at once. */
typedef struct {
    int64_t M, N, K;
    int64_t a_step, b_step, out_step;
    int32_t turn_a, turn_b; /* it is given as (K, M), as (N, K) */
    int32_t real_bytes, threads;
    const void *a, *b;
    void *out;
    void *scratch; /* of fastrnn_product_scratch bytes */
} fastrnn_matrices;
FASTRNN_API int64_t fastrnn_product_scratch(int real_bytes, int threads);
FASTRNN_API void fastrnn_product(fastrnn_matrices *matrices);

/* End the threads; the next pass that wants some starts them anew. */
FASTRNN_API void fastrnn_stop(void);

/* For tests: whether threads may run that there is no processor for; without, they are not asked. */
FASTRNN_API void fastrnn_crowd(int allowed);

/* Instruction sets, in ascending order: the best is used, of those that need no features but these. */
enum {
    FASTRNN_AVX2 = 1,
    FASTRNN_FMA = 2,
    FASTRNN_AVX512F = 4,
    FASTRNN_AVX512VL = 8,
    FASTRNN_AVX512DQ = 16,
    FASTRNN_AVX512BW = 32,
    FASTRNN_F16C = 64
};
FASTRNN_API int fastrnn_best_isa(unsigned features);
FASTRNN_API int fastrnn_isa_count(void);
FASTRNN_API const char *fastrnn_isa_name(int isa);
FASTRNN_API int fastrnn_isa_runs_here(int isa);
FASTRNN_API int fastrnn_isa(void);
FASTRNN_API void fastrnn_set_isa(int isa);

/* y = exp(x), sigmoid(x), ... of n floats or doubles: what the kernels compute, for tests. */
enum { FASTRNN_EXP, FASTRNN_SIGMOID, FASTRNN_TANH, FASTRNN_HARD_SIGMOID };
FASTRNN_API void fastrnn_activation(int which, int real_bytes, const void *x, void *y, int64_t n);

/* For benchmarks, the limits of one processor: multiply and add floats, or read an array of floats,
 * and nothing else. They return how many operations, or bytes, that was. */
FASTRNN_API double fastrnn_multiply_adds(int64_t rounds);
FASTRNN_API double fastrnn_read(const void *data, int64_t size, int64_t rounds);
/* end of the interface */

#endif
