"""How wild will tomorrow be? S&P 500, 1999 to 2018: a GRU against HAR, GARCH and simpler forecasts.

Many-to-many in step, rolling: the network reads two numbers a day, carries its state from day to
day, and says after each close how volatile the next day will be and what it will return. It is
trained anew at every turn of the year, on the days so far, and predicts the days of the new year.

arch 8.0.0 (NCSA, K. Sheppard) brings the prices; its code does not run. Volatility is measured by
the day's range (`volatility.py`), which needs no opening price: until 2006 those of this file are
the closing prices of the day before.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import fastrnn
import fetch
import harness
import volatility
from volatility import EWMA, MEAN, MONTH, NAIVE, Market, Z

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORK = "GRU"
ZERO = "zero, or up"


@dataclass(frozen=True)
class Plan:
    """What is trained when. Sizes and inputs were chosen by what they gave for 2002 to 2006."""

    years: range  # that are predicted
    networks: int = 5  # which differ in their seed, and are averaged
    hidden: int = 32
    rows: int = 8  # stretches of the training days that are read side by side
    window: int = 50  # days, of truncated back-propagation
    epochs: int = 80
    rate: float = 3e-3  # falls to zero as a half cosine
    decay: float = 0.01  # of weights (AdamW)


FULL = Plan(range(2007, 2019))
QUICK = Plan(range(2007, 2010), networks=2, epochs=60)


class Prices(NamedTuple):
    """Prices of each day (days,), and the days."""

    date: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray


def prices() -> Prices:
    """Read the prices from the package."""
    text = gzip.decompress(fetch.read("arch", "arch/data/sp500/sp500.csv.gz")).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    dates = [row["Date"].split("/") for row in rows]
    date = np.array([f"{y}-{m:>02}-{d:>02}" for m, d, y in dates], "datetime64[D]")
    high, low, close = (np.array([row[n] for row in rows], float) for n in ("High", "Low", "Close"))
    return Prices(date, high, low, close)


def inputs(days: Market) -> np.ndarray:
    """Return what the network reads of each day (days, 2): variance, return in units of its root.

    Nothing is averaged over days: what should be remembered of them, the network learns.
    """
    return np.stack((days.variance, days.scaled), axis=1)


# The network


def network(days: Market, end: int, stop: int, plan: Plan, seed: int) -> np.ndarray:
    """Train on the days before `end`; return the log of the variance and the return (stop, 2)."""
    x, wanted = inputs(days)[:stop], np.stack((days.variance, days.returns), axis=1)[:stop]
    x, _, _ = _standardised(x, end)
    y, middle, spread = _standardised(wanted, end)
    model = fastrnn.Sequential(
        fastrnn.GRU(x.shape[1], plan.hidden, seed=seed), fastrnn.Linear(plan.hidden, 2, seed=seed)
    )
    _train(model, x[MONTH : end - 1], y[MONTH + 1 : end], plan, seed)
    # The state runs on from the first day to the last, whatever was trained on.
    found, _ = model(x[:-1, None])
    return np.append([middle], middle + spread * found[:, 0], axis=0)


def _standardised(x: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    middle, spread = x[volatility.known(end)].mean(axis=0), x[volatility.known(end)].std(axis=0)
    return ((x - middle) / spread).astype(np.float32), middle, spread


def _train(model: fastrnn.Sequential, x: np.ndarray, y: np.ndarray, plan: Plan, seed: int) -> None:
    """Train on days x (days, I) and what came after each, y (days, 2)."""
    steps = len(x) // plan.rows
    x, y = (  # (steps, rows, .): consecutive stretches side by side, up to the last day
        part[len(x) - steps * plan.rows :].reshape(plan.rows, steps, -1).swapaxes(0, 1).copy()
        for part in (x, y)
    )
    optimizer = fastrnn.AdamW(model.parameters, plan.rate, weight_decay=plan.decay)
    generator = np.random.default_rng(seed)
    for epoch in range(plan.epochs):
        optimizer.lr = plan.rate * (1 + math.cos(math.pi * epoch / plan.epochs)) / 2
        first = int(generator.integers(plan.window))  # so that windows end elsewhere each time
        target = y[first:]
        for window in fastrnn.TruncatedBPTT(model, plan.window).windows(x[first:]):
            _, d_output = fastrnn.mean_squared_error(window.output, target[window.steps])
            gradients = window.backward(d_output).parameters
            fastrnn.clip_by_global_norm(gradients, 1.0)
            optimizer.step(gradients)


# Walking forward


@dataclass(frozen=True)
class Forecasts:
    """What was predicted for each day of the years, and what came (days,)."""

    date: np.ndarray
    variance: np.ndarray  # its log
    returns: np.ndarray
    logs: dict[str, np.ndarray]  # predicted, by model: the log of the variance,
    variances: dict[str, np.ndarray]  # the variance itself
    next_returns: dict[str, np.ndarray]  # and the return


def walk(found: Prices, plan: Plan, seed: int) -> Forecasts:
    """Predict each day from those before it, by what was fitted to the years before its own."""
    days = volatility.market(*found)
    parts = [
        _year(days, days.first(year), days.first(year + 1), plan, seed)
        for year in harness.progress(plan.years, len(plan.years), "walking forward")
    ]
    joined = [
        {name: np.concatenate([part[kind][name] for part in parts]) for name in parts[0][kind]}
        for kind in range(3)
    ]
    tested = slice(days.first(plan.years.start), days.first(plan.years.stop))
    return Forecasts(found.date[tested], days.variance[tested], days.returns[tested], *joined)


def _year(
    days: Market, end: int, stop: int, plan: Plan, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Fit to the days before `end`; return what is predicted for those from there to `stop`."""
    seeds = range(seed * plan.networks, (seed + 1) * plan.networks)
    averaged = np.mean([network(days, end, stop, plan, one) for one in seeds], axis=0)
    raw = {NETWORK: averaged[:, 0]}
    raw |= {name: model(days, end, stop) for name, model in volatility.BASELINES.items()}
    both = {
        name: volatility.calibrated(log, days, end, name in volatility.UNSCALED)
        for name, log in raw.items()
    }
    usual = np.full(stop, days.returns[volatility.known(end)].mean())
    return (
        {name: log[end:] for name, (log, _) in both.items()},
        {name: variance[end:] for name, (_, variance) in both.items()},
        {NETWORK: averaged[end:, 1], MEAN: usual[end:], ZERO: 0 * usual[end:]},
    )


