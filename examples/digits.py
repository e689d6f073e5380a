"""Handwritten digits: a perceptron by either of its rules, and an MLP, beside scikit-learn's.

scikit-learn brings 1,797 digits of 8x8 pixels (E. Alpaydin and C. Kaynak, UCI 1998). Candidates
learn from three fifths and are judged by another fifth. The best one learns from both, anew, and is
tested on the last fifth, as scikit-learn's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrnn
import harness

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE, CLASSES = 8, 10
BATCH = 32
LEAST = {"classic rule": 0.9, "logistic rule": 0.9, "MLP": 0.97}  # right of all test digits
LEAST_QUICK = {"classic rule": 0.85, "logistic rule": 0.85, "MLP": 0.92}
MOST_SECONDS = 60

Model = fastrnn.Perceptron | fastrnn.MLP
Part = tuple[np.ndarray, np.ndarray]  # (B, 64) pixels from 0 to 1, (B,) classes
Rule = Callable[[np.ndarray, np.ndarray, float], object]  # learns from rows in order, at a rate


@dataclass(frozen=True)
class Candidate:
    """A way to learn; `make` gives a new model and the rule that changes it."""

    words: str
    rate: Callable[[float], float]  # of the share of epochs that are over
    make: Callable[[], tuple[Model, Rule]]


@dataclass(frozen=True)
class Learnt:
    """The best of some candidates; the curve is that from before the validation part was learnt."""

    words: str
    model: Model
    curve: list[float]  # accuracy on the validation part after each epoch
    seconds: float


def split(seed: int) -> dict[str, Part]:
    """Draw three parts with the same share of every class, and give two of them as one, too."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    x, labels = (found.data / 16).astype(np.float32), found.target
    rest, test = train_test_split(
        np.arange(len(x)), test_size=0.2, stratify=labels, random_state=seed
    )
    train, validation = train_test_split(
        rest, test_size=0.25, stratify=labels[rest], random_state=seed
    )
    parts = {"train": train, "validation": validation, "both": rest, "test": test}
    return {name: (x[rows], labels[rows]) for name, rows in parts.items()}


def classic() -> tuple[Model, Rule]:
    """Return a perceptron that learns by its own rule."""
    model = fastrnn.Perceptron(SIDE * SIDE, CLASSES)
    return model, lambda x, labels, rate: model.learn(x, labels, lr=rate)


def by_gradient(model: Model, optimizer: Any) -> tuple[Model, Rule]:
    """Return a model that descends along the gradient of the softmax's cross-entropy."""

    def learn(x: np.ndarray, labels: np.ndarray, rate: float) -> None:
        optimizer.lr = rate
        for start in range(0, len(x), BATCH):
            rows = slice(start, start + BATCH)
            tape = model.record(x[rows])
            _, d_output = fastrnn.softmax_cross_entropy(tape.output, labels[rows])
            optimizer.step(tape.backward(d_output).parameters)

    return model, learn


def logistic() -> tuple[Model, Rule]:
    """Return a perceptron that learns by the logistic rule."""
    model = fastrnn.Perceptron(SIDE * SIDE, CLASSES)
    return by_gradient(model, fastrnn.SGD(model.parameters, 1.0))


def layers(hidden: tuple[int, ...], dropout: float, seed: int) -> tuple[Model, Rule]:
    """Return an MLP that learns by gradients."""
    model = fastrnn.MLP(SIDE * SIDE, hidden, CLASSES, dropout=dropout, seed=seed)
    return by_gradient(model, fastrnn.Adam(model.parameters))


def falling(start: float) -> Callable[[float], float]:
    """Return a rate that falls to zero."""
    return lambda over: start * (1 - over)


def candidates(seed: int) -> dict[str, tuple[Candidate, ...]]:
    """Return what may be chosen from, for each kind."""
    return {
        "classic rule": (
            Candidate("one rate", lambda over: 1.0, classic),
            Candidate("falling rate", falling(1.0), classic),
        ),
        "logistic rule": tuple(
            Candidate(f"rate from {start}", falling(start), logistic) for start in (0.1, 0.3, 1.0)
        ),
        "MLP": tuple(
            Candidate(
                f"{'+'.join(map(str, hidden))} units, dropout {dropout}",
                falling(3e-3),
                partial(layers, hidden, dropout, seed),
            )
            for hidden, dropout in (((64,), 0.0), ((256, 256), 0.5))
        ),
    }


def accuracy(model: Model, part: Part) -> float:
    """Return the share of digits whose class has the highest score."""
    x, labels = part
    return float((model(x).argmax(axis=1) == labels).mean())


