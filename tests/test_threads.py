"""Work large enough for several threads, several chunks and memory that is used again."""

import gc
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from compare import TOLERANCES, assert_close, assert_same_bits
from fastrnn import threads, workspace
from problems import (
    BACKENDS,
    EVERYTHING,
    FIRST,
    LARGE,
    LSTM,
    VARIANTS,
    Features,
    Sizes,
    Variant,
    make_problem,
)

variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)
compiled = pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "numpy"])
one_of_each_cell = pytest.mark.parametrize("variant", FIRST, ids=str)


@variants
@compiled
def test_large_work_equals_the_reference(variant: Variant, backend: str) -> None:
    problem = make_problem(variant, LARGE, EVERYTHING)
    expected = problem.solve("numpy")
    for dtype, tolerance in TOLERANCES.items():
        assert_close(problem.astype(dtype).solve(backend), expected, tolerance)


@variants
@compiled
def test_number_of_threads_changes_no_bit(variant: Variant, backend: str) -> None:
    problem = make_problem(variant, LARGE, EVERYTHING, "float32", seed=1)
    solutions = []
    for n in (1, 2, 3, 64, 10**12):
        fastrnn.set_num_threads(n)
        solutions.append(problem.solve(backend))
    for solution in solutions[1:]:
        assert_same_bits(solution, solutions[0])


@one_of_each_cell
@compiled
@pytest.mark.parametrize("reverse", [False, True])
def test_long_work_equals_the_reference(variant: Variant, reverse: bool, backend: str) -> None:
    """Some 600 MFLOP forward: a backend may return to Python between steps."""
    T = {"rnn": 9, "gru": 3, "lstm": 3}[variant.cell]
    features = Features(lengths=True, reset=True, reverse=reverse)
    problem = make_problem(variant, Sizes(T, B=96, I=7, H=600), features)
    assert_close(problem.solve(backend), problem.solve("numpy"), TOLERANCES["float64"])


def test_what_is_kept_of_a_result_stays(backend: str, poison: pytest.MonkeyPatch) -> None:
    """Memory of large results may be used again only when nothing refers to it, not even a view."""
    poison.undo()  # it refers to all memory
    poison.setattr(workspace, "SMALLEST", 1 << 16)
    problem = make_problem(LSTM, Sizes(T=2, B=200, I=170, H=170), Features(), "float32")
    assert all(array.nbytes > workspace.SMALLEST for array in (problem.x, *problem.d_state))
    solution = problem.solve(backend)
    views = {name: array.reshape(-1)[-7:-3] for name, array in solution.items()}
    kept = {name: view.copy() for name, view in views.items()}
    del solution  # but not what the views show
    for _ in range(3):
        gc.collect()
        problem.map(np.negative).solve(backend)
    assert_same_bits(views, kept)


@one_of_each_cell
@compiled
def test_threads_of_the_caller_do_not_meet(variant: Variant, backend: str) -> None:
    """Calls from several threads at once, each with its problem, give what they give alone."""
    problems = [make_problem(variant, LARGE, EVERYTHING, "float32", seed) for seed in range(4)]
    alone = [problem.solve(backend) for problem in problems]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            together = list(pool.map(lambda problem: problem.solve(backend), problems))
            for solution, expected in zip(together, alone, strict=True):
                assert_same_bits(solution, expected)


@pytest.fixture
def wide() -> fastrnn.LSTM:
    """A layer whose step is worth two threads."""
    pytest.importorskip("fastrnn._c")
    fastrnn.set_num_threads(2)
    return fastrnn.LSTM(64, 128, seed=1)


def test_streams_of_threads_of_the_caller_do_not_meet(wide: fastrnn.LSTM) -> None:
    """The pool is one's at a time; who finds it taken works alone."""
    x = np.random.default_rng(1).normal(size=(3000, 1, 64)).astype(np.float32)
    expected, _ = wide(x)
    streams = [fastrnn.Stream(wide, threads=2) for _ in range(3)]

    def run(stream: fastrnn.Stream) -> np.ndarray:
        return np.stack([stream.step(x[t]) for t in range(len(x))])

    with ThreadPoolExecutor(len(streams)) as pool:
        for found in pool.map(run, streams):
            np.testing.assert_array_equal(found, expected)


def workers() -> dict[str, int]:
    """How often each thread of the process has gone to sleep, but for this one."""
    own = str(threading.get_native_id())
    return {
        place.name: int(re.findall(r"^voluntary_ctxt_switches:\s*(\d+)", text, re.MULTILINE)[0])
        for place in Path("/proc/self/task").iterdir()
        if place.name != own and (text := (place / "status").read_text())
    }


@pytest.mark.skipif(sys.platform != "linux", reason="threads as Linux shows them")
def test_who_may_share_a_step(wide: fastrnn.LSTM) -> None:
    """Nobody, if not asked to, or if a step is too short; and no more than the process may have."""
    from fastrnn._c import lib

    x = np.zeros((1, 64), np.float32)
    lib.fastrnn_stop()
    others = len(workers())

    def started(**arguments: int) -> int:
        stream = fastrnn.Stream(wide, **arguments)
        stream.step(x)
        return len(workers()) - others

    assert started() == 0
    small = fastrnn.Stream(fastrnn.LSTM(64, 8), threads=2)
    small.step(x)
    fastrnn.set_num_threads(1)
    assert started(threads=2) == 0
    fastrnn.set_num_threads(2)
    assert started(threads=4) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="threads as Linux shows them")
def test_a_lone_step_wakes_nobody(wide: fastrnn.LSTM) -> None:
    """Waking takes as long as the step; steps that follow each other at once are another matter."""
    from fastrnn._c import lib

    x = np.zeros((1, 64), np.float32)
    stream = fastrnn.Stream(wide, threads=2)
    lib.fastrnn_stop()
    before = workers()
    stream.step(x)
    (worker,) = set(workers()) - set(before)

    def slept() -> int:
        return workers()[worker]

    def wait_until_asleep() -> int:
        while True:
            before = slept()
            time.sleep(0.05)
            if slept() == before:
                return before

    before_steps = wait_until_asleep()
    for _ in range(20):
        stream.step(x)
        time.sleep(0.005)
    assert slept() == before_steps
    deadline = time.monotonic() + 30
    while slept() == before_steps:
        assert time.monotonic() < deadline, "nobody came"
        for _ in range(100):
            stream.step(x)
        time.sleep(0.005)  # so that it may go to sleep again


def test_layers_that_are_called_keep_to_the_threads_of_a_stream() -> None:
    seen = []

    class Probe(fastrnn.Tanh):
        def __call__(self, x: np.ndarray) -> np.ndarray:
            seen.append(threads.num_threads())
            return super().__call__(x)

    fastrnn.set_num_threads(3)
    model = fastrnn.Sequential(Probe(), fastrnn.GRU(2, 3))
    for n in (1, 2, 5):
        fastrnn.Stream(model, threads=n).push(np.zeros((1, 1, 2), np.float32))
    assert seen == [1, 2, 3]
    assert threads.num_threads() == 3
