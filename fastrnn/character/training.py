"""Training by truncated back-propagation through time, and what a later run needs to go on."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import dispatch, validation
from ..cells import CELLS
from ..losses import softmax_cross_entropy
from ..optim import Adam, clip_by_global_norm
from ..truncation import Context, Snapshot, TruncatedBPTT
from ..validation import Array
from .model import Options, build
from .text import Corpus, streams

BITS = 1 / math.log(2)  # a nat in bits
EVALUATE_EVERY = 200  # steps
EVALUATE_AT_MOST = 65_536  # held-out characters: a large text must not mean a long wait


@dataclass(frozen=True, slots=True)
class Progress:
    """What one training step did.

    Attributes
    ----------
    step, epoch
        How many were done, this step included.
    loss
        Bits per character of the step's window, before the update.
    norm
        Global norm of the gradient before clipping.
    characters
        How many the step learned from.
    held_out
        Bits per character on the held-out text, if this step measured it.
    """

    step: int
    epoch: int
    loss: float
    norm: float
    characters: int
    held_out: float | None


class Trainer:
    """A training run that can be stopped after any step and continued to the bit.

    Parameters
    ----------
    corpus
        The text.
    options
        The network and how it is trained.
    backend
        What computes; the fastest that is there if not given.

    Attributes
    ----------
    backend
        What computes.
    model
        The network.
    epoch
        How many times the text was read to its end. The state starts from zero in each epoch.
    losses
        `Progress.loss` of every step.
    held_out
        (step, bits per character) of every `EVALUATE_EVERY` steps.
    """

    def __init__(self, corpus: Corpus, options: Options, backend: str | None = None) -> None:
        self.corpus = corpus
        self.options = options
        self.backend = dispatch.choose(backend, options.cell)
        self.model = build(options, corpus.vocabulary, self.backend)
        self.epoch = 0
        self.losses: list[float] = []
        self.held_out: list[tuple[int, float]] = []
        self._optimizer = Adam(self.model.parameters, options.lr)
        self._bptt = TruncatedBPTT(self.model, options.window, options.k2)
        self._inputs, self._targets = streams(corpus.train, options.batch)

    @property
    def steps_per_epoch(self) -> int:
        """Windows in an epoch; the last one may be short."""
        return -(-len(self._inputs) // self.options.window)

    def run(self, epochs: int | None = None) -> Iterator[Progress]:
        """Train, a step each time the iterator is advanced, until so many epochs are done."""
        while epochs is None or self.epoch < epochs:
            yield self.step()

    def step(self) -> Progress:
        """Train on the next window.

        Raises
        ------
        FloatingPointError
            If the loss or its gradient is not finite; the parameters have not changed then.
        """
        start = self._bptt.position
        part = slice(start, start + self.options.window)
        # A run that diverges says so below, once, instead of in a warning from every operation.
        with np.errstate(over="ignore", invalid="ignore"):
            window = self._bptt.record(self._inputs[part])
            nats, d_output = softmax_cross_entropy(window.output, self._targets[part])
            gradients = window.backward(d_output).parameters
            norm = clip_by_global_norm(gradients, self.options.clip)
            if not math.isfinite(nats + norm):
                raise FloatingPointError(
                    f"step {len(self.losses) + 1}: expected a finite loss and gradient, got "
                    f"{nats} and {norm} (a smaller lr may help)"
                )
            self._optimizer.step(gradients)
        self.losses.append(nats * BITS)
        step = len(self.losses)
        if part.stop >= len(self._inputs):
            self.epoch += 1
            self._bptt.state = None
        measured = None
        if step % EVALUATE_EVERY == 0:
            measured = self.evaluate()
            self.held_out.append((step, measured))
        return Progress(step, self.epoch, self.losses[-1], norm, d_output[..., 0].size, measured)

    def evaluate(self) -> float:
        """Measure bits per character on the held-out text, on at most 65,536 characters of it.

        It is read in streams like the training text, as many as are at least a window long, each
        from a state of zero; of a long text the beginning of each stream.
        """
        indices, window = self.corpus.held_out, self.options.window
        batch = min(self.options.batch, (len(indices) - 1) // window)
        longest = max(EVALUATE_AT_MOST // batch, window)
        inputs, targets = (part[:longest] for part in streams(indices, batch))
        state: Any = None
        nats = 0.0
        for start in range(0, len(inputs), window):
            part = slice(start, start + window)
            output, state = self.model(inputs[part], state)
            nats += softmax_cross_entropy(output, targets[part], reduction="sum")[0]
        return nats / targets.size * BITS

    def warm_up(self) -> None:
        """Compile or load the kernels that training needs, on a copy that is thrown away."""
        twin = self.replica()
        twin.step()
        twin.model(twin.corpus.held_out[:1, None])

    def replica(self, backend: str | None = None) -> Trainer:
        """Return an independent trainer that is as far as this one, on another backend if named."""
        twin = Trainer(self.corpus, self.options, backend or self.backend)
        twin.restore(self.snapshot())
        return twin

    def snapshot(self) -> dict[str, Array]:
        """Return everything that `restore` needs to go on to the bit, as named arrays.

        ``model.*`` are the parameters, ``adam.*`` is the optimizer, ``carry.*`` and ``context.*``
        what truncated BPTT takes to the next window, ``curve.*`` the losses, ``at.*`` the place.
        """
        names = CELLS[self.options.cell].states
        carried = self._bptt.snapshot()
        groups: dict[str, Mapping[str, Any]] = {
            "model": self.model.parameters,
            "adam": self._optimizer.state,
            "carry": _named_states(names, carried.state),
            "context": {},
            "curve": {"losses": self.losses, "held_out": np.reshape(self.held_out, (-1, 2))},
            "at": {"epoch": self.epoch, "position": carried.position},
        }
        if carried.context is not None:
            states = _named_states(names, carried.context.state)
            groups["context"] = {"x": carried.context.x, **states}
        return {
            f"{group}.{name}": np.array(array)
            for group, arrays in groups.items()
            for name, array in arrays.items()
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Take over what a trainer with the same corpus and options gave.

        Raises
        ------
        ValueError, TypeError
            If it does not fit; then this trainer is of no use any more.
        """
        groups: dict[str, dict[str, Array]] = {
            group: {} for group in ("model", "adam", "carry", "context", "curve", "at")
        }
        for name, array in arrays.items():
            group, _, rest = name.partition(".")
            if group not in groups:
                raise ValueError(f"{name}: expected one of {', '.join(groups)} before the dot")
            groups[group][rest] = array
        T, window = len(self._inputs), self.options.window
        epoch, position = (_whole(groups["at"], name) for name in ("epoch", "position"))
        if position % window or position >= T:
            raise ValueError(
                f"at.position: expected a multiple of {window} below {T}, got {position}"
            )
        steps = epoch * self.steps_per_epoch + position // window
        losses = validation.floating("curve.losses", groups["curve"].get("losses"), np.dtype("f8"))
        held_out = validation.floating(
            "curve.held_out", groups["curve"].get("held_out"), np.dtype("f8")
        )
        validation.shape("curve.losses", losses, ("steps", steps))
        validation.shape("curve.held_out", held_out, steps // EVALUATE_EVERY, 2)
        state, context = None, None
        if position:
            state = self._states("carry", groups["carry"])
        if length := min(position, max(self._bptt.k2 - window, 0)):
            context = self._context(groups["context"], length, whole=length == position)
        self.model.load_parameters(groups["model"])
        self._optimizer.load_state(groups["adam"])
        self._bptt.restore(Snapshot(state, position, context))
        self.epoch = epoch
        self.losses = losses.tolist()
        self.held_out = [(int(step), bits) for step, bits in held_out.tolist()]

    def _context(self, arrays: dict[str, Array], length: int, *, whole: bool) -> Context:
        """Put the context together; a whole one goes back to the start, where there is no state."""
        x = validation.indices("context.x", arrays.pop("x", None), len(self.corpus.vocabulary))
        validation.shape("context.x", x, ("T", length), ("B", self.options.batch))
        state = None if whole else self._states("context", arrays)
        return Context(x.astype(self._inputs.dtype), None, None, state)

    def _states(self, group: str, arrays: Mapping[str, Array]) -> Any:
        """Put the arrays of a state together as the network takes them."""
        names = CELLS[self.options.cell].states
        shape = (self.options.layers, self.options.batch, self.options.hidden)
        expected = {name: np.broadcast_to(np.float32(0), shape) for name in names}
        checked = validation.mapping(group, arrays, expected)
        return (tuple(checked.values()) if len(names) > 1 else checked[names[0]],)


def _named_states(names: tuple[str, ...], state: Any) -> dict[str, Array]:
    """Take the state of the one recurrent layer apart; the reverse of `Trainer._states`."""
    if state is None:
        return {}
    arrays = state[0] if len(names) > 1 else (state[0],)
    return dict(zip(names, arrays, strict=True))


def _whole(arrays: Mapping[str, Array], name: str) -> int:
    return validation.non_negative(f"at.{name}", np.asarray(arrays.get(name))[()])


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds that one training step took on the trainer's backend and on the NumPy reference."""

    step: float
    reference: float


def measure(trainer: Trainer, *, repeats: int = 9, seconds: float = 5.0) -> Speed:
    """Time training steps on the trainer's backend and on the reference, in turn; medians.

    Both start from where the trainer is and read the same text; the trainer itself is not touched.

    Parameters
    ----------
    trainer
        Whose step to time.
    repeats
        How many steps to time, at least 1.
    seconds
        After so many no further step is begun.

    Raises
    ------
    ArithmeticError
        If the two do not compute the same loss and gradient: a speed would mean nothing then.
    """
    twins = trainer.replica(), trainer.replica("numpy")
    # The first step is to warm up, and to compare before differences of rounding add up.
    first, reference = (twin.step() for twin in twins)
    for name in ("loss", "norm"):
        ours, theirs = getattr(first, name), getattr(reference, name)
        if not math.isclose(ours, theirs, rel_tol=1e-3):
            raise ArithmeticError(f"{name}: expected the reference's {theirs}, got {ours}")
    times: tuple[list[float], list[float]] = ([], [])
    begin = time.perf_counter()
    while len(times[0]) < repeats and (not times[0] or time.perf_counter() - begin < seconds):
        for twin, taken in zip(twins, times, strict=True):
            start = time.perf_counter()
            twin.step()
            taken.append(time.perf_counter() - start)
    return Speed(*map(statistics.median, times))
