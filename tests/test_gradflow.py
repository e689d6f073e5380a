"""How gradients flow: term by term, against the backward pass and against plain loops."""

import itertools
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn import cli, gradflow
from fastrnn.character import Checkpoint, Corpus, Options, Trainer
from fastrnn.gradflow import measures
from problems import VARIANTS, Variant

T, B, I, H, P = 7, 4, 3, 5, 2


def make(variant: Variant, layers=1, **options):
    projection = {"proj_size": P} if variant.projected else {}
    row = getattr(fastrnn, variant.cell.upper())
    options = {"dtype": "float64", "seed": 1, **variant.options, **projection, **options}
    return row(I, H, layers, **options)


def like(state, rng):
    """Random numbers in the form of a state."""
    if isinstance(state, tuple):
        return tuple(like(part, rng) for part in state)
    return rng.standard_normal(state.shape).astype(state.dtype)


def assert_close(found, expected, tolerance=1e-12):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * scale, err_msg=name)


# -- the terms sum up to the gradient -------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("sequence", [False, True], ids=["plain", "lengths+reset"])
def test_terms_sum_to_the_gradient(variant, layers, bidirectional, sequence):
    rng = np.random.default_rng(3)
    layer = make(variant, layers, bidirectional=bidirectional, batch_first=sequence)
    x = rng.standard_normal((B, T, I) if sequence else (T, B, I))
    given = {}
    if sequence:
        given = {"lengths": np.array([T, 3, 0, 5]), "reset": rng.random((B, T)) < 0.2}
    state = like(layer(x)[1], rng)
    tape = layer.record(x, state, **given)
    d_output, d_state = like(tape.output, rng), like(tape.state, rng)
    flow = gradflow.analyse(layer, x, d_output, d_state, state, **given)
    assert flow.complete
    assert flow.steps.tolist() == [*range(T), T]
    assert_close(flow.gradients, tape.backward(d_output, d_state).parameters)
    for name, terms in flow.contributions.items():
        assert terms.shape == (T + 1, T)
        assert terms.sum() >= np.linalg.norm(flow.gradients[name]) * (1 - 1e-12)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_each_term_is_what_one_loss_and_one_use_of_the_weights_give(variant, layers):
    """A weight that is used at step k alone, by finite differences of a loss at step t alone."""
    rng = np.random.default_rng(4)
    layer = make(variant, layers)
    x, R = rng.standard_normal((4, 2, I)), P if variant.projected else H
    d_output = rng.standard_normal((4, 2, R))
    flow = gradflow.analyse(layer, x, d_output)

    def loss(t, k, name, index, change):
        """E_t where the weight is another at step k."""
        state, output = None, None
        for step in range(t + 1):
            kept = layer.parameters[name][index]
            if step == k:
                layer.parameters[name][index] += change
            output, state = layer(x[step : step + 1], state)
            layer.parameters[name][index] = kept
        return float((output[0] * d_output[t]).sum())

    t, k, h = 3, 1, 1e-6
    for name, array in layer.parameters.items():
        found = np.array(
            [
                (loss(t, k, name, i, h) - loss(t, k, name, i, -h)) / (2 * h)
                for i in np.ndindex(array.shape)
            ]
        )
        expected = np.linalg.norm(found)
        assert math.isclose(flow.contributions[name][t, k], expected, rel_tol=1e-5), name
        assert flow.contributions[name][1, 2] == 0  # no loss reaches a later step


