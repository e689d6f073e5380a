"""The page of benchmark results: its numbers, its words, its pictures, and how it looks."""

import html
import os
import re
import shutil
import statistics
import subprocess
from collections import Counter
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from fastrnn.bench import pictures, report, svg
from fastrnn.bench.results import Limits, Machine, Results, Row, Timing
from fastrnn.bench.words import three
from interpreter import run_python

GIGA = 1e9
LIMITS = Limits({1: 100 * GIGA, 2: 200 * GIGA}, {1 << 14: 50 * GIGA, 1 << 20: 20 * GIGA})
MACHINE = Machine("A processor", 2, 8 << 30, "Linux 6", "avx2", LIMITS, {"torch": "2.0"})
HOSTILE = "<script>alert('1')</script> & \"q\" | [a](b) `c` $d$ \x00\ud800 *e* 日"
VOID = {"meta", "link", "br", "img", "hr", "input"}


def timing(contender, *seconds, **more):
    return Timing(contender, "timed", seconds=seconds, error=1e-7, **more)


def absent(contender, status, why=""):
    return Timing(contender, status, why)


def row(suite="training", name="lstm 64/64/8/10", *timings, kind="training", cell="lstm", **sizes):
    """A row of 12 GFLOP, whose times are those given; 10 and 20 ms if there are none."""
    threads = sizes.pop("threads", 2)
    sizes = {"I": 64, "H": 64, "B": 8, "T": 10, "layers": 1} | sizes
    if not timings:
        timings = (timing("fastrnn (c)", 0.010, 0.010), timing("torch", 0.020, 0.020))
    return Row(suite, name, kind, cell, sizes, threads, 12 * GIGA / 10, 65536.0, timings)


def results(*rows, **more):
    settings = {"set": "full", "threads": 2, "rounds": 4}
    return replace(Results("2026-01-02T03:04:05+00:00", settings, MACHINE, list(rows)), **more)


def full():
    """A run with everything in it."""
    sizes = (16, 32, 64)
    steps = (10, 100, 1000)
    found = [row("step", f"lstm {n}/{n}/1/1", kind="step", I=n, H=n, B=1, T=1) for n in sizes]
    found += [row("sequence", "gru 8/32/1/128", cell="gru", kind="inference", I=8, H=32, B=1)]
    found += [row("batch", f"rnn 8/32/{b}/9", cell="rnn", kind="inference", B=b) for b in sizes]
    found += [
        row("training", f"lstm training {n}/{n}/32/64", *everyone(n), I=n, H=n) for n in sizes
    ]
    found += [row("character", "lstm 64/128", *map(wrong, ("fastrnn (c)", "torch")))]
    found += [row("long", f"lstm 8/32/1/{t}", *growing(t), T=t, kind="inference") for t in steps]
    found += [row("threads", f"lstm training 9 {n} threads", *scaled(n), threads=n) for n in (1, 2)]
    found += [row("deepbench", "lstm 512/512/1/25", timing("fastrnn (c)", 21.0), T=25)]
    found += [row("ptb", "lstm training small", layers=2)]
    return results(*found)


@cache
def full_page():
    return report.html(full())


@cache
def full_text():
    return report.markdown(full(), None)


def everyone(n):
    return (
        timing("fastrnn (c)", 0.001 * n, 0.001 * n, 0.0011 * n, 0.001 * n),
        timing("fastrnn (numpy)", *4 * [0.01 * n]),
        timing("torch", 0.001 * n, 0.004 * n, 0.009 * n, 0.002 * n),  # noisy
        absent("JAX", "missing", "not installed: jax"),
        absent("OpenVINO", "refused", "does not train"),
        wrong("Keras (torch)"),
        absent("torch.compile", "failed", "RuntimeError: no compiler"),
    )


def growing(T):
    return (
        timing("fastrnn (c)", *3 * [1e-6 * T], memory=0),
        timing("torch", *3 * [1e-5 * T], memory=100 * T),
    )


def scaled(n):
    return timing("fastrnn (c)", *3 * [1 / n]), timing("torch", *3 * [1.5 / n**0.5])


def wrong(contender):
    return replace(absent(contender, "wrong", "differs from the reference by 3e-01"), error=0.3)


