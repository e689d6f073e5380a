"""Greedy and beam search: against loops over one hypothesis at a time, and all sequences."""

import itertools
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import decoding, states

V, H, STOP = 3, 5, 2


def make(seed: int, vocabulary: int = V, dtype: str = "float64", sharp: float = 4.0) -> Any:
    """A language model with two recurrent layers, whose states have different forms."""
    model = fastrnn.Sequential(
        fastrnn.Embedding(vocabulary, 4, seed=seed, dtype=dtype),
        fastrnn.LSTM(4, H, 2, seed=seed + 1, dtype=dtype),
        fastrnn.GRU(H, H, seed=seed + 2, dtype=dtype),
        fastrnn.Linear(H, vocabulary, seed=seed + 3, dtype=dtype),
    )
    model.parameters["3.weight"] *= sharp  # so that not all sequences are about as probable
    return model


def draw_state(rows: int, seed: int, dtype: str = "float64") -> Any:
    rng = np.random.default_rng(seed)
    h, c, g = (rng.standard_normal((n, rows, H)).astype(dtype) for n in (2, 2, 1))
    return (h, c), g


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def forced(model: Any, state: Any, b: int, start: int, tokens: Any) -> float:
    """The log-probability of tokens, by reading all of them in one call."""
    read = np.array([start, *tokens[:-1]])[:, None]
    logits, _ = model(read, states.take_rows(state, np.array([b])))
    found = log_probabilities(logits[:, 0].astype(np.float64))
    return float(found[np.arange(len(tokens)), list(tokens)].sum())


def outcomes(steps: int, vocabulary: int = V) -> list[tuple[int, ...]]:
    """All that a search may return: up to the stop token, or of `steps` tokens without one."""
    found = set()
    for tokens in itertools.product(range(vocabulary), repeat=steps):
        end = tokens.index(STOP) + 1 if STOP in tokens else steps
        found.add(tokens[:end])
    return sorted(found)


def with_stop(found: decoding.Decoded, b: int) -> list[int]:
    """A row's tokens and its stop token, if it ended."""
    return found.tokens[: found.lengths[b] + 1, b].tolist()


def naive_beam(
    model: Any, state: Any, b: int, start: int, steps: int, width: int, penalty: float
) -> tuple[list[int], float]:
    """The same search for one row, one hypothesis and one step at a time, and to the end."""
    beam: list[tuple[list[int], float, Any]] = [([], 0.0, states.take_rows(state, np.array([b])))]
    for _ in range(steps):
        grown = []
        for tokens, log_p, carried in beam:
            if tokens and tokens[-1] == STOP:
                grown.append((tokens, log_p, carried))
                continue
            logits, following = model(np.array([[tokens[-1] if tokens else start]]), carried)
            for token, log_q in enumerate(log_probabilities(logits[0, 0].astype(np.float64))):
                grown.append(([*tokens, token], log_p + log_q, following))
        grown.sort(key=lambda one: -one[1] / len(one[0]) ** penalty)  # stable
        beam = grown[:width]
    return beam[0][0], beam[0][1]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_a_beam_that_holds_everything_finds_the_best_sequence(seed: int, penalty: float) -> None:
    steps, rows = 4, 3
    model, state = make(seed), draw_state(rows, seed)
    start = np.array([0, 1, 2])
    found = decoding.beam(
        model,
        state,
        start=start,
        stop=STOP,
        max_steps=steps,
        width=V**steps,
        length_penalty=penalty,
    )
    for b in range(rows):
        scores = {o: forced(model, state, b, start[b], o) for o in outcomes(steps)}
        best = max(scores, key=lambda o: scores[o] / len(o) ** penalty)
        assert tuple(with_stop(found, b)) == best
        assert found.log_probabilities[b] == pytest.approx(scores[best], rel=1e-12)


@pytest.mark.parametrize("penalty", [0.0, 0.7])
@pytest.mark.parametrize("width", [1, 2, 4, 7])
@pytest.mark.parametrize("seed", range(4))
def test_a_batch_of_hypotheses_is_searched_like_one_at_a_time(
    seed: int, width: int, penalty: float
) -> None:
    steps, rows = 12, 5
    model, state = make(10 * seed, 6, sharp=3.0), draw_state(rows, seed)
    start = np.arange(rows)
    found = decoding.beam(
        model, state, start=start, stop=STOP, max_steps=steps, width=width, length_penalty=penalty
    )
    for b in range(rows):
        tokens, log_p = naive_beam(model, state, b, b, steps, width, penalty)
        assert with_stop(found, b) == tokens
        assert found.log_probabilities[b] == pytest.approx(log_p, rel=1e-12)
        assert found.log_probabilities[b] == pytest.approx(
            forced(model, state, b, b, tokens), rel=1e-12
        )
        assert (found.tokens[found.lengths[b] :, b] == STOP).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_greedy_takes_the_most_probable_token(dtype: str) -> None:
    steps, rows = 4, 40
    model, state = make(3, 6, dtype, sharp=3.0), draw_state(rows, 1, dtype)
    model.parameters["3.bias"][STOP] += 1
    found = decoding.greedy(model, state, start=1, stop=STOP, max_steps=steps)
    assert 0 < (found.lengths < steps).sum() < rows  # some end, some do not
    for b in range(rows):
        expected: list[int] = []
        carried = states.take_rows(state, np.array([b]))
        while len(expected) < steps and STOP not in expected:
            logits, carried = model(np.array([[expected[-1] if expected else 1]]), carried)
            expected.append(int(logits.argmax()))
        assert with_stop(found, b) == expected
        assert found.rows()[b] == [token for token in expected if token != STOP]
    again = decoding.beam(model, state, start=1, stop=STOP, max_steps=steps, width=1)
    for name in ("tokens", "lengths", "log_probabilities"):
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name), strict=True)
    assert found.tokens.dtype == found.lengths.dtype == np.int64
    assert found.log_probabilities.dtype == np.float64


