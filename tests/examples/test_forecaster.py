"""The forecaster: nothing looks ahead, and what it is compared with computes what it should."""

import math

import numpy as np
import pytest

import demand
import fastrnn
import forecaster
from demand import DAY, FIRST, WEEK

pytestmark = pytest.mark.network

TINY = forecaster.Plan(samples=FIRST + 11 * DAY, warmup=FIRST + 2 * DAY, hidden=4, window=6)


def test_the_program_is_content(run_example):
    assert run_example("forecaster").startswith("right: 5280 samples: the GRU that learns from")


@pytest.fixture(scope="module")
def y():
    return demand.read()


def test_samples_are_those_of_the_file(y):
    assert y.shape == (944 * DAY,)
    assert (y.min(), y.max()) == (0, 1)
    assert y[:3].tolist() == [0.439155, 0.415055, 0.385004]
    # They begin on a Tuesday: least is asked for on Sundays, and on New Year's Day of 1997.
    days = y.reshape(-1, DAY).mean(axis=1)
    dates = demand.dates(len(y))[::DAY].astype("datetime64[D]")
    weekday = (dates.astype(int) + 3) % 7  # 0 is Monday
    assert np.argmin([days[weekday == k].mean() for k in range(7)]) == 6
    assert dates[np.argmin(days)] == np.datetime64("1997-01-01")
    assert demand.index(np.datetime64("1996-05-08")) == DAY


# No look-ahead


@pytest.mark.parametrize("t", [FIRST + 60, TINY.warmup - 1, TINY.warmup, TINY.warmup + 50])
def test_no_forecast_changes_with_its_own_sample_or_later_ones(monkeypatch, y, t):
    """Only the choice of parameters looks at all of the warm-up: here it is made beforehand."""
    monkeypatch.setattr(demand, "best", lambda candidates, y, warmup: candidates[:, 5])
    y = y[: TINY.samples]
    changed = y.copy()
    changed[t:] = np.random.default_rng(t).uniform(size=len(y) - t)
    one, other = (forecaster.forecasts(samples, TINY, seed=0)[0] for samples in (y, changed))
    assert len(one) == 7
    for name, found in one.items():
        assert found.shape == y.shape, name
        first = np.flatnonzero(found != other[name])[0]
        assert first == (t + WEEK if name == demand.SEASONAL else t + 1), name


def test_parameters_are_chosen_by_the_warmup_alone(y):
    rng = np.random.default_rng(0)
    candidates = rng.normal(size=(40, 3))
    target = rng.normal(size=40)
    candidates[10:20, 1] = target[10:20]  # best in the warm-up's second half,
    candidates[:10, 0] = target[:10]  # before,
    candidates[20:, 2] = target[20:]  # and after
    assert (demand.best(candidates, target, 20) == candidates[:, 1]).all()


def test_who_peeks_would_be_noticed(monkeypatch, y):
    inputs = forecaster.Online._inputs

    def peeking(self, t):
        return [*inputs(self, t)[:-1], y[t]]

    monkeypatch.setattr(forecaster.Online, "_inputs", peeking)
    t = TINY.warmup + 50
    before = forecaster.network(y[: TINY.samples], TINY, seed=0)[0]
    y = y.copy()
    y[t:] += 0.5
    after = forecaster.network(y[: TINY.samples], TINY, seed=0)[0]
    assert np.flatnonzero(before != after)[0] == t


def test_a_seed_says_what_is_found(y):
    first, again, other = (
        forecaster.network(y[: TINY.samples], TINY, seed)[:2] for seed in (1, 1, 2)
    )
    assert np.array(first).tobytes() == np.array(again).tobytes()
    assert (first[0][FIRST + 1 :] != other[0][FIRST + 1 :]).all()


# The network


def test_running_means_weigh_what_is_older_less():
    values = np.random.default_rng(0).normal(3, 2, size=60)
    running = forecaster.Running(memory=10)
    for count, value in enumerate(values, 1):
        running.add(value)
        weights = np.ones(count)  # the first ten weigh the same
        for k in range(10, count):
            weights[k] = weights[:k].sum() / 9  # a tenth of them all
        mean = np.average(values[:count], weights=weights)
        deviation = math.sqrt(np.average((values[:count] - mean) ** 2, weights=weights))
        assert running.mean == pytest.approx(mean, rel=1e-12)
        assert running.deviation == pytest.approx(deviation or 1, rel=1e-9)


