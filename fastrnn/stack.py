"""Layers and directions of one cell, run on checked weights: the way to the backends and back.

`functional` runs a stack of one; `layers` owns the parameters of bigger ones. The stack reads the
caller's arrays (batched or not, batch or time first), runs one call a layer and direction, and
hands the results back as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import dispatch, validation, workspace
from .cells import CELLS, Cell
from .tape import Gradients, Pullback, Run, Tape
from .validation import Array
from .workspace import Backward, Call, Forward, State, Weights


@dataclass(slots=True)
class Inputs:
    """The caller's arguments, checked, with their sequences as (T, B, ·)."""

    x: Array
    states: list[State]  # one a layer and direction
    reset_states: list[State]
    lengths: Array | None
    reset: Array | None
    reset_given: bool  # whether the caller gave reset_states
    batched: bool

    def take(self, rows: Array) -> Inputs:
        """Return the same for some rows of the batch."""

        def some(parts: list[State]) -> list[State]:
            return [tuple(array[rows] for array in state) for state in parts]

        return replace(
            self,
            x=np.ascontiguousarray(self.x[:, rows]),
            states=some(self.states),
            reset_states=some(self.reset_states),
            lengths=None if self.lengths is None else self.lengths[rows],
            reset=None if self.reset is None else np.ascontiguousarray(self.reset[:, rows]),
        )


@dataclass(slots=True)
class Step:
    """One layer of a recorded pass: a call and what it wrote for each direction."""

    calls: list[tuple[Call, Forward]]
    dropout: Array | None  # what this layer's input was multiplied by


class Trace(NamedTuple):
    """A recorded pass: what `Tape` takes."""

    output: Array
    state: Any
    pullback: Pullback
    cell_states: Array | None


