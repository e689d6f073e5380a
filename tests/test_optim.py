"""Optimizers against scalar loops written from the papers, and clipping."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastrnn

SHAPES = {"weight": (3, 2), "bias": (4,)}


def sgd(p, gradients, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    """Polyak (1964) in torch's form; Nesterov's look-ahead after Sutskever et al. (2013)."""
    velocity = 0.0
    for g in gradients:
        g = g + weight_decay * p
        velocity = momentum * velocity + g
        p = p - lr * (g + momentum * velocity if nesterov else velocity)
        yield p


def adam(p, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    """Kingma & Ba (2015), algorithm 1; decoupled decay after Loshchilov & Hutter (2019)."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        if decoupled:
            p = p - lr * weight_decay * p
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        p = p - lr * m_hat / (math.sqrt(v_hat) + eps)
        yield p


def adamw(p, gradients, **options):
    return adam(p, gradients, decoupled=True, **options)


OPTIMIZERS = [
    pytest.param(kind, rule, options, id=f"{kind.__name__}-{options}")
    for kind, rule, options in (
        (fastrnn.SGD, sgd, {"lr": 0.1}),
        (fastrnn.SGD, sgd, {"lr": 0.1, "momentum": 0.9}),
        (fastrnn.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        (fastrnn.SGD, sgd, {"lr": 0.1, "weight_decay": 0.2}),
        (
            fastrnn.SGD,
            sgd,
            {"lr": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 0.2},
        ),
        (fastrnn.Adam, adam, {}),
        (fastrnn.Adam, adam, {"lr": 0.1, "betas": (0.5, 0.7), "eps": 0.1, "weight_decay": 0.2}),
        (fastrnn.Adam, adam, {"lr": 0.1, "betas": (0.0, 0.0)}),
        (fastrnn.AdamW, adamw, {"lr": 0.1}),
        (fastrnn.AdamW, adamw, {"lr": 0.1, "weight_decay": 0.2}),
    )
]
optimizers = pytest.mark.parametrize(("kind", "rule", "options"), OPTIMIZERS)


def draw(seed: int, dtype: str = "float64") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


@optimizers
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-5)])
def test_steps_equal_scalar_loops(
    kind: Any, rule: Callable, options: dict[str, Any], dtype: str, tolerance: float
) -> None:
    parameters = draw(0, dtype)
    gradients = [draw(seed, dtype) for seed in range(1, 7)]
    start = {name: array.copy() for name, array in parameters.items()}
    arrays = dict(parameters)
    optimizer = kind(parameters, **options)
    history = []
    for g in gradients:
        before = {name: array.tobytes() for name, array in g.items()}
        optimizer.step(g)
        assert {name: array.tobytes() for name, array in g.items()} == before
        history.append({name: array.copy() for name, array in parameters.items()})
    assert all(parameters[name] is array for name, array in arrays.items())
    assert all(array.dtype == dtype for array in parameters.values())
    for name, array in start.items():
        for index in np.ndindex(array.shape):
            path = rule(float(array[index]), [float(g[name][index]) for g in gradients], **options)
            for step, value in enumerate(path):
                found = history[step][name][index]
                assert found == pytest.approx(value, rel=tolerance, abs=tolerance), (name, step)


@optimizers
def test_state_continues_to_the_bit(kind: Any, rule: Any, options: dict[str, Any]) -> None:
    whole = draw(0, "float32")
    optimizer = kind(whole, **options)
    for seed in range(1, 4):
        optimizer.step(draw(seed, "float32"))
    saved = {name: array.copy() for name, array in optimizer.state.items()}
    parameters = {name: array.copy() for name, array in whole.items()}
    for seed in range(4, 7):
        optimizer.step(draw(seed, "float32"))

    resumed = kind(parameters, **options)
    resumed.load_state(saved)
    assert resumed.steps == 3
    for seed in range(4, 7):
        resumed.step(draw(seed, "float32"))
    for name, array in whole.items():
        assert parameters[name].tobytes() == array.tobytes()
    for name, array in optimizer.state.items():
        assert resumed.state[name].tobytes() == array.tobytes()
    # The state was copied in: what was saved has not moved on.
    assert saved["steps"] == 3


def test_state_names_what_it_holds() -> None:
    assert list(fastrnn.SGD(draw(0), 0.1).state) == ["steps"]
    names = [f"{moment}.{name}" for moment in ("first", "second") for name in SHAPES]
    assert list(fastrnn.Adam(draw(0)).state) == [*names, "steps"]
    momentum = fastrnn.SGD(draw(0), 0.1, momentum=0.5)
    assert list(momentum.state) == ["velocity.weight", "velocity.bias", "steps"]


@optimizers
def test_loading_a_wrong_state_changes_nothing(
    kind: Any, rule: Any, options: dict[str, Any]
) -> None:
    optimizer = kind(draw(0), **options)
    optimizer.step(draw(1))
    before = {name: array.tobytes() for name, array in optimizer.state.items()}
    good = {name: np.zeros_like(array) for name, array in optimizer.state.items()}
    wrong = [
        ({n: a for n, a in good.items() if n != "steps"}, ValueError, "state: expected a mapping"),
        (good | {"third.bias": np.zeros(4)}, ValueError, "state: expected"),
        (good | {"steps": np.array(-1)}, ValueError, "state['steps']: expected at least 0"),
        (good | {"steps": np.array(1.5)}, TypeError, "state['steps']: expected a whole number"),
        ([], ValueError, "state: expected a mapping with 'steps'"),
    ]
    for name in good.keys() - {"steps"}:
        wrong += [
            ({n: a for n, a in good.items() if n != name}, ValueError, f"missing {name}"),
            (good | {name: np.zeros((1, 1))}, ValueError, f"state['{name}']: expected shape"),
            (good | {name: good[name].astype("f4")}, TypeError, f"state['{name}']: expected float"),
        ]
    for state, error, words in wrong:
        with pytest.raises(error) as raised:
            optimizer.load_state(state)
        assert words in str(raised.value)
        assert {name: array.tobytes() for name, array in optimizer.state.items()} == before


