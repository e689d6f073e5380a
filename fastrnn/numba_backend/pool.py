"""A few Python threads for compiled loops, which run without the interpreter's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from itertools import pairwise

# Waking a thread takes some 100 µs, in which one core does about 10 MFLOP.
SHARE = 3e7  # floating-point operations that make a thread worth its while


def ranges(size: int, unit: int, work: float, threads: int) -> list[tuple[int, int]]:
    """Cut 0 ... size into ranges for those of the threads that `work` operations are worth.

    All but the last are multiples of `unit`, and none is smaller.
    """
    if work < 2 * SHARE:
        return [(0, size)]
    parts = max(1, min(threads, size // unit, int(work / SHARE)))
    units = size // unit
    edges = [units * k // parts * unit for k in range(parts)] + [size]
    return list(pairwise(edges))


def parallel(task: Callable[[int, int], None], parts: list[tuple[int, int]]) -> None:
    """Run a task on every range at once, some of them here; return when all are done."""
    if len(parts) == 1:
        task(*parts[0])
        return
    left = deque(parts)

    def work() -> None:
        while True:
            try:
                part = left.popleft()
            except IndexError:  # none is left
                return
            task(*part)

    others = []
    with suppress(RuntimeError):  # no thread can be started: then all is done here
        for _ in parts[1:]:
            # A comprehension would lose those before the one that fails
            others.append(_executor(os.getpid()).submit(work))  # noqa: PERF401
    try:
        work()
    finally:  # an interrupted call must not leave threads behind that write to its arrays
        left.clear()
        wait(others)
    for future in others:
        future.result()


@cache
def _executor(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process; a forked child has none of its parent's, and makes anew."""
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), f"fastrnn-{process}")
