"""The backend "c": pointers in, nothing else. The kernels are in csrc, behind fastrnn.h."""

from __future__ import annotations

import atexit
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from . import reference
from ._c import ffi, lib
from .threads import num_threads
from .validation import FLOAT32, FLOAT64, Array
from .workspace import Backward, Call, Forward, State, empty

# Cell and options: the cell's number, and whether its gates are hard.
CELLS: dict[tuple[object, ...], tuple[int, bool]] = {
    ("rnn", "tanh"): (lib.FASTRNN_RNN_TANH, False),
    ("rnn", "relu"): (lib.FASTRNN_RNN_RELU, False),
    ("gru", True, "sigmoid"): (lib.FASTRNN_GRU_AFTER, False),
    ("gru", True, "hard_sigmoid"): (lib.FASTRNN_GRU_AFTER, True),
    ("gru", False, "sigmoid"): (lib.FASTRNN_GRU_BEFORE, False),
    ("gru", False, "hard_sigmoid"): (lib.FASTRNN_GRU_BEFORE, True),
    ("lstm", "sigmoid"): (lib.FASTRNN_LSTM, False),
    ("lstm", "hard_sigmoid"): (lib.FASTRNN_LSTM, True),
}
SKIPS_PADDING = True  # of the input, where t >= lengths[b], nothing has a meaning
MOST_THREADS: int = lib.FASTRNN_MOST_THREADS
MOST_AT_ONCE: int = lib.FASTRNN_AT_ONCE  # multiply-adds that Ctrl-C waits for
# Multiply-adds of a product that is worth threads. Between smaller ones a layer computes in NumPy
# for so long that they fall asleep, and waking them may take longer than they save; from here on
# they saved 15 to 40 % of a convolution's time on a quiet machine.
WORTH_THREADS = 30_000_000
COLUMNS = 64  # of a product: a multiple of those that every instruction set takes at once
BYTES = np.dtype(np.uint8)
LSTM, LAYER = lib.FASTRNN_LSTM, lib.FASTRNN_LAYER
FORMS = {"function": lib.FASTRNN_FUNCTION, "layer": lib.FASTRNN_LAYER, "cell": lib.FASTRNN_CELL}

atexit.register(lib.fastrnn_stop)


def _isa_names() -> list[str]:
    names = map(lib.fastrnn_isa_name, range(lib.fastrnn_isa_count()))
    return [ffi.string(name).decode() for name in names]


def isas() -> list[str]:
    """Name the instruction sets that are built and run here, the best one last."""
    return [name for k, name in enumerate(_isa_names()) if lib.fastrnn_isa_runs_here(k)]


def isa() -> str:
    """Name the one that computes: the one that was set, else the best."""
    index: int = lib.fastrnn_isa()
    return _isa_names()[index]


def use_isa(name: str) -> None:
    """Compute with one of `isas` from now on."""
    lib.fastrnn_set_isa(_isa_names().index(name))


@cache
def knows_arrays() -> bool:
    """Let the C side make sure that it can read arrays; False in other Pythons than CPython."""
    if sys.implementation.name != "cpython":
        return False
    probe = np.zeros((3, 5), FLOAT64)
    data = probe.__array_interface__["data"][0]
    about = (id(np.ndarray), id(FLOAT32), id(FLOAT64), id(None), id(probe), data)
    return bool(lib.fastrnn_know_arrays(*about))


def quick(form: str, cell: str, *options: object) -> Callable[..., Any] | None:
    """Return a function for inference in the plain case (`dispatch.quick`), or None."""
    codes = CELLS.get((cell, *options))
    return None if codes is None or not knows_arrays() else partial(_infer, *codes, FORMS[form])


def direct(cell: str, *options: object) -> Direct | None:
    """Return the passes of a cell by the addresses of arrays (`dispatch.direct`)."""
    codes = CELLS.get((cell, *options))
    return None if codes is None else Direct(*codes)