@dataclass(slots=True)
class Stack:
    """Layers of a cell on checked weights.

    `weights` maps the suffix of the parameters' names to them, layer by layer, forward direction
    first. `stacked` states have a leading axis, layers * directions. `reverse` makes a stack of
    one direction run from the last step to the first. Dropout acts between layers of recorded
    passes only.
    """

    cell: Cell
    options: Mapping[str, Any]
    weights: Mapping[str, Weights]
    backend: object = None
    directions: int = 1
    reverse: bool = False
    stacked: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    generator: np.random.Generator | None = None
    state_names: tuple[str, ...] | None = None  # what the caller calls the initial states
    kernels: dispatch.Kernels = field(init=False)
    parts: tuple[Weights, ...] = field(init=False)  # one a layer and direction
    names: tuple[str, ...] = field(init=False)  # of the arrays in them
    widths: tuple[int, ...] = field(init=False)  # of the states: R, and H for the cell state

    def __post_init__(self) -> None:
        """Choose the backend, and read off the weights what all passes need."""
        self.kernels = dispatch.select(self.backend, self.cell.name)
        self.parts = tuple(self.weights.values())
        self.names = tuple(
            name + suffix
            for suffix, arrays in self.weights.items()
            for name, array in zip(PARAMETERS, arrays, strict=True)
            if array is not None
        )
        hh = self.parts[0].hh
        self.widths = (hh.shape[1], len(hh) // len(self.cell.gates))[: len(self.cell.states)]

    def infer(
        self, x: object, state: object, lengths: object, reset: object, reset_state: object
    ) -> tuple[Array, Any]:
        """Return output and final state, recording nothing."""
        inputs = self._read(x, state, lengths, reset, reset_state)
        steps, output = self._forward(inputs, record=False)
        return self._sequence_out(output, inputs), self._state_out(_finals(steps), inputs)

    def record(
        self, x: object, state: object, lengths: object, reset: object, reset_state: object
    ) -> Tape:
        """Return the tape of a pass."""
        trace = self.trace(x, state, lengths, reset, reset_state)
        trace.output.flags.writeable = False
        if trace.cell_states is not None:
            trace.cell_states.flags.writeable = False
        return Tape(*trace)

    def trace(
        self, x: object, state: object, lengths: object, reset: object, reset_state: object
    ) -> Trace:
        """Run a recorded pass; return what its tape is made of."""
        inputs = self._read(x, state, lengths, reset, reset_state)
        steps, output = self._forward(inputs, record=True)
        output = self._sequence_out(output, inputs)
        cell_states = None
        if len(self.widths) > 1:
            cells: list[Any] = [ws.cells for _, ws in steps[-1].calls]
            cell_states = self._sequence_out(_side_by_side(cells), inputs)
        shape = output.shape

        def pullback(d_output: object, d_state: object) -> Run:
            d_y, d_finals = self._gradients_in(d_output, d_state, shape, inputs)
            return partial(self._backward, inputs, steps, d_y, d_finals)

        return Trace(output, self._state_out(_finals(steps), inputs), pullback, cell_states)

    def unroll(
        self,
        x: object,
        state: object,
        lengths: object,
        reset: object,
        d_output: object,
        d_state: object,
        most_rows: int | None = None,
    ) -> tuple[list[Step], Array | None, list[State]]:
        """Run a recorded pass; return it, and the gradients that it starts back from, (T, B, ·).

        Of more rows than `most_rows` so many are taken, evenly spread.
        """
        inputs = self._read(x, state, lengths, reset, None)
        T, B, _ = inputs.x.shape
        output = np.broadcast_to(np.float64(0), (T, B, self.directions * self.widths[0]))
        shape = self._sequence_out(output, inputs).shape
        d_y, d_finals = self._gradients_in(d_output, d_state, shape, inputs)
        if most_rows is not None and most_rows < B:
            rows = np.arange(most_rows) * B // most_rows
            d_y = None if d_y is None else np.ascontiguousarray(d_y[:, rows])
            d_finals = [tuple(array[rows] for array in final) for final in d_finals]
            inputs = inputs.take(rows)
        return self._forward(inputs, record=True)[0], d_y, d_finals

    def _gradients_in(
        self, d_output: object, d_state: object, shape: tuple[int, ...], inputs: Inputs
    ) -> tuple[Array | None, list[State]]:
        """Check the gradients of an output of this shape, and of the final state."""
        d_y = None
        if d_output is not None:
            d_y = validation.floating("d_output", d_output, inputs.x.dtype)
            d_y = self._sequence_in(validation.shape("d_output", d_y, *shape), inputs.batched)
        return d_y, self._states_in("d_state", d_state, inputs.x, inputs.batched)

    def _read(
        self,
        x: object,
        state: object,
        lengths: object,
        reset: object,
        reset_state: object,
    ) -> Inputs:
        ih = self.parts[0].ih
        found = validation.floating("x", x, ih.dtype)
        batched = found.ndim != 2
        axes: tuple[str, ...] = (
            (("B", "T") if self.batch_first else ("T", "B")) if batched else ("T",)
        )
        validation.shape("x", found, *axes, ("I", ih.shape[1]))
        mask = None
        if reset is not None:
            mask = validation.reset(reset, *zip(axes, found.shape, strict=False))
        found = self._sequence_in(found, batched)
        if lengths is not None:
            T, B, _ = found.shape
            lengths = validation.lengths(lengths, T, B, batched=batched)
            if not getattr(self.kernels, "SKIPS_PADDING", False):
                found = workspace.without_padding(found, lengths)
        states = self._states_in("state", state, found, batched, self.state_names)
        reset_states: list[State] = [()] * len(states)
        if mask is not None:
            reset_states = self._states_in("reset_state", reset_state, found, batched)
            mask = mask[:, None] if not batched else mask.T.copy() if self.batch_first else mask
        elif reset_state is not None:
            raise ValueError("reset_state: expected None because reset is None, got an array")
        return Inputs(found, states, reset_states, lengths, mask, reset_state is not None, batched)

    def _states_in(
        self,
        argument: str,
        value: object,
        x: Array,
        batched: bool,
        names: tuple[str, ...] | None = None,
    ) -> list[State]:
        """Check a state and split it, one tuple a layer and direction; None stands for zeros."""
        B, n = x.shape[1], len(self.parts)
        if value is None:
            return [tuple([np.zeros((B, width), x.dtype) for width in self.widths])] * n
        if names is not None and len(names) == 1:
            (argument,) = names
        arrays = validation.state_tuple(argument, value, self.cell.states)
        names = names or tuple([f"{argument} {s}" for s in self.cell.states])
        leading: list[tuple[str, int]] = [("L*D", n)] if self.stacked else []
        rows = [("B", B)] if batched else []
        letter = "H" if self.widths[0] == self.widths[-1] else "P"  # of the hidden state
        parts = []
        for name, array, state, width in zip(
            names, arrays, self.cell.states, self.widths, strict=True
        ):
            found = validation.floating(name, array, x.dtype)
            last = (letter if state == "h" else "H", width)
            validation.shape(name, found, *leading, *rows, last)
            parts.append(found.reshape(n, B, width))
        return [tuple(part[k] for part in parts) for k in range(n)]

    def _state_out(self, states: list[State], inputs: Inputs) -> Any:
        arrays = []
        for parts in zip(*states, strict=True):
            array = parts[0]
            if self.stacked:
                array = np.stack(parts) if len(parts) > 1 else array[None]
            arrays.append(array if inputs.batched else array.squeeze(-2))
        return arrays[0] if len(arrays) == 1 else tuple(arrays)

    def _sequence_in(self, array: Array, batched: bool) -> Array:
        if not batched:
            return array[:, None, :]
        return np.ascontiguousarray(array.swapaxes(0, 1)) if self.batch_first else array

    def _sequence_out(self, array: Array, inputs: Inputs) -> Array:
        if not inputs.batched:
            return array[:, 0, :]
        return array.swapaxes(0, 1) if self.batch_first else array[...]

    def _forward(self, inputs: Inputs, *, record: bool) -> tuple[list[Step], Array]:
        """Run all layers; return what they read and wrote, and the output of the last."""
        x, steps = inputs.x, []
        for first in range(0, len(self.parts), self.directions):
            mask = None
            if first and record and self.dropout and self.generator is not None:
                mask = dropout_mask(x, self.dropout, self.generator)
                x = _times(x, mask)
            calls = []
            for n in range(first, first + self.directions):
                call = Call(
                    cell=self.cell,
                    options=self.options,
                    x=x,
                    weights=self.parts[n],
                    state=inputs.states[n],
                    reset_state=inputs.reset_states[n],
                    lengths=inputs.lengths,
                    reset=inputs.reset,
                    reverse=self.reverse or n > first,
                )
                calls.append((call, _run(self.kernels, call, record=record)))
            steps.append(Step(calls, mask))
            x = _side_by_side([ws.output for _, ws in calls])
        return steps, x

    def _backward(
        self,
        inputs: Inputs,
        steps: list[Step],
        d_y: Array | None,
        d_finals: list[State],
        retain: bool,
    ) -> Gradients:
        done: list[Backward] = []  # from the last layer and direction to the first
        if d_y is None:
            T, B, _ = inputs.x.shape
            d_y = np.zeros((T, B, self.directions * self.widths[0]), inputs.x.dtype)
        for step in reversed(steps):
            shares, parts = [], [d_y]
            if self.directions > 1:
                parts = list(map(np.ascontiguousarray, np.split(d_y, self.directions, axis=2)))
            for call, tape in reversed(step.calls):
                d_final = d_finals[len(d_finals) - 1 - len(done)]
                ws = _run_backward(self.kernels, call, tape, parts.pop(), d_final, retain=retain)
                done.append(ws)
                shares.append(ws.x)
            d_y = shares[0] if len(shares) == 1 else _plus(*shares)
            if step.dropout is not None:
                d_y = _times(d_y, step.dropout)
        done.reverse()
        arrays = [array for ws in done for array in ws.weights if array is not None]
        reset_state = None
        if inputs.reset_given:
            reset_state = self._state_out([ws.reset_state for ws in done], inputs)
        return Gradients(
            self._sequence_out(d_y, inputs),
            self._state_out([ws.state for ws in done], inputs),
            dict(zip(self.names, arrays, strict=True)),
            reset_state,
        )


PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")  # fields of Weights


def read_weights(cell: Cell, given: Mapping[str, object]) -> Weights:
    """Check the parameters of one layer in one direction; H, I and P are read off their shapes.

    `given` has `PARAMETERS` as keys; None or nothing stands for no bias and no projection.
    """
    G = len(cell.gates)
    ih = validation.floating("weight_ih", given.get("weight_ih"))
    if ih.ndim != 2 or not len(ih) or len(ih) % G or not ih.shape[1]:
        raise ValueError(f"weight_ih: expected shape ({G}*H, I), got {ih.shape}")
    H = len(ih) // G
    rows = (f"{G}*H", G * H)
    found: dict[str, Array | None] = {"weight_ih": ih, "weight_hr": None}
    P = 0
    if (hr := given.get("weight_hr")) is not None:
        array = validation.floating("weight_hr", hr, ih.dtype)
        found["weight_hr"] = validation.shape("weight_hr", array, "P", ("H", H))
        P = len(array)
        if not 0 < P < H:
            raise ValueError(f"weight_hr: expected 1 to H-1={H - 1} rows, got {P}")
    array = validation.floating("weight_hh", given.get("weight_hh"), ih.dtype)
    columns = ("P", P) if P else ("H", H)
    found["weight_hh"] = validation.shape("weight_hh", array, rows, columns)
    biases = {name: given.get(name) for name in ("bias_ih", "bias_hh")}
    for name, value in biases.items():
        if value is None:
            found[name] = None
            if any(other is not None for other in biases.values()):
                raise ValueError(
                    f"{name}: expected an array because the other bias was given, got None"
                )
        else:
            array = validation.floating(name, value, ih.dtype)
            found[name] = validation.shape(name, array, rows)
    return Weights(*(found[name] for name in PARAMETERS))  # type: ignore[arg-type]


def warmup(cell: str | None = None, *, dtype: str = "float32", backend: str | None = None) -> None:
    """Compile what a backend compiles when it is first called, or load it from its cache.

    Parameters
    ----------
    cell
        "rnn", "gru" or "lstm"; None for all.
    dtype
        "float32" or "float64".
    backend
        As for the layers.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it.
    """
    rows = CELLS.values() if cell is None else [validation.cell("cell", cell)]
    kind = validation.dtype("dtype", dtype)
    for row in rows:
        shapes = row.parameter_shapes(1, 1)
        parameters = {name: np.zeros(shape, kind) for name, shape in shapes.items()}
        options = validation.options(row, {})
        stack = Stack(row, options, {"": read_weights(row, parameters)}, backend, stacked=False)
        x = np.zeros((1, 1, 1), kind)
        stack.record(x, None, None, None, None).backward(x)


def _run(kernels: dispatch.Kernels, call: Call, *, record: bool) -> Forward:
    ws = workspace.forward(call, record=record)
    if call.x.size:
        kernels.forward(call, ws)
    else:
        for array, initial in zip(ws.state, call.state, strict=True):
            array[...] = initial
    return ws


def _run_backward(
    kernels: dispatch.Kernels,
    call: Call,
    tape: Forward,
    d_output: Array,
    d_state: State,
    *,
    retain: bool,
) -> Backward:
    ws = workspace.backward(call)
    if call.x.size:
        if retain:
            records = {name: array.copy() for name, array in tape.records.items()}
            tape = replace(tape, records=records)
        kernels.backward(call, tape, d_output, d_state, ws)
    else:
        for gradient in (*ws.weights, *ws.reset_state):
            if gradient is not None:
                gradient[...] = 0
        for gradient, last in zip(ws.state, d_state, strict=True):
            gradient[...] = last
    return ws


def dropout_mask(x: Array, p: float, generator: np.random.Generator) -> Array:
    """Draw what x is multiplied by: 0 with probability p, else 1 / (1 - p)."""
    kept = generator.random(x.shape, np.float32) >= p
    return np.asarray(kept * x.dtype.type(1 / (1 - p) if p < 1 else 0.0))


@np.errstate(all="ignore")  # inf and NaN are results, not messages
def _times(a: Array, b: Array) -> Array:
    return a * b


@np.errstate(all="ignore")
def _plus(a: Array, b: Array) -> Array:
    return a + b


def _finals(steps: list[Step]) -> list[State]:
    return [ws.state for step in steps for _, ws in step.calls]


def _side_by_side(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=2)
