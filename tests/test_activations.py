"""Softmax and its Jacobian, activations, Flatten and Dropout: values and gradients."""

import math
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import fastrnn
from compare import assert_gradient, assert_gradients_of_layer

RNG = np.random.default_rng
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


# -- softmax --------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-3, -2, -1, 0, 1, 2])
def test_softmax_of_an_axis(axis: int) -> None:
    x = RNG(1).standard_normal((2, 3, 4))
    found = fastrnn.softmax(x, axis)
    for index in np.ndindex(x.shape):
        line = list(index)
        line[axis] = slice(None)
        total = sum(math.exp(v) for v in x[tuple(line)])
        assert found[index] == pytest.approx(math.exp(x[index]) / total, rel=1e-14)


def test_softmax_takes_the_last_axis_by_default() -> None:
    x = RNG(1).standard_normal((2, 3))
    np.testing.assert_array_equal(fastrnn.softmax(x), fastrnn.softmax(x, -1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_is_stable(dtype: str) -> None:
    largest = np.finfo(dtype).max
    for values, expected in (
        ([0, 1000], [0, 1]),
        ([-1000, -1000], [0.5, 0.5]),
        ([1e4, 1e4, -1e4], [0.5, 0.5, 0]),
        ([largest, -largest], [1, 0]),
        ([largest, largest], [0.5, 0.5]),
        ([0], [1]),
    ):
        with np.errstate(all="raise"):
            found = fastrnn.softmax(np.array(values, dtype))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, np.array(expected, dtype))


def test_softmax_does_not_change_its_argument() -> None:
    x = RNG(1).standard_normal((2, 3))
    before = x.tobytes()
    fastrnn.softmax(x)
    assert x.tobytes() == before
    assert fastrnn.softmax(np.zeros((0, 3))).shape == (0, 3)


def test_softmax_keeps_the_order_of_the_scores() -> None:
    """So the predicted class is the argmax of either, at any temperature."""
    scores = RNG(2).standard_normal((200, 7))
    order = scores.argsort(axis=1)
    for temperature in (0.05, 1.0, 20.0):
        found = fastrnn.softmax(scores / temperature)
        np.testing.assert_array_equal(found.argsort(axis=1), order)
        np.testing.assert_array_equal(found.argmax(axis=1), scores.argmax(axis=1))


def test_temperature_goes_from_the_predicted_class_to_all() -> None:
    scores = np.array([0.3, -1.0, 0.9, 0.2])
    np.testing.assert_allclose(fastrnn.softmax(scores / 1e-3), [0, 0, 1, 0], atol=1e-200)
    np.testing.assert_allclose(fastrnn.softmax(scores / 1e9), np.full(4, 0.25), rtol=1e-8)
    chosen = [fastrnn.softmax(scores / t)[2] for t in (0.1, 0.5, 1.0, 2.0, 10.0)]
    assert chosen == sorted(chosen, reverse=True)


SHAPES_AND_AXES = st.lists(st.integers(1, 4), min_size=1, max_size=3).flatmap(
    lambda shape: st.tuples(st.just(tuple(shape)), st.integers(-len(shape), len(shape) - 1))
)


@hypothesis.given(SHAPES_AND_AXES, st.integers(0, 1000))
def test_jacobian_of_softmax(case: tuple[tuple[int, ...], int], seed: int) -> None:
    """Element by element against diag(y) - y yᵀ; from either side; and against differences."""
    shape, axis = case
    rng = RNG(seed)
    x, u, v = (2 * rng.standard_normal(shape) for _ in range(3))
    y = fastrnn.softmax(x, axis)
    found = fastrnn.softmax_jvp(y, v, axis)
    lines, changes, results = (np.moveaxis(a, axis, -1) for a in (y, v, found))
    for index in np.ndindex(lines.shape[:-1]):
        p, change = lines[index].tolist(), changes[index].tolist()
        for i, got in enumerate(results[index]):
            row = [(p[i] if i == j else 0.0) - p[i] * p[j] for j in range(len(p))]
            wanted = sum(a * b for a, b in zip(row, change, strict=True))
            assert got == pytest.approx(wanted, rel=1e-12, abs=1e-14)
    other = fastrnn.softmax_jvp(y, u, axis)
    assert np.sum(u * found) == pytest.approx(np.sum(other * v), rel=1e-12, abs=1e-13)
    np.testing.assert_allclose(found.sum(axis=axis), 0, atol=1e-14)
    slope = (fastrnn.softmax(x + 1e-5 * v, axis) - fastrnn.softmax(x - 1e-5 * v, axis)) / 2e-5
    np.testing.assert_allclose(found, slope, atol=1e-8)
    assert_gradient(lambda z: float(np.sum(v * fastrnn.softmax(z, axis))), x, found)


def test_jacobian_makes_the_gradient_of_the_cross_entropy() -> None:
    """The chain of -log and softmax, against the fused loss."""
    x, targets = RNG(3).standard_normal((5, 4)), np.array([0, 3, 1, 1, 2])
    y = fastrnn.softmax(x)
    d_y = np.zeros_like(y)
    d_y[np.arange(5), targets] = -1 / y[np.arange(5), targets]
    _, expected = fastrnn.softmax_cross_entropy(x, targets, reduction="sum")
    np.testing.assert_allclose(fastrnn.softmax_jvp(y, d_y), expected, rtol=1e-12, atol=1e-15)


# -- layers ---------------------------------------------------------------------------------------

LAYERS = {
    "Softmax()": fastrnn.Softmax(),
    "Softmax(0)": fastrnn.Softmax(0),
    "Softmax(1)": fastrnn.Softmax(1),
    "Tanh()": fastrnn.Tanh(),
    "Sigmoid()": fastrnn.Sigmoid(),
    "ReLU()": fastrnn.ReLU(),
    "Flatten()": fastrnn.Flatten(),
    "Dropout(0.0)": fastrnn.Dropout(0.0),
    "Dropout(0.5)": fastrnn.Dropout(0.5, seed=1),
}
EVERY_LAYER = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
SCALARS = {
    "Tanh()": math.tanh,
    "Sigmoid()": lambda v: 1 / (1 + math.exp(-v)),
    "ReLU()": lambda v: max(v, 0.0),
}


@DTYPES
@pytest.mark.parametrize("name", SCALARS)
def test_activation_of_each_element(name: str, dtype: str) -> None:
    x = (3 * RNG(1).standard_normal((4, 3, 5))).astype(dtype)
    found = LAYERS[name](x)
    assert found.dtype == dtype
    expected = [SCALARS[name](v) for v in x.reshape(-1).tolist()]
    np.testing.assert_allclose(
        found.reshape(-1), expected, rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny
    )


@DTYPES
@EVERY_LAYER
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4, 1), (0, 3), (3, 0, 2)], ids=str)
def test_shapes_and_dtypes(layer: Any, shape: tuple[int, ...], dtype: str) -> None:
    """Of the call, the recorded output and the gradient; empty arrays and single numbers, too."""
    x = np.asarray(RNG(2).standard_normal(shape), dtype)
    fails = (not shape and isinstance(layer, fastrnn.Softmax | fastrnn.Flatten)) or (
        isinstance(layer, fastrnn.Softmax)
        and (not -x.ndim <= layer.axis < x.ndim or not shape[layer.axis])
    )
    if fails:
        for run in (layer, layer.record):
            with pytest.raises(ValueError, match=r"^(x|axis): expected "):
                run(x)
        return
    wanted = shape
    if isinstance(layer, fastrnn.Flatten):
        wanted = (shape[0], math.prod(shape[1:]))
    tape = layer.record(x)
    for y in (layer(x), tape.output):
        assert isinstance(y, np.ndarray)
        assert (y.shape, y.dtype) == (wanted, dtype)
    d_x = tape.backward(np.ones(wanted, dtype)).input
    assert isinstance(d_x, np.ndarray)
    assert (d_x.shape, d_x.dtype) == (shape, dtype)


