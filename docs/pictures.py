"""Draws the unrolled graphs of docs/paradigms.md: `python docs/pictures.py` writes them anew.

Boxes carry their own contrast, and lines are of a grey between white and black, so that they can be
read on light and dark pages.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "pictures"


class Graph(NamedTuple):
    """One column a step, from left to right; "." is an empty place, "(word)" one without a box."""

    title: str
    outputs: str
    cells: str
    inputs: str
    fed_back: tuple[int, ...] = ()  # columns whose output is the input of the next one
    gaps: tuple[tuple[int, str], ...] = ()  # what goes on, right of a column
    calls: tuple[tuple[int, int, str], ...] = ()  # first and last column, and what runs them


GRAPHS = {
    "one-to-one": Graph("One to one: layers without memory", "y", "layers", "x"),
    "one-to-many": Graph(
        "One to many: an encoder's output is the first state, each token the next input",
        ". y₁ y₂ stop",
        "CNN cell cell cell",
        "x start y₁ y₂",
        fed_back=(1, 2),
        gaps=((0, "state"),),
        calls=((0, 0, "encoder"), (1, 3, "decoder")),
    ),
    "many-to-one": Graph(
        "Many to one: the final hidden state goes on to a head",
        ". . . . y",
        "cell cell cell cell head",
        "x₁ x₂ x₃ x₄ .",
        gaps=((3, "last h"),),
    ),
    "many-to-many": Graph(
        "Many to many in step: one output for each input",
        "y₁ y₂ y₃ y₄",
        "cell cell cell cell",
        "x₁ x₂ x₃ x₄",
    ),
    "encoder-decoder": Graph(
        "Encoder and decoder: a sequence is read to its end, then another one is written",
        ". . . y₁ y₂ stop",
        "cell cell cell cell cell cell",
        "x₁ x₂ x₃ start y₁ y₂",
        fed_back=(3, 4),
        gaps=((2, "state"),),
        calls=((0, 2, "encoder"), (3, 5, "decoder")),
    ),
    "streaming": Graph(
        "Streaming: the state is kept from call to call",
        ". y₁ y₂ y₃ y₄ y₅ .",
        "(state) cell cell cell cell cell (state)",
        ". x₁ x₂ x₃ x₄ x₅ .",
        calls=((1, 1, "step"), (2, 2, "step"), (3, 5, "push")),
    ),
}

WIDTH, HEIGHT = 62, 34  # of a box
ACROSS, DOWN = 104, 76  # from box to box
MARGIN = 12
COLOURS = {"output": "#b5501b", "cell": "#2d7a4b", "layer": "#7a4fa3", "input": "#2f6db5"}
GREY = "#808080"
ROOM = 30  # for the names of the calls


def place(column: int, row: int) -> tuple[int, int]:
    """Return the middle of a box."""
    return MARGIN + WIDTH // 2 + column * ACROSS, MARGIN + HEIGHT // 2 + row * DOWN


def text(x: float, y: float, word: str, colour: str, size: int = 15) -> str:
    """Return a word, centred."""
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size}" text-anchor="middle">'
        f"{escape(word)}</text>"
    )


def line(path: str, dashes: str = "") -> str:
    """Return an arrow along a path."""
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="{path}"{dashed} marker-end="url(#head)"/>'


def draw(graph: Graph) -> str:
    """Return a graph as SVG."""
    rows = [row.split() for row in (graph.outputs, graph.cells, graph.inputs)]
    columns = len(rows[1])
    assert all(len(row) == columns for row in rows), graph.title
    lines, boxes = [], []
    for column, items in enumerate(zip(*rows, strict=True)):
        for row, word in enumerate(items):
            x, y = place(column, row)
            if word.startswith("("):
                boxes.append(text(x, y + 5, word.strip("()"), GREY))
            elif word != ".":
                kind = ("output", "cell" if word == "cell" else "layer", "input")[row]
                boxes.append(
                    f'<rect x="{x - WIDTH // 2}" y="{y - HEIGHT // 2}" width="{WIDTH}" '
                    f'height="{HEIGHT}" rx="7" fill="{COLOURS[kind]}"/>'
                )
                boxes.append(text(x, y + 5, word, "#ffffff"))
        x, y = place(column, 1)
        if items[0] != ".":
            lines.append(line(f"M{x} {y - HEIGHT // 2}V{y - DOWN + HEIGHT // 2 + 4}"))
        if items[2] != ".":
            lines.append(line(f"M{x} {y + DOWN - HEIGHT // 2}V{y + HEIGHT // 2 + 4}"))
        if column + 1 < columns:
            lines.append(line(f"M{x + WIDTH // 2} {y}H{x + ACROSS - WIDTH // 2 - 4}"))
    for column in graph.fed_back:
        (x, y), (right, below) = place(column, 0), place(column + 1, 2)
        x, right = x + WIDTH // 2, right - WIDTH // 2 - 4
        middle = (x + right) // 2
        lines.append(line(f"M{x} {y}C{middle + 8} {y} {middle - 8} {below} {right} {below}", "4 3"))
    for column, word in graph.gaps:
        x, y = place(column, 1)
        boxes.append(text(x + ACROSS / 2, y - 7, word, GREY, size=12))
    bottom = place(0, 2)[1] + HEIGHT // 2
    for first, last, word in graph.calls:
        left, right = place(first, 2)[0] - WIDTH // 2, place(last, 2)[0] + WIDTH // 2
        lines.append(f'<path d="M{left} {bottom + 8}v5H{right}v-5"/>')
        boxes.append(text((left + right) / 2, bottom + ROOM - 1, word, GREY, size=13))
    width = 2 * MARGIN + WIDTH + (columns - 1) * ACROSS
    height = bottom + MARGIN + (ROOM if graph.calls else 0)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img" '
            'font-family="system-ui, Helvetica, Arial, sans-serif">',
            f"<title>{escape(graph.title)}</title>",
            '<marker id="head" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{GREY}"/></marker>',
            f'<g fill="none" stroke="{GREY}" stroke-width="1.6">',
            *lines,
            "</g>",
            *boxes,
            "</svg>\n",
        ]
    )


def main() -> None:
    """Write all pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, graph in GRAPHS.items():
        (FOLDER / f"{name}.svg").write_text(draw(graph), encoding="utf-8")


if __name__ == "__main__":
    main()
