"""One step at a time, with the state kept in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from . import activations, dispatch, precision, states, validation, workspace
from .feedforward import Linear
from .layers import Recurrent
from .sequential import Sequential
from .threads import at_most
from .validation import Array

if TYPE_CHECKING:
    from .c_stream import Network


class Native(NamedTuple):
    """What compiled code needs to take the steps of a stream: addresses (see csrc/fastrnn.h).

    Attributes
    ----------
    step
        ``void fastrnn_stream_step(fastrnn_stream *stream, const void *x, void *y)``.
    push
        ``void fastrnn_stream_push(fastrnn_stream *stream, const void *x, void *y, int64_t steps)``.
    stream
        The first argument of both.
    """

    step: int
    push: int
    stream: int


class Stream:
    """Runs a model on samples as they come, and keeps its state.

    Steps one by one, `push` and the model's own call give the same bits, however the sequence is
    cut, for recurrent layers on the C and the Numba kernels. The NumPy backend and layers such as
    `Linear` take their products from BLAS, which rounds them by their shapes: there the results
    agree up to rounding.

    With the C kernels, recurrent layers, a `Linear` behind them and its activation (`Tanh`,
    `Sigmoid`, `ReLU`, or `Softmax` over the last axis) are one call: weights are packed when the
    stream is made, and a step allocates nothing but its result, and not even that if `out` is
    given. Other models are called layer by layer.

    Streams are independent of each other; one must not be used by two threads at a time.

    Parameters
    ----------
    model
        `RNN`, `GRU`, `LSTM`, or a `Sequential` with recurrent layers, with time first. A stream has
        parameters of its own, those that the model has when it is made. Or another stream: then
        both share them, and the packed weights.
    batch
        B, the rows of a step: independent sequences, at least 1.
    weight_dtype
        What the matrices of recurrent layers and `Linear` are rounded to and, by the C kernels, are
        stored as; a step computes in float32. "float16": a weight is off by 2^-11 of itself at most
        (2^-25 below 2^-14), and results have the bits of a float32 stream of such weights; "int8":
        by 1/254 of its row's greatest (and 2^-16 of that), and they agree up to rounding. None: as
        they are; with another stream, as its are. See docs/streaming.md for what it is worth.
    threads
        How many may share a step, at most, and no more than `set_num_threads` says when weights are
        packed; no bit depends on it. They share a layer that takes one thread some 4 µs a step, and
        wait for the next step on their processors, up to 200 µs: a step that comes later wakes
        nobody. For deadlines one thread is the better choice: nobody has to be waited for.

    Attributes
    ----------
    input, output
        Arrays for a step's input, (B, I), or (B,) indices for an `Embedding`, and its output,
        (B, ·): what `step` reads and writes if it is given nothing. None if the first layer does
        not say what it takes.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong, or the model is of another kind, bidirectional, or batch first,
        or its weights are not float32 or too large for `weight_dtype`.

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
    >>> stream.input[...] = 1
    >>> stream.step() is stream.output
    True
    """

    weight_dtype: str | None
    _source: Recurrent | Sequential
    _model: Recurrent | Sequential
    _engine: _Engine
    _own: tuple[Array, Array] | None
    _again: Callable[[], int]

    def __init__(
        self,
        model: Recurrent | Sequential | Stream,
        batch: int = 1,
        *,
        weight_dtype: str | None = None,
        threads: int = 1,
    ) -> None:
        self.batch = validation.positive("batch", batch)
        self.threads = validation.positive("threads", threads)
        validation.choice("weight_dtype", weight_dtype, precision.WEIGHT_DTYPES)
        if isinstance(model, Stream):
            if weight_dtype not in (None, model.weight_dtype):
                raise ValueError(
                    f"weight_dtype: expected {model.weight_dtype!r}, that of the stream whose "
                    f"weights are shared, got {weight_dtype!r}"
                )
            self.weight_dtype = model.weight_dtype
            self._source, self._model = model._source, model._model
            self._prepare(model._engine)
        else:
            states.need_steps("model", model)
            states.need_recurrent("model", model)
            self.weight_dtype = weight_dtype
            self._source, self._model = model, self._taken(model)
            self._prepare()

    def _taken(self, model: Recurrent | Sequential) -> Recurrent | Sequential:
        """Return the model with the parameters that a step computes with."""
        taken = copy.deepcopy(model)
        precision.round_weights(taken, self.weight_dtype)
        return taken

    def _start(self, like: _Engine | None = None) -> None:
        """Make the engine of the parameters that have been taken."""
        self._engine = _engine(self._model, self.batch, self.weight_dtype, self.threads, like)
        self._quick = self._engine.quick
        if self._own is not None:
            self._again = self._engine.again(*self._own)

    def _prepare(self, like: _Engine | None = None) -> None:
        """Make the engine, and set up what a step needs besides."""
        self._dtype = states.recurrent_layers(self._model)[0].dtype
        self.input, self.output = states.inputs(self._model, self.batch), None
        self._own = None
        if self.input is not None:
            self._shape = self._shape_of(self.input[None])
            self.output = np.zeros(self._shape, self._dtype)
            self._own = self.input, self.output
            self._new = workspace.maker(self._shape, self._dtype)
        self._start(like)

    def _shape_of(self, x: Array) -> tuple[int, ...]:
        """Return the shape of a step's output, of steps x: after none at all it is known, too."""
        if self.output is not None:
            return self._shape
        output, _ = self._model(x[:0])
        return np.shape(output)[1:]

    def step(self, x: Array | None = None, out: Array | None = None) -> Array:
        """Take one sample of each row.

        Parameters
        ----------
        x
            (B, I), or what else the model takes of a step: (B,) integers for an `Embedding`. None
            for what is in `input`.
        out
            Where the output is written, C-contiguous, of its shape and dtype; None for a new array,
            or for `output` if x is None.

        Returns
        -------
        output
            (B, ·), `out` if it was given.

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong; then neither the state nor `out` has changed.
        """
        if x is None:
            x, out = self.input, self.output if out is None else out
            own = self._own  # what the attributes say, unless the caller has set them
            if own is not None and x is own[0] and out is own[1] and self._again():
                return out
        if self._quick is not None:
            result = self._new() if out is None else out
            if self._quick(id(x), id(result)):
                return result
        found = states.read_input("x", self._model, x, ("B", self.batch))[None]
        if out is None:
            return np.asarray(self._engine.run(found)[0])
        _writable("out", out, self._shape_of(found), self._dtype)
        self._fill(found, out[None])
        return out

    def push(self, block: Array, out: Array | None = None) -> Array:
        """Take T samples of each row.

        Parameters
        ----------
        block
            (T, B, I), or (T, B) integers for an `Embedding`.
        out
            Where the output is written, C-contiguous, of its shape and dtype; None for a new array.

        Returns
        -------
        output
            (T, B, ·), `out` if it was given.

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong; then neither the state nor `out` has changed.
        """
        found = states.read_input("block", self._model, block, "T", ("B", self.batch))
        if out is None:
            return self._engine.run(found)
        _writable("out", out, (len(found), *self._shape_of(found)), self._dtype)
        self._fill(found, out)
        return out

    def _fill(self, x: Array, out: Array) -> None:
        """Take steps, (T, B, ·), into an array that may be x."""
        if np.may_share_memory(x, out):
            out[...] = self._engine.run(x)
        else:
            self._engine.run(x, out)

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
        mask = None
        if rows is not None:
            chosen = validation.array("rows", rows)
            if chosen.dtype == np.bool_:
                mask = np.ascontiguousarray(validation.shape("rows", chosen, ("B", self.batch)))
            else:
                mask = np.zeros(self.batch, np.bool_)
                mask[validation.indices("rows", chosen, self.batch)] = True
        self._engine.clear(mask)

    @property
    def state(self) -> Any:
        """The state after the last step, as the model's call returns it; a copy, get or set.

        Assigning None sets zeros.
        """
        return self._engine.read()

    @state.setter
    def state(self, value: Any) -> None:
        self._engine.write(states.read(self._model, self.batch, value))

    def native(self) -> Native:
        """Return the addresses with which compiled code takes steps: C, Numba, a callback.

        Steps that it takes and those that are taken here go on from each other: there is one state.
        Arrays are C-contiguous, of the parameters' dtype, x (B, I) or (steps, B, I), y (B, ·) or
        (steps, B, ·), apart from each other; nothing is checked. No two threads may use a stream at
        a time, and the addresses are good until `refresh`, or until the stream goes away.

        Raises
        ------
        ValueError
            If it is not the C kernels that run the whole model, in one call.
        """
        if not isinstance(self._engine, _Packed):
            raise ValueError(
                "native: expected a model that is one call of the C kernels: recurrent layers, "
                f"maybe a Linear, maybe its activation, got {self._source!r}"
            )
        return Native(*self._engine.network.addresses())

    def refresh(self) -> None:
        """Take the parameters that the model has now; the state is kept."""
        state, self._model = self._engine.read(), self._taken(self._source)
        self._start()
        self._engine.write(state)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: not the engine, which has memory of its own."""
        names = ("batch", "weight_dtype", "threads", "_source", "_model")
        return {name: getattr(self, name) for name in names} | {"state": self.state}

    def __setstate__(self, given: dict[str, Any]) -> None:
        """Make a copy; it shares nothing."""
        state = given.pop("state")
        vars(self).update(given)
        self._prepare()
        self._engine.write(state)

    def __repr__(self) -> str:
        stored = "" if self.weight_dtype is None else f", weight_dtype={self.weight_dtype!r}"
        shared = "" if self.threads == 1 else f", threads={self.threads}"
        note = ", before its parameters changed: refresh() takes the new ones" * self._has_changed()
        return f"Stream({self._source!r}, batch={self.batch}{stored}{shared}{note})"

    def _has_changed(self) -> bool:
        """Say whether `refresh` would take other parameters."""
        now = self._source
        if self.weight_dtype is not None:
            try:
                now = self._taken(now)
            except ValueError:  # which it would refuse
                return True
        taken = self._model.parameters
        return any(
            not np.array_equal(parameter, taken[name], equal_nan=True)
            for name, parameter in now.parameters.items()
        )


class _Engine(Protocol):
    """What takes the steps, and keeps the state."""

    @property
    def quick(self) -> Callable[[int, int], int] | None:
        """Takes a step from one array to another, by their `id`; or returns 0 and does nothing."""

    def again(self, x: Array, y: Array) -> Callable[[], int]:
        """Return a function that does so from one array to another, which it keeps."""

    def run(self, x: Array, out: Array | None = None) -> Array:
        """Take T steps, (T, B, ·), already checked, into an array apart from x, if there is one."""

    def read(self) -> Any:
        """Return a copy of the state, as the model has it."""

    def write(self, state: Any) -> None:
        """Set the state."""

    def clear(self, rows: Array | None) -> None:
        """Make it zero for all rows, or for those that are true."""


class _Called:
    """A model that is called with the state of the last call."""

    quick: None = None

    def __init__(self, model: Recurrent | Sequential, batch: int, threads: int) -> None:
        self.model, self.threads = model, threads
        self.state = states.read(model, batch)

    def again(self, x: Array, y: Array) -> Callable[[], int]:
        return lambda: 0

    def run(self, x: Array, out: Array | None = None) -> Array:
        with at_most(self.threads):
            output, self.state = self.model(x, self.state)
        if out is None:
            return np.asarray(output)
        out[...] = output
        return out

    def read(self) -> Any:
        return states.each(np.array, self.state)

    def write(self, state: Any) -> None:
        self.state = state

    def clear(self, rows: Array | None) -> None:
        # What the model has returned may be the caller's state of an earlier time, too.
        self.state = states.each(np.array, self.state)
        for array in states.arrays(self.state):
            array[:, slice(None) if rows is None else rows] = 0


class _Packed:
    """A model that the C kernels run in one call."""

    network: Network

    def __init__(
        self,
        model: Recurrent | Sequential,
        batch: int,
        weight_dtype: str | None,
        threads: int,
        like: _Packed | None = None,
    ) -> None:
        from .c_stream import Layer, Network

        self.model = model
        head, activation = None, None
        for layer in model.layers if isinstance(model, Sequential) else ():
            if isinstance(layer, Linear):
                head = layer.parameters["weight"], layer.parameters.get("bias")
            elif not isinstance(layer, Recurrent):
                activation = type(layer).__name__
        layers = [
            Layer((layer.cell.name, *layer.options.values()), weights)
            for layer in states.recurrent_layers(model)
            for weights in layer._stack().weights.values()
        ]
        shared = None if like is None else like.network
        self.network = Network(layers, head, activation, batch, weight_dtype, threads, shared)
        self.quick, self.again = self.network.step, self.network.again
        self.run, self.clear = self.network.run, self.network.clear

    def read(self) -> Any:
        left = iter(self.network.read())
        found = []
        for layer in states.recurrent_layers(self.model):
            parts = zip(*[next(left) for _ in range(layer.num_layers)], strict=True)
            arrays = tuple([np.stack(part) for part in parts])
            found.append(arrays if len(arrays) > 1 else arrays[0])
        return tuple(found) if isinstance(self.model, Sequential) else found[0]

    def write(self, state: Any) -> None:
        given = state if isinstance(self.model, Sequential) else (state,)
        self.network.write(
            [
                tuple([array[k] for array in states.arrays(part)])
                for layer, part in zip(states.recurrent_layers(self.model), given, strict=True)
                for k in range(layer.num_layers)
            ]
        )


def _engine(
    model: Recurrent | Sequential,
    batch: int,
    weight_dtype: str | None,
    threads: int,
    like: _Engine | None,
) -> _Engine:
    """Choose the engine; one that is `like` another shares what it has prepared."""
    if isinstance(like, _Packed) or (like is None and _is_fused(model)):
        return _Packed(model, batch, weight_dtype, threads, like)
    return _Called(model, batch, threads)


def _is_fused(model: Recurrent | Sequential) -> bool:
    """Say whether C has all of it: recurrent layers, then maybe a head, maybe an activation."""
    recurrent = states.recurrent_layers(model)
    if {dispatch.choose(layer.backend, layer.cell.name) for layer in recurrent} != {"c"}:
        return False
    if len({layer.dtype for layer in recurrent}) > 1:
        return False
    ends: list[Any] = []
    if isinstance(model, Sequential):
        ends += model.layers[len(recurrent) :]
    if any(isinstance(layer, Recurrent) for layer in ends):  # something stands between them
        return False
    head = ends.pop(0) if ends and isinstance(ends[0], Linear) else None
    if head is not None and head.dtype != recurrent[0].dtype:
        return False
    if not ends:
        return True
    known = activations.Tanh, activations.Sigmoid, activations.ReLU, activations.Softmax
    return len(ends) == 1 and type(ends[0]) in known and getattr(ends[0], "axis", -1) == -1


def _writable(name: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Check an array that a result is to be written to."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}")
    if value.dtype != dtype:
        raise TypeError(f"{name}: expected an array of {dtype}, got {value.dtype}")
    validation.shape(name, value, *shape)
    if not value.flags.writeable or not value.flags.c_contiguous:
        raise ValueError(f"{name}: expected a C-contiguous array that may be written to")
