"""How gradients flow back through time: initialisation, clipping, and what truncation loses.

On the adding problem (`adding.py`, which shows what comes of it for longer sequences):

* where the weights start decides how far back gradients reach at first;
* where they explode, a limit on each value turns the gradient, one on its norm only shortens it;
* truncation at k2 steps leaves out of the gradient whatever came from further back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import adding
import fastrnn
import harness
from adding import GUESSING, Network
from fastrnn import gradflow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = 50
TOO_LARGE = 2  # times an orthogonal matrix
RELU = {"nonlinearity": "relu"}
ORTHOGONAL = Network("orthogonal", fastrnn.RNN, RELU | {"init": "orthogonal"}, "#2a9d8f", 1e-3)
STARTS = (
    Network("uniform", fastrnn.RNN, RELU, "#d1495b", 1e-3),
    ORTHOGONAL,
    Network(f"{TOO_LARGE} × orthogonal", fastrnn.RNN, ORTHOGONAL.options, "#8d5a97", 1e-3),
)
TANH = Network("tanh, orthogonal", fastrnn.RNN, {"init": "orthogonal"}, "#e9a03b", 1e-3)
CLIP_NORM, CLIP_VALUE = 1.0, 0.1
CLIPPED = {"no clipping": "#d1495b", "by value": "#e9a03b", "by norm": "#2a9d8f"}


def start(network: Network, seed: int) -> fastrnn.Sequential:
    """Build a network, and enlarge the weights of the one that shall have too large ones."""
    model = network.build(seed)
    if network is STARTS[-1]:
        model.parameters["0.weight_hh_l0"] *= TOO_LARGE
    return model


def flat(gradients: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return all numbers of the gradients, as float64."""
    return np.concatenate([array.reshape(-1) for array in gradients.values()], dtype=np.float64)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the angle between two gradients, of whatever length."""
    norms = np.linalg.norm(a), np.linalg.norm(b)
    return float((a / norms[0]) @ (b / norms[1])) if all(norms) else np.nan


@dataclass(frozen=True)
class Clipping:
    """A run of gradient descent with one kind of clipping: what each update saw."""

    losses: Sequence[float]  # up to the first that is not finite
    norms: Sequence[float]  # of the gradient before clipping
    left: Sequence[float]  # and after it
    cosines: Sequence[float]  # between both
    largest: float  # value after clipping


def clip(name: str, gradients: dict[str, np.ndarray]) -> None:
    """Clip in place, as the name says."""
    if name == "by norm":
        fastrnn.clip_by_global_norm(gradients, CLIP_NORM)
    elif name == "by value":
        fastrnn.clip_by_value(gradients, CLIP_VALUE)


@np.errstate(all="ignore")  # one of them explodes
def descend(name: str, steps: int, seed: int) -> Clipping:
    """Train the network whose weights are too large by plain gradient descent."""
    model = start(STARTS[-1], seed)
    trained = fastrnn.ManyToOne(*model.layers)
    optimizer = fastrnn.SGD(trained.parameters, lr=0.01)
    generator = np.random.default_rng(seed)
    losses, norms, left, cosines, largest = [], [], [], [], 0.0
    for _ in harness.progress(range(steps), steps, f"clipping: {name}"):
        x, target = adding.draw(T, adding.BATCH, generator)
        tape = trained.record(x)
        loss, d_output = fastrnn.mean_squared_error(tape.output, target)
        gradients = tape.backward(d_output).parameters
        whole = flat(gradients)
        if not (np.isfinite(loss) and np.isfinite(whole).all()):
            break
        clip(name, gradients)
        clipped = flat(gradients)
        losses.append(loss)
        norms.append(float(np.linalg.norm(whole)))
        left.append(float(np.linalg.norm(clipped)))
        cosines.append(cosine(whole, clipped))
        largest = max(largest, float(abs(clipped).max()))
        optimizer.step(gradients)
    return Clipping(losses, norms, left, cosines, largest)


def truncated(
    model: fastrnn.Sequential, x: np.ndarray, target: np.ndarray, k2: int
) -> dict[str, np.ndarray]:
    """Return the gradients of the recurrent layer, flowing back k2 steps from the end."""
    (window,) = fastrnn.TruncatedBPTT(model, k1=len(x), k2=k2).windows(x)
    d_output = np.zeros_like(window.output)
    _, d_output[-1] = fastrnn.mean_squared_error(window.output[-1], target)
    gradients = window.backward(d_output).parameters
    return {name: array for name, array in gradients.items() if name.startswith("0.")}


@dataclass(frozen=True)
class Truncation:
    """What is lost at k2 = 1 ... T."""

    label: str
    style: tuple[str, str]  # colour and line
    bias: np.ndarray  # norm of the difference to the full gradient, over that of the full one
    cosines: np.ndarray
    equal: bool  # whether k2 = T gave the bits of the full gradient
    beyond: float  # the bias with a larger k2, which cuts the sequence elsewhere: rounding


def truncate(
    label: str, style: tuple[str, str], model: fastrnn.Sequential, seed: int
) -> Truncation:
    """Compare truncated gradients with the full one, on the same sequences."""
    x, target = adding.draw(T, 200, np.random.default_rng([seed, 1]))
    tape = model.record(x)
    d_output = np.zeros_like(tape.output)
    _, d_output[-1] = fastrnn.mean_squared_error(tape.output[-1], target)
    every = tape.backward(d_output).parameters
    full = {name: array for name, array in every.items() if name.startswith("0.")}
    found = [flat(truncated(model, x, target, k2)) for k2 in range(1, T + 1)]
    size = np.linalg.norm(flat(full))
    bias = np.array([np.linalg.norm(part - flat(full)) / size for part in found])
    cosines = np.array([cosine(part, flat(full)) for part in found])
    whole = truncated(model, x, target, T)
    equal = all(np.array_equal(array, full[name]) for name, array in whole.items())
    beyond = np.linalg.norm(flat(truncated(model, x, target, T + 7)) - flat(full)) / size
    return Truncation(label, style, bias, cosines, equal, float(beyond))


@dataclass(frozen=True)
class Found:
    """Everything that is drawn and judged."""

    starts: Mapping[str, gradflow.GradientFlow]  # by name, before training
    memories: Mapping[str, gradflow.GradientFlow]  # the same of gated networks, on longer sequences
    losses: Mapping[str, Sequence[float]]
    errors: Mapping[str, float]
    clippings: Mapping[str, Clipping]
    truncations: Sequence[Truncation]


def measure(quick: bool, seed: int) -> Found:
    """Take all numbers."""
    looking, testing = (np.random.default_rng([seed, n]) for n in (2, 3))
    some, longer = (adding.draw(n * T, adding.LOOKED_AT, looking) for n in (1, 4))
    test = adding.draw(T, 2000, testing)
    losses, errors = {}, {}
    for network in STARTS if quick else (*STARTS, TANH):
        model = start(network, seed)
        label = f"initialisation: {network.name}"
        losses[network.name] = adding.train(
            model, T, 300 if quick else 3000, network.lr, np.random.default_rng(seed), label
        )
        errors[network.name] = adding.error(model, *test)
    gru = adding.GRU.build(seed)
    truncations = [
        truncate("RNN, untrained", ("#d1495b", ":"), adding.RNN.build(seed), seed),
        truncate("GRU, untrained", ("#2a9d8f", ":"), gru, seed),
    ]
    label = "truncation: GRU"
    adding.train(
        gru, T, 600 if quick else 1000, adding.GRU.lr, np.random.default_rng([seed, 4]), label
    )
    truncations.append(truncate("GRU, trained", ("#2a9d8f", "-"), gru, seed))
    return Found(
        {network.name: adding.flow(start(network, seed), *some) for network in (*STARTS, TANH)},
        {
            network.name: adding.flow(network.build(seed), *longer)
            for network in (adding.GRU, *adding.LSTMS)
        },
        losses,
        errors,
        {name: descend(name, 200 if quick else 1000, seed) for name in CLIPPED},
        truncations,
    )


def draw(found: Found) -> Figure:
    """Draw six panels."""
    from matplotlib.figure import Figure

    colours = {
        network.name: network.colour for network in (*STARTS, TANH, adding.GRU, *adding.LSTMS)
    }
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    (starts, learning, memories), (losses, turned, lost) = figure.subplots(2, 3)

    for axes, flows in ((starts, found.starts), (memories, found.memories)):
        for name, flowing in flows.items():
            norms = adding.norms(flowing)
            axes.semilogy(np.arange(len(norms))[::-1], norms, color=colours[name], label=name)
        axes.set_xlabel("steps before the end")
        axes.set_ylabel("‖∂E/∂state‖ before training")
    starts.set_title("RNN (relu if not tanh): where W_hh starts")
    memories.set_title("Gates: where the forget gate's bias starts")
    memories.set_ylim(bottom=1e-30)
    for name, curve in found.losses.items():
        smoothed = adding.smooth(curve)
        learning.plot(
            np.arange(adding.SMOOTH, adding.SMOOTH + len(smoothed)),
            smoothed,
            color=colours[name],
            label=name,
        )
    learning.axhline(GUESSING, color="#6b7280", linewidth=1, linestyle=(0, (5, 4)))
    learning.set_title(f"The same, T = {T} (dashed: always saying 1)")
    learning.set_xlabel("updates by Adam")
    learning.set_ylabel("mean squared error")
    learning.set_ylim(0, 0.4)

    for name, run in found.clippings.items():
        at = np.arange(1, len(run.losses) + 1)
        marker = "o" if len(at) < 20 else ""  # it explodes within a few updates
        losses.loglog(at, run.losses, color=CLIPPED[name], marker=marker, label=name)
        if name != "no clipping":
            turned.plot(at, run.cosines, ".", color=CLIPPED[name], markersize=3, label=name)
    losses.axhline(GUESSING, color="#6b7280", linewidth=1, linestyle=(0, (5, 4)))
    losses.set_title("Weights too large, clipped gradient descent")
    losses.set_xlabel("updates")
    losses.set_ylabel("mean squared error")
    turned.set_title("How clipping turns the gradient")
    turned.set_xlabel("updates")
    turned.set_ylabel("cosine of clipped and whole gradient")
    turned.set_ylim(0, 1.05)

    for part in found.truncations:
        colour, line = part.style
        lost.plot(np.arange(1, T + 1), part.bias, line, color=colour, label=part.label)
    lost.set_title(f"What truncation loses, T = {T}")
    lost.set_xlabel("k2, steps that gradients flow back")
    lost.set_ylabel("‖truncated − full‖ / ‖full‖")
    lost.set_ylim(bottom=0)
    for axes in figure.axes:
        axes.title.set_fontsize(11)
        axes.grid(color="#e5e7eb", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure


def judge(found: Found, quick: bool) -> dict[str, bool]:
    """Say whether initialisation, clipping and truncation did what they should."""
    flows = found.starts | found.memories
    reach = {name: adding.reach(flowing) for name, flowing in flows.items()}
    uniform, orthogonal, large = (network.name for network in STARTS)
    closed, one, three = (network.name for network in adding.LSTMS)
    initialised = (
        1e3 * reach[uniform] < reach[orthogonal] < reach[TANH.name] < 1 < reach[large]
        and reach[closed] < reach[one] < reach[three]
        and (quick or found.errors[orthogonal] < adding.LEARNED)
    )
    none, value, norm = (found.clippings[name] for name in CLIPPED)
    clipped = (
        len(none.losses) < len(norm.losses) == len(value.losses)
        and value.largest <= np.float32(CLIP_VALUE)
        and max(norm.left) <= CLIP_NORM * (1 + 1e-5)
        and min(norm.cosines) > 1 - 1e-6
        and min(value.cosines) < 0.9
        and all(
            np.median(run.losses[-50:]) < max(1e-3 * run.losses[0], 10 * GUESSING)
            for run in (value, norm)
        )
    )
    exact = all(part.equal and part.beyond < 1e-5 for part in found.truncations)
    # Trained, it needs what lies far back; the untrained ones have forgotten it.
    *untrained, trained = (part.bias[T // 2] for part in found.truncations)
    truncated = exact and max(untrained) < 0.01 and trained > 0.1
    return {"initialisation": initialised, "clipping": clipped, "truncation": truncated}


def words(flowing: gradflow.GradientFlow) -> str:
    """Word how far the gradient of an untrained network reaches."""
    return f"first state's / last one's: {adding.reach(flowing):.0e}, {flowing.verdict.kind}"


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Measure, judge, and draw."""
    found = measure(quick, seed)
    table = [("what", "how", "result", "gradient")]
    for name, value in found.errors.items():
        ratio = words(found.starts[name])
        table.append((f"initialisation, T = {T}", name, f"mean squared error {value:.4f}", ratio))
    for name, flowing in found.memories.items():
        ratio = words(flowing)
        table.append((f"untrained, T = {4 * T}", name, "", ratio))
    for name, run in found.clippings.items():
        last = f"mean squared error {np.mean(run.losses[-50:]):.4g}, {len(run.losses)} updates"
        sizes = f"norm up to {max(run.norms):.2g}, after {max(run.left):.2g}"
        table.append(("clipping", name, last, f"{sizes}; cosine from {min(run.cosines):.3f}"))
    for part in found.truncations:
        for k2 in (1, 10, 25, 40, T):
            size = f"bias {part.bias[k2 - 1]:.2g}, cosine {part.cosines[k2 - 1]:.3f}"
            table.append((f"truncation, k2 = {k2} of {T}", part.label, "", size))
    verdicts = judge(found, quick)
    lines = (f"{name} {'as' if good else 'NOT as'} foretold" for name, good in verdicts.items())
    return harness.Outcome(", ".join(lines), all(verdicts.values()), table, draw(found))


if __name__ == "__main__":
    harness.main(example, __doc__)
