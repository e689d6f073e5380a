"""Weights of fewer bits: rounded to what a stream stores, and computed with as float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .feedforward import Linear
from .layers import Recurrent
from .sequential import Sequential
from .validation import Array


def _halves(rows: Array) -> Array:
    """Round to the nearest IEEE 754 binary16."""
    return rows.astype(np.float16).astype(np.float32)


def _bytes(rows: Array) -> Array:
    """Round each row to whole numbers, -127 to 127, times a scale of its own.

    The scale is the row's greatest magnitude / 127, rounded up to 16 bits: so every product with a
    whole number is exact, and the kernels find scale and numbers in the result (csrc/fastrnn.h).
    """
    scales = np.abs(rows).max(axis=1, keepdims=True, initial=0) / np.float32(127)
    scales = ((scales.view(np.uint32) + 0xFF) & 0xFFFFFF00).view(np.float32)
    whole = np.rint(np.divide(rows, scales, out=np.zeros_like(rows), where=scales > 0))
    return np.asarray(whole * scales)


# What a stream may store, and how a float32 matrix (rows, K) is rounded to it; None: not at all.
WEIGHT_DTYPES: dict[str | None, Callable[[Array], Array] | None] = {
    None: None,
    "float16": _halves,
    "int8": _bytes,
}


def round_weights(model: Recurrent | Sequential, weight_dtype: str | None) -> None:
    """Round the matrices of a model's recurrent layers and `Linear` layers, in place.

    Parameters
    ----------
    model
        What is rounded: a copy that nobody else has.
    weight_dtype
        A key of `WEIGHT_DTYPES`.

    Raises
    ------
    ValueError
        If a layer is not float32, or a weight is not finite or too large.
    """
    rounding = WEIGHT_DTYPES[weight_dtype]
    if rounding is None:
        return
    for layer in _layers(model):
        if layer.dtype != np.float32:
            raise ValueError(
                f"weight_dtype: expected layers of float32 for {weight_dtype!r}, got {layer.dtype}"
            )
        for name, weight in layer.parameters.items():
            if weight.ndim != 2:
                continue
            with np.errstate(over="ignore", invalid="ignore"):
                rounded = rounding(weight)
            if not np.isfinite(rounded).all():
                most = weight.flat[np.argmax(np.abs(weight))]
                raise ValueError(
                    f"weight_dtype: expected weights that {weight_dtype} can hold, "
                    f"got {most} in {name}"
                )
            weight[...] = rounded


def _layers(model: Any) -> Iterator[Recurrent | Linear]:
    """Yield the layers whose matrices are rounded."""
    if isinstance(model, Sequential):
        for layer in model.layers:
            yield from _layers(layer)
    elif isinstance(model, Recurrent | Linear):
        yield model
