"""Compute on request, with the fastrnn that is found first: what compare.py asks for."""

from __future__ import annotations

import json
import sys
import time

import numpy as np

import fastrnn

TURN = 0.01  # seconds


def prepare(kind, cell, backend, I, H, B, T, layers):
    """Return a function that computes once."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape, np.float32)

    if kind == "step":
        step = getattr(fastrnn, f"{cell.upper()}Cell")(I, H, seed=0, backend=backend)
        x, arrays = draw(B, I), (draw(B, H), draw(B, H))
        state = arrays if cell == "lstm" else arrays[0]
        return lambda: step(x, state)
    layer = getattr(fastrnn, cell.upper())(I, H, layers, seed=0, backend=backend)
    x, d_y = draw(T, B, I), draw(T, B, H)
    if kind == "inference":
        return lambda: layer(x)
    return lambda: layer.record(x).backward(d_y)


def main():
    """Answer questions, a line each."""
    run, calls = None, 1
    for line in sys.stdin:
        question = json.loads(line)
        if "prepare" in question:
            run = prepare(**question["prepare"])
            run()
            start = time.perf_counter()
            run()
            calls = max(1, round(TURN / (time.perf_counter() - start)))
            print(json.dumps(True), flush=True)
            continue
        for _ in range(1 + calls // 2):
            run()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        print(json.dumps((time.perf_counter() - start) / calls), flush=True)


if __name__ == "__main__":
    main()
