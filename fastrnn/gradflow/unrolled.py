"""What an analysis starts from: the recurrent layer inside a model, unrolled in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import states, validation
from ..activations import Dropout
from ..layers import Recurrent
from ..sequential import Sequential
from ..validation import FLOAT64, Array
from ..workspace import Call, Forward, State, Weights


@dataclass(frozen=True, slots=True)
class Direction:
    """One layer in one direction: what it read, and what it recorded."""

    name: str  # l0, l0_reverse, l1, ...
    call: Call
    tape: Forward
    d_final: State  # gradient of the loss with respect to the final state


@dataclass(frozen=True, slots=True)
class Unrolled:
    """A recorded pass, time first, and the gradient of the loss with respect to what it gave."""

    layer: Recurrent
    layers: list[list[Direction]]
    d_output: Array  # (T, B, directions * R), of the last layer
    d_state_given: bool

    @property
    def directions(self) -> Iterator[Direction]:
        """All layers and directions, from below."""
        return (direction for layer in self.layers for direction in layer)


def recurrent_layer(name: str, model: object) -> Recurrent:
    """Return the only recurrent layer of a layer or `Sequential`; an error if there is none."""
    found = states.recurrent_layers(states.need_model(name, model))
    if len(found) != 1:
        raise ValueError(f"{name}: expected exactly one recurrent layer, got {len(found)}")
    return found[0]


@np.errstate(all="ignore")  # inf and NaN are results, not messages
def unroll(
    model: object,
    x: object,
    d_output: object,
    d_state: object,
    state: object,
    lengths: object,
    reset: object,
    most_rows: int | None = None,
) -> Unrolled:
    """Check the arguments of `analyse` and run the model forward, without dropout.

    In float64, whatever the dtype of the model: what has vanished would be zero in float32, and
    its square is needed, too. Of more rows than `most_rows` so many are taken, evenly spread.
    """
    layer = recurrent_layer("layer", model)
    if d_output is None and d_state is None:
        raise ValueError("d_output: expected an array, or d_state, got neither")
    if isinstance(model, Sequential):
        (state,), (d_state,) = (
            model.split_state(name, value)
            for name, value in (("state", state), ("d_state", d_state))
        )
        x, d_output = _through(model, layer, x, d_output, state, lengths, reset)
    own = layer._stack()
    weights = {
        suffix: Weights(*(None if w is None else w.astype(FLOAT64) for w in read))  # type: ignore[arg-type]
        for suffix, read in own.weights.items()
    }
    # Where a row has ended, other backends leave what it was in x.
    backend = layer.backend if lengths is None else "numpy"
    stack = replace(own, weights=weights, backend=backend, dropout=0.0)
    steps, d_y, d_finals = stack.unroll(
        _double("x", x, layer),
        _double_state("state", state, layer),
        lengths,
        reset,
        None if d_output is None else _double("d_output", d_output, layer),
        _double_state("d_state", d_state, layer),
        most_rows,
    )
    T, B, _ = steps[0].calls[0][0].x.shape
    if not T or not B:
        raise ValueError(f"x: expected at least one step of one row, got T={T} and B={B}")
    finals, names = iter(d_finals), iter(weights)
    layers = [
        [
            Direction(next(names).removeprefix("_"), call, tape, next(finals))
            for call, tape in step.calls
        ]
        for step in steps
    ]
    if d_y is None:
        width = sum(direction.tape.output.shape[2] for direction in layers[-1])
        d_y = np.zeros((T, B, width))
    return Unrolled(layer, layers, d_y, d_state is not None)


def _double(name: str, value: object, layer: Recurrent) -> Array:
    return validation.floating(name, value, layer.dtype).astype(FLOAT64)


def _double_state(name: str, value: object, layer: Recurrent) -> Any:
    if value is None:
        return None
    names = layer.cell.states
    arrays = validation.state_tuple(name, value, names)
    found = [_double(f"{name} {s}", a, layer) for s, a in zip(names, arrays, strict=True)]
    return tuple(found) if len(found) > 1 else found[0]


def _through(
    model: Sequential,
    layer: Recurrent,
    x: Any,
    d_output: object,
    state: object,
    lengths: Any,
    reset: Any,
) -> tuple[Any, Any]:
    """Return the recurrent layer's own input, and the gradient of its own output."""
    parts = _flat(model)
    at = parts.index(layer)
    for part in parts[:at]:
        x = part(x)
    if d_output is None or at == len(parts) - 1:
        return x, d_output
    y, _ = layer(x, state, lengths=lengths, reset=reset)
    tapes = []
    above = y
    for part in parts[at + 1 :]:
        tapes.append(part.record(above))
        above = tapes[-1].output
    # The loss at a step must reach the layer's output at this step alone.
    if above.shape[: y.ndim - 1] != y.shape[:-1]:
        raise ValueError(
            f"layer: expected layers that keep the steps, {y.shape[:-1]}, "
            f"got an output of shape {above.shape}"
        )
    for tape in reversed(tapes):
        d_output = tape.backward(d_output).input
    return x, d_output


def _flat(model: Sequential) -> list[Any]:
    """Return all layers in order, those of a `Sequential` inside in its place, without dropout."""
    found: list[Any] = []
    for part in model.layers:
        found += _flat(part) if isinstance(part, Sequential) else [part]
    return [part for part in found if not isinstance(part, Dropout)]
