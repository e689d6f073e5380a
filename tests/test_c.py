"""What the C backend promises beyond parity: bits, accuracy, the short way in, interruption."""

import itertools
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from compare import assert_same_bits, assert_windows_are_the_whole, exact, ulps
from fastrnn import dispatch
from problems import EVERYTHING, VARIANTS, Features, Sizes, Variant, make_problem

if (why := dispatch.BACKENDS["c"].missing()) is not None:
    pytest.skip(f"c: {why}", allow_module_level=True)

from fastrnn._c import ffi, lib

from fastrnn import c_backend

FUSED = [name for name in c_backend.isas() if name != "baseline"]  # with fused multiply-adds

variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture(autouse=True)
def _best_isa() -> Iterator[None]:
    c_backend.use_isa(c_backend.isas()[-1])
    yield
    c_backend.use_isa(c_backend.isas()[-1])


# -- bits -----------------------------------------------------------------------------------------

# With few rows units are shared out, with many and small weights rows; the last has several blocks
# of a gradient's chains, a ragged end, and windows of the input's product.
SHAPES = [
    Sizes(5, 1, 40, 300), Sizes(6, 40, 9, 70), Sizes(4, 3, 65, 200), Sizes(70, 9, 5, 33),
    Sizes(1, 5, 301, 290),
]  # fmt: skip


def solve(variant: Variant, sizes: Sizes, dtype: str, threads: int) -> dict[str, np.ndarray]:
    fastrnn.set_num_threads(threads)
    problem = make_problem(variant, sizes, EVERYTHING, dtype)
    return problem.solve("c") | {f"infer {k}": v for k, v in problem.infer("c").items()}


@variants
@dtypes
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_bits_do_not_depend_on_threads(variant: Variant, sizes: Sizes, dtype: str) -> None:
    alone = solve(variant, sizes, dtype, 1)
    for threads in (2, 3, 5):
        for _ in range(3):  # not always does every worker come in time
            assert_same_bits(solve(variant, sizes, dtype, threads), alone)


@variants
@dtypes
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_bits_do_not_depend_on_the_vectors(variant: Variant, sizes: Sizes, dtype: str) -> None:
    """All instruction sets with fused multiply-adds, whatever the width of their vectors."""
    results = []
    for name in FUSED:
        c_backend.use_isa(name)
        results.append(solve(variant, sizes, dtype, 2))
    for other in results[1:]:
        assert_same_bits(other, results[0])


@variants
@dtypes
def test_bits_do_not_depend_on_the_batch(variant: Variant, dtype: str) -> None:
    """Neither its size nor a row's place; outputs, states and their gradients."""
    problem = make_problem(variant, Sizes(7, 21, 19, 37), EVERYTHING, dtype)
    whole = problem.solve("c")
    whole |= {f"infer {k}": v for k, v in problem.infer("c").items()}
    for rows in (slice(0, 1), slice(20, 21), slice(3, 5), slice(4, 7), slice(2, 20)):
        some = problem.rows(rows)
        found = some.solve("c") | {f"infer {k}": v for k, v in some.infer("c").items()}
        for name, value in found.items():
            if "weight" in name or "bias" in name:
                continue  # a sum over rows
            axis = whole[name].ndim - 2
            part = np.take(whole[name], range(*rows.indices(21)), axis=axis)
            np.testing.assert_array_equal(value, part, err_msg=name)


