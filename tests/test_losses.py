"""Losses, Linear and Embedding: values and gradients."""

import math

import numpy as np
import pytest

import fastrnn
from compare import assert_gradient, assert_gradients_of_layer
from fastrnn import feedforward

RNG = np.random.default_rng


# -- cross-entropy --------------------------------------------------------------------------------


def scalar_cross_entropy(logits, targets, weights, reduction: str) -> float:
    total = scale = 0.0
    for index in np.ndindex(targets.shape):
        row = logits[index].tolist()
        weight = 1.0 if weights is None else float(weights[index])
        log_sum = max(row) + math.log(sum(math.exp(v - max(row)) for v in row))
        total += weight * (log_sum - row[targets[index]])
        scale += weight
    return total / scale if reduction == "mean" else total


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(), (4,), (3, 2)], ids=str)
def test_cross_entropy(shape: tuple[int, ...], weighted: bool, reduction: str) -> None:
    rng = RNG(2)
    logits, targets = 3 * rng.standard_normal((*shape, 5)), np.asarray(rng.integers(0, 5, shape))
    weights = np.asarray(rng.random(shape)) if weighted else None
    if weighted and shape:
        weights.flat[0] = 0

    def loss(x: np.ndarray) -> float:
        return scalar_cross_entropy(x, targets, weights, reduction)

    before = logits.tobytes(), targets.tobytes()
    value, gradient = fastrnn.softmax_cross_entropy(
        logits, targets, weights=weights, reduction=reduction
    )
    assert isinstance(value, float)
    assert value == pytest.approx(loss(logits), rel=1e-13)
    assert_gradient(loss, logits, gradient)
    assert (logits.tobytes(), targets.tobytes()) == before
    if weighted and shape:
        assert (gradient[(0,) * len(shape)] == 0).all()


