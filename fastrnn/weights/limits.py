"""How much memory a file may make its reader take: in proportion to what it holds."""

from __future__ import annotations

import math
from collections.abc import Sequence

_TIMES = 32  # weights compress badly, if at all: more is not theirs
_FREE = 1 << 20  # so small a sum is harmless


class Budget:
    """Bytes that may be taken, as so many times the bytes of the file.

    Parameters
    ----------
    size
        Bytes of the file.
    """

    def __init__(self, size: int) -> None:
        self.left = _FREE
        self.grow(size)

    def grow(self, size: int) -> None:
        """Count another file's bytes."""
        self.left += _TIMES * size

    def take(self, what: str, shape: Sequence[int], itemsize: int) -> int:
        """Return the bytes of an array, before it is made.

        Raises
        ------
        ValueError
            If a size is negative, or the file is too small for so much.
        """
        if any(size < 0 for size in shape):
            raise ValueError(f"{what}: expected sizes of at least 0, got {tuple(shape)}")
        size = math.prod(shape) * itemsize
        if size > self.left:
            raise ValueError(
                f"{what}: expected no more than the file can hold, got {size} bytes "
                f"of shape {tuple(shape)}"
            )
        self.left -= size
        return size
