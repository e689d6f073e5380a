"""Packed sequences as padded ones, and back.

Torch's own functions do this on its threads, which go on spinning for a while: beside them, a layer
took half as long again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import workspace
from ..validation import Array
from . import ops
from .direct import PLAIN, TYPES


def pad(data: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the steps of a packed sequence as (T, B, I), and the lengths of its rows (B,).

    Parameters
    ----------
    data
        (N, I), all rows of the first step, of the second one, and so on.
    sizes
        (T,): how many rows each step has, never more than the one before.

    What lies behind the end of a row is not defined.
    """
    if _is_plain(data):
        lengths = (sizes[None] > torch.arange(int(sizes[0]))[:, None]).sum(1)
        return _Pad.apply(data, sizes.tolist()), lengths
    return torch._VF._pad_packed_sequence(data, sizes, False, 0.0, len(sizes))


def pack(y: Tensor, sizes: Tensor, lengths: Tensor) -> Tensor:
    """Return the valid steps of y (T, B, H) as the data of a packed sequence (N, H)."""
    if _is_plain(y):
        return _Pack.apply(y, sizes.tolist())
    return torch._VF._pack_padded_sequence(y, lengths, False)[0]


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in PLAIN and tensor.is_cpu and tensor.dtype in TYPES and not ops.is_watched()
    )


def _spread(rows: Array, sizes: list[int], padded: Array) -> Array:
    """Put rows (N, ·) where they belong in (T, B, ·)."""
    k = 0
    for t, n in enumerate(sizes):
        padded[t, :n] = rows[k : k + n]
        k += n
    return padded


def _gather(padded: Array, sizes: list[int]) -> Array:
    """Return the valid rows of (T, B, ·), (N, ·)."""
    out = workspace.empty((sum(sizes), padded.shape[2]), padded.dtype)
    return np.concatenate([padded[t, :n] for t, n in enumerate(sizes)], out=out)


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, data: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        rows = ops.array("input", data)
        shape = (len(sizes), sizes[0], rows.shape[1])
        return torch.from_numpy(_spread(rows, sizes, workspace.empty(shape, rows.dtype)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(_gather(ops.array("gradient", d), ctx.sizes)), None


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes, ctx.shape = sizes, y.shape
        return torch.from_numpy(_gather(ops.array("output", y), sizes))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        rows = ops.array("gradient", d)
        return torch.from_numpy(_spread(rows, ctx.sizes, np.zeros(ctx.shape, rows.dtype))), None