def test_the_sum_of_the_lecture_in_plain_loops():
    """dE_t/dY_t * dY_t/dS_t * prod(dS_j/dS_{j-1}) * d+S_k/dW, for Y = S of a plain RNN."""
    rng = np.random.default_rng(5)
    steps, units = 5, 3
    layer = fastrnn.RNN(2, units, bias=False, dtype="float64", seed=6)
    x, dy = rng.standard_normal((steps, 2)), rng.standard_normal((steps, units))
    U, W = (layer.parameters[f"weight_{side}_l0"].tolist() for side in ("ih", "hh"))
    states = [[0.0] * units]
    for t in range(steps):
        before = states[-1]
        states.append(
            [
                math.tanh(
                    sum(U[i][j] * x[t][j] for j in range(2))
                    + sum(W[i][j] * before[j] for j in range(units))
                )
                for i in range(units)
            ]
        )
    expected = {"weight_ih_l0": np.zeros((steps, steps)), "weight_hh_l0": np.zeros((steps, steps))}
    d_h = np.zeros((steps, steps))
    for t in range(steps):
        for k in range(t + 1):
            chain = [float(v) for v in dy[t]]
            for j in range(t, k, -1):
                slope = [1 - s * s for s in states[j + 1]]
                chain = [
                    sum(chain[i] * slope[i] * W[i][m] for i in range(units)) for m in range(units)
                ]
            d_h[t, k] = math.hypot(*chain)
            local = [c * (1 - s * s) for c, s in zip(chain, states[k + 1], strict=True)]
            for name, read in (("weight_ih_l0", list(x[k])), ("weight_hh_l0", states[k])):
                terms = [a * float(b) for a in local for b in read]
                expected[name][t, k] = math.hypot(*terms)
    flow = gradflow.analyse(layer, x, dy)
    assert_close(flow.contributions, expected)
    np.testing.assert_allclose(flow.d_h_terms["l0"], d_h, rtol=0, atol=1e-12)


def test_chosen_losses_and_pieces_of_them(monkeypatch):
    rng = np.random.default_rng(7)
    layer = make(VARIANTS[0], 2, bidirectional=True)
    x = rng.standard_normal((T, B, I))
    tape = layer.record(x)
    d_output = like(tape.output, rng)
    whole = gradflow.analyse(layer, x, d_output)
    monkeypatch.setattr(gradflow.analysis, "BYTES", 1)  # one loss at a time
    pieces = gradflow.analyse(layer, x, d_output)
    assert_close(pieces.contributions, whole.contributions)
    assert_close(pieces.gradients, whole.gradients)
    some = gradflow.analyse(layer, x, d_output, steps=[5, 2])
    assert not some.complete
    assert some.steps.tolist() == [2, 5]
    for name, terms in some.contributions.items():
        np.testing.assert_allclose(terms, whole.contributions[name][[2, 5]], atol=1e-14)
    # Of the whole loss, whatever was chosen.
    assert_close(some.d_h, whole.d_h)
    masked = np.zeros_like(d_output)
    masked[[2, 5]] = d_output[[2, 5]]
    assert_close(some.gradients, tape.backward(masked).parameters)
    none = gradflow.analyse(layer, x, d_output, steps=())
    assert_close(none.d_h, whole.d_h)
    assert none.contributions["weight_hh_l0"].shape == (0, T)


def test_long_sequences_take_some_losses():
    layer = fastrnn.RNN(1, 2, seed=1)
    x = np.ones((150, 1, 1), np.float32)
    d_output = np.ones((150, 1, 2), np.float32)
    flow = gradflow.analyse(layer, x, d_output)
    assert len(flow.steps) == 64
    assert not flow.complete
    assert flow.steps[[0, -1]].tolist() == [0, 149]
    assert "not all" in str(flow)
    d_output[:100] = 0  # where there is no loss, nothing is to be looked at
    assert gradflow.analyse(layer, x, d_output).steps.tolist() == list(range(100, 150))


@pytest.mark.parametrize("cell", fastrnn.CELLS)
def test_float32_and_unbatched(cell):
    rng = np.random.default_rng(8)
    layer = getattr(fastrnn, cell.upper())(I, H, 2, seed=2)
    x = rng.standard_normal((T, I)).astype(np.float32)
    tape = layer.record(x)
    d_output, d_state = like(tape.output, rng), like(tape.state, rng)
    flow = gradflow.analyse(layer, x, d_output, d_state)
    assert_close(flow.gradients, tape.backward(d_output, d_state).parameters, 1e-5)


@pytest.mark.parametrize("cell", fastrnn.CELLS)
def test_norms_of_the_states(cell):
    """dE/dS_k, of the loss behind step k, is the gradient by the state that a tape starts from."""
    rng = np.random.default_rng(9)
    layer = getattr(fastrnn, cell.upper())(I, H, dtype="float64", seed=3)
    x, d_output = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    flow = gradflow.analyse(layer, x, d_output)
    state = None
    for k in range(T - 1):
        _, state = layer(x[k : k + 1], state)
        found = layer.record(x[k + 1 :], state).backward(d_output[k + 1 :]).state
        d_h, *d_c = found if isinstance(found, tuple) else (found,)
        assert math.isclose(flow.d_h["l0"][k], np.linalg.norm(d_h[0] + d_output[k]))
        for array in d_c:
            assert math.isclose(flow.d_c["l0"][k], np.linalg.norm(array))
    assert bool(flow.d_c) == (cell == "lstm")


