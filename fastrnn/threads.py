"""How many threads compiled code may use: one number for the process."""

from __future__ import annotations

import os
from functools import cache

from . import validation

_number: int | None = None


def set_num_threads(n: int) -> None:
    """Set how many threads a compiled backend may use at most, at least 1.

    Results do not depend on it. The products of the numpy backend run in NumPy's own BLAS, whose
    threads are NumPy's affair (see the package threadpoolctl).
    """
    global _number  # noqa: PLW0603 - one setting for the process, as in every BLAS
    _number = validation.positive("n", n)


def num_threads() -> int:
    """Return how many threads a compiled backend may use.

    That is the number set, else ``FASTRNN_NUM_THREADS``, else the number of processors that this
    process may run on.
    """
    if _number is not None:
        return _number
    if text := os.environ.get("FASTRNN_NUM_THREADS"):
        try:
            return validation.positive("FASTRNN_NUM_THREADS", int(text))
        except ValueError:
            raise ValueError(
                f"FASTRNN_NUM_THREADS: expected a whole number of at least 1, got {text!r}"
            ) from None
    return _processors()


@cache
def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