@optimizers
def test_wrong_gradients_change_nothing(kind: Any, rule: Any, options: dict[str, Any]) -> None:
    parameters = draw(0)
    optimizer = kind(parameters, **options)
    optimizer.step(draw(1))
    good = draw(2)
    before = {n: a.tobytes() for n, a in (parameters | optimizer.state).items()}
    for gradients, error, words in (
        ({"weight": good["weight"]}, ValueError, "gradients: expected weight, bias; missing bias"),
        (good | {"other": good["bias"]}, ValueError, "unknown other"),
        (good | {"bias": np.zeros(3)}, ValueError, "gradients['bias']: expected shape (4,)"),
        (good | {"bias": np.zeros(4, "f4")}, TypeError, "gradients['bias']: expected float64"),
        (good | {"bias": None}, TypeError, "gradients['bias']: expected an array, got None"),
        (list(good.values()), TypeError, "gradients: expected a mapping of arrays, got list"),
    ):
        with pytest.raises(error) as raised:
            optimizer.step(gradients)
        assert words in str(raised.value)
        assert {n: a.tobytes() for n, a in (parameters | optimizer.state).items()} == before
    assert optimizer.steps == 1


def test_learning_rate_may_change_between_steps() -> None:
    p = {"p": np.ones(1)}
    optimizer = fastrnn.SGD(p, lr=0.5)
    optimizer.step({"p": np.ones(1)})
    optimizer.lr = 0.25
    optimizer.step({"p": np.ones(1)})
    assert p["p"] == 0.25


def test_read_only_parameters_are_refused_before_anything_changes() -> None:
    parameters = draw(0)
    parameters["bias"].flags.writeable = False
    with pytest.raises(ValueError, match=r"^parameters\['bias'\]: expected a writable array"):
        fastrnn.SGD(parameters, 0.1)


# -- clipping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clip_by_global_norm(dtype: str) -> None:
    gradients = draw(1, dtype)
    before = {name: array.copy() for name, array in gradients.items()}
    norm = math.sqrt(sum(float(v) ** 2 for array in before.values() for v in array.flat))
    assert fastrnn.clip_by_global_norm(gradients, 2 * norm) == pytest.approx(norm, rel=1e-12)
    for name, array in before.items():
        assert gradients[name].tobytes() == array.tobytes()
    assert fastrnn.clip_by_global_norm(gradients, 0.5) == pytest.approx(norm, rel=1e-12)
    for name, array in before.items():
        assert gradients[name].dtype == dtype
        np.testing.assert_allclose(gradients[name], array * 0.5 / norm, rtol=1e-6)


def test_norm_of_large_and_small_gradients() -> None:
    """Squares in float32 would overflow, or vanish."""
    for size in (1e30, 1e-30):
        gradients = {"a": np.full(4, size, np.float32)}
        assert fastrnn.clip_by_global_norm(gradients, size) == pytest.approx(2 * size, rel=1e-6)
        np.testing.assert_allclose(gradients["a"], np.full(4, size / 2), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_norm_that_is_not_finite_leaves_gradients_alone(value: float) -> None:
    gradients = {"a": np.array([1.0, value]), "b": np.array([2.0])}
    before = {name: array.tobytes() for name, array in gradients.items()}
    norm = fastrnn.clip_by_global_norm(gradients, 1.0)
    assert not math.isfinite(norm)
    assert {name: array.tobytes() for name, array in gradients.items()} == before


def test_clip_by_value() -> None:
    gradients = {"a": np.array([-3.0, -0.5, 0.0, 0.5, 3.0]), "b": np.array([np.inf, 4.0])}
    assert fastrnn.clip_by_value(gradients, 1.5) == math.inf
    assert gradients["a"].tolist() == [-1.5, -0.5, 0.0, 0.5, 1.5]
    assert gradients["b"].tolist() == [1.5, 1.5]
    assert fastrnn.clip_by_value({"a": np.array([3.0, 4.0])}, 9) == 5


@pytest.mark.parametrize("clip", [fastrnn.clip_by_global_norm, fastrnn.clip_by_value])
def test_clipping_checks_everything_first(clip: Callable) -> None:
    good = np.full(3, 9.0)
    read_only = good.copy()
    read_only.flags.writeable = False
    for bad, error, words in (
        ({"a": good, "b": read_only}, ValueError, "gradients['b']: expected a writable array"),
        ({"a": good, "b": [9.0]}, TypeError, "gradients['b']: expected an array, got list"),
        ({"a": good, "b": np.arange(3)}, TypeError, "gradients['b']: expected an array of float"),
        ([good], TypeError, "gradients: expected a mapping of arrays, got list"),
    ):
        with pytest.raises(error) as raised:
            clip(bad, 1.0)
        assert words in str(raised.value)
        assert (good == 9).all()
    for limit in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"expected a number in \(0, inf\)"):
            clip({"a": good}, limit)
        assert (good == 9).all()
