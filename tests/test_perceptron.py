"""Perceptrons: the classic rule against scalar loops, the logistic one, and several layers."""

import itertools
from typing import Any

import numpy as np
import pytest

import fastrnn
from compare import assert_gradients_of_layer

RNG = np.random.default_rng
XOR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float), np.array([0, 1, 1, 0])


def draw(
    rows: int, features: int, classes: int, seed: int, dtype: str = "float64"
) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers, with which every sum is exact, and labels that do not depend on them."""
    rng = RNG([seed, rows, features, classes])
    return (
        rng.integers(-3, 4, (rows, features)).astype(dtype),
        rng.integers(0, classes, rows),
    )


# -- the classic rule -----------------------------------------------------------------------------


def by_hand(
    x: list[list[float]], labels: list[int], features: int, classes: int, passes: int
) -> tuple[list[list[float]], list[float], list[int]]:
    """The rule in scalar loops: weights, biases, and the mistakes of each pass."""
    weights = [[0.0] * features for _ in range(classes)]
    biases = [0.0] * classes
    counts = []
    for _ in range(passes):
        count = 0
        for row, label in zip(x, labels, strict=True):
            best, predicted = -float("inf"), -1
            for k in range(classes):
                score = biases[k]
                for w, v in zip(weights[k], row, strict=True):
                    score += w * v
                if score > best:
                    best, predicted = score, k
            if predicted != label:
                count += 1
                for j, v in enumerate(row):
                    weights[label][j] += v
                    weights[predicted][j] -= v
                biases[label] += 1
                biases[predicted] -= 1
        counts.append(count)
    return weights, biases, counts


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("rows", "features", "classes"), [(1, 1, 2), (17, 3, 2), (33, 7, 4), (64, 17, 10), (0, 2, 3)]
)
def test_learning_equals_scalar_loops(rows: int, features: int, classes: int, dtype: str) -> None:
    x, labels = draw(rows, features, classes, 1, dtype)
    layer = fastrnn.Perceptron(features, classes, dtype=dtype)
    mistakes = [layer.learn(x, labels) for _ in range(4)]
    weights, biases, expected = by_hand(x.tolist(), labels.tolist(), features, classes, 4)
    assert mistakes == expected
    np.testing.assert_array_equal(layer.parameters["weight"], weights)
    np.testing.assert_array_equal(layer.parameters["bias"], biases)
    assert all(array.dtype == dtype for array in layer.parameters.values())


@pytest.mark.parametrize("seed", range(5))
def test_two_classes_follow_the_textbook_rule(seed: int) -> None:
    """Rosenblatt's: y in -1, 1; where sign(w x + b) is not y, add y x to w, and y to b."""
    x, labels = draw(30, 4, 2, seed)
    layer = fastrnn.Perceptron(4, 2, dtype="float64")
    w, b = [0.0] * 4, 0.0
    for _ in range(5):
        mistakes = 0
        for row, label in zip(x.tolist(), labels.tolist(), strict=True):
            predicted = 1 if sum(a * v for a, v in zip(w, row, strict=True)) + b > 0 else 0
            if predicted != label:
                y = 2 * label - 1
                w = [a + y * v for a, v in zip(w, row, strict=True)]
                b += y
                mistakes += 1
        assert layer.learn(x, labels) == mistakes
        weight, bias = layer.parameters["weight"], layer.parameters["bias"]
        np.testing.assert_array_equal(weight[1] - weight[0], 2 * np.array(w))
        assert bias[1] - bias[0] == 2 * b


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_separable_classes_are_learnt_with_few_mistakes(classes: int) -> None:
    """At most (R / margin)² of them (Novikoff 1962), for Kesler's vectors of right minus wrong."""
    rng = RNG(classes + 1)
    truth = rng.standard_normal((classes, 6))  # a bias is its last column
    truth /= np.linalg.norm(truth)
    rows = np.hstack((2 * rng.standard_normal((400, 5)), np.ones((400, 1))))
    scores = np.sort(rows @ truth.T, axis=1)
    clear = scores[:, -1] - scores[:, -2] > 0.05
    rows, scores = rows[clear], scores[clear]
    margin = (scores[:, -1] - scores[:, -2]).min()
    bound = 2 * (rows**2).sum(axis=1).max() / margin**2
    x, labels = rows[:, :5], (rows @ truth.T).argmax(axis=1)
    assert len(set(labels.tolist())) == classes
    layer = fastrnn.Perceptron(5, classes, dtype="float64")
    total = 0
    while mistakes := layer.learn(x, labels):
        total += mistakes
        assert total <= bound
    assert total > 0
    np.testing.assert_array_equal(layer.predict(x), labels)
    before = {name: array.copy() for name, array in layer.parameters.items()}
    assert layer.learn(x, labels) == 0
    for name, array in layer.parameters.items():
        np.testing.assert_array_equal(array, before[name])


