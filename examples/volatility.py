"""How volatile will the next day be? Forecasts that are no networks, and how forecasts are scored.

Volatility is the log of Parkinson's (1980) variance of the day, log(high/low)^2 / (4 log 2). It is
far less noisy than a squared return, and its log is nearly Gaussian (Alizadeh, Brandt & Diebold
2002), so that squared errors mean something. Variances themselves are scored by QLIKE, which ranks
forecasts rightly in spite of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

WEEK, MONTH, YEAR = 5, 22, 252  # days of trading
LAMBDA = 0.94  # of RiskMetrics (1996)
LAMBDAS = np.linspace(0.6, 0.98, 39)
NAIVE, MEAN, RISKMETRICS, EWMA = "today's", "mean so far", "EWMA 0.94 of r²", "EWMA of ranges"
SIMPLE = (NAIVE, MEAN, RISKMETRICS, EWMA)
UNSCALED = (NAIVE, MEAN)  # what they are is their definition
Z = 1.96  # normal quantile, 5 % on both sides


class Market(NamedTuple):
    """What is known of each day at its end (days,)."""

    year: np.ndarray
    variance: np.ndarray  # the log of Parkinson's
    returns: np.ndarray  # log returns in per cent
    scaled: np.ndarray  # log returns in units of the root of the variance

    def first(self, year: int) -> int:
        """Return the first day of a year, or the number of days."""
        return int(np.searchsorted(self.year, year))


def market(date: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray) -> Market:
    """Return what there is to know of days, by their dates and prices (days,)."""
    year = date.astype("datetime64[Y]").astype(int) + 1970
    variance = 2 * np.log(np.log(high / low)) - np.log(4 * np.log(2))
    returns = np.diff(np.log(close), prepend=np.log(close[0]))
    return Market(year, variance, 100 * returns, returns / np.exp(variance / 2))


# Forecasts of the log of the variance. All have one form: entry d of what they return (stop,) comes
# from the days before d alone, and what is fitted, from those before `end`. The first month, which
# has too little behind it, is neither fitted to (`known`) nor scored.

Model = Callable[[Market, int, int], np.ndarray]


def known(end: int) -> slice:
    """Return the days that may be fitted to."""
    return slice(MONTH, end)


def mean(days: Market, end: int, stop: int) -> np.ndarray:
    """Return the mean so far."""
    return np.full(stop, days.variance[known(end)].mean())


def naive(days: Market, end: int, stop: int) -> np.ndarray:
    """Return the variance of the day before."""
    del end
    return np.append(days.variance[:1], days.variance[: stop - 1])


def riskmetrics(days: Market, end: int, stop: int) -> np.ndarray:
    """Return the average of squared returns, older ones weighing less by a fixed factor."""
    del end
    return _log_ewma(days.returns[:stop] ** 2, LAMBDA)


def ewma(days: Market, end: int, stop: int) -> np.ndarray:
    """Return that of the ranges' variances, with the factor that fits best."""
    found = [_log_ewma(np.exp(days.variance[:stop]), decay) for decay in LAMBDAS]
    fitted = known(end)
    fits = [np.corrcoef(raw[fitted], days.variance[fitted])[0, 1] for raw in found]
    return found[int(np.argmax(fits))]


def har(days: Market, end: int, stop: int, *, leverage: bool = False) -> np.ndarray:
    """Return a regression on the last day, week and month, in logs (Corsi 2009).

    With leverage, on falls of the price over them, too (Corsi & Reno 2012).
    """
    remembered = [days.variance]
    if leverage:
        remembered.append(np.minimum(days.scaled, 0))
    columns = [_average(x, span) for x in remembered for span in (1, WEEK, MONTH)]
    x = np.ones((stop, 1 + len(columns)))
    x[1:, 1:] = np.stack(columns, axis=1)[: stop - 1]
    weights, *_ = np.linalg.lstsq(x[known(end)], days.variance[known(end)], rcond=None)
    return x @ weights


