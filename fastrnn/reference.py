"""The mathematics: what every other backend must compute. It is also the backend "numpy".

One step forward and one step backward for each cell, and one sequence loop each way. Every formula
of the library is stated here once, short and plain rather than fast. Shapes are in the comments,
with sizes T (time), B (batch), I (input), H (hidden), R (recurrent: P or H) and G (gates).

A forward step takes the input's share of the pre-activations, ``a = W_ih x_t + b_ih`` (B, G*H),
and the state that it consumes; it returns the new state and what the tape keeps. A backward step
takes the gradient of the new state and returns that of ``a``, of the consumed state, and, as
factors, of the hidden-side weights. Everything on the input's side is a product over the whole
window and is left to the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .validation import Array
from .workspace import Backward, Call, Forward, State, Weights

Records = dict[str, Array]

Factors = tuple[Array, Array]  # (B, rows) and (B, columns): of a gradient, their product a.T @ b


@dataclass(slots=True)  # which is made in half the time of a named tuple
class StepGradients:
    """What a backward step returns."""

    a: Array  # (B, G*H)
    state: State  # of the consumed state
    hidden: tuple[Factors, ...]  # of W_hh, one for each block of its rows; b_hh: sums of the first
    projection: Factors | None = None  # of weight_hr


def sigmoid(x: Array) -> Array:
    """Logistic function 1 / (1 + exp(-x)), written so that exp never overflows."""
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, e) / (1 + e))


def hard_sigmoid(x: Array) -> Array:
    """clip(0.2 x + 0.5, 0, 1): Keras 1 and 2, and HardSigmoid of ONNX as it is by default."""
    return np.clip(0.2 * x + 0.5, 0, 1)


class Gate(NamedTuple):
    """What gates are activated by, and its slope, from its value."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]


# The slope of a hard sigmoid is 0 where its value is 0 or 1, also at the kinks themselves.
GATES = {
    "sigmoid": Gate(sigmoid, lambda y: y * (1 - y)),
    "hard_sigmoid": Gate(
        hard_sigmoid, lambda y: np.where((y > 0) & (y < 1), 0.2, 0).astype(y.dtype)
    ),
}


def rnn_step(a: Array, state: State, call: Call) -> tuple[State, Records]:
    """Elman (1990): h' = tanh(a + W_hh h + b_hh), or relu."""
    (h,) = state
    a = a + _hidden_product(h, call.weights)
    return (np.tanh(a) if call.options["nonlinearity"] == "tanh" else np.maximum(a, 0),), {}


def rnn_step_backward(
    d_state: State,
    consumed: State,
    produced: State,
    records: Records,
    call: Call,
) -> StepGradients:
    """Gradient of `rnn_step`; relu has slope 0 at 0."""
    (d_h,), (h,), (h_new,) = d_state, consumed, produced
    d_a = d_h * (1 - h_new**2 if call.options["nonlinearity"] == "tanh" else h_new > 0)
    return StepGradients(d_a, (d_a @ call.weights.hh,), ((d_a, h),))


def gru_step(a: Array, state: State, call: Call) -> tuple[State, Records]:
    """Cho et al. (2014), gates r, z, n.

    ``reset_after`` is the form of cuDNN and torch, n = tanh(a_n + r * (W_hn h + b_hn)); without it
    the reset gate comes before the product as in the paper, n = tanh(a_n + W_hn (r*h) + b_hn).
    """
    (h,), gate = state, GATES[call.options["gate_activation"]].value
    a_r, a_z, a_n = np.split(a, 3, axis=1)
    w_r, w_z, w_n = _gates(call.weights, 3)
    r = gate(a_r + _hidden_product(h, w_r))
    z = gate(a_z + _hidden_product(h, w_z))
    if call.options["reset_after"]:
        hidden_n = _hidden_product(h, w_n)
        n = np.tanh(a_n + r * hidden_n)
    else:
        hidden_n = _hidden_product(r * h, w_n)
        n = np.tanh(a_n + hidden_n)
    return ((1 - z) * n + z * h,), {"gates": np.stack((r, z, n), axis=1), "hidden_n": hidden_n}


def gru_step_backward(
    d_state: State,
    consumed: State,
    produced: State,
    records: Records,
    call: Call,
) -> StepGradients:
    """Gradient of `gru_step`."""
    (d_h,), (h,) = d_state, consumed
    slope = GATES[call.options["gate_activation"]].slope
    r, z, n = records["gates"].swapaxes(0, 1)
    w_r, w_z, w_n = _gates(call.weights, 3)
    d_a_n = d_h * (1 - z) * (1 - n**2)
    d_a_z = d_h * (h - n) * slope(z)
    if call.options["reset_after"]:
        d_a_r = d_a_n * records["hidden_n"] * slope(r)
        hidden_n = (d_a_n * r, h)
        d_h_n = hidden_n[0] @ w_n.hh
    else:
        d_rh = d_a_n @ w_n.hh
        d_a_r = d_rh * h * slope(r)
        hidden_n = (d_a_n, r * h)
        d_h_n = d_rh * r
    d_a = np.concatenate((d_a_r, d_a_z, d_a_n), axis=1)
    d_h = d_h * z + d_a_r @ w_r.hh + d_a_z @ w_z.hh + d_h_n
    return StepGradients(d_a, (d_h,), ((d_a_r, h), (d_a_z, h), hidden_n))


