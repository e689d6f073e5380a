"""Convolution and pooling: values and gradients, against scalar loops over every window."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import fastrnn
from compare import TOLERANCES, Solution, assert_close, assert_gradients_of_layer, assert_same_bits
from fastrnn import convolution, dispatch, products
from fastrnn.feedforward import ALONE

RNG = np.random.default_rng
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
KINDS = {
    "conv": (fastrnn.Conv1d, fastrnn.Conv2d),
    "max": (fastrnn.MaxPool1d, fastrnn.MaxPool2d),
    "mean": (fastrnn.AvgPool1d, fastrnn.AvgPool2d),
}

# -- the oracle: every window in scalar loops -----------------------------------------------------

Index = tuple[int, ...]


def windows(size: Index, layer: Any) -> Iterator[tuple[Index, list[tuple[Index, Index]]]]:
    """Each window, and what it has inside of x: places of the window, and of x."""
    counts = []
    for n, k, s, p in zip(size, layer.kernel_size, layer.stride, layer.padding, strict=True):
        counts.append(len([start for start in range(-p, n + p) if start + k <= n + p][::s]))
    for window in itertools.product(*map(range, counts)):
        inside = []
        for place in itertools.product(*map(range, layer.kernel_size)):
            at = tuple(
                w * s + k - p
                for w, s, k, p in zip(window, layer.stride, place, layer.padding, strict=True)
            )
            if all(0 <= a < n for a, n in zip(at, size, strict=True)):
                inside.append((place, at))
        yield window, inside


def expected(layer: Any, x: np.ndarray, d_y: np.ndarray) -> Solution:
    """Output and gradients of a layer, in Python's floats."""
    y, d_x = np.zeros(d_y.shape), np.zeros(x.shape)
    found = {"y": y, "d_x": d_x}
    parameters = layer.parameters
    for name, array in parameters.items():
        found[f"d_{name}"] = np.zeros(array.shape)
    every_window = list(windows(x.shape[2:], layer))
    assert len(every_window) == math.prod(y.shape[2:])
    for b, o, (window, inside) in itertools.product(range(len(x)), range(y.shape[1]), every_window):
        gradient = float(d_y[b, o][window])
        if parameters:
            total = float(parameters["bias"][o]) if "bias" in parameters else 0.0
            for c, (place, at) in itertools.product(range(x.shape[1]), inside):
                weight, value = float(parameters["weight"][o, c][place]), float(x[b, c][at])
                total += weight * value
                d_x[b, c][at] += weight * gradient
                found["d_weight"][o, c][place] += value * gradient
            if "bias" in parameters:
                found["d_bias"][o] += gradient
            y[b, o][window] = total
        elif "Max" in type(layer).__name__:
            best = inside[0][1]
            for _, at in inside:
                if not math.isnan(x[b, o][best]) and not x[b, o][at] <= x[b, o][best]:
                    best = at
            y[b, o][window] = x[b, o][best]
            d_x[b, o][best] += gradient
        else:
            size = math.prod(layer.kernel_size)
            y[b, o][window] = sum(float(x[b, o][at]) for _, at in inside) / size
            for _, at in inside:
                d_x[b, o][at] += gradient / size
    return found


def outcome(layer: Any, x: np.ndarray, d_y: np.ndarray) -> Solution:
    """The same, of the layer itself; a call and a recorded pass must agree."""
    tape = layer.record(x)
    np.testing.assert_array_equal(layer(x), tape.output, strict=True)
    gradients = tape.backward(d_y)
    assert gradients.input is not None
    found = {"y": tape.output, "d_x": gradients.input}
    found |= {f"d_{name}": gradient for name, gradient in gradients.parameters.items()}
    assert {array.dtype for array in found.values()} == {x.dtype}
    return found


