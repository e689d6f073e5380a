"""What each word of an address is: a bidirectional GRU that tags it, against words with neighbours.

Many-to-many in step, on the 1,513 addresses of the United States that usaddress 0.5.16 (MIT) was
made from, with 29 tags. A word is known by an embedding, if the training part has it more than
once, and by what a smaller GRU, many-to-one, makes of its letters; the GRU over the words reads
both. usaddress itself is a conditional random field over features made by hand; here none is.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

import fastrnn
import fetch
import harness

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARES = 0.7, 0.1, 0.2  # of the parts: training, validation, test
UNKNOWN = 0  # the index of words, and of letters, that are not known
LR = 3e-3
SHOWN = 12  # the most frequent tags, in the picture


@dataclass(frozen=True)
class Address:
    """Its words, as they are written, and the tag of each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words)


Tags = list[tuple[str, ...]]  # of some addresses


def load() -> list[Address]:
    """Read the addresses out of the package (a file of a known sha256, without entities)."""
    root = ElementTree.fromstring(fetch.read("usaddress", "usaddress-0.5.16/training/labeled.xml"))
    return [
        Address(tuple((word.text or "").strip() for word in row), tuple(word.tag for word in row))
        for row in root
    ]


def core(word: str) -> str:
    """Return what is left of a word without case and marks."""
    return re.sub(r"[^a-z0-9]", "", word.lower())


def shape(word: str) -> str:
    """Return a word's form: 00 for digits, Aa for letters, marks as they are."""
    for pattern, mark in ((r"[0-9]", "0"), (r"[a-z]", "a"), (r"[A-Z]", "A"), (r"(.)\1+", r"\1\1")):
        word = re.sub(pattern, mark, word)
    return word


def parts(addresses: Sequence[Address], seed: int) -> list[list[Address]]:
    """Draw the training, validation and test parts; equal addresses stay in one of them."""
    number: dict[tuple[str, ...], int] = {}
    groups = [
        number.setdefault(tuple(map(core, address.words)), k) for k, address in enumerate(addresses)
    ]
    found = harness.split(np.array(groups), SHARES, np.random.default_rng(seed))
    return [[addresses[k] for k in part] for part in found]