def train(candidate: Candidate, part: Part, epochs: int, seed: int, label: str) -> Iterator[Model]:
    """Yield the model of a candidate after each epoch."""
    x, labels = part
    generator = np.random.default_rng(seed)
    model, rule = candidate.make()
    for epoch in harness.progress(range(epochs), epochs, f"{label}, {candidate.words}"):
        order = generator.permutation(len(x))
        rule(x[order], labels[order], candidate.rate(epoch / epochs))
        yield model


def learn(
    name: str, some: Sequence[Candidate], parts: dict[str, Part], epochs: int, seed: int
) -> Learnt:
    """Train all candidates; train the one that ends best on the validation part again, on both."""
    start = time.perf_counter()
    curves = [
        [
            accuracy(model, parts["validation"])
            for model in train(candidate, parts["train"], epochs, seed, name)
        ]
        for candidate in some
    ]
    best = max(range(len(some)), key=lambda k: curves[k][-1])
    *_, model = train(some[best], parts["both"], epochs, seed, f"{name} again")
    return Learnt(some[best].words, model, curves[best], time.perf_counter() - start)


def others(name: str, seed: int) -> Any:
    """Return scikit-learn's, with the numbers of units of ours and otherwise its own choices."""
    from sklearn.linear_model import LogisticRegression, Perceptron
    from sklearn.neural_network import MLPClassifier

    return {
        "classic rule": Perceptron(random_state=seed),
        "logistic rule": LogisticRegression(max_iter=1000),
        "MLP": MLPClassifier((256, 256), random_state=seed),
    }[name]


def draw(learnt: dict[str, Learnt], test: Part) -> Figure:
    """Draw how they learnt, what the perceptron's classes look for, and what the MLP mistakes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    curves, weights, mistakes = figure.subfigures(3, 1, height_ratios=(2.2, 1, 1))
    axes = curves.subplots()
    for name, found in learnt.items():
        epochs = range(1, len(found.curve) + 1)
        axes.plot(epochs, 100 * np.array(found.curve), label=name, linewidth=1.2)
    axes.set(xlabel="epoch", ylabel="right on the validation part (%)", ylim=(80, 100))
    axes.set_title("Learning from three fifths of the digits")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")

    weights.suptitle("What the perceptron of the classic rule looks for (red) and avoids (blue)")
    templates = learnt["classic rule"].model.parameters["weight"].reshape(-1, SIDE, SIDE)
    limit = np.abs(templates).max()
    for k, (place, template) in enumerate(
        zip(weights.subplots(1, CLASSES), templates, strict=True)
    ):
        place.imshow(template, cmap="coolwarm", vmin=-limit, vmax=limit)
        place.set_title(str(k), fontsize=9)
        place.axis("off")

    x, labels = test
    predicted = learnt["MLP"].model(x).argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    mistakes.suptitle(f"Of {len(x)} test digits the MLP mistakes {len(wrong)}:")
    for k, place in enumerate(mistakes.subplots(1, CLASSES)):
        image = x[wrong[k]] if k < len(wrong) else np.zeros(SIDE * SIDE)
        place.imshow(image.reshape(SIDE, SIDE), cmap="gray_r", vmin=0, vmax=1)
        place.axis("off")
        if k < len(wrong):
            place.set_title(f"{labels[wrong[k]]} taken for {predicted[wrong[k]]}", fontsize=7)
    return figure


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Learn, choose, and look at the test part."""
    parts = split(seed)
    epochs = 10 if quick else 60
    table = [("", "fastrnn", "s", "scikit-learn", "s", "chosen")]
    learnt, words, right = {}, [], True
    for name, some in candidates(seed).items():
        ours = learnt[name] = learn(name, some, parts, epochs, seed)
        theirs = others(name, seed)
        start = time.perf_counter()
        theirs.fit(*parts["both"])
        seconds = time.perf_counter() - start
        found, other = accuracy(ours.model, parts["test"]), theirs.score(*parts["test"])
        right &= found >= (LEAST_QUICK if quick else LEAST)[name] and ours.seconds <= MOST_SECONDS
        shown = f"{100 * found:.1f} %", f"{100 * other:.1f} %"
        table.append(
            (name, shown[0], f"{ours.seconds:.1f}", shown[1], f"{seconds:.1f}", ours.words)
        )
        words.append(f"{name} {shown[0]} ({shown[1]})")
    line = f"of the test digits (scikit-learn's): {', '.join(words)}"
    return harness.Outcome(line, right, table, draw(learnt, parts["test"]))


if __name__ == "__main__":
    harness.main(example, __doc__)
