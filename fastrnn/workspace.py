"""What a backend reads and what it writes, and the one place that allocates the latter.

Sizes are T (time), B (batch), I (input), H (hidden), R (recurrent: P with a projection, else H)
and G (gates). All arrays are native, aligned and C-contiguous and share one dtype.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .cells import Cell
from .validation import Array

State = tuple[Array, ...]

# Bytes of an array whose memory is kept: from here on malloc may ask the system for every one.
SMALLEST = 1 << 17
LINE, PAGE = 64, 4096  # bytes

Block = tuple[Array, int]  # memory, and where in it an array begins


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
    x: Array  # (T, B, I); zero where t >= lengths[b], or anything if the backend skips padding
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
    """Memory of large arrays, used again by the next one of its size when they are gone.

    The system hands out large blocks page by page, at 0.3 to 2.5 µs for each 4 KB, and takes them
    back at once: up to a third of the time of a training step went there. (The C library keeps
    some itself; how much, depends on what the process has freed before.)

    A block is free when nothing refers to it but this: no array, no view, no export of one. While
    one is looked at and taken, it is not in the list, so that no other thread meets it. Where
    references are not counted so, every array gets new memory.
    """

    MOST = 1 << 28  # bytes kept at a time
    LOOKS = 8  # blocks that are looked at for a free one, the latest first

    def __init__(self) -> None:
        self.forget()
        locked: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
        self.counts = sys.implementation.name == "cpython" and locked()
        self.alone = self._last([(np.empty(1, np.uint8), 0)])[1] if self.counts else 0

    def forget(self) -> None:
        """Keep nothing of what there is."""
        self.blocks: dict[int, list[Block]] = {}
        self.kept = self.made = 0

    @staticmethod
    def _last(blocks: list[Block]) -> tuple[Block, int]:
        """Take out a block, and count what refers to its memory."""
        block = blocks.pop()
        return block, sys.getrefcount(block[0])

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> Array:
        """Return an array of so many bytes."""
        if blocks := self.blocks.get(size):
            found, looked_at = None, []
            for _ in range(self.LOOKS):
                try:
                    block, references = self._last(blocks)
                except IndexError:  # none is left, for this thread
                    break
                looked_at.append(block)
                if references == self.alone:
                    found = np.ndarray(shape, dtype, *block)
                    break
            blocks += looked_at
            if found is not None:
                return found
        block = self._new(size)
        found = np.ndarray(shape, dtype, *block)  # first: listed without it, it would count as free
        if self.counts and size <= self.MOST:
            if self.kept + size > self.MOST:
                self.forget()
            self.kept += size
            self.blocks.setdefault(size, []).append(block)
        return found

    def _new(self, size: int) -> Block:
        """Make a block that begins with a line of the cache, each at another place of its page.

        All pages from the system begin alike, and arrays a multiple of 4 KB apart are in each
        other's way in the L1 cache: 4 % of the time of a small RNN's training step.
        """
        memory = np.empty(size + PAGE, np.uint8)
        self.made += 1
        return memory, (self.made * 5 * LINE - memory.ctypes.data) % PAGE


BLOCKS = _Blocks()


def size_in_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the size of an array; `MemoryError` if it cannot be addressed."""
    size = prod(shape) * dtype.itemsize
    if size > sys.maxsize:
        raise MemoryError(f"an array of shape {shape} and type {dtype} is too large to address")
    return size


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Allocate an array that a kernel will fill; `MemoryError` if its size cannot be addressed."""
    size = prod(shape) * dtype.itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    size_in_bytes(shape, dtype)
    return BLOCKS.array(shape, dtype, size)


def maker(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Callable[[], Array]:
    """Return a function that does so again and again, in less time."""
    small = size_in_bytes(shape, dtype) < SMALLEST
    return partial(np.empty if small else empty, shape, dtype)


def full(shape: tuple[int, ...], dtype: np.dtype[Any], value: float) -> Array:
    """Allocate an array that a sum or a maximum starts from; raises what `empty` raises."""
    array = empty(shape, dtype)
    array.fill(value)
    return array


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
    x, dtype = call.x, call.x.dtype
    return Backward(
        x=empty(x.shape, dtype),
        weights=Weights._make([None if w is None else empty(w.shape, dtype) for w in call.weights]),
        state=_like(call.state),
        reset_state=() if call.reset is None else _like(call.state),
    )


def without_padding(x: Array, lengths: Array) -> Array:
    """Return x (T, B, ·) with zeros where t >= lengths[b], for backends that read padding."""
    valid = np.arange(len(x))[:, None] < lengths
    return x if valid.all() else np.where(valid[..., None], x, x.dtype.type(0))