def test_learning_goes_row_by_row() -> None:
    x, labels = draw(40, 5, 3, 2)
    whole, parts = (fastrnn.Perceptron(5, 3, dtype="float64") for _ in range(2))
    mistakes = whole.learn(x, labels)
    assert mistakes == sum(parts.learn(x[[n]], labels[[n]]) for n in range(40))
    for name, array in whole.parameters.items():
        np.testing.assert_array_equal(parts.parameters[name], array)


def test_rate_scales_what_is_learnt_from_zeros() -> None:
    x, labels = draw(40, 5, 3, 2)
    one, other = (fastrnn.Perceptron(5, 3, dtype="float64") for _ in range(2))
    for _ in range(3):
        assert one.learn(x, labels) == other.learn(x, labels, lr=0.25)
    for name, array in one.parameters.items():
        np.testing.assert_array_equal(other.parameters[name], array / 4)


def test_parameters_are_changed_in_place_and_what_is_given_is_not() -> None:
    x, labels = draw(40, 5, 3, 2)
    layer = fastrnn.Perceptron(5, 3, dtype="float64")
    arrays, before = dict(layer.parameters), (x.tobytes(), labels.tobytes())
    assert layer.learn(x, labels) > 0
    assert all(layer.parameters[name] is array for name, array in arrays.items())
    assert (x.tobytes(), labels.tobytes()) == before


def test_any_layout_and_type_of_labels() -> None:
    x, labels = draw(40, 5, 3, 2)
    plain = fastrnn.Perceptron(5, 3, dtype="float64")
    mistakes = plain.learn(x, labels)
    for other_x, other in (
        (np.asfortranarray(x), labels.astype(np.uint8)),
        (x.astype(">f8"), labels.astype(">i4")),
        (x[::-1].copy()[::-1], labels.tolist()),
    ):
        layer = fastrnn.Perceptron(5, 3, dtype="float64")
        assert layer.learn(other_x, other) == mistakes
        np.testing.assert_array_equal(layer.parameters["weight"], plain.parameters["weight"])


def test_exclusive_or_is_beyond_a_perceptron_and_not_an_mlp() -> None:
    x, labels = XOR
    layer = fastrnn.Perceptron(2, 2, dtype="float64")
    assert all(layer.learn(x, labels) for _ in range(100))
    for activation in ("relu", "tanh", "sigmoid"):
        model = fastrnn.MLP(2, 8, 2, activation=activation, dtype="float64", seed=1)
        optimizer = fastrnn.Adam(model.parameters, 0.05)
        for _ in range(200):
            tape = model.record(x)
            _, d_y = fastrnn.softmax_cross_entropy(tape.output, labels)
            optimizer.step(tape.backward(d_y).parameters)
        np.testing.assert_array_equal(model(x).argmax(axis=1), labels)


def test_nan_passes_without_a_word() -> None:
    layer = fastrnn.Perceptron(2, 2)
    with np.errstate(all="raise"):
        x = np.array([[3e38, 1], [3e38, 1], [np.inf, 1], [np.nan, 1]], np.float32)
        assert layer.learn(x, np.array([1, 0, 1, 1])) > 0


# -- the logistic rule, and what both have in common ----------------------------------------------


def test_initial_values_are_zero_or_small() -> None:
    zeros, small = fastrnn.Perceptron(16, 3), fastrnn.Perceptron(16, 3, seed=1)
    assert all((array == 0).all() for array in zeros.parameters.values())
    assert all(0 < np.abs(array).max() <= 0.25 for array in small.parameters.values())
    np.testing.assert_array_equal(
        small.parameters["weight"], fastrnn.Linear(16, 3, seed=1).parameters["weight"]
    )


def test_predicted_class_is_the_first_of_the_highest_score() -> None:
    layer = fastrnn.Perceptron(3, 4, dtype="float64", seed=1)
    x = RNG(1).standard_normal((5, 2, 3))
    found = layer.predict(x)
    assert found.shape == (5, 2)
    assert found.dtype.kind == "i"
    for index in np.ndindex(5, 2):
        scores = layer(x[index]).tolist()
        assert found[index] == scores.index(max(scores))
    assert fastrnn.Perceptron(3, 4).predict(np.ones((2, 3), np.float32)).tolist() == [0, 0]
    assert layer.predict(x[0, 0]).shape == ()
    assert layer.predict(x[:0]).shape == (0, 2)


