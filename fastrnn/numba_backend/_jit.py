"""The one place for Numba's options, and a cache of compiled code that survives accidents."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import FunctionCache
from numba.core.options import DefaultOptions
from numba.core.serialize import dumps

OPTIONS: Any = {  # Any: Numba types its options one by one
    "error_model": "numpy",  # no test for division by zero in a loop
    "nogil": True,  # other Python threads run meanwhile
    # fastmath stays off: the vector code asks for fused multiply-adds where it wants them.
    # parallel stays off: its threads and a fork do not go together, and its cache is fragile.
}
# Without reference counts, which nothing here needs: no kernel allocates. With them a step touches
# some 40 counters, each an atomic operation: half of the time at H = 32.
if hasattr(DefaultOptions, "_nrt"):  # no public option
    OPTIONS["_nrt"] = False


# For what gets a frame in every step, whose arrays would be handed over as some 200 numbers, shapes
# and steps among them. That took 3 to 5 % of a small layer's time.
INLINED: Any = {"inline": "always"}


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function into those that call it."""
    return numba.njit(**OPTIONS, **INLINED)(function)


def jit(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called, and keep the result on disk where possible."""
    dispatcher = numba.njit(**OPTIONS)(function)
    # No cache if neither the package's folder nor the user's cache folder can be written to.
    with contextlib.suppress(RuntimeError):
        dispatcher._cache = KernelCache(dispatcher.py_func)
    return dispatcher


class KernelCache(FunctionCache):
    """Numba's cache with another way of keeping files (`CacheFiles`)."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file: Any = CacheFiles(Path(self.cache_path), function.__qualname__)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function; a full disk costs the next process a compilation, no more."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


class CacheFiles:
    """One file for each compiled signature, named by the digest of all that it depends on.

    Numba's own files have an index, which processes that start together overwrite with one
    another's entries, and which a truncated file makes unreadable; and they are valid as long as
    the function's own file is unchanged, whatever has happened to the vector code that was compiled
    into it. Here a file is found by its name, written atomically, and checked before it is read: a
    damaged one counts as missing.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name

    def path(self, key: object) -> Path:
        """Return the file of a signature: `key` names it, the CPU and its features."""
        words = (repr(key), numba.__version__, llvmlite.__version__, _source_digest())
        digest = hashlib.sha256("\n".join(words).encode()).hexdigest()
        return self.folder / f"{self.name}-{digest[:32]}.nbc"

    def load(self, key: object) -> Any:
        """Return what was saved, or None."""
        try:
            content = self.path(key).read_bytes()
        except OSError:
            return None
        digest, data = content[:32], content[32:]
        if hashlib.sha256(data).digest() != digest:
            return None
        return pickle.loads(data)  # noqa: S301 - compiled code of this machine, like a .pyc

    def save(self, key: object, data: object) -> None:
        """Write a file, whole or not at all."""
        content = dumps(data)
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=self.name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            Path(temporary).replace(self.path(key))
        except BaseException:
            Path(temporary).unlink()
            raise


@cache
def _source_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
