"""Every backend against the reference in float64, in every cell, option, dtype and size."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from compare import TOLERANCES, assert_close, assert_same_bits
from fastrnn import dispatch
from problems import (
    EVERYTHING,
    FEATURES,
    JUDGED,
    VARIANTS,
    Features,
    Problem,
    Sizes,
    Variant,
    make_problem,
)

NOTHING = Features(bias=False, state=False)
DTYPES = tuple(TOLERANCES)

# Each awkward number in each place; the larger ones together only where it stays quick.
SIZES = [
    Sizes(*sizes)
    for sizes in (
        (1, 1, 1, 2),
        (2, 1, 1, 2),
        (1, 2, 7, 17),
        (7, 1, 17, 33),
        (2, 7, 33, 7),
        (17, 2, 2, 64),
        (7, 33, 1, 17),
        (33, 1, 64, 2),
        (3, 64, 2, 33),
        (64, 3, 7, 7),
        (5, 17, 64, 64),
        (33, 5, 33, 33),
    )
]

variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
judged = pytest.mark.parametrize(("backend", "dtype"), JUDGED)


@pytest.fixture(autouse=True)
def _has_the_cell(request: pytest.FixtureRequest) -> None:
    """A backend may lack a cell: dispatch then refuses it by name, as test_package.py checks."""
    if {"backend", "variant"} <= set(request.fixturenames):
        backend, variant = (request.getfixturevalue(name) for name in ("backend", "variant"))
        if variant.cell not in dispatch.BACKENDS[backend].cells:
            pytest.skip(f"{backend} does not have the cell {variant.cell}")


def check(problem: Problem, backend: str, dtype: str) -> None:
    """Solve in `dtype` and compare with the reference in float64 on the same numbers."""
    expected = problem.astype("float64").solve("numpy")
    found = problem.astype(dtype).solve(backend)
    assert {value.dtype for value in found.values()} == {np.dtype(dtype)}
    assert_close(found, expected, TOLERANCES[dtype])


@variants
@judged
@pytest.mark.parametrize("features", FEATURES, ids=str)
def test_every_feature(variant: Variant, features: Features, dtype: str, backend: str) -> None:
    check(make_problem(variant, Sizes(T=7, B=5, I=3, H=17), features), backend, dtype)


@variants
@judged
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(
    "features", [NOTHING, EVERYTHING, EVERYTHING._replace(reverse=True)], ids=str
)
def test_every_size(
    variant: Variant, features: Features, sizes: Sizes, dtype: str, backend: str
) -> None:
    check(make_problem(variant, sizes, features, seed=1), backend, dtype)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.projected], ids=str)
@judged
@pytest.mark.parametrize("features", [NOTHING, EVERYTHING], ids=str)
@pytest.mark.parametrize("B", [1, 2, 3, 5])
def test_one_unit(variant: Variant, features: Features, B: int, dtype: str, backend: str) -> None:
    check(make_problem(variant, Sizes(7, B, 1, 1), features, seed=2), backend, dtype)


@variants
@dtypes
@pytest.mark.parametrize("features", [NOTHING, EVERYTHING], ids=str)
def test_inference_equals_recording(
    variant: Variant, features: Features, dtype: str, backend: str
) -> None:
    """Recording is compared with the reference above; inference may take another way."""
    problem = make_problem(variant, Sizes(9, 5, 3, 17), features, dtype)
    recorded = problem.solve(backend)
    inferred = problem.infer(backend)
    expected = {name: recorded[name] for name in inferred}
    assert_close(inferred, expected, TOLERANCES[dtype])


@variants
@dtypes
@pytest.mark.parametrize("sizes", [(0, 3, 2, 4), (5, 0, 2, 4), (0, 0, 1, 2)], ids=str)
@pytest.mark.parametrize("features", [NOTHING, EVERYTHING], ids=str)
def test_no_steps_and_no_rows(
    variant: Variant, features: Features, sizes: tuple[int, ...], dtype: str, backend: str
) -> None:
    problem = make_problem(variant, Sizes(*sizes), features, dtype)
    solution = problem.solve(backend)
    assert solution["output"].shape == problem.d_output.shape
    assert solution["d_input"].shape == problem.x.shape
    initial = problem.state or problem.zero_state()
    for name, first, d_last in zip(problem.states, initial, problem.d_state, strict=True):
        assert solution[f"{name}_n"].tobytes() == first.tobytes()
        assert solution[f"d_{name}0"].tobytes() == d_last.tobytes()
        if problem.reset_state is not None:
            assert (solution[f"d_reset_{name}"] == 0).all()
    for name, weight in problem.weights.items():
        assert solution[f"d_{name}"].shape == weight.shape
        assert (solution[f"d_{name}"] == 0).all()


# One gradient alone: a backend may take a shortcut where the other is absent, and get it wrong.
@variants
@dtypes
def test_missing_gradients_are_zeros(variant: Variant, dtype: str, backend: str) -> None:
    problem = make_problem(variant, Sizes(5, 3, 2, 7), EVERYTHING, dtype)
    state = problem.d_state if len(problem.d_state) > 1 else problem.d_state[0]
    zero_output = np.zeros_like(problem.d_output)
    zero_state = problem.zero_state() if len(problem.d_state) > 1 else np.zeros_like(state)
    for short, full in (
        ((None, state), (zero_output, state)),
        ((problem.d_output, None), (problem.d_output, zero_state)),
        ((None, None), (zero_output, zero_state)),
    ):
        tape = problem.call(backend, record=True)
        a, b = tape.backward(*short, retain=True), tape.backward(*full)
        assert_same_bits({"d_input": a.input} | a.parameters, {"d_input": b.input} | b.parameters)


# -- the tape -------------------------------------------------------------------------------------


@variants
@dtypes
@pytest.mark.parametrize("features", [NOTHING, EVERYTHING], ids=str)
def test_tape_runs_backward_twice_if_retained_and_else_once(
    variant: Variant, features: Features, dtype: str, backend: str
) -> None:
    problem = make_problem(variant, Sizes(7, 3, 2, 17), features, dtype)
    tape = problem.call(backend, record=True)
    state = problem.d_state if len(problem.d_state) > 1 else problem.d_state[0]
    runs = [tape.backward(problem.d_output, state, retain=retain) for retain in (True, True, False)]
    first = {"input": runs[0].input} | runs[0].parameters
    for again in runs[1:]:
        assert_same_bits({"input": again.input} | again.parameters, first)
    with pytest.raises(
        ValueError, match=r"^tape: backward has already run and its buffers are gone"
    ):
        tape.backward(problem.d_output, state)


@variants
def test_output_of_a_tape_is_read_only(variant: Variant, backend: str) -> None:
    tape = make_problem(variant, Sizes(3, 2, 2, 4)).call(backend, record=True)
    with pytest.raises(ValueError, match="read-only"):
        tape.output[0, 0, 0] = 1
    if tape.cell_states is not None:
        with pytest.raises(ValueError, match="read-only"):
            tape.cell_states[0, 0, 0] = 1


# -- what goes in ---------------------------------------------------------------------------------


def unaligned(a: np.ndarray) -> np.ndarray:
    buffer = np.zeros(a.nbytes + 1, np.uint8)
    view = buffer[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def every_second(a: np.ndarray) -> np.ndarray:
    buffer = np.full([2 * n for n in a.shape], 1, a.dtype)
    view = buffer[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def read_only(a: np.ndarray) -> np.ndarray:
    view = a.copy()
    view.flags.writeable = False
    return view


def repeated(a: np.ndarray) -> np.ndarray:
    """Every row the first one: stride 0."""
    return np.broadcast_to(a[:1], a.shape)


# How to lay out an array, and what is then true of one with several axes.
LAYOUTS = {
    "negative strides": (lambda a: np.flip(np.flip(a).copy()), lambda a: max(a.strides) < 0),
    "zero strides": (repeated, lambda a: a.strides[0] == 0),
    "transposed": (np.asfortranarray, lambda a: not a.flags.c_contiguous),
    "every second element": (every_second, lambda a: not a.flags.forc),
    "unaligned": (unaligned, lambda a: not a.flags.aligned),
    "big endian": (lambda a: a.astype(a.dtype.newbyteorder(">")), lambda a: not a.dtype.isnative),
    "read only": (read_only, lambda a: not a.flags.writeable),
}


@variants
@dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_arrays_makes_no_difference(
    variant: Variant, layout: str, dtype: str, backend: str
) -> None:
    problem = make_problem(variant, Sizes(5, 3, 4, 6), EVERYTHING, dtype)
    change, is_odd = LAYOUTS[layout]
    odd = problem.map(change)
    assert all(is_odd(a) for a in (odd.x, odd.d_output, *odd.state, odd.weights["weight_hh"]))
    plain = odd.map(lambda a: np.array(a, a.dtype.newbyteorder("="), order="C"))
    assert_same_bits(odd.solve(backend), plain.solve(backend))


@variants
@dtypes
def test_inputs_are_not_changed(variant: Variant, dtype: str, backend: str) -> None:
    problem = make_problem(variant, Sizes(5, 3, 4, 6), EVERYTHING, dtype)
    before = [array.tobytes() for array in problem.arrays()]
    problem.infer(backend)
    problem.solve(backend)
    assert [array.tobytes() for array in problem.arrays()] == before


@variants
@dtypes
def test_results_are_their_own(variant: Variant, dtype: str, backend: str) -> None:
    """No result shares memory with an input, another result or an earlier call's results."""
    problem = make_problem(variant, Sizes(2, 3, 3, 4), EVERYTHING, dtype)
    solution, later = problem.solve(backend), problem.solve(backend)
    arrays = [*solution.values(), *later.values()]
    for k, array in enumerate(arrays):
        for other in [*problem.arrays(), *arrays[:k]]:
            assert not np.shares_memory(array, other)


