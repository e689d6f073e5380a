"""What a recorded forward pass returns, and what its backward pass returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import validation
from .validation import Array

State = Array | tuple[Any, ...] | None


@dataclass(slots=True)
class Gradients:
    """Gradients of a scalar loss.

    Attributes
    ----------
    input
        With respect to the input, shaped like it, so (T, B, I) for a layer, and (B, I) for a
        cell; None where the input is not differentiable (indices).
    state
        With respect to the initial state, shaped like the final state, so for a layer
        (layers * directions, B, H), LSTM: a tuple of two; None where there is none.
    parameters
        Name of each parameter to its gradient, of the parameter's shape.
    reset_state
        With respect to ``reset_state``, if one was given, and shaped like it. All arrays have the
        dtype of the pass.
    """

    input: Array | None
    state: State = None
    parameters: dict[str, Array] = field(default_factory=dict)
    reset_state: State = None


# Given d_output and d_state: check them, and return what computes, given whether to retain.
Run = Callable[[bool], Gradients]
Pullback = Callable[[object, object], Run]


class Tape:
    """A recorded forward pass, ready to be run backward.

    Attributes
    ----------
    output
        What the forward pass returned, (T, B, directions * H) for a layer and (B, H) for a cell;
        read-only because the backward pass reads it again.
    state
        The final state, (layers * directions, B, H) for a layer, (B, H) for a cell, LSTM: a tuple
        (h, c); None where there is none.
    cell_states
        LSTM only: the cell state of the last layer after every step, laid out like `output`
        with H (in each direction) as the last dimension, and read-only; None for other cells.
    """

    __slots__ = ("_pullback", "cell_states", "output", "state")

    def __init__(
        self,
        output: Array,
        state: State,
        pullback: Pullback,
        cell_states: Array | None = None,
    ) -> None:
        self.output = output
        self.state = state
        self.cell_states = cell_states
        self._pullback: Pullback | None = pullback

    def backward(
        self, d_output: object = None, d_state: object = None, *, retain: bool = False
    ) -> Gradients:
        """Run the pass backward, reading the input and the parameters again: do not change them.

        Parameters
        ----------
        d_output
            Gradient of the loss with respect to `output`, of its shape and dtype; None for zero.
        d_state
            Gradient of the loss with respect to `state`, of its shape and dtype; None for zero.
        retain
            Keep the buffers, so that `backward` may be called again. Otherwise they are
            overwritten and freed.

        Raises
        ------
        ValueError
            If the buffers are gone, or a shape is wrong.
        TypeError
            If a dtype or kind of argument is wrong.
        """
        validation.flag("retain", retain)
        run = self.check(d_output, d_state)
        if not retain:  # before it runs: what is interrupted has overwritten some of its buffers
            self._pullback = None
        return run(retain)

    def check(self, d_output: object = None, d_state: object = None) -> Run:
        """Raise what `backward` would raise for these arguments; return what would compute."""
        if self._pullback is None:
            raise ValueError(
                "tape: backward has already run and its buffers are gone; "
                "call it with retain=True to run it more than once"
            )
        return self._pullback(d_output, d_state)