class Direct:
    """Plain passes: a layer in one direction, without projection, lengths and resets.

    Arrays are given by the addresses of their numbers, 0 for those that are not there. Nothing is
    checked here: they are of one type, contiguous, of the right sizes, and not empty. Ctrl-C waits
    until a pass has ended, so it should have no more multiply-adds forward than `MOST`.
    """

    MOST = MOST_AT_ONCE

    def __init__(self, cell: int, hard_gates: bool) -> None:
        self.codes = cell, hard_gates

    def forward(
        self,
        sizes: tuple[int, int, int, int],
        real_bytes: int,
        threads: int,
        read: Sequence[int],
        written: Sequence[int],
    ) -> None:
        """Run forward.

        Parameters
        ----------
        sizes
            T, B, I, H.
        real_bytes, threads
            Bytes of a number, and the most threads to use.
        read
            x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0.
        written
            output, h_n, c_n; if recorded: cells, gates, hidden_n. Of a single step output and h_n
            may be one, and cells and c_n.
        """
        _check(lib.fastrnn_at_once(self._pass(sizes, real_bytes, threads, read, written), 0))

    def threads(self, most: int) -> int:
        """Return how many threads to use, of at most so many."""
        return min(most, _threads())

    def step(self, I: int, H: int, real_bytes: int, weights: Sequence[int]) -> Callable[..., int]:
        """Return a function of threads, B, x, h0, c0, h_n, c_n, gates, hidden_n: a single step.

        The last two are 0 if nothing is recorded.
        """
        one = self._pass((1, 0, I, H), real_bytes, 1, (0, *weights, 0, 0), (0,) * 6)
        return partial(lib.fastrnn_step, one)

    def backward(
        self,
        sizes: tuple[int, int, int, int],
        real_bytes: int,
        threads: int,
        read: Sequence[int],
        recorded: Sequence[int],
        further: Sequence[int],
    ) -> None:
        """Run backward, and overwrite gates and hidden_n.

        Parameters
        ----------
        sizes, real_bytes, threads, read, recorded
            Those of the pass forward.
        further
            h and c that the steps consumed, (T, B, H); d_output, d_h_n, d_c_n; and the gradients
            that are written: x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0.
        """
        h, c, d_output, d_h_n, d_c_n, d_x, d_ih, d_hh, d_b_ih, d_b_hh, d_h0, d_c0 = further
        rest = BACKWARD.pack(
            h, c, d_output, d_h_n, d_c_n, d_x, d_ih, d_hh, d_b_ih, d_b_hh, 0, d_h0, d_c0, 0, 0
        )
        both = self._pass(sizes, real_bytes, threads, read, recorded) + rest
        _check(lib.fastrnn_at_once(both, 1))

    def _pass(
        self,
        sizes: tuple[int, int, int, int],
        real_bytes: int,
        threads: int,
        read: Sequence[int],
        written: Sequence[int],
    ) -> bytes:
        x, w_ih, w_hh, b_ih, b_hh, h0, c0 = read
        output, h_n, c_n, cells, gates, hidden_n = written
        return PASS.pack(
            *sizes, 0, *self.codes, real_bytes, 0, self.threads(threads), 0, 0, x, w_ih, w_hh,
            b_ih, b_hh, 0, h0, c0, 0, 0, output, h_n, c_n, cells, gates, hidden_n, 0, 0,
        )  # fmt: skip


def _layout(fields: Iterable[tuple[str, Any]]) -> struct.Struct:
    """Return the layout of a struct's fields, in their order, for Python's own `struct`."""
    letters = {"int64_t": "q", "int32_t": "i"}
    return struct.Struct("".join([letters.get(f.type.cname, "P") for _, f in fields]))


PASS = _layout(ffi.typeof("fastrnn_pass").fields)
BACKWARD = _layout(ffi.typeof("fastrnn_backward_pass").fields[1:])  # what follows the pass
assert PASS.size == ffi.sizeof("fastrnn_pass")
assert PASS.size + BACKWARD.size == ffi.sizeof("fastrnn_backward_pass")


def _check(answer: int) -> int:
    if answer < 0:
        raise MemoryError("no memory for the scratch of a pass")
    return answer


def _infer(
    cell: int,
    hard_gates: bool,
    form: int,
    x: Array,
    h0: Array | None,
    c0: Array | None,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
) -> tuple[Array | None, Array, Array | None] | None:
    """Run one layer; nothing has been checked, and the C side checks what is passed here.

    The addresses are those of objects that live as long as this call.
    """
    try:
        *leading, B, _ = x.shape
        _, H = w_hh.shape
        dtype = x.dtype
    except (AttributeError, TypeError, ValueError):  # no arrays, or others than expected
        return None
    if dtype is not FLOAT32 and dtype is not FLOAT64:
        return None
    shape = (1, B, H) if form == LAYER else (B, H)
    output = empty((leading[0], B, H), dtype) if leading else None
    c_n = None
    if cell == LSTM:
        h_n, c_n = empty((2, *shape), dtype)
    else:
        h_n = empty(shape, dtype)
    done = lib.fastrnn_infer(
        cell, hard_gates, form, _threads(), id(x), id(h0), id(c0), id(w_ih), id(w_hh),
        id(b_ih), id(b_hh), id(output), id(h_n), id(c_n),
    )  # fmt: skip
    return (output, h_n, c_n) if _check(done) else None


