"""The gated recurrent unit: gates r, z, n; h' = (1 - z) n + z h, the reset before or after."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import reference
from ..validation import Array
from ..workspace import Backward, Call, Forward, State, empty
from . import activations, gradients, sequence
from .activations import GATES, Gate
from .product import Packed, constant, packed, packed_pair, product, writable
from .sequence import BackwardFrame, ForwardFrame, input_share
from .vectors import Lanes, Vec, pointwise


class GRUForward(NamedTuple):
    """Arrays of a forward pass; the frame's gates become the activated ones, (T, B, 3, H)."""

    frame: ForwardFrame
    reset_after: bool
    hard: bool  # gates are hard sigmoids
    keep: int  # 1 if hidden_n keeps every step, 0 if it is one step's scratch
    hidden_n: Array  # (T or 1, B, H): W_hn h + b_hn, or W_hn (r h) + b_hn
    rh: Array  # (B, H): r h, scratch of the reset before the product
    b_hn: Array  # (H,)
    w_rz: Packed  # (H, 2H), from state to pre-activations
    w_n: Packed  # (H, H)


class GRUBackward(NamedTuple):
    """Arrays of a backward pass; the frame's d_a starts as the activated gates."""

    frame: BackwardFrame
    reset_after: bool
    hard: bool
    hidden_n: Array  # (T, B, H): as recorded, then (reset after) its gradient
    h: Array  # (T, B, H): the state that each step consumed
    d_rh: Array  # (B, H): scratch
    w_rz: Packed  # (2H, H), from pre-activations to state
    w_n: Packed  # (H, H)


def _update(L: Lanes, z: Vec, n: Vec, h: Vec) -> Vec:
    return L.fma(z, h, (1.0 - z) * n)


@pointwise("r z n hn h", "r z n h_new", GATES)
def gates_after(L: Lanes, gate: Gate, r: Vec, z: Vec, n: Vec, hn: Vec, h: Vec) -> tuple[Vec, ...]:
    """One row forward, reset after the product."""
    r, z = gate.value(L, r), gate.value(L, z)
    n = activations.tanh(L, L.fma(r, hn, n))
    return r, z, n, _update(L, z, n, h)


@pointwise("r z h", "r z rh", GATES)
def gates_before(L: Lanes, gate: Gate, r: Vec, z: Vec, h: Vec) -> tuple[Vec, ...]:
    """One row forward, reset before the product: what comes before it."""
    r = gate.value(L, r)
    return r, gate.value(L, z), r * h


@pointwise("z n hn h", "n h_new")
def update_before(L: Lanes, z: Vec, n: Vec, hn: Vec, h: Vec) -> tuple[Vec, ...]:
    """One row forward, reset before the product: what comes after it."""
    n = activations.tanh(L, n + hn)
    return n, _update(L, z, n, h)


@pointwise("r z n hn h d_h d_y", "r z n hn d_consumed", GATES)
def gates_after_backward(
    L: Lanes, gate: Gate, r: Vec, z: Vec, n: Vec, hn: Vec, h: Vec, d_h: Vec, d_y: Vec
) -> tuple[Vec, ...]:
    """One row backward, reset after the product: gates and hn become their gradients."""
    d_h = d_h + d_y
    d_n = d_h * (1.0 - z) * (1.0 - n * n)
    d_z = gate.gradient(L, d_h * (h - n), z)
    return gate.gradient(L, d_n * hn, r), d_z, d_n, d_n * r, d_h * z


@pointwise("z n h d_h d_y", "z n d_consumed", GATES)
def update_before_backward(
    L: Lanes, gate: Gate, z: Vec, n: Vec, h: Vec, d_h: Vec, d_y: Vec
) -> tuple[Vec, ...]:
    """One row backward, reset before the product: what came after it."""
    d_h = d_h + d_y
    d_z = gate.gradient(L, d_h * (h - n), z)
    return d_z, d_h * (1.0 - z) * (1.0 - n * n), d_h * z


@pointwise("r h d_rh d_consumed", "r d_consumed", GATES)
def gates_before_backward(
    L: Lanes, gate: Gate, r: Vec, h: Vec, d_rh: Vec, d_consumed: Vec
) -> tuple[Vec, ...]:
    """One row backward, reset before the product: what came before it."""
    return gate.gradient(L, d_rh * h, r), L.fma(d_rh, r, d_consumed)


def gru_step(ws: Any, t: Any, b: Any, rows: Any, h: Any, fresh: Any) -> Any:
    """One step forward."""
    f = ws.frame
    H = f.widths[0]
    if fresh:  # n's share stays apart
        input_share(f, t * f.B + b, rows)
    g, start = f.gates, t * f.B * 3 * H
    pre = (g, start + b * 3 * H, 3 * H)
    state = (f.h_in, h + b * H, H, 1)
    hidden = t * f.B * H * ws.keep
    out = (ws.hidden_n, hidden + b * H, H)
    product(pre, state, ws.w_rz, pre, rows, H, 2 * H)
    if ws.reset_after:
        product((ws.b_hn, 0, 0), state, ws.w_n, out, rows, H, H)
        arrays = (g, g, g, ws.hidden_n, f.h_in, f.h_out)
        for row in range(b, b + rows):
            q, s, r = start + row * 3 * H, hidden + row * H, h + row * H
            gates_after(arrays, (q, q + H, q + 2 * H, s, r, r), H, ws.hard)
    else:
        for row in range(b, b + rows):
            q, r = start + row * 3 * H, row * H
            gates_before((g, g, f.h_in, ws.rh), (q, q + H, h + r, r), H, ws.hard)
        product((ws.b_hn, 0, 0), (ws.rh, b * H, H, 1), ws.w_n, out, rows, H, H)
        for row in range(b, b + rows):
            q, s, r = start + row * 3 * H, hidden + row * H, h + row * H
            update_before((g, g, ws.hidden_n, f.h_in, f.h_out), (q + H, q + 2 * H, s, r, r), H)