def test_sequential():
    rng = np.random.default_rng(10)
    head = fastrnn.Sequential(fastrnn.Tanh(), fastrnn.Dropout(0.5), fastrnn.Linear(H, 3, seed=1))
    lstm = fastrnn.LSTM(I, H, seed=2)
    model = fastrnn.Sequential(fastrnn.Embedding(9, I, seed=3), lstm, head)
    plain = fastrnn.Sequential(model.layers[0], lstm, head.layers[0], head.layers[2])
    x = rng.integers(0, 9, (T, B))
    tape = plain.record(x)
    d_output, d_state = like(tape.output, rng), like(tape.state, rng)
    flow = gradflow.analyse(model, x, d_output, d_state)
    gradients = tape.backward(d_output, d_state).parameters
    assert_close(flow.gradients, {name: gradients[f"1.{name}"] for name in lstm.parameters}, 1e-5)


# -- singular values, saturation, updates ---------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_singular_values(variant):
    """Against numpy.linalg.svd of Jacobians by finite differences of the layer itself."""
    rng = np.random.default_rng(11)
    layer = make(variant)
    for array in layer.parameters.values():
        array *= 2
    x, reset = rng.standard_normal((T, 2, I)), np.zeros((T, 2), bool)
    reset[3] = True
    lengths = np.array([T, 5])
    found = gradflow.analyse(layer, x, layer(x)[0], lengths=lengths, reset=reset).radius["l0"]
    widths = [array.shape[2] for array in _tuple(layer(x)[1])]
    states = [np.zeros((1, 2, width)) for width in widths]
    for k in range(T):
        values = []
        for b in range(2):
            if k >= lengths[b]:
                continue
            s = np.concatenate([array[0, b] for array in states])

            def step(s, b=b, k=k):
                parts = np.split(s, np.cumsum(widths)[:-1])
                given = tuple(part[None, None] for part in parts)
                state = layer(x[k : k + 1, b : b + 1], given if len(given) > 1 else given[0])[1]
                return np.concatenate([array[0, 0] for array in _tuple(state)])

            h = 1e-6
            J = np.array([(step(s + e) - step(s - e)) / (2 * h) for e in h * np.eye(len(s))]).T
            values.append(np.linalg.svd(J)[1][0])
        if k == 3:
            assert found[k] == 0
            states = [np.zeros_like(array) for array in states]
        else:
            assert max(values) * (1 - 2e-3) <= found[k] <= max(values) * (1 + 1e-6)
        states = list(_tuple(layer(x[k : k + 1], _as_state(states))[1]))


def _tuple(state):
    return state if isinstance(state, tuple) else (state,)


def _as_state(states):
    return tuple(states) if len(states) > 1 else states[0]


def test_singular_values_in_pieces(monkeypatch):
    rng = np.random.default_rng(12)
    layer = make(VARIANTS[-1])
    x = rng.standard_normal((T, B, I))
    d_output = layer(x)[0]
    whole = gradflow.analyse(layer, x, d_output).radius["l0"]
    monkeypatch.setattr(measures, "BYTES", 1)
    pieces = gradflow.analyse(layer, x, d_output).radius["l0"]
    np.testing.assert_allclose(pieces, whole, rtol=2e-3)


def test_product_norms():
    rng = np.random.default_rng(13)
    for rows, B, columns in ((3, 2, 5), (5, 7, 2), (1, 1, 1)):
        a, x = rng.standard_normal((4, B, rows)), rng.standard_normal((B, columns))
        expected = [np.linalg.norm(part.T @ x) for part in a]
        np.testing.assert_allclose(measures.product_norms(a, x), expected, rtol=1e-12)


def test_saturation():
    layer = fastrnn.LSTM(1, 4, seed=1)
    for array in layer.parameters.values():
        array[...] = 0
    bias = layer.parameters["bias_ih_l0"]
    bias[:4] = -9, -9, 9, 0  # i
    bias[4:8] = 9  # f
    bias[8:12] = -9, 9, 9, 0  # g
    x, d_output = np.zeros((6, 2, 1), np.float32), np.ones((6, 2, 4), np.float32)
    found = gradflow.analyse(layer, x, d_output, lengths=np.array([6, 3])).saturation["l0"]
    assert list(found) == ["i", "f", "g", "o"]
    assert (found["i"].low, found["i"].high, found["i"].share) == (0.5, 0.25, 0.75)
    assert found["f"].high == 1
    assert found["f"].mean > 0.99
    assert (found["g"].low, found["g"].high) == (0.25, 0.5)
    assert found["o"] == (0.0, 0.0, 0.5)


