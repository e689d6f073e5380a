"""The package as a whole: what importing it costs, who imports whom, what `warmup` leaves."""

import ast
import importlib
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import dispatch
from interpreter import PACKAGE, run_python
from problems import VARIANTS, Variant

MODULES = sorted(PACKAGE.rglob("*.py"))


# -- importing ------------------------------------------------------------------------------------


def test_import_loads_no_extra() -> None:
    found = run_python("import fastrnn, sys; print(*sys.modules)").split()
    roots = {name.partition(".")[0] for name in found}
    assert "numpy" in roots
    extras = {
        "cffi",
        "h5py",
        "keras",
        "llvmlite",
        "matplotlib",
        "numba",
        "onnx",
        "rich",
        "safetensors",
        "torch",
    }
    assert not roots & extras
    rooms = {"cli", "gradflow", "numba_backend", "weights", "torch", "keras"}
    assert not {f"fastrnn.{name}" for name in rooms} & set(found)


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
        *("Softmax", "Tanh", "Sigmoid", "ReLU", "Flatten", "Dropout", "Perceptron", "MLP"),
        *("OneToOne", "OneToMany", "ManyToOne", "ManyToMany", "EncoderDecoder"),
        *("Stream", "decoding"),
        *("Conv1d", "Conv2d", "MaxPool1d", "MaxPool2d", "AvgPool1d", "AvgPool2d"),
        *("softmax", "softmax_jvp", "softmax_cross_entropy", "mean_squared_error"),
        *("SGD", "Adam", "AdamW", "clip_by_global_norm", "clip_by_value"),
    }
    for name in fastrnn.__all__:
        assert hasattr(fastrnn, name)
    assert run_python("from fastrnn import *; print(GRU(2, 3))") == "GRU(2, 3, dtype='float32')\n"


# -- the house ------------------------------------------------------------------------------------

# From the ground up: a module imports from lower floors only.
FLOORS = [
    {"cells", "_c"},  # _c: the C kernels
    {"validation", "files", "console"},
    {"workspace", "tape", "threads"},
    {"reference", "numba_backend", "c_backend", "dispatch"},
    {"stack", "c_stream", "initialisation"},
    {"functional", "layers", "threadpool"},
    {"feedforward", "losses", "optim"},
    {"activations", "windows", "products"},
    {"sequential", "convolution", "pooling"},
    {"states", "precision"},
    {"truncation", "perceptron", "decoding", "stream"},
    {"paradigms"},
    {"encoder_decoder"},
    {"weights"},
    {"torch"},
    {"keras"},
    {"character"},
    {"gradflow"},
    {"bench"},
    {"latency"},
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
    allowed = {"workspace": 5}
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


# -- warming up -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.projected], ids=str)
def test_warmup_leaves_nothing_to_compile(variant: Variant) -> None:
    """A later call compiles nothing, whatever its options and features."""
    numba = pytest.importorskip("numba")
    fastrnn.warmup(variant.cell, backend="numba")
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
