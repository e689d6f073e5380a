"""Truncated BPTT against sums over single losses by the oracle, and against full BPTT."""

import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest

import fastrnn
import oracle
from compare import TOLERANCES, assert_close
from problems import VARIANTS, Features, Problem, Sizes, Variant, make_problem, pack

T, B, I, H = 11, 3, 2, 4
EXACT = TOLERANCES["float64"]
KS = [(3, 3), (1, 1), (4, 4), (3, 5), (2, 7), (1, 4), (4, 20), (5, 2), (4, 3), (7, 1), (11, 3)]

variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def draw(variant: Variant, features: Features) -> Problem:
    return make_problem(variant, Sizes(T, B, I, H), features)


def make_layer(problem: Problem, backend: str | None) -> Any:
    """A layer with the weights of a problem."""
    hr = problem.weights.get("weight_hr")
    layer = getattr(fastrnn, problem.variant.cell.upper())(
        I,
        H,
        bias="bias_ih" in problem.weights,
        dtype="float64",
        backend=backend,
        **({} if hr is None else {"proj_size": len(hr)}),
        **problem.variant.options,
    )
    layer.load_parameters({f"{name}_l0": array for name, array in problem.weights.items()})
    return layer


def stacked(state: tuple[np.ndarray, ...] | None) -> Any:
    return None if state is None else pack(tuple(part[None] for part in state))


def reach(t: int, k1: int, k2: int) -> int:
    """The first step that the loss of step t may reach, by the definition in truncation.py."""
    start = t - t % k1
    stop = min(start + k1, T)
    if k2 > k1:
        return max(stop - k2, 0)
    pieces_after = (stop - 1 - t) // k2
    return max(stop - (pieces_after + 1) * k2, start)


def run_oracle(problem: Problem, state: Any, part: slice) -> oracle.Forward:
    """Run the oracle over some steps, from a state (nested lists)."""
    lengths = problem.lengths
    if lengths is not None:
        lengths = [min(max(n - part.start, 0), part.stop - part.start) for n in lengths.tolist()]
    reset_state = problem.reset_state
    return oracle.run(
        problem.variant.cell,
        problem.x[part].tolist(),
        {name: w.tolist() for name, w in problem.weights.items()},
        state,
        lengths=lengths,
        reset=None if problem.reset is None else problem.reset[part].tolist(),
        reset_state=None if reset_state is None else tuple(s.tolist() for s in reset_state),
        **problem.variant.options,
    )


@cache
def brute_force(index: int, features: Features, k1: int, k2: int) -> list[dict[str, np.ndarray]]:
    """The gradients of each window, as a sum over the losses of its single steps."""
    problem = draw(VARIANTS[index], features)
    initial = tuple(part.tolist() for part in problem.state or problem.zero_state())
    windows = []
    for start in range(0, T, k1):
        stop = min(start + k1, T)
        first = reach(start, k1, k2)
        total = {f"d_{name}": np.zeros(w.shape) for name, w in problem.weights.items()}
        total |= {"d_input": np.zeros((stop - first, B, I))}
        for name, zeros in zip(problem.states, problem.zero_state(), strict=True):
            total |= {f"d_{name}0": zeros.copy(), f"d_reset_{name}": zeros.copy()}
        for t in range(start, stop):
            origin = reach(t, k1, k2)
            carried = run_oracle(problem, initial, slice(0, origin)).state
            forward = run_oracle(problem, carried, slice(origin, t + 1))
            d_output = np.zeros((t + 1 - origin, *problem.d_output.shape[1:]))
            d_output[-1] = problem.d_output[t]
            zeros = tuple(z.tolist() for z in problem.zero_state())
            found = oracle.gradients(forward, d_output.tolist(), zeros)
            for name in problem.weights:
                total[f"d_{name}"] += found[name]
            total["d_input"][origin - first : t + 1 - first] += found["input"]
            for k, name in enumerate(problem.states):
                total[f"d_reset_{name}"] += found["reset_state"][k]
                if origin == first:
                    total[f"d_{name}0"] += found["state"][k]
        windows.append(total)
    return windows


def named(problem: Problem, gradients: fastrnn.Gradients) -> dict[str, np.ndarray]:
    """The gradients of a window under the names that `brute_force` uses."""
    found = {"d_input": gradients.input}
    found |= {f"d_{name[:-3]}": g for name, g in gradients.parameters.items()}
    for pattern, state in (("d_{}0", gradients.state), ("d_reset_{}", gradients.reset_state)):
        if state is not None:
            parts = state if isinstance(state, tuple) else (state,)
            for name, part in zip(problem.states, parts, strict=True):
                found[pattern.format(name)] = part[0]
    return found


