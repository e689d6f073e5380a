"""Bad input: one clear error that names the argument, and nothing changed.

The cases stand in bad_input.txt.
"""

import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import functional, gradflow, workspace

T, B, I, H, P = 5, 3, 2, 4, 2


class Foreign:
    """An array of another library that does not let itself be read, as one on a GPU."""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise RuntimeError("copy it to host memory first")


class World:
    """What the cases are made from."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)

        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        self.x = draw(T, B, I)
        self.h, self.c = draw(B, H), draw(B, H)
        self.hs, self.cs = draw(2, B, H), draw(2, B, H)
        self.reset = rng.random((T, B)) < 0.5
        self.lengths = np.array([T, 0, 2])
        self.ih, self.hh, self.hr = draw(4 * H, I), draw(4 * H, H), draw(P, H)
        self.b_ih, self.b_hh = draw(4 * H), draw(4 * H)
        self.dy = draw(T, B, H)
        self.indices = rng.permutation(np.arange(T * B) % 7).reshape(T, B)
        self.layer = fastrnn.LSTM(I, H, 2, seed=1)
        self.gru = fastrnn.GRU(I, H, 2, seed=1)
        self.cell = fastrnn.LSTMCell(I, H, seed=1)
        self.linear = fastrnn.Linear(I, H, seed=1)
        self.perceptron = fastrnn.Perceptron(I, H, seed=1)
        self.embedding = fastrnn.Embedding(7, I, seed=1)
        self.model = fastrnn.Sequential(self.embedding, fastrnn.LSTM(I, H, seed=2))
        # A vector of h and c is the state of the decoder.
        self.captions = fastrnn.OneToMany(fastrnn.Linear(I, 2 * H, seed=1), self.model)

    def names(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in dir(self) if not name.startswith("_")}
        more = {
            "np": np,
            "math": math,
            "functional": functional,
            "gradflow": gradflow,
            "Foreign": Foreign,
        }
        sizes = {"T": T, "B": B, "I": I, "H": H, "P": P, "f8": np.float64, "i8": np.int64}
        public = {name: getattr(fastrnn, name) for name in fastrnn.__all__}
        return public | more | sizes | own

    def bytes(self) -> list[bytes]:
        layers = (self.layer, self.gru, self.cell, self.linear, self.perceptron, self.captions)
        arrays = [value for value in vars(self).values() if isinstance(value, np.ndarray)]
        arrays += [array for layer in layers for array in layer.parameters.values()]
        return [array.tobytes() for array in arrays]

    def lstm(self, **changed: Any) -> Any:
        """functional.lstm with some arguments changed."""
        given = {"x": self.x, "h0": self.h, "c0": self.c, "weight_ih": self.ih}
        given |= {"weight_hh": self.hh, "bias_ih": self.b_ih, "bias_hh": self.b_hh}
        return functional.lstm(**(given | changed))

    def tape(self) -> fastrnn.Tape:
        return self.lstm(record=True)

    def used(self, tape: fastrnn.Tape) -> fastrnn.Tape:
        """A tape after its only run."""
        tape.backward()
        return tape

    def bptt(self, **options: Any) -> fastrnn.TruncatedBPTT:
        model = fastrnn.LSTM(I, H, seed=1)
        return fastrnn.TruncatedBPTT(model, **{"k1": 2, "k2": 4, **options})

    def started(self, **sequence: Any) -> fastrnn.TruncatedBPTT:
        """A run that has a window behind it."""
        run = self.bptt()
        run.record(self.x[:2], **sequence)
        return run


def read_table() -> list[tuple[str, str]]:
    text = (Path(__file__).parent / "bad_input.txt").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    pairs = list(zip(lines[::2], lines[1::2], strict=True))
    assert all(b.startswith("    ") and not a.startswith(" ") for a, b in pairs)
    return [(expression, error.strip()) for expression, error in pairs]


def test_what_the_cases_start_from_is_good() -> None:
    world = World()
    world.lstm(lengths=world.lengths, reset=world.reset, reset_state=(world.h, world.c))
    world.layer(world.x, (world.hs, world.cs))
    world.gru(world.x, world.hs)
    world.cell(world.x[0], (world.h, world.c))
    world.tape().backward(world.dy, (world.h, world.c))
    world.model.record(world.indices).backward(world.dy)
    world.started().record(world.x[2:4]).backward(world.dy[2:4])
    world.linear.record(world.x).backward(world.dy)
    world.captions.record(world.x[0], world.indices, lengths=world.lengths).backward(world.dy)
    assert world.perceptron.learn(world.x[0], world.lengths % H)


@pytest.mark.parametrize(("expression", "error"), read_table())
def test_bad_input(expression: str, error: str) -> None:
    world = World()
    names = world.names()
    before = world.bytes()
    with pytest.raises((ValueError, TypeError)) as raised:
        eval(expression, names)  # noqa: S307 - the expressions are those of the table
    found = f"{raised.type.__name__}: {raised.value}"
    if error.endswith("..."):
        assert found.startswith(error.removesuffix("..."))
    else:
        assert found == error
    assert world.bytes() == before


# One too large to address, each time in another place; and what would be filled before it.
@pytest.mark.parametrize(
    "make",
    [
        lambda: fastrnn.LSTM(2**31, 2**31),
        lambda: fastrnn.LSTM(1, 2**31),
        lambda: fastrnn.GRU(2, 2**30, num_layers=2, dtype="float64"),
        lambda: fastrnn.RNNCell(2**62, 1),
        lambda: fastrnn.Linear(2**40, 2**40),
        lambda: fastrnn.Embedding(2**61, 1),
        lambda: fastrnn.Conv2d(2, 3, 2**31),
        lambda: fastrnn.Perceptron(2**40, 2**40),
        lambda: fastrnn.MLP(2, (3, 2**62), 2),
        lambda: workspace.empty((2**31, 2**31, 2), np.dtype(np.float64)),
    ],
)
def test_sizes_whose_product_overflows(make: Callable[[], Any]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MemoryError, match=r"^an array of shape .* is too large to address$"):
            make()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_arrays_too_large_to_allocate() -> None:
    """Addressable in principle, and without memory where they come from: strides of zero."""
    x = np.broadcast_to(np.float32(0), (2**40, 2**15, I))
    with pytest.raises(MemoryError):
        fastrnn.LSTM(I, H)(x)
    with pytest.raises(MemoryError):
        fastrnn.Linear(2**30, 2**30)