# Scores


class Volatility(NamedTuple):
    """How well a model predicts the next day's variance, and how far behind the network it is."""

    qlike: float
    rmse: float  # of the log
    skill: float  # 1 - squared error of the log / that of the mean so far
    behind: float  # Diebold & Mariano's t for QLIKE,
    behind_in_log: float  # and for the squared error of the log


def score_volatility(found: Forecasts) -> dict[str, Volatility]:
    """Score all models."""
    losses = {name: volatility.qlike(found.variance, found.variances[name]) for name in found.logs}
    squares = {name: (found.variance - log) ** 2 for name, log in found.logs.items()}
    return {
        name: Volatility(
            float(losses[name].mean()),
            math.sqrt(squares[name].mean()),
            float(1 - squares[name].mean() / squares[MEAN].mean()),
            volatility.diebold_mariano(losses[name], losses[NETWORK]),
            volatility.diebold_mariano(squares[name], squares[NETWORK]),
        )
        for name in found.logs
    }


class Returns(NamedTuple):
    """How well the next day's return is predicted."""

    error: float  # mean square
    skill: float  # 1 - error / that of always saying 0
    gain: float  # Diebold & Mariano's t of the network against it
    signs: float  # share of days whose sign is right,
    lower: float  # and its 95 % interval
    upper: float


def score_returns(found: Forecasts) -> dict[str, Returns]:
    """Score all forecasts of returns."""
    squares = {name: (found.returns - mean) ** 2 for name, mean in found.next_returns.items()}
    scores = {}
    for name, predicted in found.next_returns.items():
        hits = int(np.sum((predicted >= 0) == (found.returns > 0)))
        scores[name] = Returns(
            float(squares[name].mean()),
            float(1 - squares[name].mean() / squares[ZERO].mean()),
            volatility.diebold_mariano(squares[name], squares[NETWORK]),
            hits / len(predicted),
            *volatility.interval(hits, len(predicted)),
        )
    return scores


def has_skill(scores: dict[str, Returns]) -> bool:
    """Tell whether returns are predicted better than by a constant, beyond doubt."""
    ours, up = scores[NETWORK], scores[ZERO].signs
    closer = min(scores[ZERO].gain, scores[MEAN].gain) > Z
    return closer or ours.lower > max(up, 1 - up)


def is_right(
    scores: dict[str, Volatility], of_returns: dict[str, Returns], least: float = Z
) -> bool:
    """Tell whether volatility is predicted better than by simple means, and returns are not.

    `least` is what Diebold & Mariano's t has to be, for either loss.
    """
    better = all(
        min(scores[name].behind, scores[name].behind_in_log) > least for name in volatility.SIMPLE
    )
    return better and not has_skill(of_returns)


