/* All kernels for one instruction set and one type of numbers.
 *
 * The includer defines ISA (a name), REGISTERS (how many), REGISTER_BYTES and REAL_BITS, and has set
 * the target. Ours may be wider than the machine's vectors: with -DVECTOR_BYTES=64 any machine tests
 * what the widest ones compute.
 */
#ifndef VECTOR_BYTES
#define VECTOR_BYTES REGISTER_BYTES
#endif

#define JOIN_(a, b, c, d) a##b##c##d
#define JOIN(a, b, c, d) JOIN_(a, b, c, d)

#if REAL_BITS == 32
typedef float real;
typedef int32_t whole;
#else
typedef double real;
typedef int64_t whole;
#endif

#include "vec.inc.h"
#include "activations.inc.h"
#include "narrow.inc.h"
#include "gemm.inc.h"
#include "sequence.inc.h"
#include "cells/rnn.inc.h"
#include "cells/gru.inc.h"
#include "cells/lstm.inc.h"
#include "resident.inc.h"
#include "forward.inc.h"
#include "stream.inc.h"
#include "gradients.inc.h"
#include "backward.inc.h"
#include "products.inc.h"
#include "limits.inc.h"

static void activation(int which, const void *x, void *y, int64_t n)
{
    for (int64_t k = 0; k < n; k += VL) {
        int some = (int)min_of(n - k, VL);
        vec v = load_some((const real *)x + k, some);
        switch (which) {
        case FASTRNN_EXP: v = exp_(v); break;
        case FASTRNN_SIGMOID: v = sigmoid(v); break;
        case FASTRNN_TANH: v = tanh_(v); break;
        default: v = hard_sigmoid(v);
        }
        store_some((real *)y + k, v, some);
    }
}

const kernels JOIN(fastrnn_, ISA, _f, REAL_BITS) = {
    .scratch = scratch_bytes,
    .forward = forward,
    .backward = backward,
    .product_scratch = product_scratch,
    .product = take_product,
    .activation = activation,
    .stream_bytes = stream_bytes,
    .stream_start = stream_start,
    .stream_run = stream_run,
    .stream_state = stream_state,
    .multiply_adds = multiply_adds,
    .read_only = read_only,
};
