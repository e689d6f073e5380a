"""Find out what a change has made slower: two commits, interleaved.

    python benchmarks/compare.py [BASE [NEW]] [--rounds 21] [--backends c,numba] [--only PATTERN]

BASE and NEW are commits (default: HEAD~1 and HEAD). Each is checked out and built in a folder of
its own under build/compare, and computes in a process of its own; the processes take turns. Only
the public interface is used, so that old commits can be compared. A row is slower (or faster) if
three quarters of its rounds are, by more than 3 %. The exit code is 1 if one is slower, 2 if the
comparison failed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastrnn import validation
from fastrnn.bench.command import select
from fastrnn.bench.measure import PAUSE  # seconds, between turns: here nobody spins for long
from fastrnn.bench.workloads import Workload, workloads
from fastrnn.console import display
from fastrnn.dispatch import BACKENDS
from fastrnn.threads import num_threads

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("step", "inference", "training")
NOTEWORTHY = 1.03


class Worker:
    """A commit, built, in a process that computes on request (worker.py)."""

    def __init__(self, commit: str, *, build: bool) -> None:
        sha = git("rev-parse", "--verify", f"{commit}^{{commit}}")
        self.folder = ROOT / "build" / "compare" / sha
        if not self.folder.exists():
            git("worktree", "add", "--force", "--detach", str(self.folder), sha)
        if build:
            command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(ROOT / "benchmarks" / "worker.py")],
            env={**os.environ, "PYTHONPATH": str(self.folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **question: Any) -> Any:
        """Send a question and return the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise fail(f"{self.folder.name[:12]}: it cannot compute this: {question}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process, and forget the folder."""
        self.process.kill()
        self.process.wait()
        if self.folder.exists():  # the other one may be the same commit
            git("worktree", "remove", "--force", str(self.folder))


def fail(words: str) -> SystemExit:
    """Say what went wrong; the exit code is not that of a slower row."""
    print(words, file=sys.stderr)
    return SystemExit(2)


def git(*arguments: str) -> str:
    """Run git in the project, and return what it prints."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise fail(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def ratios(base: Worker, new: Worker, work: Workload, backend: str, rounds: int) -> list[float]:
    """Return how many times as long the new commit takes, round by round."""
    question = {"kind": work.kind, "cell": work.cell, "backend": backend, **work.sizes}
    for worker in (base, new):
        worker.ask(prepare=question)
    found = []
    for number in range(rounds):
        seconds = {}
        # Who begins changes: the second may find a warmer machine.
        for worker in (base, new) if number % 2 else (new, base):
            time.sleep(PAUSE)
            seconds[worker] = worker.ask(run=True)
        found.append(seconds[new] / seconds[base])
    return found


def main() -> int:
    """Compare, and print what has changed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", nargs="?", default="HEAD~1")
    parser.add_argument("new", nargs="?", default="HEAD")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--backends", default="c,numba")
    parser.add_argument("--only")
    args = parser.parse_args()
    backends = args.backends.split(",")
    try:
        for name in backends:
            validation.choice("backends", name, BACKENDS)
        rows = select(list(workloads(num_threads())), args.only, full=False)
    except ValueError as error:
        parser.error(str(error))
    rows = [row for row in rows if row.kind in KINDS and row.threads is None]
    if not rows or args.rounds < 2:
        parser.error(f"expected at least one layer or cell and 2 rounds, got {len(rows)} rows")
    tasks = [(row, backend) for row in rows for backend in backends]
    slower = 0
    lines = []
    with ExitStack() as opened:
        base = Worker(args.base, build="c" in backends)
        opened.callback(base.close)
        new = Worker(args.new, build="c" in backends)
        opened.callback(new.close)
        with display() as show:
            for number, (work, backend) in enumerate(tasks):
                name = f"{work.title} ({backend})"
                show(number / len(tasks), name)
                low, median, high = statistics.quantiles(
                    ratios(base, new, work, backend, args.rounds), n=4
                )
                verdict = ""
                if low > NOTEWORTHY or high < 1 / NOTEWORTHY:
                    verdict = "slower" if median > 1 else "faster"
                slower += verdict == "slower"
                lines.append(f"{name:48} {median:5.2f}  ({low:.2f}-{high:.2f})  {verdict}")
            show(1.0, f"{len(tasks)} rows")
    print(f"time of {args.new} / time of {args.base}, medians (quartiles)")
    print("\n".join(lines))
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
