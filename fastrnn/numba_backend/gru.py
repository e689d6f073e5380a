"""The gated recurrent unit: gates r, z, n; h' = (1 - z) n + z h, the reset before or after."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import reference
from ..validation import Array
from ..workspace import Backward, Call, Forward, State, empty
from . import activations, sequence
from .product import add_product, pack
from .sequence import BackwardFrame, ForwardFrame, clear, flat
from .vectors import Lanes, Vec, pointwise


class GRUForward(NamedTuple):
    """Flat arrays of a forward pass."""

    frame: ForwardFrame
    reset_after: bool
    keep: int  # 1 if hidden_n keeps every step, 0 if it is one step's scratch
    gates: Array  # (T, B, 3, H): W_ih x, then the activated gates
    hidden_n: Array  # (T or 1, B, H): W_hn h + b_hn, or W_hn (r h) + b_hn
    rh: Array  # (B, H): r h, scratch of the reset before the product
    bias: Array  # (4, H): b_r, b_z (input's and hidden side's), b_in, b_hn
    w_rz: Array  # packed (H, 2H), from state to pre-activations
    w_n: Array  # packed (H, H)


class GRUBackward(NamedTuple):
    """Flat arrays of a backward pass."""

    frame: BackwardFrame
    reset_after: bool
    gates: Array  # (T, B, 3, H): the activated gates, then the gradients of the pre-activations
    hidden_n: Array  # (T, B, H): as recorded, then (reset after) its gradient
    h: Array  # (T, B, H): the state that each step consumed
    d_rh: Array  # (B, H): scratch
    w_rz: Array  # packed (2H, H), from pre-activations to state
    w_n: Array  # packed (H, H)


def _update(L: Lanes, z: Vec, n: Vec, h: Vec) -> Vec:
    return L.fma(z, h, (1.0 - z) * n)


@pointwise("r z n hn b_r b_z b_in b_hn h", "r z n hn h_new")
def row_after(
    L: Lanes, r: Vec, z: Vec, n: Vec, hn: Vec, b_r: Vec, b_z: Vec, b_in: Vec, b_hn: Vec, h: Vec
) -> tuple[Vec, ...]:
    """One row forward, reset after the product."""
    r = activations.sigmoid(L, r + b_r)
    z = activations.sigmoid(L, z + b_z)
    hn = hn + b_hn
    n = activations.tanh(L, L.fma(r, hn, n + b_in))
    return r, z, n, hn, _update(L, z, n, h)


@pointwise("r z b_r b_z h", "r z rh")
def row_before_gates(L: Lanes, r: Vec, z: Vec, b_r: Vec, b_z: Vec, h: Vec) -> tuple[Vec, ...]:
    """One row forward, reset before the product: what comes before it."""
    r = activations.sigmoid(L, r + b_r)
    return r, activations.sigmoid(L, z + b_z), r * h


@pointwise("z n hn b_in b_hn h", "n hn h_new")
def row_before_update(
    L: Lanes, z: Vec, n: Vec, hn: Vec, b_in: Vec, b_hn: Vec, h: Vec
) -> tuple[Vec, ...]:
    """One row forward, reset before the product: what comes after it."""
    hn = hn + b_hn
    n = activations.tanh(L, n + b_in + hn)
    return n, hn, _update(L, z, n, h)


@pointwise("r z n hn h d_h", "r z n hn d_consumed")
def row_after_backward(
    L: Lanes, r: Vec, z: Vec, n: Vec, hn: Vec, h: Vec, d_h: Vec
) -> tuple[Vec, ...]:
    """One row backward, reset after the product: gates and hn become their gradients."""
    d_n = d_h * (1.0 - z) * (1.0 - n * n)
    d_z = d_h * (h - n) * z * (1.0 - z)
    return d_n * hn * r * (1.0 - r), d_z, d_n, d_n * r, d_h * z


@pointwise("z n h d_h", "z n d_consumed")
def row_before_update_backward(L: Lanes, z: Vec, n: Vec, h: Vec, d_h: Vec) -> tuple[Vec, ...]:
    """One row backward, reset before the product: what came after it."""
    return d_h * (h - n) * z * (1.0 - z), d_h * (1.0 - z) * (1.0 - n * n), d_h * z


@pointwise("r h d_rh d_consumed", "r d_consumed")
def row_before_gates_backward(
    L: Lanes, r: Vec, h: Vec, d_rh: Vec, d_consumed: Vec
) -> tuple[Vec, ...]:
    """One row backward, reset before the product: what came before it."""
    return d_rh * h * r * (1.0 - r), L.fma(d_rh, r, d_consumed)


def gru_step(ws: Any, t: Any) -> Any:
    """One step forward."""
    f = ws.frame
    H = f.widths[0]
    B, g, bias, h = f.B, ws.gates, ws.bias, f.states[0]
    start, hidden = t * B * 3 * H, t * B * H * ws.keep
    add_product(h, 0, H, ws.w_rz, 0, g, start, 3 * H, B, H, 2 * H)
    clear((ws.hidden_n,), (hidden,), B * H)
    if ws.reset_after:
        add_product(h, 0, H, ws.w_n, 0, ws.hidden_n, hidden, H, B, H, H)
        for b in range(B):
            q, s, r = start + b * 3 * H, hidden + b * H, b * H
            row_after(
                (g, g, g, ws.hidden_n, bias, bias, bias, bias, h, f.new[0]),
                (q, q + H, q + 2 * H, s, 0, H, 2 * H, 3 * H, r, r),
                H,
            )
    else:
        for b in range(B):
            q, r = start + b * 3 * H, b * H
            row_before_gates((g, g, bias, bias, h, ws.rh), (q, q + H, 0, H, r, r), H)
        add_product(ws.rh, 0, H, ws.w_n, 0, ws.hidden_n, hidden, H, B, H, H)
        for b in range(B):
            q, s, r = start + b * 3 * H, hidden + b * H, b * H
            row_before_update(
                (g, g, ws.hidden_n, bias, bias, h, f.new[0]),
                (q + H, q + 2 * H, s, 2 * H, 3 * H, r, r),
                H,
            )


def gru_step_backward(ws: Any, t: Any) -> Any:
    """One step backward."""
    f = ws.frame
    H = f.widths[0]
    B, g, d_h, d_consumed = f.B, ws.gates, f.d_new[0], f.d_consumed[0]
    start, hidden = t * B * 3 * H, t * B * H
    if ws.reset_after:
        for b in range(B):
            q, s, r = start + b * 3 * H, hidden + b * H, b * H
            row_after_backward(
                (g, g, g, ws.hidden_n, ws.h, d_h, d_consumed),
                (q, q + H, q + 2 * H, s, s, r, r),
                H,
            )
        add_product(ws.hidden_n, hidden, H, ws.w_n, 0, d_consumed, 0, H, B, H, H)
    else:
        for b in range(B):
            q, s, r = start + b * 3 * H, hidden + b * H, b * H
            row_before_update_backward(
                (g, g, ws.h, d_h, d_consumed), (q + H, q + 2 * H, s, r, r), H
            )
        clear((ws.d_rh,), (0,), B * H)
        add_product(g, start + 2 * H, 3 * H, ws.w_n, 0, ws.d_rh, 0, H, B, H, H)
        for b in range(B):
            q, s, r = start + b * 3 * H, hidden + b * H, b * H
            row_before_gates_backward((g, ws.h, ws.d_rh, d_consumed), (q, s, r, r), H)
    add_product(g, start, 3 * H, ws.w_rz, 0, d_consumed, 0, H, B, 2 * H, H)


sequence.steps_of(GRUForward, sequence.step, gru_step)
sequence.steps_of(GRUBackward, sequence.step_backward, gru_step_backward)


def forward(call: Call, ws: Forward) -> None:
    """Run one layer in one direction over a window and fill `ws`."""
    T, B, _ = call.x.shape
    w, H, dtype, record = call.weights, call.hidden_size, call.x.dtype, bool(ws.records)
    gates = ws.records["gates"] if record else empty((T, B, 3, H), dtype)
    sequence.input_product(call, gates)
    bias = np.zeros((4, H), dtype)
    if w.b_ih is not None and w.b_hh is not None:
        bias[:3] = w.b_ih.reshape(3, H)
        bias[:2] += w.b_hh.reshape(3, H)[:2]
        bias[3] = w.b_hh[2 * H :]
    arrays = GRUForward(
        frame=sequence.forward_frame(call, ws),
        reset_after=call.options["reset_after"],
        keep=int(record),
        gates=flat(gates),
        hidden_n=flat(ws.records["hidden_n"] if record else empty((B, H), dtype)),
        rh=empty((B * H,), dtype),
        bias=flat(bias),
        w_rz=pack(w.hh[: 2 * H].T),
        w_n=pack(w.hh[2 * H :].T),
    )
    sequence.run(sequence.forward, arrays, call)


def backward(call: Call, tape: Forward, d_output: Array, d_state: State, ws: Backward) -> None:
    """Run it backward and fill `ws`."""
    w, H, dtype = call.weights, call.hidden_size, call.x.dtype
    after = call.options["reset_after"]
    (h,) = reference.consumed_states(call, tape)
    gates, hidden_n = tape.records["gates"], tape.records["hidden_n"]
    operand_n = h if after else gates[:, :, 0] * h  # before the gates are overwritten
    arrays = GRUBackward(
        frame=sequence.backward_frame(call, d_output, d_state, ws),
        reset_after=after,
        gates=flat(gates),
        hidden_n=flat(hidden_n),
        h=flat(h),
        d_rh=empty((call.x.shape[1] * H,), dtype),
        w_rz=pack(w.hh[: 2 * H]),
        w_n=pack(w.hh[2 * H :]),
    )
    sequence.run(sequence.backward, arrays, call)
    d_a = gates.reshape(*gates.shape[:2], 3 * H)
    reference.input_gradients(call, d_a, ws)
    sequence.product_gradient(d_a[..., : 2 * H], h, ws.weights.hh[: 2 * H])
    d_hidden_n = hidden_n if after else d_a[..., 2 * H :]
    sequence.product_gradient(d_hidden_n, operand_n, ws.weights.hh[2 * H :])
    sequence.same_bias_gradient(ws)
    if after and ws.weights.b_hh is not None:
        hidden_n.reshape(-1, H).sum(axis=0, out=ws.weights.b_hh[2 * H :])
