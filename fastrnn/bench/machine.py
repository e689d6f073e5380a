"""What computes: processor, system, versions, and what the processor can do at most."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .. import dispatch
from ..threads import processors
from ..validation import Array
from .results import Limits, Machine

TURN = 0.02  # seconds of one measurement
TURNS = 5  # of which the best counts: a limit is what can be reached
LINE = 64  # bytes of a line of the cache: a read that touches two takes longer
SIZES = tuple(1 << k for k in range(14, 27, 2))  # bytes: from 16 KB to 64 MB


def describe(threads: int | None, libraries: Iterable[str]) -> Machine:
    """Describe the machine, and measure its limits with one thread and with all that are used.

    Parameters
    ----------
    threads
        How many contenders may use; None: the limits are not wanted.
    libraries
        Names of distributions whose version belongs into the description, if they are installed.
    """
    versions = {"Python": platform.python_version(), "fastrnn": dispatch.version()}
    for name in ("numpy", *libraries):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    isa = dispatch.isa()
    return Machine(
        cpu=_cpu(),
        processors=processors(),
        memory=_memory(),
        system=f"{platform.system()} {platform.release()} ({platform.machine()})",
        isa=isa,
        limits=None if isa is None or threads is None else limits(threads),
        versions=versions,
    )


def limits(threads: int) -> Limits:
    """Measure the limits; the C kernels have to be there."""
    from .._c import ffi, lib

    flops = {n: _rate(lib.fastrnn_multiply_adds, n) for n in sorted({1, threads})}
    bandwidth = {}
    for size in SIZES:
        pointer = ffi.from_buffer(_memory_to_read(size))

        def read(rounds: int, pointer: object = pointer, size: int = size) -> float:
            amount: float = lib.fastrnn_read(pointer, size, rounds)
            return amount

        bandwidth[size] = _rate(read, 1)
    # What is read of a larger array can be read of a smaller one, even where a cache's habits made
    # the smaller one slower: 64 KB, a little more than the nearest cache, took twice as long.
    best = 0.0
    for size in reversed(SIZES):
        best = bandwidth[size] = max(best, bandwidth[size])
    return Limits(flops, bandwidth)


def _memory_to_read(size: int) -> Array:
    """Return so many bytes and maybe more, at the beginning of a line, each page with memory.

    Pages that nobody has written to are all one page of zeros, which stays in the nearest cache.
    """
    data = np.ones(size + LINE, np.uint8)
    return data[-data.ctypes.data % LINE :]


def _rate(work: Callable[[int], float], threads: int) -> float:
    """Return how much of some work is done in a second, by so many threads together."""
    rounds = 1
    while True:
        start = time.perf_counter()
        work(rounds)
        if (taken := time.perf_counter() - start) > TURN / 10:
            break
        rounds *= 4
    rounds = max(1, round(rounds * TURN / taken))
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(TURNS):
            start = time.perf_counter()
            done = sum(pool.map(work, [rounds] * threads))
            best = max(best, done / (time.perf_counter() - start))
    return best


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not on Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None
