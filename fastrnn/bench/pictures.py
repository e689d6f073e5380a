"""Pictures of results: SVG text that takes its colours from the page around it.

A picture is drawn with placeholders for colours. They become CSS variables, which a page sets for
light and dark; a picture that stands alone brings their values along.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from .results import Results, Row, is_ours
from .words import about, decimal_bytes, flops, size, three

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {  # on light, on dark; c1 ... are those of Okabe and Ito, with the contrast text needs
    "ink": ("#18202b", "#e8ebf0"),
    "soft": ("#556070", "#a9b3c1"),
    "line": ("#dde2e9", "#343d4a"),
    "paper": ("#ffffff", "#12161c"),
    "ours": ("#0a58b0", "#6db3ff"),
    "c1": ("#c14a00", "#ff9657"),
    "c2": ("#00795a", "#3ecfa2"),
    "c3": ("#a8387d", "#f093c8"),
    "c4": ("#8a6100", "#e8b93c"),
    "c5": ("#0f7894", "#66cbe6"),
    "c6": ("#59626e", "#b7c0cc"),
}
# matplotlib knows no CSS variables: these stand for them until it has drawn.
_PLACE = {name: f"#fe00{number:02x}" for number, name in enumerate(COLOURS)}
_NAME = {place: name for name, place in _PLACE.items()}

STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "fastrnn",  # the same picture from the same data
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 10,
    "figure.dpi": 72,  # a unit of the picture is a point
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _PLACE["soft"],
    "axes.labelcolor": _PLACE["soft"],
    "axes.titlecolor": _PLACE["ink"],
    "grid.color": _PLACE["line"],
    "text.color": _PLACE["ink"],
    "xtick.color": _PLACE["soft"],
    "ytick.color": _PLACE["soft"],
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
}
DIGIT = 6.4  # the widest a character of 10 points usually is
WIDTH, PANEL = 480, 360  # of a picture with words on its sides, and of one of many side by side


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with what is said about it.

    Attributes
    ----------
    name
        Of a file, without suffix; the ids inside begin with it.
    title, caption
        What it shows, and how to read it.
    svg
        A whole file; the same text may be put into a page.
    width
        In points, at which its text has its usual size.
    """

    name: str
    title: str
    caption: str
    svg: str
    width: float


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
            "color": _PLACE[self.colour],
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


def printable(words: object) -> str:
    """Return words in one line, without what XML and UTF-8 cannot hold."""
    line = " ".join(str(words).split())
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def variables(dark: bool) -> str:
    """Return the colours as CSS declarations."""
    return ";".join(f"--{name}:{values[dark]}" for name, values in COLOURS.items())


