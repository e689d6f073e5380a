"""A page as a list of blocks (paragraphs, lists, tables, pictures), in HTML and in Markdown."""

from __future__ import annotations

import html as markup
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from urllib.parse import quote

from .svg import Picture, printable, variables


@dataclass(frozen=True, slots=True)
class Heading:
    """The beginning of a section; the first is the title of the page."""

    text: str
    link: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list, numbered or not."""

    items: Sequence[str]
    numbered: bool = False


@dataclass(slots=True)
class Table:
    """A table, whose first column names the rows.

    Attributes
    ----------
    title
        What is in it.
    headings
        Of the columns.
    words
        Numbers of the columns that hold words, not numbers.
    key
        Number of the column that matters, if any.
    rows
        As many cells each.
    slower
        Numbers of the rows in which another is faster.
    """

    title: str
    headings: Sequence[str]
    words: Sequence[int] = (0,)
    key: int | None = None
    rows: list[Sequence[str]] = field(default_factory=list)
    slower: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures side by side."""

    pictures: Sequence[Picture]
    wide: bool


@dataclass(frozen=True, slots=True)
class Details:
    """What is shown on demand."""

    title: str
    blocks: Sequence[Block]


Block = Heading | Text | Items | Table | Gallery | Details


# As HTML


def html(document: Sequence[Block]) -> str:
    """Return a page that needs nothing but itself."""
    title = next(block.text for block in document if isinstance(block, Heading))
    styles = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    light, dark = (variables(dark) for dark in (False, True))
    # Paper stays white: dark is for screens.
    colours = f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    links = "".join(
        f'<a href="#{block.link}">{_escaped(block.text)}</a>'
        for block in document
        if isinstance(block, Heading) and block.link
    )
    first, *rest = (_tag(block) for block in document)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escaped(title)}</title>\n<style>\n{colours}\n{styles}</style>\n</head>\n"
        f'<body>\n<header>\n{first}\n<nav aria-label="Sections">{links}</nav>\n</header>\n'
        "<main>\n" + "\n".join(rest) + "\n</main>\n</body>\n</html>\n"
    )


def _tag(block: Block) -> str:
    match block:
        case Heading(text, ""):
            return f"<h1>{_escaped(text)}</h1>"
        case Heading(text, link):
            return f'<h2 id="{link}">{_escaped(text)}</h2>'
        case Text(text):
            return f"<p>{_escaped(text)}</p>"
        case Items(items, numbered):
            tag = "ol" if numbered else "ul"
            return f"<{tag}>{''.join(f'<li>{_escaped(item)}</li>' for item in items)}</{tag}>"
        case Gallery(drawn, wide):
            kind = "pictures wide" if wide else "pictures"
            return f'<div class="{kind}">{"".join(map(_figure, drawn))}</div>'
        case Details(title, blocks):
            inside = "\n".join(map(_tag, blocks))
            return f"<details><summary>{_escaped(title)}</summary>\n{inside}\n</details>"
        case Table():
            return _table(block)


def _figure(picture: Picture) -> str:
    caption = f"<figcaption>{_escaped(picture.caption)}</figcaption>" if picture.caption else ""
    # Not much wider or narrower than drawn, so that its text can be read beside that around it.
    least, most = (f"{scale * picture.width:.0f}px" for scale in (0.85, 1.3))
    return (
        f'<figure style="max-width:{most}"><div class="scroll"><div style="min-width:{least}">'
        f"{picture.svg}</div></div>{caption}</figure>"
    )


def _table(table: Table) -> str:
    kinds = [
        " ".join(["word"] * (number in table.words) + ["key"] * (number == table.key))
        for number in range(len(table.headings))
    ]

    def line(cells: Sequence[str], number: int | None = None) -> str:
        found: list[str] = []
        for kind, words in zip(kinds, cells, strict=True):
            scope = "col" if number is None else "row" if not found else ""
            tag, more = ("th", f' scope="{scope}"') if scope else ("td", "")
            found.append(f'<{tag}{more} class="{kind}">{_escaped(words)}</{tag}>')
        mark = ' class="slower"' if number in table.slower else ""
        return f"<tr{mark}>{''.join(found)}</tr>"

    body = "\n".join(line(cells, number) for number, cells in enumerate(table.rows))
    title = _escaped(table.title)
    return (  # a box that can be scrolled with the keyboard, too
        f'<p class="title">{title}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table>\n'
        f"<thead>{line(table.headings)}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _escaped(words: str) -> str:
    return markup.escape(printable(words))


# As Markdown


def markdown(document: Sequence[Block], folder: str | None) -> str:
    """Return a text that refers to pictures in a folder beside it, or has none."""
    found = [part for block in document for part in _parts(block, folder)]
    return "\n\n".join(found) + "\n"


def _parts(block: Block, folder: str | None) -> Iterator[str]:
    match block:
        case Heading(text, link):
            yield f"{'##' if link else '#'} {_plain(text)}"
        case Text(text):
            yield _plain(text)
        case Items(items, numbered):
            lines = (f"{f'{n}.' if numbered else '-'} {_plain(i)}" for n, i in enumerate(items, 1))
            yield "\n".join(lines)
        case Gallery(drawn, _):
            for picture in drawn if folder is not None else ():
                yield f"![{_plain(picture.title)}]({quote(f'{folder}/{picture.name}.svg')})"
                if picture.caption:
                    yield _plain(picture.caption)
        case Details(title, blocks):
            yield f"### {_plain(title)}"
            for inner in blocks:
                yield from _parts(inner, folder)
        case Table():
            yield _plain(block.title)
            columns = range(len(block.headings))
            marks = [":--" if number in block.words else "--:" for number in columns]
            rows = [map(_plain, block.headings), marks]
            rows += [map(_plain, cells) for cells in block.rows]
            yield "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _plain(words: str) -> str:
    """Escape what Markdown or HTML would take for its own."""
    return markup.escape(re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", printable(words)), quote=False)
