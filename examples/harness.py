"""What all examples share: arguments, progress, pictures, last words, and how they take times."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

import fastrnn
from fastrnn import console
from fastrnn.bench.measure import Plan, interleave
from fetch import FetchError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What an example found."""

    line: str  # the result, and what it was compared with
    right: bool  # whether the comparison came out as it should
    table: Sequence[tuple[str, ...]] = ()  # more, one tuple a row, the first one its head
    picture: Figure | None = None  # what one would rather see


def main(example: Callable[[bool, int], Outcome], about: str) -> None:
    """Run an example as a program: exit with 1 if its check fails or something is missing."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything, a few seconds")
    parser.add_argument("--seed", type=int, default=0, help="what is drawn at random (default: 0)")
    parser.add_argument(
        "--picture",
        type=Path,
        default=Path(f"{Path(sys.argv[0]).stem}.png"),
        metavar="FILE",
        help="where to draw the result (default: %(default)s in the current folder)",
    )
    options = parser.parse_args()
    start = time.perf_counter()
    try:
        console.check_writable("--picture", options.picture)
        found = example(options.quick, options.seed)
        if found.picture is not None:
            found.picture.savefig(options.picture, dpi=100)
    except KeyboardInterrupt:
        sys.exit(130)
    except (FetchError, ValueError, OSError) as error:
        sys.exit(str(error))
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed: pip install 'fastrnn[examples]'")
    widths = [max(map(len, column)) for column in zip(*found.table, strict=True)]
    for row in found.table:
        print("  ".join(f"{word:<{n}}" for word, n in zip(row, widths, strict=True)).rstrip())
    if found.picture is not None:
        print(f"drawn: {options.picture}")
    info = fastrnn.info()
    isa = f" {info['isa']}" if info["backend"] == "c" else ""
    print(f"{'right' if found.right else 'WRONG'}: {found.line}")
    print(
        f"backend {info['backend']}{isa}, {info['threads']} threads, "
        f"{time.perf_counter() - start:.0f} s"
    )
    sys.exit(not found.right)


def batches(
    rows: int, size: int, epochs: int, generator: np.random.Generator, label: str
) -> Iterator[np.ndarray]:
    """Yield the indices of one batch after the other, drawn anew each epoch, behind a bar."""
    each = -(-rows // size)
    order = (part for _ in range(epochs) for part in _cut(generator.permutation(rows), size))
    yield from progress(order, each * epochs, label)


def _cut(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (order[start : start + size] for start in range(0, len(order), size))


def split(
    groups: np.ndarray, shares: Sequence[float], generator: np.random.Generator
) -> list[np.ndarray]:
    """Cut rows at random into parts of about these shares: the indices of each part's, ascending.

    Rows of one group (any integer for each row) are never in two parts.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = generator.permutation(len(sizes))
    before = np.cumsum(sizes[order]) - sizes[order]  # rows of the groups in front of each
    part = np.empty(len(sizes), int)
    part[order] = np.searchsorted(np.cumsum(shares)[:-1] * len(groups), before, side="right")
    return [np.flatnonzero(part[group] == k) for k in range(len(shares))]


def padded(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of indices side by side (T, B), zeros past their ends, and their lengths (B,)."""
    lengths = np.array([len(row) for row in rows], int)
    x = np.zeros((lengths.max(initial=0), len(rows)), int)
    for b, row in enumerate(rows):
        x[: len(row), b] = row
    return x, lengths


def cooled(lr: float, done: float) -> float:
    """Return the learning rate after a share of the steps: full for one half, then down to 0."""
    return lr * min(1.0, 2.0 * (1.0 - done))


def progress(items: Iterable[T], count: int, label: str) -> Iterator[T]:
    """Yield the items, and show how many of `count` are done."""
    with console.display() as show:
        for done, item in enumerate(items):
            show(done / count, label)
            yield item
        show(1.0, label)


def ends(arrays: Mapping[str, np.ndarray], mark: str) -> tuple[fastrnn.Embedding, fastrnn.Linear]:
    """Return the embedding and the dense head of a Keras file, whose names end with a mark."""
    table = arrays[f"embedding/embedding/embeddings{mark}"]
    embedding = fastrnn.Embedding(*table.shape)
    embedding.load_parameters({"weight": table})
    kernel, bias = (arrays[f"output/output/{name}{mark}"] for name in ("kernel", "bias"))
    head = fastrnn.Linear(*kernel.shape)
    head.load_parameters({"weight": kernel.T, "bias": bias})
    return embedding, head


@dataclass(frozen=True)
class Ratio:
    """How many times as long the other took: median and quartiles of the rounds."""

    lower: float
    median: float
    upper: float
    theirs: float  # median seconds of a call
    ours: float

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.lower:.1f} to {self.upper:.1f})"


def compare(
    theirs: Callable[[], object],
    ours: Callable[[], object],
    *,
    quick: bool,
    threads: int | None = None,
) -> Ratio:
    """Time two functions by turns, as the benchmarks do (`fastrnn.bench.measure`).

    `threads` are ours; None for as many as there are.
    """
    before = fastrnn.info()["threads"]
    fastrnn.set_num_threads(threads or before)
    plan = Plan(threads or before, rounds=5 if quick else 25, seconds=3 if quick else 20)
    try:
        seconds = interleave({"theirs": theirs, "ours": ours}, plan, lambda words: None)
    finally:
        fastrnn.set_num_threads(before)
    a, b = np.array(seconds["theirs"]), np.array(seconds["ours"])
    lower, median, upper = np.quantile(a / b, [0.25, 0.5, 0.75])
    return Ratio(lower, median, upper, float(np.median(a)), float(np.median(b)))
