"""RNN, GRU, LSTM: parameters, and how layers, directions and layouts are put together."""

from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import dispatch
from problems import PARAMETERS, VARIANTS, Variant

VARIANT_IDS = pytest.mark.parametrize("variant", VARIANTS, ids=str)
T, B, I, H, P = 6, 3, 2, 4, 3


def make(variant: Variant, **arguments: Any) -> Any:
    """A layer of a variant."""
    projection = {"proj_size": P} if variant.projected else {}
    kind = getattr(fastrnn, variant.cell.upper())
    return kind(I, H, **{"seed": 1, **projection, **variant.options, **arguments})


def draw_x(dtype: str = "float32", seed: int = 2, shape: tuple[int, ...] = (T, B, I)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def draw_state(layer: Any, batch: tuple[int, ...] = (B,), seed: int = 3) -> Any:
    """A state for `layer`, with the axes of the batch (none for an unbatched call)."""
    rng = np.random.default_rng(seed)
    n = layer.num_layers * (2 if layer.bidirectional else 1)
    widths = (layer.proj_size or H, H)[: len(layer.cell.states)]
    return as_state([rng.standard_normal((n, *batch, w)).astype(layer.dtype) for w in widths])


def parts(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


def as_state(arrays: list[np.ndarray]) -> Any:
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


def flat(gradients: fastrnn.Gradients) -> dict[str, np.ndarray]:
    """All gradients of a backward pass by name."""
    found = {"input": gradients.input, **gradients.parameters}
    return found | {f"state {k}": part for k, part in enumerate(parts(gradients.state))}


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        np.testing.assert_array_equal(found[name], want, err_msg=name, strict=True)
        assert np.isfinite(want).all(), name


# -- composition ----------------------------------------------------------------------------------


def by_hand(layer: Any, x: np.ndarray, state: Any, **sequence: Any) -> dict[str, Any]:
    """Run a stack as calls of `fastrnn.functional`; also return how to run it backward."""
    function = getattr(fastrnn.functional, layer.cell.name)
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    tapes = []
    for k in range(layer.num_layers):
        outputs = []
        for d, direction in enumerate(directions):
            n = k * len(directions) + d
            w = [layer.parameters.get(f"{name}_l{k}{direction}") for name in PARAMETERS]
            tape = function(
                x,
                *(part[n] for part in parts(state)),
                *w[:4],
                **({"weight_hr": w[4]} if layer.proj_size else {}),
                **layer.options,
                **sequence,
                reverse=direction == "_reverse",
                backend=layer.backend,
                record=True,
            )
            tapes.append((f"_l{k}{direction}", tape))
            outputs.append(tape.output)
        x = np.concatenate(outputs, axis=2)
    return {"tapes": tapes, "output": x}


def by_hand_backward(layer: Any, tapes: Any, d_output: np.ndarray, d_state: Any) -> dict[str, Any]:
    directions = 2 if layer.bidirectional else 1
    width = d_output.shape[2] // directions
    found: dict[str, Any] = {}
    states = []
    for k in reversed(range(layer.num_layers)):
        shares = []
        for d in reversed(range(directions)):
            suffix, tape = tapes[k * directions + d]
            d_final = as_state([part[k * directions + d] for part in parts(d_state)])
            d_y = np.ascontiguousarray(d_output[..., d * width : (d + 1) * width])
            gradients = tape.backward(d_y, d_final)
            found |= {name + suffix: g for name, g in gradients.parameters.items()}
            states.insert(0, parts(gradients.state))
            shares.append(gradients.input)
        d_output = shares[0] + shares[1] if directions == 2 else shares[0]
        width = layer.proj_size or layer.hidden_size
    found["input"] = d_output
    for k, arrays in enumerate(zip(*states, strict=True)):
        found[f"state {k}"] = np.stack(arrays)
    return found


@VARIANT_IDS
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_stack_is_a_composition_of_functional_calls(
    variant: Variant, num_layers: int, bidirectional: bool, backend: str
) -> None:
    layer = make(variant, num_layers=num_layers, bidirectional=bidirectional, backend=backend)
    rng = np.random.default_rng(4)
    x, state = draw_x(), draw_state(layer)
    sequence = {"lengths": np.array([T, 2, 0]), "reset": rng.random((T, B)) < 0.2}
    hand = by_hand(layer, x, state, **sequence)
    tape = layer.record(x, state, **sequence)
    output, last = layer(x, state, **sequence)
    stacked = [
        np.stack(arrays) for arrays in zip(*(parts(t.state) for _, t in hand["tapes"]), strict=True)
    ]
    for y, s in ((output, last), (tape.output, tape.state)):
        np.testing.assert_array_equal(y, hand["output"], strict=True)
        for a, b in zip(parts(s), stacked, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
    d_output = draw_x(shape=output.shape, seed=5)
    d_state = draw_state(layer, seed=6)
    assert_equal(
        flat(tape.backward(d_output, d_state)),
        by_hand_backward(layer, hand["tapes"], d_output, d_state),
    )


@VARIANT_IDS
@pytest.mark.parametrize("bidirectional", [True, False])
def test_batch_first_is_a_transposition(variant: Variant, bidirectional: bool) -> None:
    plain = make(variant, num_layers=2, bidirectional=bidirectional)
    other = make(variant, num_layers=2, bidirectional=bidirectional, batch_first=True)
    x, state = draw_x(), draw_state(plain)
    reset = np.random.default_rng(4).random((T, B)) < 0.3
    lengths = np.array([4, T, 1])
    d_state = draw_state(plain, seed=6)

    tape = plain.record(x, state, lengths=lengths, reset=reset)
    turned = other.record(x.swapaxes(0, 1), state, lengths=lengths, reset=reset.T)
    np.testing.assert_array_equal(turned.output.swapaxes(0, 1), tape.output, strict=True)
    y, last = other(x.swapaxes(0, 1), state, lengths=lengths, reset=reset.T)
    np.testing.assert_array_equal(y.swapaxes(0, 1), tape.output, strict=True)
    for a, b in zip(parts(last), parts(tape.state), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    if tape.cell_states is not None:
        np.testing.assert_array_equal(
            turned.cell_states.swapaxes(0, 1), tape.cell_states, strict=True
        )
    d_output = draw_x(shape=tape.output.shape, seed=5)
    found = flat(turned.backward(d_output.swapaxes(0, 1), d_state))
    found["input"] = found["input"].swapaxes(0, 1)
    assert_equal(found, flat(tape.backward(d_output, d_state)))


@VARIANT_IDS
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("length", [None, 4, np.array([4])], ids=str)
def test_unbatched_input_is_a_batch_of_one(
    variant: Variant, length: Any, batch_first: bool
) -> None:
    layer = make(variant, num_layers=2, bidirectional=True, batch_first=batch_first)
    axis = 0 if batch_first else 1
    x, state = draw_x(shape=(T, I)), draw_state(layer, ())
    reset = np.arange(T) == 2
    d_state = draw_state(layer, (), seed=6)

    def batch(array: np.ndarray) -> np.ndarray:
        return np.expand_dims(array, axis)

    def batch_state(s: Any) -> Any:
        return as_state([part[:, None] for part in parts(s)])

    tape = layer.record(x, state, lengths=length, reset=reset)
    full = layer.record(
        batch(x),
        batch_state(state),
        lengths=None if length is None else np.array([4]),
        reset=batch(reset),
    )
    np.testing.assert_array_equal(batch(tape.output), full.output, strict=True)
    for a, b in zip(parts(batch_state(tape.state)), parts(full.state), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    if full.cell_states is not None:
        np.testing.assert_array_equal(batch(tape.cell_states), full.cell_states, strict=True)
    d_output = draw_x(shape=tape.output.shape, seed=5)
    found = flat(tape.backward(d_output, d_state))
    expected = flat(full.backward(batch(d_output), batch_state(d_state)))
    for name in expected:
        if name == "input":
            found[name] = batch(found[name])
        elif name.startswith("state"):
            found[name] = found[name][:, None]
    assert_equal(found, expected)


def test_state_defaults_to_zeros() -> None:
    layer = fastrnn.LSTM(I, H, 2, bidirectional=True, seed=1)
    zeros = tuple(np.zeros((4, B, H), np.float32) for _ in range(2))
    (y, s), (z, t) = layer(draw_x()), layer(draw_x(), zeros)
    np.testing.assert_array_equal(y, z)
    assert_equal(dict(enumerate(s)), dict(enumerate(t)))


def test_reset_state_reaches_every_layer_and_direction() -> None:
    layer = fastrnn.LSTM(I, H, 2, bidirectional=True, seed=1, dtype="float64")
    x, initial = draw_x("float64"), draw_state(layer)
    # A reset of every row at both ends gives what starting from the state gives.
    ends = np.zeros((T, B), bool)
    ends[[0, -1]] = True
    y, _ = layer(x[:1], reset=ends[:1], reset_state=initial)
    z, _ = layer(x[:1], initial)
    np.testing.assert_array_equal(y, z)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_cell_states_are_those_of_the_last_layer(num_layers: int, backend: str) -> None:
    layer = fastrnn.LSTM(I, H, num_layers, seed=1, dtype="float64", backend=backend)
    x = draw_x("float64")
    cell_states = layer.record(x).cell_states
    assert cell_states.shape == (T, B, H)
    for t in range(T):
        _, (_, c_n) = layer(x[: t + 1])
        np.testing.assert_allclose(cell_states[t], c_n[-1], rtol=1e-13)


def test_cell_states_of_two_directions() -> None:
    layer = fastrnn.LSTM(I, H, 2, bidirectional=True, seed=1)
    lengths = np.array([T, 4, 0])
    tape = layer.record(draw_x(), lengths=lengths)
    assert tape.cell_states.shape == (T, B, 2 * H)
    _, c_n = tape.state
    for row, length in enumerate(lengths):
        assert (tape.cell_states[length:, row] == 0).all()
        if length:
            np.testing.assert_array_equal(tape.cell_states[length - 1, row, :H], c_n[-2, row])
            np.testing.assert_array_equal(tape.cell_states[0, row, H:], c_n[-1, row])


@pytest.mark.parametrize("name", ["RNN", "GRU"])
def test_other_cells_have_no_cell_states(name: str) -> None:
    assert getattr(fastrnn, name)(I, H).record(draw_x()).cell_states is None


@VARIANT_IDS
def test_nan_and_inf_in_a_stack_raise_nothing(variant: Variant) -> None:
    """Neither a warning (an error in these tests) nor what the caller's errstate asks for."""
    layer = make(variant, num_layers=2, bidirectional=True, dropout=0.5)
    x = draw_x()
    x[0], x[1] = np.inf, np.nan
    for wanted in ("warn", "raise"):
        with np.errstate(all=wanted):
            before = np.geterr()
            tape = layer.record(x)
            tape.backward(np.full_like(tape.output, np.inf), tape.state)
            layer(x)
            assert np.geterr() == before


@VARIANT_IDS
@pytest.mark.parametrize("batch_first", [True, False])
def test_nothing_given_is_changed(variant: Variant, batch_first: bool) -> None:
    layer = make(variant, num_layers=2, bidirectional=True, dropout=0.5, batch_first=batch_first)
    shape = (B, T) if batch_first else (T, B)
    x, state, reset_state = draw_x(shape=(*shape, I)), draw_state(layer), draw_state(layer, seed=4)
    sequence = {"lengths": np.array([4, T, 0]), "reset": draw_x(shape=shape) > 0}
    d_output = draw_x(shape=(*shape, 2 * (P if variant.projected else H)))
    d_state = draw_state(layer, seed=5)
    states = [*parts(state), *parts(reset_state), *parts(d_state)]
    arrays = [x, d_output, *states, *sequence.values(), *layer.parameters.values()]
    before = [array.tobytes() for array in arrays]
    layer(x, state, **sequence, reset_state=reset_state)
    tape = layer.record(x, state, **sequence, reset_state=reset_state)
    output = tape.output.tobytes()
    tape.backward(d_output, d_state)
    assert [array.tobytes() for array in arrays] == before
    assert tape.output.tobytes() == output


# -- windows --------------------------------------------------------------------------------------


@VARIANT_IDS
def test_windows_equal_the_whole(variant: Variant, backend: str) -> None:
    """Forward, and backward with d_state chained from the later window to the earlier."""
    layer = make(variant, num_layers=2, dtype="float64", backend=backend)
    x, state = draw_x("float64"), draw_state(layer)
    d_output = draw_x("float64", 5, (T, B, P if variant.projected else H))
    d_last = draw_state(layer, seed=6)
    whole = layer.record(x, state)
    expected = flat(whole.backward(d_output, d_last))

    tapes, carried = [], state
    cuts = [slice(0, 1), slice(1, 4), slice(4, T)]
    for cut in cuts:
        tapes.append(layer.record(x[cut], carried))
        carried = tapes[-1].state
    np.testing.assert_allclose(
        np.concatenate([tape.output for tape in tapes]), whole.output, rtol=1e-13, atol=1e-14
    )
    for a, b in zip(parts(carried), parts(whole.state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)

    found: dict[str, Any] = {}
    d_state, d_x = d_last, []
    for cut, tape in zip(reversed(cuts), reversed(tapes), strict=True):
        gradients = tape.backward(d_output[cut], d_state)
        d_state = gradients.state
        d_x.insert(0, gradients.input)
        for name, g in gradients.parameters.items():
            found[name] = found.get(name, 0) + g
    found["input"] = np.concatenate(d_x)
    found |= {f"state {k}": part for k, part in enumerate(parts(d_state))}
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        np.testing.assert_allclose(
            found[name], want, rtol=1e-12, atol=1e-12 * np.abs(want).max(), err_msg=name
        )


def test_an_interrupted_backward_pass_uses_the_tape_up(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of its buffers are overwritten: a second pass would give wrong gradients."""
    layer = fastrnn.LSTM(2, 3, 2, seed=0, dtype="float64", backend=backend)
    x = np.ones((4, 2, 2))
    d_output = np.ones((4, 2, 3))
    kernels = dispatch.select(backend, "lstm")
    compute, calls = kernels.backward, []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        compute(*arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt

    tape, kept = layer.record(x), layer.record(x)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "backward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tape.backward(d_output)
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            kept.backward(d_output, retain=True)
    with pytest.raises(ValueError, match=r"^tape: backward has already run"):
        tape.backward(d_output)
    found, expected = kept.backward(d_output), layer.record(x).backward(d_output)
    for name, gradient in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], gradient, err_msg=name)


def test_a_refused_gradient_leaves_all_tapes_of_a_sequential() -> None:
    model = fastrnn.Sequential(fastrnn.LSTM(2, 3, seed=0), fastrnn.GRU(3, 4, seed=1))
    tape = model.record(np.ones((5, 2, 2), np.float32))
    d_output = np.ones((5, 2, 4), np.float32)
    d_gru = np.ones((1, 2, 4), np.float32)
    with pytest.raises(ValueError, match=r"^d_state h: expected shape"):
        tape.backward(d_output, ((d_gru, d_gru), d_gru))
    d_lstm = np.ones((1, 2, 3), np.float32)
    assert tape.backward(d_output, ((d_lstm, d_lstm), d_gru)).input is not None