@variants
@dtypes
@pytest.mark.parametrize("isa", c_backend.isas())
def test_a_step_of_few_rows_has_the_bits_of_many(isa: str, variant: Variant, dtype: str) -> None:
    """It reads the weights as they are given, those of many packs them first."""
    c_backend.use_isa(isa)
    for I, H in ((4, 5), (16, 32), (37, 19), (3, 65)):
        problem = make_problem(variant, Sizes(1, 40, I, H), EVERYTHING, dtype)
        whole = problem.solve("c") | {f"infer {k}": v for k, v in problem.infer("c").items()}
        for B in (*range(1, 11), 12, 16, 17):
            some = problem.rows(slice(7, 7 + B))
            found = some.solve("c") | {f"infer {k}": v for k, v in some.infer("c").items()}
            for name, value in found.items():
                if "weight" not in name and "bias" not in name:
                    part = np.take(whole[name], range(7, 7 + B), axis=whole[name].ndim - 2)
                    np.testing.assert_array_equal(value, part, err_msg=f"{name} {I} {H} {B}")


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.plain], ids=str)
@dtypes
@pytest.mark.parametrize("isa", c_backend.isas())
def test_shorter_ways_have_the_bits_of_the_long_one(isa: str, variant: Variant, dtype: str) -> None:
    """Where nothing is recorded, full tiles are code of their own, and so is a row alone."""
    c_backend.use_isa(isa)
    for H in (1, 3, 8, 17, 31, 33, 64, 65, 128):
        for T, I, reverse in ((5, 1, False), (67, 8, True), (130, 9, False), (65, 9, True)):
            problem = make_problem(variant, Sizes(T, 11, I, H), Features(reverse=reverse), dtype)
            inferred, recorded = problem.infer("c"), problem.solve("c")
            alone = problem.rows(slice(1, 2)).infer("c")
            for name, value in inferred.items():
                case = f"{name} {T} {I} {H}"
                np.testing.assert_array_equal(value, recorded[name], err_msg=case)
                row = np.take(value, [1], axis=value.ndim - 2)
                np.testing.assert_array_equal(alone[name], row, err_msg=case)


@pytest.mark.parametrize("isa", c_backend.isas())
@dtypes
def test_streams_have_the_bits_of_the_whole(isa: str, dtype: str) -> None:
    """However they are cut; of a head with one output, whose lanes are rows, and with several."""
    c_backend.use_isa(isa)
    for kind, H in itertools.product((fastrnn.RNN, fastrnn.GRU, fastrnn.LSTM), (3, 33, 64)):
        layer = kind(2, H, dtype=dtype, seed=1)
        x = np.random.default_rng(4).normal(size=(67, 5, 2)).astype(dtype)
        expected, _ = layer(x)
        several, one = (fastrnn.Linear(H, outputs, dtype=dtype, seed=2) for outputs in (3, 1))
        for name, parameter in one.parameters.items():
            parameter[...] = several.parameters[name][:1]
        columns = fastrnn.Stream(fastrnn.Sequential(layer, several), 5).push(x)[..., :1]
        for model, whole in ((layer, expected), (fastrnn.Sequential(layer, one), columns)):
            for B in (1, 5):
                stream, some = fastrnn.Stream(model, B), x[:, :B]
                parts = [stream.step(some[t])[None] for t in range(5)]
                parts += [stream.push(part) for part in np.split(some[5:], [3, 36])]
                np.testing.assert_array_equal(np.concatenate(parts), whole[:, :B])


@variants
@pytest.mark.parametrize("isa", c_backend.isas())
@pytest.mark.parametrize("batch", [1, 33])
def test_threads_that_share_a_step_change_no_bit(isa: str, variant: Variant, batch: int) -> None:
    """Of one row they take units, of some rows; the second layer is too small to be shared."""
    c_backend.use_isa(isa)
    sizes = {"proj_size": 11} if variant.projected else {}
    kind = getattr(fastrnn, variant.cell.upper())
    first = kind(40, 270, seed=1, **sizes, **variant.options)
    second = kind(sizes.get("proj_size", 270), 5, seed=2, **variant.options)
    model = fastrnn.Sequential(first, second)
    T = 81 if batch == 1 else 21  # more steps than go from layer to layer at once
    x = np.random.default_rng(3).normal(size=(T, batch, 40)).astype(np.float32)
    fastrnn.set_num_threads(1)
    expected, _ = model(x)
    for threads in (2, 3, 300):
        fastrnn.set_num_threads(threads)
        stream = fastrnn.Stream(model, batch, threads=threads)
        parts = [stream.step(x[t])[None] for t in range(9)]
        parts += [stream.push(part) for part in np.split(x[9:], [1, 4])]
        np.testing.assert_array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize("weight_dtype", [None, "float16", "int8"])
