"""Every workload with every contender, for pytest-benchmark's tables, files and comparisons.

    python -m pytest benchmarks [--full] [--rounds 7] [-k "training and lstm"] [--benchmark-...]

Workloads and contenders are those of `fastrnn.bench`, which also takes the times: interleaved over
all contenders of a workload, after their results were compared with the float64 reference. What
pytest-benchmark sees is a clock that replays them.
"""

import pytest


class Replay:
    """A clock that goes on by what was measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        self.now += 1e-12  # pytest-benchmark waits until a clock moves, to see how fine it is
        return self.now


CLOCK = Replay()


@pytest.mark.benchmark(timer=CLOCK.read)
def test_workload(benchmark, measured, limits, work, contender) -> None:
    row = measured(work)
    timing = next(timing for timing in row.timings if timing.contender == contender.name)
    if timing.status in ("missing", "refused"):
        pytest.skip(f"{contender.name}: {timing.status}, {timing.why}")
    assert timing.status == "timed", timing.why
    benchmark.group = work.title
    benchmark.extra_info["error"] = timing.error
    if (share := row.share(timing, limits)) is not None:
        benchmark.extra_info["share of the limit"], benchmark.extra_info["limit"] = share
    left = iter(timing.seconds)

    def again() -> None:
        CLOCK.now += next(left)

    benchmark.pedantic(again, rounds=len(timing.seconds))