def test_saturated_is_what_is_within_a_twentieth_of_a_bound():
    layer = fastrnn.LSTM(1, 4, seed=1)
    for array in layer.parameters.values():
        array[...] = 0
    p = np.array([0.04, 0.06, 0.94, 0.96])
    tanh = np.array([-0.96, -0.94, 0.94, 0.96])
    layer.parameters["bias_ih_l0"][:4] = np.log(p / (1 - p))
    layer.parameters["bias_hh_l0"][8:12] = np.arctanh(tanh)
    x, d_output = np.zeros((2, 1, 1), np.float32), np.ones((2, 1, 4), np.float32)
    found = gradflow.analyse(layer, x, d_output).saturation["l0"]
    for gate in "ig":
        assert found[gate][:2] == (0.25, 0.25)


def test_dead_units():
    layer = fastrnn.RNN(1, 4, nonlinearity="relu", seed=1)
    layer.parameters["weight_ih_l0"][:, 0] = 1, 1, 1, -1
    layer.parameters["weight_hh_l0"][...] = 0
    for name in ("bias_ih_l0", "bias_hh_l0"):
        layer.parameters[name][...] = 0
    x = np.ones((6, 1, 1), np.float32)
    x[:3] = 0  # zero for half of the time is not dead
    found = gradflow.analyse(layer, x, np.ones((6, 1, 4), np.float32)).saturation["l0"]["h"]
    assert found == (0.25, 0.0, 0.375)


def test_update_ratios():
    layer = fastrnn.RNN(1, 4, seed=1)
    updates = {name: array * np.float32(0.25) for name, array in layer.parameters.items()}
    x, d_output = np.ones((3, 1, 1), np.float32), np.ones((3, 1, 4), np.float32)
    flow = gradflow.analyse(layer, x, d_output, updates=updates)
    assert flow.update_ratios == pytest.approx(dict.fromkeys(layer.parameters, 0.25))
    assert "update / weight" in str(flow)
    assert any("an update is 0.25 of" in words for words in flow.verdict.advice)


# -- verdicts -------------------------------------------------------------------------------------


def orthogonal(scale, nonlinearity="tanh", steps=60):
    """A layer whose state stays near zero and whose W_hh is `scale` times an orthogonal matrix."""
    rng = np.random.default_rng(14)
    layer = fastrnn.RNN(2, 8, bias=False, dtype="float64", nonlinearity=nonlinearity, seed=1)
    layer.parameters["weight_hh_l0"][...] = scale * np.linalg.qr(rng.standard_normal((8, 8)))[0]
    return layer, 1e-40 * rng.standard_normal((steps, 3, 2)), rng.standard_normal((steps, 3, 8))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("scale", "kind", "after"),
    [(0.3, "vanishing", 6), (3.0, "exploding", 7), (1.0, "healthy", None)],
)
def test_known_growth(scale, kind, after, reverse):
    """0.3**5 > 1e-3 > 0.3**6, and 3**6 < 1e3 < 3**7: the Jacobian is scale times a rotation."""
    layer, x, d_output = orthogonal(scale)
    if reverse:
        both = fastrnn.RNN(2, 8, bias=False, dtype="float64", bidirectional=True, seed=1)
        for name, array in both.parameters.items():
            array[...] = layer.parameters[name.removesuffix("_reverse")]
        layer, d_output = both, np.concatenate((d_output, d_output), axis=2)
        assert gradflow.analyse(layer, x, d_output).verdict.kind == kind
    flow = gradflow.analyse(layer, x, d_output)
    assert (flow.verdict.kind, flow.verdict.after) == (kind, after)
    assert math.isclose(flow.verdict.rate, scale, rel_tol=1e-6)
    for name, radius in flow.radius.items():
        np.testing.assert_allclose(radius, scale, rtol=1e-6)
        terms = flow.d_h_terms[name]
        for t, k in ((59, 50), (30, 20)) if not name.endswith("reverse") else ((50, 59), (20, 30)):
            assert math.isclose(terms[t, k], terms[t, t] * scale ** abs(t - k), rel_tol=1e-6)
    words = str(flow.verdict)
    assert words.startswith(f"{kind}: in l0 ")
    if kind == "vanishing":
        assert f"after {after} steps (times 0.3 a step" in words
        assert "an LSTM or GRU" in words
    if kind == "exploding":
        assert "clipping" in words
    assert words in str(flow)


