"""The loops over time, one each way, for every cell: resets, lengths, and what goes where.

A cell brings two steps, which know neither masks nor time's direction, and a named tuple of flat
arrays for each. The loops are compiled once for each kind of tuple; `step` and `step_backward` are
then those of the tuple's cell.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from ..validation import Array
from ..workspace import Backward, Call, Forward, State, empty
from ._jit import OPTIONS, jit
from .pool import parallel, ranges
from .product import PANEL_BYTES, ROWS, flat, packed, product
from .vectors import Lanes, Vec, pointwise

Packed = tuple[Array, int, int, int]  # weights as `product` takes them
Columns = tuple[Array, int, int]  # of a flat matrix: first element, elements from row to row
GRADIENT_BLOCK = 64  # rows that a gradient of weights sums up at once
SHORT_ROW = 512  # bytes: a block of rows of this length fits into the L1 cache
NO_LENGTHS = np.empty(0, np.int64)
NO_RESETS = np.empty(0, np.bool_)


class ForwardFrame(NamedTuple):
    """What the loop forward needs of every cell; the tuples of arrays have an entry a state."""

    T: int
    B: int
    I: int
    GH: int
    reverse: bool
    padded: bool
    widths: tuple[int, ...]  # R, H
    lengths: Array  # (B,), read if padded
    reset: Array  # (T, B) or empty
    reset_states: State  # (B, width)
    states: State  # (B, width): the running state, at the end the final one
    new: State  # (B, width): what a step makes of it
    sequences: State  # (T, B, width) or empty: the output, and the cell states if recorded
    x: Array  # (T, B, I)
    w_ih: Packed  # (I, G*H), from input to pre-activations
    bias: Array  # (G*H,): where the pre-activations' sums start
    gates: Array  # (T, B, G*H): bias + W_ih x, then whatever the cell makes of it


class BackwardFrame(NamedTuple):
    """What the loop backward needs of every cell."""

    T: int
    B: int
    I: int
    GH: int
    reverse: bool
    padded: bool
    widths: tuple[int, ...]
    lengths: Array
    reset: Array
    d_reset_states: State  # (B, width): sums
    d_states: State  # (B, width): the running gradient, at the end that of the initial state
    d_new: State  # (B, width): gradient of what a step made
    d_consumed: State  # (B, width): gradient of what it was made of
    d_output: Array  # (T, B, R)
    d_a: Array  # (T, B, G*H): gradient of the pre-activations
    w_ih: Packed  # (G*H, I), from pre-activations to input
    d_x: Array  # (T, B, I)
    zeros: Array  # as many as the longest row: where other sums start


def step(ws: Any, t: int, b: int, rows: int) -> None:
    """Make `frame.new` of `frame.states` and `frame.gates` at t, for rows b ... b + rows - 1."""


def step_backward(ws: Any, t: int, b: int, rows: int) -> None:
    """Make `frame.d_consumed` and `frame.d_a` at t of `frame.d_new`, for some rows."""


def steps_of(cell: type, stub: Any, implementation: Any) -> None:
    """Make `implementation` what `stub` does to named tuples of type `cell`."""

    def choose(ws: Any, t: Any, b: Any, rows: Any) -> Any:
        return implementation if getattr(ws, "instance_class", None) is cell else None

    overload(stub, jit_options=OPTIONS)(choose)


@pointwise("a", "b")
def copy(L: Lanes, a: Vec) -> Vec:
    """Copy a to b."""
    return a


@pointwise("a b", "b")
def accumulate(L: Lanes, a: Vec, b: Vec) -> Vec:
    """Add a to b."""
    return a + b


@pointwise("a b", "c")
def add(L: Lanes, a: Vec, b: Vec) -> Vec:
    """Write the sum of a and b to c."""
    return a + b


@pointwise("", "a")
def clear(L: Lanes) -> Vec:
    """Fill a with zeros."""
    return L.vec(0.0)


@jit
def _input_share(f: Any, row: int, rows: int) -> None:
    """Fill gates with bias + W_ih x, for some of the T * B rows."""
    out = (f.gates, row * f.GH, f.GH)
    product((f.bias, 0, 0), (f.x, row * f.I, f.I, 1), f.w_ih, out, rows, f.I, f.GH)


@jit
def _input_gradient(f: Any, row: int, rows: int) -> None:
    """Fill d_x with W_ih^T d_a, for some of the T * B rows."""
    out = (f.d_x, row * f.I, f.I)
    product((f.zeros, 0, 0), (f.d_a, row * f.GH, f.GH, 1), f.w_ih, out, rows, f.GH, f.I)


@jit
def forward(ws: Any, first: int, last: int, b0: int, b1: int) -> None:
    """Run rows b0 ... b1 - 1 through steps first ... last - 1, counted as they are processed."""
    f = ws.frame
    rows = b1 - b0
    # Few rows (then all there are) are too few for a tile: take those of all steps together.
    together = rows < ROWS
    if together:
        t = f.T - last if f.reverse else first
        _input_share(f, t * f.B, (last - first) * f.B)
    for number in range(first, last):
        t = f.T - 1 - number if f.reverse else number
        if not together:
            _input_share(f, t * f.B + b0, rows)
        if f.reset.size:
            for b in range(b0, b1):
                if f.reset[t * f.B + b] and (not f.padded or t < f.lengths[b]):
                    for k in range(len(f.states)):
                        n = f.widths[k]
                        copy((f.reset_states[k], f.states[k]), (b * n, b * n), n)
        step(ws, t, b0, rows)
        for k in range(len(f.states)):
            n = f.widths[k]
            place = t * f.B * n
            if not f.padded:
                copy((f.new[k], f.states[k]), (b0 * n, b0 * n), rows * n)
                if f.sequences[k].size:
                    copy((f.new[k], f.sequences[k]), (b0 * n, place + b0 * n), rows * n)
                continue
            for b in range(b0, b1):
                if t < f.lengths[b]:
                    copy((f.new[k], f.states[k]), (b * n, b * n), n)
                    if f.sequences[k].size:
                        copy((f.new[k], f.sequences[k]), (b * n, place + b * n), n)
                elif f.sequences[k].size:
                    clear((f.sequences[k],), (place + b * n,), n)


@jit
def backward(ws: Any, first: int, last: int, b0: int, b1: int) -> None:
    """Run rows b0 ... b1 - 1 back through steps first ... last - 1, the last processed first."""
    f = ws.frame
    rows = b1 - b0
    for number in range(first, last):
        t = number if f.reverse else f.T - 1 - number
        for k in range(len(f.d_states)):
            n = f.widths[k]
            if not f.padded:
                start, size = b0 * n, rows * n
                if k == 0:
                    where = (start, t * f.B * n + start, start)
                    add((f.d_states[k], f.d_output, f.d_new[k]), where, size)
                else:
                    copy((f.d_states[k], f.d_new[k]), (start, start), size)
                continue
            for b in range(b0, b1):
                row = b * n
                if t >= f.lengths[b]:  # a step that was not taken: zero in, zero out
                    clear((f.d_new[k],), (row,), n)
                elif k == 0:
                    where = (row, t * f.B * n + row, row)
                    add((f.d_states[k], f.d_output, f.d_new[k]), where, n)
                else:
                    copy((f.d_states[k], f.d_new[k]), (row, row), n)
        step_backward(ws, t, b0, rows)
        if rows >= ROWS:
            _input_gradient(f, t * f.B + b0, rows)
        for k in range(len(f.d_states)):
            n = f.widths[k]
            if not f.padded and not f.reset.size:
                copy((f.d_consumed[k], f.d_states[k]), (b0 * n, b0 * n), rows * n)
                continue
            for b in range(b0, b1):
                row = b * n
                if f.padded and t >= f.lengths[b]:
                    continue
                if f.reset.size and f.reset[t * f.B + b]:
                    accumulate((f.d_consumed[k], f.d_reset_states[k]), (row, row), n)
                    clear((f.d_states[k],), (row,), n)
                else:
                    copy((f.d_consumed[k], f.d_states[k]), (row, row), n)
    if rows < ROWS:
        t = first if f.reverse else f.T - last
        _input_gradient(f, t * f.B, (last - first) * f.B)


@jit
def _weight_gradients(
    d_product: Any, operands: Any, outs: Any, zeros: Any, scratch: Any, K: int, M: int
) -> None:
    """Fill M rows of each out with the sum of d_product (K, M) times its operand (K, N)."""
    d, d_first, d_row = d_product
    left, row, right = scratch
    panel = PANEL_BYTES // left.itemsize
    short = SHORT_ROW // left.itemsize
    for k in range(0, K, GRADIENT_BLOCK):
        n = min(GRADIENT_BLOCK, K - k)
        # Long rows are copied: columns a power of two apart would all fall into one set of the
        # cache, and a panel has to stay there. That made 74 of 40 GFLOP/s at (1024, 2048, 256).
        a = (d, d_first + k * d_row, 1, d_row)
        if d_row > short:
            a = (left, 0, 1, row)
            for q in range(n):
                copy((d, left), (d_first + (k + q) * d_row, q * row), M)
        for number in range(len(operands)):
            x = operands[number]
            y, y_first, N = outs[number]
            w = (x, k * N, N, panel)
            if short < N:
                w = (right, 0, panel, n * panel)
                for q in range(n):
                    for j in range(0, N, panel):
                        copy((x, right), ((k + q) * N + j, j * n + q * panel), min(panel, N - j))
            out = (y, y_first, N)
            product(out if k else (zeros, 0, 0), a, w, out, M, n, N)


@jit
def _column_sums(columns: Any, out: Any, K: int) -> None:
    """Fill out (M,) with the sums of K rows of some columns of a flat matrix."""
    a, first, row = columns
    clear((out,), (0,), len(out))
    for k in range(K):
        accumulate((a, out), (first + k * row, 0), len(out))


def forward_frame(call: Call, ws: Forward, gates: Array, bias: Array) -> ForwardFrame:
    """Lay out what the loop reads and writes, and start the running state."""
    for array, initial in zip(ws.state, call.state, strict=True):
        array[...] = initial
    nothing = empty((0,), call.x.dtype)
    sequences = (ws.output, nothing if ws.cells is None else ws.cells)[: len(ws.state)]
    return ForwardFrame(
        *_common(call),
        reset_states=_flat(call.reset_state),
        states=_flat(ws.state),
        new=_scratch(ws.state),
        sequences=_flat(sequences),
        x=flat(call.x),
        w_ih=packed(call.weights.ih, transpose=True),
        bias=flat(bias),
        gates=flat(gates),
    )


def backward_frame(
    call: Call, d_output: Array, d_state: State, d_a: Array, ws: Backward
) -> BackwardFrame:
    """Lay out what the loop reads and writes, and start the running gradient."""
    for array, last in zip(ws.state, d_state, strict=True):
        array[...] = last
    for array in ws.reset_state:
        array[...] = 0
    return BackwardFrame(
        *_common(call),
        d_reset_states=_flat(ws.reset_state),
        d_states=_flat(ws.state),
        d_new=_scratch(ws.state),
        d_consumed=_scratch(ws.state),
        d_output=flat(d_output),
        d_a=flat(d_a),
        w_ih=packed(call.weights.ih),
        d_x=flat(ws.x),
        zeros=np.zeros(max(call.x.shape[2], call.hidden_size), call.x.dtype),
    )


def run(loop: Any, ws: Any, call: Call) -> None:
    """Run a loop over all steps, returning to Python now and then, for Ctrl-C."""
    T, B, _ = call.x.shape
    step_work = 2.0 * B * (call.weights.hh.size + call.weights.ih.size)
    chunk = max(1, int(5e8 / step_work))  # some 10 ms
    rows = ranges(B, ROWS, step_work * min(T, chunk))
    for first in range(0, T, chunk):
        last = min(T, first + chunk)
        parallel(partial(loop, ws, first, last), rows)


def weight_gradients(
    d_product: Columns, operands: tuple[Array, ...], outs: tuple[Array, ...], bias: Array | None
) -> None:
    """Fill the gradients of weights, each (M, N), and a bias (M,) of products over a window.

    NumPy's BLAS would take the products at 53 to 108 GFLOP/s on one core, where this takes them at
    51 to 86, but its threads do not get over a fork that happens while they work, and wait for a
    busy neighbour: the same step took ten times as long then.

    Parameters
    ----------
    d_product
        Gradient of the products: M columns of a matrix with T * B rows.
    operands
        Each (T, B, N): what the weights were multiplied with.
    """
    d, first, row = d_product
    M, dtype = len(outs[0]), d.dtype
    sizes = [out.shape[1] for out in outs]
    N = max(sizes)
    K = operands[0].size // sizes[0]
    x, y = tuple(map(flat, operands)), tuple(map(flat, outs))
    zeros = np.zeros(N, dtype)

    def some_rows(m0: int, m1: int) -> None:
        width = m1 - m0 + 16
        left = empty((GRADIENT_BLOCK * width,), dtype)
        right = empty((GRADIENT_BLOCK * (N + PANEL_BYTES // d.itemsize),), dtype)
        places = tuple((out, m0 * n, n) for out, n in zip(y, sizes, strict=True))
        scratch = (left, width, right)
        _weight_gradients((d, first + m0, row), x, places, zeros, scratch, K, m1 - m0)

    parallel(some_rows, ranges(M, ROWS, 2.0 * K * M * sum(sizes)))
    if bias is not None:
        _column_sums(d_product, bias, K)


def summed_bias(call: Call) -> Array:
    """Return b_ih + b_hh, or zeros, (G*H,)."""
    w = call.weights
    if w.b_ih is None or w.b_hh is None:
        return np.zeros(len(w.ih), call.x.dtype)
    return np.asarray(w.b_ih + w.b_hh)


def shared_gradients(call: Call, d_a: Array, h: Array, ws: Backward) -> None:
    """Fill the gradients of the parameters where d_a (T, B, G*H) is that of both products."""
    w = ws.weights
    columns = (flat(d_a), 0, len(call.weights.ih))
    weight_gradients(columns, (call.x, h), (w.ih, w.hh), w.b_ih)
    if w.b_hh is not None:
        w.b_hh[...] = w.b_ih


def _flat(arrays: State) -> State:
    return tuple(map(flat, arrays))


def _scratch(arrays: State) -> State:
    return tuple(empty((array.size,), array.dtype) for array in arrays)


def _common(call: Call) -> tuple[int, int, int, int, bool, bool, tuple[int, ...], Array, Array]:
    T, B, I = call.x.shape
    lengths = NO_LENGTHS if call.lengths is None else call.lengths
    reset = NO_RESETS if call.reset is None else call.reset
    widths = tuple(array.shape[1] for array in call.state)
    sizes = (T, B, I, len(call.weights.ih))
    return (*sizes, call.reverse, call.lengths is not None, widths, flat(lengths), flat(reset))
