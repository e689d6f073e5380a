"""Random problems for one recurrent layer, drawn from CELLS, and the two ways to solve them.

A solution is a dict from a name (output, h_n, cell_states, d_input, d_weight_hh, ...) to an array,
so that any two solutions are compared by one loop (see `compare`).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

import fastrnn
import oracle
from fastrnn import dispatch, reference
from fastrnn.cells import CELLS

Array = np.ndarray
Solution = dict[str, Array]

# Those that are there; test_package.py says why others are not.
BACKENDS = tuple(name for name, row in dispatch.BACKENDS.items() if row.missing() is None)
# The reference in float64 is what the others are judged by.
JUDGED = [
    (backend, dtype)
    for backend in BACKENDS
    for dtype in ("float32", "float64")
    if (backend, dtype) != ("numpy", "float64")
]
KINK = 2.5  # of a hard sigmoid, on either side of 0
CANDIDATES = ("h", "n", "g")  # gates by the name only: they have an activation of their own
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


class Variant(NamedTuple):
    """A cell with its options set, and whether its hidden state is projected."""

    cell: str
    options: dict[str, Any]
    projected: bool

    @property
    def hard(self) -> bool:
        """Whether its gates have kinks, and slopes of zero."""
        return self.options.get("gate_activation") == "hard_sigmoid"

    @property
    def plain(self) -> bool:
        """Whether it is what has code of its own where nothing is recorded."""
        return not (self.hard or self.projected or self.options.get("reset_after") is False)

    def __str__(self) -> str:
        words = [f"{name}={value}" for name, value in self.options.items()]
        return "-".join([self.cell, *words, *(["projected"] if self.projected else [])])


def _variants() -> list[Variant]:
    found = []
    for cell in CELLS.values():
        for values in itertools.product(*cell.options.values()):
            options = dict(zip(cell.options, values, strict=True))
            found += [
                Variant(cell.name, options, projected)
                for projected in ((False, True) if cell.projects else (False,))
            ]
    return found


VARIANTS = _variants()
FIRST = [next(v for v in VARIANTS if v.cell == name) for name in CELLS]  # one of each cell
LSTM = next(v for v in VARIANTS if v.cell == "lstm")


class Sizes(NamedTuple):
    T: int
    B: int
    I: int
    H: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


# Some 100 MFLOP: several threads have rows enough, which do not divide evenly.
LARGE = Sizes(T=33, B=33, I=64, H=64)


class Features(NamedTuple):
    """What a call may have besides x and weights."""

    bias: bool = True
    state: bool = True
    lengths: bool = False
    reset: bool = False
    reset_state: bool = False  # only with reset
    reverse: bool = False

    def __str__(self) -> str:
        return "+".join(name for name in self._fields if getattr(self, name)) or "plain"


# Every combination that a call may have.
FEATURES = [
    Features(bias, state, lengths, reset, reset_state, reverse)
    for bias, state, lengths, reset, reset_state, reverse in itertools.product(
        (True, False), repeat=6
    )
    if reset or not reset_state
]


EVERYTHING = Features(lengths=True, reset=True, reset_state=True)


@dataclass
class Problem:
    """One layer in one direction with all that a forward and a backward pass need."""

    variant: Variant
    x: Array  # (T, B, I)
    weights: dict[str, Array]
    state: tuple[Array, ...] | None
    lengths: Array | None
    reset: Array | None
    reset_state: tuple[Array, ...] | None
    reverse: bool
    d_output: Array  # (T, B, R)
    d_state: tuple[Array, ...]

    @property
    def states(self) -> tuple[str, ...]:
        return CELLS[self.variant.cell].states

    def map(self, change: Callable[[Array], Array]) -> "Problem":
        """The same problem with every array changed."""

        def all_of(arrays):
            return None if arrays is None else tuple(map(change, arrays))

        return replace(
            self,
            x=change(self.x),
            weights={name: change(w) for name, w in self.weights.items()},
            state=all_of(self.state),
            lengths=None if self.lengths is None else change(self.lengths),
            reset=None if self.reset is None else change(self.reset),
            reset_state=all_of(self.reset_state),
            d_output=change(self.d_output),
            d_state=all_of(self.d_state),
        )

    def astype(self, dtype: str) -> "Problem":
        """The same problem in another precision (integers and masks stay as they are)."""
        return self.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a)

    def rows(self, rows: slice) -> "Problem":
        """The same problem for some rows of the batch."""

        def some(state):
            return None if state is None else tuple(s[rows].copy() for s in state)

        return replace(
            self,
            x=self.x[:, rows].copy(),
            state=some(self.state),
            lengths=None if self.lengths is None else self.lengths[rows].copy(),
            reset=None if self.reset is None else self.reset[:, rows].copy(),
            reset_state=some(self.reset_state),
            d_output=self.d_output[:, rows].copy(),
            d_state=some(self.d_state),
        )

    def arrays(self) -> list[Array]:
        """All arrays that a call gets."""
        found: list[Array] = []
        self.map(lambda a: found.append(a) or a)
        return found

    def call(self, backend: str | None, *, record: bool) -> Any:
        """Call the function of `fastrnn.functional`."""
        w = {name: self.weights.get(name) for name in PARAMETERS}
        projection = {"weight_hr": w["weight_hr"]} if self.variant.projected else {}
        return getattr(fastrnn.functional, self.variant.cell)(
            self.x,
            *(self.state or (None,) * len(self.states)),
            *(w[name] for name in PARAMETERS[:4]),
            **projection,
            **self.variant.options,
            lengths=self.lengths,
            reset=self.reset,
            reset_state=None if self.reset_state is None else pack(self.reset_state),
            reverse=self.reverse,
            backend=backend,
            record=record,
        )

    def solve(self, backend: str | None) -> Solution:
        """Forward and backward by the library."""
        tape = self.call(backend, record=True)
        gradients = tape.backward(self.d_output, pack(self.d_state))
        solution = {"output": tape.output, "d_input": gradients.input}
        if tape.cell_states is not None:
            solution["cell_states"] = tape.cell_states
        solution |= self._named("{}_n", tape.state) | self._named("d_{}0", gradients.state)
        if self.reset_state is not None:
            solution |= self._named("d_reset_{}", gradients.reset_state)
        return solution | {f"d_{name}": g for name, g in gradients.parameters.items()}

    def infer(self, backend: str | None) -> Solution:
        """Forward alone, recording nothing."""
        output, state = self.call(backend, record=False)
        return {"output": output} | self._named("{}_n", state)

    def consult(self) -> Solution:
        """Forward and backward by the oracle."""
        forward = oracle.run(
            self.variant.cell,
            self.x.tolist(),
            {name: w.tolist() for name, w in self.weights.items()},
            tuple(s.tolist() for s in self.state or self.zero_state()),
            lengths=None if self.lengths is None else self.lengths.tolist(),
            reset=None if self.reset is None else self.reset.tolist(),
            reset_state=None
            if self.reset_state is None
            else tuple(s.tolist() for s in self.reset_state),
            reverse=self.reverse,
            **self.variant.options,
        )
        gradients = oracle.gradients(
            forward, self.d_output.tolist(), tuple(d.tolist() for d in self.d_state)
        )
        T, B, _ = self.x.shape
        solution = {
            "output": np.reshape(forward.output, (T, B, -1)),
            "d_input": np.reshape(gradients["input"], self.x.shape),
        }
        if forward.cells:
            solution["cell_states"] = np.reshape(forward.cells, (T, B, -1))
        for name, last, first, reset in zip(
            self.states, forward.state, gradients["state"], gradients["reset_state"], strict=True
        ):
            solution |= {f"{name}_n": np.array(last), f"d_{name}0": np.array(first)}
            if self.reset_state is not None:
                solution[f"d_reset_{name}"] = np.array(reset)
        return solution | {f"d_{name}": np.array(gradients[name]) for name in self.weights}

    def zero_state(self) -> tuple[Array, ...]:
        return tuple(map(np.zeros_like, self.d_state))

    def _named(self, pattern: str, state: Any) -> Solution:
        parts = state if isinstance(state, tuple) else (state,)
        return {pattern.format(s): part for s, part in zip(self.states, parts, strict=True)}


def pack(state: tuple[Array, ...]) -> Any:
    """A state as the interface takes it: a bare array if there is but one."""
    return state if len(state) > 1 else state[0]


def make_problem(
    variant: Variant,
    sizes: Sizes | tuple[int, int, int, int],
    features: Features = Features(),  # noqa: B008 - a NamedTuple is immutable
    dtype: str = "float64",
    seed: int = 0,
    margin: float = 1e-5,
) -> Problem:
    """Draw a problem. Its values are float32 numbers, so that both precisions solve the same one.

    Where lengths are given the padding of x and d_output is NaN: whoever reads it shows.
    No hard gate is within `margin` of a kink, where by its roundings one precision, or instruction
    set, would rightly have a slope of 0.2 and another one of 0.
    """
    for again in range(1000):
        problem = _draw(variant, sizes, features, seed + 100 * again)
        if not variant.hard:
            break
        if (np.abs(np.abs(pre_activations(problem)) - KINK) > margin).all():
            break
    else:
        raise AssertionError(f"no problem of {sizes} is clear of all kinks by {margin}")
    return problem.astype(dtype)


def pre_activations(problem: Problem) -> Array:
    """What the hard gates of a forward pass in float64 are made of, in one vector."""
    found = [np.empty(0)]
    gate = reference.GATES["hard_sigmoid"]

    def watched(a: Array) -> Array:
        found.append(a.reshape(-1))
        return gate.value(a)

    with mock.patch.dict(reference.GATES, hard_sigmoid=gate._replace(value=watched)):
        problem.astype("float64").infer("numpy")
    return np.concatenate(found)


def _draw(
    variant: Variant, sizes: Sizes | tuple[int, int, int, int], features: Features, seed: int
) -> Problem:
    T, B, I, H = sizes
    rng = np.random.default_rng([seed, T, B, I, H])
    cell = CELLS[variant.cell]
    P = max(H // 2, 1) if variant.projected else 0
    assert P < H or not P, "a projection needs H of at least 2"
    widths = (P or H, H)[: len(cell.states)]

    def uniform(bound: float, *shape: int) -> Array:
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    def state() -> tuple[Array, ...]:
        return tuple(uniform(1, B, width) for width in widths)

    problem = Problem(
        variant,
        x=uniform(2, T, B, I),
        weights={
            name: uniform(1.5 * shape[-1] ** -0.5 if len(shape) == 2 else 0.5, *shape)
            for name, shape in cell.parameter_shapes(I, H, P, bias=features.bias).items()
        },
        state=state() if features.state else None,
        lengths=_lengths(T, B, rng) if features.lengths else None,
        reset=_reset(T, B, rng) if features.reset else None,
        reset_state=state() if features.reset_state else None,
        reverse=features.reverse,
        d_output=uniform(1, T, B, widths[0]),
        d_state=state(),
    )
    if variant.hard:  # then many gates are to be at 0 and at 1
        factors = [1 if gate in CANDIDATES else 3 for gate in cell.gates]
        for name in problem.weights.keys() - {"weight_hr"}:
            w = problem.weights[name]
            w *= np.repeat(np.float32(factors), H).reshape(-1, *(1,) * (w.ndim - 1))
    if problem.lengths is not None:
        padding = np.arange(T)[:, None] >= problem.lengths
        problem.x[padding] = np.nan
        problem.d_output[padding] = np.nan
    return problem


def _lengths(T: int, B: int, rng: np.random.Generator) -> Array:
    """Lengths with the extremes among them as far as the batch is large enough."""
    lengths = rng.integers(1, T + 1, B) if T else np.zeros(B, np.int64)
    extremes = [T // 2, T, 0][: max(B - 1, 0)]
    lengths[: len(extremes)] = extremes
    return rng.permutation(lengths)


def _reset(T: int, B: int, rng: np.random.Generator) -> Array:
    """Resets at the first and the last step, in sequence and in padding, and not in every row."""
    mask = rng.random((T, B)) < 0.25
    if mask.size:
        mask[0, 0] = mask[-1, -1] = True
        mask[:, B // 2] &= B == 1
    return mask
