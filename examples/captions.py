"""Images that are described in words, letter by letter: a CNN looks, and an LSTM writes.

One to many: an image shows one to three of MNIST's digits side by side; the encoder's vector is the
state in which the decoder begins, and it writes "seven", or "one two zero". The digits are split
first, so that no digit of a test image was seen in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import fastrnn
import harness
import mnist

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = ("<start>", "<stop>", " ", *sorted(set("".join(NAMES))))
START, STOP = 0, 1
INDEX = {letter: k for k, letter in enumerate(LETTERS)}
MOST = 3  # digits of an image
LONGEST = MOST * 6  # letters, spaces and the stop of "three three three"
SIDE, WIDTH = 28, 28 * MOST
UNITS = 128
BATCH = 64
RATE = 2e-3  # of Adam, at first


@dataclass(frozen=True)
class Captioned:
    """Images (N, 1, 28, 84) and what they show: the caption of each, and the number of digits."""

    images: np.ndarray
    captions: list[str]
    digits: np.ndarray

    def tokens(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the letters of some captions, (T, B), stops and all, and their numbers."""
        return harness.padded([np.array([*map(INDEX.get, self.captions[k]), STOP]) for k in rows])


def compose(part: mnist.Part, count: int, generator: np.random.Generator) -> Captioned:
    """Put digits of a part side by side, in as many images of one, two and three digits."""
    images, labels = part
    found = np.zeros((count, 1, SIDE, WIDTH), np.float32)
    captions, digits = [], np.arange(count) % MOST + 1
    for image, n in zip(found[:, 0], digits, strict=True):
        chosen = generator.integers(len(labels), size=n)
        left = int(generator.integers(WIDTH - SIDE * n + 1))
        for k, row in enumerate(chosen):
            image[:, left + SIDE * k : left + SIDE * (k + 1)] = images[row]
        captions.append(" ".join(NAMES[labels[row]] for row in chosen))
    return Captioned(found, captions, digits)


def network(seed: int) -> fastrnn.OneToMany:
    """Return the CNN and the LSTM."""
    encoder = fastrnn.Sequential(
        fastrnn.Conv2d(1, 16, 5, seed=seed),
        fastrnn.ReLU(),
        fastrnn.MaxPool2d(2),
        fastrnn.Conv2d(16, 32, 5, seed=seed + 1),
        fastrnn.ReLU(),
        fastrnn.MaxPool2d(2),
        fastrnn.Flatten(),
        fastrnn.Linear(32 * 4 * 18, 2 * UNITS, seed=seed + 3),
    )
    # He's sizes: with smaller ones the decoder learns to write without looking, and stays at that.
    for name, array in encoder.parameters.items():
        if name.endswith("weight"):
            array *= 6**0.5
    decoder = fastrnn.Sequential(
        fastrnn.Embedding(len(LETTERS), 32, seed=seed + 4),
        fastrnn.LSTM(32, UNITS, seed=seed + 5),
        fastrnn.Linear(UNITS, len(LETTERS), seed=seed + 6),
    )
    return fastrnn.OneToMany(encoder, decoder)


