"""What the configuration of a Keras model says about its recurrent layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..validation import Array
from . import table
from .layer import naming

# Classes of layers and of cells. Others are no layers of this library, and are left alone.
CELLS = {
    "LSTM": "lstm",
    "GRU": "gru",
    "SimpleRNN": "rnn",
    "CuDNNLSTM": "lstm",
    "CuDNNGRU": "gru",
    "LSTMCell": "lstm",
    "GRUCell": "gru",
    "SimpleRNNCell": "rnn",
}


@dataclass(frozen=True, slots=True)
class Version:
    """A version of Keras, by what it changed."""

    major: int
    minor: int
    words: str

    @classmethod
    def of(cls, text: str) -> Version:
        """Read a version."""
        match = re.match(r"(\d{1,4})\.(\d{1,4})", text, re.ASCII)
        if match is None:
            raise ValueError(f"keras_version: expected numbers, got {text[:80]!r}")
        return cls(int(match[1]), int(match[2]), f"Keras {text[:80]}")

    def assumed(self, cell: str) -> dict[str, Any]:
        """Return what this version's layers are if they are not told."""
        if cell == "rnn":
            return {"nonlinearity": "tanh"}
        old = (self.major, self.minor) < (2, 3)
        found: dict[str, Any] = {table.GATED: "hard_sigmoid" if old else "sigmoid"}
        return found | ({"reset_after": not old} if cell == "gru" else {})

    @property
    def slope(self) -> float:
        """The slope of what this version calls hard_sigmoid."""
        return 0.2 if self.major < 3 else 1 / 6


@dataclass(frozen=True, slots=True)
class Spec:
    """A recurrent layer of a configuration.

    Attributes
    ----------
    path
        Names of the layer and of what it is in, from the outside in.
    location
        Where Keras 3 puts its weights in a file.
    cells
        Configurations of the cells, as many as lie on top of each other, with their classes under
        ``class_name``.
    layer
        The layer's own configuration.
    bidirectional
        Whether it runs in both directions.
    notes
        What else one should know.
    """

    path: tuple[str, ...]
    location: str
    cells: tuple[Mapping[str, Any], ...]
    layer: Mapping[str, Any]
    bidirectional: bool
    notes: tuple[str, ...] = ()

    @property
    def cell(self) -> str:
        """Name of the cell."""
        return CELLS[self.cells[0]["class_name"]]

    def said(self, weights: Sequence[Array]) -> dict[str, Any]:
        """Return the options of the cell and ``batch_first``.

        Parameters
        ----------
        weights
            The matrices and the bias that belong to it.

        Raises
        ------
        ValueError
            If it is configured otherwise than the weights are.
        """
        found = options(self.cells[0])
        units, bias = found.pop("units", None), found.pop("use_bias", None)
        if units is not None and units != weights[1].shape[0]:
            raise ValueError(
                f"units: expected {weights[1].shape[0]} as in the weights, got {units}"
            )
        if bias is not None and bias != (len(weights) > 2):
            raise ValueError(f"use_bias: expected {not bias} as in the weights, got {bias}")
        return found | {"batch_first": not self.layer.get("time_major", False)}


def specs(config: Any) -> list[Spec]:
    """Find the recurrent layers of a model's configuration.

    Raises
    ------
    ValueError
        If one of them does what the library does not.
    """
    return list(_layers(config, (), ""))


def _layers(config: Any, path: tuple[str, ...], location: str) -> Iterator[Spec]:
    """Go through the layers of a model."""
    inner = _inner(config)
    layers = inner if isinstance(inner, list) else inner.get("layers", [])  # a list in Keras 1, 2.0
    used: dict[str, int] = {}
    for layer in layers if isinstance(layers, list) else []:
        kind = str(_mapping(layer).get("class_name"))
        # As Keras 3 names what is in a list: by class, counted.
        name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
        name = re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
        used[name] = used.get(name, -1) + 1
        if used[name]:
            name = f"{name}_{used[name]}"
        with naming("/".join((*path, str(_name(layer))))):
            found = list(_layer(layer, path, f"{location}layers/{name}"))
        yield from found


