"""Time the Numba backend against the NumPy reference and, where it is installed, torch.

    python benchmarks/backends.py [--rounds 15] [--threads 2]

Each peer runs interleaved with the Numba backend in one process, with the same number of threads;
a figure is a median of the rounds, a ratio is the median of the ratios round by round. Nothing is
timed before its output and gradients agree with the float64 reference. Start-up times are measured
in fresh processes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastrnn

try:
    import torch
except ImportError:
    torch = None

CLASSES = {"rnn": fastrnn.RNN, "gru": fastrnn.GRU, "lstm": fastrnn.LSTM}
TRAINING = [(32, 32, 32, 64), (64, 64, 32, 64)]  # I, H, B, T
INFERENCE = [(8, 32, 1, 128), (32, 32, 1, 128)]

Run = Callable[[], list[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    fastrnn.set_num_threads(args.threads)
    if torch is None:
        print("torch is not installed: no comparison with it")
    else:
        torch.set_num_threads(args.threads)
    print(
        f"{'work':32} {'numba':>10} {'numpy':>10} {'ratio':>7} {'numba':>10} {'torch':>10} "
        f"{'ratio':>7}"
    )
    for training, sizes in ((True, TRAINING), (False, INFERENCE)):
        for cell in CLASSES:
            for size in sizes:
                report(cell, size, training, args.rounds)
    start_up()


def report(cell: str, size: tuple[int, int, int, int], training: bool, rounds: int) -> None:
    """Time one row of the table, each peer in turn with the Numba backend."""
    runs = contenders(cell, size, training)
    kind = "training " if training else "inference"
    row = f"{cell:5} {kind} {'/'.join(map(str, size)):16}"
    for peer in ("numpy", "torch"):
        if peer not in runs:
            row += f" {'-':>10} {'-':>10} {'-':>7}"
            continue
        # The threads of NumPy's BLAS go on spinning for a while after its last product: they
        # would take a core from whoever comes next.
        time.sleep(0.5)
        times = interleaved({name: runs[name] for name in ("numba", peer)}, rounds)
        ours, theirs = times["numba"], times[peer]
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        row += f" {statistics.median(ours) * 1e6:8.0f}µs {statistics.median(theirs) * 1e6:8.0f}µs"
        row += f" {ratio:6.2f}x"
    print(row, flush=True)


def contenders(cell: str, size: tuple[int, int, int, int], training: bool) -> dict[str, Run]:
    """Return what is to be timed, once its results agree with the reference in float64."""
    I, H, B, T = size
    rng = np.random.default_rng(0)
    x = rng.normal(size=(T, B, I)).astype(np.float32)
    d_y = rng.normal(size=(T, B, H)).astype(np.float32)
    layers = {name: CLASSES[cell](I, H, seed=0, backend=name) for name in ("numba", "numpy")}
    parameters = layers["numpy"].parameters
    exact = CLASSES[cell](I, H, dtype="float64", backend="numpy")
    exact.load_parameters({k: v.astype(np.float64) for k, v in parameters.items()})
    wanted = fastrnn_run(exact, x.astype(np.float64), d_y.astype(np.float64), training)()
    runs = {name: fastrnn_run(layer, x, d_y, training) for name, layer in layers.items()}
    if torch is not None:
        runs["torch"] = torch_run(cell, parameters, x, d_y, training)
    for name, run in runs.items():
        for found, right in zip(run(), wanted, strict=True):
            error = np.abs(np.asarray(found) - right).max() / np.abs(right).max()
            if not error < 1e-5:
                sys.exit(f"{name} {cell} {size}: wrong result (error {error:.1e}), not timed")
    return runs


def fastrnn_run(layer: Any, x: np.ndarray, d_y: np.ndarray, training: bool) -> Run:
    if not training:
        return lambda: [layer(x)[0]]

    def run() -> list[Any]:
        tape = layer.record(x)
        gradients = tape.backward(d_y)
        return [tape.output, gradients.input, *gradients.parameters.values()]

    return run


def torch_run(
    cell: str, parameters: dict[str, np.ndarray], x: np.ndarray, d_y: np.ndarray, training: bool
) -> Run:
    H = d_y.shape[2]
    module = getattr(torch.nn, cell.upper())(x.shape[2], H)
    module.load_state_dict({k: torch.from_numpy(v) for k, v in parameters.items()})
    tx, td = torch.from_numpy(x.copy()), torch.from_numpy(d_y)
    if not training:

        def infer() -> list[Any]:
            with torch.inference_mode():
                return [module(tx)[0].numpy()]

        return infer
    tx.requires_grad_()

    def run() -> list[Any]:
        module.zero_grad(set_to_none=True)
        tx.grad = None
        y, _ = module(tx)
        y.backward(td)
        gradients = [tx.grad, *(p.grad for p in module.parameters())]
        return [y.detach().numpy(), *(g.numpy() for g in gradients)]

    return run


def interleaved(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds a call: in each round every contender has a turn of some 10 ms."""
    calls = {}
    for name, run in runs.items():
        run()
        start = time.perf_counter()
        run()
        calls[name] = max(1, round(1e-2 / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            times[name].append((time.perf_counter() - start) / calls[name])
    return times


def start_up() -> None:
    """Time `import fastrnn` and the first compiled call, in fresh processes."""
    code = "import time, numpy; t = time.perf_counter(); import fastrnn; "
    code += "print(time.perf_counter() - t)"
    child(code)  # Python compiles the sources once
    added = [float(child(code)) for _ in range(9)]
    print(f"import fastrnn adds {statistics.median(added) * 1e3:.1f} ms to import numpy")
    for cell in CLASSES:
        code = (
            "import time, numpy as np, fastrnn; t = time.perf_counter(); "
            f"m = fastrnn.{cell.upper()}(8, 32, backend='numba'); "
            "tape = m.record(np.zeros((4, 2, 8), np.float32)); a = time.perf_counter() - t; "
            "tape.backward(np.zeros_like(tape.output)); print(a, time.perf_counter() - t)"
        )
        child(code)  # fills the cache
        first, both_ways = zip(*(map(float, child(code).split()) for _ in range(5)), strict=True)
        print(
            f"{cell}: first forward call {statistics.median(first):.2f} s, "
            f"forward and backward {statistics.median(both_ways):.2f} s, from a warm cache"
        )


def child(code: str) -> str:
    """Run code in a fresh process, which may keep compiled sources as usual; return its output."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    ).stdout


if __name__ == "__main__":
    main()