def test_the_final_state_alone():
    for scale, after in ((0.3, 6), (0.5, 10)):
        layer, x, _ = orthogonal(scale)
        d_state = np.ones((1, 3, 8))
        flow = gradflow.analyse(layer, x, d_state=d_state)
        assert flow.steps.tolist() == [60]
        assert flow.verdict.after == after


@pytest.mark.parametrize("longest", [60, 59])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
def test_the_final_state_of_rows_that_end_early(longest, bidirectional):
    """Each row starts at its own end: those that join later are no growth."""
    layer, x, _ = orthogonal(0.3)
    if bidirectional:
        both = fastrnn.RNN(2, 8, bias=False, dtype="float64", bidirectional=True, seed=1)
        for name, array in both.parameters.items():
            array[...] = layer.parameters[name.removesuffix("_reverse")]
        layer = both
    lengths = np.array([longest, longest - 5, 0])
    flow = gradflow.analyse(layer, x, d_state=np.ones((1 + bidirectional, 3, 8)), lengths=lengths)
    verdict = flow.verdict
    assert (verdict.kind, verdict.layer, verdict.after) == ("vanishing", "l0", 6)
    assert math.isclose(verdict.rate, 0.3, rel_tol=1e-6)


def test_what_resets_cut_off_has_not_vanished():
    layer, x, d_output = orthogonal(1.0)
    reset = np.zeros((60, 3), bool)
    reset[10::10] = True
    reset[35, 0] = True
    flow = gradflow.analyse(layer, x, d_output, reset=reset)
    assert (flow.verdict.kind, flow.verdict.after) == ("healthy", None)
    assert "over 9 steps (times 1 a step" in flow.verdict.reason
    assert flow.d_h_terms["l0"][25, 19] == 0  # though nothing crosses one
    reset[...] = True
    assert gradflow.analyse(layer, x, d_output, reset=reset).verdict.kind == "none"


@pytest.mark.parametrize("cell", fastrnn.CELLS)
def test_what_a_verdict_rests_on_is_that_of_single_rows(cell, monkeypatch):
    """Each row alone, cut where it is reset, and put together by the number of steps back."""
    rng = np.random.default_rng(18)
    layer = getattr(fastrnn, cell.upper())(I, H, bidirectional=True, dtype="float64", seed=4)
    x, lengths = rng.standard_normal((T, B, I)), np.array([T, 3, 0, 5])
    reset = rng.random((T, B)) < 0.2
    d_output, d_state = rng.standard_normal((T, B, 2 * H)), like(layer(x)[1], rng)
    seen = []
    judge = gradflow.analysis.judge
    monkeypatch.setattr(gradflow.analysis, "judge", lambda *a: seen.append(a[1]) or judge(*a))
    given = {"lengths": lengths, "reset": reset}
    gradflow.analyse(layer, x, d_output, d_state, steps=range(T), **given)
    (evidence,) = seen
    assert [found.name for found in evidence] == ["l0", "l0_reverse"]
    for found in evidence:
        way = 1 if found.name.endswith("reverse") else -1
        squares = np.zeros((2, T + 1, T))
        for b in range(B):
            own = gradflow.analyse(
                layer,
                x[:, b : b + 1],
                d_output[:, b : b + 1],
                _as_state([array[:, b : b + 1] for array in _tuple(d_state)]),
                steps=range(T),
                lengths=lengths[b : b + 1],
                reset=reset[:, b : b + 1],
            )
            terms = [own.d_h_terms, own.d_c_terms] if own.d_c else [own.d_h_terms]
            norms = np.sqrt(sum(part[found.name] ** 2 for part in terms))
            for t in range(T + 1):
                start = t if t < T else 0 if way == 1 else lengths[b] - 1
                if not 0 <= start < lengths[b]:
                    continue
                k = start
                while 0 <= k < lengths[b]:
                    squares[:, t, abs(k - start)] += norms[t, k] ** 2, norms[t, start] ** 2
                    if reset[k, b]:
                        break
                    k += way
        known = squares[1] > 0
        np.testing.assert_array_equal(np.isnan(found.ratios), ~known)
        expected = np.sqrt(squares[0][known] / squares[1][known])
        np.testing.assert_allclose(found.ratios[known], expected, rtol=1e-12)