# -- extreme values -------------------------------------------------------------------------------


@variants
@dtypes
@pytest.mark.parametrize("value", [1e4, -1e4, np.inf, -np.inf, np.nan])
def test_extreme_value_in_one_row_stays_there(
    variant: Variant, value: float, dtype: str, backend: str
) -> None:
    problem = make_problem(variant, Sizes(5, 3, 2, 17), Features(reset=True), dtype)
    problem.x[2, 1, 0] = 0
    plain = problem.solve(backend)
    problem.x[2, 1, 0] = value
    with np.errstate(all="raise"):
        extreme = problem.solve(backend)
    others = [0, 2]
    shared = {f"d_{name}" for name in problem.weights}
    assert shared < plain.keys()
    for name in plain.keys() - shared:
        expected = plain[name].swapaxes(0, -2)[others]
        assert extreme[name].swapaxes(0, -2)[others].tobytes() == expected.tobytes(), name
    if np.isnan(value):
        assert np.isnan(extreme["output"][2, 1]).any()
        assert np.isfinite(extreme["output"][:2]).all()


@variants
@dtypes
@pytest.mark.parametrize("value", [1e4, -1e4, np.inf, -np.inf])
def test_large_values_saturate_as_in_the_reference(
    variant: Variant, value: float, dtype: str, backend: str
) -> None:
    problem = make_problem(variant, Sizes(3, 2, 2, 7), Features(), dtype)
    problem.x[1, :, 1] = value
    found = problem.infer(backend)
    expected = problem.astype("float64").infer("numpy")
    for name, want in expected.items():
        finite = np.isfinite(want)
        # The same infinities (relu has them, and NaN after them); elsewhere as near as ever.
        np.testing.assert_array_equal(found[name][~finite], want[~finite], err_msg=name)
        error = np.abs(found[name][finite] - want[finite])
        assert (error <= 10 * TOLERANCES[dtype].forward * (1 + np.abs(want[finite]))).all(), name
    if variant.options.get("nonlinearity") != "relu":
        assert all(np.isfinite(want).all() for want in expected.values())


