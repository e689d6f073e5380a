"""The long short-term memory: gates i, f, g, o; c' = f c + i g; h' = o tanh(c'), or projected."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import reference
from ..validation import Array
from ..workspace import Backward, Call, Forward, State, empty
from . import activations, gradients, sequence
from .activations import GATES, Gate
from .gradients import WeightGradient
from .product import Packed, constant, packed, packed_pair, product, product_of_two, writable
from .sequence import BackwardFrame, ForwardFrame, accumulate, copy
from .vectors import Lanes, Vec, pointwise


class LSTMForward(NamedTuple):
    """Arrays of a forward pass; the frame's gates become the activated ones, (T, B, 4, H)."""

    frame: ForwardFrame
    projects: bool
    hard: bool  # gates are hard sigmoids
    hidden: Array  # (B, H): o tanh(c'); without a projection the frame's new hidden state itself
    zeros: Array  # (P,), or empty
    w_hh: Packed  # (R, 4H), from state to pre-activations
    w_hr: Packed  # (H, P), read if it projects


class LSTMBackward(NamedTuple):
    """Arrays of a backward pass; the frame's d_a starts as the activated gates."""

    frame: BackwardFrame
    projects: bool
    hard: bool
    c: Array  # (T, B, H): after each step
    c_consumed: Array  # (T, B, H): before it
    d_projected: Array  # (T, B, P): gradient of the projection, or empty
    d_hidden: Array  # (B, H): of o tanh(c'); without a projection the frame's new hidden state's
    w_hh: Packed  # (4H, R), from pre-activations to state
    w_hr: Packed  # (P, H), read if it projects


@pointwise("i f g o c", "i f g o c_new h", GATES)
def gates_forward(L: Lanes, gate: Gate, i: Vec, f: Vec, g: Vec, o: Vec, c: Vec) -> tuple[Vec, ...]:
    """One row forward."""
    i, f = gate.value(L, i), gate.value(L, f)
    g, o = activations.tanh(L, g), gate.value(L, o)
    c = L.fma(f, c, i * g)
    return i, f, g, o, c, o * activations.tanh(L, c)


@pointwise("i f g o before c d_h d_c", "i f g o d_before", GATES)
def gates_backward(
    L: Lanes, gate: Gate, i: Vec, f: Vec, g: Vec, o: Vec, before: Vec, c: Vec, d_h: Vec, d_c: Vec
) -> tuple[Vec, ...]:
    """One row backward: the gates become the gradients of their pre-activations."""
    t = activations.tanh(L, c)
    d_c = L.fma(d_h * o, 1.0 - t * t, d_c)
    return (
        gate.gradient(L, d_c * g, i),
        gate.gradient(L, d_c * before, f),
        d_c * i * (1.0 - g * g),
        gate.gradient(L, d_h * t, o),
        d_c * f,
    )


def lstm_step(ws: Any, t: Any, b: Any, rows: Any, h: Any, fresh: Any) -> Any:
    """One step forward."""
    f = ws.frame
    R, H = f.widths
    g, first = f.gates, t * f.B + b
    pre, state = (g, first * 4 * H, 4 * H), (f.h_in, h + b * R, R, 1)
    if fresh:
        start, x = (f.bias, 0, 0), (f.x, first * f.I, f.I, 1)
        product_of_two(start, x, f.w_ih, f.I, state, ws.w_hh, R, pre, rows, 4 * H)
    else:
        product(pre, state, ws.w_hh, pre, rows, R, 4 * H)
    arrays = (g, g, g, g, f.states[1], f.new[1], ws.hidden)
    hidden = 0 if ws.projects else h
    for row in range(b, b + rows):
        q, r = (t * f.B + row) * 4 * H, row * H
        places = (q, q + H, q + 2 * H, q + 3 * H, r, r, hidden + r)
        gates_forward(arrays, places, H, ws.hard)
    if ws.projects:
        out = (f.h_out, h + b * R, R)
        product((ws.zeros, 0, 0), (ws.hidden, b * H, H, 1), ws.w_hr, out, rows, H, R)


