"""``fastrnn bench`` and ``fastrnn report``."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import validation
from ..console import check_writable, display, require, say, whole, write
from ..threads import num_threads
from . import contenders, machine, table
from .measure import Plan, measure
from .results import Results, changes
from .words import count, flops
from .workloads import SUITES, Workload, workloads

QUICK = Plan(threads=0, rounds=7, seconds=2.5)
FULL = Plan(threads=0, rounds=11, seconds=6.0)


def add_to(commands: Any) -> None:
    """Add both commands to a command line."""
    bench = commands.add_parser(
        "bench",
        help="time this library against others",
        description="Time this library's backends against each other and against the libraries "
        "that are installed. Nothing is timed before its results agree with the float64 "
        "reference. Ctrl-C keeps what was measured.",
        allow_abbrev=False,
    )
    which = bench.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="some workloads, two minutes (default)")
    which.add_argument("--full", action="store_true", help="all but the largest, half an hour")
    bench.add_argument(
        "--only",
        metavar="PATTERN",
        help="workloads, of all, whose 'suite: name' contains this or matches it (*, ?); suites: "
        + ", ".join(SUITES),
    )
    bench.add_argument(
        "--against",
        metavar="NAMES",
        help="other libraries, separated by commas: "
        f"{', '.join(contenders.words())} (default: all)",
    )
    bench.add_argument("--threads", type=whole, help="threads for everyone")
    bench.add_argument("--rounds", type=whole, help="rounds of a workload, at least 2")
    bench.add_argument("--save", metavar="FILE", help="write the results, as JSON")
    bench.add_argument("--compare", metavar="FILE", help="say what has changed since these results")
    bench.set_defaults(run=_bench)

    page = commands.add_parser(
        "report",
        help="make a page of saved results",
        description="Make a page (HTML, and beside it Markdown) of what 'fastrnn bench --save' "
        "has written.",
        allow_abbrev=False,
    )
    page.add_argument("results", metavar="RESULTS", help="the saved results")
    page.add_argument("--out", metavar="FILE", help="the page (default: RESULTS as .html)")
    page.set_defaults(run=_report)


def _bench(args: argparse.Namespace) -> int:
    require("rich")
    threads = num_threads()
    if args.threads is not None:
        threads = validation.positive("threads", args.threads)
    preset = FULL if args.full else QUICK
    rounds = preset.rounds if args.rounds is None else args.rounds
    if validation.positive("rounds", rounds) < 2:
        raise ValueError(f"rounds: expected at least 2, got {rounds}")
    plan = Plan(threads, rounds, preset.seconds)
    who = contenders.choose(args.against)
    work = select(list(workloads(threads)), args.only, full=args.full)
    if args.save is not None:
        check_writable("save", Path(args.save))
    before = None if args.compare is None else Results.load(Path(args.compare))
    results = _run(args, plan, work, who)
    if args.save is not None:
        results.save(Path(args.save))
        say("saved", args.save)
    if before is not None:
        _print(table.comparison(changes(before.rows, results.rows)))
    return 0 if results.complete else 130


def select(rows: list[Workload], pattern: str | None, *, full: bool) -> list[Workload]:
    """Choose workloads: those of the set, or those of all that match a pattern."""
    if pattern is None:
        return [row for row in rows if row.quick or (full and not row.rare)]
    found = [r for r in rows if pattern in r.title or fnmatch.fnmatchcase(r.title, pattern)]
    if not found:
        raise ValueError(
            f"only: expected a part of a workload's name, such as one of {', '.join(SUITES)}, "
            f"got {pattern!r}"
        )
    return found


def _run(
    args: argparse.Namespace, plan: Plan, work: list[Workload], who: list[contenders.Contender]
) -> Results:
    chosen = "full" if args.full else "quick"
    with display() as show:
        show(0.0, "the machine's limits")
        found = machine.describe(plan.threads, contenders.libraries())
        settings = {
            "set": chosen if args.only is None else f"only {args.only}",
            "threads": plan.threads,
            "rounds": plan.rounds,
        }
        when = datetime.now(UTC).isoformat(timespec="seconds")
        results = Results(when, settings, found)
        begin = time.perf_counter()
        try:
            for number, row in enumerate(work):

                def tell(words: str, number: int = number, row: Workload = row) -> None:
                    done = number / len(work)
                    spent = time.perf_counter() - begin
                    left = f"{spent / done - spent:.0f} s left  " if done else ""
                    show(done, f"{left}{row.title}  {words}")

                results.rows.append(measure(row, who, plan, tell))
            show(1.0, f"{len(work)} workloads in {time.perf_counter() - begin:.0f} s")
        except KeyboardInterrupt:
            results.complete = False
    _describe(results)
    if len(results.rows) <= 3:
        for measured in results.rows:
            _print(table.table(measured, found.limits))
    _print(table.summary(results))
    for line in notes(results):
        write(f"{line}\n")
    return results


def _describe(results: Results) -> None:
    found = results.machine
    say("machine", f"{found.cpu}, {found.processors} processors, {found.system}")
    say("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items()))
    if found.limits is not None:
        rates = ", ".join(
            f"{flops(rate)} with {count(n, 'thread')}" for n, rate in found.limits.flops.items()
        )
        say("limits", f"{rates} (float32, {found.isa})")


def notes(results: Results) -> list[str]:
    """Say what a reader of the table has to know: who is not in it, and why; and what ~ means."""
    found = ["Medians; a ratio above 1 means that the other takes longer. ~ is a noisy row."]
    seen: dict[tuple[str, str, str], int] = {}
    for row in results.rows:
        for timing in row.timings:
            if timing.status != "timed":
                key = timing.contender, timing.status, timing.why
                seen[key] = seen.get(key, 0) + 1
    for (name, status, why), n in seen.items():
        found.append(f"{name}: {status} in {n} of {len(results.rows)} workloads ({why})")
    if not results.complete:
        found.append("Interrupted: the other workloads were not measured.")
    return found


def _report(args: argparse.Namespace) -> int:
    require("matplotlib")
    from . import report  # here, since pictures are an extra

    source = Path(args.results)
    results = Results.load(source)
    out = Path(args.out) if args.out is not None else source.with_suffix(".html")
    if out.suffix != ".html":
        raise ValueError(f"out: expected a name that ends in .html, got {str(out)!r}")
    check_writable("out", out)
    for path in report.write(results, out):
        say("written", path)
    return 0


def _print(renderable: Any) -> None:
    from rich.console import Console

    # A file or a pipe is no terminal of 80 columns: nothing is cut there.
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(renderable)