def _layer(layer: Mapping[str, Any], path: tuple[str, ...], location: str) -> Iterator[Spec]:
    kind, inner = str(layer.get("class_name")), _inner(layer)
    path = (*path, _name(layer))
    if isinstance(inner, list) or "layers" in inner:
        yield from _layers(layer, path, f"{location}/")
        return
    if kind in CELLS and not kind.endswith("Cell"):
        yield Spec(path, location, ({**inner, "class_name": kind},), inner, False, _notes(inner))
    elif kind == "RNN":
        yield Spec(path, location, _cells(inner.get("cell")), inner, False, _notes(inner))
    elif kind == "Bidirectional":
        yield _both(inner, path, location)
    elif isinstance(inner.get("layer"), Mapping):  # a wrapper, such as TimeDistributed
        for spec in _layer(inner["layer"], path[:-1], f"{location}/layer"):
            yield Spec(
                (*path, *spec.path[len(path) - 1 :]),
                spec.location,
                spec.cells,
                spec.layer,
                spec.bidirectional,
                (*spec.notes, f"it is inside {kind}"),
            )


def _both(inner: Mapping[str, Any], path: tuple[str, ...], location: str) -> Spec:
    forward, backward = inner.get("layer"), inner.get("backward_layer")
    found = list(_layer(_mapping(forward), path, location))
    if len(found) != 1:
        kind = _mapping(forward).get("class_name")
        raise ValueError(f"expected Bidirectional of a recurrent layer, got {kind}")
    (spec,) = found
    if spec.layer.get("go_backwards"):
        raise ValueError("go_backwards: expected False inside Bidirectional")
    if backward is not None:
        others = list(_layer(_mapping(backward), path, location))
        if len(others) != 1 or list(map(options, others[0].cells)) != list(
            map(options, spec.cells)
        ):
            raise ValueError("backward_layer: expected the options of the other one")
    notes = list(spec.notes)
    if (merge := inner.get("merge_mode", "concat")) != "concat":
        notes.append(f"Keras merges the directions by {merge!r}; here they stand side by side")
    return Spec(path, location, spec.cells, spec.layer, True, tuple(notes))


def _cells(cell: Any) -> tuple[Mapping[str, Any], ...]:
    """Return the cells of an RNN, which may be a stack of them."""
    kind, inner = str(_mapping(cell).get("class_name")), _inner(cell)
    if kind == "StackedRNNCells":
        inside = _mapping(inner).get("cells")
        found = [c for part in inside or () for c in _cells(part)]
        if not found or len({str(options(c)) for c in found}) > 1:
            raise ValueError("cells: expected cells of one kind and size on top of each other")
        return tuple(found)
    if kind not in CELLS or not kind.endswith("Cell"):
        known = ", ".join(name for name in CELLS if name.endswith("Cell"))
        raise ValueError(f"cell: expected one of {known}, got {kind}")
    return ({**inner, "class_name": kind},)


def _notes(inner: Mapping[str, Any]) -> tuple[str, ...]:
    if inner.get("go_backwards"):
        return ("Keras returns its outputs in the order of processing, the last step's first",)
    return ()


def options(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a cell's configuration says: options of the library, units and use_bias.

    Raises
    ------
    ValueError
        If it asks for a function that the library does not have.
    """
    kind = CELLS[cell["class_name"]]
    found: dict[str, Any] = {}
    # Keras 1 had other names.
    units = cell.get("units", cell.get("output_dim"))
    if units is not None:
        found["units"] = units
    if "use_bias" in cell:
        found["use_bias"] = bool(cell["use_bias"])
    activation = cell.get("activation", "tanh")
    if kind == "rnn":
        found["nonlinearity"] = _one_of("activation", activation, ("tanh", "relu"))
        return found
    _one_of("activation", activation, ("tanh",))
    gates = cell.get("recurrent_activation", cell.get("inner_activation", "sigmoid"))
    found[table.GATED] = _one_of("recurrent_activation", gates, ("sigmoid", "hard_sigmoid"))
    if "reset_after" in cell:
        found["reset_after"] = bool(cell["reset_after"])
    return found


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: expected {' or '.join(allowed)}, got {str(value)[:200]!r}")
    return value


def _name(layer: Mapping[str, Any]) -> str:
    inner = _inner(layer)
    return str(
        layer.get("name") if isinstance(inner, list) else inner.get("name", layer.get("name"))
    )


def _inner(config: Any) -> Any:
    """Return the configuration inside one that has a class's name around it."""
    inner = _mapping(config).get("config", {})
    return inner if isinstance(inner, list) else _mapping(inner)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"config: expected a mapping, got {type(value).__name__}")
    return value