def test_nothing_flows():
    layer = fastrnn.GRU(1, 2, seed=1)
    x, zero = np.ones((5, 1, 1), np.float32), np.zeros((5, 1, 2), np.float32)
    flow = gradflow.analyse(layer, x, zero)
    assert flow.verdict.kind == "none"
    assert flow.complete
    assert "no gradient" in str(flow)
    one = gradflow.analyse(layer, x[:1], zero[:1] + 1)
    assert one.verdict.kind == "none"


def test_what_is_not_finite_explodes():
    layer = fastrnn.RNN(1, 2, seed=1)
    x, d_output = np.ones((5, 1, 1), np.float32), np.ones((5, 1, 2), np.float32)
    d_output[3, 0, 0] = np.nan
    flow = gradflow.analyse(layer, x, np.full_like(d_output, np.inf))
    assert flow.verdict.kind == "exploding"
    assert np.isnan(gradflow.analyse(layer, x, d_output).gradients["weight_hh_l0"]).any()


def test_nan_on_the_way_explodes():
    layer, x, d_output = orthogonal(1.0)
    layer.parameters["weight_hh_l0"][...] = np.nan
    flow = gradflow.analyse(layer, x, d_output)
    assert (flow.verdict.kind, flow.verdict.after) == ("exploding", 1)
    assert "nan" in str(flow)
    record = gradflow.Monitor(layer)(x, d_output)
    assert record.verdict.kind == "exploding"
    assert np.isnan(record.radius["l0"])


def test_advice_for_gates():
    layer = fastrnn.LSTM(1, 4, seed=1)
    layer.parameters["bias_ih_l0"][4:8] = -9
    x, d_output = np.ones((40, 1, 1), np.float32), np.ones((40, 1, 4), np.float32)
    advice = "; ".join(gradflow.analyse(layer, x, d_output).verdict.advice)
    assert "forget-gate bias of 1 or more (the gate's mean is 0.00)" in advice
    assert "saturated: f 100%" in advice
    gru = fastrnn.GRU(1, 4, seed=1)
    advice = "; ".join(gradflow.analyse(gru, x, d_output).verdict.advice)
    assert "update gate z" in advice


# -- pictures and the monitor ---------------------------------------------------------------------


@pytest.mark.parametrize("cell", fastrnn.CELLS)
def test_picture(cell, tmp_path):
    pytest.importorskip("matplotlib")
    layer = getattr(fastrnn, cell.upper())(I, H, 2, bidirectional=True, seed=1)
    x = np.random.default_rng(1).standard_normal((T, B, I)).astype(np.float32)
    flow = gradflow.analyse(layer, x, np.ones((T, B, 2 * H), np.float32))
    figure = gradflow.picture(flow)
    words = " ".join(t.get_text() for t in figure.texts).replace("\n", " ")
    suptitle = figure.get_suptitle().replace("\n", " ")
    assert suptitle == str(flow.verdict) or words == str(flow.verdict)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0].endswith("weight_hh_l1_reverse")
    # What is drawn is what was found.
    (image,) = figure.axes[0].images
    drawn = image.get_array()
    expected = flow.contributions["weight_hh_l1_reverse"]
    assert np.array_equal(drawn.filled(0), expected)
    # Names of many curves, and of layers below the gates, cover nothing.
    figure.canvas.draw()
    for axes in figure.axes[1:]:
        if (legend := axes.get_legend()) is not None:
            assert legend.get_window_extent().x0 >= axes.get_window_extent().x1
    (names,) = [axes.texts for axes in figure.axes if axes.texts]
    assert [text.get_text() for text in names] == ["l0", "l0\nreverse", "l1", "l1\nreverse"]
    extents = [text.get_window_extent() for text in names]
    for left, right in itertools.pairwise(extents):
        assert left.x1 < right.x0
    path = tmp_path / "flow.png"
    flow.plot(path, "weight_ih_l0")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"^parameter: expected one of 'weight_ih_l0'"):
        flow.plot(path, "weight")
    with pytest.raises(ValueError, match=r"^flow: expected at least one loss step, got none$"):
        gradflow.picture(gradflow.analyse(layer, x, np.ones((T, B, 2 * H), np.float32), steps=[]))


