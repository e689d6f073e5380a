"""What a backend reads and what it writes, and the one place that allocates the latter.

Sizes are T (time), B (batch), I (input), H (hidden), R (recurrent: P with a projection, else H)
and G (gates). All arrays are native, aligned and C-contiguous and share one dtype.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .cells import Cell
from .validation import Array

State = tuple[Array, ...]

# Bytes of an array whose memory is kept: from here on malloc may ask the system for every one.
SMALLEST = 1 << 19


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
    reset_state: State  # like state: what the state of a reset row becomes; empty without resets
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

    When nothing is recorded `cells` is None, and `before` and `records` are empty. Where
    t >= lengths[b], `output` and `cells` are zero, and the records are finite but mean nothing.
    """

    output: Array  # (T, B, R)
    state: State  # the final state, shaped like Call.state
    cells: Array | None  # (T, B, H), lstm: the cell state after each step
    before: State  # `output` and `cells` one step earlier: the same memory, the initial state first
    records: dict[str, Array]  # Cell.records: gates (T, B, G, H), others (T, B, H)


@dataclass(slots=True)
class Backward:
    """What a backward pass writes: the gradients; it may also overwrite Forward.records."""

    x: Array  # (T, B, I)
    weights: Weights
    state: State  # of the initial state
    reset_state: State  # summed over the resets of each row; empty without resets


class _Blocks:
    """Memory of large arrays that are gone, kept for the next ones.

    The system hands out large blocks page by page, at 0.3 to 2.5 µs for each 4 KB, and takes them
    back at once: up to a third of the time of a training step went there. Here a
    block is used again by the next array of its size, once nothing refers to the old one.
    """

    MOST = 1 << 28  # bytes kept at a time

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew, in a forked child too: a thread that it lacks may have held the lock."""
        self.free: dict[int, list[Array]] = {}
        self.kept = 0
        self.lock = threading.RLock()  # taken again if a collection gives back while we take

    def take(self, size: int) -> Any:
        """Return a buffer, whose memory comes back when nothing refers to it any longer."""
        with self.lock:
            memory = None
            if blocks := self.free.get(size):
                self.kept -= size
                memory = blocks.pop()
        if memory is None:
            memory = np.empty(size, np.uint8)
        lease = _lease(size, self.give_back).from_buffer(memory)
        lease.memory = memory
        return lease

    def give_back(self, memory: Array) -> None:
        with self.lock:
            if self.kept + memory.size > self.MOST:
                self.free.clear()
                self.kept = 0
            if memory.size <= self.MOST:
                self.free.setdefault(memory.size, []).append(memory)
                self.kept += memory.size


@lru_cache(maxsize=256)
def _lease(size: int, give_back: Callable[[Array], None]) -> Any:
    """Return the type of an array's owner, which gives its memory back in the end.

    Of what NumPy takes for memory, ctypes' arrays are made soonest: 0.5 µs, and 1.5 for an object
    with an array interface.
    """
    end = {"__slots__": ("memory",), "__del__": lambda self: give_back(self.memory)}
    return type("Lease", (ctypes.c_char * size,), end)


BLOCKS = _Blocks()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=BLOCKS.forget)


def size_in_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the size of an array; `MemoryError` if it cannot be addressed."""
    size = math.prod(shape) * dtype.itemsize
    if size > sys.maxsize:
        raise MemoryError(f"an array of shape {shape} and type {dtype} is too large to address")
    return size


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Allocate an array that a kernel will fill; `MemoryError` if its size cannot be addressed."""
    size = math.prod(shape) * dtype.itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    size_in_bytes(shape, dtype)
    return np.ndarray(shape, dtype, BLOCKS.take(size))


def _like(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple([empty(array.shape, array.dtype) for array in arrays])


def forward(call: Call, *, record: bool) -> Forward:
    """Allocate what the forward pass of `call` writes, and put the initial state into `before`."""
    T, B, _ = call.x.shape
    dtype = call.x.dtype
    state = _like(call.state)
    if not record:
        return Forward(empty((T, B, call.weights.hh.shape[1]), dtype), state, None, (), {})
    sequences, before = [], []
    for initial in call.state:
        both = empty((T + 1, B, initial.shape[1]), dtype)
        both[-1 if call.reverse else 0] = initial
        early, late = both[:-1], both[1:]
        sequences.append(early if call.reverse else late)
        before.append(late if call.reverse else early)
    records = {}
    if call.cell.records:
        G, H = len(call.cell.gates), call.hidden_size
        for name in call.cell.records:
            records[name] = empty((T, B, G, H) if name == "gates" else (T, B, H), dtype)
    cells = sequences[1] if len(sequences) > 1 else None
    return Forward(sequences[0], state, cells, tuple(before), records)


def backward(call: Call) -> Backward:
    """Allocate what the backward pass of `call` writes."""
    weights = [None if w is None else empty(w.shape, w.dtype) for w in call.weights]
    return Backward(
        x=empty(call.x.shape, call.x.dtype),
        weights=Weights(*weights),  # type: ignore[arg-type]
        state=_like(call.state),
        reset_state=() if call.reset is None else _like(call.state),
    )
