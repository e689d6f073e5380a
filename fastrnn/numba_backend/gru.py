"""The gated recurrent unit: gates r, z, n; h' = (1 - z) n + z h, the reset before or after."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import reference
from ..validation import Array
from ..workspace import Backward, Call, Forward, State, empty
from . import activations, gradients, sequence
from .activations import GATES, Gate
from .gradients import WeightGradient
from .product import Place, pack, product
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
    b_hn: int  # where among the packed weights it is, (H,)
    w_rz: Place  # (H, 2H), from state to pre-activations
    w_n: Place  # (H, H)


class GRUBackward(NamedTuple):
    """Arrays of a backward pass; the frame's d_a starts as the activated gates."""

    frame: BackwardFrame
    reset_after: bool
    hard: bool
    hidden_n: Array  # (T, B, H): as recorded, then (reset after) its gradient
    operand_n: Array  # (T, B, H): what W_hn was multiplied with
    d_w_n: Array  # (H, H): W_hn's rows of the frame's d_w_hh
    d_b_hh: Array  # (3H,), or empty
    d_rh: Array  # (B, H): scratch
    w_rz: Place  # (2H, H), from pre-activations to state
    w_n: Place  # (H, H)


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
    w_n, b_hn = (f.packed, *ws.w_n), (f.packed, ws.b_hn, 0)
    product(pre, state, (f.packed, *ws.w_rz), pre, rows, H, 2 * H)
    if ws.reset_after:
        product(b_hn, state, w_n, out, rows, H, H)
        arrays = (g, g, g, ws.hidden_n, f.h_in, f.h_out)
        for row in range(b, b + rows):
            q, s, r = start + row * 3 * H, hidden + row * H, h + row * H
            gates_after(arrays, (q, q + H, q + 2 * H, s, r, r), H, ws.hard)
    else:
        for row in range(b, b + rows):
            q, r = start + row * 3 * H, row * H
            gates_before((g, g, f.h_in, ws.rh), (q, q + H, h + r, r), H, ws.hard)
        product(b_hn, (ws.rh, b * H, H, 1), w_n, out, rows, H, H)
        for row in range(b, b + rows):
            q, s, r = start + row * 3 * H, hidden + row * H, h + row * H
            update_before((g, g, ws.hidden_n, f.h_in, f.h_out), (q + H, q + 2 * H, s, r, r), H)


def gru_step_backward(ws: Any, t: Any, b: Any, rows: Any, d_a: Any) -> Any:
    """One step backward."""
    f = ws.frame
    H = f.widths[0]
    g, d_h, d_consumed = f.d_a, f.d_new[0], f.d_consumed[0]
    start, hidden = t * f.B * 3 * H, t * f.B * H
    out, w_n = (d_consumed, b * H, H), (f.packed, *ws.w_n)
    if ws.reset_after:
        arrays = (g, g, g, ws.hidden_n, f.h, d_h, f.d_output, d_consumed)
        for row in range(b, b + rows):
            q, s, r = start + row * 3 * H, hidden + row * H, row * H
            gates_after_backward(arrays, (q, q + H, q + 2 * H, s, s, r, s, r), H, ws.hard)
        product(out, (ws.hidden_n, hidden + b * H, H, 1), w_n, out, rows, H, H)
    else:
        update = (g, g, f.h, d_h, f.d_output, d_consumed)
        for row in range(b, b + rows):
            q, s, r = start + row * 3 * H, hidden + row * H, row * H
            update_before_backward(update, (q + H, q + 2 * H, s, r, s, r), H, ws.hard)
        d_rh = (ws.d_rh, b * H, H)
        product((f.zeros, 0, 0), (g, d_a + 2 * H, 3 * H, 1), w_n, d_rh, rows, H, H)
        for row in range(b, b + rows):
            q, s, r = start + row * 3 * H, hidden + row * H, row * H
            gates_before_backward((g, f.h, ws.d_rh, d_consumed), (q, s, r, r), H, ws.hard)
    product(out, (g, d_a, 3 * H, 1), (f.packed, *ws.w_rz), out, rows, 2 * H, H)