@pytest.mark.parametrize("value", [0, 1, math.inf, math.nan])
def test_pictures_of_odd_flows(value, tmp_path):
    pytest.importorskip("matplotlib")
    layer = fastrnn.LSTM(1, 2, seed=1)
    x = np.ones((5, 1, 1), np.float32)
    d_output = np.full((5, 1, 2), value, np.float32)
    for flow in (
        gradflow.analyse(layer, x, d_output, steps=range(5)),
        gradflow.analyse(layer, x, d_output, steps=[3]),
        gradflow.analyse(layer, x[:1], d_output[:1], steps=[0]),
        gradflow.analyse(layer, x, d_output, lengths=np.array([0]), steps=[0, 1]),
    ):
        flow.plot(tmp_path / "odd.png")
        assert str(flow)


def train(model, monitor, steps, every_step=None):
    rng = np.random.default_rng(15)
    optimizer = fastrnn.SGD(model.parameters, lr=0.1)
    seen = []
    for _ in range(steps):
        x = rng.standard_normal((T, B, I)).astype(np.float32)
        tape = model.record(x)
        _, d_output = fastrnn.mean_squared_error(tape.output, np.zeros_like(tape.output))
        gradients = tape.backward(d_output)
        seen.append((x, d_output, {n: a.copy() for n, a in model.parameters.items()}))
        monitor(x, d_output)
        optimizer.step(gradients.parameters)
    return seen


def test_monitor(tmp_path):
    pytest.importorskip("matplotlib")
    layer = fastrnn.GRU(I, H, seed=1)
    monitor = gradflow.Monitor(layer, every=3)
    with pytest.raises(ValueError, match=r"^history: expected at least one record, got none$"):
        monitor.plot(tmp_path / "none.png")
    seen = train(layer, monitor, 8)
    assert [record.step for record in monitor.history] == [0, 3, 6]
    other = fastrnn.GRU(I, H, seed=1)
    for record in monitor.history:
        x, d_output, parameters = seen[record.step]
        other.load_parameters(parameters)
        flow = gradflow.analyse(other, x, d_output)
        assert_close(record.d_h, flow.d_h)  # no more rows than are looked at
        for gate, found in record.saturation["l0"].items():
            assert found == pytest.approx(flow.saturation["l0"][gate], abs=1e-12)
        if record.step + 1 < len(seen):
            after = seen[record.step + 1][2]
            for name, before in parameters.items():
                ratio = np.linalg.norm(after[name] - before) / np.linalg.norm(before)
                assert math.isclose(record.update_ratios[name], ratio, rel_tol=1e-5)
                assert ratio > 0
        assert np.isfinite(list(record.radius.values())).all()
        assert record.verdict.kind == "healthy"
    monitor.plot(tmp_path / "monitor.png")
    assert (tmp_path / "monitor.png").read_bytes().startswith(b"\x89PNG")


def test_monitor_looks_at_some_rows():
    rng = np.random.default_rng(17)
    layer = fastrnn.LSTM(I, H, 2, bidirectional=True, batch_first=True, dtype="float64", seed=1)
    x, d_output = rng.standard_normal((10, T, I)), rng.standard_normal((10, T, 2 * H))
    given = {"lengths": rng.integers(1, T + 1, 10), "reset": rng.random((10, T)) < 0.2}
    tape = layer.record(x, **given)
    state, d_state = like(tape.state, rng), like(tape.state, rng)
    record = gradflow.Monitor(layer)(x, d_output, d_state, state, **given)
    rows = [0, 2, 5, 7]
    flow = gradflow.analyse(
        layer,
        x[rows],
        d_output[rows],
        *(tuple(array[:, rows] for array in part) for part in (d_state, state)),
        **{name: array[rows] for name, array in given.items()},
    )
    assert_close(record.d_h, flow.d_h)
    assert_close(record.d_c, flow.d_c)


def test_monitor_changes_nothing():
    plain, watched = (fastrnn.LSTM(I, H, seed=1) for _ in range(2))
    train(plain, lambda *_: None, 5)
    train(watched, gradflow.Monitor(watched, every=2), 5)
    for name, array in plain.parameters.items():
        assert array.tobytes() == watched.parameters[name].tobytes()


