"""What a benchmark run found: as Python objects, as a file, and what follows from the times.

A file is JSON with the fields of these classes. Times are seconds of one call, one a round; rounds
of one workload are interleaved, so that the k-th times of its contenders belong together.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .. import files

FORMAT, VERSION = "fastrnn benchmark", 1
NOISY = 0.25  # from the first to the third quartile, as a share of the median


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machine can do, measured in the same run.

    Attributes
    ----------
    flops
        Floating-point operations a second in float32, by number of threads.
    bandwidth
        Bytes a second that one thread reads from arrays of so many bytes, smallest first.
    """

    flops: dict[int, float]
    bandwidth: dict[int, float]

    def peak(self, threads: int) -> float:
        """Floating-point operations a second of so many threads."""
        if threads in self.flops:
            return self.flops[threads]
        return min(threads * self.flops[1], max(self.flops.values()))

    def reading(self, amount: float) -> float:
        """Bytes a second that a thread reads of so many, again and again."""
        fitting = [size for size in self.bandwidth if size >= amount]
        return self.bandwidth[min(fitting, default=max(self.bandwidth))]


@dataclass(frozen=True, slots=True)
class Machine:
    """What computed."""

    cpu: str
    processors: int  # that this process may use
    memory: int | None  # bytes
    system: str
    isa: str | None  # of the C kernels
    limits: Limits | None  # None where the C kernels are not built
    versions: dict[str, str]  # Python, fastrnn, and every library that was asked to compute


@dataclass(frozen=True, slots=True)
class Timing:
    """One contender at one workload.

    Attributes
    ----------
    contender
        Its name, "fastrnn (c)" or "torch".
    status
        "timed"; "missing" if it is not installed, "refused" if it does not compute this, "wrong" if
        its result is, "failed" if it raised an error: then there are no seconds, and `why` says
        more.
    seconds
        Of one call, a number a round.
    error
        Largest difference from the float64 reference, relative to the largest number of each array;
        None if nothing was computed.
    memory
        Bytes by which the process grew during the first call; None if that was not measured.
    """

    contender: str
    status: str
    why: str = ""
    seconds: tuple[float, ...] = ()
    error: float | None = None
    memory: int | None = None

    @property
    def median(self) -> float:
        """Seconds of one call."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Seconds of one call, below which lie a quarter and three quarters of the rounds."""
        if len(self.seconds) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    @property
    def noisy(self) -> bool:
        """Whether the rounds differ so much that the median means little."""
        low, high = self.quartiles
        return high - low > NOISY * self.median


@dataclass(frozen=True, slots=True)
class Row:
    """One workload and all who were asked to compute it, ours first.

    Attributes
    ----------
    suite, name
        The workload; `name` says all that distinguishes it within the suite.
    kind
        "step", "inference", "training" or "character".
    cell, sizes
        "lstm" and so on; I, H, B, T and layers.
    threads
        How many everyone had.
    flop
        Floating-point operations of the products of a call.
    weight_bytes
        Bytes of the weights that every step reads anew.
    """

    suite: str
    name: str
    kind: str
    cell: str
    sizes: dict[str, int]
    threads: int
    flop: float
    weight_bytes: float
    timings: tuple[Timing, ...] = ()

    @property
    def title(self) -> str:
        """That of the workload."""
        return f"{self.suite}: {self.name}"

    @property
    def bytes_read(self) -> float:
        """Bytes of weights that a call reads: once a step, and in training three times."""
        passes = 3 if self.kind in ("training", "character") else 1
        return passes * self.sizes["T"] * self.weight_bytes

    def characters(self, timing: Timing) -> float:
        """Characters a second that a character model learns from."""
        return self.sizes["T"] * self.sizes["B"] / timing.median

    @property
    def timed(self) -> list[Timing]:
        """Those that have a time."""
        return [timing for timing in self.timings if timing.status == "timed"]

    @property
    def ours(self) -> Timing | None:
        """The first of our backends that has a time: in their order the fastest comes first."""
        return next((t for t in self.timed if is_ours(t.contender)), None)

    @property
    def best_peer(self) -> Timing | None:
        """The fastest of the others, by the median."""
        peers = [timing for timing in self.timed if not is_ours(timing.contender)]
        return min(peers, key=lambda timing: timing.median, default=None)

    def ratio(self, other: Timing | None = None) -> tuple[float, float, float] | None:
        """How many times as long the other (default: the best peer) takes as we do.

        Returns
        -------
        median, low, high
            Of the ratios round by round, and their quartiles; None if one of the two has no time.
        """
        other, ours = other or self.best_peer, self.ours
        if other is None or ours is None:
            return None
        ratios = [b / a for a, b in zip(ours.seconds, other.seconds, strict=False)]
        if len(ratios) < 2:
            return ratios[0], ratios[0], ratios[0]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return median, low, high

    def share(self, timing: Timing, limits: Limits | None) -> tuple[float, str] | None:
        """How much of the limit that applies a contender reaches.

        A call can be no shorter than its operations at the peak of the processor, nor than reading
        its weights once a step, each thread its part, from the cache into which that part fits.

        Returns
        -------
        share, limit
            A number that is at most about 1, and "compute" or "bandwidth".
        """
        if limits is None:
            return None
        compute = self.flop / limits.peak(self.threads)
        rate = self.threads * limits.reading(self.weight_bytes / self.threads)
        bound, name = max((compute, "compute"), (self.bytes_read / rate, "bandwidth"))
        return bound / timing.median, name


