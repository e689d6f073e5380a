"""What a reader finds and a writer takes: the layers of a file, in the form of the library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import layers, validation
from ..cells import CELLS
from ..validation import Array

_HH = re.compile(r"weight_hh_l(\d+)(_reverse)?\Z", re.ASCII)


@dataclass(frozen=True)
class Layer:
    """Recurrent layers that lie on top of each other, read from a file or about to be written.

    Attributes
    ----------
    cell
        ``"rnn"``, ``"gru"`` or ``"lstm"``.
    options
        All options of the cell.
    parameters
        Arrays under torch's names: ``weight_ih_l0`` (G*H, I), ``weight_hh_l0`` (G*H, H or P),
        ``bias_ih_l0``, ``bias_hh_l0`` (G*H,), ``weight_hr_l0`` (P, H), ``..._reverse``. One dtype,
        float32 or float64.
    batch_first
        Whether its sequences are (B, T, ·).
    reverse
        Whether a single layer of one direction runs from the last step to the first.
    state
        The initial state that the file holds, (layers * directions, B, H), LSTM: a tuple (h, c);
        None if it holds none.
    assumed
        What the file does not say, and what was assumed: option to value.
    notes
        What else one should know.

    Raises
    ------
    ValueError, TypeError
        If the parameters are not those of such layers; the message names the array.
    """

    cell: str
    options: Mapping[str, Any]
    parameters: Mapping[str, Array] = field(repr=False)
    batch_first: bool = False
    reverse: bool = False
    state: Any = field(default=None, repr=False)
    assumed: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that everything fits together."""
        row = validation.cell("cell", self.cell)
        ih, hh, hr = (
            self._matrix(name) for name in ("weight_ih_l0", "weight_hh_l0", "weight_hr_l0")
        )
        if ih is None or hh is None:
            raise ValueError(f"weight_{'hh' if hh is None else 'ih'}_l0: is missing")
        places = [match for name in self.parameters if (match := _HH.match(name))]
        G, rows = len(row.gates), len(hh)
        if rows % G:
            raise ValueError(f"weight_hh_l0: expected {G}*H rows, got {rows}")
        if hr is not None and not (row.projects and len(hr) < rows // G):
            raise ValueError(f"weight_hr_l0: expected an LSTM's (P < H, H), got shape {hr.shape}")
        shapes = row.stack_shapes(
            ih.shape[1],
            rows // G,
            len({int(match[1]) for match in places}),  # counted: the greatest may be any number
            bidirectional=any(match[2] for match in places),
            proj_size=0 if hr is None else len(hr),
            bias="bias_ih_l0" in self.parameters or "bias_hh_l0" in self.parameters,
        )
        for words, given, expected in (
            ("is missing", shapes, self.parameters),
            ("belongs to no layer", self.parameters, shapes),
        ):
            for name in given:
                if name not in expected:
                    raise ValueError(f"{name}: {words}")
        checked = {
            name: validation.shape(
                name, validation.floating(name, self.parameters[name], hh.dtype), *shape
            )
            for name, shape in shapes.items()
        }
        if self.reverse and len(places) > 1:
            raise ValueError("reverse: expected a single layer of one direction")
        object.__setattr__(self, "options", validation.options(row, self.options))
        object.__setattr__(self, "parameters", checked)

    def _matrix(self, name: str) -> Array | None:
        if name not in self.parameters:
            return None
        array = validation.floating(name, self.parameters[name])
        if array.ndim != 2 or not array.size:
            raise ValueError(f"{name}: expected a matrix, got shape {array.shape}")
        return array

    @classmethod
    def of(cls, layer: object) -> Layer:
        """Describe a layer of the library, whose parameters are not copied."""
        if isinstance(layer, Layer):
            return layer
        if not isinstance(layer, layers.Recurrent):
            raise TypeError(
                f"layers: expected Layer, RNN, GRU or LSTM, or a mapping of names to them, "
                f"got {type(layer).__name__}"
            )
        return cls(layer.cell.name, layer.options, layer.parameters, layer.batch_first)

    @property
    def input_size(self) -> int:
        """I."""
        return int(self.parameters["weight_ih_l0"].shape[1])

    @property
    def hidden_size(self) -> int:
        """H."""
        return len(self.parameters["weight_ih_l0"]) // len(CELLS[self.cell].gates)

    @property
    def num_layers(self) -> int:
        """How many layers lie on top of each other."""
        directions = 2 if self.bidirectional else 1
        return sum(name.startswith("weight_hh") for name in self.parameters) // directions

    @property
    def bidirectional(self) -> bool:
        """Whether there are parameters of a reverse direction."""
        return "weight_hh_l0_reverse" in self.parameters

    @property
    def bias(self) -> bool:
        """Whether there are biases."""
        return "bias_ih_l0" in self.parameters

    @property
    def proj_size(self) -> int:
        """P, or 0 without a projection."""
        return len(self.parameters.get("weight_hr_l0", ()))

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.parameters["weight_ih_l0"].dtype

    def build(self, backend: str | None = None) -> layers.Recurrent:
        """Make the `fastrnn.RNN`, `GRU` or `LSTM` that has these parameters.

        Parameters
        ----------
        backend
            As for the layers.

        Raises
        ------
        ValueError
            If `reverse` is true: the layers have no such option, `fastrnn.functional` has.
        """
        if self.reverse:
            raise ValueError(
                "reverse: expected a layer that runs forward or both ways, got one that runs "
                f"backward; fastrnn.functional.{self.cell}(..., reverse=True) takes its parameters"
            )
        layer = layers.LAYERS[self.cell](
            self.input_size,
            self.hidden_size,
            self.num_layers,
            bias=self.bias,
            batch_first=self.batch_first,
            bidirectional=self.bidirectional,
            proj_size=self.proj_size,
            dtype=self.dtype.name,
            seed=0,
            backend=backend,
            **self.options,
        )
        layer.load_parameters(self.parameters)
        return layer


@contextmanager
def naming(where: object) -> Iterator[None]:
    """Let errors say where: in which file, or at which layer of it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        words = str(error) if str(error).startswith(f"{where}: ") else f"{where}: {error}"
        kind = ValueError if isinstance(error, ValueError) else TypeError  # not a kind of theirs
        raise kind(words) from error


@contextmanager
def needing() -> Iterator[None]:
    """Say what to install where the library of a format is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        words = f"{error.name} is not installed: pip install 'fastrnn[weights]'"
        raise ModuleNotFoundError(words, name=error.name) from None


@contextmanager
def damage() -> Iterator[None]:
    """Make one kind of error of what a file that holds anything may lead to."""
    try:
        yield
    except (TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


class Options:
    """What the caller knows of a file that the file does not say.

    Parameters
    ----------
    given
        Options of cells, and ``batch_first``; None for nothing.

    Raises
    ------
    ValueError, TypeError
        If no cell has such an option or value.
    """

    def __init__(self, given: Mapping[str, object] | None) -> None:
        if not isinstance(given, Mapping | None):
            raise TypeError(f"options: expected a mapping, got {type(given).__name__}")
        self.given = dict(given or {})
        self.used: set[str] = set()
        allowed: dict[str, tuple[object, ...]] = {"batch_first": (False, True)}
        for row in CELLS.values():
            allowed |= row.options
        for name, value in self.given.items():
            validation.choice("options", name, allowed)
            validation.choice(f"options[{name!r}]", value, allowed[name])

    def settle(
        self, cell: str, said: Mapping[str, Any], assumed: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Put together what a file says, what the caller says, and what has to be assumed.

        Parameters
        ----------
        cell
            Name of the cell.
        said, assumed
            Option to value: what the file says, and what to assume where nobody does.

        Returns
        -------
        options, assumed
            All options and ``batch_first``; and those of them that are still assumed.

        Raises
        ------
        ValueError
            If the caller contradicts the file.
        """
        defaults = {name: values[0] for name, values in CELLS[cell].options.items()}
        options = defaults | dict(assumed) | dict(said)
        for name, value in self.given.items():
            if name not in options:
                continue
            self.used.add(name)
            if name not in assumed and options[name] != value:
                raise ValueError(
                    f"options[{name!r}]: expected {options[name]!r} as in the file, got {value!r}"
                )
            options[name] = value
        return options, {k: v for k, v in assumed.items() if k not in self.given}

    def check(self) -> None:
        """Refuse what applied to nothing, after all layers are settled."""
        for name in self.given:
            if name not in self.used:
                raise ValueError(f"options[{name!r}]: no layer of the file has such an option")