def test_monitor_looks_only_when_it_is_its_turn():
    monitor = gradflow.Monitor(fastrnn.RNN(I, H), every=2)
    for wrong in ("", None, 3):
        with pytest.raises((ValueError, TypeError)):
            monitor(wrong)
    x = np.ones((T, B, I), np.float32)
    record = monitor(x, np.ones((T, B, H), np.float32))
    assert record is monitor.history[0]
    assert monitor("whatever") is None
    with pytest.raises(ValueError, match=r"^d_output: "):
        monitor("whatever")


def test_pictures_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    x, d_output = np.ones((5, 1, 1), np.float32), np.ones((5, 1, 2), np.float32)
    flow = gradflow.analyse(fastrnn.RNN(1, 2, seed=1), x, d_output)
    words = r"^matplotlib is not installed: pip install 'fastrnn\[cli\]'$"
    with pytest.raises(ModuleNotFoundError, match=words):
        flow.plot("never.png")


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A trained model in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    text = "the quick brown fox jumps over the lazy dog\n" * 40
    Path("text").write_text(text)
    options = Options(hidden=8, batch=4, window=8)
    trainer = Trainer(Corpus.of(text, 4, 8), options, "numpy")
    trainer.step()
    Checkpoint.of(trainer, str(Path("text").resolve())).save("run.safetensors")
    return trainer


def test_command(checkpoint, capsys):
    pytest.importorskip("matplotlib")
    assert cli.main(["gradflow", "run.safetensors", "--steps", "20", "--out", "flow.png"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert Path("flow.png").read_bytes().startswith(b"\x89PNG")
    # The same by hand: the held-out part in rows of 20 characters.
    held_out = checkpoint.corpus.held_out
    rows = (len(held_out) - 1) // 20
    x, targets = (held_out[shift : shift + rows * 20].reshape(rows, 20).T for shift in (0, 1))
    logits, _ = checkpoint.model(x)
    loss, d_logits = fastrnn.softmax_cross_entropy(logits, targets)
    assert (
        f"held out, {Path('text').resolve()}: {rows} x 20 characters, {loss / math.log(2):.3f}"
        in out
    )
    assert str(gradflow.analyse(checkpoint.model, x, d_logits)) in out

    Path("other").write_text("a lazy brown dog, and a quick fox " * 3)
    assert cli.main(["gradflow", "run.safetensors", "--text", "other", "--steps", "100"]) == 0
    assert "other: 1 x 100 characters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: CHECKPOINT"),
        (["absent"], "absent: No such file"),
        (["text"], "text: expected a safetensors file"),
        (["run.safetensors", "--steps", "0"], "steps: expected at least 1, got 0"),
        (["run.safetensors", "--steps", "x"], "--steps: expected a whole number, got 'x'"),
        (["run.safetensors", "--steps", "500"], "text: expected at least 501 characters"),
        (["run.safetensors", "--text", "absent"], "absent: No such file"),
        (["run.safetensors", "--text", "changed", "--steps", "9"], "changed: expected UTF-8"),
        (["run.safetensors", "--out", "flow.pdf"], "out: expected a name that ends in .png"),
        (["run.safetensors", "--out", "no/flow.png"], "out: expected a folder that can be"),
    ],
)
@pytest.mark.usefixtures("checkpoint")
def test_mistakes_are_one_line(capsys, arguments, words):
    Path("changed").write_bytes(b"\xff" * 99)
    assert cli.main(["gradflow", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastrnn: ")
    assert words in err
    assert err.count("\n") == 1
    assert not Path("flow.png").exists()


@pytest.mark.usefixtures("checkpoint")
def test_another_text_is_refused(capsys, monkeypatch):
    Path("text").write_text("something else " * 99)
    assert cli.main(["gradflow", "run.safetensors"]) == 2
    assert "text: expected the one that was trained on, or --text" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["gradflow", "run.safetensors", "--out", "flow.png"]) == 2
    assert "matplotlib is not installed: pip install" in capsys.readouterr().err


@pytest.mark.slow
def test_it_takes_seconds():
    rng = np.random.default_rng(16)
    layer = fastrnn.LSTM(8, 32, seed=1)
    x = rng.standard_normal((500, 8, 8)).astype(np.float32)
    start = time.perf_counter()
    gradflow.analyse(layer, x, np.ones((500, 8, 32), np.float32))
    assert time.perf_counter() - start < 30  # 2 s where nothing else runs