def is_ours(contender: str) -> bool:
    """Whether a contender is one of our backends."""
    return contender.startswith("fastrnn")


@dataclass(slots=True)
class Results:
    """A run: when, with what settings, on what machine, and what was found."""

    when: str  # UTC, ISO 8601
    settings: dict[str, Any]  # set, rounds, threads, ...
    machine: Machine
    rows: list[Row] = field(default_factory=list)
    complete: bool = True  # False if it was interrupted

    def save(self, path: Path) -> None:
        """Write a file, whole or not at all."""
        document = {"format": FORMAT, "version": VERSION, **asdict(self)}
        files.write(path, json.dumps(document, indent=1, allow_nan=False).encode() + b"\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a file.

        Raises
        ------
        ValueError
            If it is not one of ours, or of another version, or damaged.
        OSError
            If it cannot be read.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document.get("format") != FORMAT:
                raise ValueError(f"expected a file of {FORMAT!r}")
            if (found := document.get("version")) != VERSION:
                raise ValueError(f"expected version {VERSION}, got {found!r}")
            return _results(document)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            words = str(error) or type(error).__name__
            raise ValueError(f"{path}: no benchmark results: {words}") from None


def _results(document: dict[str, Any]) -> Results:
    machine = document["machine"]
    limits = machine["limits"]
    if limits is not None:  # JSON's keys are text
        parts = {name: {int(k): float(v) for k, v in limits[name].items()} for name in limits}
        limits = Limits(**parts)
    rows = [
        Row(
            **{
                **row,
                "timings": tuple(
                    Timing(**{**timing, "seconds": tuple(map(float, timing["seconds"]))})
                    for timing in row["timings"]
                ),
            }
        )
        for row in document["rows"]
    ]
    given = {f.name: document[f.name] for f in fields(Results)}
    return Results(**{**given, "machine": Machine(**{**machine, "limits": limits}), "rows": rows})


@dataclass(frozen=True, slots=True)
class Change:
    """How a row of ours has changed between two runs."""

    name: str
    contender: str
    before: float  # seconds, medians
    after: float
    noise: float  # how much of a change the spread of the rounds explains, as a ratio above 1

    @property
    def ratio(self) -> float:
        """Above 1: it became slower."""
        return self.after / self.before

    @property
    def verdict(self) -> str:
        """Say "slower", "faster", or nothing if the change is within the noise."""
        if self.ratio > self.noise:
            return "slower"
        return "faster" if self.ratio < 1 / self.noise else ""


def changes(before: Sequence[Row], after: Sequence[Row]) -> list[Change]:
    """Compare our times in the rows that two runs share."""
    found = []
    old = {
        (row.suite, row.name, row.threads, timing.contender): timing
        for row in before
        for timing in row.timed
    }
    for row in after:
        for timing in row.timed:
            earlier = old.get((row.suite, row.name, row.threads, timing.contender))
            if earlier is None or not is_ours(timing.contender):
                continue
            spreads = [
                (high - low) / t.median for t in (earlier, timing) for low, high in [t.quartiles]
            ]
            noise = 1 + max(0.05, *spreads)
            found.append(
                Change(
                    row.title,
                    timing.contender,
                    earlier.median,
                    timing.median,
                    noise,
                )
            )
    return found
