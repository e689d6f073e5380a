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

from contenders import Workload, contenders, measure

import fastrnn

CELLS = ("rnn", "gru", "lstm")
PEERS = ("numpy", "torch")
SIZES = {  # I, H, B, T
    "training": [(32, 32, 32, 64), (64, 64, 32, 64)],
    "inference": [(8, 32, 1, 128), (32, 32, 1, 128)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="at least 2")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    fastrnn.set_num_threads(args.threads)
    print(
        f"{'work':32} {'numba':>10} {'numpy':>10} {'ratio':>7} {'numba':>10} {'torch':>10} "
        f"{'ratio':>7}"
    )
    for kind, table in SIZES.items():
        for cell in CELLS:
            for sizes in table:
                report(Workload(kind, cell, sizes, PEERS), args.threads, args.rounds)
    start_up()


def report(work: Workload, threads: int, rounds: int) -> None:
    """Time one row of the table, each peer in turn with the Numba backend."""
    runs = contenders(work, "numba", threads)
    if "" not in runs:
        sys.exit(1)
    row = f"{work.title:32}"
    for peer in PEERS:
        if peer not in runs:
            row += f" {'-':>10} {'-':>10} {'-':>7}"
            continue
        times = measure({name: runs[name] for name in ("", peer)}, rounds)
        ours, theirs = times[""], times[peer]
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        row += f" {statistics.median(ours) * 1e6:8.0f}µs {statistics.median(theirs) * 1e6:8.0f}µs"
        row += f" {ratio:6.2f}x"
    print(row, flush=True)


def start_up() -> None:
    """Time `import fastrnn` and the first compiled call, in fresh processes."""
    code = "import time, numpy; t = time.perf_counter(); import fastrnn; "
    code += "print(time.perf_counter() - t)"
    child(code)  # Python compiles the sources once
    added = [float(child(code)) for _ in range(9)]
    print(f"import fastrnn adds {statistics.median(added) * 1e3:.1f} ms to import numpy")
    for cell in CELLS:
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
