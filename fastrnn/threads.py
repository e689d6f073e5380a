"""How many threads compiled code may use: one number for the process."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from . import validation

_number: int | None = None


class _Limit(threading.local):
    number: int | None = None  # that of `at_most`; asked for in every call, it should be there


_limit = _Limit()


def set_num_threads(n: int) -> None:
    """Set how many threads a compiled backend may use at most, at least 1.

    Results do not depend on it. The products of the numpy backend run in NumPy's own BLAS, whose
    threads are NumPy's affair (see the package threadpoolctl). `ValueError` or `TypeError` if n is
    not a whole number of at least 1.
    """
    global _number  # noqa: PLW0603 - one setting for the process, as in every BLAS
    _number = validation.positive("n", n)


def num_threads() -> int:
    """Return how many threads a compiled backend may use.

    That is the number set, else ``FASTRNN_NUM_THREADS``, else the number of processors that this
    process may use. The last two are found out when they are first needed.
    """
    number = _default() if _number is None else _number
    limit = _limit.number
    return number if limit is None or number < limit else limit


@contextlib.contextmanager
def at_most(n: int) -> Iterator[None]:
    """Let calls of this thread use no more than n threads, while the context lasts."""
    before = _limit.number
    _limit.number = n if before is None else min(n, before)
    try:
        yield
    finally:
        _limit.number = before


def processors() -> int:
    """Return how many processors this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


@cache
def _default() -> int:
    if text := os.environ.get("FASTRNN_NUM_THREADS"):
        try:
            return validation.positive("FASTRNN_NUM_THREADS", int(text))
        except ValueError:
            raise ValueError(
                f"FASTRNN_NUM_THREADS: expected a whole number of at least 1, got {text!r}"
            ) from None
    quota = _quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return max(1, math.ceil(min(processors(), quota)))


def _quota(root: Path, membership: Path) -> float:
    """Return the processors' time that a container may use, in processors; infinite if unlimited.

    Groups are nested, and each may have a limit: cgroup v2 has it in ``cpu.max``, "quota period",
    and v1 in two files, below a folder that is named after its controllers.
    """
    limit = math.inf
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:  # not on Linux
        return limit
    for _, controllers, group in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers
        folder = top / group.lstrip("/")
        for place in (folder, *folder.parents):
            limit = min(limit, _group_quota(place))
            if place == top:
                break
    return limit


def _group_quota(folder: Path) -> float:
    """Return the limit of one group, in processors."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = " ".join([(folder / name).read_text() for name in names]).split()
            if quota not in ("max", "-1"):
                return int(quota) / int(period)
    return math.inf
