"""What is computed: one table of workloads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from ..cells import CELLS

# Recurrent layers of DeepBench, from its problem lists for training and for inference, on servers
# and devices: (H, B, T), and I = H.
DEEPBENCH = {
    ("training", "rnn"): [*product((1760, 2048, 2560), (16, 32, 64, 128), (50,))],
    ("training", "lstm"): [
        *product((512, 1024, 2048, 4096), (16, 32, 64, 128), (25,)),
        *product((1536,), (8, 16, 32), (50,)),
        *product((256,), (16, 32, 64), (150,)),
    ],
    ("training", "gru"): [
        *product((2816,), (32,), (750, 375, 187)),
        *product((2048, 1536, 2560), (32,), (1500, 750, 375, 187)),
        (512, 32, 1),
        *product((1024,), (32, 64), (1500,)),
    ],
    ("inference", "rnn"): [(32, 1, 672), (64, 1, 96)],
    ("inference", "lstm"): [
        *product((512, 1024, 2048), (1, 2, 4), (25,)),
        *product((1536,), (1, 2, 4), (50,)),
        *product((256,), (1, 2, 4), (150,)),
    ],
    ("inference", "gru"): [
        *product((2816, 2048, 1536, 2560), (1, 2, 4), (1500, 750, 375, 187)),
        *product((512,), (1, 2, 4), (1,)),
        *product((1024,), (1, 2, 4), (1500,)),
    ],
}
# Of these the full set has some; two processors would compute all of them for hours.
DEEPBENCH_CHOICE = {
    ("training", "rnn"): {(1760, 16, 50), (2048, 32, 50), (2560, 64, 50)},
    ("training", "lstm"): {
        *product((512,), (16, 32, 64), (25,)), (1024, 32, 25), (256, 32, 150),
    },
    ("training", "gru"): {(512, 32, 1)},
    ("inference", "rnn"): {(32, 1, 672), (64, 1, 96)},
    ("inference", "lstm"): {
        *product((512,), (1, 4), (25,)), (1024, 2, 25), *product((256,), (1, 4), (150,)),
    },
    ("inference", "gru"): {(512, 1, 1), (512, 4, 1), (1024, 1, 1500), (1536, 1, 187)},
}  # fmt: skip
# Language models of Zaremba, Sutskever and Vinyals, "Recurrent Neural Network Regularization"
# (2014), on the Penn Treebank: two layers of LSTM, a batch of 20. (H, T); I = H.
PTB = {"small": (200, 20), "medium": (650, 35), "large": (1500, 35)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A row of the table.

    Attributes
    ----------
    suite
        Which question it answers: a key of `SUITES`.
    kind
        "step" (a single-step cell, inference), "inference" (a sequence), "training" (forward and
        backward, all gradients) or "character" (a step of training a character model: embedding,
        layers, softmax cross-entropy, Adam).
    cell
        A key of `CELLS`.
    I, H, B, T, layers
        The sizes; of a character model I is that of the embedding.
    threads
        Fewer threads than the run has, or None for all of them.
    quick
        Whether it belongs to the quick set, too.
    rare
        Whether it belongs to no set, and is there to be asked for.
    label
        A name in place of the sizes.
    """

    suite: str
    kind: str
    cell: str
    I: int
    H: int
    B: int
    T: int
    layers: int = 1
    threads: int | None = None
    quick: bool = False
    rare: bool = False
    label: str = ""

    @property
    def name(self) -> str:
        """All that distinguishes it within its suite."""
        sizes = f"{self.I}/{self.H}/{self.B}/{self.T}"
        words = [self.cell, "training" if self.kind == "training" else "", self.label or sizes]
        if self.threads is not None:
            words.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        return " ".join(filter(None, words))

    @property
    def title(self) -> str:
        """Suite and name: what distinguishes it from all others."""
        return f"{self.suite}: {self.name}"

    @property
    def weights(self) -> int:
        """Numbers in the matrices of all layers."""
        first = self.H * (self.I + self.H)
        others = (self.layers - 1) * 2 * self.H * self.H
        return len(CELLS[self.cell].gates) * (first + others)

    @property
    def flop(self) -> float:
        """Floating-point operations of the recurrent layers' products, in one call."""
        passes = 3 if self.kind in ("training", "character") else 1
        return 2.0 * passes * self.T * self.B * self.weights

    @property
    def weight_bytes(self) -> float:
        """Bytes of W_hh of all layers in float32, which every step reads anew."""
        return 4.0 * len(CELLS[self.cell].gates) * self.layers * self.H * self.H

    @property
    def sizes(self) -> dict[str, int]:
        """I, H, B, T and layers by name."""
        return {"I": self.I, "H": self.H, "B": self.B, "T": self.T, "layers": self.layers}