@pytest.mark.parametrize("batch", [1, 33])
@pytest.mark.parametrize("end", [fastrnn.Tanh, fastrnn.Softmax])
def test_threads_that_share_a_head_change_no_bit(
    weight_dtype: str | None, batch: int, end: type[fastrnn.Tanh | fastrnn.Softmax]
) -> None:
    model = fastrnn.Sequential(
        fastrnn.LSTM(9, 100, 2, seed=1), fastrnn.Linear(100, 1003, seed=2), end()
    )
    x = np.random.default_rng(3).normal(size=(30, batch, 9)).astype(np.float32)
    found = []
    for threads in (1, 2, 3):
        fastrnn.set_num_threads(threads)
        stream = fastrnn.Stream(model, batch, weight_dtype=weight_dtype, threads=threads)
        found.append(np.concatenate([stream.step(x[0])[None], stream.push(x[1:])]))
    for outputs in found[1:]:
        np.testing.assert_array_equal(outputs, found[0])


@variants
def test_windows_are_the_whole(variant: Variant) -> None:
    """Any cut of the time axis gives the bits of the whole."""
    sizes = {"proj_size": 11} if variant.projected else {}
    layer = getattr(fastrnn, variant.cell.upper())(
        5, 40, backend="c", seed=1, **sizes, **variant.options
    )
    x = np.random.default_rng(2).normal(size=(301, 3, 5)).astype(np.float32)
    assert_windows_are_the_whole(layer, x, [1, 7, 150])
    np.testing.assert_array_equal(layer.record(x).output, layer(x)[0])


@variants
def test_other_pythons_give_addresses(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where C cannot read arrays by their ids, the results are the same."""
    known = solve(variant, Sizes(5, 3, 4, 6), "float32", 1)
    monkeypatch.setattr(c_backend, "_number", c_backend._address)
    assert_same_bits(solve(variant, Sizes(5, 3, 4, 6), "float32", 1), known)


# -- products -------------------------------------------------------------------------------------


def multiply(M: int, N: int, K: int, dtype: str) -> dict[str, np.ndarray]:
    """A product, each factor as it is and transposed."""
    rng = np.random.default_rng([M, N, K])
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((M, K), (K, N)))
    across, down = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    return {
        "a b": c_backend.product(a, b),
        "aT b": c_backend.product(across, b, turn_a=True),
        "a bT": c_backend.product(a, down, turn_b=True),
        "aT bT": c_backend.product(across, down, turn_a=True, turn_b=True),
    }


MATRICES = [(1, 1, 1), (7, 33, 2), (17, 64, 300), (33, 7, 256), (2, 200, 513), (65, 129, 64)]


@dtypes
@pytest.mark.parametrize("sizes", MATRICES, ids=str)
@pytest.mark.parametrize("isa", c_backend.isas())
def test_products(isa: str, sizes: tuple[int, int, int], dtype: str) -> None:
    c_backend.use_isa(isa)
    M, N, K = sizes
    rng = np.random.default_rng([M, N, K])
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((M, K), (K, N)))
    right = np.einsum("mk,kn->mn", a.astype(np.longdouble), b.astype(np.longdouble))
    allowed = 4 * np.finfo(dtype).eps * (np.abs(a) @ np.abs(b)).max()
    for found in multiply(M, N, K, dtype).values():
        assert (found.shape, found.dtype) == ((M, N), dtype)
        np.testing.assert_allclose(found, right, rtol=0, atol=allowed)


@dtypes
@pytest.mark.parametrize("sizes", [*MATRICES, (64, 1000, 300)], ids=str)
def test_bits_of_products(
    sizes: tuple[int, int, int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One result: however factors lie, for any threads and vectors, cut for Ctrl-C or not."""
    results = [multiply(*sizes, dtype)]
    monkeypatch.setattr(c_backend, "WORTH_THREADS", 0)
    for threads in (2, 3, 5):
        fastrnn.set_num_threads(threads)
        results += [multiply(*sizes, dtype) for _ in range(3)]
    for name in FUSED:
        c_backend.use_isa(name)
        results.append(multiply(*sizes, dtype))
    monkeypatch.setattr(c_backend, "MOST_AT_ONCE", 1)
    results.append(multiply(*sizes, dtype))
    for result in results:
        for found in result.values():
            assert found.tobytes() == results[0]["a b"].tobytes()


def test_products_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^b: expected 3 terms, got 2$"):
        c_backend.product(np.zeros((2, 3)), np.zeros((2, 3)))


def test_convolutions_do_not_depend_on_the_batch() -> None:
    """Outputs and gradients of the input have the bits of a row alone."""
    layer = fastrnn.Conv2d(3, 20, 5, padding=2, stride=(1, 2), seed=1)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((40, 3, 24, 25)).astype(np.float32)
    tape = layer.record(x)
    d_y = rng.standard_normal(tape.output.shape).astype(np.float32)
    d_x = tape.backward(d_y).input
    for rows in (slice(0, 1), slice(39, 40), slice(3, 20)):
        some = layer.record(x[rows])
        np.testing.assert_array_equal(some.output, tape.output[rows])
        np.testing.assert_array_equal(some.backward(d_y[rows]).input, d_x[rows])


# -- instruction sets -----------------------------------------------------------------------------

x86 = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"}, reason="features and instructions of x86"
)
AVX2 = lib.FASTRNN_AVX2 | lib.FASTRNN_FMA | lib.FASTRNN_F16C
AVX512 = AVX2 | (
    lib.FASTRNN_AVX512F | lib.FASTRNN_AVX512VL | lib.FASTRNN_AVX512DQ | lib.FASTRNN_AVX512BW
)