def sequence_of(problem: Problem) -> dict[str, Any]:
    reset_state = stacked(problem.reset_state)
    return {"lengths": problem.lengths, "reset": problem.reset, "reset_state": reset_state}


def test_reach_is_at_most_k2_and_is_k2_for_some() -> None:
    for k1, k2 in itertools.product(range(1, T + 1), range(1, T + 1)):
        spans = [t + 1 - reach(t, k1, k2) for t in range(T)]
        assert max(spans) <= k2
        ends_of_full_windows = range(k1 - 1, T, k1)
        if any(t + 1 >= k2 for t in ends_of_full_windows):
            assert max(spans) == k2


@variants
@pytest.mark.parametrize(("k1", "k2"), KS)
@pytest.mark.parametrize(
    "features",
    [Features(), Features(lengths=True, reset=True, reset_state=True)],
    ids=str,
)
def test_windows_equal_sums_over_single_losses(
    variant: Variant, features: Features, k1: int, k2: int, backend: str
) -> None:
    problem = draw(variant, features)
    whole = problem.consult()
    layer = make_layer(problem, backend)
    run = fastrnn.TruncatedBPTT(layer, k1, k2, state=stacked(problem.state))
    expected = brute_force(VARIANTS.index(variant), features, k1, k2)
    windows = list(run.windows(problem.x, **sequence_of(problem)))
    assert len(windows) == len(expected)
    for n, (window, want) in enumerate(zip(windows, expected, strict=True)):
        assert window.steps == slice(n * k1, min((n + 1) * k1, T))
        assert window.context == window.steps.start - reach(window.steps.start, k1, k2)
        assert_close({"output": window.output}, {"output": whole["output"][window.steps]}, EXACT)
        found = named(problem, window.backward(problem.d_output[window.steps]))
        if problem.reset_state is None:
            want = {name: g for name, g in want.items() if not name.startswith("d_reset_")}
        assert_close(found, want, EXACT)
    for state in (run.state, windows[-1].state):
        parts = state if isinstance(state, tuple) else (state,)
        for name, part in zip(problem.states, parts, strict=True):
            assert_close({name: part[0]}, {name: whole[f"{name}_n"]}, EXACT)


@variants
@pytest.mark.parametrize("k1", [1, 4, 10, T])
def test_k2_of_the_whole_sequence_is_full_bptt(variant: Variant, k1: int, backend: str) -> None:
    problem = draw(variant, Features(reset=True))
    layer = make_layer(problem, backend)
    tape = layer.record(problem.x, stacked(problem.state), reset=problem.reset)
    full = tape.backward(problem.d_output)
    for k2 in (T, T + 2, 3 * T):
        run = fastrnn.TruncatedBPTT(layer, k1, k2, state=stacked(problem.state))
        total = dict.fromkeys(full.parameters, 0.0)
        for window in run.windows(problem.x, reset=problem.reset):
            gradients = window.backward(problem.d_output[window.steps])
            for name, gradient in gradients.parameters.items():
                total[name] = total[name] + gradient
        for name, want in full.parameters.items():
            assert_close({f"d_{name}": total[name]}, {f"d_{name}": want}, EXACT)


@variants
@pytest.mark.parametrize("k2", [None, T, 2 * T])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_window_is_full_bptt_to_the_bit(
    variant: Variant, k2: int | None, dtype: str, backend: str
) -> None:
    problem = make_problem(variant, Sizes(T, B, I, H), Features(lengths=True, reset=True), dtype)
    kind = getattr(fastrnn, variant.cell.upper())
    layer = kind(I, H, num_layers=2, dtype=dtype, seed=1, backend=backend, **variant.options)
    sequence = {"lengths": problem.lengths, "reset": problem.reset}
    d_output = np.random.default_rng(2).standard_normal((T, B, H)).astype(dtype)
    tape = layer.record(problem.x, **sequence)
    window = fastrnn.TruncatedBPTT(layer, T, k2).record(problem.x, **sequence)
    assert window.output.tobytes() == tape.output.tobytes()
    full, found = tape.backward(d_output), window.backward(d_output)
    assert found.input.tobytes() == full.input.tobytes()
    for name, want in full.parameters.items():
        assert found.parameters[name].tobytes() == want.tobytes(), name