class Table:
    """A model whose logits depend on the last token alone, and that says how often it is called."""

    def __init__(self, logits: Any) -> None:
        self.logits = np.array(logits, np.float64)
        self.calls: list[list[int]] = []

    def __call__(self, tokens: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        self.calls.append(tokens[0].tolist())
        return self.logits[tokens], state


def test_ties_go_to_the_lower_index() -> None:
    model = Table(np.zeros((4, 4)))
    for width in (1, 2, 3, 5, 100):
        found = decoding.beam(model, None, start=[3, 1], stop=3, max_steps=3, width=width)
        # For a wide beam stopping at once is the best: every token costs as much again.
        expected = [0, 0, 0] if width < 4 else [3]
        for b in range(2):
            assert with_stop(found, b) == expected, width


def test_rows_and_hypotheses_that_have_ended_leave_the_batch() -> None:
    """Token k leads to k + 1 with certainty, nearly, so rows that start later take fewer steps."""
    model = Table(30.0 * np.eye(5)[[1, 2, 3, 4, 4]])
    found = decoding.greedy(model, None, start=[0, 2, 3], stop=4, max_steps=10)
    assert model.calls == [[0, 2, 3], [1, 3], [2], [3]]
    assert found.rows() == [[1, 2, 3], [3], []]
    assert found.lengths.tolist() == [3, 1, 0]
    model.calls.clear()
    # What else is in the beam cannot become better than what has ended: no more calls either.
    found = decoding.beam(model, None, start=[0, 2, 3], stop=4, max_steps=10, width=2)
    assert found.rows() == [[1, 2, 3], [3], []]
    assert [len(call) for call in model.calls] == [3, 4, 2, 2]


def test_a_short_sequence_is_overtaken_where_the_mean_counts() -> None:
    """Stopping at once has the best rank for some steps; what goes on loses nothing more."""
    model = Table(np.log([[0.01, 0.55, 0.44], [0.0101, 0.9799, 0.01], [0.3, 0.3, 0.4]]))
    for penalty, expected in ((0.0, [2]), (1.0, [1] * 9)):
        found = decoding.beam(
            model, None, start=2, stop=2, max_steps=9, width=3, length_penalty=penalty
        )
        assert found.tokens[: len(expected), 0].tolist() == expected
        naive, log_p = naive_beam(model, np.zeros((1, 1, 1)), 0, 2, 9, 3, penalty)
        assert with_stop(found, 0) == naive
        assert found.log_probabilities[0] == pytest.approx(log_p, rel=1e-12)


def test_impossible_tokens_are_never_taken() -> None:
    logits = np.full((3, 3), -np.inf)
    logits[0, 1] = logits[1, 0] = 0
    found = decoding.beam(Table(logits), None, start=0, stop=2, max_steps=4, width=3)
    assert found.tokens[:, 0].tolist() == [1, 0, 1, 0]
    assert found.log_probabilities[0] == 0


def test_nan_is_no_error_and_stays_in_its_row() -> None:
    logits = np.array([[0.0, 5.0, 0.0], [5.0, 0.0, 0.0], [np.nan] * 3])
    for width in (1, 3):
        found = decoding.beam(Table(logits), None, start=[0, 2], stop=2, max_steps=4, width=width)
        alone = decoding.beam(Table(logits), None, start=0, stop=2, max_steps=4, width=width)
        np.testing.assert_array_equal(found.tokens[:, 0], alone.tokens[:, 0])
        assert found.log_probabilities[0] == alone.log_probabilities[0]
        assert np.isnan(found.log_probabilities[1])
    table = Table(np.full((3, 3), np.nan))
    found = decoding.greedy(table, None, start=1, stop=0, max_steps=4)
    assert found.rows() == [[]]  # it took the first token, and was not asked again
    assert table.calls == [[1]]


def test_no_rows() -> None:
    found = decoding.beam(make(1), None, start=np.zeros(0, int), stop=STOP, max_steps=3)
    assert found.tokens.shape == (0, 0)
    assert found.lengths.shape == found.log_probabilities.shape == (0,)
    assert found.rows() == []


def test_the_same_twice_and_nothing_changed() -> None:
    model, state = make(1), draw_state(4, 1)
    arrays = [*states.arrays(state), *model.parameters.values()]
    before = [array.tobytes() for array in arrays]
    one, two = (
        decoding.beam(model, state, start=0, stop=STOP, max_steps=6, width=3) for _ in range(2)
    )
    assert one.tokens.tobytes() == two.tokens.tobytes()
    assert one.log_probabilities.tobytes() == two.log_probabilities.tobytes()
    assert [array.tobytes() for array in arrays] == before
