"""Which backend computes, on how many threads, and what `info` says of it."""

import importlib
import json
import math
import os
import platform
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn import dispatch, threads
from fastrnn.cells import CELLS
from interpreter import run_python

# -- backends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", dispatch.BACKENDS)
def test_backend_is_there(name: str) -> None:
    """Where these tests run NumPy and Numba must be; another backend may be missing by name."""
    why = dispatch.BACKENDS[name].missing()
    if why is not None:
        assert name not in ("numpy", "numba"), why
        pytest.skip(f"{name}: {why}")
    kernels = dispatch.select(name, dispatch.BACKENDS[name].cells[0])
    assert callable(kernels.forward)
    assert callable(kernels.backward)


def test_first_row_that_is_there_computes_by_default() -> None:
    assert list(dispatch.BACKENDS) == ["c", "numba", "numpy"]
    here = [name for name, row in dispatch.BACKENDS.items() if row.missing() is None]
    for cell in CELLS:
        assert dispatch.choose(None, cell) == here[0]


def test_backend_without_a_cell_is_passed_over_and_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = dict(dispatch.BACKENDS)
    name = dispatch.choose(None, "gru")
    rows[name] = dispatch.Backend(name, rows[name].module, rows[name].missing, ("rnn", "lstm"))
    monkeypatch.setattr(dispatch, "BACKENDS", rows)
    assert dispatch.choose(None, "lstm") == name
    assert dispatch.choose(None, "gru") != name
    with pytest.raises(ValueError, match=f"^backend: '{name}' does not have the cell 'gru'$"):
        dispatch.choose(name, "gru")


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_environment_chooses_the_backend(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    monkeypatch.setattr(dispatch, "_load", lambda name: chosen.append(name) or np)
    monkeypatch.setenv("FASTRNN_BACKEND", name)
    other = {"numpy": "numba", "numba": "numpy"}[name]
    dispatch.select(None, "lstm")
    dispatch.select(other, "lstm")  # an argument goes before it
    assert chosen == [name, other]
    assert fastrnn.info()["backend"] == name


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("cuda", "FASTRNN_BACKEND: expected one of 'c', 'numba', 'numpy', got 'cuda'"),
        ("NumPy", "FASTRNN_BACKEND: expected one of 'c', 'numba', 'numpy', got 'NumPy'"),
        ("c", "FASTRNN_BACKEND: 'c' is not available: not built"),
    ],
)
@pytest.mark.usefixtures("without_c")
def test_environment_cannot_ask_for_what_is_not_there(
    value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTRNN_BACKEND", value)
    layer = fastrnn.LSTM(1, 1)
    for call in (fastrnn.info, lambda: layer(np.zeros((1, 1, 1), np.float32))):
        with pytest.raises(ValueError, match=r"FASTRNN_BACKEND") as raised:
            call()
        assert str(raised.value) == words


def test_missing_numba_is_no_error_unless_asked_for() -> None:
    code = """
import sys
sys.modules["numba"] = None  # importing it fails, as if it were not installed
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numba" else find(name, *rest)
import fastrnn, numpy
print(fastrnn.info()["backend"], "|", fastrnn.info()["backends"]["numba"])
fastrnn.LSTM(1, 1)(numpy.zeros((1, 1, 1), "f4"))
try:
    fastrnn.LSTM(1, 1, backend="numba")
except ValueError as error:
    print(error)
"""
    why = "numba is not installed: pip install 'fastrnn[numba]'"
    fastest = "numpy" if dispatch.BACKENDS["c"].missing() else "c"
    expected = f"{fastest} | {why}\nbackend: 'numba' is not available: {why}\n"
    assert run_python(code) == expected


# -- info and threads -----------------------------------------------------------------------------


def test_info() -> None:
    info = fastrnn.info()
    assert list(info) == ["version", "python", "numpy", "backend", "backends", "isa", "threads"]
    assert info["python"] == platform.python_version()
    assert info["numpy"] == np.__version__
    c = dispatch.BACKENDS["c"].missing()
    assert info["backends"] == {"c": c or "available", "numba": "available", "numpy": "available"}
    assert info["backend"] == ("numba" if c else "c")
    assert (info["isa"] is None) == (c is not None)
    assert info["threads"] == len(os.sched_getaffinity(0))
    assert json.loads(json.dumps(info)) == info
    major, minor, patch = map(int, info["version"].split("."))
    assert (major, minor, patch) >= (0, 1, 0)


@pytest.mark.usefixtures("without_c")
def test_info_without_c() -> None:
    info = fastrnn.info()
    assert info["backends"]["c"] == "not built"
    assert info["backend"] == "numba"
    assert info["isa"] is None


@pytest.mark.usefixtures("without_c")
def test_no_backend_is_replaced_silently() -> None:
    words = r"^backend: 'c' is not available: not built$"
    for call in (
        lambda: fastrnn.LSTM(1, 1, backend="c"),
        lambda: fastrnn.warmup(backend="c"),
        lambda: fastrnn.functional.rnn(
            np.ones((1, 1, 1)), None, np.ones((1, 1)), np.ones((1, 1)), backend="c"
        ),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_nonsense_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_ISA", "sse9")
    with pytest.raises(
        ValueError, match=r"^FASTRNN_ISA: expected one of 'baseline', 'avx2', .*9'$"
    ):
        fastrnn.info()
    monkeypatch.delenv("FASTRNN_ISA")
    for text in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("FASTRNN_NUM_THREADS", text)
        with pytest.raises(ValueError, match=r"^FASTRNN_NUM_THREADS: expected a whole number"):
            fastrnn.info()


def test_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_NUM_THREADS", "5")
    assert threads.num_threads() == 5
    fastrnn.set_num_threads(3)  # goes before the environment
    assert fastrnn.info()["threads"] == 3


def test_quota_of_a_container(tmp_path: Path) -> None:
    """The least of the limits of nested groups; none, or one that cannot be read, is no limit."""
    membership, inner = tmp_path / "cgroup", tmp_path / "root" / "a" / "b"
    inner.mkdir(parents=True)
    membership.write_text("0::/a/b\n")

    def quota() -> float:
        return threads._quota(tmp_path / "root", membership)

    assert quota() == math.inf
    (inner / "cpu.max").write_text("max 100000\n")
    assert quota() == math.inf
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    assert quota() == 1.5
    (inner / "cpu.max").write_text("50000 100000\n")
    assert quota() == 0.5
    (inner / "cpu.max").write_text("nonsense")
    assert quota() == 1.5
    old = tmp_path / "root" / "cpu,cpuacct" / "c"
    old.mkdir(parents=True)
    membership.write_text("1:name=systemd:/c\n4:cpu,cpuacct:/c\n0::/\n")
    (old / "cpu.cfs_period_us").write_text("100000\n")
    (old / "cpu.cfs_quota_us").write_text("-1\n")
    assert quota() == math.inf
    (old / "cpu.cfs_quota_us").write_text("250000\n")
    assert quota() == 2.5
    membership.unlink()
    assert quota() == math.inf


def test_affinity_limits_the_threads() -> None:
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import fastrnn
print(fastrnn.info()["threads"])
"""
    assert run_python(code) == "1\n"


def test_threadpoolctl_sees_and_limits_the_threads() -> None:
    threadpoolctl = importlib.import_module("threadpoolctl")  # an extra of the tests: it is there
    if dispatch.BACKENDS["c"].missing():
        pytest.skip("c: not built")
    importlib.import_module("fastrnn.threadpool")
    fastrnn.set_num_threads(3)
    fastrnn.LSTM(1, 1, backend="c")(np.zeros((1, 1, 1), np.float32))
    (found,) = [row for row in threadpoolctl.threadpool_info() if row["user_api"] == "fastrnn"]
    assert found["num_threads"] == 3
    assert found["version"] == fastrnn.info()["version"]
    assert found["architecture"] == fastrnn.info()["isa"]
    with threadpoolctl.threadpool_limits(1, user_api="fastrnn"):
        assert threads.num_threads() == 1
    assert threads.num_threads() == 3
