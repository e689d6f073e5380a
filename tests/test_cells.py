"""RNNCell, GRUCell, LSTMCell and Sequential."""

from typing import Any

import numpy as np
import pytest

import fastrnn
from compare import assert_gradients_of_layer
from problems import VARIANTS, Variant

B, I, H = 3, 2, 4
PLAIN = pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.projected], ids=str)


def parts(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


def stacked(state: Any) -> Any:
    found = tuple(part[None] for part in parts(state))
    return found if len(found) > 1 else found[0]


def make_pair(variant: Variant, backend: str, *, bias: bool) -> tuple[Any, Any]:
    """A single-step cell and a layer with the same parameters."""
    options = {**variant.options, "bias": bias, "dtype": "float64", "backend": backend}
    cell = getattr(fastrnn, f"{variant.cell.upper()}Cell")(I, H, seed=1, **options)
    layer = getattr(fastrnn, variant.cell.upper())(I, H, seed=2, **options)
    layer.load_parameters({f"{name}_l0": array for name, array in cell.parameters.items()})
    return cell, layer


@PLAIN
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(B,), ()], ids=["batched", "unbatched"])
@pytest.mark.parametrize("given", [True, False])
def test_cell_is_one_step_of_a_layer(
    variant: Variant, given: bool, batch: tuple[int, ...], bias: bool, backend: str
) -> None:
    cell, layer = make_pair(variant, backend, bias=bias)
    rng = np.random.default_rng(3)
    x, *states = (
        rng.standard_normal((*batch, n)) for n in (I, *[H] * (2 if variant.cell == "lstm" else 1))
    )
    state = tuple(states) if len(states) > 1 else states[0]
    initial = state if given else None
    d_output = rng.standard_normal((*batch, H))
    new = cell(x, initial)
    tape = cell.record(x, initial)
    whole = layer.record(x[None], stacked(state) if given else None)
    for a, b, c in zip(parts(new), parts(tape.state), parts(whole.state), strict=True):
        assert a.tobytes() == b.tobytes() == c.tobytes()
        assert a.shape == b.shape == (*batch, H)
    np.testing.assert_array_equal(tape.output, whole.output[0], strict=True)
    if variant.cell == "lstm":
        np.testing.assert_array_equal(tape.cell_states, whole.cell_states[0], strict=True)
        np.testing.assert_array_equal(tape.cell_states, tape.state[1], strict=True)
    else:
        assert tape.cell_states is None

    found, expected = tape.backward(d_output, state), whole.backward(d_output[None], stacked(state))
    np.testing.assert_array_equal(found.input, expected.input[0], strict=True)
    for a, b in zip(parts(found.state), parts(expected.state), strict=True):
        np.testing.assert_array_equal(a, b[0], strict=True)
    assert found.parameters.keys() == cell.parameters.keys()
    for name, gradient in found.parameters.items():
        np.testing.assert_array_equal(gradient, expected.parameters[f"{name}_l0"], strict=True)
    with pytest.raises(ValueError, match=r"^tape: backward has already run"):
        tape.backward(d_output, state)


@PLAIN
def test_cells_in_a_loop_equal_a_layer(variant: Variant, backend: str) -> None:
    cell, layer = make_pair(variant, backend, bias=True)
    x = np.random.default_rng(3).standard_normal((5, B, I))
    output, last = layer(x)
    state = None

    def compare(found: np.ndarray, expected: np.ndarray) -> None:
        if backend == "numpy":  # its products come from BLAS, whose order depends on shapes
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)
        else:
            assert found.tobytes() == expected.tobytes()

    for t, x_t in enumerate(x):
        state = cell(x_t, state)
        compare(parts(state)[0], output[t])
    for a, b in zip(parts(state), parts(last), strict=True):
        compare(a, b[0])


@PLAIN
def test_seed_of_a_cell(variant: Variant) -> None:
    kind = getattr(fastrnn, f"{variant.cell.upper()}Cell")
    first, same, other = (kind(I, H, seed=s, **variant.options).parameters for s in (1, 1, 2))
    for name, array in first.items():
        assert (array == same[name]).all()
        assert (array != other[name]).any()
        assert np.abs(array).max() <= H**-0.5


# -- Sequential -----------------------------------------------------------------------------------


def make_sequential() -> fastrnn.Sequential:
    return fastrnn.Sequential(
        fastrnn.Embedding(7, I, dtype="float64", seed=1),
        fastrnn.LSTM(I, H, num_layers=2, dtype="float64", seed=2),
        fastrnn.Linear(H, 3, dtype="float64", seed=3),
        fastrnn.GRU(3, H, dtype="float64", seed=4),
    )


