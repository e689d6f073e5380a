"""Where files of Keras keep the weights of recurrent layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..validation import Array
from .hdf5 import File

Pieces = tuple[str, ...]  # paths of what has to be put side by side to make a matrix or a bias
Weights = tuple[Pieces, ...]  # the input's matrix, the state's, and the bias if there is one

_NAMES = ("kernel", "recurrent_kernel", "bias")
# Of Keras 1, which had a matrix for each gate: lstm_1_W_i, lstm_1_U_i, lstm_1_b_i, ...
_OLD = re.compile(r"(.*)_([WUb])(?:_([ifcozrh]))?")
_OLD_NAMES = {"W": "kernel", "U": "recurrent_kernel", "b": "bias"}
_OLD_GATES = "ifco", "zrh"  # in the order in which Keras 2 has them side by side


@dataclass(frozen=True, slots=True)
class Found:
    """Weights of a recurrent layer.

    Attributes
    ----------
    key
        What the layer is called, if no configuration says it.
    location
        Where it is: one path (Keras 3); or the group and what precedes the weights' names.
    sides
        For each direction the weights of its cells, which lie on top of each other.
    """

    key: str
    location: tuple[str, ...]
    sides: tuple[tuple[Weights, ...], ...]


def root(file: File) -> str:
    """Return the group that has the weights, in a file of Keras 1 or 2."""
    return "model_weights" if file.has_group("model_weights") else ""


def is_legacy(file: File) -> bool:
    """Whether a file is of the form of Keras 1 and 2."""
    return file.text(root(file), "layer_names") is not None


def scan(file: File) -> list[Found]:
    """Find what looks like recurrent layers; `ValueError` if the file is damaged."""
    return list(_scan_legacy(file) if is_legacy(file) else _scan_new(file))


def read(file: File, weights: Weights) -> list[Array]:
    """Read the arrays of a cell."""
    found = []
    for pieces in weights:
        parts = [file.array(path) for path in pieces]
        found.append(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1))
    return found


def cell(file: File, weights: Weights) -> str | None:
    """Return the cell that has weights of such shapes, if any."""
    shapes = []
    for pieces in weights[:2]:
        rows = {file.datasets[path].shape[:-1] for path in pieces if file.datasets[path].shape}
        columns = [file.datasets[path].shape[-1] for path in pieces if file.datasets[path].shape]
        if len(rows) != 1 or len(columns) < len(pieces) or len(row := rows.pop()) != 1:
            return None
        shapes.append((row[0], sum(columns)))
    (_, columns), (H, others) = shapes
    if columns != others or not H or others % H:
        return None
    return {1: "rnn", 3: "gru", 4: "lstm"}.get(others // H)


def _scan_new(file: File) -> Iterator[Found]:
    """Find what has a cell, or several, with variables."""
    cells: dict[str, list[str]] = {}  # path of the layer to those of its cells
    for path in file.datasets:
        match = re.fullmatch(r"(?:(.*)/)?cell(?:/cells/[^/]+)?/vars/1", path)
        if match:
            cells.setdefault(match[1] or "", []).append(path.removesuffix("1"))
    layers: dict[str, list[tuple[Weights, ...]]] = {}
    for owner in sorted(cells, key=_natural):
        stack = tuple(
            tuple((f"{path}{k}",) for k in range(3) if f"{path}{k}" in file.datasets)
            for path in sorted(cells[owner], key=_natural)
        )
        base, _, last = owner.rpartition("/")
        if last in ("forward_layer", "backward_layer"):
            sides = layers.setdefault(base, [(), ()])
            sides[last == "backward_layer"] = stack
        else:
            layers[owner] = [stack]
    for owner, sides in layers.items():
        yield Found(_names(file, owner), (owner,), tuple(sides))


def _names(file: File, owner: str) -> str:
    """Return the names on a path: a file has them beside the variables, if it is not too old."""
    names = []
    steps = owner.split("/")
    for k, step in enumerate(steps):
        if step not in ("layers", "layer"):
            text = file.text("/".join([*steps[: k + 1], "vars"]), "name")
            names.append(text[0] if text else step)
    return "/".join(names)


def _natural(text: str) -> list[Any]:
    """Sort lstm_10 after lstm_9."""
    return [int(part) if k % 2 else part for k, part in enumerate(re.split(r"([0-9]{1,9})", text))]


def _scan_legacy(file: File) -> Iterator[Found]:
    """Go through the groups of layers, in their order."""
    top = root(file)
    for name in file.text(top, "layer_names") or ():
        group = f"{top}/{name}" if top else name
        paths = {weight: f"{group}/{weight}" for weight in file.text(group, "weight_names") or ()}
        for path in paths.values():
            if path not in file.datasets:
                raise ValueError(f"{path}: expected numbers, as weight_names says, got none")
        yield from _in_group(name, paths)


def _in_group(name: str, paths: Mapping[str, str]) -> Iterator[Found]:
    """Find the cells of a group by the names of its weights."""
    cells: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for weight, path in paths.items():
        *prefix, last = weight.split("/")
        last, gate = last.partition(":")[0], ""
        if match := _OLD.fullmatch(last):
            prefix.append(match[1])
            last, gate = _OLD_NAMES[match[2]], match[3] or ""
        if last in _NAMES:
            cells.setdefault(tuple(prefix), {}).setdefault(last, {})[gate] = path
    layers: dict[tuple[str, ...], list[list[Weights]]] = {}
    for place, found in cells.items():
        if "recurrent_kernel" not in found or "kernel" not in found:
            continue
        weights = tuple(_in_order(found[key]) for key in _NAMES if key in found)
        side = [k for k, step in enumerate(place) if step.startswith(("forward_", "backward_"))]
        stack = [k for k, step in enumerate(place) if step.startswith("stacked_rnn_cells")]
        if side:
            sides = layers.setdefault(place[: side[0]], [[], []])
            sides[place[side[0]].startswith("backward_")].append(weights)
        elif stack:
            layers.setdefault(place[: stack[0]], [[]])[0].append(weights)
        else:
            layers[place] = [[weights]]
    for place, both in layers.items():
        key = name if len(layers) == 1 else "/".join((name, *place))
        yield Found(key, (name, *place), tuple(tuple(one) for one in both))


def _in_order(pieces: Mapping[str, str]) -> Pieces:
    """Put the gates of Keras 1 into the order of Keras 2; one without a gate is whole."""
    for gates in _OLD_GATES:
        if set(pieces) == set(gates):
            return tuple(pieces[gate] for gate in gates)
    if set(pieces) != {""}:
        raise ValueError(f"weight_names: expected all gates of a cell, got {', '.join(pieces)}")
    return (pieces[""],)
