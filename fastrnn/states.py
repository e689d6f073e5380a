"""States of whole models: what is done to all arrays of a state, whatever its form.

An array is (layers * directions, B, ·); an LSTM has a tuple of two, `Sequential` a tuple of states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import validation
from .feedforward import Embedding
from .layers import Recurrent
from .sequential import Sequential
from .validation import Array


def recurrent_layers(model: object) -> list[Recurrent]:
    """Return the recurrent layers of a layer or `Sequential`, in order."""
    layers = model.layers if isinstance(model, Sequential) else (model,)
    return [layer for layer in layers if isinstance(layer, Recurrent)]


def need_model(name: str, model: object) -> Recurrent | Sequential:
    """Return a recurrent layer or a `Sequential`; `TypeError` for anything else."""
    if not isinstance(model, Recurrent | Sequential):
        raise TypeError(
            f"{name}: expected RNN, GRU, LSTM or Sequential, got {type(model).__name__}"
        )
    return model


def need_steps(name: str, model: object) -> None:
    """Check that a model can be run step by step: time first, forward only, a state carried on.

    Raises
    ------
    ValueError, TypeError
        If it is no recurrent layer or `Sequential`, batch first, or bidirectional.
    """
    for layer in recurrent_layers(need_model(name, model)):
        if layer.batch_first:
            raise ValueError(f"{name}: expected time first, got a layer with batch_first=True")
        if layer.bidirectional:
            raise ValueError(
                f"{name}: expected one direction, got a bidirectional layer "
                "(its state cannot be carried on)"
            )


def need_recurrent(name: str, model: object) -> None:
    """Check that a model has a recurrent layer; `ValueError` if not."""
    if not recurrent_layers(model):
        raise ValueError(f"{name}: expected at least one recurrent layer, got none")


def shapes(layer: Recurrent) -> list[tuple[int, int]]:
    """Return (layers * directions, H or P) of h, and of an LSTM's c."""
    n = layer.num_layers * (2 if layer.bidirectional else 1)
    widths = (layer.proj_size or layer.hidden_size, layer.hidden_size)
    return [(n, width) for width in widths[: len(layer.cell.states)]]


def arrays(state: Any) -> list[Any]:
    """Return the arrays of a state in order, without the None of states that are not given."""
    if isinstance(state, tuple | list):
        return [array for part in state for array in arrays(part)]
    return [] if state is None else [state]


def each(change: Callable[[Array], Array], state: Any) -> Any:
    """Return a state of the same form with every array changed."""
    if isinstance(state, tuple | list):
        return tuple(each(change, part) for part in state)
    return None if state is None else change(state)


def take_rows(state: Any, rows: Array) -> Any:
    """Return the state of some rows of the batch, in the order given; a row may come repeatedly."""
    return each(lambda array: np.take(array, rows, axis=1), state)


def read(model: Recurrent | Sequential, batch: int, state: Any = None) -> Any:
    """Check a state of so many rows and return a copy; zeros for None.

    Raises
    ------
    ValueError, TypeError
        If it is not a state of the model.
    """

    def copy(layer: Recurrent, state: Any) -> Any:
        # After no step at all a state is what it was.
        return layer(np.zeros((0, batch, layer.input_size), layer.dtype), state)[1]

    if isinstance(model, Recurrent):
        return copy(model, state)
    given = model.split_state("state", state)
    return tuple(map(copy, recurrent_layers(model), given))


def read_input(
    name: str, model: Recurrent | Sequential, value: object, *axes: str | tuple[str, int]
) -> Array:
    """Check what a model is given, as far as its first layer says what it takes.

    Parameters
    ----------
    name
        Of the argument.
    model, value
        The model, and what it is given.
    *axes
        Those before the features of a step, as for `validation.shape`; none if any will do.

    Raises
    ------
    ValueError, TypeError
        If dtype, shape or indices are wrong.
    """
    first = model.layers[0] if isinstance(model, Sequential) else model
    if isinstance(first, Embedding):
        found = validation.indices(name, value, first.num_embeddings)
        return validation.shape(name, found, *axes) if axes else found
    found = validation.floating(name, value, recurrent_layers(model)[0].dtype)
    size = _width(first)
    axes = axes or ("...",) * (found.ndim - 1)
    others = ["..."] * max(found.ndim - len(axes), 0) if size is None else [("I", size)]
    return validation.shape(name, found, *axes, *others)


def inputs(model: Recurrent | Sequential, batch: int) -> Array | None:
    """Return zeros that a step of so many rows may be given: None if the first layer takes any."""
    first = model.layers[0] if isinstance(model, Sequential) else model
    if isinstance(first, Embedding):
        return np.zeros(batch, np.int64)
    width = _width(first)
    return None if width is None else np.zeros((batch, width), recurrent_layers(model)[0].dtype)


def _width(first: object) -> int | None:
    return getattr(first, "input_size", getattr(first, "in_features", None))


def size(layers: Sequence[Recurrent]) -> int:
    """Return S, the numbers that make up one row's state of all the layers."""
    return sum(n * width for layer in layers for n, width in shapes(layer))


def from_vector(vector: Array, layers: Sequence[Recurrent]) -> tuple[Any, ...]:
    """Cut (B, S) into states: by recurrent layer, then h before c, then layer by layer in them."""
    found, start = [], 0
    for layer in layers:
        state = []
        for n, width in shapes(layer):
            part = vector[:, start : start + n * width].reshape(len(vector), n, width)
            state.append(np.ascontiguousarray(part.swapaxes(0, 1)))
            start += n * width
        found.append(tuple(state) if len(state) > 1 else state[0])
    return tuple(found)


def to_vector(state: Any) -> Array:
    """Join states to (B, S); the inverse of `from_vector`."""
    parts = [array.swapaxes(0, 1) for array in arrays(state)]
    return np.concatenate([p.reshape(len(p), p.shape[1] * p.shape[2]) for p in parts], axis=1)


def rows(name: str, state: Any) -> int | None:
    """Return B of a state, None if it has no arrays."""
    for array in arrays(state):
        found = validation.array(name, array)
        if found.ndim != 3:
            raise ValueError(f"{name}: expected arrays (L*D, B, H), got shape {found.shape}")
        return int(found.shape[1])
    return None
