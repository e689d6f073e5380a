"""What the Numba backend promises beyond parity: its activations, bits, threads and cache."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import compare
import fastrnn
from compare import assert_windows_are_the_whole
from fastrnn.numba_backend import activations, pool, sequence, vectors
from fastrnn.numba_backend._jit import CacheFiles, jit
from fastrnn.numba_backend.vectors import pointwise

PACKAGE = Path(fastrnn.__file__).parent
LAYERS = {"rnn": fastrnn.RNN, "gru": fastrnn.GRU, "lstm": fastrnn.LSTM}


@pointwise("x", "y")
def sigmoid_row(L, x):
    return activations.sigmoid(L, x)


@pointwise("x", "y")
def tanh_row(L, x):
    return activations.tanh(L, x)


@pointwise("x", "y")
def hard_sigmoid_row(L, x):
    return activations.hard_sigmoid(L, x)


@jit
def hard_sigmoid_all(x, y):
    hard_sigmoid_row((x, y), (0, 0), len(x))


@jit
def sigmoid_all(x, y):
    sigmoid_row((x, y), (0, 0), len(x))


@jit
def tanh_all(x, y):
    tanh_row((x, y), (0, 0), len(x))


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


CURVES = {"sigmoid": (sigmoid_all, sigmoid), "tanh": (tanh_all, np.tanh)}


def evaluate(kernel, x):
    y = np.full_like(x, np.nan)
    kernel(x, y)
    return y


def ulps(found, exact):
    """Error in units of the last place of the exact result."""
    with np.errstate(all="ignore"):
        spacing = np.spacing(np.abs(exact).astype(found.dtype)).astype(exact.dtype)
        return np.abs(found.astype(exact.dtype) - exact) / spacing


@pytest.mark.parametrize("curve", CURVES)
def test_activations_float32(curve):
    """Every 997th of all bit patterns, whose exact value float64 knows."""
    x = np.arange(0, 2**32, 997, np.int64).astype(np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    with np.errstate(all="ignore"):
        exact = CURVES[curve][1](x.astype(np.float64))
    found = evaluate(CURVES[curve][0], x)
    normal = np.abs(exact) >= np.finfo(np.float32).tiny
    if curve == "tanh":  # a denormal is its own tanh
        normal |= True
    assert ulps(found, exact)[normal].max() <= 2.6
    assert np.abs(found[~normal]).max(initial=0) <= np.finfo(np.float32).tiny


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="longdouble is float64 here")
@pytest.mark.parametrize("curve", CURVES)
def test_activations_float64(curve):
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.normal(scale=scale, size=50_000) for scale in (1e-12, 1e-3, 0.3, 3.0, 30.0)]
    )
    exact = CURVES[curve][1](x.astype(np.longdouble))
    assert ulps(evaluate(CURVES[curve][0], x), exact).max() <= 2.6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activations_at_the_edges(dtype):
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e4, -1e4, 5e-324, 1e-40], dtype)
    t, s, k = (evaluate(kernel, x) for kernel in (tanh_all, sigmoid_all, hard_sigmoid_all))
    np.testing.assert_array_equal(t[:7], np.array([0, -0.0, 1, -1, np.nan, 1, -1], dtype))
    assert np.signbit(t[1])
    assert not np.signbit(t[0])
    np.testing.assert_array_equal(t[7:], x[7:])
    np.testing.assert_array_equal(s[[0, 1, 2, 4, 5]], np.array([0.5, 0.5, 1, np.nan, 1], dtype))
    assert (s[[3, 6]] >= 0).all()
    assert (s[[3, 6]] < 1e-37).all()
    np.testing.assert_array_equal(s[7:], np.array(0.5, dtype))
    np.testing.assert_array_equal(k, np.array([0.5, 0.5, 1, 0, np.nan, 1, 0, 0.5, 0.5], dtype))


def test_hard_sigmoid():
    """One rounding or two, of 0.2 (in the precision of x) x + 0.5."""
    x = np.arange(0, 2**32, 9973, np.int64).astype(np.uint32).view(np.float32)
    found, right = evaluate(hard_sigmoid_all, x), compare.exact("hard_sigmoid", x)
    np.testing.assert_allclose(found, right, rtol=0, atol=2**-24)


def everything(layer, x, d_y, rows=slice(None), **options):
    """Return output and gradients that belong to some rows of the batch."""
    tape = layer.record(np.ascontiguousarray(x[:, rows]), **options)
    gradients = tape.backward(np.ascontiguousarray(d_y[:, rows]))
    return tape.output, gradients.input


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", LAYERS)
def test_bits_do_not_depend_on_the_batch(cell, dtype):
    """Neither its size nor a row's place: every sum is one chain, whatever the tile."""
    rng = np.random.default_rng(1)
    layer = LAYERS[cell](19, 37, dtype=dtype, seed=2, backend="numba")
    x, d_y = (rng.normal(size=(7, 21, n)).astype(dtype) for n in (19, 37))
    output, d_x = everything(layer, x, d_y)
    for rows in (slice(0, 1), slice(20, 21), slice(3, 5), slice(4, 7), slice(2, 20)):
        part, d_part = everything(layer, x, d_y, rows)
        np.testing.assert_array_equal(part, output[:, rows])
        np.testing.assert_array_equal(d_part, d_x[:, rows])


