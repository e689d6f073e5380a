"""A layer of plain tensors without ceremony: their addresses go straight to the C kernels.

For a small network everything else takes longer than the network. This is the plain case alone: one
direction, neither projection nor lengths nor resets, and dense tensors on the CPU; for all others
`layer` returns None, and does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import dispatch
from ..cells import CELLS, Cell

PLAIN = (Tensor, torch.nn.Parameter)
TYPES = {torch.float32: 4, torch.float64: 8}  # to the bytes of a number


def is_plain(tensor: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    """Say whether this is a dense, contiguous tensor on the CPU, of this type and shape."""
    return (
        type(tensor) in PLAIN
        and tensor.dtype is dtype
        and tensor.shape == shape
        and tensor.is_cpu
        and tensor.is_contiguous()
        and not tensor.is_neg()
    )


def layer(
    x: Any, states: Sequence[Any], weights: Sequence[Any], cell: str, options: tuple[object, ...]
) -> tuple[Any, ...] | None:
    """Run a layer; return output, h_n and, of an LSTM, c_n; or None if this is not the plain case.

    Parameters
    ----------
    x
        (T, B, I).
    states
        h0 and, of an LSTM, c0, (1, B, H), or none at all for zeros.
    weights
        weight_ih, weight_hh, and bias_ih and bias_hh or neither.
    cell, options
        A row of `CELLS`, and values of its options.
    """
    run, row = dispatch.direct(cell, *options), CELLS[cell]
    if run is None or x.dtype not in TYPES or not are_plain(row, weights, x.dtype, x.shape[-1]):
        return None
    dtype, (T, B, I), (GH, H) = x.dtype, x.shape, weights[1].shape
    if not 0 < T * B * GH * (I + H) <= run.MOST or len(states) not in (0, len(row.states)):
        return None
    if not is_plain(x, dtype, (T, B, I)):
        return None
    if not all(is_plain(s, dtype, (1, B, H)) for s in states):
        return None
    sizes, tensors = (T, B, I, H), (x, *states, *weights)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        found: tuple[Tensor, ...] = _Layer.apply(run, cell, sizes, len(states), *tensors)
        return found
    output = torch.empty((T, B, H), dtype=dtype)
    new = [torch.empty((1, B, H), dtype=dtype) for _ in row.states]
    read = x.data_ptr(), *addresses(weights, 4), *addresses(states, 2)
    written = output.data_ptr(), *addresses(new, 2), 0, 0, 0
    run.forward(sizes, TYPES[dtype], torch.get_num_threads(), read, written)
    return output, *new


def are_plain(row: Cell, weights: Sequence[Any], dtype: torch.dtype, I: int) -> bool:
    """Say whether these are plain weights of a layer without projection."""
    if len(weights) not in (2, 4) or type(weights[1]) not in PLAIN:
        return False
    H = weights[1].shape[-1]
    GH = len(row.gates) * H
    shapes = ((GH, I), (GH, H), (GH,), (GH,))
    return all(is_plain(w, dtype, s) for w, s in zip(weights, shapes, strict=False))


def check_unmoved(
    row: Cell, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], I: int
) -> None:
    """Refuse what has got other data since the way forward, which torch's versions do not tell."""
    if not (
        are_plain(row, weights, x.dtype, I)
        and is_plain(x, x.dtype, (*x.shape[:-1], I))
        and all(is_plain(s, x.dtype, s.shape) for s in states)
    ):
        raise RuntimeError("fastrnn: input, state or weights were given other data before backward")


def addresses(tensors: Sequence[Tensor], n: int) -> list[int]:
    """Return n addresses, 0 for those of tensors that are not there."""
    return [t.data_ptr() for t in tensors] + [0] * (n - len(tensors))


class _Pass:
    """A recorded pass: what the way back reads again.

    The tensors that were returned are not among it: they would keep themselves alive.
    """

    __slots__ = ("consumed", "recorded", "records", "results")

    def __init__(
        self,
        run: Any,
        cell: str,
        sizes: tuple[int, int, int, int],
        x: Tensor,
        states: Sequence[Tensor],
        weights: Sequence[Tensor],
    ) -> None:
        T, B, _, H = sizes
        row, dtype = CELLS[cell], x.dtype
        finals = [torch.empty((1, B, H), dtype=dtype) for _ in row.states]
        self.consumed = [torch.empty((T + 1, B, H), dtype=dtype) for _ in row.states]
        for k, both in enumerate(self.consumed):
            both[:1] = states[k] if states else 0
        # The states that steps make are those that the next ones consume: the same memory, but
        # no views, which torch would not let the caller change.
        made = [
            torch.empty(0, dtype=dtype).set_(both.untyped_storage(), B * H, (T, B, H))
            for both in self.consumed
        ]
        kinds = {"gates": (T, B, len(row.gates), H), "hidden_n": (T, B, H)}
        self.records = [torch.empty(kinds[name], dtype=dtype) for name in row.records]
        read = x.data_ptr(), *addresses(weights, 4), *addresses(states, 2)
        output, cells = addresses(made, 2)
        self.recorded = output, *addresses(finals, 2), cells, *addresses(self.records, 2)
        self.results: list[Tensor] | None = [made[0], *finals]
        run.forward(sizes, TYPES[dtype], torch.get_num_threads(), read, self.recorded)


class _Layer(torch.autograd.Function):
    """A recorded pass and the way back."""

    @staticmethod
    def forward(
        ctx: Any, run: Any, cell: str, sizes: tuple[int, int, int, int], n: int, *tensors: Tensor
    ) -> tuple[Any, ...]:
        done = _Pass(run, cell, sizes, tensors[0], tensors[1 : n + 1], tensors[n + 1 :])
        ctx.how, ctx.done = (run, cell, sizes, n), done
        output, *finals = done.results or []
        done.results = None
        # Saved, although `done` has all that is needed, so that torch notices changes in place.
        ctx.save_for_backward(*tensors, output)
        return output, *finals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d: Tensor) -> tuple[Any, ...]:
        run, cell, sizes, n = ctx.how
        x, *others, _ = ctx.saved_tensors
        states, weights = others[:n], others[n:]
        check_unmoved(CELLS[cell], x, states, weights, sizes[2])
        done, ctx.done = ctx.done, None
        if done is None:  # a second time, with retain_graph: the first has overwritten its records
            done = _Pass(run, cell, sizes, x, states, weights)
        d = tuple([one.contiguous() for one in d])  # kept: the kernels read their memory
        d_x = torch.empty_like(x) if ctx.needs_input_grad[4] else None
        found = [torch.empty_like(t) for t in others]
        d_states = found[:n] or [torch.empty_like(one) for one in d[1:]]
        further = (
            *addresses(done.consumed, 2),
            *addresses(d, 3),
            0 if d_x is None else d_x.data_ptr(),
            *addresses(found[n:], 4),
            *addresses(d_states, 2),
        )
        threads = torch.get_num_threads()
        read = x.data_ptr(), *addresses(weights, 4), *addresses(states, 2)
        run.backward(sizes, TYPES[x.dtype], threads, read, done.recorded, further)
        return None, None, None, None, d_x, *found
