"""Which backend computes: the table of backends, the choice, and what `info()` says about it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from . import validation
from .threads import num_threads
from .validation import Array
from .workspace import Backward, Call, Forward, State

ISAS = ("baseline", "avx2", "avx512", "neon")


class Kernels(Protocol):
    """What a backend offers: two functions that fill arrays which the caller allocated."""

    def forward(self, call: Call, ws: Forward, /) -> None:
        """Run one layer in one direction over a window."""

    def backward(
        self, call: Call, tape: Forward, d_output: Array, d_state: State, ws: Backward, /
    ) -> None:
        """Run it backward; may overwrite `tape.records`."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A row of the table: where the backend lives, and why it is missing (None: it is there)."""

    name: str
    module: str
    missing: Callable[[], str | None]
    cells: tuple[str, ...] = ("rnn", "gru", "lstm")


def _c_missing() -> str | None:
    if importlib.util.find_spec("fastrnn._c") is None:
        return (  # csrc/build_ffi.py
            "not built: there was no C compiler when fastrnn was installed, or it failed; "
            "FASTRNN_REQUIRE_C=1 and pip install --no-cache-dir --force-reinstall say why"
        )
    return None


def _numba_missing() -> str | None:
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed: pip install 'fastrnn[numba]'"
    return None


Quick = Callable[..., tuple[Any, ...] | None]

# Fastest first: without a word from the user the first row that is there computes.
BACKENDS: Mapping[str, Backend] = {
    row.name: row
    for row in (
        Backend("c", "fastrnn.c_backend", _c_missing),
        Backend("numba", "fastrnn.numba_backend", _numba_missing),
        Backend("numpy", "fastrnn.reference", lambda: None),
    )
}


@cache
def missing(name: str) -> str | None:
    """Say why a backend cannot compute here; None if it can."""
    return BACKENDS[name].missing()


@cache
def _load(name: str) -> Kernels:
    if name == "c":
        isa()
    module: Kernels = importlib.import_module(BACKENDS[name].module)
    return module


def backend_name(argument: str, value: object) -> str | None:
    """Check the name of a backend and that the backend is there; None stands for the fastest."""
    if value is None:
        return None
    name: str = validation.choice(argument, value, BACKENDS)
    if (why := missing(name)) is not None:
        raise ValueError(f"{argument}: {name!r} is not available: {why}")
    return name


def choose(backend: object, cell: str) -> str:
    """Name the backend that computes a cell: the one asked for, else the fastest that has it.

    An argument goes before ``FASTRNN_BACKEND``. A backend that is asked for by name and is not
    there is an error: there is no silent fallback.
    """
    name = backend_name("backend", backend)
    if name is None:
        name = backend_name("FASTRNN_BACKEND", os.environ.get("FASTRNN_BACKEND") or None)
    if name is None:
        return next(
            row.name for row in BACKENDS.values() if cell in row.cells and missing(row.name) is None
        )
    if cell not in BACKENDS[name].cells:
        raise ValueError(f"backend: {name!r} does not have the cell {cell!r}")
    return name


def select(backend: object, cell: str) -> Kernels:
    """Return the kernels of the backend that `choose` names, once for all calls that ask alike."""
    try:
        return _select(backend, cell)
    except TypeError:  # an unhashable argument: a mistake, which `choose` finds
        return _load(choose(backend, cell))


@cache
def _select(backend: object, cell: str) -> Kernels:
    return _load(choose(backend, cell))


@cache
def quick(backend: str | None, form: str, cell: str, *options: object) -> Quick | None:
    """Return the shortest way through a backend for inference in the plain case, if it has one.

    Called with unchecked arrays (x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh) it returns
    output and final states, or None if the case is not plain. `form` is that of x and the states:
    "function", "layer" or "cell". The choice of the backend is made once, ``FASTRNN_BACKEND``
    included.
    """
    make = getattr(select(backend, cell), "quick", None)
    found: Quick | None = make and make(form, cell, *options)
    return found


@cache
def direct(cell: str, *options: object) -> Any:
    """Return the passes of the backend "c" on addresses (`c_backend.Direct`), if it is the choice.

    None if another backend computes. The choice is made once, as for `quick`.
    """
    make = getattr(select(None, cell), "direct", None)
    return make and make(cell, *options)


def product() -> Any:
    """Return the product of matrices of the backend that computes (`c_backend.product`), or None.

    None if it has none, and leaves products to BLAS. The choice is made once, as for `quick`.
    """
    return getattr(select(None, "rnn"), "product", None)


def isa() -> str | None:
    """Name the instruction set that the C kernels use; None where they are not built.

    It is chosen when they are first used: ``FASTRNN_ISA``, else the best that this machine has.
    """
    asked = os.environ.get("FASTRNN_ISA")
    if asked:
        validation.choice("FASTRNN_ISA", asked, ISAS)
    if missing("c") is not None:
        return None
    return _use_isa(asked or None)


@cache
def _use_isa(asked: str | None) -> str:
    kernels: Any = importlib.import_module(BACKENDS["c"].module)
    if asked is not None:
        if asked not in (here := kernels.isas()):
            words = ", ".join(here)
            raise ValueError(f"FASTRNN_ISA: {asked!r} does not run on this machine ({words} do)")
        kernels.use_isa(asked)
    name: str = kernels.isa()
    return name


def info() -> dict[str, Any]:
    """Say what computes here, and why the other backends do not.

    Returns
    -------
    dict
        ``version``, ``python``, ``numpy``, ``backend`` (the default one), ``backends`` (name to
        "available" or the reason why not), ``isa`` and ``threads``.
    """
    import numpy

    return {
        "version": version(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "backend": choose(None, "lstm"),
        "backends": {name: missing(name) or "available" for name in BACKENDS},
        "isa": isa(),
        "threads": num_threads(),
    }


@cache
def version() -> str:
    """Version of the installed package."""
    import importlib.metadata  # here, because it would take half of the time of `import fastrnn`

    return importlib.metadata.version("fastrnn")