@variants
def test_context_runs_again_with_the_parameters_of_its_window(variant: Variant) -> None:
    """From the state that was carried to its start, which older parameters have made."""
    k1, k2 = 2, 5
    problem = draw(variant, Features(reset=True))
    layer = make_layer(problem, "numpy")
    run = fastrnn.TruncatedBPTT(layer, k1, k2, state=stacked(problem.state))
    rng = np.random.default_rng(3)
    state, first = tuple(part.tolist() for part in problem.state), 0
    for window in run.windows(problem.x, reset=problem.reset):
        stop = window.steps.stop
        before = problem.map(np.copy)
        forward = run_oracle(before, state, slice(first, stop))
        d_output = np.zeros((stop - first, *problem.d_output.shape[1:]))
        d_output[window.context :] = problem.d_output[window.steps]
        zeros = tuple(z.tolist() for z in problem.zero_state())
        expected = oracle.gradients(forward, d_output.tolist(), zeros)
        output = np.array(forward.output)[window.context :]
        assert_close({"output": window.output}, {"output": output}, EXACT)
        gradients = window.backward(problem.d_output[window.steps])
        for name, array in problem.weights.items():
            found = {f"d_{name}": gradients.parameters[f"{name}_l0"]}
            assert_close(found, {f"d_{name}": np.array(expected[name])}, EXACT)
            # An optimizer's step, in the layer and in the problem alike.
            array += 0.1 * rng.standard_normal(array.shape)
            layer.parameters[f"{name}_l0"][...] = array
        # The next context starts from a state of this run: older parameters have made it.
        following = max(min(stop + k1, T) - k2, 0)
        state = run_oracle(before, state, slice(first, following)).state
        first = following


def test_state_is_carried_and_a_new_one_starts_a_sequence() -> None:
    layer = fastrnn.GRU(I, H, seed=1, dtype="float64")
    x = np.random.default_rng(2).standard_normal((8, B, I))
    _, last = layer(x)
    run = fastrnn.TruncatedBPTT(layer, 2, 4)
    assert run.state is None
    first = [window.output for window in run.windows(x[:6])]
    window = run.record(x[6:])
    assert (window.steps, window.context) == (slice(6, 8), 2)
    np.testing.assert_allclose(run.state, last, rtol=1e-13)

    run.state = None
    again = list(run.windows(x[:6]))
    assert [window.context for window in again] == [0, 2, 2]
    assert again[0].steps == slice(0, 2)
    for window, output in zip(again, first, strict=True):
        np.testing.assert_array_equal(window.output, output)

    run.state = np.ones((1, B, H))
    np.testing.assert_array_equal(run.record(x[:2]).output, layer(x[:2], np.ones((1, B, H)))[0])


@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (2, 5), (4, 2)])
def test_unbatched_sequence_is_a_batch_of_one(k1: int, k2: int) -> None:
    layer = fastrnn.LSTM(I, H, seed=1, dtype="float64")
    rng = np.random.default_rng(2)
    x, d_output = rng.standard_normal((T, I)), rng.standard_normal((T, H))
    reset = np.arange(T) == 6
    run, full = fastrnn.TruncatedBPTT(layer, k1, k2), fastrnn.TruncatedBPTT(layer, k1, k2)
    pairs = zip(
        run.windows(x, lengths=9, reset=reset),
        full.windows(x[:, None], lengths=np.array([9]), reset=reset[:, None]),
        strict=True,
    )
    for window, wanted in pairs:
        np.testing.assert_array_equal(window.output, wanted.output[:, 0], strict=True)
        found = window.backward(d_output[window.steps])
        expected = wanted.backward(d_output[window.steps, None])
        for name, want in expected.parameters.items():
            np.testing.assert_array_equal(found.parameters[name], want, strict=True)


@pytest.mark.parametrize("unbatched", [False, True])
def test_resets_and_lengths_may_be_given_for_some_windows_only(unbatched: bool) -> None:
    layer = fastrnn.RNN(I, H, seed=1, dtype="float64")
    x = np.random.default_rng(2).standard_normal((6, B, I))
    mask = np.zeros((6, B), bool)
    mask[3, 1] = True
    lengths = np.array([6, 5, 6])
    if unbatched:
        x, mask, lengths = x[:, 1], mask[:, 1], lengths[1]
    run = fastrnn.TruncatedBPTT(layer, 2, 6)
    outputs = [
        run.record(x[:2]).output,
        run.record(x[2:4], reset=mask[2:4]).output,
        run.record(x[4:], lengths=lengths - 4).output,
    ]
    expected, _ = layer(x, lengths=lengths, reset=mask)
    np.testing.assert_allclose(np.concatenate(outputs), expected, rtol=1e-13)


