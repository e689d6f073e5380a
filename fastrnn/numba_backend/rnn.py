"""The plain cell: h' = tanh(a + W_hh h + b), or relu."""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import reference
from ..validation import Array
from ..workspace import Backward, Call, Forward, State, empty
from . import activations, gradients, sequence
from .product import Place, pack, product, product_of_two
from .sequence import BackwardFrame, ForwardFrame
from .vectors import Lanes, Vec, pointwise


class RNNForward(NamedTuple):
    """Arrays of a forward pass."""

    frame: ForwardFrame
    relu: bool
    w_hh: Place  # (H, H), from state to pre-activation


class RNNBackward(NamedTuple):
    """Arrays of a backward pass."""

    frame: BackwardFrame
    relu: bool
    output: Array  # (T, B, H)
    w_hh: Place  # (H, H), from pre-activation to state


@pointwise("a", "h")
def tanh_forward(L: Lanes, a: Vec) -> Vec:
    """Elements forward."""
    return activations.tanh(L, a)


@pointwise("a", "h")
def relu_forward(L: Lanes, a: Vec) -> Vec:
    """Elements forward."""
    return activations.relu(L, a)


@pointwise("h d_h d_y", "d_a")
def tanh_backward(L: Lanes, h: Vec, d_h: Vec, d_y: Vec) -> Vec:
    """Elements backward."""
    return (d_h + d_y) * (1.0 - h * h)


@pointwise("h d_h d_y", "d_a")
def relu_backward(L: Lanes, h: Vec, d_h: Vec, d_y: Vec) -> Vec:
    """Elements backward; the slope at 0 is 0."""
    return L.positive(h, d_h + d_y, 0.0)


def rnn_step(ws: Any, t: Any, b: Any, rows: Any, h: Any, fresh: Any) -> Any:
    """One step forward."""
    f = ws.frame
    H = f.widths[0]
    row, h = t * f.B + b, h + b * H
    pre, state, w_hh = (f.gates, row * H, H), (f.h_in, h, H, 1), (f.packed, *ws.w_hh)
    if fresh:
        start, x = (f.packed, f.bias, 0), (f.x, row * f.I, f.I, 1)
        product_of_two(start, x, (f.packed, *f.w_ih), f.I, state, w_hh, H, pre, rows, H)
    else:
        product(pre, state, w_hh, pre, rows, H, H)
    if ws.relu:
        relu_forward((f.gates, f.h_out), (row * H, h), rows * H)
    else:
        tanh_forward((f.gates, f.h_out), (row * H, h), rows * H)


def rnn_step_backward(ws: Any, t: Any, b: Any, rows: Any, d_a: Any) -> Any:
    """One step backward."""
    f = ws.frame
    H = f.widths[0]
    row = (t * f.B + b) * H
    arrays, places = (ws.output, f.d_new[0], f.d_output, f.d_a), (row, b * H, row, d_a)
    if ws.relu:
        relu_backward(arrays, places, rows * H)
    else:
        tanh_backward(arrays, places, rows * H)
    out = (f.d_consumed[0], b * H, H)
    product((f.zeros, 0, 0), (f.d_a, d_a, H, 1), (f.packed, *ws.w_hh), out, rows, H, H)


def rnn_gradients(ws: Any, at: Any) -> Any:
    """Add to the gradients of the weights."""
    gradients.add_shared(ws.frame, at)


sequence.steps_of(RNNForward, sequence.step, rnn_step)
sequence.steps_of(RNNBackward, sequence.step_backward, rnn_step_backward)
sequence.steps_of(RNNBackward, gradients.add_gradients, rnn_gradients)


def forward(call: Call, ws: Forward) -> None:
    """Run one layer in one direction over a window and fill `ws`."""
    w = call.weights
    biases = sequence.both_biases(w)
    packed, (w_ih, w_hh), bias = pack((w.ih, w.hh), transpose=True, biases=biases)
    frame = sequence.forward_frame(call, ws, ws.output, packed, bias, w_ih)
    relu = call.options["nonlinearity"] == "relu"
    sequence.run_forward(RNNForward(frame, relu, w_hh), call)


def backward(call: Call, tape: Forward, d_output: Array, d_state: State, ws: Backward) -> None:
    """Run it backward and fill `ws`."""
    (h,) = reference.consumed_states(call, tape)
    cut = sequence.plan(call)
    packed, (w_ih, w_hh), _ = pack((call.weights.ih, call.weights.hh))
    T, B, H = tape.output.shape
    d_a = empty((min(T, cut.steps_at_once), B, H), call.x.dtype)
    frame = sequence.backward_frame(call, d_output, d_state, d_a, packed, w_ih, h, ws, reused=True)
    relu = call.options["nonlinearity"] == "relu"
    gradients.run(RNNBackward(frame, relu, tape.output, w_hh), cut)
    gradients.share_bias(ws)
