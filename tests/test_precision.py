"""Streams whose weights have fewer bits: what they store, compute with, and refuse."""

import copy
import math
import pickle
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import dispatch
from interpreter import run_python
from problems import BACKENDS, VARIANTS, Variant
from test_stream import B, H, I, T, draw, make, run, same

WEIGHT_DTYPES = ("float16", "int8")
VARIANT_IDS = pytest.mark.parametrize("variant", VARIANTS, ids=str)
NARROW = pytest.mark.parametrize("weight_dtype", WEIGHT_DTYPES)
WITH_C = pytest.mark.skipif("c" not in BACKENDS, reason="no C kernels")


if "c" in BACKENDS:
    from fastrnn import c_backend


@pytest.fixture(params=c_backend.isas() if "c" in BACKENDS else [])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """An instruction set that runs here."""
    before = c_backend.isa()
    c_backend.use_isa(request.param)
    yield request.param
    c_backend.use_isa(before)


def by_hand(weight: np.ndarray, weight_dtype: str) -> np.ndarray:
    """Round one number at a time, in exact arithmetic where it is not NumPy's own conversion.

    A row's scale has 16 bits, of the two next to its greatest magnitude / 127 those of the larger.
    """
    if weight_dtype == "float16":
        return weight.astype(np.float16).astype(np.float32)
    rounded = np.zeros_like(weight)
    for row, to in zip(weight, rounded, strict=True):
        part, exponent = math.frexp(np.float32(max(abs(row)) / np.float32(127)))
        scale = math.ceil(part * 2**16) * Fraction(2) ** (exponent - 16)
        for k, value in enumerate(row):
            to[k] = float(scale * round(Fraction(float(value)) / scale)) if scale else 0
    return rounded


def narrowed(model: Any, weight_dtype: str, dtype: str = "float32") -> Any:
    """A model whose matrices are rounded by hand; maybe in another dtype."""
    found = copy.deepcopy(model)
    for parameter in found.parameters.values():
        if parameter.ndim == 2:
            parameter[...] = by_hand(parameter, weight_dtype)
    if dtype == "float32":
        return found
    kind = type(model)
    wide = kind(I, H, 2, **{**model.options, "proj_size": model.proj_size}, dtype=dtype)
    wide.load_parameters({name: p.astype(dtype) for name, p in found.parameters.items()})
    return wide


@VARIANT_IDS
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 2, B, 70])
def test_halves_are_the_rounded_weights(variant: Variant, backend: str, batch: int) -> None:
    layer = make(variant, backend=backend)
    x = draw(T, batch, I)
    found = fastrnn.Stream(layer, batch, weight_dtype="float16")
    expected = fastrnn.Stream(narrowed(layer, "float16"), batch)
    same(found.push(x), expected.push(x))
    same(found.state, expected.state)
    given = fastrnn.Stream(layer, batch)
    assert not np.array_equal(given.push(x), found.push(x))


@VARIANT_IDS
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 2, B, 70])
def test_bytes_are_the_rounded_weights(variant: Variant, backend: str, batch: int) -> None:
    """Up to the rounding of float32: the reference computes them in float64."""
    layer = make(variant, backend=backend)
    x = draw(T, batch, I)
    expected, _ = narrowed(layer, "int8", "float64")(x.astype(np.float64))
    given, _ = layer(x)
    found = fastrnn.Stream(layer, batch, weight_dtype="int8").push(x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 if variant.hard else 1e-5)
    assert np.abs(found - given).max() > 1e-4


