"""SVG that takes its colours from the page around it.

A picture is drawn with placeholders for colours. They become CSS variables, which a page sets for
light and dark; a picture that stands alone brings their values along.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

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
PLACE = {name: f"#fe00{number:02x}" for number, name in enumerate(COLOURS)}
_NAME = {place: name for name, place in PLACE.items()}

STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "fastrnn",  # the same picture from the same data
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 10,
    "figure.dpi": 72,  # a unit of the picture is a point
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": PLACE["soft"],
    "axes.labelcolor": PLACE["soft"],
    "axes.titlecolor": PLACE["ink"],
    "grid.color": PLACE["line"],
    "text.color": PLACE["ink"],
    "xtick.color": PLACE["soft"],
    "ytick.color": PLACE["soft"],
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
}


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


def printable(words: object) -> str:
    """Return words in one line, without what XML and UTF-8 cannot hold."""
    line = " ".join(str(words).split())
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def variables(dark: bool) -> str:
    """Return the colours as CSS declarations."""
    return ";".join(f"--{name}:{values[dark]}" for name, values in COLOURS.items())


def picture(
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
        head = cut(printable(title), int(width / 7))
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


def ticks(axis: Any, low: float, high: float, words: Callable[[float], str]) -> None:
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


def cut(words: str, length: int) -> str:
    """Shorten words to so many characters."""
    return words if len(words) <= length else f"{words[: length - 1]}…"
