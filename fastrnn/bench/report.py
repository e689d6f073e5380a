"""What a page of results says."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from .. import files
from . import page, pictures
from .page import Block, Details, Gallery, Heading, Items, Table, Text
from .results import NOISY, Results, Row, Timing, is_ours
from .words import count, flops, seconds, size, three
from .workloads import SUITES

NONE = "–"  # in a cell without a number


def html(results: Results) -> str:
    """Return a page that needs nothing but itself."""
    return page.html(_document(results))


def markdown(results: Results, folder: Path | None) -> str:
    """Return the page as Markdown.

    Parameters
    ----------
    results
        What to show.
    folder
        Where to write the pictures, as SVG; it is made if need be. The text refers to them as its
        neighbour. None for a text without pictures.
    """
    document = _document(results)
    if folder is not None:
        folder.mkdir(exist_ok=True)
        _write_pictures(document, folder)
    return page.markdown(document, None if folder is None else folder.name)


def summary(results: Results) -> str:
    """Return a table with a line a suite, as Markdown, and where and when it was measured."""
    return page.markdown([_overview(results), Text(_origin(results))], None)


def write(results: Results, path: Path) -> list[Path]:
    """Write the page, the same as Markdown (.md), and a folder with the pictures.

    Every file is written whole or not at all, and the page last. Pictures in that folder that an
    earlier page had are removed.

    Raises
    ------
    ValueError
        If the path does not end in .html, or something else is in the way; nothing is written.
    OSError
        If it cannot be written.
    """
    twin = path.with_suffix(".md")
    folder = path.with_name(f"{path.stem}-pictures")
    if path.suffix != ".html":
        raise ValueError(f"path: expected a name that ends in .html, got {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"path: expected a folder that is there, got {str(path.parent)!r}")
    for file in (path, twin):
        if file.is_dir():
            raise ValueError(f"path: expected a file, got the folder {str(file)!r}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"path: expected a folder, got the file {str(folder)!r}")
    document = _document(results)
    whole, text = page.html(document), page.markdown(document, folder.name)
    written = []
    if any(isinstance(block, Gallery) for block in document):
        folder.mkdir(exist_ok=True)
        written = _write_pictures(document, folder)
    for old in set(folder.glob("*.svg")).difference(written):
        old.unlink()
    files.write(twin, text.encode())
    files.write(path, whole.encode())
    return [path, twin, *written]


def _write_pictures(document: Sequence[Block], folder: Path) -> list[Path]:
    written = []
    for block in document:
        for picture in block.pictures if isinstance(block, Gallery) else ():
            written.append(folder / f"{picture.name}.svg")
            files.write(written[-1], picture.svg.encode())
    return written


def _document(results: Results) -> list[Block]:
    suites = _suites(results)
    looks = pictures.looks(results.rows)
    found: list[Block] = [Heading("fastrnn against others"), Text(_origin(results))]
    if not results.complete:
        found.append(Text("The run was interrupted: other workloads were not measured."))
    found += [Heading("In short", "short"), _overview(results)]
    found += [Heading("How it was measured", "how"), Items(_rules())]
    found += [Heading("The machine", "machine"), _machine(results)]
    if (roofline := pictures.roofline("roofline", results)) is not None:
        found.append(Gallery([roofline], wide=True))
    if results.rows:
        found += [Heading("Who took part", "who"), _contenders(results)]
    for number, (suite, rows) in enumerate(suites.items(), 1):
        # A name may be anything: it becomes part of file names and ids.
        slug = re.sub("[^a-z0-9]+", "-", suite.lower()).strip("-")[:30]
        link = f"s{number:02}-{slug}"
        found += [Heading(suite, link), Text(_sentence(SUITES.get(suite, "")))]
        drawn = pictures.of_suite(link, rows, looks)
        for wide in (True, False):  # each with its own columns
            if some := [picture for picture in drawn if (picture.width > pictures.PANEL) == wide]:
                found.append(Gallery(some, wide))
        found += _tables(rows, results)
    return [block for block in found if block != Text("")]


def _suites(results: Results) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in results.rows:
        found.setdefault(row.suite, []).append(row)
    return found


def _origin(results: Results) -> str:
    machine, settings = results.machine, results.settings
    try:
        at = datetime.fromisoformat(results.when).astimezone(UTC)
        when = f"{at:%Y-%m-%d %H:%M} UTC"
    except ValueError:
        when = results.when
    said = ", ".join(f"{name} {value}" for name, value in settings.items())
    where = f"{machine.cpu}, {count(machine.processors, 'processor')}, {machine.system}"
    return f"Measured on {when}: {where}." + (f" Settings: {said}." if said else "")


def _overview(results: Results) -> Table:
    found = Table(
        "Time of the best other library divided by fastrnn's: above 1, fastrnn is faster.",
        ("suite", "geometric mean", "range", "faster in", "rows", "what"),
        words=(0, 5),
        key=1,
    )
    for number, (suite, rows) in enumerate(_suites(results).items()):
        ratios = [ratio[0] for row in rows if (ratio := row.ratio()) is not None]
        mean, extent, faster = NONE, NONE, NONE
        if ratios:
            middle = statistics.geometric_mean(ratios)
            mean, extent = three(middle), f"{three(min(ratios))}–{three(max(ratios))}"
            faster = f"{sum(ratio > 1 for ratio in ratios)} of {len(ratios)}"
            if middle < 1:
                found.slower.add(number)
        found.rows.append((suite, mean, extent, faster, str(len(rows)), SUITES.get(suite, "")))
    return found


def _rules() -> list[str]:
    return [
        "Workloads are named by cell and sizes: input size / hidden units / rows of the batch / "
        "steps. All numbers are float32.",
        "Everyone gets the same weights and inputs. Before a contender is timed, its output, and "
        "in training every gradient, is compared with the float64 reference. A wrong one gets no "
        "time.",
        "All contenders of a workload take turns, round by round, in one process and with the same "
        "number of threads.",
        "A time is the median of the rounds. A ratio is taken round by round: its median, and the "
        "quartiles of all rounds. Above 1, fastrnn is faster.",
        f"~ is a noisy time: its quartiles lie more than {NOISY:.0%} of the median apart. It "
        "means little, and so does its ratio.",
        "Who is missing (not installed), refuses a workload, computes it wrongly or fails stays in "
        "the tables, with the reason below them.",
        "The limit is what the machine can do at most, measured in the same run: its peak "
        "(compute), or the rate at which the weights can be read anew in every step (bandwidth), "
        "whichever takes longer.",
    ]


def _machine(results: Results) -> Table:
    machine = results.machine
    found = Table("What computed, and what it can do at most.", ("property", "value"), words=(0, 1))
    found.rows += [
        ("processor", machine.cpu),
        ("processors used", str(machine.processors)),
        ("memory", NONE if machine.memory is None else size(machine.memory)),
        ("system", machine.system),
        ("C kernels", machine.isa or "not built"),
        ("versions", ", ".join(f"{name} {v}" for name, v in machine.versions.items())),
    ]
    if (limits := machine.limits) is not None:
        rates = [f"{flops(rate)} with {count(n, 'thread')}" for n, rate in limits.flops.items()]
        found.rows.append(("peak, float32", ", ".join(rates)))
        rates = [f"{rate / 1e9:.0f} from {size(n)}" for n, rate in limits.bandwidth.items()]
        found.rows.append(("GB/s that one thread reads", ", ".join(rates)))
    return found


def _contenders(results: Results) -> Table:
    found = Table(
        "In how many workloads each was timed, and how far the float64 reference was at most.",
        ("contender", "timed", "largest error", "not timed"),
        words=(0, 3),
    )
    names = dict.fromkeys(timing.contender for row in results.rows for timing in row.timings)
    for name in names:
        mine = [t for row in results.rows for t in row.timings if t.contender == name]
        timed = [timing for timing in mine if timing.status == "timed"]
        errors = [timing.error for timing in timed if timing.error is not None]
        reasons: dict[str, int] = {}
        for timing in mine:
            if timing.status != "timed":
                reasons[_reason(timing)] = reasons.get(_reason(timing), 0) + 1
        found.rows.append(
            (
                name,
                f"{len(timed)} of {len(mine)}",
                f"{max(errors):.0e}" if errors else NONE,
                "; ".join(f"{n} {reason}" for reason, n in reasons.items()),
            )
        )
    return found


def _tables(rows: list[Row], results: Results) -> list[Block]:
    """Return our times beside the best other's, the reasons, and the times of all."""
    reasons: dict[str, list[str]] = {}  # numbered by their order
    for row in rows:
        for timing in row.timings:
            if timing.status != "timed":
                who = reasons.setdefault(_reason(timing), [])
                who += [timing.contender] if timing.contender not in who else []

    def cell(timing: Timing | None) -> str:
        if timing is None:
            return NONE
        if timing.status == "timed":
            return f"{'~ ' if timing.noisy else ''}{seconds(timing.median)}"
        return f"{timing.status} ({list(reasons).index(_reason(timing)) + 1})"

    def ratio(row: Row, timing: Timing | None) -> str:
        if timing is not None and timing is row.ours:
            return three(1)
        found = row.ratio(timing) if timing is not None and timing.status == "timed" else None
        return NONE if found is None else f"{three(found[0])} ({_quartiles(found)})"

    found: list[Block] = [_main(rows, results, cell)]
    if reasons:
        notes = [f"{', '.join(who)} – {reason}" for reason, who in reasons.items()]
        found += [Text("Not timed:"), Items(notes, numbered=True)]
    names = list(dict.fromkeys(timing.contender for row in rows for timing in row.timings))
    times = Table("Median of the rounds.", ("workload", *names))
    ratios = Table("Ratio to fastrnn's time above: median (quartiles).", ("workload", *names))
    for row in rows:
        by_name = {timing.contender: timing for timing in row.timings}
        times.rows.append((row.name, *(cell(by_name.get(name)) for name in names)))
        ratios.rows.append((row.name, *(ratio(row, by_name.get(name)) for name in names)))
    learned = [row for row in rows if row.kind == "character"]
    if learned:
        speeds = Table("Thousands of characters a second.", ("workload", *names))
        for row in learned:
            fast = {t.contender: f"{row.characters(t) / 1e3:,.0f}" for t in row.timed}
            speeds.rows.append((row.name, *(fast.get(name, NONE) for name in names)))
        found.append(speeds)
    return [*found, Details("All contenders", [times, ratios])] if names else found


