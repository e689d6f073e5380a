"""Stocks: volatility is predicted, returns are not, and nothing looks ahead."""

import math

import numpy as np
import pytest

import stocks
import volatility

pytestmark = pytest.mark.network

TINY = stocks.Plan(range(2002, 2004), networks=1, hidden=8, epochs=5)
SMALL = stocks.Plan(range(2004, 2006), networks=1, hidden=16, epochs=40)


def test_the_program_is_content(run_example):
    assert run_example("stocks").startswith("right: 756 days: QLIKE 0.")


@pytest.fixture(scope="module")
def prices():
    return stocks.prices()


@pytest.fixture(scope="module")
def market(prices):
    return volatility.market(*prices)


def test_days_are_those_of_the_file(prices, market):
    assert len(prices.date) == 5031
    assert (prices.date[0], prices.date[-1]) == (
        np.datetime64("1999-01-04"),
        np.datetime64("2018-12-31"),
    )
    assert (prices.high > prices.low).all()
    assert (market.year[[0, -1]] == (1999, 2018)).all()
    assert prices.date[market.first(2007)] == np.datetime64("2007-01-03")
    assert market.first(2019) == 5031
    # 31 December 2018, by hand.
    high, low, close, before = 2509.23999, 2482.820068, 2506.850098, 2485.73999
    variance = math.log(high / low) ** 2 / (4 * math.log(2))
    assert market.variance[-1] == pytest.approx(math.log(variance))
    assert market.returns[-1] == pytest.approx(100 * math.log(close / before))
    assert market.scaled[-1] == pytest.approx(math.log(close / before) / math.sqrt(variance))


# No look-ahead


def changed_after(prices, day):
    """Every price after a day is another one."""
    rng = np.random.default_rng(day)
    after = len(prices.date) - day - 1
    level = np.exp(rng.normal(scale=0.5, size=after))
    spread = np.exp(rng.uniform(0.01, 1, size=(2, after)))
    found = stocks.Prices(*(array.copy() for array in prices))
    level[0] = 0.7  # a fall: GJR-GARCH may not care for a rise
    found.close[day + 1 :] *= level
    found.high[day + 1 :] *= level * spread[0]
    found.low[day + 1 :] *= level / spread[1]
    return found


def reach(prices, plan, day):
    """By forecast, how many days after `day` the first one lies that other prices after it change;
    but for constants, which change at New Year or never."""
    before = stocks.walk(prices, plan, seed=0)
    after = stocks.walk(changed_after(prices, day), plan, seed=0)
    first = np.searchsorted(prices.date, before.date[0])
    found = {}
    for kind in ("logs", "variances", "next_returns"):
        for name, values in getattr(before, kind).items():
            if name not in (volatility.MEAN, stocks.ZERO):
                changed = np.flatnonzero(getattr(after, kind)[name] != values)
                found[kind, name] = first + changed[0] - day
    return found


def days_to_look_at(market):
    new_year = market.first(2003)
    return [market.first(2002) - 1, new_year - 2, new_year - 1, new_year + 100]


def test_no_forecast_changes_with_what_comes_after(prices, market):
    """The forecast for the next day is made of what is known at the end of this one, and that for
    the day after it is made of the next day, too."""
    for day in days_to_look_at(market):
        found = reach(prices, TINY, day)
        assert len(found) == 2 * 8 + 1
        assert {name: days for name, days in found.items() if days != 2} == {}


def test_fits_end_with_the_year(prices, market):
    """Even of what is constant in between."""
    new_year = market.first(2003)
    means = [
        stocks.walk(changed_after(prices, day), TINY, seed=0).logs[volatility.MEAN]
        for day in (new_year - 2, new_year - 1, new_year)
    ]
    place = new_year - market.first(2002)
    assert (means[0][:place] == means[1][:place]).all()
    assert (means[0][place:] != means[1][place:]).all()
    assert (means[1] == means[2]).all()


def peeking(function):
    """Let a function of days that are all known see the next one."""
    return lambda *arguments: np.roll(function(*arguments), -1, axis=0)


