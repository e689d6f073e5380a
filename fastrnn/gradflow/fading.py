"""How losses fade on their way back, by the number of steps."""

from __future__ import annotations

import numpy as np

from ..validation import Array
from ..workspace import Call, State


class Fading:
    """The gradient by the state n steps back from a loss, beside that at the loss's own step.

    Row by row of the batch: a loss on the final state begins at each row's last valid step, so that
    at one step k the rows may be at different n; and a row counts only as far as no reset cuts it
    off, which says nothing of the network.

    Parameters
    ----------
    call
        The layer and direction.
    steps
        (n,) the loss steps; T stands for the final state, and negative ones are left out.
    """

    def __init__(self, call: Call, steps: Array) -> None:
        T, B, _ = call.x.shape
        self.lengths, self.reset = call.lengths, call.reset
        last = np.zeros(B, int) if call.reverse else np.full(B, T - 1)
        if call.lengths is not None and not call.reverse:
            last = call.lengths - 1
        final = (steps == T)[:, None]
        self.start = np.where(final, last, steps[:, None])  # (n, B)
        self.going = np.zeros(self.start.shape, bool)  # begun, and not cut off
        self.own = np.zeros(self.start.shape)  # squared, at the start
        self.found, self.expected = np.zeros((2, len(steps), T))

    def note(self, k: int, d_state: State) -> None:
        """Take the gradients of the losses by the state after step k, each (n * B, ·)."""
        squares = sum(np.square(array).sum(axis=1) for array in d_state).reshape(self.own.shape)
        here = self.start == k
        self.own[here] = squares[here]
        # inf and NaN at the loss's own step are no measure; beyond it they are found.
        self.going |= here & (squares > 0) & (squares < np.inf)
        if self.lengths is not None:
            self.going &= k < self.lengths  # in reverse, rows begin at their ends
        loss, row = np.nonzero(self.going)
        at = loss, np.abs(self.start[loss, row] - k)
        np.add.at(self.found, at, squares[loss, row])
        np.add.at(self.expected, at, self.own[loss, row])
        if self.reset is not None:
            self.going &= ~self.reset[k]

    def ratios(self) -> Array:
        """Return the ratios, (n, T) by steps back, NaN where there is none."""
        ratios = np.sqrt(self.found / self.expected)
        return np.where(np.isnan(ratios) & (self.expected > 0), np.inf, ratios)