def test_logistic_rule() -> None:
    """One row: the gradient is (softmax(scores) - onehot) xᵀ, and steps against it separate."""
    x, labels = draw(30, 4, 3, 3)
    labels = (x @ RNG(4).standard_normal((4, 3))).argmax(axis=1)
    layer = fastrnn.Perceptron(4, 3, dtype="float64", seed=2)
    assert_gradients_of_layer(layer, x[:2])
    tape = layer.record(x[:1])
    _, d_y = fastrnn.softmax_cross_entropy(tape.output, labels[:1])
    p = np.exp(tape.output[0]) / np.exp(tape.output[0]).sum()
    error = p - (np.arange(3) == labels[0])
    gradients = tape.backward(d_y).parameters
    np.testing.assert_allclose(gradients["weight"], np.outer(error, x[0]), rtol=1e-12)
    np.testing.assert_allclose(gradients["bias"], error, rtol=1e-12)
    optimizer = fastrnn.SGD(layer.parameters, 0.5)
    for _ in range(500):
        tape = layer.record(x)
        _, d_y = fastrnn.softmax_cross_entropy(tape.output, labels)
        optimizer.step(tape.backward(d_y).parameters)
    np.testing.assert_array_equal(layer.predict(x), labels)


# -- several layers -------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("hidden", [4, (4,), (5, 3)], ids=str)
def test_mlp_is_a_composition(hidden: Any, activation: str) -> None:
    model = fastrnn.MLP(3, hidden, 2, activation=activation, dtype="float64", seed=1)
    functions = {
        "relu": lambda a: np.where(a > 0, a, 0),
        "tanh": lambda a: 2 / (1 + np.exp(-2 * a)) - 1,
        "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    }
    x = RNG(2).standard_normal((6, 3))
    y, sizes = x, [3, *np.atleast_1d(hidden).tolist(), 2]
    for k, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        weight, bias = (model.parameters[f"{2 * k}.{name}"] for name in ("weight", "bias"))
        assert weight.shape == (outputs, inputs)
        assert (bias == 0).all()
        bias[...] = RNG(k).standard_normal(outputs)
        y = y @ weight.T + bias
        if k < len(sizes) - 2:
            y = functions[activation](y)
    assert len(model.parameters) == 2 * (len(sizes) - 1)
    np.testing.assert_allclose(model(x), y, rtol=1e-11)
    assert_gradients_of_layer(model, x)


@pytest.mark.parametrize(
    ("activation", "bounds"),  # of 150 -> 50 -> 100 units: sqrt(6/150), sqrt(6/200), 4 sqrt(6/200)
    [("relu", (0.2, 0.2)), ("tanh", (0.173205, 0.2)), ("sigmoid", (0.69282, 0.2))],
)
def test_initial_values_of_an_mlp(activation: str, bounds: tuple[float, float]) -> None:
    model = fastrnn.MLP(150, 50, 100, activation=activation, seed=1)
    for name, bound in zip(("0.weight", "2.weight"), bounds, strict=True):
        weight = model.parameters[name]
        assert weight.dtype == "float32"
        assert 0.99 * bound < np.abs(weight).max() <= bound * 1.00001
        assert abs(weight.mean()) < 5 * bound / np.sqrt(3 * weight.size)
    assert not any(model.parameters[name].any() for name in ("0.bias", "2.bias"))


def test_relu_keeps_its_mean_square_from_layer_to_layer() -> None:
    """He et al. (2015): twice that of the input, in every layer."""
    model = fastrnn.MLP(256, (256,) * 8, 1, dtype="float64", seed=3)
    y = RNG(1).standard_normal((500, 256))
    for layer in model.layers[:-1]:
        y = layer(y)
        if isinstance(layer, fastrnn.Linear):
            assert np.square(y).mean() == pytest.approx(2, rel=0.2)


def test_seeds_of_layers_follow_from_that_of_the_mlp() -> None:
    model, same, other = (fastrnn.MLP(4, (4, 4), 4, seed=s) for s in (1, 1, 2))
    names = ("0.weight", "2.weight", "4.weight")
    weights = [model.parameters[name] for name in names]
    for name, weight in zip(names, weights, strict=True):
        np.testing.assert_array_equal(same.parameters[name], weight)
        assert (other.parameters[name] != weight).any()
    a, b, c = (w / np.abs(w).max() for w in weights)
    assert (np.abs(a - b) > 1e-6).any()
    assert (np.abs(b - c) > 1e-6).any()
    assert (np.abs(a - c) > 1e-6).any()
    dropping = fastrnn.MLP(4, (4, 4), 4, dropout=0.5, seed=1)
    for name, weight in zip(("0.weight", "3.weight", "6.weight"), weights, strict=True):
        np.testing.assert_array_equal(dropping.parameters[name], weight)


def test_dropout_of_an_mlp_is_behind_each_activation() -> None:
    model, same, plain = (fastrnn.MLP(4, (30, 30), 4, dropout=p, seed=1) for p in (0.5, 0.5, 0.0))
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    x = RNG(1).standard_normal((20, 4)).astype(np.float32)
    np.testing.assert_array_equal(model(x), plain(x))
    first, second = model.record(x).output, model.record(x).output
    assert (first != plain(x)).any()
    assert (first != second).any()
    np.testing.assert_array_equal(same.record(x).output, first)
    ones = np.ones((5, 30), np.float32)
    one, two = (same.layers[k].record(ones).output for k in (2, 5))
    assert (one != two).any()  # each draws for itself
