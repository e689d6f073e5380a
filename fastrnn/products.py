"""Products of matrices, of which one is long, for layers without memory."""

from __future__ import annotations

import numpy as np

from . import dispatch, workspace
from .feedforward import ALONE
from .validation import Array

# Sides of the blocks that products are cut into, so that BLAS computes each alone (`feedforward`
# says why): 1.1 to 1.4 times what one product on one thread takes. Cut into columns alone they took
# 1.1 to 4.4 times as long. With all of its threads BLAS took half the time on two processors that
# were idle, and up to 350 ms in place of 1.5 on busy ones.
SIDE = 64


def product(a: Array, b: Array, *, turn_a: bool = False, turn_b: bool = False) -> Array:
    """Return a (M, K) @ b (K, N), or that of the transposed ones, by the C kernels or else by BLAS.

    Both are C-contiguous and not empty; N is large, or K if b is transposed.

    On one thread the kernels take 0.4 to 0.6 of the time of the blocks below, on two 0.2 to 0.4
    (with AVX-512 on a processor for which NumPy's OpenBLAS chooses AVX2).
    """
    own = dispatch.product()
    if own is not None:
        found: Array = own(a, b, turn_a=turn_a, turn_b=turn_b)
        return found
    a = a.T if turn_a else a
    return _blocks_of_rows(a, b) if turn_b else _blocks(a, b)


def cut(size: int, most: int) -> list[slice]:
    """Cut a range into parts of nearly the same length, `most` at most."""
    step = -(-size // max(1, -(-size // most))) or 1
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _blocks(a: Array, b: Array) -> Array:
    """Return a (M, K) @ b (K, N), where N is large, computed block by block."""
    out = workspace.empty((len(a), b.shape[1]), a.dtype)
    more = None
    for rows in cut(len(a), SIDE):
        for k, inner in enumerate(cut(len(b), SIDE)):
            found = out[rows]
            if k:
                if more is None:
                    more = workspace.empty(found.shape, a.dtype)
                found = more[: len(found)]
            part = a[rows, inner]
            for columns, width in _stacked(b.shape[1], part.size):
                np.matmul(
                    part,
                    _stack(b[inner, columns], width),
                    out=_stack(found[:, columns], width),
                )
            if k:
                out[rows] += found
    return out


def _blocks_of_rows(a: Array, b: Array) -> Array:
    """Return a (M, N) @ b (K, N).T, where N is large, computed block by block."""
    out = np.zeros((len(a), len(b)), a.dtype)
    for rows in cut(len(a), SIDE):
        for others in cut(len(b), SIDE):
            size = (rows.stop - rows.start) * (others.stop - others.start)
            for columns, width in _stacked(a.shape[1], size):
                parts = _stack(a[rows, columns], width), _stack(b[others, columns], width)
                out[rows, others] += np.matmul(parts[0], parts[1].swapaxes(1, 2)).sum(axis=0)
    return out


def _stacked(size: int, others: int) -> list[tuple[slice, int]]:
    """Cut columns, each of so many multiplications, into parts: stacks of equal width."""
    width = ALONE // others
    whole = size // width * width
    parts = [(slice(0, whole), width), (slice(whole, size), size - whole)]
    return [(part, width) for part, width in parts if part.stop > part.start]


def _stack(a: Array, width: int) -> Array:
    """View (M, n * width) as (n, M, width): matmul hands these to BLAS one by one."""
    return a.reshape(len(a), -1, width).swapaxes(0, 1)