@pytest.fixture
def eager_threads(monkeypatch):
    """Threads even for little work."""
    monkeypatch.setattr(pool, "SHARE", 1.0)
    sequence._plan.cache_clear()
    yield
    sequence._plan.cache_clear()


@pytest.mark.parametrize("cell", LAYERS)
def test_bits_do_not_depend_on_threads(cell, eager_threads):
    rng = np.random.default_rng(3)
    layer = LAYERS[cell](5, 24, seed=4, backend="numba")
    x, d_y = (rng.normal(size=(6, 53, n)).astype(np.float32) for n in (5, 24))
    lengths, reset = rng.integers(0, 7, 53), rng.random((6, 53)) < 0.2
    results = []
    for threads in (1, 2, 3, 5):
        fastrnn.set_num_threads(threads)
        assert len(pool.ranges(53, 8, 1e9, threads)) == threads
        tape = layer.record(x, lengths=lengths, reset=reset)
        gradients = tape.backward(d_y)
        results.append([tape.output, gradients.input, *gradients.parameters.values()])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_windows_are_the_whole():
    """Any cut of the time axis gives the bits of the whole, also across the inner chunks."""
    rng = np.random.default_rng(5)
    layer = fastrnn.LSTM(3, 40, seed=6, backend="numba")
    x = rng.normal(size=(5000, 1, 3)).astype(np.float32)
    assert_windows_are_the_whole(layer, x, [1, 7, 2500])


def _in_child(queue, layer, x):
    queue.put(layer(x)[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is not there")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 warns of any fork
def test_fork_after_threads(monkeypatch, eager_threads):
    """A forked child does not wait for threads that it does not have."""
    monkeypatch.setenv("FASTRNN_NUM_THREADS", "2")
    layer = fastrnn.GRU(4, 16, seed=7, backend="numba")
    x = np.random.default_rng(8).normal(size=(5, 40, 4)).astype(np.float32)
    expected = layer(x)[0]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue, layer, x))
    child.start()
    found = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    np.testing.assert_array_equal(found, expected)


NARROW = """
import sys
import numpy as np
import fastrnn
from fastrnn.numba_backend.vectors import BYTES
assert BYTES == int(sys.argv[1])
layer = fastrnn.RNN(5, 37, seed=1, backend="numba")
x = np.random.default_rng(2).normal(size=(4, 9, 5)).astype(np.float32)
print(layer(x)[0].tobytes().hex())
"""


