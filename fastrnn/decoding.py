"""From a state to the tokens that follow: greedy and beam search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from . import states, validation
from .feedforward import Embedding
from .layers import Parametrized
from .sequential import Sequential
from .validation import Array


class Model(Protocol):
    """What is searched: a `Sequential` that begins with an `Embedding`, or what acts like one."""

    def __call__(self, tokens: Array, state: Any, /) -> tuple[Array, Any]:
        """Take tokens (1, B) and a state, return logits (1, B, V) and the next state."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a search found.

    Attributes
    ----------
    tokens
        (N, B) integers, with N the steps that were taken. A row that ended has the stop token
        behind its last token, and from there on.
    lengths
        (B,) integers: how many tokens of each row come before the stop token; all N of a row that
        did not end.
    log_probabilities
        (B,) float64: the logarithm of the probability of each row's tokens, and of the stop token
        that ended it.
    """

    tokens: Array
    lengths: Array
    log_probabilities: Array

    def rows(self) -> list[list[int]]:
        """Return the tokens of each row, as far as its length."""
        return [
            row[:length].tolist() for row, length in zip(self.tokens.T, self.lengths, strict=True)
        ]


def greedy(model: Model, state: Any, *, start: Any, stop: int, max_steps: int) -> Decoded:
    """Take the most probable token at every step: a beam of width 1.

    The arguments, and what they raise, are those of `beam`.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> model = fastrnn.Sequential(
    ...     fastrnn.Embedding(5, 4, seed=1), fastrnn.GRU(4, 8, seed=2), fastrnn.Linear(8, 5, seed=3)
    ... )
    >>> found = greedy(model, None, start=[0, 1, 2], stop=4, max_steps=6)
    >>> found.tokens.shape, found.lengths.shape
    ((6, 3), (3,))
    """
    return beam(model, state, start=start, stop=stop, max_steps=max_steps, width=1)


@np.errstate(all="ignore")  # of inf and NaN, which are results
def beam(
    model: Model,
    state: Any,
    *,
    start: Any,
    stop: int,
    max_steps: int,
    width: int = 4,
    length_penalty: float = 0.0,
) -> Decoded:
    """Keep the `width` best beginnings of each row, and return the best one that came out.

    All hypotheses of all rows take a step in one call of the model. Those that have ended stay in
    the beam as they are, in competition with the others, and take no further part in the calls; nor
    does a row in which no other hypothesis can become better than the best, which has ended.
    What has the same rank as another is decided in favour of the lower index: of the hypothesis in
    the beam, which is ordered, then of the token.

    Parameters
    ----------
    model
        A `Sequential` that begins with an `Embedding` and ends in logits, or any other callable
        that maps tokens (1, B) and a state to logits (1, B, V) and the next state.
    state
        The state before the first step, of B rows, as the model takes it; None for zeros.
    start
        The token that is read first: one, or (B,), one for each row. It is not part of the result.
    stop
        The token that ends a row.
    max_steps
        The most tokens of a row, the stop token among them, at least 1.
    width
        Hypotheses kept for each row, at least 1.
    length_penalty
        Hypotheses are ranked by log-probability / length**length_penalty, their stop token counted;
        0 for the log-probability alone, 1 for its mean; at least 0.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> model = fastrnn.Sequential(
    ...     fastrnn.Embedding(5, 4, seed=1), fastrnn.GRU(4, 8, seed=2), fastrnn.Linear(8, 5, seed=3)
    ... )
    >>> found = beam(model, None, start=0, stop=4, max_steps=6)
    >>> bool(found.log_probabilities[0] >= -6 * np.log(5))
    True
    """
    if isinstance(model, Parametrized):
        need_decoder("model", model)
    steps = validation.positive("max_steps", max_steps)
    width = validation.positive("width", width)
    penalty = validation.number("length_penalty", length_penalty, 0.0)
    stop = validation.non_negative("stop", stop)
    last = _read_start(model, state, start)
    B = len(last)
    found = np.zeros(B)
    rows = np.arange(B)  # (R,) those that the search goes on for
    log_p = np.zeros((B, 1))  # (R, K) of the hypotheses of each, the best first
    lengths = np.zeros((B, 1), np.int64)
    ended = np.zeros((B, 1), bool)
    history: list[tuple[Array, Array, Array]] = []  # rows, and their hypotheses' parents and tokens
    while len(rows) and len(history) < steps:
        alive = ~ended
        logits, state = _step(model, last, state)
        log_q = _log_softmax(_read_logits(logits, len(last), stop))
        R, K, V = *alive.shape, log_q.shape[1]

        # 1. Everything that a hypothesis may become, (R, K, V); one that has ended stays what it is
        scores = np.full((R, K, V), -np.inf)
        scores[alive] = log_p[alive][:, None] + log_q
        scores[ended, stop] = log_p[ended]
        lengths = lengths + alive
        ranks = scores / lengths[..., None] ** penalty

        # 2. The best of it
        chosen = _best(ranks.reshape(R, K * V), min(width, K * V))
        parents, tokens = np.divmod(chosen, V)
        history.append((rows, parents, tokens))
        log_p = np.take_along_axis(scores.reshape(R, K * V), chosen, axis=1)
        lengths = np.take_along_axis(lengths, parents, axis=1)
        ended = np.take_along_axis(ended, parents, axis=1) | (tokens == stop)
        found[rows] = log_p[:, 0]

        # 3. Who goes on: log-probabilities only fall, and none is divided by more than steps can be
        hope = np.where(ended, -np.inf, log_p / steps**penalty).max(axis=1)
        done = ended.all(axis=1) | ended[:, 0] & (hope <= log_p[:, 0] / lengths[:, 0] ** penalty)
        going = ~(ended | done[:, None])
        places = np.cumsum(alive).reshape(R, K) - 1  # of the hypotheses in the call
        sources = np.take_along_axis(places, parents, axis=1)[going]
        if len(sources) != len(last) or (sources != np.arange(len(last))).any():
            state = states.take_rows(state, sources)
        last = tokens[going]
        rows, log_p, lengths, ended = rows[~done], log_p[~done], lengths[~done], ended[~done]
    result = _trace_back(history, B, stop)
    return Decoded(result, (np.cumsum(result == stop, axis=0) == 0).sum(axis=0), found)


def need_decoder(name: str, model: object) -> None:
    """Check that a model can be run over tokens step by step.

    Raises
    ------
    ValueError, TypeError
        If it is no `Sequential` that begins with an `Embedding`, or has no recurrent layer, or one
        that is batch first or bidirectional.
    """
    if not isinstance(model, Sequential) or not isinstance(model.layers[0], Embedding):
        raise TypeError(
            f"{name}: expected a Sequential that begins with an Embedding, got {model!r}"
        )
    states.need_recurrent(name, model)
    states.need_steps(name, model)


def _read_start(model: Model, state: Any, start: Any) -> Array:
    """Return the first token of each row, (B,)."""
    found = validation.integers("start", start)
    first = next(iter(getattr(model, "layers", ())), None)
    if isinstance(first, Embedding):
        found = validation.indices("start", found, first.num_embeddings)
    B = states.rows("state", state)
    if found.ndim:
        return validation.shape("start", found, "B" if B is None else ("B", B))
    return np.full(1 if B is None else B, found)


def _step(model: Model, tokens: Array, state: Any) -> tuple[Array, Any]:
    result = model(tokens[None], state)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"model: expected to return (logits, state), got {type(result).__name__}")
    return result


def _read_logits(value: object, rows: int, stop: int) -> Array:
    logits = validation.floating("logits", value)
    validation.shape("logits", logits, ("T", 1), ("B", rows), "V")
    V = logits.shape[2]
    if not stop < V:
        raise ValueError(f"stop: expected one of the V={V} tokens that the model knows, got {stop}")
    return np.asarray(logits[0])


def _log_softmax(logits: Array) -> Array:
    """Return log softmax of (B, V), in float64: hundreds of them are added up."""
    found = logits.astype(np.float64)
    found -= found.max(axis=1, keepdims=True)
    found -= np.log(np.exp(found).sum(axis=1, keepdims=True))
    return found


def _best(ranks: Array, count: int) -> Array:
    """Return the indices of the `count` highest of each row, highest first, of equals the first."""
    cost = np.where(np.isnan(ranks), np.inf, -ranks)
    if count == 1:
        return np.asarray(cost.argmin(axis=1)[:, None])
    # Without sorting them all; which of the equals at the edge a partition would take is open.
    edge = np.partition(cost, count - 1, axis=1)[:, count - 1 : count]
    below, level = cost < edge, cost == edge
    room = count - below.sum(axis=1, keepdims=True)
    kept = below | (level & (np.cumsum(level, axis=1) <= room))
    found = np.nonzero(kept)[1].reshape(len(ranks), count)
    order = np.argsort(np.take_along_axis(cost, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def _trace_back(history: list[tuple[Array, Array, Array]], batch: int, stop: int) -> Array:
    """Return the tokens of the best hypothesis of each row, (N, B)."""
    result = np.full((len(history), batch), stop)
    at = np.zeros(batch, np.int64)  # where in the beam; the best is the first
    for step in reversed(range(len(history))):
        rows, parents, tokens = history[step]
        here = np.arange(len(rows)), at[rows]
        result[step, rows] = tokens[here]
        at[rows] = parents[here]
    return result
