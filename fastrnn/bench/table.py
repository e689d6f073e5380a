"""Results in a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .results import Change, Limits, Results, Row, Timing, is_ours
from .words import seconds


def text(timing: Timing) -> str:
    """Write a time as people do, three digits and a unit."""
    return ("~ " if timing.noisy else "") + seconds(timing.median)


def table(row: Row, limits: Limits | None) -> Any:
    """Return a renderable table of one workload."""
    from rich.table import Table

    found = Table(title=row.title, title_justify="left", expand=False)
    found.add_column("contender")
    for heading in ("time", "error", "ratio", "of the limit"):
        found.add_column(heading, justify="right")
    for timing in row.timings:
        if timing.status != "timed":
            found.add_row(timing.contender, timing.status, "", "", "", style="dim")
            continue
        share = row.share(timing, limits)
        ratio = None if timing is row.ours else row.ratio(timing)
        found.add_row(
            timing.contender,
            text(timing),
            f"{timing.error:.0e}",
            "" if ratio is None else f"{ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f})",
            "" if share is None else f"{share[0]:.0%} {share[1]}",
            style="bold" if is_ours(timing.contender) else None,
        )
    return found


def summary(results: Results) -> Any:
    """Return a renderable table with a line a workload: we and the best peer."""
    from rich.table import Table

    found = Table(expand=False)
    found.add_column("workload (I/H/B/T)")
    for heading in ("fastrnn", "of the limit", "best other", "ratio", "quartiles"):
        found.add_column(heading, justify="right")
    suite = ""
    for row in results.rows:
        if row.suite != suite:
            suite = row.suite
            found.add_section()
        found.add_row(*_cells(row, results.machine.limits))
    return found


def _cells(row: Row, limits: Limits | None) -> list[str]:
    ours = row.ours
    if ours is None:
        found = [f"{t.contender} {t.status}" for t in row.timings if is_ours(t.contender)]
        return [row.title, "; ".join(found)]
    share = row.share(ours, limits)
    speed = f", {row.characters(ours):,.0f} chars/s" if row.kind == "character" else ""
    cells = [
        row.title,
        f"{text(ours)} {ours.contender.removeprefix('fastrnn ')}{speed}",
        "" if share is None else f"{share[0]:.0%} {share[1]}",
    ]
    others = [t for t in row.timed if t is not ours]
    other = row.best_peer or min(others, key=lambda timing: timing.median, default=None)
    ratio = row.ratio(other) if other is not None else None
    if other is None or ratio is None:
        return [*cells, "", "", ""]
    median, low, high = ratio
    return [*cells, f"{text(other)} {other.contender}", f"{median:.2f}", f"{low:.2f}-{high:.2f}"]


def comparison(changes: Iterable[Change]) -> Any:
    """Return a renderable table of what has changed between two runs."""
    from rich.table import Table

    found = Table(expand=False)
    for heading in ("workload", "backend"):
        found.add_column(heading)
    for heading in ("before", "after", "ratio", "noise"):
        found.add_column(heading, justify="right")
    found.add_column("")
    styles = {"slower": "red", "faster": "green", "": None}
    for change in changes:
        found.add_row(
            change.name,
            change.contender,
            seconds(change.before),
            seconds(change.after),
            f"{change.ratio:.2f}",
            f"{change.noise:.2f}",
            change.verdict,
            style=styles[change.verdict],
        )
    return found
