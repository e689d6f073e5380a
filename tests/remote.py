"""The C kernels in another process: the other end of native/server.c.

A `Remote` stands where `fastrnn.c_backend` has its library, so that the whole of the backend's
Python runs as ever, while the kernels run under an emulator or in a build with a sanitizer.
"""

import math
import shlex
import struct
import subprocess
from typing import Any

import numpy as np
from fastrnn._c import ffi, lib

from fastrnn import c_backend

# The shapes of what a pass points to, as fastrnn.h states them.
SHAPES = {
    "lengths": "B", "reset": "TB", "x": "TBI",
    "w_ih": "GHI", "w_hh": "GHR", "b_ih": "GH", "b_hh": "GH", "w_hr": "PH",
    "h0": "BR", "c0": "BH", "reset_h": "BR", "reset_c": "BH",
    "output": "TBR", "h_n": "BR", "c_n": "BH",
    "cells": "TBH", "gates": "TBGH", "hidden_n": "TBH",
    "h": "TBR", "c": "TBH", "d_output": "TBR", "d_h_n": "BR", "d_c_n": "BH",
    "d_x": "TBI", "d_w_ih": "GHI", "d_w_hh": "GHR", "d_b_ih": "GH", "d_b_hh": "GH", "d_w_hr": "PH",
    "d_h0": "BR", "d_c0": "BH", "d_reset_h": "BR", "d_reset_c": "BH",
}  # fmt: skip
GATES = {
    code: {"rnn": 1, "gru": 3, "lstm": 4}[name] for (name, *_), (code, _) in c_backend.CELLS.items()
}
ITEM = {"lengths": 8, "reset": 1}  # bytes of a number that is no real


class Remote:
    """A server, which answers like the library; `callers` run each pass at the same time."""

    def __init__(self, command: str) -> None:
        self.process = subprocess.Popen(
            shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.callers = 1
        self._send(b"l")
        self._all_isas = {}
        for _ in range(self._number()):
            runs = bool(self._number())
            self._all_isas[self._receive(16).rstrip(b"\0").decode()] = runs

    def close(self) -> int:
        """End the server; its exit code says whether a sanitizer has found something."""
        self.process.communicate(timeout=60)
        return self.process.returncode

    def isas(self) -> list[str]:
        return [name for name, runs in self._all_isas.items() if runs]

    def use_isa(self, name: str) -> None:
        self._send(b"i", list(self._all_isas).index(name))

    def activation(self, which: int, x: np.ndarray) -> np.ndarray:
        self._send(b"a", which, x.itemsize, x.size, x.tobytes())
        return np.frombuffer(self._receive(x.nbytes), x.dtype)

    # -- what `c_backend` calls -------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)  # nothing of a pass

    def fastrnn_infer(self, *_: object) -> int:
        return 0  # the server cannot see objects of this process: take the long way

    def fastrnn_scratch(self, *_: object) -> int:
        return 64  # the server has its own

    def fastrnn_forward(self, p: Any) -> int:
        return self._run(b"f", p, [p])

    def fastrnn_backward(self, q: Any) -> int:
        return self._run(b"b", q, [q, ffi.addressof(q, "forward")])  # which is its beginning

    def _run(self, what: bytes, whole: Any, parts: list[Any]) -> int:
        p = parts[-1]
        arrays = [
            (field.offset, getattr(part, name), size_in_bytes(p, name))
            for part in parts
            for name, field in ffi.typeof(part).item.fields
            if name in SHAPES and getattr(part, name) != ffi.NULL
        ]
        self._send(what, self.callers, bytes(ffi.buffer(whole)))
        for offset, pointer, size in arrays:
            self._send(offset, size, bytes(ffi.buffer(pointer, size)))
        self._send(-1)
        for _, pointer, size in arrays:
            ffi.memmove(pointer, self._receive(size), size)
        return 0

    # -- the pipe ---------------------------------------------------------------------------------

    def _send(self, *parts: int | bytes) -> None:
        for part in parts:
            data = struct.pack("<q", part) if isinstance(part, int) else part
            self.process.stdin.write(data)

    def _receive(self, size: int) -> bytes:
        self.process.stdin.flush()
        data = self.process.stdout.read(size)
        assert len(data) == size, f"the server ended with code {self.process.wait(60)}"
        return data

    def _number(self) -> int:
        return struct.unpack("<q", self._receive(8))[0]


def size_in_bytes(p: Any, name: str) -> int:
    """Return the size of what a pointer of a pass points to."""
    sizes = {"T": p.T, "B": p.B, "I": p.I, "H": p.H, "P": p.P, "R": p.P or p.H, "G": GATES[p.cell]}
    return math.prod((sizes[letter] for letter in SHAPES[name]), start=ITEM.get(name, p.real_bytes))
