"""``fastrnn latency``."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import dispatch, files, validation
from ..bench import machine
from ..bench.words import count, seconds, three
from ..cells import CELLS
from ..console import check_writable, display, require, say, whole, write
from . import measure, steppers
from .measure import BUSY, QUANTILES, QUIET, Latencies

FORMAT, VERSION = "fastrnn latencies", 1
STEPS, QUICK = 1_000_000, 20_000
FEWEST = 1000  # so that p99.9 is a step's time, and not the slowest's
BLOCK = 10_000  # steps of a turn, or fewer
ROUNDS = 10  # at least, however few steps


def add_to(commands: Any) -> None:
    """Add the command to a command line."""
    latency = commands.add_parser(
        "latency",
        help="time single steps, the slowest above all",
        description="Time every single step of a stream, and of torch and ONNX Runtime where they "
        "are installed, on as many threads. Nobody is timed before its outputs agree with the "
        "float64 reference. Ctrl-C keeps what was measured.",
        allow_abbrev=False,
    )
    latency.add_argument(
        "--cell", default="lstm", help=f"one of {', '.join(CELLS)} (default: lstm)"
    )
    for name, default, words in (
        ("input", 8, "input size"),
        ("hidden", 32, "hidden units"),
        ("batch", 1, "rows of a step"),
        ("threads", 1, "of everyone, at most"),
    ):
        latency.add_argument(
            f"--{name}", type=whole, default=default, help=f"{words} (default: %(default)s)"
        )
    latency.add_argument(
        "--steps", type=whole, help=f"steps of everyone, at least {FEWEST:,} (default: {STEPS:,})"
    )
    latency.add_argument(
        "--quick", action="store_true", help=f"{QUICK:,} steps, if --steps does not say"
    )
    latency.add_argument(
        "--backend", help=f"one of {', '.join(dispatch.BACKENDS)} (default: all that are there)"
    )
    latency.add_argument(
        "--busy",
        action="store_true",
        help="measure beside busy neighbours, too: loops on all processors but as many as threads, "
        "at least one",
    )
    latency.add_argument("--out", metavar="FILE", help="draw a picture, as PNG")
    latency.add_argument("--save", metavar="FILE", help="write all times, as JSON")
    latency.set_defaults(run=_latency)


def _latency(args: argparse.Namespace) -> int:
    require("rich", *["matplotlib"] * (args.out is not None))
    validation.choice("cell", args.cell, CELLS)
    for name in ("input", "hidden", "batch", "threads"):
        validation.positive(name, getattr(args, name))
    steps = args.steps if args.steps is not None else QUICK if args.quick else STEPS
    if steps < FEWEST:
        raise ValueError(f"steps: expected at least {FEWEST:,}, got {steps:,}")
    backends = list(dispatch.BACKENDS)
    if args.backend is not None:
        backends = [dispatch.choose(args.backend, args.cell)]
    if args.out is not None and Path(args.out).suffix != ".png":
        raise ValueError(f"out: expected a name that ends in .png, got {args.out!r}")
    for name, path in (("out", args.out), ("save", args.save)):
        if path is not None:
            check_writable(name, Path(path))
    who = [c for c in steppers.CONTENDERS if c.backend is None or c.backend in backends]
    title = f"{args.cell} {args.input}/{args.hidden}, {count(args.batch, 'row')}"
    if args.threads > 1:
        title += f", {count(args.threads, 'thread')}"
    rows, complete = _measure(args, steps, who)
    if not rows:
        write("Interrupted before a round was complete: nothing was measured.\n")
        return 130
    say("steps", f"{rows[0].count:,} of {title}")
    _print(rows)
    if not complete:
        write("Interrupted: these are the rounds that were complete.\n")
    if args.save is not None:
        _save(Path(args.save), args, rows, complete)
        say("saved", args.save)
    if args.out is not None:
        from . import picture

        picture.draw(args.out, rows, title)
        say("picture", args.out)
    return 0 if complete else 130


def _measure(
    args: argparse.Namespace, steps: int, who: Sequence[steppers.Contender]
) -> tuple[list[Latencies], bool]:
    """Find out who computes the right thing, and let them take steps."""
    problem = steppers.problem(args.cell, args.input, args.hidden, args.batch, args.threads)
    wanted = steppers.reference(problem)
    chosen = {steppers.CLOCK: steppers.Stepper(lambda: None, lambda: problem.x)}
    conditions = {QUIET: 0} | ({BUSY: measure.neighbours(args.threads)} if args.busy else {})
    if hasattr(os, "getloadavg"):
        say("load", f"{os.getloadavg()[0]:.1f} on average in the minute before")
    if args.busy:
        say("neighbours", f"{conditions[BUSY]}, when the machine is to be busy")
    with display() as show:
        try:
            for contender in who:
                show(0.0, f"{contender.name}: preparing")
                stepper, why = steppers.choose(contender, problem, wanted)
                if stepper is None:
                    say(contender.name, f"left out: {why}")
                else:
                    chosen[contender.name] = stepper
        except KeyboardInterrupt:
            return [], False
        plan = steps, max(ROUNDS, -(-steps // BLOCK))
        samples = steppers.samples(problem)
        return measure.measure(chosen, problem.x, samples, plan, conditions, show)


def _print(rows: Sequence[Latencies]) -> None:
    """Print quantiles, condition by condition."""
    names = [f"{row.contender}{f' ({row.how})' if row.how else ''}" for row in rows]
    width = max(map(len, names)) + 2
    condition = ""
    for row, name in zip(rows, names, strict=True):
        if row.condition != condition:
            condition = row.condition
            heads = "".join(f"{head:>10}" for head in (*QUANTILES, "p99.9/p50"))
            write(f"\n{condition:<{width}}{heads}\n")
        found = row.quantiles()
        times = "".join(f"{seconds(1e-9 * t):>10}" for t in found.values())
        write(f"{name:<{width}}{times}{three(found['p99.9'] / max(1, found['p50'])):>10}\n")
    write(f"\nThe time of a step includes that of the clock, {steppers.CLOCK!r}.\n")


def _save(path: Path, args: argparse.Namespace, rows: Sequence[Latencies], complete: bool) -> None:
    """Write all times as JSON: the different ones, in nanoseconds, and how many steps took each."""
    libraries = [name for contender in steppers.CONTENDERS for name in contender.modules]
    found = []
    for row in rows:
        times, steps = row.histogram()
        found.append(
            {
                "contender": row.contender,
                "how": row.how,
                "condition": row.condition,
                "quantiles": row.quantiles(),
                "nanoseconds": times.tolist(),
                "steps": steps.tolist(),
            }
        )
    settings = ("cell", "input", "hidden", "batch", "threads", "backend")
    document = {
        "format": FORMAT,
        "version": VERSION,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {name: getattr(args, name) for name in settings},
        "neighbours": measure.neighbours(args.threads) if args.busy else 0,
        "machine": asdict(machine.describe(None, libraries)),
        "complete": complete,
        "rows": found,
    }
    files.write(path, json.dumps(document, allow_nan=False).encode() + b"\n")
