"""What the network is, and how it writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .. import initialisation, validation
from ..activations import softmax
from ..cells import CELLS
from ..feedforward import Embedding, Linear
from ..layers import LAYERS
from ..sequential import Sequential
from .text import Vocabulary

EMBEDDING_SIZE = 64  # values that a character is given as; more cost time and bring nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a training run depends on, besides its text and the backend.

    Attributes
    ----------
    cell, hidden, layers
        The recurrent layers.
    batch
        Streams of text that are read side by side.
    window
        Characters of each stream between two updates (k1).
    k2
        Characters that gradients flow back; `window` if not given.
    lr
        Learning rate of Adam.
    clip
        Largest norm of all gradients together.
    seed
        Seed of the initial parameters.
    init, forget_bias
        Where the recurrent layers start; as theirs.

    Raises
    ------
    ValueError, TypeError
        If an option is wrong; the message names it.
    """

    cell: str = "lstm"
    hidden: int = 128
    layers: int = 1
    batch: int = 32
    window: int = 64
    k2: int | None = None
    lr: float = 6e-3
    clip: float = 1.0
    seed: int = 0
    init: str = "uniform"
    forget_bias: float | None = None

    def __post_init__(self) -> None:
        checked: dict[str, object] = {"cell": validation.cell("cell", self.cell).name}
        for name in ("hidden", "layers", "batch", "window"):
            checked[name] = validation.positive(name, getattr(self, name))
        checked["k2"] = self.window if self.k2 is None else validation.positive("k2", self.k2)
        for name in ("lr", "clip"):
            checked[name] = validation.number(name, getattr(self, name), 0.0, open_low=True)
        checked["seed"] = validation.non_negative("seed", self.seed)
        checked["init"], checked["forget_bias"] = initialisation.options(
            CELLS[self.cell], self.init, self.forget_bias, bias=True
        )
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def build(options: Options, vocabulary: Vocabulary, backend: str | None = None) -> Sequential:
    """Make the network, (T, B) indices to (T, B, V) logits."""
    seeds = map(int, np.random.SeedSequence(options.seed).generate_state(3))
    embedding = min(EMBEDDING_SIZE, options.hidden)
    return Sequential(
        Embedding(len(vocabulary), embedding, seed=next(seeds)),
        LAYERS[options.cell](
            embedding,
            options.hidden,
            options.layers,
            init=options.init,
            forget_bias=options.forget_bias,
            seed=next(seeds),
            backend=backend,
        ),
        Linear(options.hidden, len(vocabulary), seed=next(seeds)),
    )


def sample(
    model: Sequential,
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    *,
    temperature: float = 0.8,
    seed: int = 0,
) -> Iterator[str]:
    """Continue a prompt, one character at a time, never with U+FFFD.

    Parameters
    ----------
    prompt
        At least one character; those that are not in the vocabulary are read as U+FFFD.
    length
        Characters to write.
    temperature
        Divides the logits: below 1 the likely becomes likelier, 0 always takes the likeliest.
    seed
        Seed of the draws.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it.
    """
    if not prompt:
        raise ValueError("prompt: expected at least one character, got an empty one")
    validation.non_negative("length", length)
    validation.number("temperature", temperature, 0.0)
    generator = validation.generator("seed", seed)
    return _continue(model, vocabulary, prompt, length, temperature, generator)


def _continue(
    model: Sequential,
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    temperature: float,
    generator: np.random.Generator,
) -> Iterator[str]:
    state = None
    x = vocabulary.encode(prompt)[:, None]
    for _ in range(length):
        output, state = model(x, state)
        logits = output[-1, 0, 1:].astype(np.float64)  # without U+FFFD
        index = int(logits.argmax())
        if temperature:
            # Below zero before the division, so that what overflows is a probability of 0.
            with np.errstate(over="ignore"):
                p = softmax((logits - logits[index]) / temperature)
            index = int(generator.choice(len(p), p=p))
        yield vocabulary.characters[1 + index]
        x = np.array([[1 + index]])
