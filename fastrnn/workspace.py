"""What a backend reads and what it writes, and the one place that allocates the latter.

Sizes are T (time), B (batch), I (input), H (hidden), R (recurrent: P with a projection, else H)
and G (gates). All arrays are native, aligned and C-contiguous and share one dtype.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .cells import Cell
from .validation import Array

State = tuple[Array, ...]


class Weights(NamedTuple):
    """Parameters of one layer in one direction, or their gradients."""

    ih: Array  # (G*H, I)
    hh: Array  # (G*H, R)
    b_ih: Array | None  # (G*H,)
    b_hh: Array | None  # (G*H,)
    hr: Array | None  # (P, H)


@dataclass(slots=True)
class Call:
    """What a pass over one layer in one direction reads; checked, and never written to."""

    cell: Cell
    options: Mapping[str, Any]
    x: Array  # (T, B, I); zero where t >= lengths[b]
    weights: Weights
    state: State  # h0 (B, R), lstm: and c0 (B, H)
    reset_state: State  # like state: what the state of a reset row becomes
    lengths: Array | None  # (B,) int64
    reset: Array | None  # (T, B) bool
    reverse: bool  # process t = T-1 ... 0

    @property
    def hidden_size(self) -> int:
        """H."""
        return len(self.weights.hh) // len(self.cell.gates)

    @property
    def steps(self) -> range:
        """The values of t in the order in which they are processed."""
        T = len(self.x)
        return range(T - 1, -1, -1) if self.reverse else range(T)


@dataclass(slots=True)
class Forward:
    """What a forward pass writes.

    When nothing is recorded `cells` is None and `records` is empty. Where t >= lengths[b], `output`
    and `cells` are zero, and the records are finite but mean nothing.
    """

    output: Array  # (T, B, R)
    state: State  # the final state, shaped like Call.state
    cells: Array | None  # (T, B, H), lstm: the cell state after each step
    records: dict[str, Array]  # Cell.records: gates (T, B, G, H), others (T, B, H)


@dataclass(slots=True)
class Backward:
    """What a backward pass writes: the gradients; it may also overwrite Forward.records."""

    x: Array  # (T, B, I)
    weights: Weights
    state: State  # of the initial state
    reset_state: State  # summed over the resets of each row


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Allocate an array that a kernel will fill; `MemoryError` if its size cannot be addressed."""
    if math.prod(shape) * dtype.itemsize > sys.maxsize:
        raise MemoryError(f"an array of shape {shape} and type {dtype} is too large to address")
    return np.empty(shape, dtype)


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Allocate like `empty`, at a multiple of 64 bytes, a line of the cache."""
    extra = 64 // dtype.itemsize
    size = math.prod(shape)
    flat = empty((size + extra,), dtype)
    first = -flat.ctypes.data % 64 // dtype.itemsize
    return flat[first : first + size].reshape(shape)


def _like(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(empty(array.shape, array.dtype) for array in arrays)


def forward(call: Call, *, record: bool) -> Forward:
    """Allocate what the forward pass of `call` writes."""
    T, B, _ = call.x.shape
    G, H, dtype = len(call.cell.gates), call.hidden_size, call.x.dtype
    shapes = {name: (T, B, G, H) if name == "gates" else (T, B, H) for name in call.cell.records}
    return Forward(
        output=empty((T, B, call.weights.hh.shape[1]), dtype),
        state=_like(call.state),
        cells=empty((T, B, H), dtype) if record and "c" in call.cell.states else None,
        records={name: empty(shape, dtype) for name, shape in shapes.items()} if record else {},
    )


def backward(call: Call) -> Backward:
    """Allocate what the backward pass of `call` writes."""
    weights = (None if w is None else empty(w.shape, w.dtype) for w in call.weights)
    return Backward(
        x=empty(call.x.shape, call.x.dtype),
        weights=Weights(*weights),  # type: ignore[arg-type]
        state=_like(call.state),
        reset_state=_like(call.state),
    )
