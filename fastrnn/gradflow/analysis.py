"""The sum of back-propagation through time, term by term."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import validation
from ..reference import StepGradients, backward_steps
from ..validation import Array
from ..workspace import State
from . import measures
from .fading import Fading
from .measures import Saturation
from .table import table
from .unrolled import Direction, Unrolled, unroll
from .verdict import Evidence, Verdict, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_STEPS = 64  # loss steps that are looked at without being asked for
BYTES = 1 << 27  # of the gradients of one layer's output that go back together
FEW_STEPS, FEW_ITERATIONS = 4, 8  # of singular values, where time counts
WHOLE = -1  # in the place of a loss step: all losses together


@dataclass(frozen=True, slots=True, repr=False)
class GradientFlow:
    """What `analyse` found; all numbers are float64.

    Sizes are T steps and n losses. Layers and directions are called ``l0``, ``l0_reverse``, ``l1``
    and so on, parameters as in the layer (``weight_hh_l0``).

    Attributes
    ----------
    cell
        "rnn", "gru" or "lstm".
    steps
        (n,) the loss steps t that were looked at; T stands for the loss on the final state, the
        last row if there is one.
    complete
        Whether these are all losses.
    contributions
        Parameter to (n, T): the Frobenius norms of
        dE_t/dY_t * dY_t/dS_t * dS_t/dS_k * d+S_k/dW, summed over the rows of the batch.
    gradients
        Parameter to the sum of these terms (not of their norms) over t and k. If `complete`, it is
        what `Tape.backward` gives.
    d_h, d_c
        Layer and direction to (T,): the norms of dE/dh_k and dE/dc_k of the whole loss, whether
        `complete` or not. S = (h, c) is one state: dE/dc_k is what does not go through h_k. `d_c`
        is empty for cells without c.
    d_h_terms, d_c_terms
        The same of each E_t, (n, T).
    radius
        Layer and direction to (T,): the largest singular value of dS_k/dS_{k-1}
        (`measures.radius`); k-1 is the step before in the direction of processing.
    saturation
        Layer and direction to a dict of gate to `Saturation`.
    update_ratios
        Parameter to the norm of its update divided by its own; empty if no updates were given.
    verdict
        What it means, a `Verdict`. Each row of the batch is compared with its own first step, and
        as far as no reset cuts it off.
    """

    cell: str
    steps: Array
    complete: bool
    contributions: dict[str, Array]
    gradients: dict[str, Array]
    d_h: dict[str, Array]
    d_c: dict[str, Array]
    d_h_terms: dict[str, Array]
    d_c_terms: dict[str, Array]
    radius: dict[str, Array]
    saturation: dict[str, dict[str, Saturation]]
    update_ratios: dict[str, float]
    verdict: Verdict

    def __str__(self) -> str:
        return table(self)

    def plot(self, path: str | os.PathLike[str], parameter: str | None = None) -> None:
        """Write `picture` as PNG; it needs matplotlib."""
        self.picture(parameter).savefig(path, format="png")

    def picture(self, parameter: str | None = None) -> Figure:
        """Draw it: `gradflow.picture`."""
        from .picture import picture

        return picture(self, parameter)


@np.errstate(all="ignore")  # inf and NaN are results, not messages
def analyse(
    layer: object,
    x: object,
    d_output: object = None,
    d_state: object = None,
    state: object = None,
    *,
    lengths: object = None,
    reset: object = None,
    steps: object = None,
    updates: Mapping[str, Array] | None = None,
) -> GradientFlow:
    """Say how the gradient of a loss flows back through time.

    The loss is E = sum of E_t, where E_t depends on the output of step t alone, so that
    ``d_output[t]`` is dE_t/dY_t. A loss on the final state is one more.

    Parameters
    ----------
    layer
        `RNN`, `GRU` or `LSTM`, or a `Sequential` with exactly one of them, whose other layers
        treat each step by itself. Dropout is left out. It computes in float64, in NumPy.
    x, state, lengths, reset
        As for the layer's `record`.
    d_output, d_state
        As for `Tape.backward`; at least one of them.
    steps
        The loss steps t to look at, (n,) integers. None takes those where `d_output` is not zero,
        evenly spread ones if there are more than 64, and the final state if `d_state` is given.
        An empty one takes the whole loss alone.
    updates
        What an optimizer added to each parameter of the recurrent layer, under its names.

    Returns
    -------
    GradientFlow

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it.
    """
    unrolled = unroll(layer, x, d_output, d_state, state, lengths, reset)
    ratios = _update_ratios(unrolled, updates)
    losses = losses_of(unrolled.d_output)
    if steps is None:
        taken = losses
        if len(losses) > MOST_STEPS:
            spread = np.linspace(0, len(losses) - 1, MOST_STEPS).round().astype(int)
            taken = losses[spread]
    else:
        taken = np.unique(validation.indices("steps", _list(steps), len(unrolled.d_output)))
    if unrolled.d_state_given and (steps is None or len(taken)):
        taken = np.append(taken, len(unrolled.d_output))
    return measure(unrolled, taken, complete=bool(np.isin(losses, taken).all()), ratios=ratios)


def measure(
    unrolled: Unrolled,
    taken: Array,
    *,
    complete: bool,
    ratios: dict[str, float],
    quick: bool = False,
) -> GradientFlow:
    """Analyse the losses `taken` (T for the final state).

    The quick way leaves out contributions and gradients, and iterates less for singular values, at
    a few steps.
    """
    T = len(unrolled.d_output)
    rows = [WHOLE, *map(int, taken)]
    walk = _Walk(unrolled, len(rows), terms=not quick)
    most = max(1, BYTES // (8 * walk.row_size))
    for start in range(0, len(rows), most):
        walk.go_back(rows[start : start + most], start)
    directions = list(unrolled.directions)
    where = np.linspace(0, T - 1, min(T, FEW_STEPS if quick else T)).round().astype(int)
    most = FEW_ITERATIONS if quick else measures.MOST_ITERATIONS
    radius = {d.name: measures.radius(d.call, d.tape, where, most) for d in directions}
    saturation = {d.name: measures.saturation(d.call, d.tape) for d in directions}
    evidence = [
        Evidence(
            d.name,
            walk.fading[d.name][1:],
            all(np.isfinite(norms[1:]).all() for norms in walk.states[d.name]),
            radius[d.name],
            saturation[d.name],
        )
        for d in directions
    ]
    d_h = {name: norms[0] for name, norms in walk.states.items()}
    d_c = {name: norms[1] for name, norms in walk.states.items() if len(norms) > 1}
    return GradientFlow(
        cell=unrolled.layer.cell.name,
        steps=taken,
        complete=complete,
        contributions={name: norms[1:] for name, norms in walk.norms.items()},
        gradients=walk.gradients,
        d_h={name: norms[0] for name, norms in d_h.items()},
        d_c={name: norms[0] for name, norms in d_c.items()},
        d_h_terms={name: norms[1:] for name, norms in d_h.items()},
        d_c_terms={name: norms[1:] for name, norms in d_c.items()},
        radius=radius,
        saturation=saturation,
        update_ratios=ratios,
        verdict=judge(unrolled.layer.cell, evidence, ratios),
    )


def losses_of(d_output: Array) -> Array:
    """Return the steps t where the gradient is not zero; NaN is not."""
    return np.flatnonzero((d_output != 0).any(axis=(1, 2)))


def _list(steps: Any) -> Any:
    return np.zeros(0, int) if isinstance(steps, list | tuple) and not steps else steps


def _update_ratios(unrolled: Unrolled, updates: object) -> dict[str, float]:
    if updates is None:
        return {}
    parameters = unrolled.layer.parameters
    return update_ratios(validation.mapping("updates", updates, parameters), parameters)


@np.errstate(all="ignore")
def update_ratios(
    updates: Mapping[str, Array], parameters: Mapping[str, Array]
) -> dict[str, float]:
    """Return the norm of each update divided by that of its parameter."""
    return {
        name: float(np.linalg.norm(updates[name]) / np.linalg.norm(array))
        for name, array in parameters.items()
    }


class _Walk:
    """Losses on their way back, each a copy of the batch, and what is measured of them."""

    def __init__(self, unrolled: Unrolled, rows: int, *, terms: bool) -> None:
        self.unrolled = unrolled
        T, self.B, _ = unrolled.d_output.shape
        # Of one loss, as it goes from layer to layer.
        self.row_size = unrolled.d_output.size
        parameters = unrolled.layer.parameters if terms else {}
        self.norms = {name: np.zeros((rows, T)) for name in parameters}
        self.gradients = {name: np.zeros(array.shape) for name, array in parameters.items()}
        self.states = {
            d.name: [np.zeros((rows, T)) for _ in d.call.state] for d in unrolled.directions
        }
        self.fading = {d.name: np.zeros((rows, T)) for d in unrolled.directions}

    def go_back(self, rows: list[int], first: int) -> None:
        """Take these losses (loss steps, WHOLE, or T) back; the first is number `first`."""
        d_y = self._start(rows)
        for layer in reversed(self.unrolled.layers):
            d_x = None
            if layer is not self.unrolled.layers[0]:
                T, _, I = layer[0].call.x.shape
                d_x = np.zeros((T, len(rows) * self.B, I))
            parts = np.split(d_y, len(layer), axis=2)
            for direction, part in zip(layer, parts, strict=True):
                self._through(direction, part, rows, first, d_x)
            if d_x is not None:
                d_y = d_x

    def _start(self, rows: list[int]) -> Array:
        d_output = self.unrolled.d_output
        T, B, R = d_output.shape
        d_y = np.zeros((T, len(rows), B, R))
        for n, t in enumerate(rows):
            if t == WHOLE:
                d_y[:, n] = d_output
            elif t < T:
                d_y[t, n] = d_output[t]
        return d_y.reshape(T, len(rows) * B, R)

    def _final(self, direction: Direction, rows: list[int]) -> State:
        T = len(self.unrolled.d_output)
        has = np.isin(rows, (WHOLE, T)).repeat(self.B)[:, None]
        return tuple(
            np.where(has, np.tile(array, (len(rows), 1)), 0) for array in direction.d_final
        )

    def _through(
        self, direction: Direction, d_y: Array, rows: list[int], first: int, d_x: Array | None
    ) -> None:
        call, n = direction.call, len(rows)
        here = slice(first, first + n)
        terms = slice(1 if rows[0] == WHOLE else 0, n)  # without the whole
        d_final = self._final(direction, rows)
        fading = Fading(call, np.array(rows))
        for k, d_new, step, _ in backward_steps(call, direction.tape, d_y, d_final, n):
            for norms, array in zip(self.states[direction.name], d_new, strict=True):
                norms[here, k] = np.linalg.norm(array.reshape(n, -1), axis=1)
            fading.note(k, d_new)
            if d_x is not None:
                d_x[k] += step.a @ call.weights.ih
            if not self.norms:
                continue
            for name, bias, block, a, b in _factors(step, call.x[k], direction.name):
                losses = a.reshape(n, self.B, -1)
                total = losses[terms].sum(axis=0)
                # The second factor is that of the forward pass, for all losses the same.
                b = b[: self.B]
                self._add(name, here, k, measures.product_norms(losses, b))
                self.gradients[name][block] += total.T @ b
                if bias in self.gradients:
                    self._add(bias, here, k, np.linalg.norm(losses.sum(axis=1), axis=1))
                    self.gradients[bias][block] += total.sum(axis=0)
        self.fading[direction.name][here] = fading.ratios()

    def _add(self, name: str, here: slice, k: int, norms: Array) -> None:
        """Note the norm of a block of a gradient beside those of its other blocks."""
        found = self.norms[name]
        found[here, k] = np.hypot(found[here, k], norms)


def _factors(
    step: StepGradients, x: Array, name: str
) -> Iterator[tuple[str, str | None, slice, Array, Array]]:
    """Yield parameter, its bias, block of rows, and the two factors of its gradient."""
    everything = slice(None)
    yield f"weight_ih_{name}", f"bias_ih_{name}", everything, step.a, x
    start = 0
    for a, h in step.hidden:
        block = slice(start, start := start + a.shape[1])
        yield f"weight_hh_{name}", f"bias_hh_{name}", block, a, h
    if step.projection is not None:
        yield f"weight_hr_{name}", None, everything, *step.projection
