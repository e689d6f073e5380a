"""Filters and curves: the models of a distortion that `amplifier.py` compares a network with.

Block-oriented models of a circuit are linear filters and curves without memory in a row. That of
Wiener and Hammerstein has a filter, a curve and another filter,

    y = after * curve(before * x)             (* is convolution),

so that a filter alone and a curve alone are special cases. Least squares: Gauss and Newton's steps,
damped as by Levenberg (1944) and Marquardt (1963). A curve that bends costs a little, too: else it
would do anything where there is hardly a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

PARTS = ("before", "values", "after")
SPAN = 1024  # samples in a row that are fitted
STIFF = 1e-5  # of the energy of what is wanted: what a slope that changes by 1 costs
CHUNK = 16  # pieces whose derivatives are in memory at a time


@dataclass(frozen=True)
class Blocks:
    """A model y = after * curve(before * x).

    Attributes
    ----------
    before, after
        Taps of the filters, that of the newest sample first.
    knots, values
        (K,) where the curve is bent, ascending, and its values there. It is straight between them,
        and flat outside.
    """

    before: np.ndarray
    knots: np.ndarray
    values: np.ndarray
    after: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return what the model makes of signals (..., T), silence before them."""
        return convolve(self.after, np.interp(convolve(self.before, x), self.knots, self.values))

    @property
    def history(self) -> int:
        """How many samples before it an output depends on."""
        return len(self.before) + len(self.after) - 2


def straight(x: np.ndarray, *, before: int = 1, knots: int = 2, after: int = 1) -> Blocks:
    """Return a model that changes nothing of x: to start from.

    Its knots are close to each other where sounds mostly are, around 0, and reach past the largest.
    """
    at = np.linspace(-1, 1, knots)
    at = 1.5 * np.abs(x).max() * at * np.abs(at)
    return Blocks(np.eye(1, before)[0], at, at, np.eye(1, after)[0])


def convolve(taps: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the filter's output for signals (..., T)."""
    from scipy.signal import oaconvolve

    if len(taps) == 1:
        return taps[0] * x
    return oaconvolve(x, taps.reshape((1,) * (x.ndim - 1) + (-1,)), axes=-1)[..., : x.shape[-1]]


def pieces(
    x: np.ndarray, y: np.ndarray, count: int, history: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw from takes (rows, T) inputs (count, history + SPAN) and what is wanted (count, SPAN)."""
    rows = generator.integers(0, len(x), count)
    starts = generator.integers(0, x.shape[1] - history - SPAN, count)
    cut = [slice(start, start + history + SPAN) for start in starts]
    return (
        np.stack([x[row, part] for row, part in zip(rows, cut, strict=True)]),
        np.stack([y[row, part][history:] for row, part in zip(rows, cut, strict=True)]),
    )


def fit(
    start: Blocks, x: np.ndarray, y: np.ndarray, free: Sequence[str], iterations: int
) -> Blocks:
    """Return the model nearest to what is wanted, y (N, SPAN), from inputs x (N, history + SPAN).

    It minimises Σ (y - model(x))² + STIFF Σ y² Σ (changes of the curve's slope)².

    Of the `PARTS` only those that are free change.
    """
    model, damping = start, 1e-3
    loss = _loss(model, x, y)
    normal = _normal(model, x, y, free)
    for _ in range(iterations):
        gram, slope = normal
        step = np.linalg.solve(gram + damping * np.diag(np.diag(gram) + 1e-9), slope)
        moved = _moved(model, free, step)
        found = _loss(moved, x, y)
        if found < loss:
            model, loss, damping = moved, found, damping / 10
            normal = _normal(model, x, y, free)
        else:
            damping *= 10
    return model


def _moved(model: Blocks, free: Sequence[str], step: np.ndarray) -> Blocks:
    sizes = [len(getattr(model, name)) for name in free]
    steps = np.split(step, np.cumsum(sizes)[:-1])
    return replace(
        model,
        **{name: getattr(model, name) + change for name, change in zip(free, steps, strict=True)},
    )


def _loss(model: Blocks, x: np.ndarray, y: np.ndarray) -> float:
    bends = _bending(model, y) @ model.values
    return float(np.square(y - model(x)[:, model.history :]).sum() + bends @ bends)


def _bending(model: Blocks, y: np.ndarray) -> np.ndarray:
    """Return the matrix (K - 2, K) that makes of a curve's values what its bends cost, as roots."""
    slopes = np.diff(np.eye(len(model.knots)), axis=0) / np.diff(model.knots)[:, None]
    return np.sqrt(STIFF * np.square(y).sum()) * np.diff(slopes, axis=0)


def _normal(
    model: Blocks, x: np.ndarray, y: np.ndarray, free: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return JᵀJ and Jᵀr, r being what is left and J the derivatives by all that is free."""
    bending = _bending(model, y)
    zeros = {name: np.zeros((len(bending), len(getattr(model, name)))) for name in free}
    J = np.concatenate([(zeros | {"values": bending})[name] for name in free], axis=1)
    gram, slope = J.T @ J, -J.T @ (bending @ model.values)
    for k in range(0, len(x), CHUNK):
        part = x[k : k + CHUNK]
        J = np.concatenate([derivatives(model, part, name) for name in free], axis=-1)
        J = J.reshape(-1, len(slope))
        gram += J.T @ J
        slope += J.T @ (y[k : k + CHUNK] - model(part)[:, model.history :]).ravel()
    return gram, slope


def derivatives(model: Blocks, x: np.ndarray, name: str) -> np.ndarray:
    """Return those of the outputs by a part of the model: (N, SPAN, size of the part)."""
    first = len(model.before) - 1
    u = convolve(model.before, x)[:, first:]
    if name == "after":
        s = np.interp(u, model.knots, model.values)
        return delayed(s, len(model.after))
    # Between which knots u is, and how far it has come from the lower one to the upper one.
    gaps = np.diff(model.knots)
    k = np.clip(np.searchsorted(model.knots, u, side="right") - 1, 0, len(gaps) - 1)
    share = np.clip((u - model.knots[k]) / gaps[k], 0, 1)
    if name == "values":
        inner = np.zeros((*u.shape, len(model.knots)))
        np.put_along_axis(inner, k[..., None], 1 - share[..., None], axis=-1)
        np.put_along_axis(inner, k[..., None] + 1, share[..., None], axis=-1)
    else:
        inside = (u > model.knots[0]) & (u < model.knots[-1])
        slopes = inside * (np.diff(model.values) / gaps)[k]
        inner = slopes[..., None] * delayed(x, len(model.before))
    rest = len(model.after) - 1
    return np.moveaxis(convolve(model.after, np.moveaxis(inner, 1, -1)), -1, 1)[:, rest:]


def delayed(x: np.ndarray, taps: int) -> np.ndarray:
    """Return of each sample (N, T) those from itself back in time: (N, T - taps + 1, taps)."""
    return np.lib.stride_tricks.sliding_window_view(x, taps, axis=1)[..., ::-1]