def test_row_that_ended_in_the_context_cannot_go_on() -> None:
    """The window would have to leave its padding out in the middle; zeros would be a silent lie."""
    layer = fastrnn.RNN(I, H, seed=1)
    x = np.ones((6, B, I), np.float32)
    run = fastrnn.TruncatedBPTT(layer, 2, 4)
    run.record(x[:2], lengths=np.array([2, 1, 2]))
    for lengths in (np.array([2, 1, 2]), None):
        with pytest.raises(ValueError, match="lengths: expected 0 for a row that ended"):
            run.record(x[2:4], lengths=lengths)
    assert (run.record(x[2:4], lengths=np.array([2, 0, 2])).output[:, 1] == 0).all()
    # Without a context there is no such window: the row goes on from its state.
    run = fastrnn.TruncatedBPTT(layer, 2, 2)
    run.record(x[:2], lengths=np.array([2, 1, 2]))
    row = run.record(x[2:4]).output[:, 1]
    np.testing.assert_allclose(row, layer(x[:3, 1])[0][1:], rtol=1e-6)


@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (2, 6), (4, 2)])
def test_sequential_model(k1: int, k2: int) -> None:
    model = fastrnn.Sequential(
        fastrnn.Embedding(7, I, dtype="float64", seed=1),
        fastrnn.LSTM(I, H, 2, dtype="float64", seed=2),
        fastrnn.GRU(H, H, dtype="float64", seed=3),
        fastrnn.Linear(H, 3, dtype="float64", seed=4),
    )
    rng = np.random.default_rng(5)
    x, d_output = rng.integers(0, 7, (T, B)), rng.standard_normal((T, B, 3))
    whole, last = model(x)
    run = fastrnn.TruncatedBPTT(model, k1, k2)
    for window in run.windows(x):
        np.testing.assert_allclose(window.output, whole[window.steps], rtol=1e-12)
        found = window.backward(d_output[window.steps])
        assert found.input is None
        # By hand: from the state before, and only as far back as a gradient may flow.
        start, stop = window.steps.start - window.context, window.steps.stop
        edges = [start, *([] if k2 >= k1 else range(stop - k2, start, -k2)), stop]
        expected = dict.fromkeys(found.parameters, 0.0)
        for a, b in itertools.pairwise(sorted(edges)):
            state = model(x[:a])[1] if a else None
            d = np.zeros((b - a, B, 3))
            new = max(a, window.steps.start)
            d[new - a :] = d_output[new:b]
            for name, g in model.record(x[a:b], state).backward(d).parameters.items():
                expected[name] = expected[name] + g
        for name, want in expected.items():
            assert_close({f"d_{name}": found.parameters[name]}, {f"d_{name}": want}, EXACT)
    for a, b in zip(run.state, last, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_window_without_a_loss_has_no_gradient() -> None:
    layer = fastrnn.LSTM(I, H, seed=1)
    run = fastrnn.TruncatedBPTT(layer, 2, 4)
    for window in run.windows(np.ones((6, B, I), np.float32)):
        gradients = window.backward(None)
        assert (gradients.input == 0).all()
        assert all((g == 0).all() for g in gradients.parameters.values())
        with pytest.raises(ValueError, match=r"^tape: backward has already run"):
            window.backward(None)


@pytest.mark.parametrize("model", ["text", fastrnn.LSTMCell(1, 2), fastrnn.Linear(1, 2), None])
def test_other_models_are_refused(model: Any) -> None:
    with pytest.raises(TypeError, match=r"^model: expected RNN, GRU, LSTM or Sequential, got"):
        fastrnn.TruncatedBPTT(model, 2)


def test_reset_state_without_resets_is_refused() -> None:
    run = fastrnn.TruncatedBPTT(fastrnn.RNN(1, 2, seed=0), 2)
    x = np.ones((4, 3, 1), np.float32)
    with pytest.raises(ValueError, match=r"^reset_state: expected None because reset is None"):
        next(run.windows(x, reset_state=np.ones((1, 3, 2), np.float32)))