@variants
@dtypes
def test_denormal_numbers(variant: Variant, dtype: str, backend: str) -> None:
    tiny = float(np.finfo(dtype).smallest_normal) / 64
    problem = make_problem(variant, Sizes(7, 3, 4, 17), NOTHING, dtype)
    problem.x *= tiny
    problem.d_output *= tiny
    problem.d_state = tuple(d * np.dtype(dtype).type(tiny) for d in problem.d_state)
    found = problem.solve(backend)
    expected = problem.astype("float64").solve("numpy")
    for name, want in expected.items():
        assert (np.abs(found[name] - want) <= 64 * tiny).all(), name
    # A mode in which they are flushed to zero must not be left on in the caller.
    assert np.asarray(tiny, dtype) * np.asarray(0.5, dtype) > 0


@variants
@dtypes
def test_floating_point_state_of_the_caller(variant: Variant, dtype: str, backend: str) -> None:
    """Overflow, underflow and NaN inside raise nothing even where the caller wants errors."""
    problem = make_problem(variant, Sizes(4, 3, 2, 7), EVERYTHING, dtype)
    problem.x[0] = [[1e30, -1e30], [1e-40, np.inf], [np.nan, 1]]
    with np.errstate(divide="raise", over="raise", under="raise", invalid="raise"):
        before = np.geterr()
        problem.infer(backend)
        problem.solve(backend)
        assert np.geterr() == before


# -- anything goes --------------------------------------------------------------------------------


@st.composite
def configurations(draw: st.DrawFn) -> Problem:
    variant = draw(st.sampled_from(VARIANTS))
    smallest = 2 if variant.projected else 1
    sizes = Sizes(
        draw(st.integers(1, 6)),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 5)),
        draw(st.integers(smallest, 9)),
    )
    problem = make_problem(
        variant, sizes, draw(st.sampled_from(FEATURES)), seed=draw(st.integers(0, 99))
    )
    if problem.lengths is not None:
        rows = st.lists(st.integers(0, sizes.T), min_size=sizes.B, max_size=sizes.B)
        problem.lengths = np.array(draw(rows))
        problem = problem.map(lambda a: np.nan_to_num(a, nan=0.5) if a.dtype.kind == "f" else a)
    if problem.reset is not None:
        bits = st.lists(st.booleans(), min_size=problem.reset.size, max_size=problem.reset.size)
        problem.reset = np.array(draw(bits)).reshape(problem.reset.shape)
    return problem


@hypothesis.given(configurations())
def test_any_configuration_equals_the_oracle(backend: str, problem: Problem) -> None:
    if problem.variant.cell in dispatch.BACKENDS[backend].cells:
        assert_close(problem.solve(backend), problem.consult(), TOLERANCES["float64"])
