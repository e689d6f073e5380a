"""Truncated back-propagation through time (Williams & Peng 1990; Sutskever 2013).

A long sequence is cut into windows of k1 new steps, with one update a window. Every step's loss
counts once, in the window where the step is new, and its gradient flows back at most k2 steps:

* k2 = k1: the usual windowed training. The state is carried from window to window, the gradient
  stops at its edge.
* k2 > k1: the window also runs over the k2 - k1 steps before the new ones, again, with the
  parameters as they are now, and from the state that was carried to its start. If the last window
  of a sequence has fewer new steps, it runs over more of those before: k2 steps in all.
* k2 < k1: the new steps are run in pieces of k2, the last one whole, and the gradient stops
  between the pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from . import states, validation
from .layers import Recurrent
from .sequential import Sequential
from .tape import Gradients, Tape
from .validation import Array


@dataclass(slots=True)
class Window:
    """One window: its forward pass is done, `backward` waits for the gradient of its loss.

    Attributes
    ----------
    output
        Output of the new steps, (n, B, ·) with n <= k1.
    state
        State after the last step.
    steps
        Which steps of the sequence are new, as a slice.
    context
        How many steps before the new ones the window ran over again.
    """

    output: Array
    state: Any
    steps: slice
    context: int
    _pullback: Callable[[Array | None], Gradients]

    def backward(self, d_output: Array | None) -> Gradients:
        """Return the gradients of the window's loss, given that of `output`.

        ``Gradients.input`` covers the context and the new steps, ``Gradients.state`` belongs to
        the state at the window's start.
        """
        return self._pullback(d_output)


@dataclass(slots=True)
class Context:
    """Steps that the next window runs over again.

    Attributes
    ----------
    x, reset, lengths
        As they were given to `TruncatedBPTT.record`.
    state
        State before the first of them.
    """

    x: Array
    reset: Array | None
    lengths: Array | None
    state: Any

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a `TruncatedBPTT` takes from window to window; the arrays are not copies.

    Attributes
    ----------
    state
        State after the last step that was run.
    position
        How many steps were run.
    context
        The last k2 - k1 of them, or fewer at the start; None if there are none.
    """

    state: Any
    position: int
    context: Context | None


