"""The backend "c": pointers in, nothing else. The kernels are in csrc, behind fastrnn.h."""

from __future__ import annotations

import atexit
from typing import Any

import numpy as np

from . import reference
from ._c import ffi, lib
from .threads import num_threads
from .validation import Array
from .workspace import Backward, Call, Forward, State, aligned

CELLS = {
    ("rnn", "tanh"): lib.FASTRNN_RNN_TANH,
    ("rnn", "relu"): lib.FASTRNN_RNN_RELU,
    ("gru", True): lib.FASTRNN_GRU_AFTER,
    ("gru", False): lib.FASTRNN_GRU_BEFORE,
    ("lstm",): lib.FASTRNN_LSTM,
}
BYTES = np.dtype(np.uint8)

atexit.register(lib.fastrnn_stop)


def isas() -> list[str]:
    """Name the instruction sets that are built and run here, the best one last."""
    return [_isa_name(k) for k in range(lib.fastrnn_isa_count()) if lib.fastrnn_isa_runs_here(k)]


def use_isa(name: str) -> None:
    """Compute with one of `isas` from now on."""
    names = [_isa_name(k) for k in range(lib.fastrnn_isa_count())]
    lib.fastrnn_set_isa(names.index(name))


def _isa_name(number: int) -> str:
    name: bytes = ffi.string(lib.fastrnn_isa_name(number))
    return name.decode()


def forward(call: Call, ws: Forward) -> None:
    """Run one layer in one direction over a window and fill `ws`."""
    p = ffi.new("fastrnn_pass *")
    kept = _fill(p, call, ws)
    p.h_n, p.c_n = _pointers(kept, *ws.state, None)[:2]
    _run(lib.fastrnn_forward, p, p, backward=False)


def backward(call: Call, tape: Forward, d_output: Array, d_state: State, ws: Backward) -> None:
    """Run it backward, fill `ws`, and overwrite `tape.records`."""
    q = ffi.new("fastrnn_backward_pass *")
    p = ffi.addressof(q, "forward")
    kept = _fill(p, call, tape)
    q.h, q.c = _pointers(kept, *reference.consumed_states(call, tape), None)[:2]
    q.d_output, q.d_h_n, q.d_c_n = _pointers(kept, d_output, *d_state, None)[:3]
    q.d_x, q.d_w_ih, q.d_w_hh, q.d_b_ih, q.d_b_hh, q.d_w_hr = _pointers(kept, ws.x, *ws.weights)
    q.d_h0, q.d_c0 = _pointers(kept, *ws.state, None)[:2]
    q.d_reset_h, q.d_reset_c = _pointers(kept, *ws.reset_state, None)[:2]
    _run(lib.fastrnn_backward, q, p, backward=True)


def _fill(p: Any, call: Call, ws: Forward) -> list[Any]:
    """Describe a pass; return what has to live as long as the description."""
    kept: list[Any] = []
    p.T, p.B, p.I = call.x.shape
    p.H = call.hidden_size
    p.P = 0 if call.weights.hr is None else len(call.weights.hr)
    p.cell = CELLS[call.cell.name, *call.options.values()]
    p.real_bytes = call.x.itemsize
    p.reverse = call.reverse
    p.threads = num_threads()
    p.x, p.w_ih, p.w_hh, p.b_ih, p.b_hh, p.w_hr = _pointers(kept, call.x, *call.weights)
    p.lengths, p.reset = _pointers(kept, call.lengths, call.reset)
    p.h0, p.c0 = _pointers(kept, *call.state, None)[:2]
    p.reset_h, p.reset_c = _pointers(kept, *call.reset_state, None)[:2]
    p.output, p.cells = _pointers(kept, ws.output, ws.cells)
    p.gates, p.hidden_n = _pointers(kept, ws.records.get("gates"), ws.records.get("hidden_n"))
    return kept


def _pointers(kept: list[Any], *arrays: Array | None) -> list[Any]:
    pointers = [ffi.NULL if a is None else ffi.from_buffer(a) for a in arrays]
    kept += pointers
    return pointers


def _run(function: Any, argument: Any, p: Any, *, backward: bool) -> None:
    """Call until all is done, returning to Python now and then, for Ctrl-C."""
    scratch = aligned((lib.fastrnn_scratch(p, backward),), BYTES)
    held = ffi.from_buffer(scratch)
    p.scratch = held
    while function(argument):
        pass
