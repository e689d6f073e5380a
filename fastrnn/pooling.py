"""Max and average pooling over one or two axes of x (B, C, ...).

The greatest of a window is the greatest of the greatest of its rows, and so its sum: windows are
taken along one axis after the other, the last one first. For a window of K x K that is 2 K passes
in place of K squared, half of them over less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import validation, workspace
from .tape import Gradients
from .validation import Array
from .windows import Windowed, count, places, short


class Stage(NamedTuple):
    """Windows along one of the axes."""

    x: tuple[int, ...]  # shape before
    y: tuple[int, ...]  # shape after
    places: list[tuple[int, Any, Any]]  # index in the window; of its y, and of its x


class Pool(Windowed):
    """The base of all pooling layers."""

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
    ) -> None:
        super().__init__()
        self._slide(kernel_size, kernel_size if stride is None else stride, padding)
        if any(2 * p > kernel for p, kernel in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(
                f"padding: expected at most half of kernel_size={short(self.kernel_size)}, "
                f"got {short(self.padding)}"
            )

    def _read(self, x: object) -> Array:
        return self._checked(validation.floating("x", x), "C")

    def _stages(self, shape: tuple[int, ...]) -> Iterator[Stage]:
        """Yield what is done along each axis, the last one first, from an x of this shape."""
        axes = list(enumerate(self._axes(shape), 2))
        for axis, numbers in reversed(axes):
            before = (slice(None),) * axis
            found = [(k, (*before, y), (*before, x)) for k, y, x in places(*numbers)]
            after = (*shape[:axis], count(*numbers), *shape[axis + 1 :])
            yield Stage(shape, after, found)
            shape = after

    def __repr__(self) -> str:
        words = [short(self.kernel_size)]
        if self.stride != self.kernel_size:
            words.append(f"stride={short(self.stride)}")
        if any(self.padding):
            words.append(f"padding={short(self.padding)}")
        return f"{type(self).__name__}({', '.join(words)})"


class MaxPool(Pool):
    """The base of `MaxPool1d` and `MaxPool2d`, which say what it does."""

    def _forward(self, x: Array) -> tuple[Array, None]:
        for stage in self._stages(x.shape):
            x = _greatest(x, stage)
        return x, None

    def _record(self, x: Array) -> tuple[Array, list[tuple[Stage, Array]]]:
        kept = []
        for stage in self._stages(x.shape):
            y = _greatest(x, stage)
            kept.append((stage, _first(x, y, stage)))
            x = y
        return x, kept

    def _backward(self, kept: list[tuple[Stage, Array]], d_y: Array) -> Gradients:
        for stage, first in reversed(kept):
            d_x = workspace.full(stage.x, d_y.dtype, 0)
            # Times 0 or 1 as whole numbers, which keeps inf and NaN where they belong. np.where and
            # masks took 20 times as long, as processors guess what cannot be foreseen.
            bits = d_y.view(f"i{d_y.itemsize}")
            for k, windows, seen in stage.places:
                d_x[seen] += (bits[windows] * (first[windows] == k)).view(d_y.dtype)
            d_y = d_x
        return Gradients(d_y)


def _greatest(x: Array, stage: Stage) -> Array:
    y = workspace.full(stage.y, x.dtype, -math.inf)
    for _, windows, seen in stage.places:
        np.maximum(y[windows], x[seen], out=y[windows])  # which passes NaN on
    return y


def _first(x: Array, y: Array, stage: Stage) -> Array:
    """Return where in its window the greatest value stands first; NaN counts as greatest."""
    first = np.zeros(stage.y, np.min_scalar_type(len(stage.places)))
    missing = np.ones(stage.y, bool)  # whether it stands further behind
    nan = bool(np.isnan(y).any())
    for _, windows, seen in stage.places:
        less = x[seen] != y[windows]
        if nan:
            less &= ~np.isnan(x[seen])
        missing[windows] &= less
        first += missing
    return first


class AvgPool(Pool):
    """The base of `AvgPool1d` and `AvgPool2d`, which say what it does."""

    def _forward(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        shape = x.shape
        for stage in self._stages(shape):
            y = workspace.full(stage.y, x.dtype, 0)
            for _, windows, seen in stage.places:
                y[windows] += x[seen]
            x = y
        x /= math.prod(self.kernel_size)
        return x, shape

    def _backward(self, kept: tuple[int, ...], d_y: Array) -> Gradients:
        d_y = d_y / math.prod(self.kernel_size)
        for stage in reversed(list(self._stages(kept))):
            d_x = workspace.full(stage.x, d_y.dtype, 0)
            for _, windows, seen in stage.places:
                d_x[seen] += d_y[windows]
            d_y = d_x
        return Gradients(d_y)


class MaxPool1d(MaxPool):
    """Greatest value of each window: x (B, C, L) to (B, C, L').

    L' = (L + 2 padding - K) // stride + 1. Padding is never the greatest. NaN is passed on. The
    gradient goes to where the greatest value stands first.

    Parameters
    ----------
    kernel_size
        K, at least 1.
    stride
        Step from one window to the next, at least 1; None for K, so that they lie side by side.
    padding
        Values of -inf that are thought before and after x; at most half of K.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong, or in a call a window is larger than x with its padding.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> fastrnn.MaxPool1d(2)(np.array([[[3.0, 1.0, 4.0, 1.0, 5.0]]]))
    array([[[3., 4.]]])
    """

    letters = "L"


class MaxPool2d(MaxPool):
    """Greatest value of each window: x (B, C, H, W) to (B, C, H', W').

    As `MaxPool1d`, over both axes; of equal values the first is that of the first row, and in it of
    the first column. `kernel_size`, `stride` and `padding` are a number for both axes, or a pair
    for H and W.
    """

    letters = "HW"


class AvgPool1d(AvgPool):
    """Mean of each window: x (B, C, L) to (B, C, L'), L' = (L + 2 padding - K) // stride + 1.

    Parameters
    ----------
    kernel_size
        K, at least 1.
    stride
        Step from one window to the next, at least 1; None for K, so that they lie side by side.
    padding
        Zeros that are thought before and after x, and counted; at most half of K.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong, or in a call a window is larger than x with its padding.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> fastrnn.AvgPool1d(2)(np.array([[[3.0, 1.0, 4.0, 1.0, 5.0]]]))
    array([[[2. , 2.5]]])
    """

    letters = "L"


class AvgPool2d(AvgPool):
    """Mean of each window: x (B, C, H, W) to (B, C, H', W').

    As `AvgPool1d`, over both axes. `kernel_size`, `stride` and `padding` are a number for both
    axes, or a pair for H and W.
    """

    letters = "HW"