@x86
def test_best_instruction_set() -> None:
    """Of every combination of features only a complete one will do."""
    for features in range(2 * lib.FASTRNN_F16C):
        best = ffi.string(lib.fastrnn_isa_name(lib.fastrnn_best_isa(features))).decode()
        needed = [
            name for name, bits in (("avx512", AVX512), ("avx2", AVX2)) if not bits & ~features
        ]
        assert best == (needed or ["baseline"])[0]


def disassemble() -> dict[str, str]:
    """Return the instructions of the extension by source file."""
    path = sys.modules["fastrnn._c"].__file__
    if not (objdump := shutil.which("objdump")):
        pytest.skip("no objdump here")
    run = partial(subprocess.run, capture_output=True, text=True, check=True)
    files, file = {}, ""
    for line in run([objdump, "-t", path]).stdout.splitlines():
        if " df " in line:
            file = line.split()[-1]
        elif " l     F " in line:
            files[line.split()[0]] = file
    code: dict[str, list[str]] = {}
    for function in run([objdump, "-d", "--no-show-raw-insn", path]).stdout.split("\n\n"):
        code.setdefault(files.get(function.split(maxsplit=1)[0], ""), []).append(function)
    return {file: "\n".join(functions) for file, functions in code.items()}


@x86
def test_instructions_stay_in_their_files() -> None:
    """A set's instructions are in its object alone, and its vectors are as wide as they can be."""
    code = disassemble()
    if "avx512.c" not in code:
        pytest.skip("no symbols: stripped")
    for file, text in code.items():
        isa = file.removesuffix(".c").removesuffix("_f64")
        fused = set(re.findall(r"vfn?m(?:add|sub)\d+p[sd] .*%([xyz])mm", text))
        assert fused == {"avx512": {"z"}, "avx2": {"y"}}.get(isa, set()), file
        assert ("%zmm" in text) == (isa == "avx512"), file
        assert ("%ymm" in text) <= (isa in {"avx2", "avx512"}), file


# -- accuracy -------------------------------------------------------------------------------------


def evaluate(curve: str, x: np.ndarray) -> np.ndarray:
    y = np.full_like(x, np.nan)
    which = getattr(lib, f"FASTRNN_{curve.upper()}")
    buffers = ffi.from_buffer(x), ffi.from_buffer(y)
    lib.fastrnn_activation(which, x.itemsize, *buffers, x.size)
    return y


def worst_ulps(curve: str, x: np.ndarray) -> float:
    """The largest error over x, of all instruction sets."""
    right = exact(curve, x)
    worst = 0.0
    for isa in c_backend.isas():
        c_backend.use_isa(isa)
        worst = max(worst, ulps(evaluate(curve, x), right).max())
    return worst


# `make test-ulp` sets it to 1: every float32, and 10 million float64
ULP_STRIDE = int(os.environ.get("ULP_STRIDE", "997"))