def garch(days: Market, end: int, stop: int, *, asymmetric: bool = False) -> np.ndarray:
    """Return GARCH(1,1) (Bollerslev 1986), or that of Glosten, Jagannathan & Runkle (1993)."""
    centred = days.returns[:stop] - days.returns[1:end].mean()
    parameters = garch_parameters(centred[1:end], asymmetric=asymmetric)
    return np.log(garch_variances(centred, *parameters, start=np.mean(centred[1:end] ** 2)))


def garch_parameters(centred: np.ndarray, *, asymmetric: bool) -> np.ndarray:
    """Return omega, alpha, beta and gamma of greatest likelihood, were shocks Gaussian."""
    from scipy.optimize import minimize

    squares = centred**2
    start = squares.mean()

    def loss(parameters: np.ndarray) -> float:
        variances = garch_variances(centred, *parameters, start=start)
        return float(np.mean(np.log(variances) + squares / variances))

    first = (0.02 * start, 0.05, 0.9, 0.05 if asymmetric else 0)
    bounds = [(1e-6 * start, None), (0, 1), (0, 0.9999), (0, 1 if asymmetric else 0)]
    return minimize(loss, first, bounds=bounds, method="L-BFGS-B").x


def garch_variances(
    centred: np.ndarray, omega: float, alpha: float, beta: float, gamma: float, *, start: float
) -> np.ndarray:
    """Return h of each day, h' = omega + (alpha + gamma [r < 0]) r^2 + beta h."""
    return _recursion(omega + (alpha + gamma * (centred < 0)) * centred**2, beta, start)


def _log_ewma(x: np.ndarray, decay: float) -> np.ndarray:
    return np.log(_recursion((1 - decay) * x, decay, x[:MONTH].mean()))


def _recursion(added: np.ndarray, decay: float, start: float) -> np.ndarray:
    """Return s with s[0] = start, s[d] = added[d - 1] + decay s[d - 1]."""
    from scipy.signal import lfilter

    later, _ = lfilter([1.0], [1.0, -decay], added[:-1], zi=[decay * start])
    return np.append(start, later)


def _average(x: np.ndarray, span: int) -> np.ndarray:
    """Return the mean over each day and those before it, `span` in all (fewer at the start)."""
    total = np.append(0, np.cumsum(x))
    until = np.arange(1, len(total))
    since = np.maximum(until - span, 0)
    return (total[until] - total[since]) / (until - since)


BASELINES: dict[str, Model] = {
    NAIVE: naive,
    MEAN: mean,
    RISKMETRICS: riskmetrics,
    EWMA: ewma,
    "GARCH": garch,
    "GJR-GARCH": partial(garch, asymmetric=True),
    "HAR": har,
    "HAR + leverage": partial(har, leverage=True),
}


def calibrated(
    raw: np.ndarray, days: Market, end: int, unscaled: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return a forecast's log, on the line that fits best, and the variance that follows from it.

    So a model of returns loses nothing by the scale of ranges, and the exponential of a mean log is
    made a mean (Duan's smearing 1983); all by the days before `end`.
    """
    fitted = known(end)
    came = days.variance[fitted]
    log = raw if unscaled else np.polyval(np.polyfit(raw[fitted], came, 1), raw)
    return log, np.exp(log) * np.mean(np.exp(came - log[fitted]))


# Scores


def qlike(log: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return the loss of each forecast of a variance, at least 0 (Patton 2011).

    `log` is that of the variance which came.
    """
    ratio = np.exp(log) / variance
    return ratio - np.log(ratio) - 1


def diebold_mariano(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Return by how many standard errors our losses are the smaller ones (1995).

    Losses of neighbouring days are correlated: the variance is that of Newey & West (1987).
    """
    gain = theirs - ours
    rest = gain - gain.mean()
    lags = round(len(gain) ** (1 / 3))
    total = rest @ rest
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * (rest[lag:] @ rest[:-lag])
    return float(gain.sum() / math.sqrt(total)) if total > 0 else 0.0


def interval(hits: int, count: int) -> tuple[float, float]:
    """Return Wilson's (1927) 95 % interval of a share."""
    z = Z
    middle = (hits + z * z / 2) / (count + z * z)
    reach = z / (count + z * z) * math.sqrt(hits * (count - hits) / count + z * z / 4)
    return middle - reach, middle + reach
