"""The networks in the letters of the lecture that the library grew from, as scalar loops.

The plain RNN is a = b + W h + U x, h = tanh a, o = c + V h, ŷ = softmax o. The LSTM has no biases,
gates f, i, o, a new memory N, and Output = softmax(H). Both are to be had from the public interface
without a trick, and this file says how.
"""

from math import exp, log, tanh

import numpy as np
import pytest

import fastrnn
from fastrnn import functional
from problems import BACKENDS

T, B, I, H, K = 6, 3, 2, 4, 5


def sigmoid(x):
    return 1 / (1 + exp(-x))


def softmax(o):
    total = sum(exp(value) for value in o)
    return [exp(value) / total for value in o]


def times(M, v):
    """The product of a matrix and a vector."""
    return [sum(m * value for m, value in zip(row, v, strict=True)) for row in M]


def plus(*vectors):
    return [sum(values) for values in zip(*vectors, strict=True)]


def plain_rnn(x, U, W, V, b, c):
    """ŷ of each step, for one row of the batch."""
    h, found = [0.0] * len(W), []
    for x_t in x:
        a = plus(b, times(W, h), times(U, x_t))
        h = [tanh(value) for value in a]
        o = plus(c, times(V, h))
        found.append(softmax(o))
    return found


def lecture_lstm(x, W, U):
    """H of each step, for one row: W and U have the matrices of f, i, o and N on x and H."""
    size = len(U["f"])
    h, c, found = [0.0] * size, [0.0] * size, []
    for x_t in x:
        f, i, o = (
            [sigmoid(value) for value in plus(times(W[gate], x_t), times(U[gate], h))]
            for gate in "fio"
        )
        N = [tanh(value) for value in plus(times(W["N"], x_t), times(U["N"], h))]
        c = [f[k] * c[k] + i[k] * N[k] for k in range(size)]
        h = [o[k] * tanh(c[k]) for k in range(size)]
        found.append(h)
    return found


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def rnn_with_head(U, W, V, b, c, backend):
    rnn = fastrnn.RNN(I, H, dtype="float64", backend=backend)
    rnn.load_parameters(
        {"weight_ih_l0": U, "weight_hh_l0": W, "bias_ih_l0": b, "bias_hh_l0": np.zeros(H)}
    )
    head = fastrnn.Linear(H, K, dtype="float64")
    head.load_parameters({"weight": V, "bias": c})
    return fastrnn.Sequential(rnn, head)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_plain_rnn(rng, backend):
    x = rng.normal(size=(T, B, I))
    U, W, V = rng.normal(size=(H, I)), rng.normal(size=(H, H)), rng.normal(size=(K, H))
    b, c = rng.normal(size=H), rng.normal(size=K)
    o, _ = rnn_with_head(U, W, V, b, c, backend)(x)
    expected = [plain_rnn(x[:, row].tolist(), U, W, V, b, c) for row in range(B)]
    np.testing.assert_allclose(fastrnn.softmax(o), np.swapaxes(expected, 0, 1), rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_its_gradient_is_that_of_the_loops(rng, backend):
    """E is the sum over t of -log ŷ[target]; each derivative is a difference of two such sums."""
    x, targets = rng.normal(size=(T, B, I)), rng.integers(0, K, (T, B))
    given = {
        "U": rng.normal(size=(H, I)),
        "W": rng.normal(size=(H, H)),
        "V": rng.normal(size=(K, H)),
        "b": rng.normal(size=H),
        "c": rng.normal(size=K),
    }

    def error():
        return sum(
            -log(y[targets[t, row]])
            for row in range(B)
            for t, y in enumerate(plain_rnn(x[:, row].tolist(), **given))
        )

    tape = rnn_with_head(**given, backend=backend).record(x)
    loss, d_o = fastrnn.softmax_cross_entropy(tape.output, targets, reduction="sum")
    assert loss == pytest.approx(error(), rel=1e-12)
    gradients = tape.backward(d_o).parameters
    names = {
        "U": "0.weight_ih_l0",
        "W": "0.weight_hh_l0",
        "b": "0.bias_ih_l0",
        "V": "1.weight",
        "c": "1.bias",
    }
    for letter, name in names.items():
        for place in np.ndindex(given[letter].shape):
            kept, step = given[letter][place], 1e-5
            given[letter][place] = kept + step
            above = error()
            given[letter][place] = kept - step
            below = error()
            given[letter][place] = kept
            expected = (above - below) / (2 * step)
            assert gradients[name][place] == pytest.approx(expected, rel=1e-6, abs=1e-8), letter


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_lstm_without_biases(rng, backend):
    x = rng.normal(size=(T, B, I))
    W = {gate: rng.normal(size=(H, I)) for gate in "fioN"}
    U = {gate: rng.normal(size=(H, H)) for gate in "fioN"}
    lstm = fastrnn.LSTM(I, H, bias=False, dtype="float64", backend=backend)
    order = "ifNo"  # the library's order of gates is torch's, where N is called g
    lstm.load_parameters(
        {
            "weight_ih_l0": np.concatenate([W[gate] for gate in order]),
            "weight_hh_l0": np.concatenate([U[gate] for gate in order]),
        }
    )
    output, _ = lstm(x)
    hidden = np.swapaxes([lecture_lstm(x[:, row].tolist(), W, U) for row in range(B)], 0, 1)
    np.testing.assert_allclose(output, hidden, rtol=1e-11, atol=1e-14)
    expected = [[softmax(h) for h in step] for step in hidden]  # Output = softmax(H)
    np.testing.assert_allclose(fastrnn.softmax(output), expected, rtol=1e-11)
    zeros = np.zeros((B, H))
    called, _ = functional.lstm(
        x,
        zeros,
        zeros,
        lstm.parameters["weight_ih_l0"],
        lstm.parameters["weight_hh_l0"],
        backend=backend,
    )
    assert called.tobytes() == output.tobytes()
