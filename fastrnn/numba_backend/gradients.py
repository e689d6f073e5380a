"""The loop backward, and behind it the gradients of the weights, a few steps at a time.

What a gradient sums over, the loop has just read or written: taken at once it is still in the
cache, and the RNN's gradient of the pre-activations never goes to memory. NumPy's BLAS would take
large products faster (53 to 108 GFLOP/s on one core, here 51 to 86), but its threads do not get
over a fork that happens while they work, and wait for a busy neighbour: the same step took ten
times as long then.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from ..validation import Array
from ..workspace import Backward, Call, empty
from . import sequence
from ._jit import jit
from .float_state import restore_float_state, set_float_state
from .pool import parallel
from .product import PANEL_BYTES, ROWS, constant, located, product, writable
from .sequence import BLOCK, Plan, copy

SHORT_ROW = 512  # bytes: a block of rows of this length fits into the L1 cache


class WeightGradient(NamedTuple):
    """Gradients of weights (M, N) and a bias (M,): d_product, transposed, times the operand."""

    d: Array  # flat: gradient of the product, M columns of a matrix with T * B rows
    d_first: int  # where the first column is
    d_step: int  # elements from row to row
    reused: bool  # as in BackwardFrame
    operand: Array  # flat, (T, B, N): what the weights were multiplied with
    out: Array  # (M, N)
    bias: Array  # (M,), or empty
    M: int
    N: int


def weight_gradient(
    d: tuple[Array, int, int],
    operand: Array,
    out: Array,
    bias: Array | None,
    *,
    reused: bool = False,
) -> WeightGradient:
    """Describe a gradient; `d` is a flat array, the first column's place, and a row's length."""
    M, N = out.shape
    sums = constant(0, 0, out.dtype) if bias is None else bias
    return WeightGradient(*d, reused, writable(operand).reshape(-1), out, sums, M, N)


def shared_gradients(
    call: Call, d_a: Array, h: Array, ws: Backward, *, reused: bool = False
) -> tuple[WeightGradient, WeightGradient]:
    """Describe the gradients where d_a (·, B, G*H) is that of both products, and so of both biases.

    `share_bias` is to follow when they are taken.
    """
    w, columns = ws.weights, (d_a.reshape(-1), 0, len(ws.weights.ih))
    return (
        weight_gradient(columns, call.x, w.ih, w.b_ih, reused=reused),
        weight_gradient(columns, h, w.hh, None, reused=reused),
    )


def share_bias(ws: Backward) -> None:
    """Make the gradient of b_hh that of b_ih."""
    if ws.weights.b_ih is not None and ws.weights.b_hh is not None:
        ws.weights.b_hh[...] = ws.weights.b_ih


@jit
def _add(g: Any, fresh: bool, row: int, d: int, K: int, m0: int, m1: int, scratch: Any) -> None:
    """Add to rows m0 ... m1 - 1 of a gradient what K rows contribute, from `row` and `d` on.

    `fresh` says that these are the first: what is in the gradient is not read.
    """
    one, zeros, copies, left_step = scratch
    right = BLOCK * left_step  # where in the copies those of the operand begin
    panel = PANEL_BYTES // copies.itemsize
    short = SHORT_ROW // copies.itemsize
    M, N = m1 - m0, g.N
    out, bias, nothing = (
        located((g.out, m0 * N, N)),
        located((g.bias, m0, M)),
        located((zeros, 0, 0)),
    )
    start, bias_start = nothing if fresh else out, nothing if fresh else bias
    for k in range(0, K, BLOCK):
        n = min(BLOCK, K - k)
        first = d + k * g.d_step + m0
        # Long rows are copied: columns a power of two apart would all fall into one set of the
        # cache, and a panel has to stay there. That made 74 of 40 GFLOP/s at (1024, 2048, 256).
        a = (g.d, first, 1, g.d_step)
        if g.d_step > short:
            a = (copies, 0, 1, left_step)
            for q in range(n):
                copy((g.d, copies), (first + q * g.d_step, q * left_step), M)
        w = (g.operand, (row + k) * N, N, panel)
        if short < N:
            w = (copies, right, panel, n * panel)
            for q in range(n):
                for j in range(0, N, panel):
                    places = ((row + k + q) * N + j, right + j * n + q * panel)
                    copy((g.operand, copies), places, min(panel, N - j))
        product(start, a, w, out, M, n, N)
        if g.bias.size:  # a product with ones
            product(bias_start, (one, 0, 0, 0), (g.d, first, g.d_step, panel), bias, 1, n, M)
        start, bias_start = out, bias


@jit
def take(
    f: Any, gradients: Any, first: int, last: int, span: int, part: int, parts: int, scratch: Any
) -> None:
    """Take a part of the gradients of steps first ... last - 1, counted as the loop counts them."""
    before = set_float_state()
    _take(f, gradients, first, last, span, part, parts, scratch)
    restore_float_state(before)


@jit
def _take(
    f: Any, gradients: Any, first: int, last: int, span: int, part: int, parts: int, scratch: Any
) -> None:
    earliest = first if f.reverse else f.T - last
    for s in range(first, last, span):
        steps = min(span, last - s)
        t = s if f.reverse else f.T - s - steps
        for number in range(len(gradients)):
            g = gradients[number]
            units = -(-g.M // ROWS)
            m0, m1 = units * part // parts * ROWS, min(g.M, units * (part + 1) // parts * ROWS)
            d = g.d_first + (t - earliest if g.reused else t) * f.B * g.d_step
            if m0 < m1:
                _add(g, s == 0, t * f.B, d, steps * f.B, m0, m1, scratch)


@jit
def _backward_and_gradients(
    ws: Any, gradients: Any, first: int, last: int, span: int, scratch: Any
) -> None:
    """Run the loop over steps first ... last - 1, with the gradients behind it span by span."""
    before = set_float_state()
    f = ws.frame
    for s in range(first, last, span):
        end = min(last, s + span)
        sequence.steps_backward(ws, s, end, 0, f.B)
        _take(f, gradients, s, end, span, 0, 1, scratch)
    restore_float_state(before)


def run(ws: Any, gradients: tuple[WeightGradient, ...], call: Call, cut: Plan) -> None:
    """Run all steps backward and fill the gradients, returning to Python now and then."""
    T, dtype = len(call.x), call.x.dtype
    width = len(call.weights.ih) + 16  # the longest row that is copied of each factor
    longest = max(call.x.shape[2], call.hidden_size) + PANEL_BYTES // dtype.itemsize
    numbers = constant(1, 1, dtype), ws.frame.zeros
    sizes = (BLOCK * (width + longest),), dtype
    for first in range(0, T, cut.chunk):
        last = min(T, first + cut.chunk)
        if cut.alone:
            scratch = (*numbers, empty(*sizes), width)
            _backward_and_gradients(ws, gradients, first, last, cut.span, scratch)
            continue
        parallel(partial(sequence.backward, ws, first, last), cut.rows)

        def part(number: int, parts: int, first: int = first, last: int = last) -> None:
            scratch = (*numbers, empty(*sizes), width)
            take(ws.frame, gradients, first, last, cut.span, number, parts, scratch)

        parallel(part, [(number, cut.parts) for number in range(cut.parts)])
