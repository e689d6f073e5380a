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
from ..workspace import Backward, empty
from . import sequence
from ._jit import inlined, jit
from .float_state import restore_float_state, set_float_state
from .pool import parallel
from .product import PANEL_BYTES, ROWS, located, product
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


class Span(NamedTuple):
    """Steps whose gradients are added at once, and which part of the gradients' rows."""

    fresh: bool  # whether they are the first: what is in the gradients is not read
    t: int  # the earliest
    since: int  # steps from the first that a reused d_a holds
    steps: int
    part: int
    parts: int
    copies: Array  # scratch for long rows
    width: int  # of those of d_product in it
    zeros: Array  # as in BackwardFrame; the frame itself is too long to be handed from call to call
    B: int


def add_gradients(ws: Any, at: Any) -> None:
    """Add what the steps of a `Span` contribute to the gradients of the weights."""


@inlined
def add_shared(f: Any, at: Any) -> None:
    """Add them where d_a (·, B, G*H) is that of both products, and so of both biases.

    `share_bias` is to follow when they are taken.
    """
    d_a, x, h = f.d_a.reshape(f.d_a.size), f.x.reshape(f.x.size), f.h.reshape(f.h.size)
    R, nothing = f.widths[0], f.zeros[:0]
    add(WeightGradient(d_a, 0, f.GH, f.reused, x, f.d_w_ih, f.d_b_ih, f.GH, f.I), at)
    add(WeightGradient(d_a, 0, f.GH, f.reused, h, f.d_w_hh, nothing, f.GH, R), at)


def share_bias(ws: Backward) -> None:
    """Make the gradient of b_hh that of b_ih."""
    if ws.weights.b_ih is not None and ws.weights.b_hh is not None:
        ws.weights.b_hh[...] = ws.weights.b_ih


@jit
def add(g: Any, at: Any) -> None:
    """Add what the steps of a `Span` contribute to a part of a gradient."""
    units = -(-g.M // ROWS)
    m0, m1 = units * at.part // at.parts * ROWS, min(g.M, units * (at.part + 1) // at.parts * ROWS)
    d = g.d_first + (at.since if g.reused else at.t) * at.B * g.d_step
    if m0 < m1:
        _add(g, at, at.t * at.B, d, at.steps * at.B, m0, m1)


@jit
def _add(g: Any, at: Any, row: int, d: int, K: int, m0: int, m1: int) -> None:
    """Add to rows m0 ... m1 - 1 of a gradient what K rows contribute, from `row` and `d` on."""
    copies, left_step, zeros = at.copies, at.width, at.zeros
    right = BLOCK * left_step  # where in the copies those of the operand begin
    panel = PANEL_BYTES // copies.itemsize
    short = SHORT_ROW // copies.itemsize
    M, N = m1 - m0, g.N
    out, bias, nothing = (
        located((g.out, m0 * N, N)),
        located((g.bias, m0, M)),
        located((zeros, 0, 0)),
    )
    start, bias_start = nothing if at.fresh else out, nothing if at.fresh else bias
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
            one, columns = (zeros, zeros.size - 1, 0, 0), (g.d, first, g.d_step, panel)
            product(bias_start, one, columns, bias, 1, n, M)
        start, bias_start = out, bias


@jit
def take(
    ws: Any, first: int, last: int, span: int, part: int, parts: int, copies: Any, width: int
) -> None:
    """Take a part of the gradients of steps first ... last - 1, counted as the loop counts them."""
    before = set_float_state()
    _take(ws, first, last, span, part, parts, copies, width)
    restore_float_state(before)


@inlined
def _take(
    ws: Any, first: int, last: int, span: int, part: int, parts: int, copies: Any, width: int
) -> None:
    f = ws.frame
    earliest = first if f.reverse else f.T - last
    for s in range(first, last, span):
        steps = min(span, last - s)
        t = s if f.reverse else f.T - s - steps
        rows = (part, parts, copies, width, f.zeros, f.B)
        add_gradients(ws, Span(s == 0, t, t - earliest, steps, *rows))


@jit
def _backward_and_gradients(
    ws: Any, first: int, last: int, span: int, copies: Any, width: int
) -> None:
    """Run the loop over steps first ... last - 1, with the gradients behind it span by span."""
    before = set_float_state()
    for s in range(first, last, span):
        end = min(last, s + span)
        sequence.steps_backward(ws, s, end, 0, ws.frame.B)
        _take(ws, s, end, span, 0, 1, copies, width)
    restore_float_state(before)


def run(ws: Any, cut: Plan) -> None:
    """Run all steps backward and fill the gradients, returning to Python now and then."""
    f = ws.frame
    T, dtype = f.T, f.x.dtype
    width = f.GH + 16  # the longest row that is copied of each factor
    size = BLOCK * (width + max(f.I, *f.widths) + PANEL_BYTES // dtype.itemsize)
    for first in range(0, T, cut.chunk):
        last = min(T, first + cut.chunk)
        if cut.alone:
            _backward_and_gradients(ws, first, last, cut.span, empty((size,), dtype), width)
            continue
        parallel(partial(sequence.backward, ws, first, last), cut.rows)

        def part(number: int, parts: int, first: int = first, last: int = last) -> None:
            take(ws, first, last, cut.span, number, parts, empty((size,), dtype), width)

        parallel(part, [(number, cut.parts) for number in range(cut.parts)])