def gru_step_backward(ws: Any, t: Any, b: Any, rows: Any, d_a: Any) -> Any:
    """One step backward."""
    f = ws.frame
    H = f.widths[0]
    g, d_h, d_consumed = f.d_a, f.d_new[0], f.d_consumed[0]
    start, hidden = t * f.B * 3 * H, t * f.B * H
    out = (d_consumed, b * H, H)
    if ws.reset_after:
        arrays = (g, g, g, ws.hidden_n, ws.h, d_h, f.d_output, d_consumed)
        for row in range(b, b + rows):
            q, s, r = start + row * 3 * H, hidden + row * H, row * H
            gates_after_backward(arrays, (q, q + H, q + 2 * H, s, s, r, s, r), H, ws.hard)
        product(out, (ws.hidden_n, hidden + b * H, H, 1), ws.w_n, out, rows, H, H)
    else:
        update = (g, g, ws.h, d_h, f.d_output, d_consumed)
        for row in range(b, b + rows):
            q, s, r = start + row * 3 * H, hidden + row * H, row * H
            update_before_backward(update, (q + H, q + 2 * H, s, r, s, r), H, ws.hard)
        d_rh = (ws.d_rh, b * H, H)
        product((f.zeros, 0, 0), (g, d_a + 2 * H, 3 * H, 1), ws.w_n, d_rh, rows, H, H)
        for row in range(b, b + rows):
            q, s, r = start + row * 3 * H, hidden + row * H, row * H
            gates_before_backward((g, ws.h, ws.d_rh, d_consumed), (q, s, r, r), H, ws.hard)
    product(out, (g, d_a, 3 * H, 1), ws.w_rz, out, rows, 2 * H, H)


sequence.steps_of(GRUForward, sequence.step, gru_step)
sequence.steps_of(GRUBackward, sequence.step_backward, gru_step_backward)


def forward(call: Call, ws: Forward) -> None:
    """Run one layer in one direction over a window and fill `ws`."""
    T, B, _ = call.x.shape
    w, H, dtype, record = call.weights, call.hidden_size, call.x.dtype, bool(ws.records)
    gates = ws.records["gates"] if record else empty((T, B, 3, H), dtype)
    w_ih, w_rz, bias = sequence.prepared(call, w.hh[: 2 * H])
    b_hn = constant(0, H, dtype)
    if w.b_ih is not None and w.b_hh is not None:  # those of n stay apart: r comes in between
        bias[2 * H :] = w.b_ih[2 * H :]
        b_hn = w.b_hh[2 * H :]
    arrays = GRUForward(
        frame=sequence.forward_frame(call, ws, gates, bias, w_ih),
        reset_after=call.options["reset_after"],
        hard=call.options["gate_activation"] == "hard_sigmoid",
        keep=int(record),
        hidden_n=ws.records["hidden_n"] if record else empty((1, B, H), dtype),
        rh=empty((B, H), dtype),
        b_hn=writable(b_hn),
        w_rz=w_rz,
        w_n=packed(w.hh[2 * H :], transpose=True),
    )
    sequence.run_forward(arrays, call)


@np.errstate(all="ignore")  # inf and NaN are results, not messages
def backward(call: Call, tape: Forward, d_output: Array, d_state: State, ws: Backward) -> None:
    """Run it backward and fill `ws`."""
    w, H, dtype = call.weights, call.hidden_size, call.x.dtype
    after = call.options["reset_after"]
    (h,) = reference.consumed_states(call, tape)
    gates, hidden_n = tape.records["gates"], tape.records["hidden_n"]
    operand_n = h if after else gates[:, :, 0] * h  # before the gates are overwritten
    w_rz, w_n, _ = packed_pair(w.hh[: 2 * H], w.hh[2 * H :])
    arrays = GRUBackward(
        frame=sequence.backward_frame(call, d_output, d_state, gates, packed(w.ih), ws),
        reset_after=after,
        hard=call.options["gate_activation"] == "hard_sigmoid",
        hidden_n=hidden_n,
        h=writable(h),
        d_rh=empty((call.x.shape[1], H), dtype),
        w_rz=w_rz,
        w_n=w_n,
    )
    d_a = gates.reshape(-1)
    d_n = (hidden_n.reshape(-1), 0, H) if after else (d_a, 2 * H, 3 * H)
    grads = ws.weights
    b_rz, b_n = (None, None) if grads.b_hh is None else (grads.b_hh[: 2 * H], grads.b_hh[2 * H :])
    wanted = (
        gradients.weight_gradient((d_a, 0, 3 * H), call.x, grads.ih, grads.b_ih),
        gradients.weight_gradient((d_a, 0, 3 * H), h, grads.hh[: 2 * H], b_rz),
        gradients.weight_gradient(d_n, operand_n, grads.hh[2 * H :], b_n),
    )
    gradients.run(arrays, wanted, call, sequence.plan(call))
