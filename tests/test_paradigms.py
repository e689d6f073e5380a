"""The paradigms: equal to their parts put together by hand, and gradients by finite differences."""

from typing import Any

import numpy as np
import pytest

import fastrnn
from compare import assert_gradient, assert_gradients_of_parameters
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
    assert_gradients_of_parameters(
        model, gradients, lambda: float(np.sum(u * model(x, lengths=LENGTHS)))
    )


@VARIANT_IDS
def test_many_to_one_takes_the_layouts_of_its_layers(variant: Variant) -> None:
    D, R = 2, P if variant.projected else H
    head = fastrnn.Linear(D * R, K, dtype="float64", seed=4)
    plain = fastrnn.ManyToOne(make(variant, bidirectional=True), head)
    turned = fastrnn.ManyToOne(make(variant, bidirectional=True, batch_first=True), head)
    x, u, reset = draw(T, B, I), draw(B, K), draw(T, B) > 1
    reset_state = (draw_like(plain.record(x).state[0], 8),)
    sequence = {"lengths": LENGTHS, "reset_state": reset_state}
    tape = plain.record(x, reset=reset, **sequence)
    other = turned.record(x.swapaxes(0, 1), reset=reset.T, **sequence)
    same(other.output, tape.output)
    same(plain(x, reset=reset, **sequence), tape.output)
    d_x = tape.backward(u, retain=True).input
    found = other.backward(u)
    same(found.input.swapaxes(0, 1), d_x)
    same(found.reset_state, tape.backward(u).reset_state)

    state = draw_like(tape.state, 6)
    one = plain.record(x[:, 0], [as_row(state[0])], lengths=4)
    full = plain.record(x[:, :1], (as_row(state[0], slice(1)),), lengths=np.array([4]))
    assert one.output.shape == (K,)
    np.testing.assert_allclose(one.output, full.output[0], rtol=1e-14)
    np.testing.assert_allclose(
        one.backward(u[0]).input, full.backward(u[:1]).input[:, 0], rtol=1e-12, atol=1e-14
    )


def as_row(state: Any, row: Any = 0) -> Any:
    """One row of the state of a layer, without the axis of the batch if it is a number."""
    if isinstance(state, tuple):
        return tuple(as_row(part, row) for part in state)
    return state[:, row]


def test_gradients_of_the_states_of_many_to_one() -> None:
    """Of the initial state and of what resets put in its place, through two recurrent layers."""
    model = fastrnn.ManyToOne(
        fastrnn.GRU(I, H, seed=1, dtype="float64"),
        fastrnn.LSTM(H, H, 2, bidirectional=True, seed=2, dtype="float64"),
    )
    x, reset = draw(T, B, I), draw(T, B) > 0.5
    state = draw_like(model.record(x).state, 1)
    u, v = draw(B, 2 * H), draw_like(state, 30)
    arguments = {"lengths": LENGTHS, "reset": reset}

    def loss(x: np.ndarray, state: Any, reset_state: Any) -> float:
        tape = model.record(x, state, **arguments, reset_state=reset_state)
        finals = [np.sum(a * b) for a, b in zip(flat(v), flat(tape.state), strict=True)]
        return float(np.sum(u * tape.output) + sum(finals))

    reset_state = draw_like(state, 50)
    tape = model.record(x, state, **arguments, reset_state=reset_state)
    kept = [array.copy() for array in flat(v)]
    gradients = tape.backward(u, v)
    same(flat(v), kept)
    assert_gradient(lambda x: loss(x, state, reset_state), x, gradients.input)
    for k, (a, b) in enumerate(zip(flat(state), flat(gradients.state), strict=True)):
        assert_gradient(lambda s, k=k: loss(x, exchange(state, k, s), reset_state), a, b)
    for k, (a, b) in enumerate(zip(flat(reset_state), flat(gradients.reset_state), strict=True)):
        assert_gradient(lambda s, k=k: loss(x, state, exchange(reset_state, k, s)), a, b)


def flat(state: Any) -> list[np.ndarray]:
    if isinstance(state, tuple):
        return [array for part in state for array in flat(part)]
    return [state]