def of_suite(name: str, rows: Sequence[Row], styles: dict[str, Look]) -> list[Picture]:
    """Draw what the rows of a suite support; the names of the pictures begin with `name`."""
    found = [ratios(f"{name}-ratios", rows), spread(f"{name}-spread", rows)]
    long = rows[0].suite == "long"
    for axis, members in groups(rows, 2 if long else 3):
        found.extend(_sizes(f"{name}-{len(found)}", axis, members, styles, long))
    if rows[0].suite == "threads":
        for members in _teams(rows):
            found.append(scaling(f"{name}-{len(found)}", members, styles))
    return [picture for picture in found if picture is not None]


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
        f"{three(ratio[0])}× {_cut(printable(peer.contender), 16)}"
        f"{' ~' if peer.noisy or (row.ours or peer).noisy else ''}"
        for row, ratio, peer in found
    ]

    def paint(axes: Axes) -> dict[str, str]:
        tips = {}
        axes.axvline(1, color=_PLACE["ink"], linewidth=1)
        for y, (row, (median, low, high), peer) in enumerate(found):
            axes.plot([low, high], [y, y], color=_PLACE["ours"], linewidth=3, alpha=0.35)
            # Where the other is faster the dot is empty: not told by colour alone.
            inside = _PLACE["ours" if median > 1 else "paper"]
            axes.plot(
                median, y, "o", color=_PLACE["ours"], markerfacecolor=inside, gid=f"tip{y}",
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
    return _picture(name, title, caption, _beside(labels, right), paint)


def spread(name: str, rows: Sequence[Row]) -> Picture | None:
    """Draw how the rounds of our times scatter."""
    found = [(row, row.ours) for row in rows]
    timed = [(row, ours) for row, ours in found if ours is not None and len(ours.seconds) > 1]
    if not timed:
        return None
    labels, common = _labels([row for row, _ in timed])
    right = [f"{len(ours.seconds)} rounds{' ~' if ours.noisy else ''}" for _, ours in timed]

    def paint(axes: Axes) -> dict[str, str]:
        axes.axvline(1, color=_PLACE["ink"], linewidth=1)
        numbers = []
        for y, (_, ours) in enumerate(timed):
            shares = [value / ours.median for value in ours.seconds]
            box = [value / ours.median for value in ours.quartiles]
            axes.plot(box, [y, y], color=_PLACE["ours"], linewidth=7, alpha=0.3)
            axes.plot(shares, [y] * len(shares), "|", color=_PLACE["ours"], markersize=8)
            axes.text(
                1.02, y, right[y], transform=axes.get_yaxis_transform(), va="center", fontsize=9
            )
            numbers += shares
        _rows_of(axes, labels, numbers)
        axes.set_xlabel("time of a round / median")
        return {}

    caption = "A stroke is a round, a bar reaches from quartile to quartile. ~ is a noisy row."
    title = f"Spread of fastrnn's rounds{common}"
    return _picture(name, title, caption, _beside(labels, right), paint)


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
            axes.plot(x, rate, "D", color=_PLACE["c1"], fillstyle="none", markersize=4.5, gid=key)
            tips[key] = f"{row.suite}, {row.name}: {flops(rate)} (best other)"
        for number, (row, x, rate) in enumerate(ours, len(best)):
            key = f"tip{number}"
            axes.plot(x, rate, "o", color=_PLACE["ours"], markersize=5, gid=key)
            tips[key] = f"{row.suite}, {row.name}: {flops(rate)} (fastrnn)"
        _roofs(axes, rates, peak, left, right)
        _ticks(axes.xaxis, left, right, "{:g}".format)
        _ticks(axes.yaxis, min(y) / 2, 2.2 * peak, flops)
        axes.set_xlabel("FLOP per byte of recurrent weights read")
        axes.plot([], [], "o", color=_PLACE["ours"], markersize=5, label="fastrnn")
        if best:
            axes.plot([], [], "D", color=_PLACE["c1"], fillstyle="none", label="best other")
        _legend(axes, 3)
        return tips

    caption = (
        "Each row of the tables that had all threads. No call lies above the roof: its flat part "
        "is the peak of the processor, the band is how fast weights come from the caches or from "
        "memory, all threads together. Points of equal place are moved apart a little."
    )
    margins = (78, 46, 14, 38)
    return _picture(name, "Roofline", caption, ((560, 380), margins), paint)


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
    axes.fill_between(x, lower, upper, color=_PLACE["c2"], alpha=0.25, linewidth=0, label=words)
    axes.plot(x, upper, color=_PLACE["ink"], linewidth=1.2)
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
            axes.plot(x, x, color=_PLACE["soft"], linewidth=1, linestyle=(0, (1, 2)))
            axes.set(xlim=(x[0], x[-1]), ylim=(0, 1.05 * max(*x, *y)))
        else:
            low, high = min(y) / 1.3, max(y) * 1.3
            axes.set(xscale="log", yscale="log", xlim=(x[0], x[-1]), ylim=(low, high))
            _ticks(axes.yaxis, low, high, unit)
        axes.set_xticks(x, [f"{at:,}" for at in x])
        axes.set_xticks([], minor=True)
        axes.grid(axis="y")
        # Ours is drawn last, above the others.
        for contender, line in reversed(drawn.items()):
            axes.plot(*zip(*line, strict=True), **styles[contender].options)
        for contender in drawn:
            axes.plot([], [], label=_cut(printable(contender), 16), **styles[contender].options)
        axes.set_xlabel(under)
        _legend(axes, 3)
        return {}

    top = 30 + 14 * math.ceil(len(drawn) / 3)
    margins = (52, top, 22, 38)
    return _picture(name, title, "", ((PANEL, top + 210), margins), paint)


def _picture(
    name: str,
    title: str,
    caption: str,
    shape: tuple[tuple[float, float], tuple[float, float, float, float]],
    paint: Callable[[Axes], dict[str, str]],
) -> Picture:
    """Draw on axes with margins (left, top, right, bottom); `paint` returns words for gids."""
    # Not pyplot: it would choose a window system and keep the figure.
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    (width, height), (left, top, right, bottom) = shape
    stream = io.StringIO()
    with style.context(["default", STYLE]), warnings.catch_warnings():
        # Only to measure text: it is the page's font that draws it.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure = Figure(figsize=(width / 72, height / 72))
        FigureCanvasSVG(figure)
        inner = (width - left - right) / width, (height - top - bottom) / height
        axes = figure.add_axes((left / width, bottom / height, *inner))
        tips = paint(axes)
        head = _cut(printable(title), int(width / 7))
        figure.text(0, 1 - 18 / height, head, weight="bold", fontsize=10.5)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    words = f"{title}. {caption}".strip()
    return Picture(name, title, caption, _finish(stream.getvalue(), name, words, tips), width)


def _finish(svg: str, name: str, words: str, tips: dict[str, str]) -> str:
    """Put variables for colours, prefixes before ids, and words into a picture."""
    root = ElementTree.fromstring(svg)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    for parent in root.iter():
        for child in parent.findall("{*}defs"):
            for style in child.findall("{*}style"):  # it would hold for all of the page
                child.remove(style)
    for element in list(root.iter()):
        element.tag = element.tag.partition("}")[2]
        element.text = element.text if element.tag == "text" else None
        element.tail = None
        element.attrib = _attributes(element.attrib, name, used)
    for group in list(root.iter("g")):
        if (tip := group.attrib.pop("id", "")) in tips:
            _tell(group, "title", tips[tip])
    root.attrib = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": root.attrib["viewBox"],
        "width": root.attrib["width"].removesuffix("pt"),
        "height": root.attrib["height"].removesuffix("pt"),
        "role": "img",
        "aria-label": printable(words),
        "font-family": "system-ui, sans-serif",
        "stroke-linejoin": "round",
    }
    # `svg:root` is an svg that is no part of a page: there, these would overrule the page's.
    rules = f"svg:root{{{variables(False)}}}"
    _tell(
        root, "style", f"{rules}@media (prefers-color-scheme:dark){{svg:root{{{variables(True)}}}}}"
    )
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _tell(element: ElementTree.Element, tag: str, words: str) -> None:
    child = ElementTree.Element(tag)
    child.text = printable(words)
    element.insert(0, child)