@pytest.mark.parametrize("curve", ["exp", "sigmoid", "tanh"])
def test_activations_float32(curve: str) -> None:
    """Every so many of all bit patterns."""
    size = 2**20
    worst = 0.0
    for first in range(0, 2**32, size * ULP_STRIDE):
        last = min(first + size * ULP_STRIDE, 2**32)
        x = np.arange(first, last, ULP_STRIDE, np.int64).astype(np.uint32).view(np.float32)
        worst = max(worst, worst_ulps(curve, x))
    print(f" {curve}, float32: {worst:.2f} ULP")  # `make test-ulp` shows it
    assert worst <= 2


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="longdouble is float64 here")
@pytest.mark.parametrize("curve", ["exp", "sigmoid", "tanh"])
def test_activations_float64(curve: str) -> None:
    rng = np.random.default_rng(0)
    size = 1_250_000 if ULP_STRIDE == 1 else 100_000
    scales = (1e-300, 1e-12, 1e-3, 0.3, 3.0, 30.0, 700.0)
    random = (rng.normal(scale=scale, size=size) for scale in scales)
    grids = (np.linspace(*ends, size // 2) for ends in ((-746, -700), (0.5, 0.7)))
    worst = max(worst_ulps(curve, x) for x in (*random, *grids))
    print(f" {curve}, float64: {worst:.2f} ULP")
    assert worst <= 2


@pytest.mark.parametrize("isa", c_backend.isas())
def test_hard_sigmoid_has_the_bits_of_one_rounding(isa: str) -> None:
    """Where there are fused multiply-adds; also where hardly more than 0 is left."""
    c_backend.use_isa(isa)
    patterns = np.arange(0, 2**32, 9973, np.int64).astype(np.uint32).view(np.float32)
    kink = np.float32(2.5).view(np.uint32) + np.arange(-99, 100)
    near = kink.astype(np.uint32).view(np.float32)
    x = np.concatenate((patterns, near, -near))
    found, right = evaluate("hard_sigmoid", x), exact("hard_sigmoid", x)
    np.testing.assert_allclose(found, right, rtol=0, atol=2**-24)
    if isa in FUSED:
        assert ulps(found, right).max() <= 0.500001


@dtypes
@pytest.mark.parametrize("isa", c_backend.isas())
def test_activations_at_the_edges(isa: str, dtype: str) -> None:
    c_backend.use_isa(isa)
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e4, -1e4, tiny, -tiny], dtype)
    t, s, e, k = (evaluate(curve, x) for curve in ("tanh", "sigmoid", "exp", "hard_sigmoid"))
    np.testing.assert_array_equal(t, np.array([0, -0.0, 1, -1, np.nan, 1, -1, tiny, -tiny], dtype))
    assert np.signbit(t[1])
    assert not np.signbit(t[0])
    np.testing.assert_array_equal(s, np.array([0.5, 0.5, 1, 0, np.nan, 1, 0, 0.5, 0.5], dtype))
    inf = np.inf
    np.testing.assert_array_equal(e, np.array([1, 1, inf, 0, np.nan, inf, 0, 1, 1], dtype))
    np.testing.assert_array_equal(k, s)


# -- the short way in -----------------------------------------------------------------------------