def draw(layer: Any, shape: Index, dtype: str, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """An x, and a gradient of the output."""
    rng = RNG(seed)
    x = rng.standard_normal(shape).astype(dtype)
    return x, rng.standard_normal(layer(x).shape).astype(dtype)


# Batch and channels; then for each axis the size, the window, the step and the padding.
CASES: list[tuple[int, int, list[tuple[int, int, int, int]]]] = [
    (2, 3, [(7, 3, 1, 0)]),
    (3, 2, [(8, 3, 2, 1)]),
    (1, 1, [(1, 1, 1, 0)]),
    (2, 1, [(5, 5, 1, 2)]),
    (2, 2, [(9, 2, 3, 1)]),  # windows with gaps
    (2, 2, [(9, 4, 4, 2)]),
    (2, 3, [(5, 3, 1, 1), (4, 2, 1, 0)]),
    (1, 2, [(7, 3, 2, 1), (6, 4, 3, 2)]),
    (2, 1, [(1, 1, 1, 0), (6, 3, 2, 1)]),
    (3, 2, [(4, 2, 2, 0), (5, 2, 2, 0)]),  # the last column is in no window
    (1, 2, [(2, 6, 5, 3), (3, 2, 2, 1)]),  # a window larger than x
    (2, 17, [(3, 3, 1, 1), (3, 3, 1, 1)]),
]


def make(kind: str, case: tuple[int, int, list[Index]], **options: Any) -> tuple[Any, Index]:
    """A layer, and the shape of its x."""
    batch, channels, axes = case
    size, kernel, stride, padding = zip(*axes, strict=True)
    if kind == "conv":
        options = {"seed": 1, **options}
        layer = KINDS[kind][len(axes) - 1](
            channels, 3, kernel, stride=stride, padding=padding, **options
        )
    else:
        layer = KINDS[kind][len(axes) - 1](kernel, stride=stride, padding=padding)
    return layer, (batch, channels, *size)


@pytest.fixture(params=["ours", "ours, cut", "BLAS", "BLAS, cut"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products by the C kernels if they are there, and by BLAS; all at once, and cut: a row at a
    time, with products in small blocks."""
    if "BLAS" in request.param:
        monkeypatch.setattr(dispatch, "product", lambda: None)
    elif dispatch.product() is None:
        pytest.skip("c: not here")
    if "cut" in request.param:
        monkeypatch.setattr(convolution, "COLUMNS", 1)
        monkeypatch.setattr(products, "SIDE", 4)
        monkeypatch.setattr(products, "ALONE", 48)


@DTYPES
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.usefixtures("way")
def test_convolution_of_every_window(case: Any, bias: bool, dtype: str) -> None:
    layer, shape = make("conv", case, bias=bias, dtype=dtype)
    x, d_y = draw(layer, shape, dtype)
    assert_close(outcome(layer, x, d_y), expected(layer, x, d_y), TOLERANCES[dtype])


@DTYPES
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", ["max", "mean"])
def test_pooling_of_every_window(kind: str, case: Any, dtype: str) -> None:
    layer, shape = make(kind, case)
    x, d_y = draw(layer, shape, dtype)
    assert_close(outcome(layer, x, d_y), expected(layer, x, d_y), TOLERANCES[dtype])
    ties = RNG(3).integers(0, 3, shape).astype(dtype)
    assert_close(outcome(layer, ties, d_y), expected(layer, ties, d_y), TOLERANCES[dtype])


AXIS = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(0, 6)).filter(
    lambda axis: axis[0] + 2 * axis[3] >= axis[1]
)


@hypothesis.given(st.lists(AXIS, min_size=1, max_size=2), st.integers(1, 3), st.integers(0, 3))
def test_any_window(axes: list[Index], channels: int, batch: int) -> None:
    """More padding than the window is large, too: some windows then see nothing of x."""
    layer, shape = make("conv", (batch, channels, axes), dtype="float64")
    x, d_y = draw(layer, shape, "float64")
    assert_close(outcome(layer, x, d_y), expected(layer, x, d_y), TOLERANCES["float64"])
    for kind in ("max", "mean"):
        half = [(n, k, s, min(p, k // 2)) for n, k, s, p in axes]
        if all(n + 2 * p >= k for n, k, _, p in half):
            layer, shape = make(kind, (batch, channels, half))
            x, d_y = draw(layer, shape, "float64")
            assert_close(outcome(layer, x, d_y), expected(layer, x, d_y), TOLERANCES["float64"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [CASES[1], CASES[4], CASES[7], CASES[9]], ids=str)
@pytest.mark.usefixtures("way")
def test_gradients_equal_finite_differences(kind: str, case: Any) -> None:
    layer, shape = make(kind, case, **({"dtype": "float64"} if kind == "conv" else {}))
    # Values with gaps between them: which one is the greatest does not change.
    x = RNG(2).permutation(math.prod(shape)).reshape(shape) / 8 - 3
    assert_gradients_of_layer(layer, x)


@pytest.mark.parametrize("kind", ["conv", "mean"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("way")
def test_backward_is_the_adjoint(kind: str, case: Any) -> None:
    """<u, A v> = <Aᵀ u, v>: for x, and for the weights, in both of which it is linear."""
    layer, shape = make(
        kind, case, **({"bias": False, "dtype": "float64"} if kind == "conv" else {})
    )
    v, u = draw(layer, shape, "float64", seed=4)
    tape = layer.record(v)
    gradients = tape.backward(u)
    product = np.sum(u * tape.output)
    assert np.sum(gradients.input * v) == pytest.approx(product, rel=1e-12, abs=1e-12)
    for name, gradient in gradients.parameters.items():
        found = np.sum(gradient * layer.parameters[name])
        assert found == pytest.approx(product, rel=1e-12, abs=1e-12)


# -- batches, layouts, special values -------------------------------------------------------------

SOME = pytest.mark.parametrize("case", [CASES[1], CASES[7]], ids=str)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@EVERY_KIND
@SOME
@DTYPES
def test_empty_batch(kind: str, case: Any, dtype: str) -> None:
    layer, shape = make(kind, case, **({"dtype": dtype} if kind == "conv" else {}))
    full = layer(np.zeros(shape, dtype))
    x = np.zeros((0, *shape[1:]), dtype)
    tape = layer.record(x)
    assert tape.output.shape == (0, *full.shape[1:])
    gradients = tape.backward(tape.output)
    assert gradients.input.shape == x.shape
    for name, gradient in gradients.parameters.items():
        np.testing.assert_array_equal(gradient, np.zeros_like(layer.parameters[name]), strict=True)


@EVERY_KIND
@SOME
def test_any_layout_equals_a_copy(kind: str, case: Any) -> None:
    layer, shape = make(kind, case, **({"dtype": "float64"} if kind == "conv" else {}))
    x, d_y = draw(layer, shape, "float64")
    right = outcome(layer, x, d_y)
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(shape)
    unaligned[...] = x
    layouts = (
        np.asfortranarray,
        lambda a: a.copy()[..., ::-1][..., ::-1],
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: a[..., ::-1].copy()[..., ::-1],
        lambda a: np.moveaxis(np.moveaxis(a, 1, -1).copy(), -1, 1),
        lambda a: a.astype(">f8"),
    )
    for other in layouts:
        assert_same_bits(outcome(layer, other(x).astype("=f8", copy=False), other(d_y)), right)
        np.testing.assert_array_equal(layer(other(x)), right["y"])
    np.testing.assert_array_equal(layer(unaligned), right["y"])
    same = np.broadcast_to(x[:1, :1, ..., :1], shape)  # strides of zero, read-only
    assert_same_bits(outcome(layer, same, d_y), outcome(layer, same.copy(), d_y))


@EVERY_KIND
@SOME
@DTYPES
def test_nan_stays_in_its_row(kind: str, case: Any, dtype: str) -> None:
    """And raises nothing: neither a warning nor what the caller's errstate asks for."""
    layer, shape = make(kind, case, **({"dtype": dtype} if kind == "conv" else {}))
    x, d_y = draw(layer, (3, *shape[1:]), dtype)
    right = outcome(layer, x, d_y)
    x[1], d_y[2] = np.nan, np.nan
    with np.errstate(all="raise"):
        tape = layer.record(x)
        d_x = tape.backward(d_y).input
    assert np.isnan(tape.output[1]).all()
    np.testing.assert_array_equal(tape.output[[0, 2]], right["y"][[0, 2]])
    assert np.isnan(d_x[2]).any()
    np.testing.assert_array_equal(d_x[0], right["d_x"][0])
    if kind != "max":  # where the greatest values stand depends on x
        np.testing.assert_array_equal(d_x[1], right["d_x"][1])


@EVERY_KIND
@SOME
def test_layers_give_results_of_their_own(kind: str, case: Any) -> None:
    layer, shape = make(kind, case, **({"dtype": "float64"} if kind == "conv" else {}))
    x, d_y = draw(layer, shape, "float64")
    arrays = [x, d_y, *layer.parameters.values()]
    before = [array.tobytes() for array in arrays]
    tape = layer.record(x)
    with pytest.raises(ValueError, match="read-only"):
        tape.output[:1] = 1
    first = tape.backward(d_y, retain=True)
    layer.record(x + 1).backward(d_y)  # another pass does not disturb this one
    again = tape.backward(d_y)
    np.testing.assert_array_equal(first.input, again.input)
    for y in (layer(x), first.input, *first.parameters.values()):
        assert y.flags.writeable
        assert not any(np.shares_memory(y, array) for array in arrays)
    assert [array.tobytes() for array in arrays] == before
    assert all(array.flags.writeable for array in arrays)


def test_greatest_of_equals_is_the_first_row_by_row() -> None:
    layer = fastrnn.MaxPool2d(2)
    tape = layer.record(np.array([[[[1.0, 2.0, 5.0, 5.0], [2.0, 1.0, 5.0, 5.0]]]]))
    d_x = tape.backward(np.array([[[[3.0, 4.0]]]])).input
    np.testing.assert_array_equal(d_x, [[[[0, 3, 4, 0], [0, 0, 0, 0]]]])


def test_greatest_of_nan_and_inf() -> None:
    inf, nan = np.inf, np.nan
    layer = fastrnn.MaxPool1d(3, stride=3, padding=1)
    x = np.array([[[-inf, -inf, -inf, -inf, -inf, 1, nan, inf, inf, 2, 5, nan]]])
    tape = layer.record(x)
    # [pad, -inf, -inf], [-inf, -inf, -inf], [1, nan, inf], [inf, 2, 5], and no window is left
    np.testing.assert_array_equal(tape.output, [[[-inf, -inf, nan, inf]]])
    d_x = tape.backward(np.array([[[1.0, 2.0, 3.0, nan]]])).input
    np.testing.assert_array_equal(d_x, [[[1, 0, 2, 0, 0, 0, 3, 0, nan, 0, 0, 0]]])


@pytest.mark.parametrize("size", [255, 256, 257, 300])
def test_windows_of_more_places_than_a_byte_counts(size: int) -> None:
    x = np.zeros((1, 1, size))
    x[0, 0, -1] = 1
    d_x = fastrnn.MaxPool1d(size).record(x).backward(np.ones((1, 1, 1))).input
    np.testing.assert_array_equal(d_x, x)


def test_padding_counts_in_a_mean() -> None:
    found = fastrnn.AvgPool1d(2, padding=1)(np.array([[[2.0, 4.0, 6.0, 8.0]]]))
    np.testing.assert_array_equal(found, [[[1, 5, 4]]])


# -- products -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("M", [1, 63, 64, 65, 130])
@pytest.mark.parametrize("K", [1, 64, 150])
@pytest.mark.parametrize("N", [1, 63, 64, 1000])
def test_products(M: int, K: int, N: int) -> None:
    rng = RNG(1)
    a, b, c = (rng.standard_normal(shape) for shape in ((M, K), (K, N), (M, N)))
    expected = np.einsum("mk,kn->mn", a, b)
    np.testing.assert_allclose(products.product(a, b), expected, atol=1e-12)
    turned = products.product(np.ascontiguousarray(a.T), b, turn_a=True)
    np.testing.assert_allclose(turned, expected, atol=1e-12)
    found = products.product(c, b, turn_b=True)
    np.testing.assert_allclose(found, np.einsum("mn,kn->mk", c, b), atol=1e-11)


def test_no_product_is_larger_than_blas_computes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiplications of every product of a pass whose products are 500 times as large."""
    seen = []

    def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        seen.append(math.prod(a.shape[-2:]) * b.shape[-1])
        return plain(a, b) if out is None else plain(a, b, out=out)

    plain = np.matmul
    monkeypatch.setattr(dispatch, "product", lambda: None)
    layer = fastrnn.Conv2d(100, 90, 3, padding=1, seed=1)
    x, d_y = draw(layer, (2, 100, 30, 30), "float32")
    monkeypatch.setattr(np, "matmul", matmul)
    layer.record(x).backward(d_y)
    assert ALONE / 2 < max(seen) <= ALONE
    assert 500 * ALONE < 90 * 900 * 1800


def test_more_rows_than_fit_the_columns() -> None:
    """Rows one by one, or many at a time: the same within rounding."""
    layer = fastrnn.Conv2d(3, 8, 5, padding=2, dtype="float64", seed=1)
    x, d_y = draw(layer, (50, 3, 20, 20), "float64")
    rows = 400 * 3 * 25 * 8
    assert 1 < convolution.COLUMNS // rows < 50
    found = outcome(layer, x, d_y)
    parts = [outcome(layer, x[b : b + 1], d_y[b : b + 1]) for b in range(50)]
    for name, array in found.items():
        pieces = [part[name] for part in parts]
        joined = np.concatenate(pieces) if name in ("y", "d_x") else np.sum(pieces, axis=0)
        np.testing.assert_allclose(array, joined, rtol=1e-10, atol=1e-10)


def test_weights_that_were_replaced_are_looked_at() -> None:
    """By ones that do not fit: an error in place of a read beyond their end."""
    layer = fastrnn.Conv1d(2, 4, 3)
    x = np.zeros((1, 2, 9), np.float32)
    tape = layer.record(x)
    for other, error, words in (
        (np.zeros((4, 2, 2), np.float32), ValueError, r"^weight: expected shape \(4, 2, 3\)"),
        (np.zeros((4, 2, 3)), TypeError, r"^weight: expected float32"),
    ):
        layer.parameters["weight"] = other
        with pytest.raises(error, match=words):
            layer(x)
        with pytest.raises(error, match=words):
            tape.backward(tape.output, retain=True)


# -- parameters -----------------------------------------------------------------------------------


def test_initial_values() -> None:
    layer = fastrnn.Conv2d(4, 50, (4, 4), seed=1)
    assert layer.parameters["weight"].shape == (50, 4, 4, 4)
    assert layer.parameters["bias"].shape == (50,)
    for array in layer.parameters.values():
        assert array.dtype == "float32"
        assert 0.9 / 8 < np.abs(array).max() <= 1 / 8
    same, other = (fastrnn.Conv2d(4, 50, 4, seed=s).parameters["weight"] for s in (1, 2))
    assert (same == layer.parameters["weight"]).all()
    assert (other != same).any()
    assert fastrnn.Conv1d(2, 3, 5).parameters["weight"].shape == (3, 2, 5)


def test_numbers_become_tuples() -> None:
    layer = fastrnn.Conv2d(1, 1, [3, 5], stride=2, padding=(1, 0))
    assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 5), (2, 2), (1, 0))
    pool = fastrnn.MaxPool2d((2, 3))
    assert (pool.kernel_size, pool.stride, pool.padding) == ((2, 3), (2, 3), (0, 0))


def test_one_axis_is_two_of_which_one_has_a_single_value() -> None:
    one = fastrnn.Conv1d(3, 4, 5, stride=2, padding=1, seed=1)
    two = fastrnn.Conv2d(3, 4, (1, 5), stride=(1, 2), padding=(0, 1), seed=1)
    x, d_y = draw(one, (2, 3, 11), "float32")
    found = outcome(two, x[:, :, None], d_y[:, :, None])
    for name, array in outcome(one, x, d_y).items():
        np.testing.assert_array_equal(array, found[name].reshape(array.shape), err_msg=name)


def test_a_network_learns_which_way_a_stripe_runs() -> None:
    """Stripes at any place, in noise: a job for two convolutions, pooling and a dense layer."""
    rng = RNG(1)
    x = rng.standard_normal((256, 1, 12, 12)).astype(np.float32)
    labels = rng.integers(0, 2, 256)
    for row, (label, place) in enumerate(zip(labels, rng.integers(2, 10, 256), strict=True)):
        x[row, 0][(place,) if label else (slice(None), place)] += 2.0
    model = fastrnn.Sequential(
        fastrnn.Conv2d(1, 6, 3, padding=1, seed=1),
        fastrnn.ReLU(),
        fastrnn.MaxPool2d(2),
        fastrnn.Conv2d(6, 8, 3, seed=2),
        fastrnn.ReLU(),
        fastrnn.AvgPool2d(4),
        fastrnn.Flatten(),
        fastrnn.Linear(8, 2, seed=3),
    )
    optimizer = fastrnn.Adam(model.parameters, 0.01)
    for _ in range(40):
        for start in range(0, 192, 32):
            rows = slice(start, start + 32)
            tape = model.record(x[rows])
            _, d_y = fastrnn.softmax_cross_entropy(tape.output, labels[rows])
            optimizer.step(tape.backward(d_y).parameters)
    assert (model(x[192:]).argmax(axis=1) == labels[192:]).mean() > 0.9
