"""The loops over time, one each way, for every cell: resets, lengths, and what goes where.

A cell brings two steps, which know neither masks nor time's direction, and a named tuple of flat
arrays for each. The loops are compiled once for each kind of tuple; `step` and `step_backward` are
then those of the tuple's cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from ..validation import Array
from ..workspace import Backward, Call, Forward, State, empty
from ._jit import OPTIONS, jit
from .vectors import Lanes, Vec, pointwise


class ForwardFrame(NamedTuple):
    """What the loop forward needs of every cell; the tuples have an entry a state."""

    T: int
    B: int
    reverse: bool
    padded: bool
    widths: tuple[int, ...]  # R, H
    lengths: Array  # (B,), read if padded
    reset: Array  # (T, B) or empty
    reset_states: State  # (B, width)
    states: State  # (B, width): the running state, at the end the final one
    new: State  # (B, width): what a step makes of it
    sequences: State  # (T, B, width) or empty: the output, and the cell states if recorded


class BackwardFrame(NamedTuple):
    """What the loop backward needs of every cell."""

    T: int
    B: int
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


def step(ws: Any, t: int) -> None:
    """Make `frame.new` of `frame.states` and the input's share at t."""


def step_backward(ws: Any, t: int) -> None:
    """Make `frame.d_consumed` and the gradient of the input's share at t of `frame.d_new`."""


def steps_of(cell: type, stub: Any, implementation: Any) -> None:
    """Make `implementation` what `stub` does to named tuples of type `cell`."""

    def choose(ws: Any, t: Any) -> Any:
        return implementation if getattr(ws, "instance_class", None) is cell else None

    overload(stub, jit_options=OPTIONS)(choose)


@pointwise("a", "b")
def copy(L: Lanes, a: Vec) -> Vec:
    """b = a."""
    return a


@pointwise("a b", "b")
def accumulate(L: Lanes, a: Vec, b: Vec) -> Vec:
    """b += a."""
    return a + b


@pointwise("a b", "c")
def add(L: Lanes, a: Vec, b: Vec) -> Vec:
    """c = a + b."""
    return a + b


@pointwise("", "a")
def clear(L: Lanes) -> Vec:
    """a = 0."""
    return L.vec(0.0)


@jit
def forward(ws: Any, first: int, last: int) -> None:
    """Run the steps number first ... last - 1, counted in the order of processing."""
    f = ws.frame
    for number in range(first, last):
        t = f.T - 1 - number if f.reverse else number
        if f.reset.size:
            for b in range(f.B):
                if f.reset[t * f.B + b] and (not f.padded or t < f.lengths[b]):
                    for k in range(len(f.states)):
                        n = f.widths[k]
                        copy((f.reset_states[k], f.states[k]), (b * n, b * n), n)
        step(ws, t)
        for k in range(len(f.states)):
            n = f.widths[k]
            place = t * f.B * n
            if not f.padded:
                copy((f.new[k], f.states[k]), (0, 0), f.B * n)
                if f.sequences[k].size:
                    copy((f.new[k], f.sequences[k]), (0, place), f.B * n)
                continue
            for b in range(f.B):
                if t < f.lengths[b]:
                    copy((f.new[k], f.states[k]), (b * n, b * n), n)
                    if f.sequences[k].size:
                        copy((f.new[k], f.sequences[k]), (b * n, place + b * n), n)
                elif f.sequences[k].size:
                    clear((f.sequences[k],), (place + b * n,), n)


@jit
def backward(ws: Any, first: int, last: int) -> None:
    """Run the steps number first ... last - 1 backward, counted from the one processed last."""
    f = ws.frame
    for number in range(first, last):
        t = number if f.reverse else f.T - 1 - number
        for k in range(len(f.d_states)):
            n = f.widths[k]
            for b in range(f.B):
                if f.padded and t >= f.lengths[b]:
                    # A step that was not taken: zero in, zero out.
                    clear((f.d_new[k],), (b * n,), n)
                elif k == 0:
                    where = (b * n, (t * f.B + b) * n, b * n)
                    add((f.d_states[k], f.d_output, f.d_new[k]), where, n)
                else:
                    copy((f.d_states[k], f.d_new[k]), (b * n, b * n), n)
        step_backward(ws, t)
        for k in range(len(f.d_states)):
            n = f.widths[k]
            for b in range(f.B):
                row = b * n
                if f.padded and t >= f.lengths[b]:
                    continue
                if f.reset.size and f.reset[t * f.B + b]:
                    accumulate((f.d_consumed[k], f.d_reset_states[k]), (row, row), n)
                    clear((f.d_states[k],), (row,), n)
                else:
                    copy((f.d_consumed[k], f.d_states[k]), (row, row), n)