def short_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what the short way answers: 1 for done, 0 for not the plain case."""
    answers: list[int] = []

    class Spy:
        def __getattr__(self, name: str) -> Any:
            return getattr(lib, name)

        def fastrnn_infer(self, *arguments: int) -> int:
            answers.append(lib.fastrnn_infer(*arguments))
            return answers[-1]

    monkeypatch.setattr(c_backend, "lib", Spy())
    return answers


@dtypes
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.projected], ids=str)
def test_short_way_is_the_long_one(
    variant: Variant, state: bool, bias: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = short_calls(monkeypatch)
    rng = np.random.default_rng(0)
    kind = variant.cell.upper()
    layer = getattr(fastrnn, kind)(3, 5, bias=bias, dtype=dtype, backend="c", **variant.options)
    cell = getattr(fastrnn, kind + "Cell")(
        3, 5, bias=bias, dtype=dtype, backend="c", **variant.options
    )
    x = rng.normal(size=(4, 2, 3)).astype(dtype)
    states = tuple(rng.normal(size=(1, 2, 5)).astype(dtype) for _ in layer.cell.states)

    def given(states: tuple[np.ndarray, ...]) -> Any:
        return None if not state else states if len(states) > 1 else states[0]

    y, final = layer(x, given(states))
    new = cell(x[0], given(tuple(s[0] for s in states)))
    w = [layer.parameters.get(f"{k}_l0") for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    function = getattr(fastrnn.functional, variant.cell)
    initial = [s[0] if state else None for s in states]
    z, last = function(x, *initial, *w, backend="c", **variant.options)
    assert answers == [1, 1, 1]

    tape = layer.record(x, given(states))
    one = cell.record(x[0], given(tuple(s[0] for s in states)))
    for found, expected in ((y, tape.output), (z, tape.output)):
        np.testing.assert_array_equal(found, expected, strict=True)
    for found, expected in ((final, tape.state), (new, one.state)):
        np.testing.assert_array_equal(np.stack(found), np.stack(expected), strict=True)
    np.testing.assert_array_equal(np.stack(last), np.stack(tape.state).squeeze(-3), strict=True)


def test_short_way_refuses_what_is_not_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the long way takes it, or says what is wrong."""
    answers = short_calls(monkeypatch)
    rng = np.random.default_rng(0)
    x, h, c = (rng.normal(size=s) for s in ((3, 2, 4), (2, 5), (2, 5)))
    w = [rng.normal(size=s) for s in ((20, 4), (20, 5), (20,), (20,))]
    lstm = fastrnn.functional.lstm
    expected = lstm(x, h, c, *w, backend="numpy")[0]
    del answers[:]

    def strided(a: np.ndarray) -> np.ndarray:
        return np.repeat(a, 2, axis=-1)[..., ::2]

    def unaligned(a: np.ndarray) -> np.ndarray:
        return np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)

    class Sub(np.ndarray):
        pass

    arguments = [x, h, c, *w]
    for k in range(len(arguments)):
        for change in (strided, unaligned, lambda a: a.astype(">f8"), lambda a: a.view(Sub)):
            changed = [*arguments[:k], change(arguments[k]), *arguments[k + 1 :]]
            found = lstm(*changed, backend="c")[0]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        a = arguments[k]
        for wrong in (a[..., :-1].copy(), a[None], a.astype("f4"), "text", a.tolist()[0]):
            with pytest.raises((ValueError, TypeError)):
                lstm(*arguments[:k], wrong, *arguments[k + 1 :], backend="c")
    with pytest.raises(ValueError, match="c0"):
        lstm(x, h, None, *w, backend="c")
    with pytest.raises(ValueError, match="bias_hh"):
        lstm(x, h, c, *w[:3], None, backend="c")
    assert set(answers) == {0}


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect")
@pytest.mark.parametrize("isa", c_backend.isas())
def test_nothing_beyond_the_arrays_is_touched(isa: str) -> None:
    """For every ragged end from 1 to 64, at the end of a page that no other follows."""
    script = Path(__file__).with_name("guarded.py")
    result = subprocess.run(
        [sys.executable, str(script), isa], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "nothing touched\n"), result.stderr


# -- interruption ---------------------------------------------------------------------------------

LONG = """
import sys, time
import numpy as np
import fastrnn
layer = fastrnn.LSTM(256, 256, backend="c", seed=0)
x = np.zeros((int(sys.argv[1]), 64, 256), np.float32)
layer(x[:2])
print("ready", flush=True)
try:
    if sys.argv[2] == "forward":
        layer(x)
    else:
        layer.record(x).backward(x)
    print("not interrupted")
except KeyboardInterrupt:
    print(time.time())
    y = layer(x[:5])[0]
    print(np.array_equal(y, layer.record(x[:5]).output))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("way", ["forward", "both"])
def test_interrupt_is_answered_at_once(way: str) -> None:
    """Within a tenth of a second, in a call of seconds; and the next call is right."""
    delays = []
    for wait in (0.3, 0.5, 0.8):
        command = [sys.executable, "-c", LONG, "8000" if way == "forward" else "1500", way]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(wait)
            sent = time.time()
            child.send_signal(signal.SIGINT)
            out, _ = child.communicate(timeout=60)
        answered, right = out.split()
        assert right == "True"
        delays.append(float(answered) - sent)
    assert sorted(delays)[1] < 0.1