class TruncatedBPTT:
    """Cuts sequences into windows and carries the state from one to the next.

    Parameters
    ----------
    model
        `RNN`, `GRU`, `LSTM` or `Sequential`, with time first.
    k1
        New steps in a window, at least 1.
    k2
        Steps that a gradient flows back, at least 1; None for k1.
    state
        State before the first step, as the model takes it; None for zeros.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong, or the model is of another kind, bidirectional, or batch first.

    Attributes
    ----------
    state
        The state after the last step that was run. Assigning to it starts a new sequence.
    position
        How many steps of the sequence were run.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> model = fastrnn.LSTM(1, 4, seed=0)
    >>> optimizer = fastrnn.Adam(model.parameters)
    >>> x = np.ones((10, 2, 1), np.float32)
    >>> target = np.zeros((10, 2, 4), np.float32)
    >>> run = fastrnn.TruncatedBPTT(model, k1=4, k2=8)
    >>> for window in run.windows(x):
    ...     loss, d_output = fastrnn.mean_squared_error(window.output, target[window.steps])
    ...     optimizer.step(window.backward(d_output).parameters)
    ...     print(window.steps, window.context)
    slice(0, 4, None) 0
    slice(4, 8, None) 4
    slice(8, 10, None) 6
    """

    def __init__(
        self, model: Recurrent | Sequential, k1: int, k2: int | None = None, *, state: Any = None
    ) -> None:
        states.need_steps("model", model)
        self.model = model
        self.k1 = validation.positive("k1", k1)
        self.k2 = self.k1 if k2 is None else validation.positive("k2", k2)
        self.state = state

    @property
    def state(self) -> Any:
        """The state after the last step that was run."""
        return self._state

    @state.setter
    def state(self, value: Any) -> None:
        self._state = value
        self._context: Context | None = None
        self._position = 0

    @property
    def position(self) -> int:
        """How many steps of the sequence were run."""
        return self._position

    def snapshot(self) -> Snapshot:
        """Return what the next window depends on besides the model, for `restore`."""
        return Snapshot(self._state, self._position, self._context)

    def restore(self, snapshot: Snapshot) -> None:
        """Continue, to the bit, where `snapshot` was taken."""
        self._state = snapshot.state
        self._position = snapshot.position
        self._context = snapshot.context

    def windows(
        self,
        x: Array,
        *,
        lengths: Array | None = None,
        reset: Array | None = None,
        reset_state: Any = None,
    ) -> Iterator[Window]:
        """Run over a sequence, continuing from `state`, one window at a time.

        Parameters
        ----------
        x
            (T, B, ·), whatever the model takes; the other arguments as there.

        Yields
        ------
        Window
            Each is run when it is asked for, with the parameters as they are then.
        """
        x = validation.array("x", x)
        if x.ndim < 1:
            raise ValueError(f"x: expected shape (T, B, ...), got {x.shape}")
        lengths, reset = _read_sequence(x, lengths, reset)
        known = self._context is not None and self._context.reset is not None
        if reset is None and reset_state is not None and not known:
            raise ValueError("reset_state: expected None because reset is None, got an array")
        for start in range(0, len(x), self.k1):
            part = slice(start, min(start + self.k1, len(x)))
            yield self._run(
                x[part],
                None if lengths is None else _cut(lengths, part),
                None if reset is None else reset[part],
                reset_state,
                following=min(self.k1, len(x) - part.stop) or self.k1,
            )

    def record(
        self,
        x: Array,
        *,
        lengths: Array | None = None,
        reset: Array | None = None,
        reset_state: Any = None,
    ) -> Window:
        """Run the next window, of 1 to k1 new steps, and carry the state past it.

        The arguments are those of the model, for the new steps: x (n, B, ·), n <= k1, `lengths`
        (B,), `reset` (n, B). They raise `ValueError` and `TypeError` as there. `reset_state` holds
        for resets in the context, too, which is run again: give every window of a sequence the same
        one. Where there is no reset, neither here nor in the context, it is not looked at.
        """
        x = validation.array("x", x)
        new = len(x) if x.ndim else 0
        if not 1 <= new <= self.k1:
            raise ValueError(f"x: expected 1 to k1={self.k1} steps, got shape {x.shape}")
        lengths, reset = _read_sequence(x, lengths, reset)
        return self._run(x, lengths, reset, reset_state, following=self.k1)

    def _run(
        self,
        x: Array,
        lengths: Array | None,
        reset: Array | None,
        reset_state: Any,
        *,
        following: int,
    ) -> Window:
        """Run a window; the one after it will have so many new steps."""
        new = len(x)
        run = _extend(self._context, Context(x, reset, lengths, self._state))
        total = len(run)
        kept = min(total, self.k2 - following) if self.k2 > self.k1 else 0
        if self.k2 < self.k1:
            edges = [*range(total, 0, -self.k2), 0][::-1]
        else:
            edges = sorted({0, total - kept, total})
        state = run.state
        tapes, bounds, context = [], [], None
        for a, b in pairwise(edges):
            part = slice(a, b)
            if kept and a == total - kept:
                context = _part(run, slice(a, total), state)
            tape = self.model.record(
                run.x[part],
                state,
                lengths=None if run.lengths is None else _cut(run.lengths, part),
                reset=None if run.reset is None else run.reset[part],
                reset_state=None if run.reset is None else reset_state,
            )
            tapes.append(tape)
            bounds.append(part)
            state = tape.state
        steps = slice(self._position, self._position + new)
        flows = self.k2 >= self.k1

        def pullback(d_output: Array | None) -> Gradients:
            return _backward(tapes, bounds, d_output, total - new, flows)

        output = np.concatenate([tape.output for tape in tapes])[total - new :]
        self._state, self._context = state, context
        self._position += new
        return Window(output, state, steps, total - new, pullback)