@pytest.mark.parametrize(
    ("module", "name", "leak"),
    [
        (stocks, "inputs", peeking(stocks.inputs)),
        (volatility, "_average", peeking(volatility._average)),
        (volatility, "_recursion", peeking(volatility._recursion)),
        (volatility, "known", lambda end: slice(volatility.MONTH, end + 1)),
    ],
    ids=["the network's input", "HAR's", "an average's", "fitted to a day"],
)
def test_a_look_ahead_would_be_noticed(monkeypatch, prices, market, module, name, leak):
    monkeypatch.setattr(module, name, leak)
    found = [reach(prices, TINY, day) for day in days_to_look_at(market)]
    assert min(min(one.values()) for one in found) < 2


def skill(prices):
    found = stocks.walk(prices, SMALL, seed=0)
    return {name: score.skill for name, score in stocks.score_volatility(found).items()}


def test_who_knew_the_day_would_predict_it(monkeypatch, prices):
    """The target shifted by a day, so that it is among the inputs: what a leak would look like."""
    honest = skill(prices)[stocks.NETWORK]
    monkeypatch.setattr(stocks, "inputs", peeking(stocks.inputs))
    peeked = skill(prices)[stocks.NETWORK]
    assert 0 < 1 - peeked < 0.3 * (1 - honest)


def test_days_in_any_order_cannot_be_predicted(prices):
    """The same days shuffled: without memory in the data there is no skill in a forecast."""
    order = np.random.default_rng(0).permutation(len(prices.date))
    level = np.append(1, prices.close[1:] / prices.close[:-1])[order].cumprod()
    relative = (level / prices.close[order] * array[order] for array in prices[1:])
    found = skill(stocks.Prices(prices.date, *relative))
    assert found.pop(volatility.NAIVE) < -0.8
    assert max(found.values()) < 0.02


def test_a_seed_says_what_is_found(prices):
    first, again, other = (stocks.walk(prices, TINY, seed) for seed in (1, 1, 2))
    for kind in ("logs", "variances", "next_returns"):
        one, two = (getattr(found, kind)[stocks.NETWORK] for found in (first, again))
        assert one.tobytes() == two.tobytes()
        assert (one != getattr(other, kind)[stocks.NETWORK]).any()


# The baselines, against loops and against what they should recover


def simulated(days, omega, alpha, beta, gamma):
    rng = np.random.default_rng(4)
    h, r = omega / (1 - alpha - beta - gamma / 2), []
    for z in rng.standard_normal(days):
        r.append(math.sqrt(h) * z)
        h = omega + (alpha + (gamma if r[-1] < 0 else 0)) * r[-1] ** 2 + beta * h
    return np.array(r)


