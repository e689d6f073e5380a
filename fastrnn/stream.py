"""One step at a time, with the state kept in between."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from . import states, validation
from .layers import Recurrent
from .sequential import Sequential
from .validation import Array


class Stream:
    """Runs a model on samples as they come, and keeps its state.

    Steps one by one, `push` and the model's own call give the same bits, however the sequence is
    cut, for recurrent layers on the C and the Numba kernels. The NumPy backend and layers such as
    `Linear` take their products from BLAS, which rounds them by their shapes: there the results
    agree up to rounding.

    Parameters
    ----------
    model
        `RNN`, `GRU`, `LSTM`, or a `Sequential` with recurrent layers, with time first. A stream has
        parameters of its own, those that the model has when it is made.
    batch
        B, the rows of a step: independent streams, at least 1.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong, or the model is of another kind, bidirectional, or batch first.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> model = fastrnn.Sequential(fastrnn.GRU(1, 8, seed=1), fastrnn.Linear(8, 1, seed=2))
    >>> stream = fastrnn.Stream(model)
    >>> stream.step(np.ones((1, 1), np.float32)).shape
    (1, 1)
    >>> stream.push(np.ones((100, 1, 1), np.float32)).shape
    (100, 1, 1)
    >>> stream.reset()
    """

    def __init__(self, model: Recurrent | Sequential, batch: int = 1) -> None:
        states.need_steps("model", model)
        states.need_recurrent("model", model)
        self.batch = validation.positive("batch", batch)
        self._source = model
        self._state: Any = None
        self.refresh()
        self.reset()

    def step(self, x: Array, out: Array | None = None) -> Array:
        """Take one sample of each row.

        Parameters
        ----------
        x
            (B, I), or what else the model takes of a step: (B,) integers for an `Embedding`.
        out
            Where the output is written, C-contiguous, of its shape and dtype; None for a new array.

        Returns
        -------
        output
            (B, ·), `out` if it was given.

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong; then neither the state nor `out` has changed.
        """
        found = states.read_input("x", self._model, x, ("B", self.batch))
        output, state = self._model(found[None], self._state)
        output = output[0]
        if out is not None:
            _writable("out", out, output)[...] = output
            output = out
        self._state = state
        return np.asarray(output)

    def push(self, block: Array) -> Array:
        """Take T samples of each row, (T, B, ·), and return their outputs, (T, B, ·).

        Raises
        ------
        ValueError, TypeError
            If it is wrong; then the state has not changed.
        """
        found = states.read_input("block", self._model, block, "T", ("B", self.batch))
        output, self._state = self._model(found, self._state)
        return np.asarray(output)

    def reset(self, rows: Array | None = None) -> None:
        """Set the state to zeros.

        Parameters
        ----------
        rows
            Those that are reset: (B,) booleans, or their indices; None for all.

        Raises
        ------
        ValueError, TypeError
            If it is neither; then the state has not changed.
        """
        zeros = states.read(self._model, self.batch)
        if rows is None:
            self._state = zeros
            return
        chosen = validation.array("rows", rows)
        if chosen.dtype == np.bool_:
            validation.shape("rows", chosen, ("B", self.batch))
        else:
            chosen = validation.indices("rows", chosen, self.batch)
        for array in states.arrays(self._state):
            array[:, chosen] = 0

    @property
    def state(self) -> Any:
        """The state after the last step, as the model's call returns it; a copy, get or set.

        Assigning None sets zeros.
        """
        return states.each(np.array, self._state)

    @state.setter
    def state(self, value: Any) -> None:
        self._state = states.read(self._model, self.batch, value)

    def refresh(self) -> None:
        """Take the parameters that the model has now; the state is kept."""
        self._model = copy.deepcopy(self._source)

    def __repr__(self) -> str:
        changed = any(
            not np.array_equal(now, self._model.parameters[name], equal_nan=True)
            for name, now in self._source.parameters.items()
        )
        note = ", before its parameters changed: refresh() takes the new ones" if changed else ""
        return f"Stream({self._source!r}, batch={self.batch}{note})"


def _writable(name: str, value: object, like: Array) -> Array:
    """Check an array that a result is to be written to."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}")
    if value.dtype != like.dtype:
        raise TypeError(f"{name}: expected an array of {like.dtype}, got {value.dtype}")
    validation.shape(name, value, *like.shape)
    if not value.flags.writeable or not value.flags.c_contiguous:
        raise ValueError(f"{name}: expected a C-contiguous array that may be written to")
    return value
