"""The package as a whole: what importing it costs, who imports whom, which backend computes."""

import ast
import importlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import dispatch, threads
from fastrnn.cells import CELLS
from problems import VARIANTS, Variant

PACKAGE = Path(fastrnn.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def run_python(code: str, **environment: str) -> str:
    """Run a program in an interpreter of its own and return what it prints."""
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": path, "FASTRNN_BACKEND": ""} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


# -- importing ------------------------------------------------------------------------------------


def test_import_loads_no_extra() -> None:
    found = run_python("import fastrnn, sys; print(*sys.modules)").split()
    roots = {name.partition(".")[0] for name in found}
    assert "numpy" in roots
    extras = {"numba", "llvmlite", "cffi", "matplotlib", "rich", "safetensors", "torch", "onnx"}
    assert not roots & extras
    assert not {"fastrnn.cli", "fastrnn.numba_backend", "fastrnn.weights"} & set(found)


def test_import_is_fast(tmp_path: Path) -> None:
    """It adds less than 50 ms to `import numpy`, at the median of interpreters of their own."""
    # As where it is installed: with compiled .pyc files, wherever they may be written here.
    cached = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    code = (
        "import numpy, time; start = time.perf_counter(); import fastrnn; "
        "print(time.perf_counter() - start)"
    )
    run_python(code, **cached)
    assert statistics.median(float(run_python(code, **cached)) for _ in range(9)) < 0.05


def test_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").read_bytes() == b""


def test_public_names() -> None:
    assert set(fastrnn.__all__) == {
        *("CELLS", "functional", "info", "set_num_threads", "warmup"),
        *("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"),
        *("Linear", "Embedding", "Sequential", "Tape", "Gradients", "TruncatedBPTT"),
        *("softmax", "softmax_cross_entropy", "mean_squared_error"),
        *("SGD", "Adam", "AdamW", "clip_by_global_norm", "clip_by_value"),
    }
    for name in fastrnn.__all__:
        assert hasattr(fastrnn, name)
    assert run_python("from fastrnn import *; print(GRU(2, 3))") == "GRU(2, 3, dtype='float32')\n"


# -- the house ------------------------------------------------------------------------------------

# From the ground up: a module imports from lower floors only.
FLOORS = [
    {"cells", "_c"},  # _c: the C kernels
    {"validation"},
    {"workspace", "tape", "threads"},
    {"reference", "numba_backend", "c_backend", "dispatch"},
    {"stack"},
    {"functional", "layers", "threadpool"},
    {"feedforward", "losses", "optim"},
    {"sequential"},
    {"truncation"},
    {"weights"},
    {"character"},
    {"cli"},
    {"__init__", "__main__"},
]
# The floor's own: backends share the reference's view of a tape.
NEIGHBOURS = {("numba_backend", "reference"), ("c_backend", "reference"), ("__main__", "__init__")}


def room(path: Path) -> str:
    """The top-level module or folder of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms that a file imports from, at its top or inside functions."""
    package = ("fastrnn", *path.relative_to(PACKAGE).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *filter(None, [node.module])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "fastrnn":
                inner = len(parts) > 1 and any(parts[1] in floor for floor in FLOORS)
                found.add(parts[1] if inner else "__init__")
    return found - {room(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_imports_upward(path: Path) -> None:
    floors = {name: k for k, floor in enumerate(FLOORS) for name in floor}
    here = room(path)
    assert here in floors, "a new module belongs on a floor"
    for other in imports(path):
        assert floors[other] < floors[here] or (here, other) in NEIGHBOURS, other


def test_imports_are_found() -> None:
    """The test above is worth nothing if it sees no imports."""
    assert imports(PACKAGE / "layers.py") >= {"stack", "dispatch", "workspace", "cells", "tape"}
    assert {"workspace", "validation"} <= imports(PACKAGE / "numba_backend" / "lstm.py")
    assert "layers" in imports(PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_kernels_memory_comes_from_the_workspace(path: Path) -> None:
    """Only what `workspace.empty` allocates is poisoned in these tests.

    An array of no elements has nothing to poison.
    """
    allowed = {"workspace": 2}
    calls = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("np.empty", "np.empty_like", "numpy.empty", "np.ndarray")
        and ast.unparse(node.args[0]) not in ("0", "(0,)")
    ]
    assert len(calls) <= allowed.get(room(path), 0), calls


def test_poison_reaches_every_module() -> None:
    for name in dispatch.BACKENDS:
        if dispatch.BACKENDS[name].missing() is None:
            importlib.import_module(dispatch.BACKENDS[name].module)
    users = [
        module
        for name, module in sys.modules.items()
        if name.startswith("fastrnn") and hasattr(module, "empty")
    ]
    assert len(users) > 1
    for module in users:
        for size in (5, 1 << 20):  # small, and large enough to be used again
            assert np.isnan(module.empty((size,), np.dtype(np.float32))).all(), module.__name__


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


# -- warming up -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.projected], ids=str)
def test_warmup_leaves_nothing_to_compile(variant: Variant) -> None:
    """A later call compiles nothing, whatever its options and features."""
    numba = pytest.importorskip("numba")
    fastrnn.warmup(variant.cell)
    compiled: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        original = numba.core.compiler.compile_extra
        patch.setattr(
            numba.core.compiler,
            "compile_extra",
            lambda *args, **kwargs: compiled.append(args) or original(*args, **kwargs),
        )
        layer = getattr(fastrnn, variant.cell.upper())(
            3, 17, 2, bidirectional=True, backend="numba", **variant.options
        )
        x = np.ones((5, 4, 3), np.float32)
        sequence = {"lengths": np.array([5, 0, 1, 2]), "reset": np.ones((5, 4), bool)}
        layer(x, **sequence)
        tape = layer.record(x, **sequence)
        tape.backward(np.ones_like(tape.output))
    assert compiled == []


def test_warmup_checks_its_arguments() -> None:
    for arguments, error in (
        ({"cell": "elman"}, ValueError),
        ({"dtype": "float16"}, TypeError),
        ({"backend": "cuda"}, ValueError),
    ):
        with pytest.raises(error, match=f"^{next(iter(arguments))}: "):
            fastrnn.warmup(**arguments)
    fastrnn.warmup(backend="numpy")  # nothing to do, and no error
