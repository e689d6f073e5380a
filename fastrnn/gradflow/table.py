"""A gradient flow as a short table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..validation import Array
from .measures import median

if TYPE_CHECKING:
    from .analysis import GradientFlow


def table(flow: GradientFlow) -> str:
    """Return the table of `str(flow)`, and the verdict below it."""
    T = len(next(iter(flow.radius.values())))
    losses = f"{len(flow.steps)} {'loss' if len(flow.steps) == 1 else 'losses'}"
    if not flow.complete:
        losses += ", not all,"
    lines = [f"{flow.cell.upper()}, {T} steps, {losses} looked at", ""]
    lines += _aligned(
        [
            ("layer", "|dE/dh_k| at k = 0", f"k = {T - 1}", "largest", "singular value", "largest"),
            *(
                (
                    name,
                    _number(d_h[0]),
                    _number(d_h[-1]),
                    _number(d_h.max()),
                    _number(median(flow.radius[name])),
                    _number(np.fmax.reduce(flow.radius[name])),
                )
                for name, d_h in flow.d_h.items()
            ),
        ]
    )
    lines += ["", *_aligned([("gate", "near a bound", "mean"), *_gates(flow)])]
    heading = ["parameter", "|gradient|", "sum of |terms|"]
    if flow.update_ratios:
        heading.append("update / weight")
    rows = [tuple(heading)]
    for name, terms in flow.contributions.items():
        row = [name, _number(_norm(flow.gradients[name])), _number(terms.sum())]
        if flow.update_ratios:
            row.append(_number(flow.update_ratios[name]))
        rows.append(tuple(row))
    return "\n".join([*lines, "", *_aligned(rows), "", str(flow.verdict)])


def _gates(flow: GradientFlow) -> list[tuple[str, ...]]:
    return [
        (f"{name} {gate}", f"{found.share:.0%}", f"{found.mean:.2f}")
        for name, gates in flow.saturation.items()
        for gate, found in gates.items()
    ]


def _norm(array: Array) -> float:
    return float(np.linalg.norm(array))


def _number(value: float) -> str:
    return f"{value:.3g}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Align columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
