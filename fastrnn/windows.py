"""What convolution and pooling have in common: windows that slide over the last axes of x.

Written over any number of axes. Padding is never put into memory: of each place of a window it is
known which windows see x there, and what they see; the others see padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from . import validation
from .feedforward import FeedForward
from .validation import Array


class Place(NamedTuple):
    """A place of a window along an axis."""

    at: int  # of the window
    windows: slice  # those that see x there
    x: slice  # what they see, one value each


def count(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return the number of windows along an axis of so many values."""
    return (size + 2 * padding - kernel) // stride + 1


def places(size: int, kernel: int, stride: int, padding: int) -> list[Place]:
    """Return the places of a window along an axis of so many values, the first one first."""
    windows = count(size, kernel, stride, padding)
    found = []
    for index in range(kernel):
        offset = index - padding  # of what the first window sees there
        first = max(0, -(offset // stride))
        end = max(first, min(windows, (size - 1 - offset) // stride + 1))
        seen = slice(0)
        if end > first:
            seen = slice(first * stride + offset, (end - 1) * stride + offset + 1, stride)
        found.append(Place(index, slice(first, end), seen))
    return found


class Windowed(FeedForward):
    """A layer that slides a window over x (B, C, ...); the base of convolution and pooling.

    Attributes
    ----------
    kernel_size, stride, padding
        The window's size, its step, and how many values are thought before and after x: a tuple
        with one number for each axis.
    """

    letters: str  # of the axes that the window slides over

    def _slide(self, kernel_size: object, stride: object, padding: object) -> None:
        """Check and set the attributes."""
        axes = len(self.letters)
        self.kernel_size = _numbers("kernel_size", kernel_size, axes, validation.positive)
        self.stride = _numbers("stride", stride, axes, validation.positive)
        self.padding = _numbers("padding", padding, axes, validation.non_negative)

    def _checked(self, x: Array, channels: str | tuple[str, int]) -> Array:
        """Check the shape of x and return it."""
        validation.shape("x", x, "B", channels, *self.letters)
        for letter, (size, kernel, _, padding) in zip(
            self.letters, self._axes(x.shape), strict=True
        ):
            if size + 2 * padding < kernel:
                raise ValueError(
                    f"x: expected {letter} of at least {kernel - 2 * padding}, as the window has "
                    f"{kernel} and the padding {padding} on each side, got {size}"
                )
        return x

    def _axes(self, shape: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
        """Yield size, window, step and padding of each axis, for an x of this shape."""
        return zip(shape[2:], self.kernel_size, self.stride, self.padding, strict=True)


def _numbers(
    name: str, value: object, axes: int, check: Callable[[str, object], int]
) -> tuple[int, ...]:
    """Return a number for each axis, from one for all or one for each."""
    if not isinstance(value, list | tuple):
        return (check(name, value),) * axes
    if len(value) != axes:
        raise ValueError(f"{name}: expected a whole number or a tuple of {axes}, got {value!r}")
    return tuple([check(f"{name}[{k}]", number) for k, number in enumerate(value)])


def short(numbers: Sequence[int]) -> str:
    """Write one number for all axes, if they have the same."""
    return str(numbers[0] if len(set(numbers)) == 1 else tuple(numbers))
