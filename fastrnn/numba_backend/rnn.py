"""The plain cell: h' = tanh(a + W_hh h + b), or relu."""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import reference
from ..validation import Array
from ..workspace import Backward, Call, Forward, State, empty
from . import activations, sequence
from .product import add_product, pack
from .sequence import BackwardFrame, ForwardFrame, clear, flat
from .vectors import Lanes, Vec, pointwise


class RNNForward(NamedTuple):
    """Flat arrays of a forward pass."""

    frame: ForwardFrame
    relu: bool
    a: Array  # (T, B, H): W_ih x; in the place of the output
    bias: Array  # (H,): b_ih + b_hh
    w_hh: Array  # packed (H, H), from state to pre-activation


class RNNBackward(NamedTuple):
    """Flat arrays of a backward pass."""

    frame: BackwardFrame
    relu: bool
    output: Array  # (T, B, H)
    d_a: Array  # (T, B, H): gradient of the pre-activation
    w_hh: Array  # packed (H, H), from pre-activation to state


@pointwise("a bias", "h")
def tanh_row(L: Lanes, a: Vec, bias: Vec) -> Vec:
    """One row forward."""
    return activations.tanh(L, a + bias)


@pointwise("a bias", "h")
def relu_row(L: Lanes, a: Vec, bias: Vec) -> Vec:
    """One row forward."""
    return activations.relu(L, a + bias)


@pointwise("h d_h", "d_a")
def tanh_row_backward(L: Lanes, h: Vec, d_h: Vec) -> Vec:
    """One row backward."""
    return d_h * (1.0 - h * h)


@pointwise("h d_h", "d_a")
def relu_row_backward(L: Lanes, h: Vec, d_h: Vec) -> Vec:
    """One row backward; the slope at 0 is 0."""
    return L.positive(h, d_h, 0.0)


def rnn_step(ws: Any, t: Any) -> Any:
    """One step forward."""
    f = ws.frame
    H = f.widths[0]
    place = t * f.B * H
    add_product(f.states[0], 0, H, ws.w_hh, 0, ws.a, place, H, f.B, H, H)
    for b in range(f.B):
        row = b * H
        if ws.relu:
            relu_row((ws.a, ws.bias, f.new[0]), (place + row, 0, row), H)
        else:
            tanh_row((ws.a, ws.bias, f.new[0]), (place + row, 0, row), H)


def rnn_step_backward(ws: Any, t: Any) -> Any:
    """One step backward."""
    f = ws.frame
    H = f.widths[0]
    place = t * f.B * H
    n = f.B * H
    if ws.relu:
        relu_row_backward((ws.output, f.d_new[0], ws.d_a), (place, 0, place), n)
    else:
        tanh_row_backward((ws.output, f.d_new[0], ws.d_a), (place, 0, place), n)
    clear((f.d_consumed[0],), (0,), n)
    add_product(ws.d_a, place, H, ws.w_hh, 0, f.d_consumed[0], 0, H, f.B, H, H)


sequence.steps_of(RNNForward, sequence.step, rnn_step)
sequence.steps_of(RNNBackward, sequence.step_backward, rnn_step_backward)


def forward(call: Call, ws: Forward) -> None:
    """Run one layer in one direction over a window and fill `ws`."""
    sequence.input_product(call, ws.output)
    arrays = RNNForward(
        frame=sequence.forward_frame(call, ws),
        relu=call.options["nonlinearity"] == "relu",
        a=flat(ws.output),
        bias=sequence.summed_bias(call),
        w_hh=pack(call.weights.hh.T),
    )
    sequence.run(sequence.forward, arrays, call)


def backward(call: Call, tape: Forward, d_output: Array, d_state: State, ws: Backward) -> None:
    """Run it backward and fill `ws`."""
    (h,) = reference.consumed_states(call, tape)
    d_a = empty(tape.output.shape, call.x.dtype)
    arrays = RNNBackward(
        frame=sequence.backward_frame(call, d_output, d_state, ws),
        relu=call.options["nonlinearity"] == "relu",
        output=flat(tape.output),
        d_a=flat(d_a),
        w_hh=pack(call.weights.hh),
    )
    sequence.run(sequence.backward, arrays, call)
    reference.input_gradients(call, d_a, ws)
    sequence.product_gradient(d_a, h, ws.weights.hh)
    sequence.same_bias_gradient(ws)