@pytest.mark.skipif("fma" not in vectors.FEATURES, reason="no fused multiply-add to compare with")
@pytest.mark.parametrize("features", ["+avx,+avx2,+fma", ""], ids=["avx2", "baseline"])
def test_narrower_vectors(features, tmp_path):
    """What older CPUs get: the same bits with fused multiply-adds, and nearly those without."""
    environment = {
        "NUMBA_CPU_NAME": "haswell" if features else "nehalem",
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", NARROW, "32" if features else "16"]
    result = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    found = np.frombuffer(bytes.fromhex(result.stdout), np.float32).reshape(4, 9, 37)
    layer = fastrnn.RNN(5, 37, seed=1, backend="numba")
    x = np.random.default_rng(2).normal(size=(4, 9, 5)).astype(np.float32)
    expected = layer(x)[0]
    if features:
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


# --- the cache of compiled code

PROBE = """
import sys
import numpy as np
from fastrnn.numba_backend import activations
from fastrnn.numba_backend._jit import jit
from fastrnn.numba_backend.vectors import pointwise

@pointwise("x", "y")
def row(L, x):
    return activations.tanh(L, x)

@jit
def kernel(x, y):
    row((x, y), (0, 0), len(x))

y = np.empty(3)
kernel(np.array([-1.0, 0.5, 2.0]), y)
print(y.tolist(), sum(kernel.stats.cache_hits.values()))
"""


@pytest.fixture
def copy_of_package(tmp_path):
    """Return a folder with the package and a kernel in it, nothing compiled yet."""
    shutil.copytree(PACKAGE, tmp_path / "fastrnn", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "probe.py").write_text(PROBE)
    return tmp_path


def start(folder, **environment):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "probe.py"],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    values, hits = out.rsplit(maxsplit=1)
    return values, int(hits)


def compiled(folder):
    return sorted((folder / "__pycache__").glob("*.nbc"))


def test_cache_is_shared_by_processes_that_start_together(copy_of_package):
    results = [finish(p) for p in [start(copy_of_package) for _ in range(8)]]
    assert len({values for values, _ in results}) == 1
    assert finish(start(copy_of_package)) == (results[0][0], 1)
    leftovers = [p for p in compiled(copy_of_package)[0].parent.iterdir() if not p.suffix]
    assert not leftovers


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_damaged_cache_is_compiled_again(copy_of_package, damage):
    values, hits = finish(start(copy_of_package))
    assert hits == 0
    assert len(compiled(copy_of_package)) == 1
    for path in compiled(copy_of_package):
        content = path.read_bytes()
        path.write_bytes(
            {"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"x" * 999}[damage]
        )
    assert finish(start(copy_of_package)) == (values, 0)
    assert finish(start(copy_of_package)) == (values, 1)


def test_cache_is_made_anew_when_any_source_changes(copy_of_package):
    values, _ = finish(start(copy_of_package))
    path = copy_of_package / "fastrnn/numba_backend/activations.py"
    text = path.read_text()
    assert text.count("return L.from_bits(") == 1
    path.write_text(text.replace("return L.from_bits(", "return -L.from_bits("))
    other, hits = finish(start(copy_of_package))
    assert hits == 0
    assert other != values


def test_no_place_for_a_cache(copy_of_package):
    """A file where the folders would go: the code is compiled, and nothing is kept."""
    nowhere = copy_of_package / "__pycache__"
    nowhere.write_text("")
    environment = {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere), "NUMBA_CACHE_DIR": ""}
    for _ in range(2):
        assert finish(start(copy_of_package, **environment))[1] == 0


def test_full_disk_costs_no_result(tmp_path, monkeypatch):
    def full(*args, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)

    @jit
    def twice(x):
        return 2 * x

    assert twice(4) == 8


def test_cache_files_are_whole_or_absent(tmp_path, monkeypatch):
    files = CacheFiles(tmp_path, "kernel")
    assert files.load("key") is None
    files.save("key", {"a": 1})
    assert files.load("key") == {"a": 1}
    assert files.load("other") is None

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.save("key", {"a": 2})
    assert files.load("key") == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1
