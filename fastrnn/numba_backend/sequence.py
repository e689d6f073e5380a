"""The loops over time, one each way, for every cell: resets, lengths, and what goes where.

A cell brings two steps, which know neither masks nor time's direction, and a named tuple of arrays
for each. The loops are compiled once for each kind of tuple; `step` and `step_backward` are
then those of the tuple's cell.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from ..threads import num_threads
from ..validation import Array
from ..workspace import Backward, Call, Forward, State, Weights, empty, without_padding
from ._jit import INLINED, OPTIONS, inlined, jit
from .float_state import restore_float_state, set_float_state
from .pool import parallel, ranges
from .product import ROWS, Place, constant, product, writable, zeros_and_one
from .vectors import Lanes, Vec, pointwise

BLOCK = 256  # rows that a gradient sums up at once
NO_LENGTHS = np.empty(0, np.int64)
NO_RESETS = np.empty(0, np.bool_).reshape(0, 0)


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
    new: State  # (B, width): what a step makes of it; without padding the same memory
    sequences: State  # (T, B, width) or empty: the output, and the cell states if recorded
    direct: bool  # whether hidden states are read and written where they stay (recorded, unmasked)
    h_in: Array  # the hidden states that are consumed: (T, B, R) if direct, else (1, B, R)
    h_out: Array  # and those that are made
    x: Array  # (T, B, I)
    gates: Array  # (T, B, G*H): bias + W_ih x, then whatever the cell makes of it
    packed: Array  # weights and, from `bias` on, (G*H,), where the pre-activations' sums start
    bias: int
    w_ih: Place  # (I, G*H), from input to pre-activations


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
    d_new: State  # (B, width): gradient of what a step made, without the output's share
    d_consumed: State  # (B, width): gradient of what it was made of
    in_place: bool  # whether the last three are the same memory: no padding, no resets
    d_output: Array  # (T, B, R): zero for steps that were not taken
    d_a: Array  # gradient of the pre-activations, (T, B, G*H), or (fewer, B, G*H) if `reused`
    reused: bool  # whether d_a holds one run of the loop only, from its first t on
    packed: Array  # weights
    w_ih: Place  # (G*H, I), from pre-activations to input
    x: Array  # (T, B, I)
    h: Array  # (T, B, R): the state that each step consumed
    d_x: Array  # (T, B, I)
    d_w_ih: Array  # (G*H, I)
    d_w_hh: Array  # (G*H, R)
    d_b_ih: Array  # (G*H,), or empty
    zeros: Array  # as many as the longest row, where sums start; and a one


def step(ws: Any, t: int, b: int, rows: int, h: int, fresh: bool) -> None:
    """Make the new states of those before and `frame.gates` at t, for rows b ... b + rows - 1.

    The hidden ones are in `frame.h_in` and `frame.h_out`, from their element `h` on. If `fresh`,
    the input's share is not in the gates yet.
    """


def step_backward(ws: Any, t: int, b: int, rows: int, d_a: int) -> None:
    """Make `frame.d_consumed` and `frame.d_a` (from its element `d_a` on).

    They are made of the gradient of the new states: `frame.d_new`, and of the hidden one, besides,
    `frame.d_output` at t, which the cell adds where it reads them anyway.
    """


def steps_of(cell: type, stub: Any, implementation: Any) -> None:
    """Make `implementation` what `stub` does to named tuples of type `cell`."""

    def choose(ws: Any, *arguments: Any) -> Any:
        return implementation if getattr(ws, "instance_class", None) is cell else None

    overload(stub, jit_options=OPTIONS, strict=False, **INLINED)(choose)


@pointwise("a", "b")
def copy(L: Lanes, a: Vec) -> Vec:
    """Copy a to b."""
    return a


@pointwise("a b", "b")
def accumulate(L: Lanes, a: Vec, b: Vec) -> Vec:
    """Add a to b."""
    return a + b


@pointwise("", "a")
def clear(L: Lanes) -> Vec:
    """Fill a with zeros."""
    return L.vec(0.0)


@inlined
def input_share(f: Any, row: int, rows: int) -> None:
    """Fill gates with bias + W_ih x, for some of the T * B rows."""
    out = (f.gates, row * f.GH, f.GH)
    start, w_ih = (f.packed, f.bias, 0), (f.packed, *f.w_ih)
    product(start, (f.x, row * f.I, f.I, 1), w_ih, out, rows, f.I, f.GH)


@inlined
def _input_gradient(f: Any, row: int, rows: int, d_a: int) -> None:
    """Fill d_x with W_ih^T d_a (from its element `d_a` on), for some of the T * B rows."""
    out = (f.d_x, row * f.I, f.I)
    w_ih = (f.packed, *f.w_ih)
    product((f.zeros, 0, 0), (f.d_a, d_a, f.GH, 1), w_ih, out, rows, f.GH, f.I)


@jit
def forward(ws: Any, first: int, last: int, b0: int, b1: int) -> None:
    """Run rows b0 ... b1 - 1 through steps first ... last - 1, counted as they are processed."""
    before = set_float_state()
    f = ws.frame
    rows = b1 - b0
    # Few rows (then all there are) are too few for a tile: take those of all steps together.
    together = rows < ROWS
    if together:
        t = f.T - last if f.reverse else first
        input_share(f, t * f.B, (last - first) * f.B)
    for number in range(first, last):
        t = f.T - 1 - number if f.reverse else number
        if f.reset.size:
            for b in range(b0, b1):
                if f.reset[t, b] and (not f.padded or t < f.lengths[b]):
                    for k in range(len(f.states)):
                        n = f.widths[k]
                        copy((f.reset_states[k], f.states[k]), (b * n, b * n), n)
        h = t * f.B * f.widths[0] if f.direct else 0
        step(ws, t, b0, rows, h, not together)
        for k in range(len(f.states)):
            n = f.widths[k]
            place = t * f.B * n
            if k == 0 and f.direct:
                if number == f.T - 1:
                    copy((f.h_out, f.states[0]), (h + b0 * n, b0 * n), rows * n)
                continue
            if not f.padded:
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
    restore_float_state(before)


@jit
def backward(ws: Any, first: int, last: int, b0: int, b1: int) -> None:
    """Run rows b0 ... b1 - 1 back through steps first ... last - 1, the last processed first."""
    before = set_float_state()
    steps_backward(ws, first, last, b0, b1)
    restore_float_state(before)


@inlined
def steps_backward(ws: Any, first: int, last: int, b0: int, b1: int) -> None:
    """Do what `backward` does, in the floating-point state that there is."""
    f = ws.frame
    rows = b1 - b0
    earliest = first if f.reverse else f.T - last
    start_d_a = earliest if f.reused else 0
    for number in range(first, last):
        t = number if f.reverse else f.T - 1 - number
        d_a = ((t - start_d_a) * f.B + b0) * f.GH
        for k in range(len(f.d_states)):
            n = f.widths[k]
            if not f.padded:
                start, size = b0 * n, rows * n
                if not f.in_place:
                    copy((f.d_states[k], f.d_new[k]), (start, start), size)
                continue
            for b in range(b0, b1):
                row = b * n
                if t >= f.lengths[b]:  # a step that was not taken: zero in, zero out
                    clear((f.d_new[k],), (row,), n)
                else:
                    copy((f.d_states[k], f.d_new[k]), (row, row), n)
        step_backward(ws, t, b0, rows, d_a)
        if rows >= ROWS:
            _input_gradient(f, t * f.B + b0, rows, d_a)
        if f.in_place:
            continue
        for k in range(len(f.d_states)):
            n = f.widths[k]
            for b in range(b0, b1):
                row = b * n
                if f.padded and t >= f.lengths[b]:
                    continue
                if f.reset.size and f.reset[t, b]:
                    accumulate((f.d_consumed[k], f.d_reset_states[k]), (row, row), n)
                    clear((f.d_states[k],), (row,), n)
                else:
                    copy((f.d_consumed[k], f.d_states[k]), (row, row), n)
    if rows < ROWS:
        d_a = (earliest - start_d_a) * f.B * f.GH
        _input_gradient(f, earliest * f.B, (last - first) * f.B, d_a)


def forward_frame(
    call: Call, ws: Forward, gates: Array, packed: Array, bias: int, w_ih: Place
) -> ForwardFrame:
    """Lay out what the loop reads and writes, and start the running state."""
    states = ws.state
    for n, initial in enumerate(call.state):
        states[n][...] = initial
    sequences: State = (ws.output,)
    if len(states) > 1:
        sequences += (empty((0, 0, 0), gates.dtype) if ws.cells is None else ws.cells,)
    padded, masked = call.lengths is not None, call.reset is not None
    new = _scratch(states) if padded else states
    direct = bool(ws.before) and not (padded or masked)
    (x,) = writable((call.x,))
    # In the order of the fields: with keywords it took twice as long.
    return ForwardFrame(
        *_common(call),
        writable(call.reset_state) if masked else states,  # without resets nothing reads them
        states,
        new,
        sequences,
        direct,
        ws.before[0] if direct else states[0][None],
        ws.output if direct else new[0][None],
        x,
        gates,
        packed,
        bias,
        w_ih,
    )


def backward_frame(
    call: Call,
    d_output: Array,
    d_state: State,
    d_a: Array,
    packed: Array,
    w_ih: Place,
    h: Array,
    ws: Backward,
    *,
    reused: bool = False,
) -> BackwardFrame:
    """Lay out what the loop reads and writes, and start the running gradient."""
    states, weights = ws.state, ws.weights
    for n, last in enumerate(d_state):
        states[n][...] = last
    for array in ws.reset_state:
        array[...] = 0
    in_place = call.lengths is None and call.reset is None
    if call.lengths is not None:
        d_output = without_padding(d_output, call.lengths)
    d_output, x, h = writable((d_output, call.x, h))
    GH, I = weights.ih.shape
    return BackwardFrame(
        *_common(call),
        ws.reset_state or states,  # without resets nothing reads them
        states,
        states if in_place else _scratch(states),
        states if in_place else _scratch(states),
        in_place,
        d_output,
        d_a,
        reused,
        packed,
        w_ih,
        x,
        h,
        ws.x,
        weights.ih,
        weights.hh,
        constant(0, 0, x.dtype) if weights.b_ih is None else weights.b_ih,
        zeros_and_one(max(I, GH), x.dtype),
    )


class Plan(NamedTuple):
    """How a pass is cut up. The gradients' bits depend on `span`, so on B alone."""

    chunk: int  # steps between two returns to Python, some 10 ms
    rows: list[tuple[int, int]]  # of the batch, a range for each thread
    span: int  # steps whose gradients are taken at once
    parts: int  # threads for the gradients of the weights
    alone: bool  # whether one thread does it all, and gradients follow the loop span by span

    @property
    def steps_at_once(self) -> int:
        """The most steps that the loop backward passes over before their gradients are taken."""
        return self.span if self.alone else self.chunk


