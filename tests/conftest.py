"""What every test gets: poisoned and guarded workspaces, a clean environment, the backends."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator

import hypothesis
import numpy as np
import pytest

from fastrnn import dispatch, threads, workspace
from problems import BACKENDS

# The same examples on every run and machine; a slow first example is a compilation, not a fault.
hypothesis.settings.register_profile(
    "fixed", deadline=None, derandomize=True, max_examples=40, database=None
)
hypothesis.settings.load_profile("fixed")

# Before anything is poisoned, so that no module keeps the poisoned `empty` of one test.
for _name in BACKENDS:
    importlib.import_module(dispatch.BACKENDS[_name].module)
if "c" in BACKENDS:  # 3 and 5 threads are 3 and 5, however few processors there are
    importlib.import_module("fastrnn._c").lib.fastrnn_crowd(1)


@pytest.fixture(params=BACKENDS, scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that is there."""
    return request.param


class Poison:
    """Fills what a kernel is to write, and some bytes around it, with NaN.

    So an element that is left unwritten shows, and so does one that is written where it should not.
    """

    PATTERN = 0xFF  # NaN in every float, nonsense in every integer
    GUARD = 128  # bytes on either side: two of the widest vectors
    MOST = 1 << 26  # bytes kept for `check` at a time

    def __init__(self, allocate: Callable) -> None:
        self.allocate = allocate
        self.blocks: list[np.ndarray] = []
        self.kept = 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = workspace.size_in_bytes(shape, dtype)
        block = self.allocate((size + 2 * self.GUARD,), np.dtype(np.uint8))
        block.fill(self.PATTERN)
        if self.kept > self.MOST:
            self.check()
        self.blocks.append(block)
        self.kept += size
        return block[self.GUARD : self.GUARD + size].view(dtype).reshape(shape)

    def check(self) -> None:
        blocks, self.blocks, self.kept = self.blocks, [], 0
        for block in blocks:
            around = np.concatenate((block[: self.GUARD], block[-self.GUARD :]))
            assert (around == self.PATTERN).all(), "a kernel wrote past the end of an array"


@pytest.fixture(autouse=True)
def poison() -> Iterator[pytest.MonkeyPatch]:
    """Poison the workspace; a test that is about its memory itself may undo this."""
    allocate = workspace.empty
    guards = Poison(allocate)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("fastrnn") and getattr(module, "empty", None) is allocate:
                patch.setattr(module, "empty", guards.empty)
        yield patch
    guards.check()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without FASTRNN_* variables and a set number of threads; put both back."""
    for name in list(os.environ):
        if name.startswith("FASTRNN_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(threads, "_number", None)
    forget_choices()


def forget_choices() -> None:
    """Forget what was found out when it was first needed, the environment among it."""
    threads._default.cache_clear()
    for found in (
        dispatch.missing,
        dispatch._use_isa,
        dispatch._load,
        dispatch._select,
        dispatch.quick,
        dispatch.direct,
    ):
        found.cache_clear()


@pytest.fixture
def without_c(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which the C kernels could not be built."""
    rows = dict(dispatch.BACKENDS)
    rows["c"] = dispatch.Backend("c", rows["c"].module, lambda: "not built")
    monkeypatch.setattr(dispatch, "BACKENDS", rows)
    forget_choices()
    yield
    forget_choices()
