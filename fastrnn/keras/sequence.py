"""Sequences as Keras has them, (B, T, I) with a mask and its weights, on `fastrnn.torch.ops`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import torch
from torch import Tensor

from ..cells import CELLS
from ..torch import ops
from ..torch.modules import WIDER, on_cpu
from ..validation import shape
from ..weights import table

SLOPE = 1 / 6  # of Keras' hard sigmoid


def run(
    cell: str,
    options: dict[str, Any],
    sequences: Any,
    initial_state: Sequence[Any],
    mask: Any,
    weights: Sequence[Any],
    *,
    backwards: bool,
    zero: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Run a layer.

    A masked step changes no state. Its output is that of the step before, and zero before the
    first valid one, whatever the initial state: so the loop of Keras has it.

    Parameters
    ----------
    cell, options
        A row of `CELLS`, and all its options.
    sequences
        (B, T, I).
    initial_state
        (B, H) for each state of the cell.
    mask
        (B, T), true where a step is valid; or None.
    weights
        Keras' kernel (I, G*H), recurrent_kernel (H, G*H), and bias if there is one.
    backwards
        Whether the last step comes first; the outputs stay in the order of processing.
    zero
        Whether the outputs of all masked steps are zero.

    Returns
    -------
    last, outputs, states
        (B, H), (B, T, H), and (B, H) for each state. Half precision is computed in float32, and
        these are of that type.

    Raises
    ------
    ValueError
        If a shape is wrong.
    TypeError
        If a tensor is not on the CPU.
    """
    given = [keras.ops.convert_to_tensor(w) for w in weights]
    on_cpu("weights", *given)
    on_cpu("sequences", sequences)
    on_cpu("initial_state", *initial_state)
    dtype = WIDER.get(given[0].dtype, given[0].dtype)
    names, I, H = CELLS[cell].states, len(given[0]), len(given[1])
    shape("sequences", sequences, "B", "T", ("I", I))
    x = sequences.to(dtype).transpose(0, 1)
    T, B = x.shape[:2]
    if len(initial_state) != len(names):
        raise ValueError(
            f"initial_state: expected {len(names)} of them ({', '.join(names)}), "
            f"got {len(initial_state)}"
        )
    for s in initial_state:
        shape("initial_state", s, ("B", B), ("H", H))
    valid = None if mask is None else _valid(mask, B, T)
    if backwards:
        x, valid = x.flip(0), None if valid is None else valid.flip(0)
    lengths, padded = None, True  # padded: no valid step comes after a masked one
    if valid is not None:
        lengths = valid.sum(0)
        padded = _is_padded(valid, lengths)
        if not padded:
            # Valid steps first, in their order.
            x = _take(x, valid.to(torch.uint8).argsort(dim=0, descending=True, stable=True))
    y, *finals = ops.layer(
        x.contiguous(),
        [s.to(dtype)[None] for s in initial_state],
        _convert(cell, options, [w.to(dtype) for w in given]),
        lengths,
        None,
        cell,
        tuple(options.values()),
        1,
    )
    new = [s[0] for s in finals]
    last = new[0]
    if valid is not None:
        count = valid.cumsum(0)
        hidden = ~valid if zero else count == 0
        if not (zero and padded):  # else these outputs are zero already
            y = _take(y, (count - 1).clamp(min=0)).masked_fill(hidden[..., None], 0)
        last = last.masked_fill(hidden[-1][:, None], 0)
    return last, y.transpose(0, 1), new


def _valid(mask: Any, B: int, T: int) -> Tensor | None:
    """Return a mask as (T, B), or None if all its steps are known to be valid."""
    mask = keras.ops.convert_to_tensor(mask, "bool")
    if mask.ndim == 3:
        shape("mask", mask, ("B", B), ("T", T), 1)
        mask = mask[..., 0]
    shape("mask", mask, ("B", B), ("T", T))
    valid: Tensor = mask.transpose(0, 1)
    return None if not _unknown(valid) and valid.all() else valid


def _is_padded(valid: Tensor, lengths: Tensor) -> bool:
    """Say whether it is known that in all rows the first steps are the valid ones."""
    if _unknown(valid):
        return False
    first = torch.arange(len(valid))[:, None] < lengths
    return bool(torch.equal(valid, first))


def _unknown(tensor: Tensor) -> bool:
    """Say whether the numbers of a tensor must not decide what is computed."""
    return bool(tensor.is_meta or ops.is_watched())


def _take(x: Tensor, steps: Tensor) -> Tensor:
    """Return the steps (T, B) of each row of x (T, B, ·)."""
    T, B = steps.shape
    flat = steps * B + torch.arange(B, device=steps.device)
    return x.reshape(T * B, -1).index_select(0, flat.reshape(-1)).view(T, B, -1)


def _convert(cell: str, options: dict[str, Any], given: list[Tensor]) -> list[Tensor]:
    """Turn Keras' weights into torch's, as the table of formats says; torch differentiates it."""
    row = table.find("keras", cell, **options)
    places, H = row.places, len(given[1])
    if places != sorted(places):
        blocks = [w.split(H, -1) for w in given]
        given = [torch.cat([b[k] for k in places], -1) for b in blocks]
    if options.get(table.GATED) == "hard_sigmoid":
        factors = torch.tensor(table.gate_factors(cell, 5 * SLOPE), dtype=given[0].dtype)
        factors = factors.repeat_interleave(H).to(given[0].device)
        given = [w * factors for w in given]
    kernel, recurrent, *bias = given
    weights = [kernel.T.contiguous(), recurrent.T.contiguous()]
    for b in bias:
        weights += b.unbind() if row.bias == "stacked" else (b, torch.zeros_like(b))
    return weights
