"""A network that writes English: textgenrnn, a character at a time, and how well it predicts prose.

textgenrnn 2.0.0 (MIT, M. Woolf) was trained on titles of posts: an embedding, two CuDNNLSTMs of 128
units, an average of all three over 40 characters, weighted by attention, and a softmax over 465.
Two measures say whether it knows English: the bits per character that it needs for prose from
Python's documentation, against the frequencies of the characters of that very text; and how many of
the words that it writes are used in the comments of Python's library, which have other subjects,
against words of letters drawn with those frequencies.
"""

from __future__ import annotations

import json
import re
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import fastrnn
import fetch
import harness
from fastrnn import weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "textgenrnn-2.0.0/textgenrnn/textgenrnn_"
T = 40  # characters that the next one depends on
META = "<s>"  # begins and ends a text
EPSILON = 1e-7  # as in Keras
TEMPERATURE = 0.5
PROMPT = "The reason "
SAMPLES, MOST = 20, 200  # texts that are written, characters of each
DRAWN = 60  # characters of the picture


class Writer:
    """The network of textgenrnn.

    Parameters
    ----------
    path
        Its weights.
    vocabulary
        Indices of characters, from 1 on.
    """

    def __init__(self, path: Path, vocabulary: dict[str, int]) -> None:
        self.vocabulary = vocabulary
        self.characters = {index: character for character, index in vocabulary.items()}
        self.lstms = [layer.build() for layer in weights.load(path).values()]
        arrays = weights.arrays(path)
        self.embedding, self.head = harness.ends(arrays, ":0")
        self.attention = arrays["attention/attention/attention_W:0"][:, 0]

    def __call__(self, texts: Sequence[Sequence[str]]) -> np.ndarray:
        """Return the probabilities of the next character after each text (B, 465)."""
        x = np.zeros((len(texts), T), int)
        for b, text in enumerate(texts):
            known = [self.vocabulary.get(character, 0) for character in text[-T:]]
            x[b, T - len(known) :] = known
        read = self.embedding(x)
        first, _ = self.lstms[0](read)
        second, _ = self.lstms[1](first)
        seen = np.concatenate((read, first, second), axis=2)  # (B, T, 356)
        weight = fastrnn.softmax(seen @ self.attention)
        return fastrnn.softmax(self.head(np.einsum("bt,btc->bc", weight, seen)))

    def write(self, prompt: str, count: int, seed: int) -> list[str]:
        """Go on with a prompt, `count` times."""
        rng = np.random.default_rng(seed)
        texts = [[META, *prompt] for _ in range(count)]
        going = list(texts)
        steps = MOST - len(prompt)
        for _ in harness.progress(range(steps), steps, "writing"):
            p = np.log(self(going) + EPSILON) / TEMPERATURE
            p[:, 0] = -np.inf  # stands in front of short texts, and for what is unknown
            drawn = (p + rng.gumbel(size=p.shape)).argmax(axis=1)  # by their probabilities
            for text, index in zip(going, drawn.tolist(), strict=True):
                text.append(self.characters[index])
            going = [text for text in going if text[-1] != META]
            if not going:
                break
        return ["".join(text).replace(META, "") for text in texts]

    def bits(self, text: str) -> float:
        """Return the bits per character that the network needs for a text."""
        total = 0.0
        for start in range(0, len(text), 500):
            total += float(self.read(text, start, start + 500)[0].sum())
        return total / len(text)

    def read(self, text: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the bits that each character from `start` to `stop` takes (n,), and the
        probabilities of all characters in its place (n, 465)."""
        written = [META, *text]
        ends = range(start + 1, min(stop + 1, len(written)))
        p = self([written[max(0, end - T) : end] for end in ends])
        right = [self.vocabulary.get(written[end], 0) for end in ends]
        return -np.log2(p[np.arange(len(ends)), right] + EPSILON), p


def load() -> Writer:
    """Read the network from the package."""
    vocabulary = json.loads(fetch.read("textgenrnn", f"{FOLDER}vocab.json"))
    return Writer(fetch.file("textgenrnn", f"{FOLDER}weights.hdf5"), vocabulary)


def prose() -> str:
    """Return the documentation that comes with Python, its paragraphs without code or markup."""
    from pydoc_data import topics

    paragraphs = "\n\n".join(topics.topics.values()).split("\n\n")
    found = [" ".join(paragraph.split()) for paragraph in paragraphs]
    return "\n".join(text for text in found if re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'()\-]+\.", text))


def vocabulary() -> set[str]:
    """Return the words in the comments and docstrings of Python's library."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    code = "\n".join(file.read_text("utf-8", "replace") for file in files)
    return set(words(re.findall(r"#.*|\"{3}[\s\S]*?\"{3}", code)))


def words(texts: Sequence[str]) -> list[str]:
    """Return the words of three letters and more, in small letters."""
    return re.findall(r"[a-z]{3,}", " ".join(texts).lower())


def frequencies(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the characters of a text, and how frequent they are."""
    characters, counts = np.unique(list(text), return_counts=True)
    return characters, counts / counts.sum()


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Measure, and show a text."""
    writer = load()
    text = prose()[: 1000 if quick else 10000]
    characters, shares = frequencies(text)
    bits, frequent = writer.bits(text), -float(shares @ np.log2(shares))

    samples = writer.write(PROMPT, SAMPLES, seed)
    written = words([sample.removeprefix(PROMPT) for sample in samples])
    rng = np.random.default_rng(seed)
    drawn = words(["".join(rng.choice(characters, SAMPLES * MOST, p=shares))])
    used = vocabulary()
    share, by_chance = (np.mean([word in used for word in some]) for some in (written, drawn))

    table = [
        ("", "network", "characters by frequency", "all alike"),
        ("bits per character", f"{bits:.2f}", f"{frequent:.2f}", f"{np.log2(len(shares)):.2f}"),
        ("words in use", f"{share:.0%}", f"{by_chance:.0%}", ""),
    ]
    line = (
        f"{samples[0]!r}; {share:.0%} of its words are in use (by chance {by_chance:.0%}), and "
        f"prose takes it {bits:.2f} bits a character (by frequencies {frequent:.2f})"
    )
    right = bool(bits < 0.75 * frequent and share > 0.6)
    return harness.Outcome(line, right, table, picture(writer, text, frequent))


def picture(writer: Writer, text: str, frequent: float) -> Figure:
    """Draw the bits that each character of a text takes, and which were thought most probable."""
    from matplotlib.figure import Figure

    bits, p = writer.read(text, 0, DRAWN)
    places = range(len(bits))
    visible = {" ": "␣", META: "¶", "\n": "↵"}
    figure = Figure(figsize=(10, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    above.bar(places, bits, color=["C0" if n < frequent else "C3" for n in bits])
    above.axhline(frequent, c="0.4", lw=0.8, ls=":", label="by frequencies, on average")
    above.axhline(bits.mean(), c="C0", lw=0.8, label=f"the network, here: {bits.mean():.2f}")
    above.set(title="How much each character of a text surprises the network", ylabel="bits")
    above.legend()
    ranks = range(1, 6)
    for place, row in enumerate(p):
        for rank, index in zip(ranks, np.argsort(-row, kind="stable").tolist(), strict=False):
            c = writer.characters.get(index, "")
            came = c == text[place]
            below.text(
                place,
                rank,
                visible.get(c, c),
                alpha=max(0.15, float(row[index]) ** 0.5),  # the more probable, the darker
                color="C0" if came else "k",
                weight="bold" if came else "normal",
                ha="center",
                va="center",
                parse_math=False,
            )
    below.set_xticks(places, [visible.get(c, c) for c in text[: len(bits)]])
    below.set(xlim=(-0.7, len(bits) - 0.3), ylim=(5.5, 0.5), yticks=ranks)
    below.set(xlabel="the text", ylabel="most probable (blue: came)")
    return figure


if __name__ == "__main__":
    harness.main(example, __doc__)
