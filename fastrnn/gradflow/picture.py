"""The pictures: a gradient flow, and how one changed in training."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import validation
from ..validation import Array
from .measures import Saturation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .analysis import GradientFlow
    from .monitor import Record

BLUE, RED, GREEN, GREY, GRID = "#3b6fb6", "#d1495b", "#3f8f5f", "#6b7280", "#e5e7eb"
COLOURS = (BLUE, RED, GREEN, "#b7791f", "#7b5ea7", "#2a9d8f", GREY, "#9c6644")
DECADES = 8  # of the colour scale, below the largest value
FEW = 3  # curves whose legend finds a place among them
BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)}  # of the axes
LABELS = 9  # loss steps that are named beside the heat map


def new_figure(width: float, height: float) -> Figure:
    """Return a figure that belongs to no window system: pyplot would choose one and keep it."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "matplotlib is not installed: pip install 'fastrnn[cli]'", name=error.name
        ) from error

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def picture(flow: GradientFlow, parameter: str | None = None) -> Figure:
    """Draw the contributions to one parameter over (t, k), and the rest as curves and bars.

    Parameters
    ----------
    flow
        What `analyse` returned, of at least one loss step.
    parameter
        The parameter; None takes the last layer's recurrent weights.

    Raises
    ------
    ValueError
        If there is no such parameter, or no loss step.
    """
    if parameter is None:
        parameter = [name for name in flow.contributions if name.startswith("weight_hh")][-1]
    validation.choice("parameter", parameter, flow.contributions)
    if not len(flow.steps):
        raise ValueError("flow: expected at least one loss step, got none")
    figure = new_figure(12, 7)
    grid = figure.add_gridspec(3, 2, width_ratios=(1.15, 1))
    figure.suptitle(
        "\n".join(textwrap.wrap(str(flow.verdict), 120)), x=0.01, ha="left", fontsize=10.5
    )
    _contributions(figure, figure.add_subplot(grid[:, 0]), flow, parameter)
    curves = {f"dE/dh  {name}": norms for name, norms in flow.d_h.items()}
    curves |= {f"dE/dc  {name}": norms for name, norms in flow.d_c.items()}
    axes = figure.add_subplot(grid[0, 1])
    lines(axes, curves, "norm", "gradient of the whole loss by the state at step k", log=True)
    axes.set_xlabel("step k")
    axes = figure.add_subplot(grid[1, 1])
    axes.axhline(1, color=GREY, linewidth=1, linestyle=(0, (5, 4)))
    lines(axes, flow.radius, "σ", "largest singular value of dS_k/dS_{k-1}")
    axes.set_xlabel("step k")
    _saturation(figure.add_subplot(grid[2, 1]), flow.saturation)
    return figure


def monitored(history: Sequence[Record]) -> Figure:
    """Draw the records of a `Monitor`, over the training steps."""
    figure = new_figure(12, 7)
    (gradients, radius), (saturation, updates) = figure.subplots(2, 2)
    last = history[-1]
    at = np.array([record.step for record in history])
    figure.suptitle(
        "\n".join(textwrap.wrap(f"step {last.step}: {last.verdict}", 120)),
        x=0.01,
        ha="left",
        fontsize=10.5,
    )
    top = list(last.d_h)[-1]
    curves = {
        f"k = {words}": np.array(
            [record.d_h[top][round(share * (len(record.d_h[top]) - 1))] for record in history]
        )
        for words, share in (("0", 0), ("T/4", 0.25), ("T/2", 0.5), ("3T/4", 0.75), ("T-1", 1))
    }
    lines(gradients, curves, "norm", f"gradient by the hidden state of {top}", log=True, at=at)
    radius.axhline(1, color=GREY, linewidth=1, linestyle=(0, (5, 4)))
    curves = {name: np.array([r.radius[name] for r in history]) for name in last.radius}
    lines(radius, curves, "σ (median)", "largest singular value of a step's Jacobian", at=at)
    curves = {
        f"{gate} {name}": np.array([record.saturation[name][gate].share for record in history])
        for name, gates in last.saturation.items()
        for gate in gates
    }
    lines(saturation, curves, "share", "saturated activations", at=at)
    saturation.set_ylim(-0.02, 1.02)
    # The last update is seen by the call after it.
    known = [record for record in history if record.update_ratios]
    names = known[0].update_ratios if known else {}
    curves = {name: np.array([r.update_ratios[name] for r in known]) for name in names}
    at = np.array([record.step for record in known])
    lines(updates, curves, "ratio", "norm of an update by that of the weight", log=True, at=at)
    for axes in (gradients, radius, saturation, updates):
        axes.set_xlabel("training step")
    return figure


