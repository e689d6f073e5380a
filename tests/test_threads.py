"""Work large enough for several threads, several chunks and memory that is used again."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastrnn
from compare import TOLERANCES, assert_close, assert_same_bits
from fastrnn import workspace
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
