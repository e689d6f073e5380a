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
from .product import Place, constant, pack, product, product_of_two, writable
from .sequence import BackwardFrame, ForwardFrame, accumulate, copy
from .vectors import Lanes, Vec, pointwise


class LSTMForward(NamedTuple):
    """Arrays of a forward pass; the frame's gates become the activated ones, (T, B, 4, H)."""

    frame: ForwardFrame
    projects: bool
    hard: bool  # gates are hard sigmoids
    hidden: Array  # (B, H): o tanh(c'); without a projection the frame's new hidden state itself
    zeros: Array  # (P,), or empty
    w_hh: Place  # (R, 4H), from state to pre-activations
    w_hr: Place  # (H, P), read if it projects


class LSTMBackward(NamedTuple):
    """Arrays of a backward pass; the frame's d_a starts as the activated gates."""

    frame: BackwardFrame
    projects: bool
    hard: bool
    c: Array  # (T, B, H): after each step
    c_consumed: Array  # (T, B, H): before it
    d_projected: Array  # (T, B, P): gradient of the projection, or empty
    hidden: Array  # (T, B, H): what was projected, or empty
    d_w_hr: Array  # (P, H), or empty
    d_hidden: Array  # (B, H): of o tanh(c'); without a projection the frame's new hidden state's
    w_hh: Place  # (4H, R), from pre-activations to state
    w_hr: Place  # (P, H), read if it projects


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
    pre, state, w_hh = (g, first * 4 * H, 4 * H), (f.h_in, h + b * R, R, 1), (f.packed, *ws.w_hh)
    if fresh:
        start, x = (f.packed, f.bias, 0), (f.x, first * f.I, f.I, 1)
        product_of_two(start, x, (f.packed, *f.w_ih), f.I, state, w_hh, R, pre, rows, 4 * H)
    else:
        product(pre, state, w_hh, pre, rows, R, 4 * H)
    arrays = (g, g, g, g, f.states[1], f.new[1], ws.hidden)
    hidden = 0 if ws.projects else h
    for row in range(b, b + rows):
        q, r = (t * f.B + row) * 4 * H, row * H
        places = (q, q + H, q + 2 * H, q + 3 * H, r, r, hidden + r)
        gates_forward(arrays, places, H, ws.hard)
    if ws.projects:
        out, w_hr = (f.h_out, h + b * R, R), (f.packed, *ws.w_hr)
        product((ws.zeros, 0, 0), (ws.hidden, b * H, H, 1), w_hr, out, rows, H, R)


def lstm_step_backward(ws: Any, t: Any, b: Any, rows: Any, d_a: Any) -> Any:
    """One step backward."""
    f = ws.frame
    R, H = f.widths
    g = f.d_a
    accumulate((f.d_output, f.d_new[0]), ((t * f.B + b) * R, b * R), rows * R)
    if ws.projects:
        copy((f.d_new[0], ws.d_projected), (b * R, (t * f.B + b) * R), rows * R)
        out, w_hr = (ws.d_hidden, b * H, H), (f.packed, *ws.w_hr)
        product((f.zeros, 0, 0), (f.d_new[0], b * R, R, 1), w_hr, out, rows, R, H)
    arrays = (g, g, g, g, ws.c_consumed, ws.c, ws.d_hidden, f.d_new[1], f.d_consumed[1])
    for row in range(b, b + rows):
        q, s, r = (t * f.B + row) * 4 * H, (t * f.B + row) * H, row * H
        places = (q, q + H, q + 2 * H, q + 3 * H, s, s, r, r, r)
        gates_backward(arrays, places, H, ws.hard)
    pre, out = (g, d_a, 4 * H, 1), (f.d_consumed[0], b * R, R)
    product((f.zeros, 0, 0), pre, (f.packed, *ws.w_hh), out, rows, 4 * H, R)


def lstm_gradients(ws: Any, at: Any) -> Any:
    """Add to the gradients of the weights; without a projection that of w_hr has no rows."""
    f = ws.frame
    gradients.add_shared(f, at)
    d, hidden = ws.d_projected.reshape(ws.d_projected.size), ws.hidden.reshape(ws.hidden.size)
    (P, H), nothing = ws.d_w_hr.shape, f.zeros[:0]
    gradients.add(WeightGradient(d, 0, P, False, hidden, ws.d_w_hr, nothing, P, H), at)


sequence.steps_of(LSTMForward, sequence.step, lstm_step)
sequence.steps_of(LSTMBackward, sequence.step_backward, lstm_step_backward)
sequence.steps_of(LSTMBackward, gradients.add_gradients, lstm_gradients)


def forward(call: Call, ws: Forward) -> None:
    """Run one layer in one direction over a window and fill `ws`."""
    T, B, _ = call.x.shape
    w, H, dtype = call.weights, call.hidden_size, call.x.dtype
    gates = ws.records["gates"] if ws.records else empty((T, B, 4, H), dtype)
    weights = (w.ih, w.hh) if w.hr is None else (w.ih, w.hh, w.hr)
    biases = sequence.both_biases(w)
    packed, (w_ih, w_hh, *w_hr), bias = pack(weights, transpose=True, biases=biases)
    frame = sequence.forward_frame(call, ws, gates, packed, bias, w_ih)
    arrays = LSTMForward(
        frame,
        projects=w.hr is not None,
        hard=call.options["gate_activation"] == "hard_sigmoid",
        hidden=frame.h_out if w.hr is None else empty((1, B, H), dtype),
        zeros=constant(0, 0 if w.hr is None else len(w.hr), dtype),
        w_hh=w_hh,
        w_hr=w_hr[0] if w_hr else w_hh,
    )
    sequence.run_forward(arrays, call)


def backward(call: Call, tape: Forward, d_output: Array, d_state: State, ws: Backward) -> None:
    """Run it backward and fill `ws`."""
    w, B, H, dtype = call.weights, call.x.shape[1], call.hidden_size, call.x.dtype
    h, c = reference.consumed_states(call, tape)
    gates, cells, d_w_hr = tape.records["gates"], tape.cells, ws.weights.hr
    assert cells is not None
    weights = (w.ih, w.hh) if w.hr is None else (w.ih, w.hh, w.hr)
    packed, (w_ih, w_hh, *w_hr), _ = pack(weights)
    frame = sequence.backward_frame(call, d_output, d_state, gates, packed, w_ih, h, ws)
    if d_w_hr is None:
        d_projected = hidden = empty((0, 0, 0), dtype)
        d_w_hr = empty((0, 0), dtype)
    else:
        d_projected = empty(tape.output.shape, dtype)
        hidden = gates[:, :, 3] * np.tanh(cells)  # before the gates are overwritten
    arrays = LSTMBackward(
        frame,
        projects=w.hr is not None,
        hard=call.options["gate_activation"] == "hard_sigmoid",
        c=cells,
        c_consumed=writable((c,))[0],
        d_projected=d_projected,
        hidden=hidden,
        d_w_hr=d_w_hr,
        d_hidden=frame.d_new[0] if w.hr is None else empty((B, H), dtype),
        w_hh=w_hh,
        w_hr=w_hr[0] if w_hr else w_hh,
    )
    gradients.run(arrays, sequence.plan(call))
    gradients.share_bias(ws)
