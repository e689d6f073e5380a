"""The paradigms: equal to their parts put together by hand, and gradients by finite differences."""

from typing import Any

import numpy as np
import pytest

import fastrnn
from compare import assert_gradient
from problems import VARIANTS, Variant

T, B, I, H, P, K = 6, 3, 2, 4, 3, 3
LENGTHS = np.array([T, 0, 2])
VARIANT_IDS = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def make(variant: Variant, inputs: int = I, **arguments: Any) -> Any:
    """A layer of a variant in float64, whose gradients finite differences can judge."""
    projection = {"proj_size": P} if variant.projected else {}
    kind = getattr(fastrnn, variant.cell.upper())
    return kind(
        inputs, H, **{"seed": 1, "dtype": "float64"} | projection | variant.options | arguments
    )


def draw(*shape: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def draw_like(state: Any, seed: int) -> Any:
    if isinstance(state, tuple):
        return tuple(draw_like(part, seed + k) for k, part in enumerate(state))
    return draw(*state.shape, seed=seed)


def parts(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


def same(found: Any, expected: Any) -> None:
    """Compare arrays, or states of them, to the bit."""
    if isinstance(expected, tuple | list):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            same(a, b)
    else:
        np.testing.assert_array_equal(found, expected, strict=True)


def assert_parameter_gradients(model: Any, gradients: Any, loss: Any) -> None:
    """Compare the gradients of all parameters with central differences of a loss()."""
    assert list(gradients.parameters) == list(model.parameters)
    for name, array in model.parameters.items():
        kept = array.copy()

        def value(changed: np.ndarray, array: np.ndarray = array) -> float:
            array[...] = changed
            return loss()

        assert_gradient(value, kept, gradients.parameters[name])
        array[...] = kept


# -- many to one ----------------------------------------------------------------------------------


@VARIANT_IDS
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_many_to_one_is_a_head_on_the_final_state(
    variant: Variant, bidirectional: bool, given: bool
) -> None:
    D, R = 1 + bidirectional, P if variant.projected else H
    first = fastrnn.Linear(I, 5, dtype="float64", seed=3)
    layer = make(variant, 5, num_layers=2, bidirectional=bidirectional)
    head = fastrnn.Linear(D * R, K, dtype="float64", seed=4)
    model = fastrnn.ManyToOne(first, layer, fastrnn.Tanh(), head)
    x = draw(T, B, I)
    sequence = {"lengths": LENGTHS, "reset": draw(T, B) > 1} if given else {}

    one = first.record(x)
    two = layer.record(one.output, **sequence)
    h_n = parts(two.state)[0]
    # Of the last layer: forward's after the last valid step, reverse's after the first one.
    hidden = np.concatenate([h_n[2], h_n[3]], axis=1) if D == 2 else h_n[1]
    three = fastrnn.Tanh().record(hidden)
    four = head.record(three.output)

    tape = model.record(x, **sequence)
    assert tape.output.shape == (B, K)
    same(tape.output, four.output)
    same(model(x, **sequence), four.output)
    same(tape.state, (two.state,))

    d_output = draw(B, K, seed=5)
    d_states = (draw_like(two.state, 6),) if given else None
    after = head.record(three.output).backward(d_output)
    d_hidden = three.backward(after.input).input
    d_final = [np.zeros_like(s) for s in parts(two.state)]
    if given:
        d_final = [s.copy() for s in parts(d_states[0])]
    d_final[0][-D:] += np.stack(np.split(d_hidden, D, axis=1))
    below = two.backward(None, tuple(d_final) if len(d_final) > 1 else d_final[0])
    lowest = one.backward(below.input)
    found = tape.backward(d_output, d_states)
    same(found.input, lowest.input)
    same(found.state, (below.state,))
    expected = {f"0.{n}": g for n, g in lowest.parameters.items()}
    expected |= {f"1.{n}": g for n, g in below.parameters.items()}
    expected |= {f"3.{n}": g for n, g in after.parameters.items()}
    assert list(found.parameters) == list(model.parameters) == list(expected)
    for name, want in expected.items():
        same(found.parameters[name], want)


def test_a_row_alone_gives_what_it_gives_in_a_batch() -> None:
    """Of its valid steps only: lengths are what the layers say they are."""
    model = fastrnn.ManyToOne(
        fastrnn.Embedding(7, I, seed=1),
        fastrnn.LSTM(I, H, bidirectional=True, seed=2),
        fastrnn.Linear(2 * H, K, seed=3),
    )
    x = np.random.default_rng(1).integers(0, 7, (T, B))
    output = model(x, lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        np.testing.assert_allclose(model(x[:length, b]), output[b], rtol=1e-6)
        np.testing.assert_allclose(model(x[:length, b : b + 1])[0], output[b], rtol=1e-6)


@VARIANT_IDS
def test_gradients_of_many_to_one(variant: Variant) -> None:
    R = P if variant.projected else H
    model = fastrnn.ManyToOne(
        fastrnn.Embedding(5, I, dtype="float64", seed=1),
        make(variant, bidirectional=True),
        fastrnn.Linear(2 * R, K, dtype="float64", seed=3),
    )
    x = np.random.default_rng(1).integers(0, 5, (T, B))
    u = draw(B, K)
    tape = model.record(x, lengths=LENGTHS)
    gradients = tape.backward(u)
    assert gradients.input is None
    assert_parameter_gradients(
        model, gradients, lambda: float(np.sum(u * model(x, lengths=LENGTHS)))
    )
