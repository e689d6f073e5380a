"""Electricity demand half an hour ahead: a GRU that learns from every sample as it comes.

One step at a time: a stream takes each sample and forecasts the next one; when that comes, the
network learns from it, by back-propagation through the last 24 steps, and the stream takes the new
weights. Nothing is known beforehand, not even a mean. Every forecast is made before its sample is
seen (test, then train: Dawid 1984; Gama, Sebastiao & Rodrigues 2013), by everyone alike.

`demand.py` has the data, New South Wales from 1996 to 1998, and what the network is compared with.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import demand
import fastrnn
import harness
from demand import BOTH, DAY, FIRST, LINEAR, NAIVE, SEASONAL, SMOOTHED, WEEK
from volatility import diebold_mariano

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What is read to forecast a sample: others, by how far they lie before it.
LEVELS = 1, DAY, WEEK
CHANGES = 1, DAY, 2 * DAY, WEEK, 2 * WEEK  # from the sample before each
INPUTS = len(LEVELS) + len(CHANGES) + 2 * len(demand.HARMONICS)
ADAPTIVE, FROZEN = "GRU, learning", "GRU, frozen"


@dataclass(frozen=True)
class Plan:
    """What is run. All but how long was chosen by what it gave for the first year."""

    samples: int
    warmup: int  # samples by which what is fitted or frozen is fitted or frozen
    hidden: int = 32
    window: int = 24  # steps that gradients flow back
    rows: int = 4  # windows of an update: the last one, and others drawn from the memory
    memory: int = 16 * WEEK  # samples
    rate: float = 1e-3
    scale: int = 4 * WEEK  # samples that running means go back, or so


FULL = Plan(samples=944 * DAY, warmup=365 * DAY)
QUICK = Plan(samples=250 * DAY, warmup=140 * DAY)
# What the error of the network that learns may be of that of others. In the first year, half of it
# for warm-up, five seeds gave 0.24 to 0.25, 0.11, 0.85 to 0.88 and 0.89 to 0.90.
LIMITS = {NAIVE: 0.3, SEASONAL: 0.2, FROZEN: 0.93, LINEAR: 0.96}


# The network


@dataclass
class Running:
    """Mean and variance of what has been added, what is older weighing less (Finch 2009)."""

    memory: int  # how many of them weigh, or so; the first so many weigh the same
    count: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def add(self, value: float) -> None:
        """Take one more."""
        self.count += 1
        share = 1 / min(self.count, self.memory)
        gap = value - self.mean
        self.mean += share * gap
        self.variance = (1 - share) * (self.variance + share * gap * gap)

    @property
    def deviation(self) -> float:
        return math.sqrt(self.variance) or 1.0


class Online:
    """A network that forecasts the next sample, and learns from each one that comes.

    What it forecasts is the change to the next sample, in units of the changes' deviation so far.
    An update's window is the last one, and others are drawn from the memory beside it (experience
    replay, Lin 1992), each from the state that it once began with (Kapturowski et al. 2019).
    """

    def __init__(self, plan: Plan, seed: int) -> None:
        gru = fastrnn.GRU(INPUTS, plan.hidden, seed=seed)
        self.model = fastrnn.Sequential(gru, fastrnn.Linear(plan.hidden, 1, seed=seed))
        self.optimizer = fastrnn.Adam(self.model.parameters, plan.rate)
        self.stream = fastrnn.Stream(self.model)
        self.plan, self.generator = plan, np.random.default_rng(seed)
        self.level, self.change = Running(plan.scale), Running(plan.scale)
        self.count = 0
        self.y = np.zeros(plan.samples)
        self.unit = np.ones(plan.samples)  # of each sample's change, for the one after it
        self.x = np.zeros((plan.samples, INPUTS), np.float32)
        self.states = np.zeros((plan.samples, plan.hidden), np.float32)  # before each
        self.targets = np.zeros((plan.samples, 1), np.float32)  # what should have been said
        self.seconds: list[Times] = []

    def take(self, sample: float, *, learn: bool = True) -> float:
        """Take a sample, learn from it, and forecast the next one."""
        t, self.count = self.count, self.count + 1
        self.y[t] = sample
        self.level.add(sample)
        if t:
            self.change.add(sample - self.y[t - 1])
        self.unit[t] = self.change.deviation
        if t < FIRST:
            return sample
        start = time.perf_counter()
        self.targets[t - 1] = (sample - self.y[t - 1]) / self.unit[t - 1]
        if learn and t - self.plan.window > FIRST:
            self._learn(t)
        learnt = time.perf_counter()
        if learn:
            self.stream.refresh()
        refreshed = time.perf_counter()
        self.x[t] = self._inputs(t + 1)
        (state,) = self.stream.state
        self.states[t] = state[0, 0]
        ready = time.perf_counter()
        self.stream.step(self.x[t : t + 1], self.stream.output)
        stepped = time.perf_counter()
        self.seconds.append(
            Times(learnt - start, refreshed - learnt, stepped - ready, stepped - start)
        )
        return sample + self.unit[t] * float(self.stream.output[0, 0])

    def _inputs(self, t: int) -> list[float]:
        """Return what is read to forecast sample t."""
        levels = [(self.y[t - lag] - self.level.mean) / self.level.deviation for lag in LEVELS]
        changes = [(self.y[t - lag] - self.y[t - lag - 1]) / self.unit[t - 1] for lag in CHANGES]
        return [*levels, *changes, *demand.clock(t)]

    def _learn(self, end: int) -> None:
        """Make the model better at what came by now: the targets before `end`."""
        plan = self.plan
        last = end - plan.window
        oldest = max(FIRST, last - plan.memory)
        starts = np.append(last, self.generator.integers(oldest, last, plan.rows - 1))
        steps = starts + np.arange(plan.window)[:, None]  # (T, B)
        tape = self.model.record(self.x[steps], (self.states[starts][None],))
        _, d_output = fastrnn.mean_squared_error(tape.output, self.targets[steps])
        gradients = tape.backward(d_output).parameters
        fastrnn.clip_by_global_norm(gradients, 1.0)
        self.optimizer.step(gradients)


class Times(NamedTuple):
    """Seconds of a sample."""

    learn: float  # forward, backward, and the optimizer
    refresh: float  # the stream takes the new weights
    step: float  # the forecast
    all: float


def network(y: np.ndarray, plan: Plan, seed: int) -> tuple[np.ndarray, np.ndarray, Online]:
    """Return forecasts of the network that learns (T,), and those had it stopped at the warm-up's
    end."""
    found = np.tile(y[:1], (2, len(y)))
    online = frozen = Online(plan, seed)
    days = range(0, len(y), DAY)
    for start in harness.progress(days, len(days), "sample by sample"):
        for t in range(start, min(start + DAY, len(y) - 1)):
            if t == plan.warmup:
                frozen = copy.deepcopy(online)
            found[:, t + 1] = online.take(y[t])
            if frozen is not online:
                found[1, t + 1] = frozen.take(y[t], learn=False)
    return (*found, online)


def forecasts(y: np.ndarray, plan: Plan, seed: int) -> tuple[dict[str, np.ndarray], Online]:
    """Return what everyone forecasts for each sample (T,), by name."""
    learning, frozen, online = network(y, plan, seed)
    found = {ADAPTIVE: learning, FROZEN: frozen}
    return found | {name: model(y, plan.warmup) for name, model in demand.BASELINES.items()}, online


# What came out


class Score(NamedTuple):
    """How well samples were forecast, in per cent of the range of demand."""

    error: float  # mean, absolute
    rmse: float
    behind: float  # Diebold & Mariano's t of absolute errors, against the network that learns


def score(y: np.ndarray, found: dict[str, np.ndarray], first: int) -> dict[str, Score]:
    """Score forecasts (T,) of the samples from `first` on."""
    errors = {name: 100 * np.abs(one - y)[first:] for name, one in found.items()}
    return {
        name: Score(
            float(one.mean()),
            math.sqrt(np.square(one).mean()),
            diebold_mariano(one, errors[ADAPTIVE]),
        )
        for name, one in errors.items()
    }


def is_right(scores: dict[str, Score]) -> bool:
    """Tell whether the network that learns is better than others by what it should be."""
    ours = scores[ADAPTIVE].error
    return all(ours < limit * scores[name].error for name, limit in LIMITS.items())


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Forecast, sample by sample, and score all after the warm-up."""
    plan = QUICK if quick else FULL
    y = demand.read()[: plan.samples]
    found, online = forecasts(y, plan, seed)
    scores = score(y, found, plan.warmup)
    ours = scores[ADAPTIVE].error
    table = [("half an hour ahead", "error, % of range", "RMSE", "GRU's error is", "t")]
    for name, one in sorted(scores.items(), key=lambda item: item[1].error):
        than = (
            ("", "") if name == ADAPTIVE else (f"{ours / one.error:.2f} of it", f"{one.behind:.1f}")
        )
        table.append((name, f"{one.error:.3f}", f"{one.rmse:.3f}", *than))
    times = Times(*(1e6 * np.median(np.array(online.seconds[plan.warmup :]), axis=0)))
    line = (
        f"{plan.samples - plan.warmup} samples: the GRU that learns from each errs by {ours:.3f} % "
        f"of the range, frozen by {scores[FROZEN].error:.3f}, a linear model that learns by "
        f"{scores[LINEAR].error:.3f}, persistence by {scores[NAIVE].error:.3f}; a forecast takes "
        f"{times.step:.1f} us, with all that is learnt from a sample {times.all:.0f} "
        f"({times.learn:.0f} the update, {times.refresh:.0f} the stream's refresh)"
    )
    return harness.Outcome(line, is_right(scores), table, picture(y, found, plan))