SUITES = {
    "step": "one step of one row, state in and state out: what a call costs",
    "sequence": "one row, 128 steps",
    "batch": "inference of a batch",
    "training": "forward and backward of a batch, all gradients",
    "character": "training of a character model, optimizer included",
    "long": "long sequences of one row: time and memory a step must stay flat",
    "threads": "the same work with 1, 2, ... threads",
    "deepbench": "recurrent layers of DeepBench",
    "ptb": "language models of Zaremba et al. 2014 on the Penn Treebank, a step of training",
}


def workloads(threads: int) -> Iterator[Workload]:
    """Give the rows of the table, suite by suite, for a run with so many threads."""
    for cell in CELLS:
        for n in (8, 32, 128):
            yield Workload(suite="step", kind="step", cell=cell, I=n, H=n, B=1, T=1, quick=n == 32)
    for cell in CELLS:
        for I, H in ((8, 32), (32, 64), (128, 128), (256, 256)):
            quick = H in (32, 128)
            yield Workload(
                suite="sequence", kind="inference", cell=cell, I=I, H=H, B=1, T=128, quick=quick
            )
    for cell in CELLS:
        for n in (64, 128, 256, 512):
            quick = n in (64, 256)
            yield Workload(
                suite="batch", kind="inference", cell=cell, I=n, H=n, B=32, T=64, quick=quick
            )
    for cell in CELLS:
        for I, H, B, T in (
            (8, 32, 32, 64),
            (32, 32, 32, 64),
            (64, 64, 32, 64),
            (128, 128, 32, 64),
            (256, 256, 32, 64),
            (512, 512, 32, 64),
            (128, 128, 1, 128),
        ):
            quick = (I, B) in ((8, 32), (128, 32))
            yield Workload(
                suite="training", kind="training", cell=cell, I=I, H=H, B=B, T=T, quick=quick
            )
    for cell in CELLS:
        quick = cell == "lstm"
        yield Workload(
            suite="character", kind="character", cell=cell, I=64, H=128, B=32, T=64, quick=quick
        )
    for cell in CELLS:
        for T in (10, 100, 1000, 10_000, 100_000):
            quick = cell == "lstm" and T in (100, 10_000)
            yield Workload(
                suite="long", kind="inference", cell=cell, I=8, H=32, B=1, T=T, quick=quick
            )
            if T <= 10_000:
                yield Workload(suite="long", kind="training", cell=cell, I=8, H=32, B=1, T=T)
    for cell in CELLS:
        for count in sorted({1, 2, threads // 2, threads} - {0}):
            if count <= threads:
                yield Workload(
                    suite="threads", kind="training", cell=cell, I=128, H=128, B=64, T=64,
                    threads=count, quick=cell == "lstm",
                )  # fmt: skip
    for (kind, cell), sizes in DEEPBENCH.items():
        for H, B, T in sizes:
            rare = (H, B, T) not in DEEPBENCH_CHOICE[kind, cell]
            yield Workload(suite="deepbench", kind=kind, cell=cell, I=H, H=H, B=B, T=T, rare=rare)
    for name, (H, T) in PTB.items():
        yield Workload(
            suite="ptb", kind="training", cell="lstm", I=H, H=H, B=20, T=T, layers=2, label=name
        )
