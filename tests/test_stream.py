"""Streams: steps, blocks and the model's own call have the same bits; states, resets, errors."""

import copy
import pickle
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import fastrnn
from fastrnn import states
from interpreter import run_python
from problems import BACKENDS, VARIANTS, Variant

T, B, I, H, P = 17, 3, 2, 5, 3
# The NumPy backend takes its products from BLAS, which rounds them by their shapes.
EXACT = [name for name in BACKENDS if name != "numpy"]
VARIANT_IDS = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def make(variant: Variant, **arguments: Any) -> Any:
    projection = {"proj_size": P} if variant.projected else {}
    kind = getattr(fastrnn, variant.cell.upper())
    return kind(I, H, 2, **{"seed": 1} | projection | variant.options | arguments)


def draw(*shape: int, seed: int = 2, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def same(found: Any, expected: Any) -> None:
    """Compare arrays, or states of them, to the bit."""
    pairs = zip(states.arrays(found), states.arrays(expected), strict=True)
    for a, b in pairs:
        np.testing.assert_array_equal(a, b, strict=True)


def near(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare what comes out of a head, whose sum goes another way than BLAS's."""
    limit = 1e-12 if expected.dtype == np.float64 else 2e-6
    np.testing.assert_allclose(found, expected, rtol=limit, atol=limit, strict=True)


def run(stream: fastrnn.Stream, x: np.ndarray, cuts: list[int]) -> np.ndarray:
    """Cut a sequence, and take parts of one step as steps."""
    return np.concatenate(
        [
            stream.step(part[0])[None] if len(part) == 1 else stream.push(part)
            for part in np.split(x, cuts)
        ]
    )


@VARIANT_IDS
@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [1, B])
def test_steps_are_the_sequence(variant: Variant, backend: str, dtype: str, batch: int) -> None:
    layer = make(variant, backend=backend, dtype=dtype)
    x = draw(T, batch, I, dtype=dtype)
    expected, last = layer(x)
    for cuts in (list(range(1, T)), [], [1, 2, 9]):
        stream = fastrnn.Stream(layer, batch)
        same(run(stream, x, cuts), expected)
        same(stream.state, last)


@pytest.mark.parametrize("backend", EXACT)
@hypothesis.given(st.lists(st.integers(0, T), max_size=6))
def test_any_cut_gives_the_same(backend: str, cuts: list[int]) -> None:
    """Of a model with an embedding and two kinds of layers, from a state that was set."""
    model = fastrnn.Sequential(
        fastrnn.Embedding(7, I, seed=1),
        fastrnn.LSTM(I, H, seed=2, backend=backend),
        fastrnn.GRU(H, H, 2, seed=3, backend=backend),
    )
    x = np.random.default_rng(1).integers(0, 7, (T, B))
    state = (draw(1, B, H), draw(1, B, H, seed=3)), draw(2, B, H)
    expected, last = model(x, state)
    stream = fastrnn.Stream(model, B)
    stream.state = state
    same(run(stream, x, sorted(cuts)), expected)
    same(stream.state, last)


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_products_agree_up_to_rounding(backend: str) -> None:
    model = fastrnn.Sequential(
        fastrnn.Linear(I, H, seed=1),
        fastrnn.LSTM(H, H, seed=2, backend=backend),
        fastrnn.Linear(H, 2, seed=3),
    )
    x = draw(T, B, I)
    expected, _ = model(x)
    for cuts in (list(range(1, T)), [], [1, 2, 9]):
        np.testing.assert_allclose(
            run(fastrnn.Stream(model, B), x, cuts), expected, rtol=1e-5, atol=1e-6
        )


@VARIANT_IDS
@pytest.mark.parametrize("backend", EXACT)
def test_resets_are_those_of_the_layer(variant: Variant, backend: str) -> None:
    layer = make(variant, backend=backend)
    x, reset = draw(T, B, I), draw(T, B) > 1
    expected, last = layer(x, reset=reset)
    by_mask, by_index = fastrnn.Stream(layer, B), fastrnn.Stream(layer, B)
    for t in range(T):
        by_mask.reset(reset[t])
        by_index.reset(np.flatnonzero(reset[t]))
        for stream in (by_mask, by_index):
            same(stream.step(x[t]), expected[t])
    same(by_mask.state, last)
    by_mask.reset()
    same(by_mask.push(x), layer(x)[0])


def test_states_and_outputs_are_the_callers_own() -> None:
    """Whatever is done to what was given or returned, the stream goes on as it would have."""
    layer = fastrnn.LSTM(I, H, seed=1)
    x = draw(T, 1, I)
    expected, _ = layer(x)
    stream = fastrnn.Stream(layer)
    for t in range(T):
        given = x[t].copy()
        stream.step(given)[...] = np.nan
        given[...] = np.nan
        for array in stream.state:
            array[...] = np.nan
        kept = stream.state
        stream.state = kept
        for array in kept:
            array[...] = np.nan
        if t == T - 2:
            break
    same(stream.step(x[-1]), expected[-1])
    stream.state = None
    same(stream.push(x), expected)
    stream.push(x)[...] = np.nan
    assert all(np.isfinite(array).all() for array in stream.state)


@pytest.mark.parametrize("backend", BACKENDS)
def test_out(backend: str) -> None:
    agree = same if backend in EXACT else near
    layer = fastrnn.GRU(I, H, backend=backend, seed=1)
    x = draw(T, B, I)
    expected, _ = layer(x)
    stream = fastrnn.Stream(layer, B)
    out = np.full((B, H), np.nan, np.float32)
    for t in range(6):
        assert stream.step(x[t], out) is out
        agree(out, expected[t])
    out = np.full((T - 6, B, H), np.nan, np.float32)
    assert stream.push(x[6:], out) is out
    agree(out, expected[6:])
    assert stream.push(x[:0], out[:0]).shape == (0, B, H)
    square = fastrnn.Stream(fastrnn.RNN(H, H, seed=1, backend=backend), B)
    buffer = draw(B, H)
    other = fastrnn.Stream(fastrnn.RNN(H, H, seed=1, backend=backend), B)
    wanted = other.step(buffer.copy())
    agree(square.step(buffer, out=buffer), wanted)  # in place


@pytest.mark.parametrize(
    "call",
    [
        lambda s, x: s.step(x[0, :2]),
        lambda s, x: s.step(x[0, :, :1]),
        lambda s, x: s.step(x[0].astype(np.float64)),
        lambda s, x: s.push(x[0]),
        lambda s, x: s.push(x[:, :2]),
        lambda s, x: s.reset([True, False]),
        lambda s, x: s.reset([0, 3]),
        lambda s, x: s.reset([0.0]),
        lambda s, x: setattr(s, "state", (x, x)),
        lambda s, x: s.step(x[0], np.zeros((B, H + 1), np.float32)),
        lambda s, x: s.step(x[0], np.zeros((B, H))),
        lambda s, x: s.step(x[0], np.zeros((H, B), np.float32).T),
        lambda s, x: s.step(x[0], np.broadcast_to(np.float32(0), (B, H))),
        lambda s, x: s.step(x[0], np.frombuffer(bytes(4 * B * H), np.float32).reshape(B, H)),
        lambda s, x: s.step(x[0], [0.0] * H),
        lambda s, x: s.push(x, np.zeros((B, H), np.float32)),
        lambda s, x: s.push(x, np.zeros((T + 1, B, H), np.float32)),
        lambda s, x: s.push(x, np.zeros((T, B, H))),
        lambda s, x: s.push(x, np.zeros((T, B, 2 * H), np.float32)[..., ::2]),
    ],
)
def test_what_is_refused_leaves_the_state(call: Any) -> None:
    """tests/bad_input.txt has the words."""
    layer = fastrnn.LSTM(I, H, seed=1)
    x = draw(T, B, I)
    stream, other = fastrnn.Stream(layer, B), fastrnn.Stream(layer, B)
    stream.step(x[0])
    other.step(x[0])
    before = stream.state
    with pytest.raises((ValueError, TypeError)):
        call(stream, x)
    same(stream.state, before)
    same(stream.push(x), other.push(x))


def test_a_stream_keeps_the_parameters_that_it_was_made_of() -> None:
    model = fastrnn.Sequential(fastrnn.GRU(I, H, seed=1), fastrnn.Linear(H, 2, seed=2))
    x = draw(T, 1, I)
    stream = fastrnn.Stream(model)
    before, _ = model(x)
    assert repr(stream) == f"Stream({model!r}, batch=1)"
    for name, parameter in model.parameters.items():
        parameter += 1
        assert "refresh() takes the new" in repr(stream), name
    near(stream.push(x), before)
    state, buffers = stream.state, (stream.input, stream.output)
    stream.refresh()
    assert stream.input is buffers[0]  # callers may hold them
    assert stream.output is buffers[1]
    assert repr(stream) == f"Stream({model!r}, batch=1)"
    same(stream.state, state)
    stream.reset()
    near(stream.push(x), model(x)[0])


def test_any_layout_of_a_sample() -> None:
    layer = fastrnn.LSTM(I, H, seed=1)
    x = draw(T, B, I)
    expected, _ = layer(x)
    turned = np.asfortranarray(x)
    big = x.astype(">f4")
    for given in (turned, big, x[::-1].copy()[::-1]):
        stream = fastrnn.Stream(layer, B)
        np.testing.assert_array_equal(np.stack([stream.step(x_t) for x_t in given]), expected)


def test_no_steps_and_many_streams() -> None:
    layer = fastrnn.GRU(I, H, seed=1)
    stream = fastrnn.Stream(layer, 64)
    assert stream.push(draw(0, 64, I)).shape == (0, 64, H)
    same(stream.state, np.zeros((1, 64, H), np.float32))
    x = draw(T, 64, I)
    together = stream.push(x)
    for row in (0, 31, 63):
        alone = fastrnn.Stream(layer).push(x[:, row : row + 1])
        same(alone[:, 0], together[:, row])


ENDS = {
    "none": [],
    "head": [fastrnn.Linear(H, 19, dtype="float64", seed=5)],
    "head without bias": [fastrnn.Linear(H, 3, bias=False, dtype="float64", seed=5)],
    "tanh": [fastrnn.Linear(H, 19, dtype="float64", seed=5), fastrnn.Tanh()],
    "sigmoid": [fastrnn.Linear(H, 8, dtype="float64", seed=5), fastrnn.Sigmoid()],
    "relu": [fastrnn.Linear(H, 1, dtype="float64", seed=5), fastrnn.ReLU()],
    "softmax": [fastrnn.Linear(H, 19, dtype="float64", seed=5), fastrnn.Softmax()],
    "softmax of the layer": [fastrnn.Softmax()],
    "softmax over rows": [fastrnn.Softmax(1)],
    "dropout": [fastrnn.Dropout(0.5), fastrnn.Linear(H, 3, dtype="float64", seed=5)],
    "two heads": [
        fastrnn.Linear(H, 4, dtype="float64", seed=5),
        fastrnn.Tanh(),
        fastrnn.Linear(4, 2, dtype="float64", seed=6),
    ],
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("batch", [1, B, 70])
def test_heads_and_activations(end: str, batch: int) -> None:
    """Whether or not the C kernels have the whole model in one call."""
    model = fastrnn.Sequential(
        fastrnn.LSTM(I, 9, 2, dtype="float64", seed=1),
        fastrnn.GRU(9, H, dtype="float64", seed=2, reset_after=False),
        *ENDS[end],
    )
    x = draw(T, batch, I, dtype="float64")
    expected, last = model(x)
    for cuts in (list(range(1, T)), [], [1, 2, 9]):
        stream = fastrnn.Stream(model, batch)
        near(run(stream, x, cuts), expected)
        for found, array in zip(states.arrays(stream.state), states.arrays(last), strict=True):
            near(found, array)


def test_softmax_of_what_is_not_finite() -> None:
    layer = fastrnn.RNN(I, 20, nonlinearity="relu", seed=1)
    stream = fastrnn.Stream(fastrnn.Sequential(layer, fastrnn.Softmax()), 2)
    x = draw(2, I)
    x[0] = np.nan
    y = stream.step(x)
    assert np.isnan(y[0]).all()
    assert y[1].sum() == pytest.approx(1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_are_shared_and_states_are_not(backend: str) -> None:
    layer = fastrnn.LSTM(I, H, seed=1, backend=backend)
    x = draw(T, B, I)
    expected, _ = layer(x)
    then, _ = layer(x[:, 1:2], layer(x[:, :1])[1])
    first = fastrnn.Stream(layer, B)
    first.push(x)
    second, third = fastrnn.Stream(first, B), fastrnn.Stream(first, 1)
    for parameter in layer.parameters.values():
        parameter += 1
    del first  # the weights stay for those who share them
    near(second.push(x), expected)
    near(third.push(x[:, :1]), expected[:, :1])
    second.refresh()
    near(third.push(x[:, 1:2]), then)


@pytest.mark.parametrize("backend", BACKENDS)
def test_given_nothing_a_step_is_taken_in_place(backend: str) -> None:
    layer = fastrnn.GRU(I, H, seed=1, backend=backend)
    x = draw(T, B, I)
    expected, _ = layer(x)
    stream = fastrnn.Stream(layer, B)
    for t in range(T):
        if t == 3:
            stream.refresh()
        elif t == 6:
            stream = copy.deepcopy(stream)
        elif t == 9:  # not those that it was made with
            stream.input, stream.output = np.empty_like(x[0]), np.empty_like(expected[0])
        stream.input[...] = x[t]
        assert stream.step() is stream.output
        near(stream.output, expected[t])
    assert fastrnn.Stream(fastrnn.Sequential(fastrnn.Tanh(), layer), B).input is None
    indices = fastrnn.Stream(fastrnn.Sequential(fastrnn.Embedding(7, I), layer), B).input
    assert (indices.shape, indices.dtype) == ((B,), np.int64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_output_that_overlaps_the_input(backend: str) -> None:
    layer = fastrnn.RNN(H, H, seed=1, backend=backend)
    both = draw(B + 1, H)
    expected, _ = layer(both[None, :B].copy())
    stream = fastrnn.Stream(layer, B)
    stream.step(both[:B], both[1:])
    near(both[1:], expected[0])
    x = draw(6 * T, B, H)  # more steps than the kernels take products ahead for
    expected, _ = layer(x)
    stream.reset()
    stream.push(x[:-1], x[1:])
    near(x[1:], expected[:-1])


def test_its_own_buffers_are_checked_like_others() -> None:
    layer = fastrnn.GRU(I, H, seed=1)
    stream = fastrnn.Stream(layer, B)
    stream.step()
    before = stream.state
    stream.output.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out: expected a C-contiguous array that may be"):
        stream.step()
    stream.output.flags.writeable = True
    stream.input.resize((1, B, I), refcheck=False)
    with pytest.raises(ValueError, match=r"^x: expected shape \(B=3, I=2\), got \(1, 3, 2\)$"):
        stream.step()
    same(stream.state, before)


def test_a_step_of_the_c_kernels_allocates_nothing() -> None:
    pytest.importorskip("fastrnn._c")
    # In a process of its own, where nobody else allocates meanwhile.
    code = """
import tracemalloc
import numpy as np, fastrnn
model = fastrnn.Sequential(fastrnn.LSTM(2, 5, 2, backend="c"), fastrnn.Linear(5, 3))
stream = fastrnn.Stream(model, 3)
x, out = np.ones((3, 2), np.float32), np.zeros((3, 3), np.float32)
def steps():
    for _ in range(1000):
        stream.step(x, out)
        stream.step()
steps()
tracemalloc.start()
steps()
before, _ = tracemalloc.get_traced_memory()
tracemalloc.reset_peak()
steps()
after, peak = tracemalloc.get_traced_memory()
print(after - before, peak - before)
"""
    left, most = map(int, run_python(code).split())
    assert abs(left) < 300  # not a byte a step
    assert most < 1000  # numbers of Python's own: ids, tuples


def test_copies_and_pickles_go_on_from_the_same_state() -> None:
    stream = fastrnn.Stream(fastrnn.LSTM(I, H, seed=1), B, threads=2)
    x = draw(T, B, I)
    stream.push(x)
    others = copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))  # noqa: S301 - its own bytes
    expected = stream.push(x)
    for other in others:
        assert repr(other) == repr(stream)
        assert repr(other).endswith(f"batch={B}, threads=2)")
        same(other.push(x), expected)