def lstm_step(a: Array, state: State, call: Call) -> tuple[State, Records]:
    """Hochreiter & Schmidhuber (1997) with forget gate (Gers et al. 2000), gates i, f, g, o.

    With ``weight_hr`` the hidden state is projected to P values (Sak et al. 2014).
    """
    (h, c), gate = state, GATES[call.options["gate_activation"]].value
    i, f, g, o = np.split(a + _hidden_product(h, call.weights), 4, axis=1)
    i, f, g, o = gate(i), gate(f), np.tanh(g), gate(o)
    c = f * c + i * g
    h = o * np.tanh(c)
    if call.weights.hr is not None:
        h = h @ call.weights.hr.T
    return (h, c), {"gates": np.stack((i, f, g, o), axis=1)}


def lstm_step_backward(
    d_state: State,
    consumed: State,
    produced: State,
    records: Records,
    call: Call,
) -> StepGradients:
    """Gradient of `lstm_step`."""
    (d_h, d_c), (h, c), (_, c_new) = d_state, consumed, produced
    i, f, g, o = records["gates"].swapaxes(0, 1)
    slope = GATES[call.options["gate_activation"]].slope
    tanh_c = np.tanh(c_new)
    projection = None
    if call.weights.hr is not None:
        projection = (d_h, o * tanh_c)
        d_h = d_h @ call.weights.hr
    d_c = d_c + d_h * o * (1 - tanh_c**2)
    d_a = np.concatenate(
        (
            d_c * g * slope(i),
            d_c * c * slope(f),
            d_c * i * (1 - g**2),
            d_h * tanh_c * slope(o),
        ),
        axis=1,
    )
    return StepGradients(d_a, (d_a @ call.weights.hh, d_c * f), ((d_a, h),), projection)


class Steps(NamedTuple):
    """The two functions that define a cell."""

    forward: Callable[[Array, State, Call], tuple[State, Records]]
    backward: Callable[[State, State, State, Records, Call], StepGradients]


STEPS = {
    "rnn": Steps(rnn_step, rnn_step_backward),
    "gru": Steps(gru_step, gru_step_backward),
    "lstm": Steps(lstm_step, lstm_step_backward),
}


@np.errstate(all="ignore")  # inf and NaN are results, not messages
def forward(call: Call, ws: Forward) -> None:
    """Run one layer in one direction over a window and fill `ws`."""
    step = STEPS[call.cell.name].forward
    a = input_product(call)
    state = call.state
    for t in call.steps:
        consumed = state
        if call.reset is not None:
            consumed = _where(call.reset[t], call.reset_state, state)
        new, records = step(a[t], consumed, call)
        ws.output[t] = new[0]
        if ws.cells is not None:
            ws.cells[t] = new[1]
        for name, array in ws.records.items():
            array[t] = records[name]
        if call.lengths is not None:
            valid = t < call.lengths
            new = _where(valid, new, state)
            ws.output[t, ~valid] = 0
            if ws.cells is not None:
                ws.cells[t, ~valid] = 0
        state = new
    for array, last in zip(ws.state, state, strict=True):
        array[...] = last


@np.errstate(all="ignore")
def backward(call: Call, tape: Forward, d_output: Array, d_state: State, ws: Backward) -> None:
    """Run back-propagation through time over a window and fill `ws`."""
    d_a = np.zeros((*call.x.shape[:2], len(call.weights.ih)), call.x.dtype)
    for array in (*ws.weights, *ws.reset_state):
        if array is not None:
            array[...] = 0
    d_first = d_state
    for t, _, gradients, d_first in backward_steps(call, tape, d_output, d_state):  # noqa: B007 - the last counts
        d_a[t] = gradients.a
        add_hidden_gradients(ws.weights, gradients)
        if call.reset is not None:
            zeros = tuple(map(np.zeros_like, gradients.state))
            for total, share in zip(
                ws.reset_state, _where(call.reset[t], gradients.state, zeros), strict=True
            ):
                total += share
    for array, first in zip(ws.state, d_first, strict=True):
        array[...] = first
    input_gradients(call, d_a, ws)