def _attributes(given: dict[str, str], name: str, used: set[str]) -> dict[str, str]:
    """Return attributes that mean the same on a page with other pictures, in its colours."""
    found = {}
    for key, value in given.items():
        match key.rpartition("}")[2]:
            case "id":
                # Names of groups are for `_finish`, and nobody refers to them.
                found["id"] = f"{name}-{value}" if value in used else value
            case "href":
                found["href"] = f"#{name}-{value[1:]}"
            case "clip-path":
                found["clip-path"] = value.replace("#", f"#{name}-")
            case "style":
                rules = [rule.strip() for rule in value.split(";")]
                rules = [rule for rule in rules if not rule.startswith("font-family")]
                for rule in rules:  # for viewers that know no variables
                    where, _, place = rule.partition(": ")
                    if place in _NAME:
                        found[where] = COLOURS[_NAME[place]][0]
                style = "; ".join(rules)
                found["style"] = re.sub("#fe00..", lambda m: f"var(--{_NAME[m[0]]})", style)
            case _:
                found[key] = value
    return found


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
    _ticks(axes.xaxis, low, high, "{:g}".format)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0, labelcolor=_PLACE["ink"])
    axes.grid()
    axes.spines["left"].set_visible(False)


def _ticks(axis: Any, low: float, high: float, words: Callable[[float], str]) -> None:
    """Put a few round numbers on a logarithmic axis."""
    if high / low < 8:
        step = (high - low) / 6
        unit = 10.0 ** math.floor(math.log10(step))
        step = next(n * unit for n in (1, 2, 5, 10) if n * unit >= step)
        found = [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    else:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        steps = (1, 2, 5) if len(decades) < 3 else (1,)
        every = [n * 10.0**decade for decade in decades for n in steps]
        found = [value for value in every if low <= value <= high]
        found = found[:: math.ceil(len(found) / 6)]
    axis.set_ticks(found, [words(float(f"{value:.6g}")) for value in found])
    axis.set_ticks([], minor=True)


def _labels(rows: Sequence[Row]) -> tuple[list[str], str]:
    """Return names of rows without the words that all have, and those words."""
    split = [printable(row.name).split() for row in rows]
    common = [w for w in split[0] if all(w in words for words in split)] if len(rows) > 1 else []
    short = [" ".join(w for w in words if w not in common) or " ".join(words) for words in split]
    return [_cut(label, 30) for label in short], f" ({' '.join(common)})" if common else ""


def _cut(words: str, length: int) -> str:
    return words if len(words) <= length else f"{words[: length - 1]}…"


def _legend(axes: Axes, columns: int) -> None:
    """Put the legend below the title, above the axes."""
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1.01), ncols=columns, fontsize=8.5, handlelength=2,
        columnspacing=1, borderaxespad=0, labelspacing=0.3,
    )  # fmt: skip
