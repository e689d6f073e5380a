"""How much power in half an hour? The data, and forecasts that are no networks.

scikit-multiflow 0.4.1 (BSD-3-Clause) brings what New South Wales asked for every half hour from 7
May 1996 to 5 December 1998, as a share of its range (Harries 1999). The clocks of the data know no
daylight saving time: twice a year everyone does everything an hour earlier or later.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

import fetch

DATA = "scikit-multiflow-0.4.1/src/skmultiflow/data/datasets/elec.csv"
DAY, WEEK = 48, 7 * 48  # samples
ORIGIN = np.datetime64("1996-05-07T00:00")
CLOCKS = [  # when daylight saving time began or ended
    np.datetime64(day)
    for day in ("1996-10-27", "1997-03-30", "1997-10-26", "1998-03-29", "1998-10-25")
]
FIRST = 2 * WEEK + 1  # the first sample that has all before it that is looked at
HARMONICS = 1, 2  # of the time of day
LINEAR, SMOOTHED = "AR by RLS", "double seasonal"
NAIVE, SEASONAL, BOTH = "persistence", "a week ago", "week's change"


def read() -> np.ndarray:
    """Read demand (45,312,), in [0, 1], from the package."""
    rows = fetch.read("scikit-multiflow", DATA).decode().splitlines()
    return np.array([float(row.split(",")[2]) for row in rows[1:]])


def dates(count: int) -> np.ndarray:
    """Return when so many samples were taken (count,)."""
    return ORIGIN + np.arange(count) * np.timedelta64(30, "m")


def index(day: np.datetime64) -> int:
    """Return the first sample of a day."""
    return int((day - ORIGIN) / np.timedelta64(30, "m"))


# Forecasts without a network. All have one form: entry t of what they return comes from the samples
# before t alone, but for parameters, which are those that did best in the warm-up.


def before(y: np.ndarray, lag: int) -> np.ndarray:
    """Return the samples `lag` earlier; the first one where there is none."""
    return np.concatenate((np.repeat(y[:1], lag), y[:-lag]))


def persistence(y: np.ndarray, warmup: int) -> np.ndarray:
    """Return the sample before."""
    del warmup
    return before(y, 1)


def seasonal(y: np.ndarray, warmup: int) -> np.ndarray:
    """Return that of a week ago."""
    del warmup
    return before(y, WEEK)


def seasonal_change(y: np.ndarray, warmup: int) -> np.ndarray:
    """Return the sample before, and the change that came a week ago."""
    del warmup
    return before(y, 1) + before(y, WEEK) - before(y, WEEK + 1)


def double_seasonal(y: np.ndarray, warmup: int) -> np.ndarray:
    """Return exponential smoothing with a season of a day and one of a week (Taylor 2010)."""
    grid = (0.001, 0.003, 0.01, 0.03), (0.1, 0.2, 0.3), (0.2, 0.3, 0.4), (0.9, 0.95, 0.98, 0.99)
    return best(smoothing(y, np.array(list(itertools.product(*grid)))), y, warmup)


def smoothing(y: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Return the forecasts (T, n) of n rows of alpha, delta, omega and phi side by side.

    e = y - (l + d + w), l += alpha e, d += delta e, w += omega e; l + d + w + phi e comes next,
    where d is that of the time of day and w that of the time of week.
    """
    alpha, delta, omega, phi = parameters.T
    level = np.full(len(alpha), y[:WEEK].mean())
    day = np.zeros((DAY, len(alpha)))
    week = y[:WEEK, None] - level
    found, error = np.tile(y[:1], (len(y), len(alpha))), np.zeros(len(alpha))
    for t in range(WEEK, len(y)):
        expected = level + day[t % DAY] + week[t % WEEK]
        found[t] = expected + phi * error
        error = y[t] - expected
        level = level + alpha * error
        day[t % DAY] += delta * error
        week[t % WEEK] += omega * error
    return found


def autoregression(y: np.ndarray, warmup: int) -> np.ndarray:
    """Return a linear regression on all that the network reads, and some more of the past."""
    around = [(DAY * days - 1, DAY * days, DAY * days + 1) for days in (1, 2, 7, 14)]
    lags = sorted({1, 2, 3, DAY + 2, WEEK + 2, *itertools.chain(*around)})
    columns = [np.ones(len(y)), *(before(y, lag) for lag in lags), *clock(np.arange(len(y)))]
    forgetting = 1 - np.array([0, 0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015])
    return best(recursive(np.stack(columns, axis=1), y, forgetting), y, warmup)


def recursive(x: np.ndarray, y: np.ndarray, forgetting: np.ndarray) -> np.ndarray:
    """Return forecasts (T, n) of y (T,) from x (T, p) by recursive least squares.

    Each row weighs less than the one after it, by one of n factors of forgetting (Haykin 2002, ch.
    9); those before `FIRST` are left out.
    """
    size = x.shape[1]
    weights = np.zeros((len(forgetting), size))
    inverse = np.tile(1e3 * np.eye(size), (len(forgetting), 1, 1))
    found = np.zeros((len(y), len(forgetting)))
    for t in range(FIRST, len(y)):
        found[t] = weights @ x[t]
        turned = inverse @ x[t]
        scale = forgetting + turned @ x[t]
        weights += turned * ((y[t] - found[t]) / scale)[:, None]
        # Divided last, so that the matrices stay symmetric to the bit: else they would blow up.
        inverse -= turned[:, :, None] * turned[:, None] / scale[:, None, None]
        inverse /= forgetting[:, None, None]
    return found


def best(candidates: np.ndarray, y: np.ndarray, warmup: int) -> np.ndarray:
    """Return those of forecasts (T, n) that erred the least in the warm-up's second half (T,)."""
    judged = slice(warmup // 2, warmup)
    errors = np.abs(candidates[judged] - y[judged, None]).mean(axis=0)
    return candidates[:, int(np.argmin(errors))]


def clock(t: np.ndarray | int) -> list[np.ndarray]:
    """Return sines and cosines of the time of day of samples."""
    angles = [2 * np.pi * harmonic * (t % DAY) / DAY for harmonic in HARMONICS]
    return [wave(angle) for angle in angles for wave in (np.sin, np.cos)]


BASELINES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    LINEAR: autoregression,
    SMOOTHED: double_seasonal,
    BOTH: seasonal_change,
    NAIVE: persistence,
    SEASONAL: seasonal,
}