# A call has no dropout: the gradient through its mask is further below.
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "Dropout(0.5)"])
@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 2)], ids=str)
def test_gradients_equal_finite_differences(name: str, shape: tuple[int, ...]) -> None:
    layer = LAYERS[name]
    x = 2 * RNG(3).standard_normal(shape)
    x += np.copysign(0.01, x)  # away from the kink of relu
    assert layer.parameters == {}
    assert_gradients_of_layer(layer, x)


@EVERY_LAYER
def test_layers_give_results_of_their_own(layer: Any) -> None:
    """What is given stays as it is and writable; the recorded output is read-only."""
    x, d_y = RNG(4).standard_normal((3, 4)), RNG(5).standard_normal((3, 4))
    before = x.tobytes(), d_y.tobytes()
    assert layer(x) is not x
    tape = layer.record(x)
    with pytest.raises(ValueError, match="read-only"):
        tape.output[0, 0] = 1
    assert tape.backward(d_y).input is not None
    with pytest.raises(ValueError, match=r"^tape: backward has already run"):
        tape.backward(d_y)
    assert (x.tobytes(), d_y.tobytes()) == before
    assert x.flags.writeable
    assert layer(x).flags.writeable


@EVERY_LAYER
def test_any_layout_equals_a_copy(layer: Any) -> None:
    """Transposed, reversed, read-only, big-endian."""
    base = RNG(6).standard_normal((4, 3))
    for x in (base.T, base[::-1], np.broadcast_to(base[0], (4, 3)), base.astype(">f8")):
        plain = np.array(x, "f8")
        np.testing.assert_array_equal(layer(x), layer(plain), strict=True)
    tape = LAYERS["Tanh()"].record(base.T)
    np.testing.assert_array_equal(
        tape.backward(base.T).input, LAYERS["Tanh()"].record(base.T.copy()).backward(base.T).input
    )


