"""What the C backend promises beyond parity: bits, accuracy, the short way in, interruption."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from compare import assert_same_bits, assert_windows_are_the_whole
from fastrnn import dispatch
from problems import VARIANTS, Features, Sizes, Variant, make_problem

if (why := dispatch.BACKENDS["c"].missing()) is not None:
    pytest.skip(f"c: {why}", allow_module_level=True)

from fastrnn._c import ffi, lib

from fastrnn import c_backend

EVERYTHING = Features(lengths=True, reset=True, reset_state=True)
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
SHAPES = [Sizes(5, 1, 40, 300), Sizes(6, 40, 9, 70), Sizes(4, 3, 65, 200), Sizes(70, 9, 5, 33)]


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
def test_windows_are_the_whole(variant: Variant) -> None:
    """Any cut of the time axis gives the bits of the whole."""
    sizes = {"proj_size": 11} if variant.projected else {}
    layer = getattr(fastrnn, variant.cell.upper())(
        5, 40, backend="c", seed=1, **sizes, **variant.options
    )
    x = np.random.default_rng(2).normal(size=(301, 3, 5)).astype(np.float32)
    assert_windows_are_the_whole(layer, x, [1, 7, 150])
    np.testing.assert_array_equal(layer.record(x).output, layer(x)[0])


# -- accuracy -------------------------------------------------------------------------------------


def exact(curve: str, x: np.ndarray) -> np.ndarray:
    """The curve in a precision that is beyond the one under test."""
    with np.errstate(all="ignore"):
        wide = x.astype(np.longdouble if x.dtype == np.float64 else np.float64)
        if curve == "sigmoid":
            e = np.exp(-np.abs(wide))
            return np.where(wide >= 0, 1 / (1 + e), e / (1 + e))
        return {"exp": np.exp, "tanh": np.tanh}[curve](wide)


def evaluate(curve: str, x: np.ndarray) -> np.ndarray:
    y = np.full_like(x, np.nan)
    which = {"exp": lib.FASTRNN_EXP, "sigmoid": lib.FASTRNN_SIGMOID, "tanh": lib.FASTRNN_TANH}
    buffers = ffi.from_buffer(x), ffi.from_buffer(y)
    lib.fastrnn_activation(which[curve], x.itemsize, *buffers, x.size)
    return y


def ulps(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Errors in units of the last place of the exact results, denormal ones included."""
    with np.errstate(all="ignore"):
        rounded = right.astype(found.dtype)
        spacing = np.spacing(np.abs(rounded)).astype(right.dtype)
        error = np.abs(found.astype(right.dtype) - right) / spacing
    return np.where((found == rounded) | (np.isnan(found) & np.isnan(rounded)), 0, error)


@pytest.mark.parametrize("isa", c_backend.isas())
@pytest.mark.parametrize("curve", ["exp", "sigmoid", "tanh"])
def test_activations_float32(curve: str, isa: str) -> None:
    """Every 997th of all bit patterns, or all of them: see `make test-ulp`."""
    c_backend.use_isa(isa)
    stride = int(os.environ.get("ULP_STRIDE", "997"))
    worst = 0.0
    for first in range(0, 2**32, 2**26):
        x = np.arange(first, first + 2**26, stride, np.int64).astype(np.uint32).view(np.float32)
        worst = max(worst, ulps(evaluate(curve, x), exact(curve, x)).max())
    assert worst <= 2


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="longdouble is float64 here")
@pytest.mark.parametrize("isa", c_backend.isas())
@pytest.mark.parametrize("curve", ["exp", "sigmoid", "tanh"])
def test_activations_float64(curve: str, isa: str) -> None:
    c_backend.use_isa(isa)
    rng = np.random.default_rng(0)
    scales = (1e-300, 1e-12, 1e-3, 0.3, 3.0, 30.0, 700.0)
    x = np.concatenate([rng.normal(scale=scale, size=100_000) for scale in scales])
    x = np.concatenate([x, np.linspace(-746, -700, 10_000), np.linspace(0.5, 0.7, 10_000)])
    assert ulps(evaluate(curve, x), exact(curve, x)).max() <= 2


@dtypes
@pytest.mark.parametrize("isa", c_backend.isas())
def test_activations_at_the_edges(isa: str, dtype: str) -> None:
    c_backend.use_isa(isa)
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e4, -1e4, tiny, -tiny], dtype)
    t, s, e = (evaluate(curve, x) for curve in ("tanh", "sigmoid", "exp"))
    np.testing.assert_array_equal(t, np.array([0, -0.0, 1, -1, np.nan, 1, -1, tiny, -tiny], dtype))
    assert np.signbit(t[1])
    assert not np.signbit(t[0])
    np.testing.assert_array_equal(s, np.array([0.5, 0.5, 1, 0, np.nan, 1, 0, 0.5, 0.5], dtype))
    inf = np.inf
    np.testing.assert_array_equal(e, np.array([1, 1, inf, 0, np.nan, inf, 0, 1, 1], dtype))


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