def plan(call: Call) -> Plan:
    """Cut up a pass."""
    w = call.weights
    T, B, _ = call.x.shape
    return _plan(T, B, w.ih.size + w.hh.size, len(w.ih), num_threads())


@lru_cache(maxsize=256)
def _plan(T: int, B: int, weights: int, GH: int, threads: int) -> Plan:
    work = 2.0 * B * weights  # floating-point operations of a step's products, one way
    span = max(1, BLOCK // B)
    chunk = -(-max(1, int(5e8 / work)) // span) * span
    work *= min(T, chunk)
    rows, parts = ranges(B, ROWS, work, threads), len(ranges(GH, ROWS, work, threads))
    return Plan(chunk, rows, span, parts, alone=len(rows) == parts == 1)


def run_forward(ws: Any, call: Call) -> None:
    """Run the loop over all steps, returning to Python now and then, for Ctrl-C."""
    cut, T = plan(call), len(call.x)
    for first in range(0, T, cut.chunk):
        parallel(partial(forward, ws, first, min(T, first + cut.chunk)), cut.rows)


def both_biases(weights: Weights) -> tuple[Array, Array]:
    """Return b_ih and b_hh, or zeros, (G*H,)."""
    if weights.b_ih is None or weights.b_hh is None:
        return (constant(0, len(weights.ih), weights.ih.dtype),) * 2
    return weights.b_ih, weights.b_hh


def _scratch(arrays: State) -> State:
    return tuple([empty(array.shape, array.dtype) for array in arrays])


def _common(call: Call) -> tuple[int, int, int, int, bool, bool, tuple[int, ...], Array, Array]:
    weights, lengths, reset = call.weights, call.lengths, call.reset
    return (
        *call.x.shape,
        len(weights.ih),
        call.reverse,
        lengths is not None,
        tuple([array.shape[1] for array in call.state]),
        NO_LENGTHS if lengths is None else writable((lengths,))[0],
        NO_RESETS if reset is None else writable((reset,))[0],
    )
