"""What a text makes people feel: reactionrnn, against the numbers that its README prints.

reactionrnn 0.1 (MIT, M. Woolf) reads a post character by character, a Keras GRU of 256 units in the
older form (gates z, r, h, the reset before the product, hard sigmoids), and says how the reactions
to it are shared out. Its weights come in an HDF5 file of 2017.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import fetch
import harness
from fastrnn import weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "reactionrnn-0.1/reactionrnn/reactionrnn_"
REACTIONS = ("love", "wow", "haha", "sad", "angry")
T = 140  # characters that are read, the last ones of a text

# The examples of https://github.com/minimaxir/reactionrnn, in the order of REACTIONS.
PUBLISHED = {
    "Happy Mother's Day from the Chicago Cubs!": (0.9765, 0.0235, 0.0, 0.0, 0.0),
    "This is scary AF!😱😱": (0.0, 0.9109, 0.0, 0.0891, 0.0),
    "When the soup is too hot 😂😂😂": (0.1376, 0.0056, 0.8568, 0.0, 0.0),
    "He was only 41.": (0.0, 0.0, 0.0, 1.0, 0.0),
    "Everyone loves autoplaying videos!": (0.0, 0.1333, 0.0, 0.0, 0.8667),
}


class Reactions:
    """The network of reactionrnn.

    Parameters
    ----------
    path
        Its weights.
    vocabulary
        Indices of characters, from 1 on.
    """

    def __init__(self, path: Path, vocabulary: dict[str, int]) -> None:
        self.vocabulary = vocabulary
        # A file of weights alone does not say which activations they were trained with.
        (layer,) = weights.load(path, options={"gate_activation": "hard_sigmoid"}).values()
        self.gru = layer.build()
        arrays = weights.arrays(path)
        self.embedding, self.head = harness.ends(arrays, "")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return the shares of the reactions to each text (B, 5)."""
        x = np.zeros((len(texts), T), int)  # 0 stands in front of short texts, and is read, too
        for b, text in enumerate(texts):
            known = [self.vocabulary[c] for c in self.read(text)]
            x[b, T - len(known) :] = known
        _, h_n = self.gru(self.embedding(x))
        found = np.maximum(self.head(h_n[0]), 0)
        return found / found.sum(axis=1, keepdims=True)

    def read(self, text: str) -> list[str]:
        """Return the characters of a text that are read."""
        return [c for c in text if c in self.vocabulary][-T:]


def load() -> Reactions:
    """Read the network from the package."""
    vocabulary = json.loads(fetch.read("reactionrnn", f"{FOLDER}vocab.json"))
    return Reactions(fetch.file("reactionrnn", f"{FOLDER}weights.hdf5"), vocabulary)


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Compare with what is published, to its four decimals."""
    del quick, seed  # it takes a moment, and nothing is drawn
    network = load()
    found = network(list(PUBLISHED))
    wrong = np.abs(found - list(PUBLISHED.values())) > 0.5e-4
    table = [("text", *REACTIONS)]
    for text, row in zip(PUBLISHED, found, strict=True):
        table.append((text, *(f"{share:.4f}" for share in row)))
    line = (
        f"{wrong.size - wrong.sum()} of {wrong.size} shares are the published ones to four decimals"
    )
    return harness.Outcome(line, not wrong.any(), table, picture(network, found))


def picture(network: Reactions, found: np.ndarray) -> Figure:
    """Draw the shares of each text (5, 5), and how they came about, character by character."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    rows = figure.subplots(len(PUBLISHED), 2, width_ratios=(3, 1))
    figure.suptitle("What people will feel: as it is read, and at the end (x: published)")
    panels = zip(rows, PUBLISHED.items(), found, strict=True)
    for (reading, end), (text, published), shares in harness.progress(panels, len(rows), "reading"):
        characters = network.read(text)
        # Each beginning of the text is a text of its own.
        after = network([text[: n + 1] for n, c in enumerate(text) if c in network.vocabulary])
        under = np.zeros(len(after))
        for k, name in enumerate(REACTIONS):
            reading.bar(range(len(after)), after[:, k], 1, bottom=under, color=f"C{k}", label=name)
            under += after[:, k]
        reading.set_xticks(range(len(after)), characters)
        reading.set(xlim=(-0.5, len(after) - 0.5), ylim=(0, 1), ylabel="share")
        end.bar(REACTIONS, shares, color=[f"C{k}" for k in range(len(REACTIONS))])
        end.plot(REACTIONS, published, "kx")
        end.set(ylim=(0, 1.1))
    figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


if __name__ == "__main__":
    harness.main(example, __doc__)
