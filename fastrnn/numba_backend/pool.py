"""A few Python threads for compiled loops, which run without the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise

from ..threads import num_threads

# Waking a thread takes some 100 µs, in which one core does about 10 MFLOP.
SHARE = 3e7  # floating-point operations that make a thread worth its while


def ranges(size: int, unit: int, work: float) -> list[tuple[int, int]]:
    """Cut 0 ... size into ranges for the threads that `work` operations are worth.

    All but the last are multiples of `unit`, and none is smaller.
    """
    if work < 2 * SHARE:
        return [(0, size)]
    parts = max(1, min(num_threads(), size // unit, int(work / SHARE)))
    units = size // unit
    edges = [units * k // parts * unit for k in range(parts)] + [size]
    return list(pairwise(edges))


def parallel(task: Callable[[int, int], None], parts: list[tuple[int, int]]) -> None:
    """Run a task on every range at once, the first one here; return when all are done."""
    first, *others = parts
    if not others:
        task(*first)
        return
    futures = [_executor(os.getpid()).submit(task, *part) for part in others]
    try:
        task(*first)
    finally:  # an interrupted call must not leave threads behind that write to its arrays
        wait(futures)
    for future in futures:
        future.result()


@cache
def _executor(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process; a forked child has none of its parent's, and makes anew."""
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), f"fastrnn-{process}")
