"""How words are spoken: the encoder and decoder of g2p_en, against its own NumPy code.

g2p_en 2.1.0 (Apache-2.0, K. Park and J. Kim) turns the letters of a word that no dictionary has
into phonemes: a GRU of 256 units reads them, another one writes phonemes from where the first one
ended. Its weights have torch's layout, and its own code runs both, a step and a word at a time.
"""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

import fastrnn
import fetch
import harness

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LETTERS = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
START, END = 2, 3  # <s> and </s> among the phonemes
MOST = 20  # phonemes of a word, as in g2p_en
DRAWN = ("thought", "physician", "knowledge")


class Phonemes:
    """The network of g2p_en.

    Parameters
    ----------
    checkpoint
        Its arrays: ``enc_`` and ``dec_`` with ``emb`` (., 256), ``w_ih`` and ``w_hh`` (768, 256),
        ``b_ih`` and ``b_hh`` (768,); ``fc_w`` (74, 256) and ``fc_b`` (74,).
    """

    def __init__(self, checkpoint: dict[str, np.ndarray]) -> None:
        self.letters = {letter: index for index, letter in enumerate(LETTERS)}
        self.encoder_embedding = checkpoint["enc_emb"]
        self.decoder_embedding = checkpoint["dec_emb"]
        width = self.decoder_embedding.shape[1]
        self.encoder = fastrnn.GRU(width, width)
        self.encoder.load_parameters(_torch_names(checkpoint, "enc", "_l0"))
        self.decoder = fastrnn.GRUCell(width, width)
        self.decoder.load_parameters(_torch_names(checkpoint, "dec", ""))
        self.head = fastrnn.Linear(width, len(checkpoint["fc_b"]))
        self.head.load_parameters({"weight": checkpoint["fc_w"], "bias": checkpoint["fc_b"]})

    def __call__(self, words: Sequence[str]) -> list[list[int]]:
        """Return the phonemes of each word, as indices."""
        h = self.encode(words)
        found: list[list[int]] = [[] for _ in words]
        going = np.arange(len(words))
        last = np.full(len(words), START)
        for _ in range(MOST):
            h = self.decoder(self.decoder_embedding[last], h)
            last = self.head(h).argmax(axis=1)
            if END in last:  # words that have ended leave the batch
                on = last != END
                going, last, h = going[on], last[on], h[on]
                if not len(going):
                    break
            for b, phoneme in zip(going.tolist(), last.tolist(), strict=True):
                found[b].append(phoneme)
        return found

    def encode(self, words: Sequence[Sequence[str]]) -> np.ndarray:
        """Return the state after each word (B, 256)."""
        letters, lengths = harness.padded(
            [[self.letters.get(letter, 1) for letter in (*word, "</s>")] for word in words]
        )
        # Every word in one call; the final state of each is that at its own end.
        _, h_n = self.encoder(self.encoder_embedding[letters], lengths=lengths)
        return h_n[0]

    def dependence(self, word: str) -> tuple[list[int], np.ndarray]:
        """Return the phonemes of a word, and how much each hangs on each letter (n, letters): the
        bits of probability that it loses where the letter is unknown, the rest being the same."""
        (found,) = self([word])
        hidden = [[*word[:k], "<unk>", *word[k + 1 :]] for k in range(len(word))]
        h = self.encode([word, *hidden])
        bits = []
        for last, phoneme in zip([START, *found], found, strict=False):
            h = self.decoder(self.decoder_embedding[np.full(len(h), last)], h)
            bits.append(-np.log2(fastrnn.softmax(self.head(h))[:, phoneme]))
        lost = np.array(bits)
        return found, lost[:, 1:] - lost[:, :1]


def _torch_names(checkpoint: dict[str, np.ndarray], part: str, suffix: str) -> dict[str, Any]:
    names = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
    return {torch + suffix: checkpoint[f"{part}_{own}"] for own, torch in names.items()}