class Page(HTMLParser):
    """What is in a page; an assertion fails where a tag is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.tables, self.cell = [], [], [], None
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def table(self, *headings):
        """The tables, without their headings, that begin with these."""
        return [rows[1:] for rows in self.tables if rows[0][: len(headings)] == list(headings)]


def markdown_tables(text):
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in b.splitlines()] for b in blocks]


# Numbers


def test_a_row_says_what_was_measured():
    ours = timing("fastrnn (c)", 0.010, 0.012, 0.010, 0.012)
    peers = timing("torch", 0.030, 0.024, 0.030, 0.024), timing("JAX", *4 * [0.05])
    page = Page(report.html(results(row("training", "lstm", ours, *peers))))
    # Ratios 3, 2, 3, 2. 1.2 GFLOP at 200 GFLOP/s take 6 ms, 6/11 of our 11 ms.
    [[cells]] = page.table("workload", "fastrnn", "backend")
    assert cells == [
        "lstm", "11.0 ms", "c", "27.0 ms", "torch", "2.50", "2.00–3.00", "55%", "compute", "4",
    ]  # fmt: skip
    [[times], [ratios]] = page.table("workload", "fastrnn (c)")
    assert times == ["lstm", "11.0 ms", "27.0 ms", "50.0 ms"]
    # 5, 4.1666, 5, 4.1666
    assert ratios == ["lstm", "1.00", "2.50 (2.00–3.00)", "4.58 (4.17–5.00)"]


def test_the_limit_may_be_bandwidth():
    # Two threads read 32 KiB each, 3 x 100,000 times, at 20 GB/s: 0.49 s, half of our second.
    limited = row("long", "lstm", timing("fastrnn (c)", 1.0, 1.0), T=100_000)
    [[cells]] = Page(report.html(results(limited))).table("workload", "fastrnn", "backend")
    assert cells[-3:-1] == ["49%", "bandwidth"]


def test_a_share_that_rounds_to_nothing_is_no_zero():
    slow = row("step", "lstm", timing("fastrnn (c)", 10.0, 10.0))
    [[cells]] = Page(report.html(results(slow))).table("workload", "fastrnn", "backend")
    assert cells[-3] == "<1%"


def test_the_summary_takes_geometric_means():
    pairs = [(0.01, 0.02), (0.01, 0.08), (0.02, 0.01)]  # ratios 2, 8 and 0.5: their mean is 2
    rows = [row("batch", f"{a}", timing("fastrnn (c)", a), timing("torch", b)) for a, b in pairs]
    rows.append(row("ptb", "small", timing("fastrnn (c)", 1.0)))
    found = results(*rows)
    [summary] = Page(report.html(found)).table("suite")
    assert [cells[:5] for cells in summary] == [
        ["batch", "2.00", "0.50–8.00", "2 of 3", "3"],
        ["ptb", "–", "–", "–", "1"],
    ]
    text = report.summary(found)
    [table] = markdown_tables(text)
    assert [cell.strip() for cell in table[2]][:5] == summary[0][:5]
    assert "A processor" in text
    assert "2026-01-02 03:04 UTC" in text


def test_rows_in_which_another_is_faster_are_marked():
    lost = row("batch", "lost", timing("fastrnn (c)", 0.02), timing("torch", 0.01))
    page = report.html(results(row("batch", "won"), lost))
    assert [line for line in page.splitlines() if '<tr class="slower"' in line] == [
        line for line in page.splitlines() if ">lost</th>" in line and "key" in line
    ]


def test_noise_is_marked():
    page = Page(full_page())
    main = page.table("workload", "fastrnn", "backend")[3]
    assert [cells[3][:1] for cells in main] == ["~", "~", "~"]
    assert main[0][1] == "16.0 ms"


def test_one_round_has_no_quartiles():
    once = row("ptb", "large", timing("fastrnn (c)", 21.0), timing("torch", 42.0))
    [[cells]] = Page(report.html(results(once))).table("workload", "fastrnn", "backend")
    assert (cells[5], cells[6], cells[-1]) == ("2.00", "–", "1")


def test_who_has_no_time_stays_with_the_reason():
    page = Page(full_page())
    times = page.table("workload", "fastrnn (c)", "fastrnn (numpy)")[0]
    assert times[0][4:] == ["missing (1)", "refused (2)", "wrong (3)", "failed (4)"]
    for words in (
        "JAX – missing: not installed: jax",
        "OpenVINO – refused: does not train",
        "Keras (torch) – wrong: differs from the reference by 3e-01",
        "torch.compile – failed: RuntimeError: no compiler",
    ):
        assert words in page.words
        assert report.page._plain(words) in full_text()
    # Where all of ours are wrong, the row says so.
    main = page.table("workload", "fastrnn", "backend")[4]
    assert main == [["lstm 64/128", "wrong (1)", "c", "–", "", "–", "–", "–", "", "–"]]
    [who] = page.table("contender")
    assert who[0] == [
        "fastrnn (c)",
        "17 of 18",
        "1e-07",
        "1 wrong: differs from the reference by 3e-01",
    ]


def test_the_machine_is_described():
    [machine] = Page(full_page()).table("property")
    found = dict(machine)
    assert found["processor"] == "A processor"
    assert found["memory"] == "8 GiB"
    assert found["peak, float32"] == "100 GFLOP/s with 1 thread, 200 GFLOP/s with 2 threads"
    assert found["GB/s that one thread reads"] == "50 from 16 KiB, 20 from 1 MiB"


@pytest.mark.parametrize(
    "found",
    [
        results(),
        results(row("step", "x")),
        results(row("step", "x", timing("fastrnn (c)", 1.0))),
        results(row("step", "x", timing("torch", 1.0, 2.0))),
        results(row("other", "x", absent("torch", "missing"))),
        results(Row("empty", "x", "step", "rnn", {"I": 1, "H": 1, "B": 1, "T": 1}, 2, 1.0, 1.0)),
        results(row(), machine=replace(MACHINE, limits=None, isa=None, memory=None)),
        results(row(), complete=False, when="some day", settings={}),
    ],
    ids=["nothing", "one", "alone", "not us", "nobody", "no one", "no limits", "unfinished"],
)
def test_little_is_shown_as_well(found):
    Page(report.html(found))
    report.markdown(found, None)
    assert report.summary(found).startswith("Time of the best other")


def test_an_interrupted_run_says_so():
    assert "interrupted" not in full_page()
    assert "interrupted" in report.html(replace(full(), complete=False))


# Words


def hostile():
    """A run in which every text is hostile."""
    timings = (
        timing(f"fastrnn {HOSTILE}", 1.0, 2.0, 3.0),
        timing(HOSTILE, 2.0, 2.0, 2.0),
        absent(f"{HOSTILE}2", HOSTILE, HOSTILE),
    )
    rows = [
        row(f"../{HOSTILE}", HOSTILE, *timings, kind=HOSTILE, cell=HOSTILE, T=t, threads=2)
        for t in (1, 2, 3)
    ]
    rows += [
        replace(r, suite="threads", threads=n, name=f"{n} {HOSTILE}")
        for r in rows[:1]
        for n in (1, 2)
    ]
    machine = Machine(HOSTILE, 2, None, HOSTILE, HOSTILE, LIMITS, {HOSTILE: HOSTILE})
    return Results(HOSTILE, {HOSTILE: HOSTILE}, machine, rows)


def test_words_from_the_data_stay_words(tmp_path):
    page, text, *drawn = report.write(hostile(), tmp_path / "page.html")
    parsed = Page(page.read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert "<script>alert('1')</script> & \"q\" | [a](b) `c` $d$ " in parsed.words
    assert len(drawn) == 7  # roofline; two of ratios, two of spread; T; threads
    for file in drawn:
        assert file.parent == tmp_path / "page-pictures"
        assert not [e for e in ElementTree.parse(file).iter() if e.tag.endswith("script")]
    written = text.read_text(encoding="utf-8")
    assert "<" not in written
    assert re.search(r"(?<!\\)[`*\[]", re.sub(r"!\[.*?[^\\]\]\([\w./-]+\)", "", written)) is None


@pytest.mark.parametrize("found", [full(), hostile(), results()], ids=["full", "hostile", "empty"])
def test_markdown_tables_have_equally_many_columns(found):
    tables = markdown_tables(report.markdown(found, None))
    assert tables
    for table in tables:
        assert len({len(line) for line in table}) == 1


def test_markdown_says_what_the_page_says():
    page, text = Page(full_page()), full_text()
    tables = markdown_tables(text)
    assert len(tables) == len(page.tables)
    for ours, theirs in zip(tables, page.tables, strict=True):
        lines = [[html.unescape(cell.strip().replace("\\", "")) for cell in line] for line in ours]
        assert [lines[0], *lines[2:]] == theirs


# The page as a file


def test_the_page_is_whole_and_alone():
    text = full_page()
    page = Page(text)
    assert re.findall(r"https?://[^\"]*", text.replace("http://www.w3.org/2000/svg", "")) == []
    assert re.findall(r"url\((?!#)|@import", text) == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object"})
    identifiers = Counter(found["id"] for _, found in page.tags if "id" in found)
    assert set(identifiers.values()) == {1}
    for _, found in page.tags:
        assert "src" not in found
        if "href" in found:
            assert found["href"][0] == "#"
            assert found["href"][1:] in identifiers
    for name in re.findall(r"url\(#([^)]*)\)", text):
        assert name in identifiers
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    for tag, found in page.tags:
        if tag == "svg":
            assert found["role"] == "img"
            assert found["aria-label"]


def test_the_same_results_give_the_same_page(tmp_path):
    assert full_page() == report.html(full())
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, other = (report.write(full(), tmp_path / name / "x.html") for name in ("a", "b"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in other]


def test_writing_returns_what_was_written(tmp_path):
    path = tmp_path / "a b.html"
    written = report.write(full(), path)
    assert written[:2] == [path, tmp_path / "a b.md"]
    assert sorted(written) == sorted(p for p in tmp_path.rglob("*") if p.is_file())
    text = written[1].read_text(encoding="utf-8")
    named = re.findall(r"!\[.*\]\((.*)\)", text)
    assert named == [f"a%20b-pictures/{p.name}" for p in written[2:]]
    stale, kept = (path.parent / "a b-pictures" / name for name in ("old.svg", "note.txt"))
    for other in (stale, kept):
        other.write_text("")
    assert report.write(full(), path) == written  # over the old ones
    assert not stale.exists()
    assert kept.exists()
    (tmp_path / "plain").touch()  # readable for whom any new file is
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_markdown_writes_pictures_only_into_a_folder(tmp_path):
    text = full_text()
    assert "![" not in text
    text = report.markdown(full(), tmp_path / "shots")
    names = re.findall(r"!\[.*\]\(shots/(.*)\)", text)
    assert sorted(names) == sorted(p.name for p in (tmp_path / "shots").iterdir())


@pytest.mark.parametrize("name", ["no/page.html", "page.txt", "folder.html", "twin.html", "x.html"])
def test_nothing_is_written_where_not_all_can_be(tmp_path, name):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "twin.md").mkdir()
    (tmp_path / "x-pictures").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="path: expected"):
        report.write(full(), tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_leaves_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "x.html"
    report.write(full(), path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def fail(self, target):
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        report.write(results(row()), path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


# Pictures


def drawn(found):
    styles = pictures.looks(found.rows)
    suites = dict.fromkeys(r.suite for r in found.rows)
    members = {suite: [r for r in found.rows if r.suite == suite] for suite in suites}
    return {
        picture.name: picture
        for suite, rows in members.items()
        for picture in pictures.of_suite(re.sub(r"\W", "", suite), rows, styles)
    }


def elements(picture, tag):
    found = ElementTree.fromstring(picture.svg)
    return list(found.iter(f"{{http://www.w3.org/2000/svg}}{tag}"))


def test_what_the_data_supports_is_drawn():
    assert [*drawn(full())] == [
        "step-ratios", "step-spread", "step-2-time",
        "sequence-ratios", "sequence-spread",
        "batch-ratios", "batch-spread", "batch-2-time",
        "training-ratios", "training-spread", "training-2-time",
        "long-ratios", "long-spread", "long-2-time", "long-2-step", "long-2-memory",
        "threads-ratios", "threads-spread", "threads-2",
        "ptb-ratios", "ptb-spread",
    ]  # fmt: skip
    assert pictures.roofline("roofline", full()) is not None
    assert pictures.roofline("roofline", results()) is None
    assert pictures.roofline("r", replace(full(), machine=replace(MACHINE, limits=None))) is None


def test_pictures_can_stand_alone():
    for picture in [*drawn(full()).values(), pictures.roofline("roofline", full())]:
        assert picture.title in {element.text for element in elements(picture, "text")}
        assert "#fe00" not in picture.svg
        assert "http" not in picture.svg.replace("http://www.w3.org/2000/svg", "")
        used = set(re.findall(r"var\(--(\w+)\)", picture.svg))
        assert used <= set(svg.COLOURS)
        [style] = [element.text for element in elements(picture, "style")]
        for name in used:
            assert style.count(f"--{name}:#") == 2
        for element in ElementTree.fromstring(picture.svg).iter():  # viewers that know no variables
            for what, name in re.findall(r"(\w+): var\(--(\w+)\)", element.get("style", "")):
                assert element.get(what) == svg.COLOURS[name][0]


def test_nothing_reaches_out_of_a_picture():
    # As drawn, with the widest of usual fonts; the rightmost words are the most likely to.
    for picture in [*drawn(full()).values(), *drawn(hostile()).values()]:
        for element in elements(picture, "text"):
            size = float(re.search(r"([\d.]+)px", element.get("style"))[1])
            place = re.findall(
                r"(?:translate\(|\bx=\")([-\d.]+)", ElementTree.tostring(element, "unicode")
            )
            length = 0.62 * size * len(element.text)
            anchor = re.search("text-anchor: (\\w+)", element.get("style", ""))
            share = {"end": 1, "middle": 0.5}.get(anchor and anchor[1], 0)
            assert float(place[0]) - share * length > -8, element.text
            assert float(place[0]) + (1 - share) * length < picture.width + 8, element.text


def test_ratios_are_told_where_one_points():
    found = drawn(full())["batch-ratios"]
    titles = [element.text for element in elements(found, "title")]
    assert titles == [
        f"rnn 8/32/{b}/9: torch takes 2.00 times as long (quartiles 2.00 to 2.00)"
        for b in (16, 32, 64)
    ]


def test_a_lost_row_has_an_empty_dot():
    lost = row("batch", "lost", timing("fastrnn (c)", 0.02), timing("torch", 0.01))
    for rows, count in (([row("batch")], 0), ([row("batch"), lost], 1)):
        assert pictures.ratios("x", rows).svg.count("fill: var(--paper)") == count


def test_speed_ups_and_steps(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        pictures, "_lines", lambda name, title, under, points, *_: seen.update({name: points})
    )
    drawn(full())
    assert seen["threads-2"]["fastrnn (c)"] == [(1, 1.0), (2, 2.0)]
    assert seen["threads-2"]["torch"] == [(1, 1.0), (2, pytest.approx(2**0.5))]
    assert seen["long-2-time"]["torch"] == [(t, pytest.approx(1e-5 * t)) for t in (10, 100, 1000)]
    assert seen["long-2-step"]["torch"] == [(t, pytest.approx(1e-5)) for t in (10, 100, 1000)]
    assert seen["long-2-memory"]["torch"] == [(t, 100) for t in (10, 100, 1000)]
    assert seen["long-2-memory"]["fastrnn (c)"] == []  # nothing has no logarithm


def test_groups_differ_in_one_size_only():
    rows = [row(name=f"{n}", I=n, H=n) for n in (64, 16, 32)]
    rows += [row(name=f"b{b}", B=b) for b in (1, 2)]
    rows += [row(name="t", T=11), row(name="c", cell="gru", B=3), row(name="k", kind="step", B=4)]
    found = [(axis, [r.name for r in members]) for axis, members in pictures.groups(rows, 3)]
    assert sorted(found) == [("B", ["b1", "b2", "64"]), ("H", ["16", "32", "64"])]


def test_intensity_counts_the_passes():
    assert pictures.intensity(row(kind="inference")) == pytest.approx(1.2e9 / (10 * 65536))
    assert pictures.intensity(row(kind="training")) == pytest.approx(1.2e9 / (30 * 65536))


def test_everyone_looks_different():
    names = ["fastrnn (c)", "fastrnn (numba)", "fastrnn (numpy)", *map(str, range(6))]
    found = pictures.looks([row("s", "n", *(timing(name, 1.0) for name in names))])
    assert list(found) == names
    assert {found[name].colour for name in names[:3]} == {"ours"}
    assert len({(look.colour, look.marker) for look in found.values()}) == len(names)
    peers = [found[name] for name in names[3:]]
    assert len({look.colour for look in peers}) == len({look.marker for look in peers}) == 6


def luminance(colour):
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return statistics.fmean(linear, (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("dark", [False, True])
def test_colours_can_be_read(dark):
    paper = luminance(svg.COLOURS["paper"][dark])
    for name in svg.COLOURS.keys() - {"paper", "line"}:
        low, high = sorted((paper, luminance(svg.COLOURS[name][dark])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, name


@pytest.mark.parametrize("value", [1e-9, 0.00123, 0.5, 1.0, 9.996, 12.34, 99.96, 123.4, 98765.4])
def test_three_digits(value):
    text = three(value)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=0.005, abs=0.005)


def test_the_extra_is_imported_when_something_is_drawn():
    run_python("import sys, fastrnn.bench.report; assert 'matplotlib' not in sys.modules")


# In a browser

CHROMIUM = shutil.which("chromium")
REQUIRED = os.environ.get("FASTRNN_REQUIRE_CHROMIUM") == "1"  # tests do not see such variables
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--enable-logging=stderr --v=0 --virtual-time-budget=5000"
)
REPORTS = """<script>const root = document.documentElement;
parent.postMessage([innerWidth, root.scrollWidth - root.clientWidth], "*");</script></body>"""
LISTENS = """<!DOCTYPE html><p id="width"></p><script>
addEventListener("message", event => { width.textContent = event.data; });
</script><iframe src="page.html" width="360" height="800" style="border: 0"></iframe>"""


@pytest.fixture
def browse(tmp_path):
    """A function that loads a file and gives its tree and what the console says."""
    if CHROMIUM is None:
        if REQUIRED:
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")

    def load(path, *options):
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run(
            [CHROMIUM, *OPTIONS.split(), profile, *options, path.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout, re.findall(r".*CONSOLE.*", done.stderr)

    return load


def shows(screenshot, colour):
    """Whether a colour is to be seen."""
    pixels = (255 * imread(screenshot)[..., :3]).round().astype(np.uint8)
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return bool((pixels == wanted).all(-1).any())


@pytest.mark.slow
def test_a_browser_has_no_complaint(tmp_path, browse):
    page, _, *files = report.write(full(), tmp_path / "page.html")
    tree, console = browse(page, "--dump-dom")
    assert console == []
    assert tree.count("<svg") == len(files)
    tree, console = browse(page, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1280,2000")
    assert console == []
    assert shows(tmp_path / "page.png", svg.COLOURS["ours"][0])


@pytest.mark.slow
@pytest.mark.parametrize("found", [full(), hostile()], ids=["full", "hostile"])
def test_the_page_fits_a_phone(tmp_path, browse, found):
    # In a frame, since a window is never as narrow; with the details open.
    page = report.html(found).replace("<details>", "<details open>")
    (tmp_path / "page.html").write_text(page.replace("</body>", REPORTS), encoding="utf-8")
    (tmp_path / "frame.html").write_text(LISTENS)
    tree, _ = browse(tmp_path / "frame.html", "--dump-dom")
    assert re.search(r'id="width">([^<]*)<', tree)[1] == "360,0"


@pytest.mark.slow
def test_a_picture_alone_is_drawn(tmp_path, browse):
    _, _, picture, *_ = report.write(full(), tmp_path / "page.html")
    _, console = browse(picture, f"--screenshot={tmp_path / 'alone.png'}")
    assert console == []
    assert shows(tmp_path / "alone.png", svg.COLOURS["ours"][0])