@DTYPES
@EVERY_LAYER
def test_nan_and_inf_raise_nothing(layer: Any, dtype: str) -> None:
    """Neither a warning (an error in these tests) nor what the caller's errstate asks for."""
    x = RNG(7).standard_normal((3, 3)).astype(dtype)
    x[0], x[1, 1] = (np.inf, -np.inf, np.finfo(dtype).max), np.nan
    with np.errstate(all="raise"):
        tape = layer.record(x)
        tape.backward(np.full_like(tape.output, np.inf))
        found = layer(x)
    assert np.isnan(found).any()
    if not isinstance(layer, fastrnn.Softmax):
        np.testing.assert_array_equal(np.isnan(found), np.isnan(x))


def test_linear_passes_nan_and_inf_on_without_a_word() -> None:
    layer = fastrnn.Linear(2, 3, seed=1)
    x = np.array([[np.inf, -np.inf], [np.nan, 1], [3e38, 3e38]], np.float32)
    with np.errstate(all="raise"):
        tape = layer.record(x)
        tape.backward(np.full_like(tape.output, np.inf))
    assert np.isnan(layer(x)[1]).all()


@DTYPES
def test_activations_at_the_ends(dtype: str) -> None:
    x = np.array([-np.inf, -1000, -100, 0, 100, 1000, np.inf], dtype)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(fastrnn.Tanh()(x), [-1, -1, -1, 0, 1, 1, 1])
        np.testing.assert_array_equal(fastrnn.ReLU()(x), np.where(x > 0, x, 0))
        found = fastrnn.Sigmoid()(x)
    np.testing.assert_array_equal(found[[0, 3, 4, 5, 6]], [0, 0.5, 1, 1, 1])
    assert found[2] == pytest.approx(math.exp(-100), rel=1e-6, abs=1e-44)  # not 0 in float32 either


def test_relu_has_slope_0_at_0() -> None:
    tape = fastrnn.ReLU().record(np.array([-1.0, -0.0, 0.0, 1e-300]))
    np.testing.assert_array_equal(tape.backward(np.full(4, 7.0)).input, [0, 0, 0, 7])


def test_flatten_is_a_view_in_the_order_of_memory() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    found = fastrnn.Flatten()(x)
    np.testing.assert_array_equal(found, [range(12), range(12, 24)])
    assert np.shares_memory(found, x)


# -- dropout --------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("p", [0.25, 0.8])
def test_dropout_zeroes_or_scales(p: float, dtype: str) -> None:
    x = 1 + RNG(1).random((80, 60)).astype(dtype)
    found = fastrnn.Dropout(p, seed=1).record(x).output
    assert found.dtype == dtype
    zeroed = found == 0
    np.testing.assert_allclose(found[~zeroed], x[~zeroed] / (1 - p), rtol=1e-6)
    # Within five standard deviations; and each value draws for itself.
    assert abs(zeroed.mean() - p) < 5 * np.sqrt(p * (1 - p) / zeroed.size)
    for axis in (0, 1):
        shares = zeroed.mean(axis=axis)
        assert (np.abs(shares - p) < 6 * np.sqrt(p * (1 - p) / zeroed.shape[axis])).all()


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_is_linear_and_its_gradient_the_adjoint(p: float) -> None:
    """In the mask of its own pass: <u, f(v)> = <fᵀ(u), v>."""
    layer = fastrnn.Dropout(p, seed=2)
    rng = RNG(3)
    v, u = rng.standard_normal((2, 50, 4))
    tape = layer.record(v)
    layer.record(v)  # a later pass draws another mask
    first = tape.backward(u, retain=True).input
    assert np.sum(u * tape.output) == pytest.approx(np.sum(first * v), rel=1e-12)
    np.testing.assert_array_equal(tape.backward(u).input, first)
    np.testing.assert_array_equal(first == 0, tape.output == 0)
    if p == 1:
        assert (tape.output == 0).all()
    if p == 0:
        np.testing.assert_array_equal(tape.output, v)


def test_dropout_draws_only_where_it_records() -> None:
    x = np.ones((30, 20))
    layer, same, other = (fastrnn.Dropout(0.5, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(layer(x), x)
    first, second = layer.record(x).output, layer.record(x).output
    assert (first != second).any()
    np.testing.assert_array_equal(same.record(x).output, first)
    np.testing.assert_array_equal(same.record(x).output, second)
    assert (other.record(x).output != first).any()