def backward_steps(
    call: Call, tape: Forward, d_output: Array, d_state: State, copies: int = 1
) -> Iterator[tuple[int, State, StepGradients, State]]:
    """Go back through time step by step.

    Several losses may go back together, each as a copy of the batch: `d_output` is then
    (T, copies*B, R), the arrays of `d_state` are (copies*B, ·), all rows of a loss in sequence.

    Yields
    ------
    t, d_new, gradients, d_before
        The step; the gradient of the state after it, zero where t >= lengths[b]; what the step
        makes of it; and the gradient of the state before it, which no reset lets through.
    """
    step = STEPS[call.cell.name].backward
    consumed = consumed_states(call, tape)
    produced = (tape.output,) if tape.cells is None else (tape.output, tape.cells)
    for t in reversed(call.steps):
        d_new = (d_state[0] + d_output[t], *d_state[1:])
        if call.lengths is not None:
            valid = _copies(t < call.lengths, copies)
            d_new = _where(valid, d_new, tuple(map(np.zeros_like, d_new)))
        gradients = step(
            d_new,
            tuple([_copies(array[t], copies) for array in consumed]),
            tuple([_copies(array[t], copies) for array in produced]),
            {name: _copies(array[t], copies) for name, array in tape.records.items()},
            call,
        )
        d_before = gradients.state
        if call.reset is not None:
            zeros = tuple(map(np.zeros_like, d_before))
            d_before = _where(_copies(call.reset[t], copies), zeros, d_before)
        if call.lengths is not None:
            d_before = _where(valid, d_before, d_state)
        yield t, d_new, gradients, d_before
        d_state = d_before


def add_hidden_gradients(d_weights: Weights, gradients: StepGradients) -> None:
    """Add a step's share to the gradients of the hidden-side weights."""
    start = 0
    for d_product, h in gradients.hidden:
        rows = slice(start, start := start + d_product.shape[1])
        # A name of its own: added to as an item, an array is also assigned to itself.
        d_w = d_weights.hh[rows]
        d_w += d_product.T @ h
        if d_weights.b_hh is not None:
            d_b = d_weights.b_hh[rows]
            d_b += d_product.sum(axis=0)
    if gradients.projection is not None and d_weights.hr is not None:
        d_h, unprojected = gradients.projection
        d_weights.hr[...] += d_h.T @ unprojected


def input_product(call: Call) -> Array:
    """Return W_ih x + b_ih of the whole window, (T, B, G*H)."""
    T, B, I = call.x.shape
    a = call.x.reshape(T * B, I) @ call.weights.ih.T
    if call.weights.b_ih is not None:
        a += call.weights.b_ih
    return a.reshape(T, B, -1)


def input_gradients(call: Call, d_a: Array, ws: Backward) -> None:
    """Fill the gradients on the input's side from those of the pre-activations, (T, B, G*H)."""
    T, B, I = call.x.shape
    rows = d_a.reshape(T * B, -1)
    np.matmul(rows, call.weights.ih, out=ws.x.reshape(T * B, I))
    np.matmul(rows.T, call.x.reshape(T * B, I), out=ws.weights.ih)
    if ws.weights.b_ih is not None:
        rows.sum(axis=0, out=ws.weights.b_ih)


def consumed_states(call: Call, tape: Forward) -> State:
    """Return the states that the steps consumed, each (T, B, ·).

    That is the state of the step before in the direction of processing, or the initial state, or
    the reset state. Where t >= lengths[b] the value means nothing.
    """
    consumed = tape.before
    if call.reverse and call.lengths is not None:
        first = np.arange(len(call.x))[:, None] == call.lengths - 1
        consumed = _where(first, call.state, consumed)
    if call.reset is not None:
        consumed = _where(call.reset, call.reset_state, consumed)
    return consumed


def _hidden_product(h: Array, weights: Weights) -> Array:
    product = h @ weights.hh.T
    return product if weights.b_hh is None else product + weights.b_hh


def _copies(array: Array, copies: int) -> Array:
    """Repeat the rows of a batch, all of them in turn."""
    if copies == 1:
        return array
    rows = (copies * len(array), *array.shape[1:])
    # Broadcast and reshaped, it took 1.3 to 2.7 times as long.
    return array[None].repeat(copies, axis=0).reshape(rows)


def _gates(weights: Weights, gates: int) -> list[Weights]:
    """Return views of the rows that belong to each gate."""
    H = len(weights.hh) // gates
    rows = (slice(g * H, (g + 1) * H) for g in range(gates))
    b_ih, b_hh = weights.b_ih, weights.b_hh
    return [
        Weights(
            weights.ih[part],
            weights.hh[part],
            None if b_ih is None else b_ih[part],
            None if b_hh is None else b_hh[part],
            None,
        )
        for part in rows
    ]


def _where(mask: Array, chosen: State, other: State) -> State:
    """Per row of the batch: `chosen` where the mask is true."""
    return tuple(
        np.where(mask[..., None], a, b).astype(b.dtype, copy=False)
        for a, b in zip(chosen, other, strict=True)
    )