def lstm_step_backward(ws: Any, t: Any, b: Any, rows: Any, d_a: Any) -> Any:
    """One step backward."""
    f = ws.frame
    R, H = f.widths
    g = f.d_a
    accumulate((f.d_output, f.d_new[0]), ((t * f.B + b) * R, b * R), rows * R)
    if ws.projects:
        copy((f.d_new[0], ws.d_projected), (b * R, (t * f.B + b) * R), rows * R)
        out = (ws.d_hidden, b * H, H)
        product((f.zeros, 0, 0), (f.d_new[0], b * R, R, 1), ws.w_hr, out, rows, R, H)
    arrays = (g, g, g, g, ws.c_consumed, ws.c, ws.d_hidden, f.d_new[1], f.d_consumed[1])
    for row in range(b, b + rows):
        q, s, r = (t * f.B + row) * 4 * H, (t * f.B + row) * H, row * H
        places = (q, q + H, q + 2 * H, q + 3 * H, s, s, r, r, r)
        gates_backward(arrays, places, H, ws.hard)
    pre, out = (g, d_a, 4 * H, 1), (f.d_consumed[0], b * R, R)
    product((f.zeros, 0, 0), pre, ws.w_hh, out, rows, 4 * H, R)


sequence.steps_of(LSTMForward, sequence.step, lstm_step)
sequence.steps_of(LSTMBackward, sequence.step_backward, lstm_step_backward)


def forward(call: Call, ws: Forward) -> None:
    """Run one layer in one direction over a window and fill `ws`."""
    T, B, _ = call.x.shape
    H, hr, dtype = call.hidden_size, call.weights.hr, call.x.dtype
    gates = ws.records["gates"] if ws.records else empty((T, B, 4, H), dtype)
    w_ih, w_hh, bias = sequence.prepared(call, call.weights.hh)
    frame = sequence.forward_frame(call, ws, gates, bias, w_ih)
    arrays = LSTMForward(
        frame=frame,
        projects=hr is not None,
        hard=call.options["gate_activation"] == "hard_sigmoid",
        hidden=frame.h_out if hr is None else empty((1, B, H), dtype),
        zeros=constant(0, 0 if hr is None else len(hr), dtype),
        w_hh=w_hh,
        w_hr=w_hh if hr is None else packed(hr, transpose=True),
    )
    sequence.run_forward(arrays, call)


def backward(call: Call, tape: Forward, d_output: Array, d_state: State, ws: Backward) -> None:
    """Run it backward and fill `ws`."""
    B, H, hr, dtype = call.x.shape[1], call.hidden_size, call.weights.hr, call.x.dtype
    h, c = reference.consumed_states(call, tape)
    gates, cells = tape.records["gates"], tape.cells
    assert cells is not None
    hidden, d_projected = None, empty((0, 0, 0), dtype)
    if hr is not None:
        hidden = gates[:, :, 3] * np.tanh(cells)  # before the gates are overwritten
        d_projected = empty(tape.output.shape, dtype)
    w_ih, w_hh, _ = packed_pair(call.weights.ih, call.weights.hh)
    frame = sequence.backward_frame(call, d_output, d_state, gates, w_ih, ws)
    arrays = LSTMBackward(
        frame=frame,
        projects=hr is not None,
        hard=call.options["gate_activation"] == "hard_sigmoid",
        c=cells,
        c_consumed=writable(c),
        d_projected=d_projected,
        d_hidden=frame.d_new[0] if hr is None else empty((B, H), dtype),
        w_hh=w_hh,
        w_hr=w_hh if hr is None else packed(hr),
    )
    wanted: tuple[WeightGradient, ...] = gradients.shared_gradients(call, gates, h, ws)
    if hidden is not None and ws.weights.hr is not None:
        columns = (d_projected.reshape(-1), 0, len(ws.weights.hr))
        wanted += (gradients.weight_gradient(columns, hidden, ws.weights.hr, None),)
    gradients.run(arrays, wanted, call, sequence.plan(call))
    gradients.share_bias(ws)