def exchange(state: Any, k: int, array: np.ndarray) -> Any:
    """A state of (h, (h, c)) with one of its three arrays exchanged."""
    h, (h2, c2) = state
    arrays = [h, h2, c2]
    arrays[k] = array
    return arrays[0], (arrays[1], arrays[2])


def test_a_tape_of_many_to_one_is_checked_before_it_is_used_up() -> None:
    model = fastrnn.ManyToOne(fastrnn.LSTM(I, H, seed=1), fastrnn.Linear(H, K, seed=2))
    x = draw(T, B, I).astype(np.float32)
    tape = model.record(x)
    u = np.ones((B, K), np.float32)
    for wrong in ({"d_output": u[:2]}, {"d_output": u, "d_state": (u,)}, {"d_state": ()}):
        with pytest.raises((ValueError, TypeError), match=r"^d_(output|state)"):
            tape.backward(**wrong)
    once = tape.backward(u, retain=True)
    again = tape.backward(u)
    for name, gradient in once.parameters.items():
        same(again.parameters[name], gradient)
    with pytest.raises(ValueError, match="has already run"):
        tape.backward(u)
    nothing = model.record(x).backward()
    assert not any(gradient.any() for gradient in nothing.parameters.values())


@pytest.mark.parametrize(("steps", "batch"), [(0, B), (T, 0), (0, 0)])
def test_nothing_to_read_or_no_rows(steps: int, batch: int) -> None:
    """Without a step the head gets the initial state."""
    layer = fastrnn.LSTM(I, H, 2, bidirectional=True, seed=1, dtype="float64")
    model = fastrnn.ManyToOne(layer, fastrnn.Linear(2 * H, K, seed=2, dtype="float64"))
    x = draw(steps, batch, I)
    h, c = draw(4, batch, H), draw(4, batch, H, seed=3)
    tape = model.record(x, ((h, c),))
    same(model(x, ((h, c),)), tape.output)
    if not steps:
        same(tape.output, model.layers[1](np.concatenate([h[2], h[3]], axis=1)))
    gradients = tape.backward(np.ones((batch, K)))
    assert gradients.input.shape == x.shape
    assert all(np.isfinite(g).all() for g in gradients.parameters.values())


def test_inf_and_nan_raise_nothing() -> None:
    model = fastrnn.ManyToOne(fastrnn.LSTM(I, H, seed=1), fastrnn.Linear(H, K, seed=2))
    x = draw(T, B, I).astype(np.float32)
    x[0], x[1] = np.inf, np.nan
    with np.errstate(all="raise"):
        tape = model.record(x)
        tape.backward(np.full_like(tape.output, np.inf), tape.state)
        model(x)


# -- one to one, many to many ---------------------------------------------------------------------


def test_one_to_one_and_many_to_many_are_sequential() -> None:
    layers = fastrnn.Linear(I, H, seed=1), fastrnn.Tanh(), fastrnn.Linear(H, K, seed=2)
    x = draw(T, B, I).astype(np.float32)
    u = draw(T, B, K).astype(np.float32)
    for kind, parts in (
        (fastrnn.OneToOne, layers),
        (fastrnn.ManyToMany, (layers[0], fastrnn.GRU(H, H, seed=3), layers[2])),
    ):
        found, expected = kind(*parts), fastrnn.Sequential(*parts)
        same(found(x), expected(x))
        one, two = found.record(x), expected.record(x)
        same(one.output, two.output)
        a, b = one.backward(u), two.backward(u)
        same(a.input, b.input)
        assert list(a.parameters) == list(b.parameters)
        assert all((a.parameters[name] == g).all() for name, g in b.parameters.items())
    # And one of them is a layer of the other.
    inner = fastrnn.OneToOne(*layers[1:])
    model = fastrnn.ManyToMany(fastrnn.RNN(I, H, seed=4), inner)
    y, _ = model(x)
    assert y.shape == (T, B, K)
    window = next(fastrnn.TruncatedBPTT(model, 4).windows(x))
    assert window.backward(u[:4]).parameters.keys() == model.parameters.keys()
