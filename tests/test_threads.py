"""Work large enough for several threads, several chunks and memory that is used again."""

import gc
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastrnn
from compare import TOLERANCES, assert_close, assert_same_bits
from fastrnn import workspace
from fastrnn.cells import CELLS
from problems import BACKENDS, VARIANTS, Features, Sizes, Variant, make_problem

EVERYTHING = Features(lengths=True, reset=True, reset_state=True)
# Some 100 MFLOP: two and three threads have rows enough, which do not divide evenly.
LARGE = Sizes(T=33, B=33, I=64, H=64)

FIRST = [next(v for v in VARIANTS if v.cell == name) for name in CELLS]
LSTM = next(v for v in VARIANTS if v.cell == "lstm")

variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)
compiled = pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "numpy"])
one_of_each_cell = pytest.mark.parametrize("variant", FIRST, ids=str)


def forks(test: Callable) -> Callable:
    """Mark a test that forks."""
    warning = "ignore:This process .* is multi-threaded:DeprecationWarning"
    test = pytest.mark.filterwarnings(warning)(test)  # of Python 3.12: just what is tested
    return pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")(test)


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
    for n in (1, 2, 3, 64):
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
    poison.setattr(workspace.BLOCKS, "SMALLEST", 1 << 16)
    problem = make_problem(LSTM, Sizes(T=2, B=200, I=170, H=170), Features(), "float32")
    assert all(array.nbytes > workspace.BLOCKS.SMALLEST for array in (problem.x, *problem.d_state))
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


def in_child(check: Callable[[], bool]) -> None:
    """Run a check in a forked child, which must neither fail nor hang."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(20)  # a hang ends the child
            code = 0 if check() else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0


@forks
def test_forked_child_computes(backend: str) -> None:
    """After threads have worked in the parent: none of them lives on in the child."""
    problem = make_problem(LSTM, LARGE, EVERYTHING, "float32")
    fastrnn.set_num_threads(2)
    expected = problem.solve(backend)

    def same() -> bool:
        found = problem.solve(backend)
        return all(found[name].tobytes() == array.tobytes() for name, array in expected.items())

    in_child(same)
    assert same()


@forks
def test_fork_while_another_thread_allocates() -> None:
    """A lock that the other thread holds stays locked in the child, which has no such thread."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with workspace.BLOCKS.lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(30)
        in_child(lambda: workspace.empty((1 << 20,), np.dtype(np.float32)).size == 1 << 20)
    finally:
        done.set()
        thread.join()


@forks
@compiled
def test_fork_while_another_thread_computes(backend: str) -> None:
    """(The reference's products are NumPy's: its BLAS may hang in the parent then.)"""
    problem = make_problem(LSTM, LARGE, EVERYTHING, "float32")
    fastrnn.set_num_threads(2)
    expected = problem.solve(backend)
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                assert_same_bits(problem.solve(backend), expected)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test shows it below
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    for _ in range(10):
        in_child(lambda: problem.solve(backend)["output"].tobytes() == expected["output"].tobytes())
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert failures == []
