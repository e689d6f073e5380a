"""Dropout between the layers of a stack."""

from typing import Any

import numpy as np
import pytest

import fastrnn

T, B, I, H = 40, 30, 3, 16


def make(**arguments: Any) -> fastrnn.RNN:
    return fastrnn.RNN(
        I, H, **{"num_layers": 2, "dtype": "float64", "seed": 1, "dropout": 0.25, **arguments}
    )


def draw_x(steps: int = T) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((steps, B, I))


def open_second_layer(layer: fastrnn.RNN) -> None:
    """Make the second layer return, unit by unit, tanh of its input without any memory."""
    for name, array in layer.parameters.items():
        if name.endswith("_l1"):
            array[...] = np.eye(H) if name == "weight_ih_l1" else 0


def dropped(layer: fastrnn.RNN) -> tuple[np.ndarray, np.ndarray]:
    """The second layer's input as recorded, and without dropout."""
    open_second_layer(layer)
    return np.arctanh(layer.record(draw_x()).output), np.arctanh(layer(draw_x())[0])


def test_values_are_zeroed_or_scaled_up() -> None:
    found, plain = dropped(make())
    zeroed = found == 0
    np.testing.assert_allclose(found[~zeroed], plain[~zeroed] / 0.75, rtol=1e-9)
    # 19200 draws with probability 1/4: within five standard deviations.
    assert abs(zeroed.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / zeroed.size)
    # Each value draws for itself: no step, row or unit is dropped as a whole.
    for axes in ((0, 1), (0, 2), (1, 2)):
        shares = zeroed.mean(axis=axes)
        assert shares.min() > 0.1
        assert shares.max() < 0.45


def test_generator_of_the_layer_draws() -> None:
    layer, same = make(), make()
    first, second = layer.record(draw_x()).output, layer.record(draw_x()).output
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(same.record(draw_x()).output, first)
    np.testing.assert_array_equal(same.record(draw_x()).output, second)


def test_inference_has_no_dropout() -> None:
    plain = make(dropout=0.0)(draw_x())[0]
    layer = make()
    np.testing.assert_array_equal(layer(draw_x())[0], plain)
    # Nor does it draw: recording goes on as if it had not been.
    np.testing.assert_array_equal(layer.record(draw_x()).output, make().record(draw_x()).output)


def test_only_values_between_layers_are_dropped() -> None:
    layer = make(num_layers=2, dropout=1.0)
    output = layer.record(draw_x()).output
    second = fastrnn.RNN(H, H, dtype="float64")
    second.load_parameters(
        {n.replace("l1", "l0"): a for n, a in layer.parameters.items() if n.endswith("l1")}
    )
    np.testing.assert_array_equal(output, second(np.zeros((T, B, H)))[0])


def test_a_single_layer_drops_nothing_and_says_so() -> None:
    with pytest.warns(UserWarning, match=r"dropout=1\.0 has no effect"):
        layer = make(num_layers=1, dropout=1.0)
    np.testing.assert_array_equal(layer.record(draw_x()).output, layer(draw_x())[0])


def test_dropout_of_one_stops_gradients() -> None:
    layer = make(dropout=1.0)
    tape = layer.record(draw_x())
    gradients = tape.backward(np.ones_like(tape.output))
    assert np.isfinite(tape.output).all()
    assert (gradients.input == 0).all()
    assert (gradients.parameters["weight_ih_l0"] == 0).all()
    assert (gradients.parameters["weight_ih_l1"] == 0).all()
    assert (gradients.parameters["bias_ih_l1"] != 0).any()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_gradient_goes_through_the_mask_of_its_pass(bidirectional: bool, batch_first: bool) -> None:
    layer = fastrnn.LSTM(
        I,
        5,
        num_layers=3,
        dropout=0.5,
        bidirectional=bidirectional,
        batch_first=batch_first,
        dtype="float64",
        seed=1,
    )
    x = draw_x(4)
    rng = np.random.default_rng(3)

    def record() -> fastrnn.Tape:
        layer.generator = np.random.default_rng(4)  # the same masks every time
        return layer.record(x)

    tape = record()
    u = rng.standard_normal(tape.output.shape)
    layer.record(x)  # a later pass draws other masks, which are not this tape's
    gradients = tape.backward(u)
    found = {"x": gradients.input} | gradients.parameters
    for name, tensor in ({"x": x} | layer.parameters).items():
        v = rng.standard_normal(tensor.shape)
        kept = tensor.copy()
        slopes = []
        for h in (1e-4, 2e-4):
            losses = []
            for step in (h, -h):
                tensor[...] = kept + step * v
                losses.append(np.sum(u * record().output))
            slopes.append((losses[0] - losses[1]) / (2 * h))
        tensor[...] = kept
        expected = (4 * slopes[0] - slopes[1]) / 3
        assert np.sum(found[name] * v) == pytest.approx(expected, rel=1e-7, abs=1e-8), name


def test_retained_tape_keeps_its_masks() -> None:
    tape = make().record(draw_x())
    u = np.ones_like(tape.output)
    first, second = tape.backward(u, retain=True), tape.backward(u)
    for name, gradient in first.parameters.items():
        np.testing.assert_array_equal(gradient, second.parameters[name], strict=True)
    np.testing.assert_array_equal(first.input, second.input, strict=True)