class Tagger:
    """The network: an address in, scores of each word's tag out.

    Parameters
    ----------
    training
        The addresses that it is to learn from.
    seed
        Of all that is drawn.
    """

    def __init__(self, training: Sequence[Address], seed: int) -> None:
        self.training, self.seed = training, seed
        count = Counter(core(word) for address in training for word in address.words)
        often = sorted(word for word, n in count.items() if n > 1)
        letters = sorted({c for address in training for word in address.words for c in word})
        self.vocabulary = {word: k for k, word in enumerate(often, UNKNOWN + 1)}
        self.alphabet = {letter: k for k, letter in enumerate(letters, UNKNOWN + 1)}
        self.names = sorted({tag for address in training for tag in address.tags})
        E, H = 32, 64
        self.word = fastrnn.Embedding(1 + len(often), E, seed=seed)
        self.letters = fastrnn.ManyToOne(
            fastrnn.Embedding(1 + len(letters), E, seed=seed + 1),
            fastrnn.GRU(E, H // 2, bidirectional=True, seed=seed + 2),
        )
        self.tags = fastrnn.ManyToMany(
            fastrnn.Dropout(0.5, seed=seed + 3),
            fastrnn.GRU(E + H, H, bidirectional=True, seed=seed + 4),
            fastrnn.Dropout(0.5, seed=seed + 5),
            fastrnn.Linear(2 * H, len(self.names), seed=seed + 6),
        )
        self.word.parameters["weight"] *= 0.3  # their standard deviation, so far 1
        self.letters.parameters["0.weight"] *= 0.3
        self.parameters = _joined(*(part.parameters for part in self._parts()))

    def _parts(self) -> tuple[fastrnn.Embedding, fastrnn.ManyToOne, fastrnn.ManyToMany]:
        return self.word, self.letters, self.tags

    def numbers(self, addresses: Sequence[Address]) -> tuple[np.ndarray, ...]:
        """Return words (T, B), lengths (B,), letters (C, T * B) and the lengths of words (T * B,).

        C is the number of letters of the longest word.
        """
        x, lengths = harness.padded(
            [[self.vocabulary.get(core(word), UNKNOWN) for word in a.words] for a in addresses]
        )
        spelt: list[list[int]] = [[] for _ in range(x.size)]
        for b, address in enumerate(addresses):
            for t, word in enumerate(address.words):
                spelt[t * len(addresses) + b] = [self.alphabet.get(c, UNKNOWN) for c in word]
        return x, lengths, *harness.padded(spelt)

    def learn(self, epochs: int, size: int = 32) -> Iterator[int]:
        """Train, `size` addresses at a time, with a tenth of the words hidden: yield each epoch."""
        index = {name: k for k, name in enumerate(self.names)}
        targets = [[index[tag] for tag in address.tags] for address in self.training]
        optimizer = fastrnn.AdamW(self.parameters, lr=LR, weight_decay=0.01)
        generator = np.random.default_rng(self.seed)
        each = -(-len(self.training) // size)
        order = harness.batches(len(self.training), size, epochs, generator, "training the GRU")
        for step, chosen in enumerate(order, 1):
            x, lengths, spelt, sizes = self.numbers([self.training[k] for k in chosen])
            x[generator.random(x.shape) < 0.1] = UNKNOWN  # their letters have to do
            y, _ = harness.padded([targets[k] for k in chosen])
            gradients = self.gradients(x, lengths, spelt, sizes, y)
            fastrnn.clip_by_global_norm(gradients, 1.0)
            optimizer.lr = harness.cooled(LR, (step - 1) / (epochs * each))
            optimizer.step(gradients)
            if step % each == 0:
                yield step // each

    def gradients(
        self,
        x: np.ndarray,
        lengths: np.ndarray,
        spelt: np.ndarray,
        sizes: np.ndarray,
        y: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Return the gradients of the cross-entropy of the tags y (T, B); the rest as `numbers`."""
        word, letters = self.word.record(x), self.letters.record(spelt, lengths=sizes)
        E = word.output.shape[-1]
        joined = np.concatenate([word.output, letters.output.reshape(*x.shape, -1)], axis=-1)
        tags = self.tags.record(joined, lengths=lengths)
        inside = np.arange(len(x))[:, np.newaxis] < lengths
        _, d_scores = fastrnn.softmax_cross_entropy(
            tags.output, y, weights=inside.astype(tags.output.dtype)
        )
        later = tags.backward(d_scores)
        d_letters = later.input[..., E:].reshape(letters.output.shape)
        earlier = word.backward(later.input[..., :E]), letters.backward(d_letters)
        return _joined(*(found.parameters for found in (*earlier, later)))

    def scores(
        self, x: np.ndarray, lengths: np.ndarray, spelt: np.ndarray, sizes: np.ndarray
    ) -> np.ndarray:
        """Return the scores of all tags (T, B, K) for what `numbers` returns."""
        letters = self.letters(spelt, lengths=sizes).reshape(*x.shape, -1)
        return self.tags(np.concatenate([self.word(x), letters], axis=-1), lengths=lengths)[0]

    def __call__(self, addresses: Sequence[Address]) -> Tags:
        """Return the tags of each address."""
        found = self.scores(*self.numbers(addresses)).argmax(axis=-1)
        return [
            tuple(self.names[k] for k in found[: len(address), b])
            for b, address in enumerate(addresses)
        ]


def _joined(*parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = ("word", "letters", "tags")
    return {
        f"{name}.{key}": array
        for name, part in zip(names, parts, strict=True)
        for key, array in part.items()
    }


def most_frequent(training: Sequence[Address]) -> Callable[[Sequence[Address]], Tags]:
    """Return what gives each word the tag that it has most often, else its shape's, else any's."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for address in training:
        for word, tag in zip(address.words, address.tags, strict=True):
            for key in _keys(word):
                counts[key][tag] += 1
    return lambda addresses: [
        tuple(
            next(counts[key] for key in _keys(word) if key in counts).most_common(1)[0][0]
            for word in address.words
        )
        for address in addresses
    ]


def _keys(word: str) -> tuple[tuple[str, str], ...]:
    return ("word", core(word)), ("shape", shape(word)), ("any", "")


def features(address: Address) -> Iterator[list[str]]:
    """Yield what is looked at for each word: it, two neighbours to each side, and its place."""
    T = len(address)
    for t in range(T):
        found = [f"from the start {min(t, 8)}", f"from the end {min(T - 1 - t, 8)}"]
        for k in range(-2, 3):
            if not 0 <= t + k < T:
                found.append(f"{k} none")
                continue
            word = address.words[t + k]
            found += [f"{k} word {core(word)}", f"{k} shape {shape(word)}", f"{k} mark {word[-1:]}"]
            if abs(k) < 2:
                found += [f"{k} begins {core(word)[:3]}", f"{k} ends {core(word)[-3:]}"]
        yield found


def logistic(
    training: Sequence[Address], validation: Sequence[Address], penalties: Sequence[float]
) -> Callable[[Sequence[Address]], Tags]:
    """Fit a logistic regression to `features`, its penalty chosen by the validation part."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    def rows(addresses: Sequence[Address]) -> list[list[str]]:
        return [row for address in addresses for row in features(address)]

    look = CountVectorizer(analyzer=list, binary=True, dtype=np.float32)
    x, x_validation = look.fit_transform(rows(training)), look.transform(rows(validation))
    y, y_validation = ([tag for a in some for tag in a.tags] for some in (training, validation))
    best = max(
        (LogisticRegression(C=1 / penalty, max_iter=1000).fit(x, y) for penalty in penalties),
        key=lambda model: model.score(x_validation, y_validation),
    )

    def tag(addresses: Sequence[Address]) -> Tags:
        found = iter(best.predict(look.transform(rows(addresses))).tolist())
        return [tuple(next(found) for _ in address.words) for address in addresses]

    return tag


def score(addresses: Sequence[Address], found: Tags) -> tuple[float, np.ndarray]:
    """Return the share of words with the right tag, and which addresses are right altogether."""
    words = [
        a == b
        for address, tags in zip(addresses, found, strict=True)
        for a, b in zip(address.tags, tags, strict=True)
    ]
    whole = [address.tags == tags for address, tags in zip(addresses, found, strict=True)]
    return float(np.mean(words)), np.array(whole)


def draw(test: Sequence[Address], found: Tags, progress: list[tuple[float, float]]) -> Figure:
    """Draw some addresses with their tags, the frequent tags' confusion, accuracy over epochs."""
    from matplotlib.figure import Figure

    count = Counter(tag for address in test for tag in address.tags)
    names = [tag for tag, _ in count.most_common(SHOWN)]
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    figure.suptitle("Addresses that the network has not seen")
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 2), width_ratios=(3, 2))
    _draw_addresses(figure.add_subplot(grid[0, :]), test, found, names)
    axes = figure.add_subplot(grid[1, 0])
    confusion = np.zeros((SHOWN, SHOWN + 1))
    for address, tags in zip(test, found, strict=True):
        for a, b in zip(address.tags, tags, strict=True):
            if a in names:
                confusion[names.index(a), names.index(b) if b in names else SHOWN] += 1
    axes.imshow(confusion / confusion.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    for a, b in zip(*confusion.nonzero(), strict=True):
        color = "white" if confusion[a, b] > confusion[a].sum() / 2 else "black"
        axes.text(b, a, f"{confusion[a, b]:.0f}", ha="center", va="center", fontsize=7, color=color)
    axes.set_xticks(range(SHOWN + 1), [*names, "others"], rotation=45, ha="right", fontsize=7)
    axes.set_yticks(range(SHOWN), names, fontsize=7)
    axes.set(title="words of the test part", xlabel="tagged as", ylabel="is")
    axes = figure.add_subplot(grid[1, 1])
    epochs = range(1, 1 + len(progress))
    for label, line in zip(("words", "whole addresses"), zip(*progress, strict=True), strict=True):
        axes.plot(epochs, line, label=label)
    axes.set(title="validation part", xlabel="epochs", ylabel="share that is right", ylim=(0, 1))
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    return figure


def _draw_addresses(axes: Axes, test: Sequence[Address], found: Tags, names: list[str]) -> None:
    """Draw two addresses that are right, of many tags, and two that are not; tags as colours."""
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    colors = dict(zip(names, colormaps["tab20"].colors, strict=False))
    short = [k for k, address in enumerate(test) if sum(map(len, address.words)) < 60]
    right = sorted((k for k in short if found[k] == test[k].tags), key=lambda k: len(set(found[k])))
    wrong = [k for k in short if found[k] != test[k].tags and {*test[k].tags} <= {*names}]
    chosen = [*right[-2:], *wrong[:2]]
    for row, k in enumerate(chosen):
        at = 0.0
        for word, tag, guess in zip(test[k].words, test[k].tags, found[k], strict=True):
            width = 1.5 + len(word)
            axes.barh(-row, width - 0.3, left=at, height=0.5, color=colors.get(guess, "0.85"))
            axes.text(at + width / 2 - 0.15, -row, word, ha="center", va="center", fontsize=9)
            if guess != tag:
                axes.barh(-row - 0.35, width - 0.3, left=at, height=0.15, color=colors[tag])
            at += width
    shades = colors | {"others": "0.85"}
    patches = [Patch(color=color, label=tag) for tag, color in shades.items()]
    axes.legend(handles=patches, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7)
    axes.set(title="as the network tags them; thin, below what it mistakes: as they are")
    axes.axis("off")


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Train all models, and compare them on the test part."""
    training, validation, test = parts(load(), seed)
    if quick:
        training = training[::2]
    tagger = Tagger(training, seed)
    progress = []
    for _ in tagger.learn(15 if quick else 30):
        share, whole = score(validation, tagger(validation))
        progress.append((share, float(whole.mean())))
    regression = logistic(training, validation, (0.3,) if quick else (0.1, 0.3, 1.0))
    found = tagger(test)
    taggers = {
        "most frequent tag of the word, or its shape": most_frequent(training)(test),
        "logistic, the word and two to each side": regression(test),
        "GRU": found,
    }
    scores = {name: score(test, tags) for name, tags in taggers.items()}
    table = [("", f"words of {sum(map(len, test))}", f"whole addresses of {len(test)}")]
    for name, (share, whole) in scores.items():
        table.append((name, f"{share:.1%}", f"{whole.mean():.1%}"))
    frequent, linear, own = scores.values()
    only, other = (own[1] & ~linear[1]).sum(), (linear[1] & ~own[1]).sum()
    line = (
        f"the GRU tags {own[0]:.1%} of the words as they are and {own[1].mean():.1%} of the "
        f"addresses, the logistic regression {linear[0]:.1%} and {linear[1].mean():.1%} ({only} "
        f"addresses only the GRU, {other} only the regression)"
    )
    if quick:  # half of the addresses: better than looking words up
        right = own[0] > frequent[0] + 0.05 and own[1].mean() > frequent[1].mean() + 0.1
    else:
        right = own[0] > linear[0] and own[1].mean() > linear[1].mean() and own[0] > 0.9
    return harness.Outcome(line, bool(right), table, draw(test, found, progress))


if __name__ == "__main__":
    harness.main(example, __doc__)