def picture(y: np.ndarray, found: dict[str, np.ndarray], plan: Plan) -> Figure:
    """Draw errors over the months, and what happens when the clocks are changed."""
    from matplotlib.dates import DateFormatter, WeekdayLocator
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    above, below = figure.subfigures(2)
    months = above.subplots()
    days, stretch = below.subplots(1, 2)
    colors = dict(zip(found, ("C0", "C3", "0.3", "C1", "C2", "0.6", "0.8"), strict=True))
    dates = demand.dates(len(y))
    changes = [day for day in demand.CLOCKS if plan.warmup < demand.index(day) < len(y)]
    middle = demand.index(changes[-1])

    for name in (BOTH, SMOOTHED, LINEAR, FROZEN, ADAPTIVE):
        mean = averaged(np.abs(found[name] - y)[plan.warmup :], 28)
        months.plot(dates[plan.warmup + 28 * DAY - 1 :: DAY], mean, c=colors[name], label=name)
    for day in changes:
        months.axvline(day, c="0.7", ls=":")
    months.set(ylabel="mean error, % of range")
    months.set_title("Errors over 28 days (dotted: the clocks are changed)")
    months.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    near = slice(middle - 3 * WEEK, min(middle + 5 * WEEK, len(y)))
    for name in (SMOOTHED, LINEAR, FROZEN, ADAPTIVE):
        mean = averaged(np.abs(found[name] - y)[near], 7)
        days.plot(dates[near][WEEK - 1 :: DAY], mean, c=colors[name])
    days.axvline(changes[-1], c="0.7", ls=":")
    days.set(ylabel="mean error, % of range", title=f"Over 7 days, around {changes[-1]}")
    days.xaxis.set_major_locator(WeekdayLocator(interval=2))
    days.xaxis.set_major_formatter(DateFormatter("%d %b"))

    hours = slice(middle + DAY + 6, middle + DAY + 24)  # Monday morning
    stretch.plot(dates[hours], y[hours], "k.", ms=6, label="came")
    for name in (BOTH, LINEAR, ADAPTIVE):
        stretch.plot(dates[hours], found[name][hours], c=colors[name], label=name)
    stretch.set(ylabel="demand, share of range", title="The Monday morning after")
    stretch.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    stretch.legend()
    return figure


def averaged(errors: np.ndarray, days: int) -> np.ndarray:
    """Return the mean in per cent over so many days, each time a day later."""
    daily = 100 * errors.reshape(-1, DAY).mean(axis=1)
    return np.convolve(daily, np.full(days, 1 / days), mode="valid")


if __name__ == "__main__":
    harness.main(example, __doc__)
