"""Times of single steps, taken by turns, on the machine as it is and beside busy neighbours."""

from __future__ import annotations

import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from ..bench.measure import wait_for_quiet
from ..threads import processors
from ..validation import Array
from .steppers import Stepper

WARM = 300  # steps at the start of a turn that do not count
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
QUIET, BUSY = "quiet", "busy"
# It ends when the process that started it does.
NEIGHBOUR = """
import os, sys
parent = os.getppid()
sys.stdout.write("x")
sys.stdout.flush()
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""


@dataclass(slots=True)
class Latencies:
    """The times of one contender's steps, in nanoseconds, under one condition.

    Attributes
    ----------
    contender, condition
        Whose, and `QUIET` or `BUSY`.
    how
        How the library was called, where there was a choice.
    """

    contender: str
    condition: str
    how: str = ""
    blocks: list[Array] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many steps."""
        return sum(len(block) for block in self.blocks)

    def histogram(self) -> tuple[Array, Array]:
        """Return the different times, ascending, and how many steps took each."""
        return np.unique(np.concatenate(self.blocks), return_counts=True)

    def quantiles(self) -> dict[str, int]:
        """Return for each of `QUANTILES` the least time that such a share of steps kept to."""
        times, steps = self.histogram()
        sums = np.cumsum(steps)
        wanted = [np.ceil(share * sums[-1]) for share in QUANTILES.values()]
        return dict(zip(QUANTILES, times[np.searchsorted(sums, wanted)].tolist(), strict=True))

    def slower(self) -> tuple[Array, Array]:
        """Return the different times, ascending, and the share of steps that took longer."""
        times, steps = self.histogram()
        return times, 1 - np.cumsum(steps) / steps.sum()


def turn(stepper: Stepper, x: Array, samples: Array, steps: int) -> Array:
    """Take steps, and return the nanoseconds of each, (steps,) int64.

    Each sample is copied into x before its step's first time stamp. A time includes what lies
    between two stamps that follow each other: `steppers.CLOCK` is a stepper that shows it.
    """
    times = array("q", bytes(8 * steps))
    clock, step, n = time.perf_counter_ns, stepper.step, len(samples)
    with stepper.around():
        for k in range(-min(WARM, steps), steps):
            np.copyto(x, samples[k % n])
            before = clock()
            step()
            after = clock()
            if k >= 0:
                times[k] = after - before
    return np.array(times)


def neighbours(threads: int = 1) -> int:
    """Say how many neighbours make the machine busy.

    One for each processor but those of the step's threads, and at least one: so processors are left
    for the step, as a real-time system would see to, while caches, memory, the power budget and the
    scheduler are shared.
    """
    return max(1, processors() - threads)


@contextmanager
def beside(count: int) -> Iterator[None]:
    """Keep so many processors busy with Python loops while the context lasts."""
    # -I -S: nothing is imported, so that they are there soon.
    command = [sys.executable, "-I", "-S", "-c", NEIGHBOUR]
    started: list[subprocess.Popen[bytes]] = []
    try:
        while len(started) < count:
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        for process in started:
            assert process.stdout is not None
            process.stdout.read(1)
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.communicate()


def measure(
    steppers: dict[str, Stepper],
    x: Array,
    samples: Array,
    plan: tuple[int, int],
    conditions: dict[str, int],
    tell: Callable[[float, str], None],
) -> tuple[list[Latencies], bool]:
    """Let all steppers take steps by turns.

    Parameters
    ----------
    steppers
        By name.
    x
        (B, I), what they read.
    samples
        (K, B, I).
    plan
        Steps of each contender under each condition, and in how many rounds. In a round everyone
        has a turn under every condition, so that all see the same machine.
    conditions
        How many neighbours there are under each.
    tell
        Takes the share that is done, and what happens.

    Returns
    -------
    found, complete
        What was measured, the rounds that were whole and no others; whether it is all of it: Ctrl-C
        ends it.
    """
    found = [
        Latencies(name, condition, stepper.how)
        for condition in conditions
        for name, stepper in steppers.items()
    ]
    steps, rounds = plan
    ends = [steps * (k + 1) // rounds for k in range(rounds)]
    done, begin = 0, time.perf_counter()
    try:
        for number, end in enumerate(ends):
            size, blocks = end - done, []
            for condition, count in conditions.items():
                with beside(count):
                    for name, stepper in steppers.items():
                        spent = time.perf_counter() - begin
                        left = f"{spent * (steps - done) / done:.0f} s left  " if done else ""
                        tell(done / steps, f"{left}round {number + 1}  {condition}  {name}")
                        wait_for_quiet()
                        blocks.append(turn(stepper, x, samples, size))
            for latencies, block in zip(found, blocks, strict=True):
                latencies.blocks.append(block)
            done = end
        tell(1.0, f"{steps:,} steps each in {time.perf_counter() - begin:.0f} s")
    except KeyboardInterrupt:
        return [latencies for latencies in found if latencies.blocks], False
    return found, True