def test_cross_entropy_is_the_mean_by_default() -> None:
    logits, targets = RNG(2).standard_normal((4, 5)), np.array([0, 1, 2, 4])
    mean, total = (
        fastrnn.softmax_cross_entropy(logits, targets, reduction=r)[0] for r in ("mean", "sum")
    )
    assert fastrnn.softmax_cross_entropy(logits, targets)[0] == mean == pytest.approx(total / 4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_is_stable(dtype: str) -> None:
    logits = np.array([[1e4, 0, -1e4], [0, 0, 0]], dtype)
    with np.errstate(all="raise"):
        loss, gradient = fastrnn.softmax_cross_entropy(logits, np.array([2, 0]), reduction="sum")
    assert loss == pytest.approx(2e4 + math.log(3))
    np.testing.assert_allclose(gradient, [[1, 0, -1], [-2 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    assert gradient.dtype == dtype


def test_losses_in_float32_are_near_those_in_float64() -> None:
    rng = RNG(4)
    logits, targets = rng.standard_normal((1000, 7)).astype(np.float32), rng.integers(0, 7, 1000)
    exact, gradient = fastrnn.softmax_cross_entropy(logits.astype(np.float64), targets)
    found, d_logits = fastrnn.softmax_cross_entropy(logits, targets)
    assert found == pytest.approx(exact, rel=1e-7)
    np.testing.assert_allclose(d_logits, gradient, rtol=0, atol=1e-6 * np.abs(gradient).max())
    exact, gradient = fastrnn.mean_squared_error(logits.astype(np.float64), np.zeros((1000, 7)))
    found, d_logits = fastrnn.mean_squared_error(logits, 0 * logits)
    assert found == pytest.approx(exact, rel=1e-7)
    np.testing.assert_allclose(d_logits, gradient, rtol=0, atol=1e-6 * np.abs(gradient).max())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_of_nothing_is_zero(reduction: str) -> None:
    loss, gradient = fastrnn.softmax_cross_entropy(
        np.zeros((0, 3)), np.zeros(0, int), reduction=reduction
    )
    assert (loss, gradient.shape) == (0.0, (0, 3))
    loss, gradient = fastrnn.softmax_cross_entropy(
        np.ones((2, 3)), np.zeros(2, int), weights=np.zeros(2), reduction=reduction
    )
    assert loss == 0
    assert (gradient == 0).all()


# -- mean squared error ---------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(), (4,), (3, 2)], ids=str)
def test_mean_squared_error(shape: tuple[int, ...], weighted: bool, reduction: str) -> None:
    rng = RNG(3)
    prediction, target = (np.asarray(rng.standard_normal(shape)) for _ in range(2))
    weights = np.asarray(rng.random(shape)) if weighted else None

    def loss(x: np.ndarray) -> float:
        total = scale = 0.0
        for index in np.ndindex(shape):
            weight = 1.0 if weights is None else float(weights[index])
            total += weight * (x[index] - target[index]) ** 2
            scale += weight
        return float(total / scale if reduction == "mean" else total)

    value, gradient = fastrnn.mean_squared_error(
        prediction, target, weights=weights, reduction=reduction
    )
    assert isinstance(value, float)
    assert value == pytest.approx(loss(prediction), rel=1e-13)
    assert_gradient(loss, prediction, gradient)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mean_squared_error_keeps_the_dtype(dtype: str) -> None:
    x = np.ones((2, 3), dtype)
    loss, gradient = fastrnn.mean_squared_error(x, 0 * x)
    assert loss == 1
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient, np.full((2, 3), 1 / 3), rtol=1e-6)
    assert fastrnn.mean_squared_error(x[:0], x[:0])[0] == 0


# -- layers without memory ------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 2), (0, 2)], ids=str)
def test_linear(shape: tuple[int, ...], bias: bool) -> None:
    layer = fastrnn.Linear(3, 4, bias=bias, dtype="float64", seed=1)
    assert list(layer.parameters) == (["weight", "bias"] if bias else ["weight"])
    x = RNG(4).standard_normal((*shape, 3))
    weight = layer.parameters["weight"].tolist()
    offset = layer.parameters["bias"].tolist() if bias else [0.0] * 4
    tape = layer.record(x)
    for y in (layer(x), tape.output):
        assert y.shape == (*shape, 4)
        for index in np.ndindex(shape):
            for o in range(4):
                total = offset[o] + sum(w * v for w, v in zip(weight[o], x[index], strict=True))
                assert y[index][o] == pytest.approx(total, rel=1e-13)
    assert_gradients_of_layer(layer, x)


@pytest.mark.parametrize("rows", [21, 22, 300])  # one piece of the products, and several
def test_linear_in_pieces(rows: int) -> None:
    I, O = 128, 96  # 12,288 multiplications a row, of 2^18
    assert (len(feedforward._pieces(rows, I * O)) == 1) == (rows == 21)
    layer = fastrnn.Linear(I, O, dtype="float64", seed=1)
    rng = np.random.default_rng(2)
    x, d_y = rng.normal(size=(rows, I)), rng.normal(size=(rows, O))
    weight, bias = layer.parameters["weight"], layer.parameters["bias"]
    tape = layer.record(x)
    np.testing.assert_allclose(tape.output, np.einsum("ni,oi->no", x, weight) + bias, rtol=1e-12)
    np.testing.assert_array_equal(layer(x), tape.output)
    gradients = tape.backward(d_y)
    np.testing.assert_allclose(gradients.input, np.einsum("no,oi->ni", d_y, weight), atol=1e-12)
    expected = np.einsum("no,ni->oi", d_y, x)
    np.testing.assert_allclose(gradients.parameters["weight"], expected, rtol=1e-9, atol=1e-11)


def test_initial_values_of_linear() -> None:
    layer = fastrnn.Linear(64, 50, seed=1)
    assert layer.parameters["weight"].shape == (50, 64)
    assert layer.parameters["bias"].shape == (50,)
    for array in layer.parameters.values():
        assert array.dtype == "float32"
        assert 0.9 / 8 < np.abs(array).max() <= 1 / 8
    same, other = (fastrnn.Linear(64, 50, seed=s).parameters["weight"] for s in (1, 2))
    assert (same == layer.parameters["weight"]).all()
    assert (other != same).any()


@pytest.mark.parametrize("shape", [(), (6,), (3, 4), (0,)], ids=str)
@pytest.mark.parametrize("dtype", ["int64", "uint8", "int32", ">i4"])
def test_embedding(shape: tuple[int, ...], dtype: str) -> None:
    layer = fastrnn.Embedding(5, 3, dtype="float64", seed=1)
    x = np.asarray(RNG(5).integers(0, 4, shape)).astype(dtype)  # repeated rows; row 4 is not used
    u = RNG(6).standard_normal((*shape, 3))
    tape = layer.record(x)
    weight = layer.parameters["weight"]
    expected = np.zeros((5, 3))
    for index in np.ndindex(shape):
        row = int(x[index])
        assert (layer(x)[index] == weight[row]).all()
        assert (tape.output[index] == weight[row]).all()
        expected[row] += u[index]
    assert tape.output.shape == layer(x).shape == (*shape, 3)
    gradients = tape.backward(u)
    assert gradients.input is None
    np.testing.assert_allclose(gradients.parameters["weight"], expected, rtol=1e-13, atol=1e-15)


def test_initial_values_of_an_embedding_are_standard_normal() -> None:
    weight = fastrnn.Embedding(100, 50, seed=1).parameters["weight"]
    assert weight.dtype == "float32"
    assert abs(weight.mean()) < 5 / np.sqrt(5000)
    assert abs(weight.std() - 1) < 5 / np.sqrt(2 * 5000)
    assert np.abs(weight).max() > 3


def test_layers_without_memory_give_results_of_their_own() -> None:
    linear, embedding = fastrnn.Linear(2, 2, seed=1), fastrnn.Embedding(3, 2, seed=1)
    x = np.ones((1, 2), np.float32)
    for layer, argument in ((linear, x), (embedding, np.array([1]))):
        output = layer(argument)
        assert not np.shares_memory(output, layer.parameters["weight"])
        tape = layer.record(argument)
        with pytest.raises(ValueError, match="read-only"):
            tape.output[0, 0] = 1
        assert all((g == 0).all() for g in tape.backward().parameters.values())
        with pytest.raises(ValueError, match=r"^tape: backward has already run"):
            tape.backward()