def strongest(scores: dict[str, Volatility]) -> str:
    """Return the baseline with the least QLIKE."""
    return min(volatility.BASELINES, key=lambda name: scores[name].qlike)


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Walk forward, and score."""
    found = walk(prices(), QUICK if quick else FULL, seed)
    scores, of_returns = score_volatility(found), score_returns(found)
    table = [("next day's volatility", "QLIKE", "RMSE of log", "R2", "t, QLIKE", "t, log")]
    for name, score in sorted(scores.items(), key=lambda item: item[1].qlike):
        behind = ("", "") if name == NETWORK else (f"{t:.1f}" for t in score[3:])
        table.append(
            (name, f"{score.qlike:.3f}", f"{score.rmse:.3f}", f"{score.skill:.3f}", *behind)
        )
    table.append(
        ("next day's return", "MSE, %2", "sign right", "R2", "t, MSE", "interval of signs")
    )
    for name, one in of_returns.items():
        t = "" if name == NETWORK else f"{one.gain:.1f}"
        row = (name, f"{one.error:.4f}", f"{one.signs:.1%}", f"{one.skill:.4f}", t)
        table.append((*row, f"{one.lower:.1%} to {one.upper:.1%}"))
    best, ours = strongest(scores), scores[NETWORK]
    line = (
        f"{len(found.date)} days: QLIKE {ours.qlike:.3f}, {NAIVE} {scores[NAIVE].qlike:.3f}, "
        f"{EWMA} {scores[EWMA].qlike:.3f}; the network {verdict(scores[best].behind)} the best "
        f"baseline, {best}, {scores[best].qlike:.3f} (t = {scores[best].behind:.1f}); returns are "
        f"{'' if has_skill(of_returns) else 'not '}predicted better than by a constant "
        f"(t = {of_returns[MEAN].gain:.1f}, signs {of_returns[NETWORK].signs:.1%}, "
        f"always up {of_returns[ZERO].signs:.1%})"
    )
    right = is_right(scores, of_returns, 0.0 if quick else Z)  # quick: too few days
    return harness.Outcome(line, right, table, picture(found, scores, of_returns))


def verdict(t: float) -> str:
    """Return how the network compares, by t of their difference."""
    if abs(t) < Z:
        return "comes level with"
    return "beats" if t > 0 else "loses to"


def picture(
    found: Forecasts, scores: dict[str, Volatility], of_returns: dict[str, Returns]
) -> Figure:
    """Draw volatility, the scores, where the network gains on others, and returns."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    (volatile, bars), (gains, scatter) = figure.subplots(2, 2, width_ratios=(3, 2))

    days = found.date[:: volatility.WEEK]
    for variance, color, label in (
        (np.exp(found.variance), "0.7", "came"),
        (found.variances[NETWORK], "C0", f"predicted by the {NETWORK} the days before"),
    ):
        volatile.plot(days, _weekly(variance), c=color, lw=1, label=label)
    volatile.set(yscale="log", ylabel="% a year", title="Volatility by the range, five days each")
    volatile.margins(y=0.2)  # room for the legend
    volatile.yaxis.set_major_formatter("{x:g}")
    volatile.legend(loc="upper right")

    names = sorted(scores, key=lambda name: -scores[name].qlike)
    bars.barh(
        names,
        [scores[name].qlike for name in names],
        color=["C0" if name == NETWORK else "0.7" for name in names],
    )
    for place, name in enumerate(names):
        bars.text(scores[name].qlike, place, f" {scores[name].qlike:.3f}", va="center")
    bars.set(xlabel="QLIKE of the variance (less is better)", title="Scores")
    bars.set_xlim(0, 1.2 * scores[names[0]].qlike)

    ours = volatility.qlike(found.variance, found.variances[NETWORK])
    for name in sorted({strongest(scores), EWMA, "GJR-GARCH"}, key=names.index):
        theirs = volatility.qlike(found.variance, found.variances[name])
        label = f"than {name} (t = {scores[name].behind:.1f})"
        gains.plot(found.date, np.cumsum(theirs - ours), label=label, lw=1)
    gains.axhline(0, c="0.7", lw=1)
    gains.set(ylabel="sum of QLIKE saved", title=f"How much better the {NETWORK} has been so far")
    gains.legend(loc="upper left")

    mean = found.next_returns[NETWORK]
    scatter.plot(mean, found.returns, ".", c="C3", ms=1.5)
    scatter.axhline(0, c="0.7", lw=1, zorder=0)
    scatter.set(
        xlabel=f"predicted by the {NETWORK} the day before, %",
        ylabel="came, %",
        title=f"Return of the day: $R^2$ = {of_returns[NETWORK].skill:.3f}",
    )
    return figure


def _weekly(variance: np.ndarray) -> np.ndarray:
    """Return the volatility of every five days, in per cent a year."""
    weeks = np.arange(0, len(variance), volatility.WEEK)
    means = np.add.reduceat(variance, weeks) / np.diff(np.append(weeks, len(variance)))
    return 100 * np.sqrt(volatility.YEAR * means)


if __name__ == "__main__":
    harness.main(example, __doc__)
