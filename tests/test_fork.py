"""Child processes: forked at any moment, spawned, and short of what the system may deny."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import fastrnn
from compare import assert_same_bits
from fastrnn import workspace
from fastrnn.threads import num_threads
from problems import BACKENDS, EVERYTHING, LARGE, LSTM, Features, Sizes, Solution, make_problem

if not hasattr(os, "fork"):
    pytest.skip("no fork on this system", allow_module_level=True)

# A fork beside threads is what is tested here; Python 3.12 warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

COMPILED = [name for name in BACKENDS if name != "numpy"]
LINUX = sys.platform == "linux"

Compute = Callable[[], Solution]
Check = Callable[[Solution], None]


def in_child(task: Callable[[], object]) -> None:
    """Run a task in a forked child, which must neither fail nor hang."""
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # a hang ends the child
        code = 1
        try:
            task()
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, it must not get into pytest's frames
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0, "the child failed, or was ended because it hung"


def count_threads() -> int:
    """Of this process, as the system counts them."""
    return len(list(Path("/proc/self/task").iterdir()))


# -- what the threads do when a child is made ------------------------------------------------------


@contextlib.contextmanager
def unused(backend: str, compute: Compute, check: Check) -> Iterator[None]:
    """There are no threads, as they start when they are first needed."""
    if backend == "c":
        from fastrnn import c_backend

        c_backend.lib.fastrnn_stop()  # those of earlier tests
    yield


@contextlib.contextmanager
def used(backend: str, compute: Compute, check: Check) -> Iterator[None]:
    """They have worked, and wait or sleep; and work again afterwards."""
    check(compute())
    yield
    check(compute())


@contextlib.contextmanager
def in_use(backend: str, compute: Compute, check: Check) -> Iterator[None]:
    """They work, for another thread of Python, all the time."""
    begun, stop = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                check(compute())
                begun.set()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is shown below
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        assert begun.wait(30)
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    assert failures == []


# -- how children are made -------------------------------------------------------------------------


def fork(compute: Compute, check: Check) -> None:
    for _ in range(3):  # at different moments
        in_child(lambda: check(compute()))


def nested_fork(compute: Compute, check: Check) -> None:
    def task() -> None:
        check(compute())
        in_child(lambda: check(compute()))
        check(compute())

    in_child(task)


def processes(method: str, count: int, compute: Compute, check: Check) -> None:
    start = (count, fastrnn.set_num_threads, (num_threads(),))
    with multiprocessing.get_context(method).Pool(*start) as pool:
        for result in [pool.apply_async(compute) for _ in range(2 * count)]:
            check(result.get(30))


def name_of(value: Any) -> str:
    if isinstance(value, partial):
        return f"Pool({value.args[0]})"
    return getattr(value, "__name__", str(value))


Children = Callable[[Compute, Check], None]
State = Callable[[str, Compute, Check], AbstractContextManager[None]]

WAYS: list[Children] = [
    fork,
    nested_fork,
    partial(processes, "fork", 2),
    partial(processes, "spawn", 1),
]
STATES: list[State] = [unused, used, in_use]
# Everything for C. The reference's products are NumPy's, whose BLAS may hang if it is in use.
CASES = [("c", *case) for case in itertools.product(STATES, WAYS, (1, 2, 4)) if "c" in BACKENDS]
CASES += [
    ("numba", *case, 2) for case in itertools.product(STATES, WAYS[:2]) if "numba" in BACKENDS
]
CASES += [("numpy", used, way, 1) for way in WAYS[:2]]


@pytest.mark.parametrize(("backend", "state", "children", "threads"), CASES, ids=name_of)
def test_children_compute(backend: str, state: State, children: Children, threads: int) -> None:
    """The bits of the parent, in the child with as many threads, and in the parent meanwhile."""
    problem = make_problem(LSTM, LARGE, EVERYTHING, "float32")
    compute = partial(problem.solve, backend)
    fastrnn.set_num_threads(1)  # which starts none
    expected = compute()
    fastrnn.set_num_threads(threads)
    parent = os.getpid()

    def check(solution: Solution) -> None:
        assert_same_bits(solution, expected)
        if LINUX and backend == "c" and os.getpid() != parent:
            assert count_threads() == threads

    with state(backend, compute, check):
        children(compute, check)


# -- what the system may deny ----------------------------------------------------------------------

linux = pytest.mark.skipif(not LINUX, reason="limits as Linux has them")


@linux
@pytest.mark.parametrize("way", ["infer", "solve"])
# With one thread, as no Python thread starts without memory: `Thread.start` may wait forever.
@pytest.mark.parametrize(("backend", "threads"), [(b, 2 if b == "c" else 1) for b in COMPILED])
def test_no_memory(backend: str, threads: int, way: str, poison: pytest.MonkeyPatch) -> None:
    """Whatever it is that cannot be allocated: MemoryError, and then the next call is right."""
    import resource

    poison.undo()  # it keeps all memory
    problem = make_problem(LSTM, Sizes(T=4, B=32, I=256, H=256), Features(), "float32")
    fastrnn.set_num_threads(threads)
    compute = partial(getattr(problem, way), backend)
    expected = compute()
    megabyte = 1 << 20

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

    def task() -> None:
        workspace.BLOCKS.forget()
        pages = Path("/proc/self/statm").read_text().split()[0]
        size = int(pages) * resource.getpagesize()
        limit(size)
        reserves = []  # of the C library: what it need not ask the system for
        with contextlib.suppress(MemoryError):
            while True:
                reserves.append(bytearray(megabyte))
        failures, solutions = 0, []
        while not solutions:
            try:
                solutions.append(compute())
            except MemoryError:
                failures += 1
                size += megabyte
                limit(size)
        limit(resource.RLIM_INFINITY)
        assert failures > 1
        for solution in (*solutions, compute()):
            assert_same_bits(solution, expected)

    in_child(task)


@linux
@pytest.mark.parametrize("backend", COMPILED)
def test_no_threads(backend: str) -> None:
    """Then one does it all, until others may be started."""
    import resource

    problem = make_problem(LSTM, LARGE, EVERYTHING, "float32")
    fastrnn.set_num_threads(2)
    expected = problem.solve(backend)
    _, most = resource.getrlimit(resource.RLIMIT_NPROC)

    def task() -> None:
        with contextlib.suppress(OSError):
            os.setuid(65534)  # nobody: root may start as many as it wants
        resource.setrlimit(resource.RLIMIT_NPROC, (0, most))
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=int).start()
        for limit, threads in ((0, 1), (most, 2)):
            resource.setrlimit(resource.RLIMIT_NPROC, (limit, most))
            assert_same_bits(problem.solve(backend), expected)
            assert count_threads() == threads

    in_child(task)