def _threads() -> int:
    threads = num_threads()
    return threads if threads < MOST_THREADS else MOST_THREADS


def forward(call: Call, ws: Forward) -> None:
    """Run one layer in one direction over a window and fill `ws`."""
    _run(_described(call, ws, ws.state), backward=False)


def backward(call: Call, tape: Forward, d_output: Array, d_state: State, ws: Backward) -> None:
    """Run it backward, fill `ws`, and overwrite `tape.records`."""
    consumed = reference.consumed_states(call, tape)
    arrays = (
        *_pair(consumed), d_output, *_pair(d_state), ws.x, *ws.weights, *_pair(ws.state),
        *_pair(ws.reset_state),
    )  # fmt: skip
    rest = BACKWARD.pack(*map(_number, arrays))
    _run(_described(call, tape, ()) + rest, backward=True)


def product(a: Array, b: Array, *, turn_a: bool = False, turn_b: bool = False) -> Array:
    """Return the product of matrices; `turn_a` and `turn_b` take the transposed ones.

    Arrays are of one type, C-contiguous and not empty. No element depends on the other rows and
    columns, nor on threads.
    """
    M, K = a.shape[::-1] if turn_a else a.shape
    N, terms = b.shape if turn_b else b.shape[::-1]
    if terms != K:
        raise ValueError(f"b: expected {K} terms, got {terms}")
    out = empty((M, N), a.dtype)
    p = ffi.new("fastrnn_matrices *")
    p.M, p.K, p.out_step = M, K, N
    p.a_step, p.b_step = a.shape[1], b.shape[1]
    p.turn_a, p.turn_b = turn_a, turn_b
    p.real_bytes = a.itemsize
    p.threads = _threads() if M * N * K >= WORTH_THREADS else 1
    held = ffi.from_buffer(empty((lib.fastrnn_product_scratch(p.real_bytes, p.threads),), BYTES))
    p.scratch, p.a = held, _pointer(a)
    right, written = _pointer(b), _pointer(out)
    # Some columns at a time, returning to Python now and then, for Ctrl-C.
    step = max(1, MOST_AT_ONCE // (M * K * COLUMNS)) * COLUMNS
    for n in range(0, N, step):
        p.N = min(step, N - n)
        p.b = right + n * a.itemsize * (b.shape[1] if turn_b else 1)
        p.out = written + n * a.itemsize
        lib.fastrnn_product(p)
    return out


# A pointer keeps nothing alive. That is up to `call`, `ws` and the local names of a pass.
_pointer = ffi.from_buffer


def optional_pointer(array: Array | None) -> Any:
    """Point to an array; null for None."""
    return ffi.NULL if array is None else _pointer(array)


def _address(array: Array | None) -> int:
    return 0 if array is None else array.ctypes.data


# What stands for an array in the bytes of a pass: its id, of which C makes an address (`_run`). The
# 20 to 30 addresses of a pass, asked for one by one, took a sixth of its time in Python.
_number: Callable[[Array | None], int] = id if knows_arrays() else _address


def _pair(state: State) -> tuple[Array | None, ...]:
    """Return h and c of a state, or None where there is none."""
    return (*state, None, None)[:2]


def _described(call: Call, ws: Forward, finals: State) -> bytes:
    """Return the bytes of a pass, which lacks its scratch, with what both ways have in common."""
    T, B, I = call.x.shape
    weights, records = call.weights, ws.records
    arrays = (
        call.lengths, call.reset, call.x, *weights, *_pair(call.state), *_pair(call.reset_state),
        ws.output, *_pair(finals), ws.cells, records.get("gates"), records.get("hidden_n"),
    )  # fmt: skip
    return PASS.pack(
        T, B, I, call.hidden_size, 0 if weights.hr is None else len(weights.hr),
        *CELLS[call.cell.name, *call.options.values()], call.x.itemsize, call.reverse, _threads(),
        *map(_number, arrays), 0, 0,
    )  # fmt: skip


def _run(described: bytes, *, backward: bool) -> None:
    """Call until all is done, returning to Python now and then, for Ctrl-C."""
    memory = bytearray(described)
    p = ffi.from_buffer("fastrnn_pass *", memory)
    if _number is id:
        lib.fastrnn_find_arrays(p, backward)
    held = ffi.from_buffer(empty((lib.fastrnn_scratch(p, backward),), BYTES))
    p.scratch = held
    if not backward:
        while lib.fastrnn_forward(p):
            pass
        return
    q = ffi.from_buffer("fastrnn_backward_pass *", memory)
    while lib.fastrnn_backward(q):
        pass
