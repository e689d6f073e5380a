"""Measures of one layer in one direction: norms of products, singular values, saturation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..reference import STEPS, consumed_states, input_product
from ..validation import Array
from ..workspace import Call, Forward, State

NEAR = 0.05  # of a bound: an activation that is so near is saturated
CANDIDATES = ("h", "n", "g")  # tanh, or relu; the others are gates between 0 and 1

# Power iteration: it ends when no singular value changes by more than this share of it.
TOLERANCE = 1e-4
MOST_ITERATIONS = 100
BYTES = 1 << 25  # of the pre-activations of rows that are iterated together


class Saturation(NamedTuple):
    """How many activations of a gate are within 0.05 of a bound, and their mean.

    The bounds are 0 and 1, for a candidate (tanh) -1 and 1. For relu, `low` is the share of units
    that are never above 0, and `high` is 0.
    """

    low: float
    high: float
    mean: float

    @property
    def share(self) -> float:
        """Of activations near either bound."""
        return self.low + self.high


def product_norms(a: Array, x: Array) -> Array:
    """Return the Frobenius norms of a[n].T @ x.

    Parameters
    ----------
    a
        (N, B, rows).
    x
        (B, columns).

    Returns
    -------
    norms
        (N,). With x.T = Q R the columns of Q do not change a norm, so it is that of R @ a[n], which
        is smaller than the product where B < columns, and as accurate.
    """
    r = np.linalg.qr(x.T, mode="r")
    return np.asarray(np.linalg.norm(r @ a, axis=(1, 2)))


def radius(
    call: Call, tape: Forward, steps: Array, most_iterations: int = MOST_ITERATIONS
) -> Array:
    """Return the largest singular values of the Jacobians dS_k/dS_{k-1}, (T,).

    S is the hidden state, for the LSTM h and c jointly; the value at k is the largest of all rows
    that are valid there; NaN if there is none, and at steps that are not in `steps`. Where a reset
    replaces the state, the Jacobian is zero.

    By power iteration on J.T @ J for all steps and rows at once. v @ J is the backward step; J @ u
    is a central difference of the forward step. A value is the norm of v @ J for a unit vector v,
    so it is never too large, and its error is of second order in that of v.
    """
    T, B, _ = call.x.shape
    consumed = tuple(
        array[steps].reshape(-1, array.shape[2]) for array in consumed_states(call, tape)
    )
    sequences = (tape.output,) if tape.cells is None else (tape.output, tape.cells)
    produced = tuple(array[steps].reshape(-1, array.shape[2]) for array in sequences)
    records = {
        name: array[steps].reshape(-1, *array.shape[2:]) for name, array in tape.records.items()
    }
    a = input_product(call)[steps].reshape(len(steps) * B, -1)
    found = np.zeros(len(a))
    stride = max(1, BYTES // (a.shape[1] * a.itemsize))
    for start in range(0, len(a), stride):
        rows = slice(start, start + stride)
        found[rows] = _singular_values(
            call,
            a[rows],
            tuple(array[rows] for array in consumed),
            tuple(array[rows] for array in produced),
            {name: array[rows] for name, array in records.items()},
            most_iterations,
        )
    values = np.full((T, B), np.nan)
    values[steps] = found.reshape(-1, B)
    if call.reset is not None:
        values[call.reset & ~np.isnan(values)] = 0
    if call.lengths is not None:
        values[np.arange(T)[:, None] >= call.lengths] = np.nan
    return np.asarray(np.fmax.reduce(values, axis=1))


def _singular_values(
    call: Call, a: Array, consumed: State, produced: State, records: dict[str, Array], most: int
) -> Array:
    step = STEPS[call.cell.name]
    generator = np.random.default_rng(0)
    v = _unit(tuple(generator.standard_normal(array.shape) for array in produced))[0]
    # Of the cube root of the precision: what errs least for a central difference.
    h = 1e-5 * (1 + np.abs(np.concatenate(consumed, axis=1)).max(axis=1, keepdims=True))
    last = np.zeros(len(a))
    for _ in range(most):
        u, sigma = _unit(step.backward(v, consumed, produced, records, call).state)
        # NaN is as good as it gets, too.
        if not (np.abs(sigma - last) > TOLERANCE * sigma).any():
            break
        last = sigma
        ahead, behind = (
            step.forward(a, tuple(s + d * e for s, e in zip(consumed, u, strict=True)), call)[0]
            for d in (h, -h)
        )
        v = _unit(tuple((p - q) / (2 * h) for p, q in zip(ahead, behind, strict=True)))[0]
    return sigma


def _unit(state: State) -> tuple[State, Array]:
    """Return each row divided by its norm (of all arrays together; zero stays), and the norms."""
    norms = np.linalg.norm(np.concatenate(state, axis=1), axis=1)
    scale = np.where(norms > 0, norms, 1)[:, None]
    return tuple(array / scale for array in state), np.asarray(norms)


def median(values: Array) -> float:
    """Return the median of the values that are not NaN; NaN if there is none, and no warning."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def saturation(call: Call, tape: Forward) -> dict[str, Saturation]:
    """Return the saturation of each gate over all valid steps."""
    T, B, R = tape.output.shape
    values = tape.records["gates"] if tape.records else tape.output.reshape(T, B, 1, R)
    valid = np.ones((T, B), bool)
    if call.lengths is not None:
        valid = np.arange(T)[:, None] < call.lengths
    values = values[valid]  # (N, G, H)
    if not len(values):
        return dict.fromkeys(call.cell.gates, Saturation(0.0, 0.0, float("nan")))
    found = {}
    for g, gate in enumerate(call.cell.gates):
        activations = values[:, g]
        mean = float(activations.mean())
        if call.options.get("nonlinearity") == "relu":
            dead = (activations <= 0).all(axis=0)
            found[gate] = Saturation(float(dead.mean()), 0.0, mean)
            continue
        low, high = (-1, 1) if gate in CANDIDATES else (0, 1)
        near_low, near_high = activations < low + NEAR, activations > high - NEAR
        found[gate] = Saturation(float(near_low.mean()), float(near_high.mean()), mean)
    return found
