"""Convolution over one or two axes, of x (B, C, ...), written over any number of them.

What the windows see is put side by side as columns (im2col: Chellapilla, Puri & Simard 2006), for
some rows of the batch at a time, and multiplied by the weights at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import validation, workspace
from .initialisation import new_parameters
from .products import cut, product
from .tape import Gradients
from .validation import Array
from .windows import Windowed, count, places, short

# Bytes of the columns that are there at a time: from 1 to 8 MB one thread took the same time, with
# 256 KB up to two thirds longer. So a tape does not keep them, but makes them again.
COLUMNS = 1 << 22


class Convolution(Windowed):
    """The base of `Conv1d` and `Conv2d`, which say what it does."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        bias: bool = True,
        dtype: str = "float32",
        seed: int | None = None,
    ) -> None:
        self.in_channels = validation.positive("in_channels", in_channels)
        self.out_channels = validation.positive("out_channels", out_channels)
        self._slide(kernel_size, stride, padding)
        self.dtype = validation.dtype("dtype", dtype)
        shapes: dict[str, tuple[int, ...]] = {
            "weight": (self.out_channels, self.in_channels, *self.kernel_size)
        }
        if validation.flag("bias", bias):
            shapes["bias"] = (self.out_channels,)
        bound = math.prod(shapes["weight"][1:]) ** -0.5
        generator = validation.generator("seed", seed)
        self.parameters = new_parameters(shapes, bound, self.dtype, generator)

    def _read(self, x: object) -> Array:
        found = validation.floating("x", x, self.dtype)
        return self._checked(found, ("C", self.in_channels))

    def _forward(self, x: Array) -> tuple[Array, Array]:
        weight = self._weight()
        windows = [count(*axis) for axis in self._axes(x.shape)]
        y = workspace.empty((len(x), self.out_channels, *windows), x.dtype)
        for rows, columns in self._columns(x):
            found = product(weight, columns)
            if "bias" in self.parameters:
                found += self.parameters["bias"][:, None]
            y[rows].swapaxes(0, 1)[...] = found.reshape(self.out_channels, -1, *windows)
        return y, x

    def _backward(self, kept: Array, d_y: Array) -> Gradients:
        weight = self._weight()
        d_weight = np.zeros_like(weight)
        d_x = workspace.full(kept.shape, kept.dtype, 0)
        indices = list(self._indices(kept.shape))
        for rows, columns in self._columns(kept):
            d_rows = np.ascontiguousarray(d_y[rows].swapaxes(0, 1))
            flat = d_rows.reshape(self.out_channels, -1)
            d_weight += product(flat, columns, turn_b=True)
            d_columns = product(weight, flat, turn_a=True).reshape(
                self.in_channels, *self.kernel_size, *d_rows.shape[1:]
            )
            d_channels = d_x[rows].swapaxes(0, 1)
            for place, windows, seen in indices:
                d_seen = d_channels[seen]
                d_seen += d_columns[place][windows]
        gradients = {"weight": d_weight.reshape(self.out_channels, -1, *self.kernel_size)}
        if "bias" in self.parameters:
            gradients["bias"] = d_y.sum(axis=(0, *range(2, d_y.ndim)))
        return Gradients(d_x, parameters=gradients)

    def _weight(self) -> Array:
        """Return today's weights, (O, C * kernel)."""
        shape = (self.out_channels, self.in_channels, *self.kernel_size)
        found = validation.floating("weight", self.parameters["weight"], self.dtype)
        return validation.shape("weight", found, *shape).reshape(self.out_channels, -1)

    def _columns(self, x: Array) -> Iterator[tuple[slice, Array]]:
        """Yield some rows of x at a time, and a column for each window on them.

        Columns hold what the window sees, zeros for padding: (C * kernel, rows * windows). The next
        ones overwrite them.
        """
        windows = [count(*axis) for axis in self._axes(x.shape)]
        height = self.in_channels * math.prod(self.kernel_size)
        most = COLUMNS // (height * math.prod(windows) * x.itemsize)
        indices = list(self._indices(x.shape))
        channels = x.swapaxes(0, 1)
        columns = None
        for rows in cut(len(x), max(1, most)):
            shape = (self.in_channels, *self.kernel_size, rows.stop - rows.start, *windows)
            if columns is None or columns.shape != shape:
                columns = workspace.full(shape, x.dtype, 0)
            for place, seeing, seen in indices:
                columns[place][seeing] = channels[:, rows][seen]
            yield rows, columns.reshape(height, -1)

    def _indices(self, shape: tuple[int, ...]) -> Iterator[tuple[Any, Any, Any]]:
        """Yield for each place of the window three indices.

        One of the place, into (C, kernel), one of the windows that see x there, into (C, B,
        windows), and one of what they see, into (C, B, x).
        """
        each = slice(None)
        for found in itertools.product(*(places(*axis) for axis in self._axes(shape))):
            yield (
                (each, *(place.at for place in found)),
                (each, each, *(place.windows for place in found)),
                (each, each, *(place.x for place in found)),
            )

    def __repr__(self) -> str:
        words = [str(self.in_channels), str(self.out_channels), short(self.kernel_size)]
        if set(self.stride) != {1}:
            words.append(f"stride={short(self.stride)}")
        if any(self.padding):
            words.append(f"padding={short(self.padding)}")
        if "bias" not in self.parameters:
            words.append("bias=False")
        return f"{type(self).__name__}({', '.join(words)}, dtype='{self.dtype}')"


