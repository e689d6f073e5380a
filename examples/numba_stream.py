"""Steps from a loop that Numba compiles: an adaptive gain around a network, sample by sample.

    python examples/numba_stream.py

Each sample is scaled by a gain that depends on the output before, so that no sequence call could
compute it: the network has to be asked once a sample. In Python that costs a call of Python's; the
compiled loop calls `fastrnn_stream_step` by its address.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

import numba
import numpy as np

import fastrnn

SAMPLES = 48_000  # a second of sound
TARGET, RATE = 0.1, 1e-2  # how large outputs shall be, and how fast the gain goes there

Loop = Callable[[np.ndarray], np.ndarray]


def compiled(stream: fastrnn.Stream) -> Loop:
    """Return the loop as machine code that steps a stream of one input and one output."""
    native = stream.native()
    pointer = ctypes.c_void_p
    step = ctypes.CFUNCTYPE(None, pointer, pointer, pointer)(native.step)

    @numba.njit
    def loop(address: int, signal: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        out = np.empty_like(signal)
        gain = np.float32(1.0)
        for k in range(len(signal)):
            x[0, 0] = gain * signal[k]
            step(address, x.ctypes, y.ctypes)
            out[k] = y[0, 0]
            gain += np.float32(RATE) * (np.float32(TARGET) - abs(out[k]))
        return out

    # `native` is good for as long as the stream is: the loop keeps it.
    return lambda signal: loop(native.stream, signal, stream.input, stream.output)


def plain(stream: fastrnn.Stream) -> Loop:
    """Return the same loop in Python."""

    def loop(signal: np.ndarray) -> np.ndarray:
        out = np.empty_like(signal)
        gain = np.float32(1.0)
        for k in range(len(signal)):
            stream.input[0, 0] = gain * signal[k]
            out[k] = stream.step()[0, 0]
            gain += np.float32(RATE) * (np.float32(TARGET) - abs(out[k]))
        return out

    return loop


def make() -> fastrnn.Stream:
    """Return a stream of a GRU of 16 units with one input and one output."""
    return fastrnn.Stream(
        fastrnn.Sequential(fastrnn.GRU(1, 16, seed=1, backend="c"), fastrnn.Linear(16, 1, seed=2))
    )


def main() -> int:
    """Run both loops; return 1 if they differ in a bit."""
    signal = np.random.default_rng(0).standard_normal(SAMPLES).astype(np.float32)
    found = {}
    for name, kind in (("Python", plain), ("Numba", compiled)):
        stream = make()
        loop = kind(stream)
        loop(signal[:10])  # compiles
        stream.reset()
        start = time.perf_counter()
        found[name] = loop(signal)
        seconds = time.perf_counter() - start
        print(f"{name:<8}{1e6 * seconds / SAMPLES:.2f} µs a sample")
    same = np.array_equal(found["Python"], found["Numba"])
    print("the same to the bit" if same else "different")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