@np.errstate(all="ignore")  # of inf and NaN, which the sums pass on
def _backward(
    tapes: list[Tape], bounds: list[slice], d_output: Array | None, context: int, flows: bool
) -> Gradients:
    """Run the pieces of a window backward, the last first, and add up their gradients."""
    if d_output is not None:
        output = tapes[-1].output
        new = bounds[-1].stop - context
        found = validation.floating("d_output", d_output, output.dtype)
        validation.shape("d_output", found, new, *output.shape[1:])
        # The context's losses have counted before: their gradient here is zero.
        d_output = np.concatenate((np.zeros((context, *output.shape[1:]), output.dtype), found))
    d_state = None
    inputs: list[Array | None] = []
    total: Gradients | None = None
    for tape, part in zip(reversed(tapes), reversed(bounds), strict=True):
        gradients = tape.backward(None if d_output is None else d_output[part], d_state)
        inputs.insert(0, gradients.input)
        d_state = gradients.state if flows else None
        if total is None:
            total = gradients
        else:
            for name, gradient in gradients.parameters.items():
                total.parameters[name] += gradient
            total.reset_state = _add(total.reset_state, gradients.reset_state)
            total.state = gradients.state
    assert total is not None
    differentiable = [d_x for d_x in inputs if d_x is not None]
    total.input = np.concatenate(differentiable) if differentiable else None
    return total


def _add(a: Any, b: Any) -> Any:
    if isinstance(a, tuple):
        return tuple(_add(x, y) for x, y in zip(a, b, strict=True))
    return None if a is None else a + b


def _read_sequence(x: Array, lengths: object, reset: object) -> tuple[Array | None, Array | None]:
    """Check lengths and resets as far as is known here: the model knows whether x has a batch."""
    mask = None
    if reset is not None:
        mask = validation.array("reset", reset)
        axes = list(zip("TB", x.shape, strict=False))
        mask = validation.reset(mask, *(axes[:1] if mask.ndim == 1 else axes))
    if lengths is None:
        return None, mask
    found = validation.integers("lengths", lengths)
    validation.lengths(found, len(x), found.size, batched=found.ndim > 0)
    return found, mask


def _cut(lengths: Array, part: slice) -> Array:
    """Lengths of the rows of a part of the sequence."""
    return np.asarray(np.clip(lengths - part.start, 0, part.stop - part.start))


def _extend(old: Context | None, new: Context) -> Context:
    """Append the new steps to those that are run again."""
    if old is None:
        return new
    if old.x.shape[1:] != np.shape(new.x)[1:] or old.x.dtype != new.x.dtype:
        raise ValueError(
            f"x: expected shape (T, {', '.join(map(str, old.x.shape[1:]))}) of {old.x.dtype} like "
            f"the windows before, got {new.x.shape} of {new.x.dtype}"
        )
    reset, lengths = None, None
    if old.reset is not None or new.reset is not None:
        rows = _rows("reset", old.reset, new.reset, first=1)
        masks = [
            np.zeros((len(part), *rows), bool) if part.reset is None else part.reset
            for part in (old, new)
        ]
        reset = np.concatenate(masks)
    if old.lengths is not None or new.lengths is not None:
        rows = _rows("lengths", old.lengths, new.lengths, first=0)
        before, after = (
            np.full(rows, len(part)) if part.lengths is None else part.lengths
            for part in (old, new)
        )
        ended = before < len(old)
        if (after > 0)[ended].any():
            raise ValueError(
                "lengths: expected 0 for a row that ended in the steps before, which this window "
                f"runs over again, got {after} after {before} of {len(old)} (assign `state` to "
                "start new rows)"
            )
        lengths = np.where(ended, before, before + after)
    return Context(np.concatenate((old.x, new.x)), reset, lengths, old.state)


def _rows(name: str, old: Array | None, new: Array | None, *, first: int) -> tuple[int, ...]:
    """Return the shape that the arguments of two windows share; one of them may be None."""
    shapes = [array.shape[first:] for array in (old, new) if array is not None]
    if shapes[0] != shapes[-1]:
        raise ValueError(f"{name}: expected {shapes[0]} like the windows before, got {shapes[-1]}")
    return shapes[0]


def _part(run: Context, part: slice, state: Any) -> Context:
    return Context(
        run.x[part].copy(),
        None if run.reset is None else run.reset[part].copy(),
        None if run.lengths is None else _cut(run.lengths, part),
        state,
    )
