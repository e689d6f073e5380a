"""Streams of the backend "c": a network packed once, its state kept, a step in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ._c import ffi, lib
from .c_backend import CELLS, MOST_AT_ONCE, MOST_THREADS, knows_arrays, optional_pointer
from .threads import num_threads
from .validation import Array
from .workspace import Weights, empty

ACTIVATIONS: dict[str | None, int] = {
    None: lib.FASTRNN_TO_ITSELF,
    "Tanh": lib.FASTRNN_TO_TANH,
    "Sigmoid": lib.FASTRNN_TO_SIGMOID,
    "ReLU": lib.FASTRNN_TO_RELU,
    "Softmax": lib.FASTRNN_TO_SOFTMAX,
}
WEIGHT_DTYPES: dict[str | None, int] = {
    None: lib.FASTRNN_AS_GIVEN,
    "float16": lib.FASTRNN_FLOAT16,
    "int8": lib.FASTRNN_INT8,
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer in one direction: the cell's name and options, and checked weights."""

    cell: tuple[object, ...]
    weights: Weights

    def work(self) -> int:
        """Multiply-adds of a step of one row."""
        return sum(w.size for w in self.weights if w is not None)


class Network:
    """Layers, then maybe activation(W h + b), and the state of B rows.

    Parameters
    ----------
    layers
        From the first to the last, at least one, of one dtype.
    head
        W (O, R) and b (O,) or None; None: there is none.
    activation
        One of `ACTIVATIONS`, of the head or of the last layer's output.
    batch
        B.
    weight_dtype
        One of `WEIGHT_DTYPES`, as which matrices are stored; they are float32 and rounded to it.
    threads
        How many may share a step, at most.
    like
        A network of the same arguments, but for `batch` and `threads`, whose packed weights are
        shared.

    Attributes
    ----------
    shape
        (B, ·) of a step's output.
    step
        A function of the `id` of two arrays, x (B, I) and the output: it takes a step and returns 1
        if both are plain arrays of the right shape and dtype, apart from each other. If not it
        returns 0, and nothing has happened.

    Raises
    ------
    MemoryError
        If there is none.
    """

    handle: Any
    step: Callable[[int, int], int]

    def __init__(
        self,
        layers: Sequence[Layer],
        head: tuple[Array, Array | None] | None,
        activation: str | None,
        batch: int,
        weight_dtype: str | None = None,
        threads: int = 1,
        like: Network | None = None,
    ) -> None:
        self.dtype = layers[0].weights.ih.dtype
        passes = ffi.new("fastrnn_pass[]", len(layers))
        for p, layer in zip(passes, layers, strict=True):
            w = layer.weights
            p.cell, p.hard_gates = CELLS[layer.cell]
            p.real_bytes = self.dtype.itemsize
            p.I = w.ih.shape[1]
            p.P = 0 if w.hr is None else len(w.hr)
            p.H = w.hh.shape[1] if w.hr is None else w.hr.shape[1]
            p.w_ih, p.w_hh, p.b_ih, p.b_hh, p.w_hr = map(optional_pointer, w)
        network = ffi.new("fastrnn_network *")
        network.B, network.layers, network.count = batch, passes, len(layers)
        network.activation = ACTIVATIONS[activation]
        network.real_bytes = self.dtype.itemsize
        network.weights = WEIGHT_DTYPES[weight_dtype]
        network.threads = min(threads, num_threads(), MOST_THREADS)
        if head is not None:
            network.O = len(head[0])
            network.w_o, network.b_o = map(optional_pointer, head)
        made = lib.fastrnn_stream_new(network, ffi.NULL if like is None else like.handle)
        if made == ffi.NULL:
            raise MemoryError("no memory for a stream")
        self.handle = ffi.gc(made, lib.fastrnn_stream_free)
        last = layers[-1].weights
        self.shape = batch, len(last.hh[0]) if head is None else len(head[0])
        # Of h, and of an LSTM's c.
        self.states = [
            [(batch, p.P or p.H)] + [(batch, p.H)] * (p.cell == lib.FASTRNN_LSTM) for p in passes
        ]
        work = batch * (sum(layer.work() for layer in layers) + (head[0].size if head else 0))
        self.most = max(1, MOST_AT_ONCE // work)
        self.step = partial(lib.fastrnn_stream_arrays, self.handle) if knows_arrays() else _no_step

    def again(self, x: Array, y: Array) -> Callable[[], int]:
        """Return `step` from one array to another, which are kept: fewer arguments, less time."""
        if not knows_arrays():
            return _no_step
        call = ffi.new("fastrnn_stream_call *", (self.handle, id(x), id(y)))
        again = partial(lib.fastrnn_stream_again, int(ffi.cast("uintptr_t", call)))
        vars(again)["kept"] = call, self.handle, x, y  # as long as it can be called
        return again

    def run(self, x: Array, out: Array | None = None) -> Array:
        """Take steps: a checked x (T, B, I) to (T, B, ·), an array apart from it."""
        output = empty((len(x), *self.shape), self.dtype) if out is None else out
        for first in range(0, len(x), self.most):  # and return now and then, for Ctrl-C
            part = slice(first, min(len(x), first + self.most))
            pointers = ffi.from_buffer(x[part]), ffi.from_buffer(output[part])
            lib.fastrnn_stream_push(self.handle, *pointers, part.stop - first)
        return output

    def addresses(self) -> tuple[int, int, int]:
        """Return those of fastrnn_stream_step, of fastrnn_stream_push and of the stream."""
        functions = [ffi.addressof(lib, f"fastrnn_stream_{name}") for name in ("step", "push")]
        step, push, handle = (int(ffi.cast("uintptr_t", p)) for p in (*functions, self.handle))
        return step, push, handle

    def read(self) -> list[tuple[Array, ...]]:
        """Return the state of each layer, a copy."""
        found = [tuple([empty(shape, self.dtype) for shape in shapes]) for shapes in self.states]
        self._exchange(found, 0)
        return found

    def write(self, state: Sequence[tuple[Array, ...]]) -> None:
        """Set the state of each layer; it has the form that `read` returns."""
        self._exchange(state, 1)

    def _exchange(self, state: Sequence[tuple[Array, ...]], way: int) -> None:
        for k, (h, *c) in enumerate(state):
            pointers = optional_pointer(h), optional_pointer(c[0] if c else None)
            lib.fastrnn_stream_state(self.handle, k, *pointers, way)

    def clear(self, rows: Array | None) -> None:
        """Make states zero, of all rows or those that are true."""
        chosen = ffi.NULL if rows is None else ffi.from_buffer("unsigned char[]", rows)
        lib.fastrnn_stream_reset(self.handle, chosen)


def _no_step(*arrays: int) -> int:
    return 0