def lines(
    axes: Any,
    curves: Mapping[str, Array],
    unit: str,
    title: str,
    *,
    log: bool = False,
    at: Array | None = None,
) -> None:
    """Draw curves over their index; on a logarithmic scale those that have a positive value."""
    seen = False
    for n, (name, values) in enumerate(curves.items()):
        shown = np.where(np.isfinite(values) & ((values > 0) | (not log)), values, np.nan)
        dashed = (0, (4, 2)) if name.startswith("dE/dc") else "-"
        # A curve of one step would not be seen.
        marker = "o" if len(shown) == 1 else None
        axes.plot(
            np.arange(len(shown)) if at is None else at,
            shown,
            color=COLOURS[n % len(COLOURS)],
            linewidth=1.4,
            linestyle=dashed,
            marker=marker,
            label=name,
        )
        seen |= not np.isnan(shown).all()
    if log and seen:
        axes.set_yscale("log")
    if 1 < len(curves) <= len(COLOURS):
        axes.legend(frameon=False, fontsize=8, **(BESIDE if len(curves) > FEW else {}))
    elif len(curves) == 1:
        title += f", {next(iter(curves))}"
    dress(axes, title, unit)


def dress(axes: Any, title: str, unit: str) -> None:
    """Give axes their title, unit and grid."""
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylabel(unit)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _contributions(figure: Figure, axes: Any, flow: GradientFlow, parameter: str) -> None:
    norms = flow.contributions[parameter]
    n, T = norms.shape
    title = f"contribution of step k to the gradient of {parameter}"
    names = ["final" if t == T else str(t) for t in flow.steps]
    if n == 1:
        lines(axes, {f"loss at t = {names[0]}": norms[0]}, "Frobenius norm", title, log=True)
        axes.set_xlabel("step k")
        return
    from matplotlib.colors import LogNorm

    shown = np.ma.masked_where(~(np.isfinite(norms) & (norms > 0)), norms)
    top = float(shown.max()) if shown.count() else 1.0
    low = max(float(shown.min()) if shown.count() else 0.1, top * 10.0**-DECADES)
    image = axes.imshow(
        shown,
        norm=LogNorm(min(low, top / 10), top),
        cmap="viridis",
        aspect="auto",
        origin="lower",
        interpolation="nearest",
    )
    figure.colorbar(image, ax=axes, label="Frobenius norm", extend="min", pad=0.02)
    ticks = np.unique(np.linspace(0, n - 1, min(n, LABELS)).round().astype(int))
    axes.set_yticks(ticks, [names[i] for i in ticks])
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("step k")
    axes.set_ylabel("step t of the loss")


def _saturation(axes: Any, saturation: Mapping[str, Mapping[str, Saturation]]) -> None:
    bars = [(gate, found) for gates in saturation.values() for gate, found in gates.items()]
    at = np.arange(len(bars))
    low = np.array([found.low for _, found in bars])
    high = np.array([found.high for _, found in bars])
    axes.bar(at, low, 0.6, color=BLUE, label="near the\nlower bound")
    axes.bar(at, high, 0.6, low, color=RED, label="near the\nupper bound")
    axes.plot(at, [found.mean for _, found in bars], "D", color="black", ms=4, label="mean")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xticks(at, [gate for gate, _ in bars], fontsize=8)
    start = 0
    for name, gates in saturation.items() if len(saturation) > 1 else ():
        axes.annotate(
            name.replace("_", "\n"),
            (start + (len(gates) - 1) / 2, 0),
            (0, -16),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=8,
        )
        start += len(gates)
    axes.set_ylim(min([0.0, *(found.mean for _, found in bars)]) - 0.07, 1.05)
    axes.legend(frameon=False, fontsize=8, **BESIDE)
    dress(axes, "saturated activations of the gates", "share")
