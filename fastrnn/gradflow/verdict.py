"""What the numbers mean, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..cells import Cell
from ..validation import Array
from .measures import Saturation, median

VANISHED = 1e-3  # of the gradient at the loss's own step
EXPLODED = 1e3  # times that
MOSTLY = 0.5  # a share of saturated activations that is worth a word
# Of an update's norm, divided by the parameter's: some 1e-3 is usual.
LARGE_UPDATE, SMALL_UPDATE = 1e-1, 1e-6


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found.

    Attributes
    ----------
    kind
        "vanishing", "exploding", "healthy", or "none" where nothing flows back.
    layer
        The layer and direction that it was found in: l0, l0_reverse, ...
    after
        Steps back after which the gradient is below 1e-3 of that at the loss's own step
        (vanishing), or above 1e3 times it (exploding); None otherwise.
    rate
        By what the gradient is multiplied at each step back, the geometric mean; NaN if unknown.
    reason
        The sentence with the numbers.
    advice
        What to try, the most promising first.
    """

    kind: str
    layer: str
    after: int | None
    rate: float
    reason: str
    advice: tuple[str, ...]

    def __str__(self) -> str:
        advice = f" Try: {'; '.join(self.advice)}." if self.advice else ""
        return f"{self.kind}: {self.reason}.{advice}"


class Evidence(NamedTuple):
    """What a verdict on one layer and direction rests on."""

    name: str
    ratios: Array  # (n, T) of each loss, by steps back (`Fading.ratios`)
    finite: bool  # whether all gradients are
    radius: Array  # (T,)
    saturation: Mapping[str, Saturation]


def profile(ratios: Array) -> tuple[Array, Array]:
    """Return the gradient n steps back from a loss, divided by that at its own step.

    Returns
    -------
    median, largest
        Of all losses that have so many steps before them, for n = 0 ... (at most T,).
    """
    ratios = ratios[:, ~np.isnan(ratios).all(axis=0)]
    if not ratios.size:
        return np.zeros(0), np.zeros(0)
    return np.nanmedian(ratios, axis=0), np.nanmax(ratios, axis=0)


@np.errstate(all="ignore")
def judge(cell: Cell, layers: list[Evidence], updates: Mapping[str, float]) -> Verdict:
    """Judge each layer and direction, and return the worst of what was found."""
    found = [_judge(cell, evidence) for evidence in layers]
    order = ("exploding", "vanishing", "healthy", "none")
    worst = min(found, key=lambda v: (order.index(v.kind), v.after or 0))
    return Verdict(
        worst.kind,
        worst.layer,
        worst.after,
        worst.rate,
        worst.reason,
        (*worst.advice, *_on_updates(updates)),
    )


def _judge(cell: Cell, evidence: Evidence) -> Verdict:
    name = evidence.name
    usual, largest = profile(evidence.ratios)
    losses = len(evidence.ratios)
    if len(usual) < 2:
        reason = f"in {name} no gradient flows back through time"
        if not evidence.finite:
            return Verdict("exploding", name, 0, np.inf, f"{reason} that is finite", _CALM)
        return Verdict("none", name, None, np.nan, reason, ())
    singular = median(evidence.radius)
    basis = f"median of {losses} loss steps" if losses > 1 else "one loss"
    sigma = f"the largest singular value of a step's Jacobian is {singular:.2g} (median)"
    grown, gone = np.flatnonzero(largest > EXPLODED), np.flatnonzero(usual < VANISHED)
    if len(grown):
        n = int(grown[0])
        rate = float(largest[n] ** (1 / n))
        reason = (
            f"in {name} the gradient of a loss is above {EXPLODED:g} times that at its own step "
            f"{n} steps back ({_factor(rate)}, the worst of {losses}); {sigma}"
        )
        return Verdict("exploding", name, n, rate, reason, _CALM)
    if len(gone):
        n = int(gone[0])
        rate = float(usual[n] ** (1 / n))
        reason = (
            f"in {name} the gradient of a loss falls below {VANISHED:g} of that at its own step "
            f"after {n} steps ({_factor(rate)}, {basis}); {sigma}"
        )
        return Verdict("vanishing", name, n, rate, reason, _for_memory(cell, evidence))
    n = len(usual) - 1
    rate = float(usual[n] ** (1 / n))
    reason = (
        f"in {name} the gradient of a loss stays between {usual.min():.2g} and "
        f"{usual.max():.2g} of that at its own step, over {n} steps ({_factor(rate)}, {basis}); "
        f"{sigma}"
    )
    return Verdict("healthy", name, None, rate, reason, ())


def _factor(rate: float) -> str:
    return f"times {rate:.3g} a step"


_CALM = (
    "clipping gradients by their norm",
    "a smaller learning rate",
    "a shorter k2 of truncated BPTT",
    "an orthogonal initial weight_hh",
)


def _for_memory(cell: Cell, evidence: Evidence) -> tuple[str, ...]:
    """Say what may help against vanishing."""
    advice = []
    if cell.name == "rnn":
        advice += ["an LSTM or GRU", "an orthogonal initial weight_hh"]
    if "f" in evidence.saturation:
        mean = evidence.saturation["f"].mean
        advice.append(f"a forget-gate bias of 1 or more (the gate's mean is {mean:.2f})")
    if "z" in evidence.saturation:
        mean = evidence.saturation["z"].mean
        advice.append(f"a larger initial bias of the update gate z (its mean is {mean:.2f})")
    full = [f"{g} {s.share:.0%}" for g, s in evidence.saturation.items() if s.share > MOSTLY]
    if full:
        advice.append(
            f"smaller inputs and weights, or a smaller learning rate (saturated: {', '.join(full)})"
        )
    return tuple(advice)


def _on_updates(updates: Mapping[str, float]) -> list[str]:
    if not updates:
        return []
    name, ratio = max(updates.items(), key=lambda item: item[1])
    if ratio > LARGE_UPDATE:
        return [f"a smaller learning rate (an update is {ratio:.2g} of {name})"]
    if ratio < SMALL_UPDATE:
        return [f"a larger learning rate (no update is above {ratio:.2g} of its parameter)"]
    return []
