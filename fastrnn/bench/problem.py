"""The numbers of a workload: the same for everyone who computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..cells import CELLS
from ..feedforward import Embedding, Linear
from ..layers import LAYERS, GRUCell, LSTMCell, RNNCell
from ..losses import softmax_cross_entropy
from ..optim import Adam
from ..sequential import Sequential
from ..validation import Array
from .workloads import Workload

Arrays = list[Array]
Run = Callable[[], Arrays]  # computes once; what is compared with the reference

STEPS = {cell.cell.name: cell for cell in (RNNCell, GRUCell, LSTMCell)}
VOCABULARY = 96  # of a character model
LEARNING_RATE = 1e-3


class RefusedError(Exception):
    """A contender does not compute a workload; the message says why."""


class Problem:
    """Input, states, gradients and weights in float32, drawn with a fixed seed.

    Attributes
    ----------
    work, threads
        What is computed, and how many threads everyone has.
    x
        (T, B, I); of a step (B, I); of a character model indices (T, B).
    state
        Of a step: (B, H) for each state of the cell.
    d_y
        Gradient of the output, (T, B, H); of a character model the targets (T, B).
    parameters
        Of the recurrent layers under torch's names; of a character model all, under the names of
        our `Sequential`.
    """

    def __init__(self, work: Workload, threads: int) -> None:
        self.work = work
        self.threads = threads
        I, H, B, T = work.I, work.H, work.B, work.T
        rng = np.random.default_rng(0)

        def draw(*shape: int) -> Array:
            return rng.standard_normal(shape, np.float32)

        self.state = tuple(draw(B, H) for _ in CELLS[work.cell].states)
        if work.kind == "character":
            self.x = rng.integers(0, VOCABULARY, (T, B))
            self.d_y = rng.integers(0, VOCABULARY, (T, B))
            self.parameters = self._model("numpy", "float32").parameters
        else:
            step = work.kind == "step"
            self.x = draw(B, I) if step else draw(T, B, I)
            self.d_y = draw(B, H) if step else draw(T, B, H)
            self.parameters = self._layer("numpy", "float32").parameters

    def _layer(self, backend: str, dtype: str) -> Any:
        work = self.work
        if work.kind == "step":
            return STEPS[work.cell](work.I, work.H, dtype=dtype, seed=0, backend=backend)
        return LAYERS[work.cell](work.I, work.H, work.layers, dtype=dtype, seed=0, backend=backend)

    def _model(self, backend: str, dtype: str) -> Sequential:
        work = self.work
        layers = work.I, work.H, work.layers
        return Sequential(
            Embedding(VOCABULARY, work.I, dtype=dtype, seed=1),
            LAYERS[work.cell](*layers, dtype=dtype, seed=2, backend=backend),
            Linear(work.H, VOCABULARY, dtype=dtype, seed=3),
        )

    def ours(self, backend: str, dtype: str = "float32") -> Run:
        """Prepare one of our backends."""
        kind = self.work.kind
        character = kind == "character"
        layer = self._model(backend, dtype) if character else self._layer(backend, dtype)
        layer.load_parameters({name: a.astype(dtype) for name, a in self.parameters.items()})
        if character:
            return self._character(layer)
        x, d_y = self.x.astype(dtype), self.d_y.astype(dtype)
        if kind == "step":
            arrays = tuple(array.astype(dtype) for array in self.state)
            state = arrays if len(arrays) > 1 else arrays[0]

            def step() -> Arrays:
                found = layer(x, state)
                return list(found) if isinstance(found, tuple) else [found]

            return step
        if kind == "inference":
            return lambda: [layer(x)[0]]

        def train() -> Arrays:
            tape = layer.record(x)
            gradients = tape.backward(d_y)
            return [tape.output, gradients.input, *gradients.parameters.values()]

        return train

    def _character(self, model: Sequential) -> Run:
        optimizer = Adam(model.parameters, LEARNING_RATE)

        def train() -> Arrays:
            tape = model.record(self.x)
            _, d_output = softmax_cross_entropy(tape.output, self.d_y)
            gradients = tape.backward(d_output).parameters
            optimizer.step(gradients)
            return list(gradients.values())

        return train

    def reference(self) -> Arrays:
        """Compute in float64 with the NumPy reference."""
        return self.ours("numpy", "float64")()