def load() -> Phonemes:
    """Read the network from the package."""
    arrays = np.load(io.BytesIO(fetch.read("g2p_en", "g2p_en/checkpoint20.npz")))
    return Phonemes(dict(arrays))


@contextmanager
def _absent(*names: str) -> Iterator[None]:
    """Let modules be imported that are not there, and forget afterwards what was imported."""
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in names}):
        yield


def original() -> Any:
    """Return the package's own object, its code imported from inside the wheel.

    nltk and inflect, which it uses for whole sentences only, and would download data for, are left
    out.
    """
    data = [
        fetch.file("g2p_en", f"g2p_en/{name}") for name in ("checkpoint20.npz", "homographs.en")
    ]
    wheel = fetch.folder() / fetch.PACKAGES["g2p_en"].filename
    with (
        _absent("nltk", "nltk.corpus", "nltk.tokenize", "inflect"),
        mock.patch.object(sys, "path", [str(wheel), *sys.path]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # theirs: escapes and functions of an older Python
        from g2p_en import g2p

        g2p.dirname = str(data[0].parent)  # its data files cannot be opened inside a wheel
        return g2p.G2p()


def words(count: int, seed: int) -> list[str]:
    """Draw English words from the documentation that comes with Python."""
    from pydoc_data import topics

    found = sorted(set(re.findall(r"\b[a-z]{2,}\b", " ".join(topics.topics.values()))))
    return np.random.default_rng(seed).permutation(found)[:count].tolist()


def disagreements(ours: Phonemes, theirs: Any, chosen: Sequence[str]) -> list[str]:
    """Return the words for which ours, all at once or one at a time, and theirs differ."""
    pairs = zip(chosen, ours(chosen), strict=True)
    return [
        word
        for word, found in harness.progress(pairs, len(chosen), "one word after the other")
        if not found == ours([word])[0] == [theirs.p2idx[name] for name in theirs.predict(word)]
    ]


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Compare phonemes, then times."""
    ours, theirs = load(), original()
    chosen = words(200 if quick else 2000, seed)
    wrong = disagreements(ours, theirs, chosen)
    some = chosen[:100]  # a turn of theirs takes some tenths of a second
    single = harness.compare(
        lambda: [theirs.predict(word) for word in some],
        lambda: [ours([word]) for word in some],
        quick=quick,
    )
    batch = harness.compare(
        lambda: [theirs.predict(word) for word in some], lambda: ours(some), quick=quick
    )
    table = [("words", "g2p_en", "fastrnn", "times as fast (quartiles)")]
    for name, found in (("one by one", single), ("100 at once", batch)):
        times = (
            f"{1e6 * seconds / len(some):.0f} us/word" for seconds in (found.theirs, found.ours)
        )
        table.append((name, *times, str(found)))
    line = (
        f"{len(chosen) - len(wrong)} of {len(chosen)} words have the phonemes of g2p_en's own code"
    )
    if wrong:
        line += f", not: {' '.join(wrong[:10])}"
    return harness.Outcome(line, not wrong, table, picture(ours, theirs.idx2p))


def picture(ours: Phonemes, names: dict[int, str]) -> Figure:
    """Draw on which letters the phonemes of some words hang."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle("Which letters each phoneme hangs on")
    panels = figure.subplots(1, len(DRAWN), width_ratios=[len(word) for word in DRAWN])
    for axes, word in zip(panels, DRAWN, strict=True):
        found, lost = ours.dependence(word)
        image = axes.imshow(np.maximum(lost, 0), cmap="Blues", vmin=0, vmax=10, aspect="auto")
        axes.set_xticks(range(len(word)), word)
        axes.set_yticks(range(len(found)), [names[phoneme] for phoneme in found])
    panels[0].set(xlabel="letter", ylabel="phoneme")
    label = "bits that it loses without the letter"
    figure.colorbar(image, ax=panels, label=label, extend="max")
    return figure


if __name__ == "__main__":
    harness.main(example, __doc__)