def test_garch_is_its_recursion():
    r = simulated(50, 0.1, 0.05, 0.9, 0.04)
    expected = [2.0]
    for value in r[:-1]:
        gamma = 0.3 if value < 0 else 0.0
        expected.append(0.1 + (0.2 + gamma) * value**2 + 0.5 * expected[-1])
    found = volatility.garch_variances(r, 0.1, 0.2, 0.5, 0.3, start=2.0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_garch_finds_the_parameters_that_made_the_returns(gamma):
    r = simulated(20000, 0.05, 0.05, 0.85, gamma)
    found = volatility.garch_parameters(r, asymmetric=gamma > 0)
    np.testing.assert_allclose(found, (0.05, 0.05, 0.85, gamma), atol=0.02)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_no_likelihood_is_greater(market, asymmetric):
    from scipy.optimize import minimize

    for year in (2007, 2009, 2018):
        r = market.returns[1 : market.first(year)]
        r = r - r.mean()

        def loss(parameters, r=r):
            omega, alpha, beta, gamma = np.abs(parameters)
            h = volatility.garch_variances(
                r, omega, alpha, min(beta, 0.9999), gamma if asymmetric else 0, start=np.mean(r**2)
            )
            return np.sum(np.log(h) + r**2 / h) / 2

        found = volatility.garch_parameters(r, asymmetric=asymmetric)
        free = minimize(
            loss, (0.01, 0.02, 0.93, 0.1), method="Nelder-Mead", options={"maxiter": 4000}
        )
        assert free.success
        assert loss(found) < free.fun + 0.05


def test_har_is_a_regression(market):
    from sklearn.linear_model import LinearRegression

    v, end, stop = market.variance, market.first(2004), market.first(2005)
    x = [[v[d - 1], v[d - 5 : d].mean(), v[d - 22 : d].mean()] for d in range(22, stop)]
    model = LinearRegression().fit(x[: end - 22], v[22:end])
    np.testing.assert_allclose(volatility.har(market, end, stop)[22:], model.predict(x), rtol=1e-9)


def test_ewma_is_a_sum_over_the_days_before(market):
    found = np.exp(volatility.riskmetrics(market, 500, 600))
    ages = np.arange(0, 599)
    expected = 0.06 * np.sum(0.94**ages * market.returns[598::-1] ** 2)
    assert found[599] == pytest.approx(expected, rel=1e-9)


def test_a_scale_makes_no_difference_to_what_is_calibrated(market):
    end = market.first(2004)
    raw = volatility.har(market, end, end + 200)
    one = volatility.calibrated(raw, market, end, unscaled=False)
    other = volatility.calibrated(3 * raw + 7, market, end, unscaled=False)
    np.testing.assert_allclose(one, other, rtol=1e-9)
    ratio = np.exp(market.variance[volatility.known(end)]) / one[1][volatility.known(end)]
    assert ratio.mean() == pytest.approx(1)  # which minimises QLIKE


# Scores


def test_qlike_is_least_for_the_variance_that_came():
    log = np.log([0.5, 2.0, 3.0])
    assert volatility.qlike(log, np.array([0.5, 2, 3])).tolist() == pytest.approx(
        [0, 0, 0], abs=1e-15
    )
    assert volatility.qlike(log, np.array([1.0, 1, 3]))[:2] == pytest.approx(
        [0.5 - math.log(0.5) - 1, 2 - math.log(2) - 1]
    )


def test_differences_of_equal_forecasts_are_significant_as_often_as_chance_has_it():
    """Losses that are correlated from day to day: a plain t would be too large."""
    from scipy.signal import lfilter

    rng = np.random.default_rng(0)
    losses = lfilter([1], [1, -0.5], rng.standard_normal((1000, 2, 3000)))
    t = np.array([volatility.diebold_mariano(theirs, ours) for theirs, ours in losses])
    assert 0.03 < np.mean(np.abs(t) > 1.96) < 0.08
    plain = (losses[:, 0] - losses[:, 1]).mean(axis=1) / (losses[:, 0] - losses[:, 1]).std(axis=1)
    assert np.mean(np.abs(plain * math.sqrt(3000)) > 1.96) > 0.2
    theirs, ours = losses[0]
    assert volatility.diebold_mariano(theirs + 1, ours) > 10
    assert volatility.diebold_mariano(theirs, ours + 1) < -10
    assert volatility.diebold_mariano(theirs, theirs) == 0


def test_the_interval_is_wilsons():
    # Newcombe (1998), table I: 81 of 263.
    assert volatility.interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def forecasts(market, mean):
    """Perfect variances, and forecasts of returns."""
    tested = slice(3000, 4000)
    v, r = market.variance[tested], market.returns[tested]
    rng = np.random.default_rng(0)
    logs = {name: v + rng.normal(size=1000) for name in volatility.BASELINES}
    logs[stocks.NETWORK] = v
    zeros = np.zeros(1000)
    returns = {stocks.NETWORK: mean(r), volatility.MEAN: zeros + 0.03, stocks.ZERO: zeros}
    variances = {name: np.exp(log) for name, log in logs.items()}
    return stocks.Forecasts(np.arange(1000), v, r, logs, variances, returns)


@pytest.mark.parametrize(
    ("mean", "skilled"),
    [
        (lambda r: np.where(np.abs(r) > 1, r / 2, -r / 100), True),
        (lambda r: np.abs(r) - 9 * (r < 0), True),
        (np.zeros_like, False),
    ],
    ids=["closer, wrong sign", "right sign, far off", "none"],
)
def test_who_could_predict_returns_would_be_found_out(market, mean, skilled):
    found = forecasts(market, mean)
    of_returns = stocks.score_returns(found)
    assert stocks.has_skill(of_returns) == skilled
    assert stocks.is_right(stocks.score_volatility(found), of_returns) != skilled


@pytest.mark.parametrize("name", volatility.SIMPLE)
def test_who_is_no_better_than_a_simple_mean_is_not_right(market, name):
    found = forecasts(market, np.zeros_like)
    found.logs[name] = found.logs[stocks.NETWORK] = found.variance + 0.1
    assert not stocks.is_right(stocks.score_volatility(found), stocks.score_returns(found))


def test_verdicts():
    assert [stocks.verdict(t).split()[0] for t in (3.0, 1.0, -1.0, -3.0)] == [
        "beats",
        "comes",
        "comes",
        "loses",
    ]