@WITH_C
@VARIANT_IDS
@NARROW
@pytest.mark.parametrize("size", [1, 5, 40])
def test_any_cut_batch_and_instructions_give_the_same(
    variant: Variant, weight_dtype: str, size: int, isa: str
) -> None:
    projection = {"proj_size": size // 2} if variant.projected and size > 1 else {}
    kind = getattr(fastrnn, variant.cell.upper())
    layer = kind(size, size, 2, seed=1, backend="c", **variant.options, **projection)
    out = projection.get("proj_size", size)
    model = fastrnn.Sequential(layer, fastrnn.Linear(out, 3, seed=2), fastrnn.Tanh())
    x = draw(T, 70, size)
    together = fastrnn.Stream(model, 70, weight_dtype=weight_dtype).push(x)
    for rows in (slice(0, 1), slice(3, 5), slice(0, 64)):
        for cuts in ([], [*range(1, T)], [1, 2, 9]):
            stream = fastrnn.Stream(model, rows.stop - rows.start, weight_dtype=weight_dtype)
            same(run(stream, np.ascontiguousarray(x[:, rows]), cuts), together[:, rows])
    plain, _ = narrowed(model, weight_dtype)(x)
    np.testing.assert_allclose(together, plain, rtol=0, atol=2e-5)


def stored(weight: np.ndarray, weight_dtype: str) -> np.ndarray:
    """What kernels multiply with: read off an RNN without biases whose inputs are unit vectors."""
    rows, columns = weight.shape
    signs = []
    for sign in (1, -1):
        layer = fastrnn.RNN(columns, rows, nonlinearity="relu", bias=False, backend="c")
        layer.parameters["weight_ih_l0"][...] = weight
        layer.parameters["weight_hh_l0"][...] = 0
        stream = fastrnn.Stream(layer, columns, weight_dtype=weight_dtype)
        signs.append(sign * stream.step(sign * np.eye(columns, dtype=np.float32)).T)
    return signs[0] + signs[1]


@WITH_C
def test_every_half_is_stored_as_it_is(isa: str) -> None:
    every = np.arange(0x10000, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = every[np.isfinite(every)].reshape(-1, 16)
    np.testing.assert_array_equal(stored(finite, "float16"), finite)


@WITH_C
@NARROW
def test_what_is_stored(isa: str, weight_dtype: str) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((37, 21)).astype(np.float32)
    weight *= 10.0 ** rng.integers(-9, 4, (37, 1))
    weight[5] = 0
    weight[6, 1:] = 0
    weight[7] = np.arange(21) - 10
    found = stored(weight, weight_dtype)
    greatest = np.abs(weight).max(axis=1, keepdims=True)
    if weight_dtype == "float16":
        np.testing.assert_array_equal(found, by_hand(weight, "float16"))
        allowed = np.maximum(np.abs(weight) * 2.0**-11, 2.0**-25)
    else:
        np.testing.assert_array_equal(found, by_hand(weight, "int8"))
        allowed = greatest * (1 / 254 + 2.0**-16)
    assert (np.abs(found - weight) <= allowed).all()
    np.testing.assert_array_equal(stored(found, weight_dtype), found)


@WITH_C
def test_ties_go_to_even() -> None:
    """And what lies just beside them does not."""
    halves = np.arange(0x7BFF, dtype=np.uint16).view(np.float16).astype(np.float32)
    after = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (halves + after) / 2
    for given in (middle, np.nextafter(middle, 0, dtype=np.float32), np.nextafter(middle, 1e9)):
        rows = given.astype(np.float32)[: 0x7BFF // 7 * 7].reshape(-1, 7)
        np.testing.assert_array_equal(stored(rows, "float16"), by_hand(rows, "float16"))


@WITH_C
def test_the_kernels_round_themselves() -> None:
    """For programs in C, whose weights nobody has rounded before."""
    from fastrnn.c_stream import Layer, Network
    from fastrnn.workspace import Weights

    rng = np.random.default_rng(1)
    weight = (rng.standard_normal((40, 8)) * 10.0 ** rng.integers(-8, 4, (40, 1))).astype("f4")
    weights = Weights(weight, np.zeros((40, 40), np.float32), None, None, None)
    layer = fastrnn.RNN(8, 40, nonlinearity="relu")
    for weight_dtype, limit in (("float16", 0), ("int8", 2e-7)):
        made = Layer((layer.cell.name, *layer.options.values()), weights)
        network = Network([made], None, None, 8, weight_dtype)
        found = network.run(np.eye(8, dtype=np.float32)[None])[0].T
        scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
        expected = np.rint(weight / scale) * scale
        if weight_dtype == "float16":
            expected = weight.astype(np.float16)
        np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=limit, atol=0)


@NARROW
@pytest.mark.parametrize("backend", BACKENDS)
def test_streams_are_shared_copied_and_refreshed(weight_dtype: str, backend: str) -> None:
    layer = fastrnn.GRU(I, H, seed=1, backend=backend)
    x = draw(T, B, I)
    stream = fastrnn.Stream(layer, B, weight_dtype=weight_dtype)
    assert repr(stream) == f"Stream({layer!r}, batch=3, weight_dtype={weight_dtype!r})"
    streams = [
        fastrnn.Stream(stream, B),
        fastrnn.Stream(stream, B, weight_dtype=weight_dtype),
        copy.deepcopy(stream),
        pickle.loads(pickle.dumps(stream)),  # noqa: S301 - of our own
    ]
    assert {other.weight_dtype for other in streams} == {weight_dtype}
    layer.parameters["weight_hh_l0"][...] *= 2
    assert "refresh() takes the new ones" in repr(stream)
    before = stream.push(x)
    for other in streams:
        same(other.push(x), before)
    state = stream.state
    stream.refresh()
    same(stream.state, state)
    assert repr(stream) == f"Stream({layer!r}, batch=3, weight_dtype={weight_dtype!r})"
    stream.reset()
    same(stream.push(x), fastrnn.Stream(layer, B, weight_dtype=weight_dtype).push(x))
    assert not np.array_equal(before, fastrnn.Stream(stream, B).push(x))


@NARROW
def test_what_cannot_be_stored_any_more_leaves_the_stream(weight_dtype: str) -> None:
    layer = fastrnn.GRU(I, H, seed=1)
    x = draw(T, B, I)
    stream = fastrnn.Stream(layer, B, weight_dtype=weight_dtype)
    expected = stream.push(x)
    stream.reset()
    layer.parameters["weight_ih_l0"][0, 0] = np.nan
    assert "refresh() takes the new ones" in repr(stream)
    with pytest.raises(ValueError, match="weight_ih_l0"):
        stream.refresh()
    same(stream.push(x), expected)


@NARROW
def test_all_matrices_of_a_model_are_rounded(weight_dtype: str) -> None:
    """Those of layers within layers, too, and no bias nor table."""
    head = fastrnn.Sequential(fastrnn.Linear(H, 4, seed=3), fastrnn.Tanh(), fastrnn.Linear(4, 2))
    model = fastrnn.Sequential(fastrnn.Embedding(7, I, seed=1), fastrnn.LSTM(I, H, seed=2), head)
    taken = fastrnn.Stream(model, weight_dtype=weight_dtype)._model.parameters
    for name, parameter in model.parameters.items():
        expected = parameter
        if parameter.ndim == 2 and not name.startswith("0."):
            expected = by_hand(parameter, weight_dtype)
            assert not np.array_equal(expected, parameter)
        same(taken[name], expected)


@WITH_C
@pytest.mark.skipif(dispatch.info()["backend"] != "c", reason="another backend was asked for")
def test_fewer_bits_are_less_memory() -> None:
    code = """
import fastrnn
from fastrnn.stream import _engine
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
layer = fastrnn.LSTM(512, 512, seed=1)
streams = [fastrnn.Stream(layer, weight_dtype=name) for name in (None, "float16", "int8")]
found, engines = [], []
for stream in streams:
    before = resident()
    engines.append(_engine(stream._model, 1, stream.weight_dtype, 1, None))
    found.append((resident() - before) / (4 * 512 * 1024))  # bytes a weight, and the state
print(*[round(a - b, 1) for a, b in zip(found, found[1:])])
"""
    assert run_python(code) == "2.0 1.0\n"
