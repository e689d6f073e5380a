"""What every test gets: poisoned workspaces, a clean environment, the backends that are there."""

import os
import sys

import hypothesis
import numpy as np
import pytest

from fastrnn import threads, workspace
from problems import BACKENDS

# The same examples on every run and machine; a slow first example is a compilation, not a fault.
hypothesis.settings.register_profile(
    "fixed", deadline=None, derandomize=True, max_examples=40, database=None
)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(params=BACKENDS, scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that is there; test_package.py says why others are not."""
    return request.param


@pytest.fixture(autouse=True)
def _poisoned_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what a kernel is to write with NaN, so that an element left unwritten shows."""
    allocate = workspace.empty

    def poisoned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        array = allocate(shape, dtype)
        array.view(np.uint8).fill(0xFF)  # NaN in every float, nonsense in every integer
        return array

    for name, module in list(sys.modules.items()):
        if name.startswith("fastrnn") and getattr(module, "empty", None) is allocate:
            monkeypatch.setattr(module, "empty", poisoned)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without FASTRNN_* variables and a set number of threads; put both back."""
    for name in list(os.environ):
        if name.startswith("FASTRNN_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(threads, "_number", None)