def _main(rows: list[Row], results: Results, cell: Callable[[Timing | None], str]) -> Table:
    found = Table(
        "fastrnn, by the first of its backends that has a time, and the fastest other library.",
        ("workload", "fastrnn", "backend", "best other", "library", "ratio", "quartiles",
         "of the limit", "limit", "rounds"),
        words=(0, 2, 4, 8),
        key=5,
    )  # fmt: skip
    for number, row in enumerate(rows):
        first = next((t for t in row.timings if is_ours(t.contender)), None)
        ours, peer, ratio = row.ours or first, row.best_peer, row.ratio()
        share = None if row.ours is None else row.share(row.ours, results.machine.limits)
        several = ratio is not None and ours is not None and len(ours.seconds) > 1
        found.rows.append(
            (
                row.name,
                cell(ours),
                NONE if ours is None else ours.contender.removeprefix("fastrnn ").strip("()"),
                cell(peer),
                "" if peer is None else peer.contender,
                NONE if ratio is None else three(ratio[0]),
                _quartiles(ratio) if ratio is not None and several else NONE,
                NONE if share is None else _percent(share[0]),
                "" if share is None else share[1],
                str(len(row.ours.seconds)) if row.ours is not None else NONE,
            )
        )
        if ratio is not None and ratio[0] < 1:
            found.slower.add(number)
    return found


def _quartiles(ratio: tuple[float, float, float]) -> str:
    return f"{three(ratio[1])}–{three(ratio[2])}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def _reason(timing: Timing) -> str:
    return f"{timing.status}: {timing.why}" if timing.why else timing.status


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}." if words else ""
