"""Time the C kernels against other libraries: the table of workloads, and who runs each.

    python benchmarks/kernels.py [--only lstm-inference] [--rounds 15] [--threads 2] [--backend c]

Nothing is timed before its output (and gradients) agree with the float64 reference. A figure is the
median of the rounds, the ratio that of the best peer's rounds to ours, and the range of the ratios
is that from the first to the third quartile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator

from contenders import Workload, contenders, measure

import fastrnn


def workloads() -> Iterator[Workload]:
    """The rows of the table."""
    targets = {
        ("lstm", ("onnxruntime",)): (1.25, 1.10, 1.05, 1.02),
        ("gru", ("onnxruntime", "openvino")): (1.5, 1.4, 1.25, 1.1),
        ("rnn", ("openvino", "torch")): (1.6, 1.4, 1.25, 1.1),
    }
    for (cell, peers), row in targets.items():
        for H, target in zip((64, 128, 256, 512), row, strict=True):
            yield Workload("inference", cell, (H, H, 32, 64), peers, target)
    peers = ("onnxruntime", "openvino")
    for cell, row in {"lstm": (2, 2, 1.6, 1.6), "gru": (2.5, 2.5, 1.8, 1.6)}.items():
        for (I, H), target in zip(((8, 32), (32, 64), (128, 128), (256, 256)), row, strict=True):
            yield Workload("inference", cell, (I, H, 1, 128), peers, target)
    peers = ("torch", "jax")
    for cell, row in {
        "lstm": (3, 1.6, 1.25, 1.1, 1.1),
        "gru": (5, 2.5, 2, 1.7, 1.4),
        "rnn": (4, 2.5, 2, 1.6, 1.4),
    }.items():
        pairs = ((8, 32), (64, 64), (128, 128), (256, 256), (512, 512))
        for (I, H), target in zip(pairs, row, strict=True):
            yield Workload("training", cell, (I, H, 32, 64), peers, target)
    for cell, target in {"lstm": 2, "gru": 2.2, "rnn": 2}.items():
        yield Workload("training", cell, (128, 128, 1, 128), peers, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="rows whose name or sizes contain this")
    parser.add_argument("--rounds", type=int, default=15, help="at least 2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", default="c")
    args = parser.parse_args()
    fastrnn.set_num_threads(args.threads)
    if args.threads < (os.cpu_count() or 1):
        # JAX has no setting for its threads: it takes the processors that the process may use.
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: args.threads]))
    print(f"{'I/H/B/T':34} {args.backend:>9}  best peer             ratio  (quartiles)  target")
    for work in workloads():
        if args.only not in work.title:
            continue
        runs = contenders(work, args.backend, args.threads)
        if "" not in runs:
            sys.exit(1)
        times = measure(runs, args.rounds)
        ours = times.pop("")
        row = f"{work.title:34} {statistics.median(ours) * 1e6:7.0f}µs"
        if times:
            best = min(times, key=lambda name: statistics.median(times[name]))
            ratios = [theirs / mine for theirs, mine in zip(times[best], ours, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            row += f"  {best:11} {statistics.median(times[best]) * 1e6:7.0f}µs"
            row += f"  {middle:5.2f}  ({low:.2f}-{high:.2f})  {work.target:.2f}"
            row += "" if middle >= work.target else "  missed"
        print(row, flush=True)


if __name__ == "__main__":
    main()
