"""The picture: which share of steps took longer than so much."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ..bench.results import is_ours
from ..bench.words import about
from .measure import QUANTILES, Latencies
from .steppers import CLOCK

OURS = "#1d4e89", "#3f88c5", "#8fb8de"
PEERS = "#d1495b", "#e08e0b", "#2e8b57", "#7b4fa3"
PLAIN = "#6b7280"


def colours(names: Sequence[str]) -> dict[str, str]:
    """Give every contender a colour: ours blue, the clock grey."""
    found = {CLOCK: PLAIN}
    for mine, choice in ((True, OURS), (False, PEERS)):
        group = [n for n in names if n != CLOCK and is_ours(n) == mine]
        found |= {name: choice[k % len(choice)] for k, name in enumerate(group)}
    return found


def draw(path: str | os.PathLike[str], rows: Sequence[Latencies], title: str) -> None:
    """Write the picture as PNG, with a panel for each condition.

    Parameters
    ----------
    path
        The file to write or replace.
    rows
        At least one.
    title
        What was measured.
    """
    # Not pyplot: it would choose a window system and keep the figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    conditions = list(dict.fromkeys(row.condition for row in rows))
    look = colours(list(dict.fromkeys(row.contender for row in rows)))
    figure = Figure(figsize=(2 + 5.2 * len(conditions), 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(conditions), sharex=True, sharey=True, squeeze=False)[0]
    least = min(1 / row.count for row in rows)
    for axes, condition in zip(panels, conditions, strict=True):
        for row in rows:
            if row.condition != condition:
                continue
            times, share = row.slower()
            # The line begins where all steps are slower, and ends below the slowest one.
            x = 1e-9 * np.concatenate([times[:1], times])
            y = np.concatenate([[1.0], share])
            y[-1] = least / 2
            axes.step(x, y, where="post", color=look[row.contender], label=row.contender)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(f"{title}, {condition}", loc="left", fontsize=10)
        axes.set_xlabel("time of a step")
        axes.xaxis.set_major_locator(LogLocator(numticks=20))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: about(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(least / 1.5, 1.3)
        for name, q in QUANTILES.items():
            if q < 1:
                axes.annotate(
                    name, (1, 1 - q), xycoords=("axes fraction", "data"), fontsize=8,
                    color=PLAIN, ha="right", va="bottom", xytext=(-2, 1),
                    textcoords="offset points",
                )  # fmt: skip
                axes.axhline(1 - q, color="#e5e7eb", linewidth=0.8, zorder=0)
        axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of steps that took longer")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.savefig(path, format="png")
