"""Gradient flow while a layer is trained."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .. import validation
from ..validation import Array
from .analysis import losses_of, measure, update_ratios
from .measures import Saturation, median
from .unrolled import recurrent_layer, unroll
from .verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 4  # of a batch that are looked at


@dataclass(slots=True)
class Record:
    """What a `Monitor` found at one training step.

    Attributes
    ----------
    step
        The number of the call, from 0.
    d_h, d_c, saturation, verdict
        As in `GradientFlow`, the verdict by the last loss alone.
    radius
        Layer and direction to the median of the largest singular values of four steps, from eight
        iterations.
    update_ratios
        As in `GradientFlow`; empty until the next call, which sees what has become of the
        parameters.
    """

    step: int
    d_h: dict[str, Array]
    d_c: dict[str, Array]
    radius: dict[str, float]
    saturation: dict[str, dict[str, Saturation]]
    verdict: Verdict
    update_ratios: dict[str, float] = field(default_factory=dict)


class Monitor:
    """Analyse every so many training steps, at little cost, and keep what was found.

    Call it in each training step, between `backward` and the optimizer, with what `record` and
    `backward` were given. It computes the norms of the whole loss, some singular values, the
    saturation and the updates, and not the table over (t, k); of at most 4 rows of the batch.

    An analysis took as long as 1 to 3 training steps of 64 to 128 time steps, 32 to 64 rows and 128
    to 256 units: 2 to 6 % more time with ``every=50``. It goes back step by step in NumPy, some
    50 µs each. With 16 to 32 units that is as long as 14 to 30 training steps, 30 to 60 % more
    time: give a larger `every` there.

    Parameters
    ----------
    layer
        `RNN`, `GRU` or `LSTM`, or a `Sequential` with exactly one of them.
    every
        Analyse each call whose number is a multiple of it.

    Attributes
    ----------
    history
        A `Record` of each analysis.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it.
    """

    def __init__(self, layer: object, every: int = 50) -> None:
        self.layer = layer
        self.every = validation.positive("every", every)
        self.history: list[Record] = []
        self._recurrent = recurrent_layer("layer", layer)
        self._before: dict[str, Array] | None = None
        self._calls = 0

    @np.errstate(all="ignore")
    def __call__(
        self,
        x: object,
        d_output: object = None,
        d_state: object = None,
        state: object = None,
        *,
        lengths: object = None,
        reset: object = None,
    ) -> Record | None:
        """Count a training step, and analyse it if it is its turn.

        Parameters
        ----------
        x, d_output, d_state, state, lengths, reset
            As for `analyse`; they are looked at only then.

        Returns
        -------
        record
            What was found, or None.

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong; the message names it.
        """
        self._note_update()
        step = self._calls
        if step % self.every:
            self._calls += 1
            return None
        unrolled = unroll(self.layer, x, d_output, d_state, state, lengths, reset, MOST_ROWS)
        self._calls += 1
        last = losses_of(unrolled.d_output)[-1:]
        if unrolled.d_state_given:
            last = np.array([len(unrolled.d_output)])
        flow = measure(unrolled, last, complete=False, ratios={}, quick=True)
        record = Record(
            step,
            flow.d_h,
            flow.d_c,
            {name: median(values) for name, values in flow.radius.items()},
            flow.saturation,
            flow.verdict,
        )
        self.history.append(record)
        self._before = {name: array.copy() for name, array in self._recurrent.parameters.items()}
        return record

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Write `picture` as PNG; it needs matplotlib."""
        self.picture().savefig(path, format="png")

    def picture(self) -> Figure:
        """Draw what has changed in training; `ValueError` if nothing was analysed yet."""
        if not self.history:
            raise ValueError("history: expected at least one record, got none")
        from .picture import monitored

        return monitored(self.history)

    def _note_update(self) -> None:
        """Compare the parameters with those at the last call, if it was analysed."""
        if self._before is not None:
            before, self._before = self._before, None
            now = self._recurrent.parameters
            updates = {name: now[name] - array for name, array in before.items()}
            self.history[-1].update_ratios = update_ratios(updates, before)
