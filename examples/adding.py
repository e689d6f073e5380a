"""The adding problem: how far back an RNN, a GRU and an LSTM learn to look.

Each step brings a number between 0 and 1 and a mark, which is 1 at two steps, one in each half of
the sequence; after the last step the network has to say the sum of the two marked numbers
(Hochreiter & Schmidhuber 1997, section 5.4; in this form Le, Jaitly & Hinton 2015,
arXiv:1504.00941). Whoever always says 1 is off by 1/6, as a mean square.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrnn
import harness
from fastrnn import gradflow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS, BATCH = 32, 32
GUESSING = 1 / 6  # the variance of the sum of two numbers, each uniform in [0, 1]
LEARNED = 0.02  # who is below has learned it
LIMIT = 1.0  # of the norm of the gradient
STEPS = {50: 1000, 100: 1500, 200: 3000, 500: 4000}  # T: updates
LOOKED_AT = 10  # sequences whose gradient is followed: it takes long, in float64
SMOOTH = 50  # losses that are averaged for the picture


@dataclass(frozen=True)
class Network:
    """A layer to compare, and how it is trained."""

    name: str
    kind: type[fastrnn.layers.Recurrent]
    options: Mapping[str, Any]
    colour: str
    lr: float = 1e-2

    def build(self, seed: int) -> fastrnn.Sequential:
        """(T, B, 2) to a number at every step, of which the last one counts."""
        first, second = map(int, np.random.SeedSequence(seed).generate_state(2))
        layer = self.kind(2, UNITS, seed=first, **self.options)
        return fastrnn.Sequential(layer, fastrnn.Linear(UNITS, 1, seed=second))


# The plain RNN stays where it is with 1e-2 and 5e-3, too, and its loss jumps.
RNN = Network("RNN", fastrnn.RNN, {}, "#d1495b", 1e-3)
GRU = Network("GRU", fastrnn.GRU, {}, "#2a9d8f")
LSTMS = [
    Network(f"LSTM, forget bias {bias}", fastrnn.LSTM, {"forget_bias": bias}, colour)
    for bias, colour in ((0, "#9bbbe0"), (1, "#3b6fb6"), (3, "#1d3557"))
]


def draw(T: int, B: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return sequences (T, B, 2) and their sums (B, 1)."""
    x = np.zeros((T, B, 2), np.float32)
    x[..., 0] = generator.random((T, B), np.float32)
    rows = np.arange(B)
    marked = np.stack([generator.integers(0, T // 2, B), generator.integers(T // 2, T, B)])
    x[marked, rows, 1] = 1
    return x, x[marked, rows, 0].sum(axis=0)[:, None]


def train(
    model: fastrnn.Sequential,
    T: int,
    steps: int,
    lr: float,
    generator: np.random.Generator,
    label: str,
) -> list[float]:
    """Train by Adam, every batch drawn anew; return the loss of each, before it was learned from.

    So a loss is that of sequences which the network has not seen.
    """
    trained = fastrnn.ManyToOne(*model.layers)  # the same parameters
    optimizer = fastrnn.Adam(trained.parameters, lr=lr)
    losses = []
    for _ in harness.progress(range(steps), steps, label):
        x, target = draw(T, BATCH, generator)
        tape = trained.record(x)
        loss, d_output = fastrnn.mean_squared_error(tape.output, target)
        losses.append(loss)
        gradients = tape.backward(d_output).parameters
        fastrnn.clip_by_global_norm(gradients, LIMIT)
        optimizer.step(gradients)
    return losses


def error(model: fastrnn.Sequential, x: np.ndarray, target: np.ndarray) -> float:
    """Return the mean squared error of what the network says after the last step."""
    return fastrnn.mean_squared_error(model(x)[0][-1], target)[0]


def flow(model: fastrnn.Sequential, x: np.ndarray, target: np.ndarray) -> gradflow.GradientFlow:
    """Let `fastrnn.gradflow` follow the gradient of the error at the end, in float64."""
    output = model(x)[0]
    d_output = np.zeros_like(output)
    _, d_output[-1] = fastrnn.mean_squared_error(output[-1], target)
    return gradflow.analyse(model, x, d_output, steps=[len(x) - 1])


def norms(found: gradflow.GradientFlow) -> np.ndarray:
    """Return those of ∂E/∂h_k, an LSTM's ∂E/∂h_k and ∂E/∂c_k together, of the whole batch."""
    parts = [*found.d_h.values(), *found.d_c.values()]
    return np.asarray(np.linalg.norm(parts, axis=0))


def reach(found: gradflow.GradientFlow) -> float:
    """Return how much of the last state's gradient is left at the first one."""
    first, *_, last = norms(found)
    return float(first / last)


@dataclass(frozen=True)
class Run:
    """A network that was trained on sequences of one length."""

    network: Network
    T: int
    losses: Sequence[float]
    error: float  # of sequences that were drawn for the end
    before: gradflow.GradientFlow  # before training
    after: gradflow.GradientFlow


def run(network: Network, T: int, steps: int, seed: int) -> Run:
    """Train a network and look at its gradients before and after."""
    training, looking, testing = map(
        np.random.default_rng, np.random.SeedSequence([seed, T]).spawn(3)
    )
    model = network.build(seed)
    some = draw(T, LOOKED_AT, looking)
    before = flow(model, *some)
    label = f"T = {T}: {network.name}"
    losses = train(model, T, steps, network.lr, training, label)
    found = error(model, *draw(T, 2000, testing))
    return Run(network, T, losses, found, before, flow(model, *some))


def smooth(losses: Sequence[float]) -> np.ndarray:
    """Average as many losses as `SMOOTH` says."""
    return np.convolve(losses, np.full(SMOOTH, 1 / SMOOTH), mode="valid")


def draw_runs(runs: Sequence[Run]) -> Figure:
    """Draw how the errors fell, and below how far back the gradients reach."""
    from matplotlib.figure import Figure

    lengths = sorted({found.T for found in runs})
    figure = Figure(figsize=(3.1 * max(len(lengths), 2) + 0.6, 6.6), layout="constrained")
    figure.suptitle(
        "Adding two marked numbers among T (dashed: always saying 1; dotted: before training)"
    )
    grid = figure.subplots(2, len(lengths), squeeze=False, sharey="row")
    for column, (T, (learning, flowing)) in enumerate(zip(lengths, grid.T, strict=True)):
        learning.axhline(GUESSING, color="#6b7280", linewidth=1, linestyle=(0, (5, 4)))
        for found in runs:
            if found.T == T:
                colour = found.network.colour
                curve = smooth(found.losses)
                at = np.arange(SMOOTH, SMOOTH + len(curve))
                learning.semilogy(at, curve, color=colour, linewidth=1.4, label=found.network.name)
                back = np.arange(T)[::-1]
                for at_that_time, style in ((found.before, ":"), (found.after, "-")):
                    flowing.semilogy(back, norms(at_that_time), style, color=colour, linewidth=1.4)
        learning.set_title(f"T = {T}", loc="left")
        learning.set_xlabel(f"updates, of {BATCH} sequences each")
        flowing.set_xlabel("steps before the end")
        flowing.set_ylim(1e-12, 10)
        if not column:
            learning.set_ylabel("mean squared error")
            flowing.set_ylabel(f"‖∂E/∂state‖ of {LOOKED_AT} sequences")
        for axes in (learning, flowing):
            axes.grid(color="#e5e7eb", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Train every network on every length."""
    networks = [RNN, GRU, *(LSTMS[1:2] if quick else LSTMS)]
    steps = {50: 800} if quick else STEPS
    runs = [run(network, T, n, seed) for T, n in steps.items() for network in networks]
    head = ("T", "network", "updates", "mean squared error", "first state's gradient / last one's")
    table = [(*head, "after training")]
    for found in runs:
        ratios = (
            f"{reach(flowing):.0e}, {flowing.verdict.kind}"
            for flowing in (found.before, found.after)
        )
        words = f"{found.error:.4f}" + ("" if found.error < LEARNED else " (not learned)")
        table.append((str(found.T), found.network.name, str(len(found.losses)), words, *ratios))
    right, best = True, []
    for T in steps:
        plain = next(found.error for found in runs if found.T == T and found.network is RNN)
        gated = min(found.error for found in runs if found.T == T and found.network is not RNN)
        right = right and gated < LEARNED and plain > 5 * gated
        best.append(f"{gated:.4f} against {plain:.4f} with T = {T}")
    line = f"best gated network against RNN: {', '.join(best)} (always saying 1: {GUESSING:.4f})"
    return harness.Outcome(line, right, table, draw_runs(runs))


if __name__ == "__main__":
    harness.main(example, __doc__)
