"""How times are taken so that they can be believed.

A contender's results are compared with the float64 reference on the same weights before it is
timed; a wrong one gets no time. All contenders of a workload run in one process, in turn, round by
round. Before a turn nobody may compute any longer: the threads of some go on spinning after a call,
those of ONNX Runtime for 50 ms, those of NumPy's BLAS for more than 100. A turn begins with calls
that do not count, for 40 ms: processor, caches and threads take a while to wake up.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..threads import num_threads, set_num_threads
from .contenders import Contender
from .problem import Arrays, Problem, RefusedError, Run
from .results import Row, Timing
from .workloads import Workload

TURN = 0.02  # seconds that a turn takes, unless a call takes longer
PAUSE = 0.02  # seconds in which nobody may compute before a turn begins
LONGEST_PAUSE = 1.0  # seconds
WARM = 0.04  # seconds of calls that do not count
LONG = 0.2  # seconds: a call that takes longer needs none before it
TOLERANCE = 1e-4  # largest error, relative to the largest number of each array
TOO_LONG = 20.0  # seconds of a call: it is made once


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure."""

    threads: int
    rounds: int
    seconds: float  # of a row: when they are over, no further round is begun


Tell = Callable[[str], None]  # what happens within a row


def measure(work: Workload, who: Sequence[Contender], plan: Plan, tell: Tell) -> Row:
    """Measure a row."""
    threads = work.threads or plan.threads
    problem = Problem(work, threads)
    row = Row(
        suite=work.suite,
        name=work.name,
        kind=work.kind,
        cell=work.cell,
        sizes=work.sizes,
        threads=threads,
        flop=work.flop,
        weight_bytes=work.weight_bytes,
    )
    before = num_threads()
    set_num_threads(threads)
    try:
        tell("reference")
        wanted = problem.reference()
        runs: dict[str, Run] = {}
        timings: dict[str, Timing] = {}
        for contender in who:
            tell(contender.name)
            timing, run = check(contender, problem, wanted)
            timings[contender.name] = timing
            if run is not None:
                runs[contender.name] = run
        del wanted
        for name, seconds in interleave(runs, plan, tell).items():
            timings[name] = replace(timings[name], status="timed", seconds=tuple(seconds))
    finally:
        set_num_threads(before)
    return replace(row, timings=tuple(timings.values()))


def check(contender: Contender, problem: Problem, wanted: Arrays) -> tuple[Timing, Run | None]:
    """Let a contender compute once; return how to run it again if its result is right."""
    name = contender.name
    if why := contender.missing():
        return Timing(name, "missing", why), None
    try:
        run = contender.prepare(problem)
        grown = Growth()
        found = run()
        memory = grown.bytes()
    except RefusedError as refusal:
        return Timing(name, "refused", str(refusal)), None
    # A peer's errors are of every kind, and no reason to lose what others can show.
    except Exception as reason:  # noqa: BLE001
        words = f"{type(reason).__name__}: {' '.join(str(reason).split())[:200]}"
        return Timing(name, "failed", words), None
    error = difference(found, wanted)
    if not error <= TOLERANCE:
        why = f"differs from the reference by {error:.1e}, relative to the largest number"
        return Timing(name, "wrong", why, error=error if np.isfinite(error) else None), None
    return Timing(name, "timed", error=error, memory=memory), run


def difference(found: Arrays, wanted: Arrays) -> float:
    """Return the largest difference, relative to the largest number of each array."""
    if [a.shape for a in found] != [b.shape for b in wanted]:
        return float("inf")
    pairs = zip(found, wanted, strict=True)
    with np.errstate(all="ignore"):
        shares = [np.abs(a - b).max() / max(np.abs(b).max(), 1e-30) for a, b in pairs]
    return float(np.max(shares))  # NaN stays NaN


def interleave(runs: dict[str, Run], plan: Plan, tell: Tell) -> dict[str, list[float]]:
    """Return the seconds of a call, round by round; all have equally many."""
    calls: dict[str, int] = {}
    once: dict[str, float] = {}
    for name, run in runs.items():
        tell(name)
        start = time.perf_counter()
        run()
        once[name] = time.perf_counter() - start
        if once[name] < TURN:
            start = time.perf_counter()
            run()
            once[name] = time.perf_counter() - start
        calls[name] = max(1, round(TURN / once[name]))
    if sum(once.values()) > max(TOO_LONG, plan.seconds):
        return {name: [seconds] for name, seconds in once.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    begin = time.perf_counter()
    for number in range(plan.rounds if runs else 0):
        if number >= 2 and time.perf_counter() - begin > plan.seconds:
            break
        found = {}
        for name, run in runs.items():
            tell(f"{name}, round {number + 1}")
            wait_for_quiet()
            start = time.perf_counter()
            while once[name] < LONG:
                run()
                if time.perf_counter() - start >= WARM:
                    break
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            found[name] = (time.perf_counter() - start) / calls[name]
        for name, seconds in found.items():
            times[name].append(seconds)
    return times


def wait_for_quiet() -> None:
    """Wait until no thread of this process computes any longer."""
    start = time.perf_counter()
    while time.perf_counter() - start < LONGEST_PAUSE:
        used = time.process_time()
        time.sleep(PAUSE)
        if time.process_time() - used <= 0.1 * PAUSE:
            return


class Growth:
    """By how much the process grows at most: Linux keeps the largest size, and forgets on request.

    Memory that the process has already got from the system, and has free, does not count.
    """

    def __init__(self) -> None:
        self.before = None
        with contextlib.suppress(OSError):
            with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123 - not a regular file
                file.write("5")
            self.before = self._peak()

    def bytes(self) -> int | None:
        """Return the growth since the start; None where it cannot be told."""
        if self.before is None:
            return None
        return max(0, self._peak() - self.before)

    @staticmethod
    def _peak() -> int:
        with open("/proc/self/status") as file:  # noqa: PTH123
            lines = dict(line.split(":", 1) for line in file)
        return 1024 * int(lines["VmHWM"].split()[0])
