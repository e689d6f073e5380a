"""The picture of how the loss fell."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from ..validation import Array

TRAINING, HELD_OUT, PLAIN = "#3b6fb6", "#d1495b", "#6b7280"


def draw(
    path: str | os.PathLike[str],
    losses: Sequence[float],
    held_out: Sequence[tuple[int, float]],
    vocabulary_size: int,
    title: str,
) -> None:
    """Write the picture as PNG.

    Parameters
    ----------
    path
        The file to write or replace.
    losses
        Bits per character of each training step, at least one.
    held_out
        (step, bits per character) on the held-out text, at least one.
    vocabulary_size
        Whose logarithm is what guessing blindly costs.
    title
        What was trained.
    """
    # Not pyplot: it would choose a window system and keep the figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = np.arange(1, len(losses) + 1)
    blind = math.log2(vocabulary_size)
    axes.axhline(blind, color=PLAIN, linewidth=1, linestyle=(0, (5, 4)))
    axes.annotate(
        f"blind guessing: log₂({vocabulary_size}) = {blind:.2f}",
        (1, blind),
        (0, -4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color=PLAIN,
        ha="right",
        va="top",
    )
    axes.plot(steps, losses, color=TRAINING, linewidth=0.6, alpha=0.35)
    axes.plot(steps, _smooth(losses), color=TRAINING, linewidth=1.8, label="training")
    at, bits = zip(*held_out, strict=True)
    axes.plot(at, bits, "o-", color=HELD_OUT, linewidth=1.2, markersize=4, label="held out")
    axes.annotate(
        f"{bits[-1]:.2f}",
        (at[-1], bits[-1]),
        (7, 0),
        textcoords="offset points",
        color=HELD_OUT,
        weight="bold",
        va="center",
    )
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("training step")
    axes.set_ylabel("bits per character")
    axes.set_ylim(0, 1.05 * max(blind, float(np.percentile(losses, 99))))
    axes.set_xlim(0, 1.05 * len(losses))  # room for the last figure
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", frameon=False)
    figure.savefig(path, format="png")


def _smooth(values: Sequence[float]) -> Array:
    """Average each value with 2 % of all to either side, or with as many as both sides have."""
    n = len(values)
    at = np.arange(n)
    reach = np.minimum(n // 50, np.minimum(at, at[::-1]))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    return np.asarray((sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1))