def train(
    model: fastrnn.OneToMany, part: mnist.Part, images: int, epochs: int, seed: int
) -> list[float]:
    """Train with teacher forcing on images made anew each epoch; return the loss of each step."""
    generator = np.random.default_rng([seed, 1])
    optimizer = fastrnn.Adam(model.parameters, lr=RATE)
    steps = epochs * (images // BATCH)
    losses = []

    def batches():  # of images that have never been seen before
        for _ in range(epochs):
            made = compose(part, images, generator)
            for rows in generator.permutation(images)[: images // BATCH * BATCH].reshape(-1, BATCH):
                yield made, rows

    for done, (made, rows) in enumerate(harness.progress(batches(), steps, "learning to write")):
        wanted, lengths = made.tokens(rows)
        given = np.concatenate((np.full((1, len(rows)), START), wanted[:-1]))
        tape = model.record(made.images[rows], given, lengths=lengths)
        weights = (np.arange(len(wanted))[:, None] < lengths).astype(np.float32)
        loss, d_logits = fastrnn.softmax_cross_entropy(tape.output, wanted, weights=weights)
        gradients = tape.backward(d_logits).parameters
        fastrnn.clip_by_global_norm(gradients, 1.0)
        optimizer.lr = harness.cooled(RATE, done / steps)
        optimizer.step(gradients)
        losses.append(loss)
    return losses


def write(model: fastrnn.OneToMany, images: np.ndarray, width: int) -> list[str]:
    """Write the captions of images, by a beam of so many hypotheses; 1 is greedy."""
    found: list[str] = []
    for start in range(0, len(images), 200):
        part = images[start : start + 200]
        decoded = (
            model.greedy(part, start=START, stop=STOP, max_steps=LONGEST)
            if width == 1
            else model.beam(part, start=START, stop=STOP, max_steps=LONGEST, width=width)
        )
        found += ["".join(LETTERS[k] for k in row) for row in decoded.rows()]
    return found


def distance(a: str, b: str) -> int:
    """Return the letters to insert, delete or replace to make b of a (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


@dataclass(frozen=True)
class Score:
    """Shares of captions that are right, of letters, and of captions by the number of digits."""

    exact: float
    letters: float
    by_digits: tuple[float, ...]

    def words(self) -> tuple[str, ...]:
        """Return it for a table."""
        return tuple(f"{share:.1%}" for share in (self.exact, *self.by_digits, self.letters))


def score(written: Sequence[str], wanted: Captioned) -> Score:
    """Compare with what the images show; letters are right but for the edits that are needed."""
    right = np.array([a == b for a, b in zip(written, wanted.captions, strict=True)])
    edits = sum(map(distance, written, wanted.captions))
    return Score(
        float(right.mean()),
        max(0.0, 1 - edits / sum(map(len, wanted.captions))),
        tuple(float(right[wanted.digits == n].mean()) for n in range(1, MOST + 1)),
    )


def baseline(wanted: Captioned) -> Score:
    """Score captions that do not look: a digit's name, so often as the image has digits."""
    return score([" ".join(["seven"] * n) for n in wanted.digits], wanted)


def classifier(parts: dict[str, mnist.Part]) -> float:
    """Return the share of single test digits that scikit-learn's SVC knows."""
    from sklearn.svm import SVC

    (x, labels), (tests, wanted) = parts["train"], parts["test"]
    model = SVC().fit(x.reshape(len(x), -1), labels)
    return float(np.mean(model.predict(tests.reshape(len(tests), -1)) == wanted))


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Train, write, and compare."""
    parts = mnist.split(seed)
    model = network(seed)
    losses = train(model, parts["train"], 3840 if quick else 7680, 3 if quick else 8, seed)
    test = compose(parts["test"], 300 if quick else 1500, np.random.default_rng([seed, 2]))
    greedy = write(model, test.images, 1)
    beam = write(model, test.images, 4)
    scores = {"CNN + LSTM, greedy": score(greedy, test), "CNN + LSTM, beam of 4": score(beam, test)}
    alone = classifier(parts)
    chances = tuple(alone**n for n in range(1, MOST + 1))
    rows = [(name, *found.words()) for name, found in scores.items()]
    each = (f"{share:.1%}" for share in (float(np.mean(chances)), *chances))
    rows += [
        (f"SVC, {alone:.1%} a digit, told where they are", *each, ""),
        ("without looking: seven seven ...", *baseline(test).words()),
    ]
    head = ("captions that are right", "all", "one digit", "two", "three", "letters")
    best = scores["CNN + LSTM, beam of 4"]
    least = (0.1, 0.3) if quick else (0.85, 0.93)  # below what validation has shown
    line = (
        f"{best.exact:.1%} of {len(beam)} captions are right (one digit {best.by_digits[0]:.1%}, "
        f"three {best.by_digits[-1]:.1%}), {best.letters:.1%} of the letters"
    )
    right = best.exact >= least[0] and best.by_digits[0] >= least[1]
    return harness.Outcome(line, right, [head, *rows], picture(model, test, beam, losses))


def picture(
    model: fastrnn.OneToMany, test: Captioned, written: Sequence[str], losses: Sequence[float]
) -> Figure:
    """Draw images with what was written, the letters' probabilities of one, and the loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(3, 2))
    upper.suptitle("What the network writes of digits that it has never seen")
    wrong = [k for k, caption in enumerate(test.captions) if caption != written[k]]
    shown = [*range(12 - min(len(wrong), 3)), *wrong[:3]]
    for axes, k in zip(upper.subplots(4, 3).flat, shown, strict=True):
        axes.imshow(test.images[k, 0], cmap="gray_r")
        axes.set(xticks=[], yticks=[])
        fits = written[k] == test.captions[k]
        axes.set_title(
            written[k] if fits else f"{written[k]} ({test.captions[k]})",
            color="C2" if fits else "C3",
            fontsize=9,
        )
    letters, curve = lower.subplots(1, 2, width_ratios=(3, 2))
    k = 2  # an image of three digits
    tokens = np.array([START, *map(INDEX.get, written[k])])[:, None]
    logits = model(test.images[k : k + 1], tokens)
    shares = fastrnn.softmax(logits[:, 0]).T
    letters.imshow(shares[1:], aspect="auto", cmap="Blues", vmin=0, vmax=1)
    letters.set_yticks(range(len(LETTERS) - 1), ["stop", "space", *LETTERS[3:]], fontsize=7)
    letters.set_xticks(range(len(tokens)), [*written[k].replace(" ", "·"), "■"])
    letters.set(title="probability of each letter as it is written", xlabel="written")
    curve.plot(losses, linewidth=0.5)
    curve.set(title="learning", xlabel="step", ylabel="loss in nats a letter", yscale="log")
    return figure


if __name__ == "__main__":
    harness.main(example, __doc__)