class Conv1d(Convolution):
    """Convolution over one axis: x (B, C, L) to (B, O, L'), L' = (L + 2 padding - K) // stride + 1.

    y[b, o, l] = bias[o] + sum over c, k of weight[o, c, k] x[b, c, l * stride + k - padding],
    where x is 0 outside of its L values: a correlation, as networks have it (LeCun et al. 1989).

    Parameters
    ----------
    in_channels, out_channels
        C and O, at least 1.
    kernel_size
        K, at least 1.
    stride
        Step from one window to the next, at least 1.
    padding
        Zeros before and after x.
    bias
        Whether there is one.
    dtype
        "float32" or "float64".
    seed
        Seed of the initialisation, uniform in ±1/sqrt(C K) as in torch.

    Attributes
    ----------
    parameters
        ``weight`` (O, C, K) and ``bias`` (O,).

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong, or in a call a window is larger than x with its padding.

    Examples
    --------
    In front of a recurrent layer, time (T, B, I) becomes the last axis, and the first one again:

    >>> import numpy as np, fastrnn
    >>> x = np.zeros((20, 3, 8), np.float32)
    >>> convolution = fastrnn.Conv1d(8, 16, 5, stride=2, padding=2, seed=1)
    >>> features = convolution(x.transpose(1, 2, 0)).transpose(2, 0, 1)
    >>> y, h_n = fastrnn.GRU(16, 4, seed=2)(features)
    >>> features.shape, y.shape
    ((10, 3, 16), (10, 3, 4))
    """

    letters = "L"


class Conv2d(Convolution):
    """Convolution over two axes: x (B, C, H, W) to (B, O, H', W').

    H' = (H + 2 padding - K) // stride + 1, and so W'. The sum is that of `Conv1d`, over both axes.

    Parameters
    ----------
    in_channels, out_channels
        C and O, at least 1.
    kernel_size, stride, padding
        As for `Conv1d`: a number for both axes, or a pair for H and W.
    bias
        Whether there is one.
    dtype
        "float32" or "float64".
    seed
        Seed of the initialisation, uniform in ±1/sqrt(C K K) as in torch.

    Attributes
    ----------
    parameters
        ``weight`` (O, C, K, K) and ``bias`` (O,).

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong, or in a call a window is larger than x with its padding.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> model = fastrnn.Sequential(
    ...     fastrnn.Conv2d(1, 8, 5, padding=2, seed=1),
    ...     fastrnn.ReLU(),
    ...     fastrnn.MaxPool2d(2),
    ...     fastrnn.Flatten(),
    ...     fastrnn.Linear(8 * 14 * 14, 10, seed=2),
    ... )
    >>> model(np.zeros((3, 1, 28, 28), np.float32)).shape
    (3, 10)
    """

    letters = "HW"