def test_the_frozen_network_is_the_one_that_learned_until_then(y):
    learning, frozen, online = forecaster.network(y[: TINY.samples], TINY, seed=0)
    assert (learning[: TINY.warmup + 1] == frozen[: TINY.warmup + 1]).all()
    assert (learning[TINY.warmup + 1 :] != frozen[TINY.warmup + 1 :]).all()
    assert online.optimizer.steps == TINY.samples - 2 - FIRST - TINY.window


def test_the_stream_has_the_weights_and_states_of_the_model(y):
    """What was kept of each step makes the model's own call give the stream's last forecast."""
    plan = TINY
    online = forecaster.Online(plan, seed=0)
    for sample in y[: plan.samples - 1]:
        forecast = online.take(sample)
    t = plan.samples - 2
    output, (state,) = online.model(online.x[t][None, None], (online.states[t][None, None],))
    expected = y[t] + online.unit[t] * output[0, 0, 0]
    assert forecast == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(online.stream.state[0], state, rtol=1e-5, atol=1e-6)
    assert "parameters changed" not in repr(online.stream)
    reached = np.diff(y[: t + 1])[FIRST:] / online.unit[FIRST:t]
    np.testing.assert_allclose(online.targets[FIRST:t, 0], reached, rtol=1e-5, atol=1e-6)


def test_inputs_lie_as_far_before_the_sample_as_they_say(y):
    online = forecaster.Online(TINY, seed=0)
    count = FIRST + DAY
    for sample in y[:count]:
        online.take(sample)
    seen, t = y[:count], count  # the sample that is forecast
    level = [(seen[t - lag] - seen.mean()) / seen.std() for lag in (1, 48, 336)]
    change = [seen[t - lag] - seen[t - lag - 1] for lag in (1, 48, 96, 336, 672)]
    angle = 2 * math.pi * (t % 48) / 48
    wave = [math.sin(angle), math.cos(angle), math.sin(2 * angle), math.cos(2 * angle)]
    expected = [*level, *(np.array(change) / np.diff(seen).std()), *wave]
    np.testing.assert_allclose(online.x[t - 1], expected, rtol=1e-4, atol=1e-5)


def test_an_update_goes_down_the_gradient_of_its_windows(y):
    """By finite differences in float64, through a model of its own."""
    online = forecaster.Online(TINY, seed=0)
    for sample in y[: FIRST + 2 * DAY]:
        online.take(sample)
    taken, rows = {}, []
    record = online.model.record

    def recorded(x, state):
        rows.append((x, state))
        return record(x, state)

    online.model.record = recorded
    online.optimizer.step = taken.update
    online._learn(online.count - 1)
    ((x, (h,)),) = rows
    assert x.shape == (TINY.window, TINY.rows, forecaster.INPUTS)
    last = online.count - 1 - TINY.window
    assert (x[:, 0] == online.x[last : last + TINY.window]).all()
    starts = [int(np.flatnonzero((online.x == x[0, b]).all(axis=1))[0]) for b in range(TINY.rows)]
    assert all(FIRST <= start <= last for start in starts)
    target = np.stack([online.targets[start : start + TINY.window] for start in starts], axis=1)
    model = fastrnn.Sequential(
        fastrnn.GRU(forecaster.INPUTS, 4, dtype="float64"), fastrnn.Linear(4, 1, dtype="float64")
    )
    names = online.model.parameters
    model.load_parameters({name: array.astype(float) for name, array in names.items()})

    def loss():
        output, _ = model(x.astype(float), (h.astype(float),))
        return np.mean((output - target) ** 2)

    expected = {}
    for name, array in model.parameters.items():
        expected[name] = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            kept = array[place]
            array[place] = kept + 1e-5
            above = loss()
            array[place] = kept - 1e-5
            expected[name][place] = (above - loss()) / 2e-5
            array[place] = kept
    norm = math.sqrt(sum((g**2).sum() for g in expected.values()))
    for name, gradient in taken.items():
        np.testing.assert_allclose(gradient, expected[name] / max(norm, 1), rtol=2e-3, atol=2e-5)


