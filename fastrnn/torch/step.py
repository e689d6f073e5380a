"""A single step of a cell on plain tensors: as few operations as can be.

In a loop over steps the interpreter takes longer than the kernels. Looked at is all that may have
changed from call to call; where a case is not plain, nothing is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import dispatch
from ..cells import CELLS
from .direct import PLAIN, TYPES, addresses, are_plain, check_unmoved, is_plain

ALONE = 500_000  # multiply-adds for which another thread is not worth waking


class Step:
    """A step of a cell with certain weights."""

    def __init__(
        self,
        cell: str,
        run: Any,
        weights: Mapping[str, Tensor],
        shapes: tuple[torch.Size, torch.Size],
    ) -> None:
        self.row = row = CELLS[cell]
        first = next(iter(weights.values()))
        self.names = list(weights)
        self.addresses = [w.data_ptr() for w in weights.values()]
        self.ih, self.hh = shapes
        self.dtype, self.real_bytes = first.dtype, TYPES[first.dtype]
        self.sizes = I, H = self.ih[1], self.hh[1]  # I, H
        work = self.hh[0] * (I + H)
        self.alone, self.most = ALONE // work, run.MOST // work  # rows
        self.pair = len(row.states) > 1
        self.gates = (len(row.gates), H) if "gates" in row.records else None
        self.hidden_n = "hidden_n" in row.records
        self.direct = run
        self.run = run.step(I, H, self.real_bytes, addresses(list(weights.values()), 4))

    @classmethod
    def find(
        cls, cell: str, options: tuple[object, ...], weights: Mapping[str, Any]
    ) -> Step | None:
        """Return the step of a cell whose parameters have these names, if there is one here."""
        run, (ih, hh, *_) = dispatch.direct(cell, *options), weights.values()
        dtype = getattr(ih, "dtype", None)
        if run is None or dtype not in TYPES or ih.ndim != 2:
            return None
        if not are_plain(CELLS[cell], list(weights.values()), dtype, ih.shape[1]):
            return None
        return cls(cell, run, weights, (ih.shape, hh.shape))

    def holds(self, parameters: Mapping[str, Any]) -> bool:
        """Say whether the weights are where and as they were."""
        known = self.addresses
        try:
            ih, hh = parameters["weight_ih"], parameters["weight_hh"]
            if ih.data_ptr() != known[0] or hh.data_ptr() != known[1]:
                return False
            if len(known) > 2 and (
                parameters["bias_ih"].data_ptr() != known[2]
                or parameters["bias_hh"].data_ptr() != known[3]
            ):
                return False
        except (AttributeError, KeyError):  # not among the parameters any more, or None
            return False
        return (
            ih.shape == self.ih
            and hh.shape == self.hh
            and ih.is_contiguous()
            and hh.is_contiguous()
        )

    def __call__(self, x: Tensor, hx: Any, parameters: Mapping[str, Any]) -> Any:
        """Return the new state, or None if x (B, I) and the state (B, H) are not the plain case."""
        dtype, shape, (I, H) = self.dtype, x.shape, self.sizes
        if (
            len(shape) != 2
            or shape[1] != I
            or x.dtype is not dtype
            or not x.is_contiguous()
            or not x.is_cpu
            or x.is_neg()
        ):
            return None
        B, c = shape[0], None
        rows = (B, H)
        if hx is None:
            h = torch.zeros(rows, dtype=dtype)
            if self.pair:
                c = torch.zeros(rows, dtype=dtype)
        elif self.pair:
            if type(hx) is not tuple or len(hx) != 2:
                return None
            h, c = hx
            if not is_plain(c, dtype, rows):
                return None
        else:
            h = hx
        if (  # `is_plain`, without the call
            type(h) not in PLAIN
            or h.dtype is not dtype
            or h.shape != rows
            or not h.is_contiguous()
            or not h.is_cpu
            or h.is_neg()
            or not 0 < B <= self.most
        ):
            return None
        if torch.is_grad_enabled():
            weights = [parameters[name] for name in self.names]
            return _Step.apply(self, x, h, c, *weights)
        if c is not None or self.alone < B:
            return self.advance(B, x, h, c, 0, 0)
        new = torch.empty_like(h)
        self.run(1, B, x.data_ptr(), h.data_ptr(), 0, new.data_ptr(), 0, 0, 0)
        return new

    def advance(
        self, B: int, x: Tensor, h: Tensor, c: Tensor | None, gates: int, hidden_n: int
    ) -> Any:
        """Run the step, and return its new state."""
        threads = 1 if self.alone >= B else self.direct.threads(torch.get_num_threads())
        h_new = torch.empty_like(h)
        if c is None:
            self.run(
                threads, B, x.data_ptr(), h.data_ptr(), 0, h_new.data_ptr(), 0, gates, hidden_n
            )
            return h_new
        c_new = torch.empty_like(c)
        self.run(
            threads, B, x.data_ptr(), h.data_ptr(), c.data_ptr(), h_new.data_ptr(),
            c_new.data_ptr(), gates, hidden_n,
        )  # fmt: skip
        return h_new, c_new


class _Step(torch.autograd.Function):
    """A recorded step and the way back."""

    @staticmethod
    def forward(
        ctx: Any, step: Step, x: Tensor, h: Tensor, c: Tensor | None, *weights: Tensor
    ) -> Any:
        ctx.step = step
        new, ctx.records = _record(step, x, h, c)
        if c is None:
            ctx.save_for_backward(x, h, new, *weights)
        else:
            ctx.save_for_backward(x, h, c, *new, *weights)
        return new

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d: Tensor) -> tuple[Any, ...]:
        step, records = ctx.step, ctx.records
        saved, n = ctx.saved_tensors, len(d)
        x, states, new, weights = (
            saved[0],
            saved[1 : n + 1],
            saved[n + 1 : 2 * n + 1],
            saved[2 * n + 1 :],
        )
        check_unmoved(step.row, x, states, weights, step.sizes[0])
        ctx.records = None
        if records is None:  # a second time, with retain_graph: the first has overwritten them
            _, records = _record(step, x, *states, *[None] * (2 - n))
        d_new = [one.contiguous() for one in d]  # kept: the kernels read their memory
        d_x = torch.empty_like(x) if ctx.needs_input_grad[1] else None
        d_states = [torch.empty_like(s) for s in states]
        d_weights = [torch.empty_like(w) for w in weights]
        h, c = addresses(states, 2)
        h_new, c_new = addresses(new, 2)
        B, (I, H) = len(x), step.sizes
        step.direct.backward(
            (1, B, I, H),
            step.real_bytes,
            torch.get_num_threads(),
            (x.data_ptr(), *addresses(weights, 4), h, c),
            (h_new, h_new, c_new, c_new, *addresses(records, 2)),
            (
                h,
                c,
                0,
                *addresses(d_new, 2),
                0 if d_x is None else d_x.data_ptr(),
                *addresses(d_weights, 4),
                *addresses(d_states, 2),
            ),
        )
        return None, d_x, *d_states, *[None] * (2 - n), *d_weights


def _record(step: Step, x: Tensor, h: Tensor, c: Tensor | None) -> tuple[Any, list[Tensor]]:
    """Run a step; return its new state, and what the way back overwrites: gates, hidden_n."""
    B = len(x)
    records = [torch.empty((B, *step.gates), dtype=step.dtype)] if step.gates else []
    if step.hidden_n:
        records.append(torch.empty_like(h))
    return step.advance(B, x, h, c, *addresses(records, 2)), records