def test_sequential_is_a_composition() -> None:
    model = make_sequential()
    embedding, lstm, linear, gru = model.layers
    rng = np.random.default_rng(5)
    x = rng.integers(0, 7, (5, B))
    state = (tuple(rng.standard_normal((2, 2, B, H))), rng.standard_normal((1, B, H)))
    reset_state = (tuple(rng.standard_normal((2, 2, B, H))), rng.standard_normal((1, B, H)))
    lengths, reset = np.array([5, 2, 0]), rng.random((5, B)) < 0.3
    sequence = {"lengths": lengths, "reset": reset}
    d_output = rng.standard_normal((5, B, H))
    d_state = (tuple(rng.standard_normal((2, 2, B, H))), rng.standard_normal((1, B, H)))

    tapes = [embedding.record(x)]
    tapes.append(lstm.record(tapes[-1].output, state[0], **sequence, reset_state=reset_state[0]))
    tapes.append(linear.record(tapes[-1].output))
    tapes.append(gru.record(tapes[-1].output, state[1], **sequence, reset_state=reset_state[1]))
    g_3 = tapes[3].backward(d_output, d_state[1])
    g_2 = tapes[2].backward(g_3.input)
    g_1 = tapes[1].backward(g_2.input, d_state[0])
    g_0 = tapes[0].backward(g_1.input)
    expected = {
        f"{k}.{name}": gradient
        for k, gradients in enumerate((g_0, g_1, g_2, g_3))
        for name, gradient in gradients.parameters.items()
    }

    output, (lstm_state, gru_state) = model(x, state, **sequence, reset_state=reset_state)
    tape = model.record(x, state, **sequence, reset_state=reset_state)
    for y, (s_1, s_3) in ((output, (lstm_state, gru_state)), (tape.output, tape.state)):
        np.testing.assert_array_equal(y, tapes[3].output, strict=True)
        np.testing.assert_array_equal(s_1, tapes[1].state, strict=True)
        np.testing.assert_array_equal(s_3, tapes[3].state, strict=True)
    gradients = tape.backward(d_output, d_state, retain=True)
    assert gradients.input is None  # indices have none
    assert gradients.parameters.keys() == model.parameters.keys() == expected.keys()
    for name, gradient in gradients.parameters.items():
        np.testing.assert_array_equal(gradient, expected[name], strict=True)
    np.testing.assert_array_equal(gradients.state[0], g_1.state)
    np.testing.assert_array_equal(gradients.state[1], g_3.state)
    np.testing.assert_array_equal(gradients.reset_state[0], g_1.reset_state)
    np.testing.assert_array_equal(gradients.reset_state[1], g_3.reset_state)

    again = tape.backward(d_output, d_state)
    for name, gradient in again.parameters.items():
        np.testing.assert_array_equal(gradient, expected[name], strict=True)
    with pytest.raises(ValueError, match=r"^tape: backward has already run"):
        tape.backward(d_output, d_state)


def test_sequential_shares_the_parameters_of_its_layers() -> None:
    model = make_sequential()
    for k, layer in enumerate(model.layers):
        for name, array in layer.parameters.items():
            assert model.parameters[f"{k}.{name}"] is array
    assert len(model.parameters) == 1 + 8 + 2 + 4


def test_sequential_returns_the_gradient_of_its_input() -> None:
    linear = fastrnn.Linear(2, 3, dtype="float64", seed=1)
    model = fastrnn.Sequential(linear)
    x, d_output = np.ones((4, 2)), np.ones((4, 3))
    tape = model.record(x)
    gradients = tape.backward(d_output)
    np.testing.assert_allclose(gradients.input, d_output @ linear.parameters["weight"], rtol=1e-15)
    assert gradients.reset_state is None


# -- Sequential without recurrent layers ----------------------------------------------------------


def make_feed_forward() -> fastrnn.Sequential:
    """With another one inside."""
    return fastrnn.Sequential(
        fastrnn.Flatten(),
        fastrnn.Sequential(
            fastrnn.Linear(6, 4, dtype="float64", seed=1),
            fastrnn.Tanh(),
            fastrnn.Sequential(fastrnn.Linear(4, 3, dtype="float64", seed=2)),
        ),
        fastrnn.Sigmoid(),
    )


def test_sequential_without_memory_is_a_layer_without_memory() -> None:
    model = make_feed_forward()
    assert list(model.parameters) == ["1.0.weight", "1.0.bias", "1.2.0.weight", "1.2.0.bias"]
    first, _, second = model.layers[1].layers
    assert model.parameters["1.2.0.bias"] is second.layers[0].parameters["bias"]
    x = np.random.default_rng(3).standard_normal((5, 2, 3))
    a = np.tanh(x.reshape(5, 6) @ first.parameters["weight"].T + first.parameters["bias"])
    w, b = second.parameters["0.weight"], second.parameters["0.bias"]
    expected = 1 / (1 + np.exp(-(a @ w.T + b)))
    tape = model.record(x)
    for y in (model(x), tape.output):
        np.testing.assert_allclose(y, expected, rtol=1e-12)
    assert tape.state is None
    assert_gradients_of_layer(model, x)


def test_sequential_with_memory_has_feed_forward_ones_inside() -> None:
    head = fastrnn.Sequential(fastrnn.Linear(H, 3, seed=2), fastrnn.ReLU())
    lstm = fastrnn.LSTM(I, H, seed=1)
    model = fastrnn.Sequential(lstm, head)
    assert list(model.parameters)[-2:] == ["1.0.weight", "1.0.bias"]
    x = np.ones((4, B, I), np.float32)
    y, (state,) = model(x)
    output, expected = lstm(x)
    np.testing.assert_array_equal(y, head(output), strict=True)
    np.testing.assert_array_equal(state, expected, strict=True)
    tape = model.record(x)
    assert len(tape.state) == 1
    gradients = tape.backward(y)
    assert gradients.parameters.keys() == model.parameters.keys()
    assert len(gradients.state) == 1


def test_sequential_learns_and_loads_through_one_inside() -> None:
    model, other = make_feed_forward(), make_feed_forward()
    x = np.random.default_rng(3).standard_normal((5, 2, 3))
    optimizer = fastrnn.SGD(model.parameters, 0.5)
    loss = []
    for _ in range(3):
        tape = model.record(x)
        value, d_y = fastrnn.mean_squared_error(tape.output, np.full((5, 3), 0.5))
        loss.append(value)
        optimizer.step(tape.backward(d_y).parameters)
    assert loss == sorted(loss, reverse=True)
    other.load_parameters(model.parameters)
    np.testing.assert_array_equal(other(x), model(x))