def forward_frame(call: Call, ws: Forward) -> ForwardFrame:
    """Lay out what the loop reads and writes, and start the running state."""
    for array, initial in zip(ws.state, call.state, strict=True):
        array[...] = initial
    nothing = empty((0,), call.x.dtype)
    sequences = (ws.output, nothing if ws.cells is None else ws.cells)[: len(ws.state)]
    return ForwardFrame(
        *_common(call),
        reset_states=_flat(call.reset_state),
        states=_flat(ws.state),
        new=_flat(tuple(empty(array.shape, array.dtype) for array in ws.state)),
        sequences=_flat(sequences),
    )


def backward_frame(call: Call, d_output: Array, d_state: State, ws: Backward) -> BackwardFrame:
    """Lay out what the loop reads and writes, and start the running gradient."""
    for array, last in zip(ws.state, d_state, strict=True):
        array[...] = last
    for array in ws.reset_state:
        array[...] = 0
    return BackwardFrame(
        *_common(call),
        d_reset_states=_flat(ws.reset_state),
        d_states=_flat(ws.state),
        d_new=_flat(tuple(empty(array.shape, array.dtype) for array in ws.state)),
        d_consumed=_flat(tuple(empty(array.shape, array.dtype) for array in ws.state)),
        d_output=flat(d_output),
    )


def run(loop: Any, ws: Any, call: Call) -> None:
    """Run a loop over all steps, returning to Python now and then, for Ctrl-C."""
    T, B, _ = call.x.shape
    chunk = max(1, int(5e8 / (2 * B * call.weights.hh.size)))  # some 10 ms
    for first in range(0, T, chunk):
        loop(ws, first, min(T, first + chunk))


def input_product(call: Call, out: Array) -> None:
    """Fill out (T, B, G*H), in whatever shape, with W_ih x; a product over the whole window."""
    T, B, I = call.x.shape
    np.matmul(call.x.reshape(T * B, I), call.weights.ih.T, out=out.reshape(T * B, -1))


def summed_bias(call: Call) -> Array:
    """Return b_ih + b_hh, or zeros, (G*H,)."""
    w = call.weights
    if w.b_ih is None or w.b_hh is None:
        return np.zeros(len(w.ih), call.x.dtype)
    return np.asarray(w.b_ih + w.b_hh)


def product_gradient(d_product: Array, operand: Array, out: Array) -> None:
    """Fill out (M, N) with the sum over the window of d_product (..., M) times operand (..., N)."""
    M, N = d_product.shape[-1], operand.shape[-1]
    np.matmul(d_product.reshape(-1, M).T, operand.reshape(-1, N), out=out)


def same_bias_gradient(ws: Backward) -> None:
    """Fill the gradient of b_hh where it is that of b_ih."""
    if ws.weights.b_hh is not None:
        ws.weights.b_hh[...] = ws.weights.b_ih


def _common(call: Call) -> tuple[int, int, bool, bool, tuple[int, ...], Array, Array]:
    T, B, _ = call.x.shape
    lengths = np.empty(0, np.int64) if call.lengths is None else call.lengths
    reset = np.empty(0, np.bool_) if call.reset is None else call.reset
    widths = tuple(array.shape[1] for array in call.state)
    return (T, B, call.reverse, call.lengths is not None, widths, flat(lengths), flat(reset))


def flat(array: Array) -> Array:
    """Return a flat, writable view (or, of a read-only array, a copy).

    Numba compiles anew for every number of dimensions, and for read-only arrays.
    """
    return (array if array.flags.writeable else array.copy()).reshape(-1)


def _flat(arrays: State) -> State:
    return tuple(map(flat, arrays))