# What it is compared with


def test_recursive_least_squares_are_least_squares_of_weighted_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(FIRST + 200, 5))
    target = x @ rng.normal(size=5) + rng.normal(size=len(x))
    factors = np.array([1, 0.99, 0.9])
    found = demand.recursive(x, target, factors)
    for t in (FIRST + 50, FIRST + 199):
        for k, factor in enumerate(factors):
            # The start, 1e3 I, is five more rows, whose weight falls like that of the others.
            ages = np.append(np.full(5, t - FIRST), np.arange(t - FIRST)[::-1] + 1.0)
            weights = factor ** (ages / 2)
            rows = np.concatenate((np.eye(5) / math.sqrt(1e3), x[FIRST:t]))
            wanted = np.append(np.zeros(5), target[FIRST:t])
            solved, *_ = np.linalg.lstsq(rows * weights[:, None], wanted * weights, rcond=None)
            assert found[t, k] == pytest.approx(x[t] @ solved, rel=1e-6)


def test_smoothing_is_its_recursion(y):
    alpha, delta, omega, phi = 0.05, 0.2, 0.3, 0.9
    level = sum(y[:WEEK]) / WEEK
    day, week = [0.0] * DAY, [value - level for value in y[:WEEK].tolist()]
    found = demand.smoothing(y[: 3 * WEEK], np.array([[0.5, 0.5, 0.5, 0], [0.05, 0.2, 0.3, 0.9]]))
    error = 0.0
    for t in range(WEEK, 3 * WEEK):
        forecast = level + day[t % 48] + week[t % 336] + phi * error
        assert found[t, 1] == pytest.approx(forecast, rel=1e-9)
        error = y[t] - level - day[t % 48] - week[t % 336]
        level += alpha * error
        day[t % 48] += delta * error
        week[t % 336] += omega * error


def test_simple_forecasts_are_samples_of_before(y):
    y = y[:1000]
    assert demand.persistence(y, 0)[500] == y[499]
    assert demand.seasonal(y, 0)[500] == y[164]
    assert demand.seasonal_change(y, 0)[500] == pytest.approx(y[499] + y[164] - y[163])


def test_the_linear_model_reads_all_that_the_network_does(monkeypatch, y):
    seen = []
    monkeypatch.setattr(demand, "recursive", lambda x, *_: seen.append(x) or np.zeros((len(x), 1)))
    demand.autoregression(y[:2000], 1000)
    columns = {tuple(column) for column in seen[0][FIRST:].T}
    lags = {*forecaster.LEVELS, *forecaster.CHANGES, *(lag + 1 for lag in forecaster.CHANGES)}
    t = np.arange(2000)
    waves = [wave(2 * np.pi * k * (t % 48) / 48) for k in (1, 2) for wave in (np.sin, np.cos)]
    for column in [np.ones(2000), *(demand.before(y[:2000], lag) for lag in lags), *waves]:
        assert tuple(column[FIRST:]) in columns


# Scores


def scores(**errors):
    found = dict.fromkeys([forecaster.ADAPTIVE, *forecaster.LIMITS, demand.SMOOTHED], 9.0)
    found |= {forecaster.ADAPTIVE: 0.5} | errors
    return {name: forecaster.Score(error, error, 0.0) for name, error in found.items()}


def test_scores_are_per_cent_of_the_samples_after_the_warmup():
    target = np.zeros(100)
    found = {forecaster.ADAPTIVE: np.full(100, 0.01), "other": np.full(100, -0.03)}
    found["other"][:50] = 7
    score = forecaster.score(target, found, 50)["other"]
    assert score[:2] == pytest.approx((3, 3))


@pytest.mark.parametrize("name", forecaster.LIMITS)
def test_who_is_hardly_better_than_any_is_not_right(name):
    limit = forecaster.LIMITS[name]
    assert forecaster.is_right(scores(**{name: 0.51 / limit}))
    assert not forecaster.is_right(scores(**{name: 0.49 / limit}))
