"""The long short-term memory: gates i, f, g, o; c' = f c + i g; h' = o tanh(c'), or its projection."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import reference
from ..validation import Array
from ..workspace import Backward, Call, Forward, State, empty
from . import activations, sequence
from .product import add_product, pack
from .sequence import BackwardFrame, ForwardFrame, clear, copy, flat
from .vectors import Lanes, Vec, pointwise


class LSTMForward(NamedTuple):
    """Flat arrays of a forward pass."""

    frame: ForwardFrame
    projects: bool
    gates: Array  # (T, B, 4, H): W_ih x, then the activated gates
    bias: Array  # (4, H): b_ih + b_hh
    hidden: Array  # (B, H): o tanh(c'); without a projection the frame's new hidden state itself
    w_hh: Array  # packed (R, 4H), from state to pre-activations
    w_hr: Array  # packed (H, P), or empty


class LSTMBackward(NamedTuple):
    """Flat arrays of a backward pass."""

    frame: BackwardFrame
    projects: bool
    gates: Array  # (T, B, 4, H): the activated gates, then the gradients of the pre-activations
    c: Array  # (T, B, H): after each step
    c_consumed: Array  # (T, B, H): before it
    d_projected: Array  # (T, B, P): gradient of the projection, or empty
    d_hidden: Array  # (B, H): of o tanh(c'); without a projection the frame's new hidden state's
    w_hh: Array  # packed (4H, R), from pre-activations to state
    w_hr: Array  # packed (P, H), or empty


@pointwise("i f g o b_i b_f b_g b_o c", "i f g o c_new h")
def row_forward(
    L: Lanes, i: Vec, f: Vec, g: Vec, o: Vec, b_i: Vec, b_f: Vec, b_g: Vec, b_o: Vec, c: Vec
) -> tuple[Vec, ...]:
    """One row forward."""
    i = activations.sigmoid(L, i + b_i)
    f = activations.sigmoid(L, f + b_f)
    g = activations.tanh(L, g + b_g)
    o = activations.sigmoid(L, o + b_o)
    c = L.fma(f, c, i * g)
    return i, f, g, o, c, o * activations.tanh(L, c)


@pointwise("i f g o c_consumed c d_h d_c", "i f g o d_c_consumed")
def row_backward(
    L: Lanes, i: Vec, f: Vec, g: Vec, o: Vec, c_consumed: Vec, c: Vec, d_h: Vec, d_c: Vec
) -> tuple[Vec, ...]:
    """One row backward: the gates become the gradients of their pre-activations."""
    t = activations.tanh(L, c)
    d_c = L.fma(d_h * o, 1.0 - t * t, d_c)
    return (
        d_c * g * i * (1.0 - i),
        d_c * c_consumed * f * (1.0 - f),
        d_c * i * (1.0 - g * g),
        d_h * t * o * (1.0 - o),
        d_c * f,
    )


def lstm_step(ws: Any, t: Any) -> Any:
    """One step forward."""
    f = ws.frame
    R, H = f.widths
    g = ws.gates
    add_product(f.states[0], 0, R, ws.w_hh, 0, g, t * f.B * 4 * H, 4 * H, f.B, R, 4 * H)
    for b in range(f.B):
        q, r = (t * f.B + b) * 4 * H, b * H
        row_forward(
            (g, g, g, g, ws.bias, ws.bias, ws.bias, ws.bias, f.states[1], f.new[1], ws.hidden),
            (q, q + H, q + 2 * H, q + 3 * H, 0, H, 2 * H, 3 * H, r, r, r),
            H,
        )
    if ws.projects:
        clear((f.new[0],), (0,), f.B * R)
        add_product(ws.hidden, 0, H, ws.w_hr, 0, f.new[0], 0, R, f.B, H, R)


def lstm_step_backward(ws: Any, t: Any) -> Any:
    """One step backward."""
    f = ws.frame
    R, H = f.widths
    g = ws.gates
    if ws.projects:
        copy((f.d_new[0], ws.d_projected), (0, t * f.B * R), f.B * R)
        clear((ws.d_hidden,), (0,), f.B * H)
        add_product(f.d_new[0], 0, R, ws.w_hr, 0, ws.d_hidden, 0, H, f.B, R, H)
    for b in range(f.B):
        q, s, r = (t * f.B + b) * 4 * H, (t * f.B + b) * H, b * H
        row_backward(
            (g, g, g, g, ws.c_consumed, ws.c, ws.d_hidden, f.d_new[1], f.d_consumed[1]),
            (q, q + H, q + 2 * H, q + 3 * H, s, s, r, r, r),
            H,
        )
    clear((f.d_consumed[0],), (0,), f.B * R)
    add_product(g, t * f.B * 4 * H, 4 * H, ws.w_hh, 0, f.d_consumed[0], 0, R, f.B, 4 * H, R)


sequence.steps_of(LSTMForward, sequence.step, lstm_step)
sequence.steps_of(LSTMBackward, sequence.step_backward, lstm_step_backward)


def forward(call: Call, ws: Forward) -> None:
    """Run one layer in one direction over a window and fill `ws`."""
    T, B, _ = call.x.shape
    H, hr, dtype = call.hidden_size, call.weights.hr, call.x.dtype
    gates = ws.records["gates"] if ws.records else empty((T, B, 4, H), dtype)
    sequence.input_product(call, gates)
    frame = sequence.forward_frame(call, ws)
    arrays = LSTMForward(
        frame=frame,
        projects=hr is not None,
        gates=flat(gates),
        bias=sequence.summed_bias(call),
        hidden=frame.new[0] if hr is None else empty((B * H,), dtype),
        w_hh=pack(call.weights.hh.T),
        w_hr=empty((0,), dtype) if hr is None else pack(hr.T),
    )
    sequence.run(sequence.forward, arrays, call)


def backward(call: Call, tape: Forward, d_output: Array, d_state: State, ws: Backward) -> None:
    """Run it backward and fill `ws`."""
    B, H, hr, dtype = call.x.shape[1], call.hidden_size, call.weights.hr, call.x.dtype
    h, c = reference.consumed_states(call, tape)
    gates, cells = tape.records["gates"], tape.cells
    assert cells is not None
    hidden, d_projected = None, empty((0,), dtype)
    if hr is not None:
        hidden = gates[:, :, 3] * np.tanh(cells)  # before the gates are overwritten
        d_projected = empty(tape.output.shape, dtype)
    frame = sequence.backward_frame(call, d_output, d_state, ws)
    arrays = LSTMBackward(
        frame=frame,
        projects=hr is not None,
        gates=flat(gates),
        c=flat(cells),
        c_consumed=flat(c),
        d_projected=flat(d_projected),
        d_hidden=frame.d_new[0] if hr is None else empty((B * H,), dtype),
        w_hh=pack(call.weights.hh),
        w_hr=empty((0,), dtype) if hr is None else pack(hr),
    )
    sequence.run(sequence.backward, arrays, call)
    d_a = gates.reshape(*gates.shape[:2], 4 * H)
    reference.input_gradients(call, d_a, ws)
    sequence.product_gradient(d_a, h, ws.weights.hh)
    sequence.same_bias_gradient(ws)
    if hidden is not None and ws.weights.hr is not None:
        sequence.product_gradient(d_projected, hidden, ws.weights.hr)
