"""Pictures of results: what is drawn of them, where they support it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .results import Results, Row, is_ours
from .svg import PLACE, Picture, cut, picture, printable, ticks
from .words import about, decimal_bytes, flops, size, three

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIGIT = 6.4  # the widest a character of 10 points usually is
WIDTH, PANEL = 480, 360  # of a picture with words on its sides, and of one of many side by side


@dataclass(frozen=True, slots=True)
class Look:
    """How a contender is drawn, everywhere."""

    colour: str
    marker: str
    dashes: Any = "-"
    weight: float = 1.3

    @property
    def options(self) -> dict[str, Any]:
        """Of a line with markers."""
        return {
            "color": PLACE[self.colour],
            "marker": self.marker,
            "linestyle": self.dashes,
            "linewidth": self.weight,
            "markersize": 4.5,
            "clip_on": False,
        }


OURS = [Look("ours", "o", "-", 2.2), Look("ours", "s", (0, (5, 2))), Look("ours", "^", (0, (1, 2)))]
PEERS = [Look(f"c{n}", marker) for n, marker in enumerate("DvPX<*", 1)]


def looks(rows: Iterable[Row]) -> dict[str, Look]:
    """Give every contender its look, in order of appearance."""
    names = dict.fromkeys(timing.contender for row in rows for timing in row.timings)
    found: dict[str, Look] = {}
    for mine, choice in ((True, OURS), (False, PEERS)):
        group = [name for name in names if is_ours(name) == mine]
        found |= {name: choice[number % len(choice)] for number, name in enumerate(group)}
    return {name: found[name] for name in names}


def of_suite(name: str, rows: Sequence[Row], styles: dict[str, Look]) -> list[Picture]:
    """Draw what the rows of a suite support; the names of the pictures begin with `name`."""
    found = [ratios(f"{name}-ratios", rows), spread(f"{name}-spread", rows)]
    long = rows[0].suite == "long"
    for axis, members in groups(rows, 2 if long else 3):
        found.extend(_sizes(f"{name}-{len(found)}", axis, members, styles, long))
    if rows[0].suite == "threads":
        for members in _teams(rows):
            found.append(scaling(f"{name}-{len(found)}", members, styles))
    return [drawn for drawn in found if drawn is not None]


def ratios(name: str, rows: Sequence[Row]) -> Picture | None:
    """Draw how many times as long the best peer takes, row by row."""
    found = [
        (row, ratio, peer)
        for row in rows
        if (ratio := row.ratio()) is not None and (peer := row.best_peer) is not None
    ]
    if not found:
        return None
    labels, common = _labels([row for row, _, _ in found])
    right = [
        f"{three(ratio[0])}× {cut(printable(peer.contender), 16)}"
        f"{' ~' if peer.noisy or (row.ours or peer).noisy else ''}"
        for row, ratio, peer in found
    ]

    def paint(axes: Axes) -> dict[str, str]:
        tips = {}
        axes.axvline(1, color=PLACE["ink"], linewidth=1)
        for y, (row, (median, low, high), peer) in enumerate(found):
            axes.plot([low, high], [y, y], color=PLACE["ours"], linewidth=3, alpha=0.35)
            # Where the other is faster the dot is empty: not told by colour alone.
            inside = PLACE["ours" if median > 1 else "paper"]
            axes.plot(
                median, y, "o", color=PLACE["ours"], markerfacecolor=inside, gid=f"tip{y}",
                markersize=7,
            )  # fmt: skip
            axes.text(
                1.02, y, right[y], transform=axes.get_yaxis_transform(), va="center", fontsize=9
            )
            tips[f"tip{y}"] = (
                f"{row.name}: {peer.contender} takes {three(median)} times as long "
                f"(quartiles {three(low)} to {three(high)})"
            )
        _rows_of(axes, labels, [number for _, ratio, _ in found for number in ratio])
        axes.set_xlabel("time of the best other / time of fastrnn")
        return tips

    caption = (
        "Dots are medians of the rounds, bars reach from quartile to quartile. Right of the line "
        "fastrnn is faster; an empty dot says that the other is. ~ is a noisy row."
    )
    title = f"Ratio to the best other{common}"
    return picture(name, title, caption, _beside(labels, right), paint)


def spread(name: str, rows: Sequence[Row]) -> Picture | None:
    """Draw how the rounds of our times scatter."""
    found = [(row, row.ours) for row in rows]
    timed = [(row, ours) for row, ours in found if ours is not None and len(ours.seconds) > 1]
    if not timed:
        return None
    labels, common = _labels([row for row, _ in timed])
    right = [f"{len(ours.seconds)} rounds{' ~' if ours.noisy else ''}" for _, ours in timed]

    def paint(axes: Axes) -> dict[str, str]:
        axes.axvline(1, color=PLACE["ink"], linewidth=1)
        numbers = []
        for y, (_, ours) in enumerate(timed):
            shares = [value / ours.median for value in ours.seconds]
            box = [value / ours.median for value in ours.quartiles]
            axes.plot(box, [y, y], color=PLACE["ours"], linewidth=7, alpha=0.3)
            axes.plot(shares, [y] * len(shares), "|", color=PLACE["ours"], markersize=8)
            axes.text(
                1.02, y, right[y], transform=axes.get_yaxis_transform(), va="center", fontsize=9
            )
            numbers += shares
        _rows_of(axes, labels, numbers)
        axes.set_xlabel("time of a round / median")
        return {}

    caption = "A stroke is a round, a bar reaches from quartile to quartile. ~ is a noisy row."
    title = f"Spread of fastrnn's rounds{common}"
    return picture(name, title, caption, _beside(labels, right), paint)


def roofline(name: str, results: Results) -> Picture | None:
    """Draw how near the rows come to what the machine can do."""
    limits = results.machine.limits
    if limits is None:
        return None
    threads = max(limits.flops)
    rows = [row for row in results.rows if row.threads == threads and row.timed]
    placed = _apart(rows)
    if not placed:
        return None
    rates = sorted((threads * rate, size) for size, rate in limits.bandwidth.items())
    peak = limits.flops[threads]

    def paint(axes: Axes) -> dict[str, str]:
        tips = {}
        best = [(row, x, row.flop / row.best_peer.median) for row, x in placed if row.best_peer]
        ours = [(row, x, row.flop / row.ours.median) for row, x in placed if row.ours]
        y = [rate for _, _, rate in (*best, *ours)]
        left, right = min(x for _, x in placed) / 2, max(x for _, x in placed) * 2
        axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(min(y) / 2, 2.2 * peak))
        for number, (row, x, rate) in enumerate(best):
            key = f"tip{number}"
            axes.plot(x, rate, "D", color=PLACE["c1"], fillstyle="none", markersize=4.5, gid=key)
            tips[key] = f"{row.suite}, {row.name}: {flops(rate)} (best other)"
        for number, (row, x, rate) in enumerate(ours, len(best)):
            key = f"tip{number}"
            axes.plot(x, rate, "o", color=PLACE["ours"], markersize=5, gid=key)
            tips[key] = f"{row.suite}, {row.name}: {flops(rate)} (fastrnn)"
        _roofs(axes, rates, peak, left, right)
        ticks(axes.xaxis, left, right, "{:g}".format)
        ticks(axes.yaxis, min(y) / 2, 2.2 * peak, flops)
        axes.set_xlabel("FLOP per byte of recurrent weights read")
        axes.plot([], [], "o", color=PLACE["ours"], markersize=5, label="fastrnn")
        if best:
            axes.plot([], [], "D", color=PLACE["c1"], fillstyle="none", label="best other")
        _legend(axes, 3)
        return tips

    caption = (
        "Each row of the tables that had all threads. No call lies above the roof: its flat part "
        "is the peak of the processor, the band is how fast weights come from the caches or from "
        "memory, all threads together. Points of equal place are moved apart a little."
    )
    margins = (78, 46, 14, 38)
    return picture(name, "Roofline", caption, ((560, 380), margins), paint)


def intensity(row: Row) -> float:
    """Return the operations per byte of weights that is read."""
    return row.flop / row.bytes_read


def _apart(rows: Iterable[Row]) -> list[tuple[Row, float]]:
    """Place rows by their intensity, those of the same place side by side, the slowest first."""
    places: dict[float, list[Row]] = {}
    for row in rows:
        places.setdefault(intensity(row), []).append(row)
    found = []
    for place, members in places.items():
        members.sort(key=lambda row: row.flop / row.timed[0].median)
        reach = min(0.18, 0.02 * len(members))
        for k, row in enumerate(members):
            step = (2 * k + 1) / len(members) - 1
            found.append((row, place * math.exp(reach * step)))
    return found


def _roofs(
    axes: Axes, rates: list[tuple[float, int]], peak: float, left: float, right: float
) -> None:
    (low, far), (high, near) = rates[0], rates[-1]
    x = [left * (right / left) ** (k / 200) for k in range(201)]
    lower, upper = ([min(peak, rate * at) for at in x] for rate in (low, high))
    words = f"weights at {low / 1e9:.0f} ({size(far)}) to {high / 1e9:.0f} GB/s ({size(near)})"
    axes.fill_between(x, lower, upper, color=PLACE["c2"], alpha=0.25, linewidth=0, label=words)
    axes.plot(x, upper, color=PLACE["ink"], linewidth=1.2)
    words = f"{flops(peak)} at most"
    axes.text(right, peak * 1.2, words, ha="right", fontsize=9)


def groups(rows: Iterable[Row], least: int) -> Iterator[tuple[str, list[Row]]]:
    """Find rows that differ in one size only, and have at least so many of it.

    Yields
    ------
    size, rows
        T, B or H, the smallest first. Where I equals H it may change along with H.
    """
    found: dict[Any, dict[int, Row]] = {}
    for row in rows:
        for axis in ("T", "B", "H"):
            sizes: dict[str, Any] = {k: v for k, v in row.sizes.items() if k != axis}
            if axis == "H" and row.sizes["I"] == row.sizes["H"]:
                sizes["I"] = "H"
            key = axis, row.cell, row.kind, row.threads, *sorted(sizes.items())
            found.setdefault(key, {}).setdefault(row.sizes[axis], row)
    for key, members in found.items():
        if len(members) >= least:
            yield key[0], [members[size] for size in sorted(members)]


def _sizes(
    name: str, axis: str, rows: list[Row], styles: dict[str, Look], per_step: bool
) -> Iterator[Picture | None]:
    """Draw time against a size; of long sequences also time and memory of a step."""
    words = {"T": "steps (T)", "B": "rows of the batch (B)", "H": "hidden units (H)"}[axis]
    first = rows[0]
    fixed = [f"{k} {v}" for k, v in first.sizes.items() if k != axis and (k != "layers" or v > 1)]
    if axis == "H" and first.sizes["I"] == first.sizes["H"]:
        fixed = [f"I = H, {', '.join(fixed[1:])}"]
    what = f"{first.cell}, {first.kind}"
    under = f"{words}; {', '.join(fixed)}"

    def lines(unit: Callable[[Row, Any], float | None]) -> dict[str, list[tuple[float, float]]]:
        points: dict[str, list[tuple[float, float]]] = {contender: [] for contender in styles}
        for row in rows:
            for timing in row.timed:
                if value := unit(row, timing):  # nothing has no place on a logarithmic scale
                    points[timing.contender].append((row.sizes[axis], value))
        return points

    yield _lines(f"{name}-time", f"{what}: time", under, lines(lambda _, t: t.median), styles)
    if per_step:
        points = lines(lambda row, timing: timing.median / row.sizes["T"])
        yield _lines(f"{name}-step", f"{what}: time of a step", under, points, styles)
        points = lines(lambda row, timing: (timing.memory or 0) / row.sizes["T"])
        title = f"{what}: memory of a step"
        yield _lines(f"{name}-memory", title, under, points, styles, decimal_bytes)


def _teams(rows: Iterable[Row]) -> list[list[Row]]:
    """Find rows that differ in their threads only."""
    found: dict[Any, dict[int, Row]] = {}
    for row in rows:
        key = row.cell, row.kind, *sorted(row.sizes.items())
        found.setdefault(key, {}).setdefault(row.threads, row)
    return [[team[n] for n in sorted(team)] for team in found.values() if 1 in team]


def scaling(name: str, rows: list[Row], styles: dict[str, Look]) -> Picture | None:
    """Draw how much faster more threads are than one; the first row is that of one thread."""
    alone = {timing.contender: timing.median for timing in rows[0].timed}
    points: dict[str, list[tuple[float, float]]] = {contender: [] for contender in styles}
    for row in rows:
        for timing in row.timed:
            if timing.contender in alone:
                gain = alone[timing.contender] / timing.median
                points[timing.contender].append((row.threads, gain))
    title = f"{rows[0].cell}, {rows[0].kind}: speed-up"
    return _lines(name, title, "threads; the dotted line is ideal", points, styles, None)


def _lines(
    name: str,
    title: str,
    under: str,
    points: dict[str, list[tuple[float, float]]],
    styles: dict[str, Look],
    unit: Callable[[float], str] | None = about,
) -> Picture | None:
    """Draw a line a contender; log-log, or without a unit linear and with the ideal line."""
    drawn = {contender: at for contender, at in points.items() if len(at) > 1}
    if not drawn:
        return None
    x = sorted({at for line in drawn.values() for at, _ in line})
    y = [value for line in drawn.values() for _, value in line]

    def paint(axes: Axes) -> dict[str, str]:
        if unit is None:
            axes.plot(x, x, color=PLACE["soft"], linewidth=1, linestyle=(0, (1, 2)))
            axes.set(xlim=(x[0], x[-1]), ylim=(0, 1.05 * max(*x, *y)))
        else:
            low, high = min(y) / 1.3, max(y) * 1.3
            axes.set(xscale="log", yscale="log", xlim=(x[0], x[-1]), ylim=(low, high))
            ticks(axes.yaxis, low, high, unit)
        axes.set_xticks(x, [f"{at:,}" for at in x])
        axes.set_xticks([], minor=True)
        axes.grid(axis="y")
        # Ours is drawn last, above the others.
        for contender, line in reversed(drawn.items()):
            axes.plot(*zip(*line, strict=True), **styles[contender].options)
        for contender in drawn:
            axes.plot([], [], label=cut(printable(contender), 16), **styles[contender].options)
        axes.set_xlabel(under)
        _legend(axes, 3)
        return {}

    top = 30 + 14 * math.ceil(len(drawn) / 3)
    margins = (52, top, 22, 38)
    return picture(name, title, "", ((PANEL, top + 210), margins), paint)


def _beside(
    labels: list[str], right: list[str]
) -> tuple[tuple[float, float], tuple[float, float, float, float]]:
    """Return size and margins of a picture with a row a label."""
    sides = [14 + DIGIT * max(map(len, words)) for words in (labels, right)]
    return (max(WIDTH, sum(sides) + 200), 76 + 19 * len(labels)), (sides[0], 34, sides[1], 42)


def _rows_of(axes: Axes, labels: list[str], numbers: list[float]) -> None:
    """Set up axes whose rows are named and whose numbers are ratios around 1."""
    low, high = min(0.9, *numbers) / 1.08, max(1.1, *numbers) * 1.08
    axes.set(xscale="log", xlim=(low, high), ylim=(len(labels) - 0.4, -0.6))
    ticks(axes.xaxis, low, high, "{:g}".format)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0, labelcolor=PLACE["ink"])
    axes.grid()
    axes.spines["left"].set_visible(False)


def _labels(rows: Sequence[Row]) -> tuple[list[str], str]:
    """Return names of rows without the words that all have, and those words."""
    split = [printable(row.name).split() for row in rows]
    common = [w for w in split[0] if all(w in words for words in split)] if len(rows) > 1 else []
    short = [" ".join(w for w in words if w not in common) or " ".join(words) for words in split]
    return [cut(label, 30) for label in short], f" ({' '.join(common)})" if common else ""


def _legend(axes: Axes, columns: int) -> None:
    """Put the legend below the title, above the axes."""
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1.01), ncols=columns, fontsize=8.5, handlelength=2,
        columnspacing=1, borderaxespad=0, labelspacing=0.3,
    )  # fmt: skip