def gru_gradients(ws: Any, at: Any) -> Any:
    """Add to the gradients of the weights: W_ih, the rows of r and z of W_hh, and those of n."""
    f = ws.frame
    H, GH = f.widths[0], f.GH
    d_a, x, h = f.d_a.reshape(f.d_a.size), f.x.reshape(f.x.size), f.h.reshape(f.h.size)
    operand_n = ws.operand_n.reshape(ws.operand_n.size)
    d_n, first, step = d_a, 2 * H, GH
    if ws.reset_after:
        d_n, first, step = ws.hidden_n.reshape(ws.hidden_n.size), 0, H
    b_rz, b_n = ws.d_b_hh[: 2 * H], ws.d_b_hh[2 * H :]
    gradients.add(WeightGradient(d_a, 0, GH, False, x, f.d_w_ih, f.d_b_ih, GH, f.I), at)
    gradients.add(WeightGradient(d_a, 0, GH, False, h, f.d_w_hh, b_rz, 2 * H, H), at)
    gradients.add(WeightGradient(d_n, first, step, False, operand_n, ws.d_w_n, b_n, H, H), at)


sequence.steps_of(GRUForward, sequence.step, gru_step)
sequence.steps_of(GRUBackward, sequence.step_backward, gru_step_backward)
sequence.steps_of(GRUBackward, gradients.add_gradients, gru_gradients)


def forward(call: Call, ws: Forward) -> None:
    """Run one layer in one direction over a window and fill `ws`."""
    T, B, _ = call.x.shape
    w, H, dtype, record = call.weights, call.hidden_size, call.x.dtype, bool(ws.records)
    gates = ws.records["gates"] if record else empty((T, B, 3, H), dtype)
    weights = w.ih, w.hh[: 2 * H], w.hh[2 * H :]
    packed, (w_ih, w_rz, w_n), bias = pack(
        weights,
        transpose=True,
        biases=sequence.both_biases(w),
        apart=H,  # those of n: r comes in between
    )
    arrays = GRUForward(
        sequence.forward_frame(call, ws, gates, packed, bias, w_ih),
        reset_after=call.options["reset_after"],
        hard=call.options["gate_activation"] == "hard_sigmoid",
        keep=int(record),
        hidden_n=ws.records["hidden_n"] if record else empty((1, B, H), dtype),
        rh=empty((B, H), dtype),
        b_hn=bias + 3 * H,
        w_rz=w_rz,
        w_n=w_n,
    )
    sequence.run_forward(arrays, call)


@np.errstate(all="ignore")  # inf and NaN are results, not messages
def backward(call: Call, tape: Forward, d_output: Array, d_state: State, ws: Backward) -> None:
    """Run it backward and fill `ws`."""
    w, H, after = call.weights, call.hidden_size, call.options["reset_after"]
    (h,) = reference.consumed_states(call, tape)
    gates, hidden_n = tape.records["gates"], tape.records["hidden_n"]
    operand_n = None if after else gates[:, :, 0] * h  # before the gates are overwritten
    packed, (w_ih, w_rz, w_n), _ = pack((w.ih, w.hh[: 2 * H], w.hh[2 * H :]))
    frame = sequence.backward_frame(call, d_output, d_state, gates, packed, w_ih, h, ws)
    arrays = GRUBackward(
        frame,
        reset_after=after,
        hard=call.options["gate_activation"] == "hard_sigmoid",
        hidden_n=hidden_n,
        operand_n=frame.h if operand_n is None else operand_n,
        d_w_n=ws.weights.hh[2 * H :],
        d_b_hh=frame.d_b_ih if ws.weights.b_hh is None else ws.weights.b_hh,
        d_rh=empty((call.x.shape[1], H), call.x.dtype),
        w_rz=w_rz,
        w_n=w_n,
    )
    gradients.run(arrays, sequence.plan(call))
