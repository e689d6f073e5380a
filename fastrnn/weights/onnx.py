"""Recurrent layers out of ONNX models: the operators LSTM, GRU and RNN.

A node is a layer in one or two directions. Its weights may be initializers, constants, or what some
nodes that only move numbers make of them. Layers on top of each other are nodes of their own, and
stay so. Whatever an operator can do that the library cannot is refused by its name in ONNX
(https://onnx.ai/onnx/operators/onnx__LSTM.html, __GRU, __RNN).
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..cells import CELLS
from ..validation import Array
from . import table
from .layer import Layer, Options, naming
from .onnx_values import Scope, Values

DIRECTIONS = {"forward": ("",), "reverse": ("",), "bidirectional": ("", "_reverse")}
# Functions of a direction where none are named: those of the gates come first.
ACTIVATIONS = {"rnn": ("Tanh",), "gru": ("Sigmoid", "Tanh"), "lstm": ("Sigmoid", "Tanh", "Tanh")}
_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_ATTRIBUTES = {  # and the numbers of their types, AttributeProto.INT and so on
    "hidden_size": 2,
    "direction": 3,
    "layout": 2,
    "linear_before_reset": 2,
    "input_forget": 2,
    "output_sequence": 2,  # of the first versions, which says what is computed and not how
    "clip": 1,
    "activations": 8,
    "activation_alpha": 6,
    "activation_beta": 6,
}


def read(path: Path, options: Options) -> dict[str, Layer]:
    """Read the layers of a model.

    Parameters
    ----------
    path
        A model. External data is read from its own folder only.
    options
        What the caller knows.

    Returns
    -------
    layers
        Name of the node (its operator and a number if it has none) to layer.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError, TypeError
        If it is damaged, holds no layer, or one that does what the library does not.
    """
    values = Values(path)
    layers: dict[str, Layer] = {}
    nodes = ((node, scope) for graph, scope in _graphs(values) for node in graph.node)
    for node, scope in nodes:
        if not node.op_type.upper().endswith(("LSTM", "GRU", "RNN")):
            continue
        name = unique(node.name or f"{node.op_type}_{len(layers)}", layers)
        with naming(name):
            if node.domain not in ("", "ai.onnx") or node.op_type.lower() not in CELLS:
                raise ValueError(
                    f"operator: expected LSTM, GRU or RNN, got {node.domain or 'ai.onnx'}."
                    f"{node.op_type}"
                )
            layers[name] = _layer(node, scope, values, options)
    if not layers:
        raise ValueError("expected nodes LSTM, GRU or RNN, got none in the graph")
    return layers


def unique(name: str, taken: Container[str]) -> str:
    """Return a name that is not taken: graphs inside graphs may repeat what is outside."""
    number, result = 1, name
    while result in taken:
        number += 1
        result = f"{name} ({number})"
    return result


def arrays(path: Path) -> dict[str, Array]:
    """Read the initializers and constants of a model; what is raised, as for `read`."""
    values = Values(path)
    found: dict[str, Array] = {}
    for _, scope in _graphs(values):
        for name in scope.maps[0]:
            array = values.constant(name, scope, fold=False)
            if array is not None:
                found[unique(name, found)] = array
    return found


def _graphs(values: Values) -> Iterator[tuple[Any, Scope]]:
    """Go through the model's graph and those inside its nodes, each with the names it sees."""
    waiting: list[tuple[Any, Scope]] = [(values.model.graph, ChainMap())]
    while waiting:
        graph, outer = waiting.pop(0)
        scope = values.scope(graph, outer)
        yield graph, scope
        for node in graph.node:
            for attribute in node.attribute:
                inner = [attribute.g] if attribute.HasField("g") else attribute.graphs
                waiting += [(part, scope) for part in inner]


def _layer(node: Any, scope: Scope, values: Values, options: Options) -> Layer:
    cell = node.op_type.lower()
    given = _attributes(node)
    direction = given.get("direction", "forward")
    if direction not in DIRECTIONS:
        raise ValueError(f"direction: expected one of {', '.join(DIRECTIONS)}, got {direction!r}")
    suffixes = DIRECTIONS[direction]
    names = dict(zip(_INPUTS, node.input, strict=False))
    if names.get("P"):
        raise ValueError("P: expected none, got peepholes, which the library does not have")

    def constant(name: str, *shape: int | str) -> Array | None:
        """Return an input that the file holds, of a shape in which text is any size."""
        array = values.constant(names[name], scope) if names.get(name) else None
        if array is not None and not (
            array.ndim == len(shape)
            and all(isinstance(b, str) or a == b for a, b in zip(array.shape, shape, strict=True))
        ):
            raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
        return array

    def required(name: str, *shape: int | str) -> Array:
        array = constant(name, *shape)
        if array is None:
            raise ValueError(
                f"{name}: expected an initializer or a constant, got {names.get(name)!r}, which "
                "the graph computes"
            )
        return array

    D, G = len(suffixes), len(CELLS[cell].gates)
    R = required("R", D, f"{G}*H", "H")
    H = R.shape[2]
    if given.get("hidden_size", H) != H:
        raise ValueError(f"hidden_size: expected {H} as in R, got {given['hidden_size']}")
    W = required("W", D, G * H, "I")
    B = required("B", D, 2 * G * H) if names.get("B") else None
    said, slopes = _options(cell, given, D)
    values_, assumed = options.settle(cell, said, {})
    row = table.find("onnx", cell)
    parameters: dict[str, Array] = {}
    for d, suffix in enumerate(suffixes):
        part = table.read(row, W[d], R[d], None if B is None else B[d])
        if not math.isclose(slopes[d], 0.2, rel_tol=1e-6):
            part = table.scale_gates(cell, part, 5 * slopes[d])
        parameters |= {f"{key}_l0{suffix}": array for key, array in part.items()}

    notes = [*values.notes]
    if names.get("sequence_lens"):
        notes.append(f"lengths are the graph's {names['sequence_lens']!r}")
    batch_first = bool(values_.pop("batch_first"))
    axes = ("B", D, H) if batch_first else (D, "B", H)
    states = {}
    for state in CELLS[cell].states:
        name = f"initial_{state}"
        states[state] = constant(name, *axes)
        if names.get(name) and states[state] is None:
            notes.append(f"the initial state {state} is the graph's {names[name]!r}")
    return Layer(
        cell,
        values_,
        parameters,
        batch_first,
        direction == "reverse",
        _state(states, batch_first),
        assumed,
        tuple(notes),
    )


def _attributes(node: Any) -> dict[str, Any]:
    """Return a node's attributes, all of which are known and of their types."""
    from onnx.helper import get_attribute_value

    found: dict[str, Any] = {}
    for attribute in node.attribute:
        name = attribute.name
        if _ATTRIBUTES.get(name) != attribute.type:
            raise ValueError(f"{name}: expected {', '.join(_ATTRIBUTES)}, each of its type")
        value = get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif name == "activations":
            value = [text.decode("utf-8", "replace") for text in value]
        found[name] = value
    if "clip" in found:
        raise ValueError(f"clip: expected none, got {found['clip']:g}: the library does not clip")
    if found.get("input_forget"):
        raise ValueError("input_forget: expected 0, got gates of input and forgetting in one")
    return found


def _options(cell: str, given: Mapping[str, Any], D: int) -> tuple[dict[str, Any], list[float]]:
    """Return the cell's options, and the slope of the gates of each direction."""
    default = ACTIVATIONS[cell]
    names = given.get("activations") or list(default) * D
    if len(names) != D * len(default):
        raise ValueError(
            f"activations: expected {len(default)} for each of {D} directions, got {names}"
        )
    # Names may be in any case (as ONNX Runtime has it); only some functions take numbers, in turn.
    alphas, betas = (list(given.get(f"activation_{name}", ())) for name in ("alpha", "beta"))
    kinds, slopes = [], []
    for d in range(D):
        first, *others = (name.lower() for name in names[d * len(default) : (d + 1) * len(default)])
        slope = 0.2
        if first == "hardsigmoid" and cell != "rnn":
            slope = alphas.pop(0) if alphas else 0.2
            offset = betas.pop(0) if betas else 0.5
            if offset != 0.5 or not math.isfinite(slope) or not slope:
                raise ValueError(
                    "activation_beta: expected 0.5 and an alpha other than 0 for HardSigmoid, "
                    f"got {offset:g} and {slope:g}"
                )
        allowed = ("tanh", "relu") if cell == "rnn" else ("sigmoid", "hardsigmoid")
        if first not in allowed or any(name != "tanh" for name in others):
            raise ValueError(
                f"activations: expected {' or '.join(allowed)}"
                f"{'' if cell == 'rnn' else ' for the gates and tanh for the others'}, got {names}"
            )
        kinds.append(first)
        slopes.append(slope)
    if len(set(kinds)) > 1:
        raise ValueError(f"activations: expected the same in both directions, got {names}")
    if alphas or betas:
        raise ValueError("activation_alpha, activation_beta: expected numbers for HardSigmoid only")
    said: dict[str, Any] = {"batch_first": bool(given.get("layout", 0))}
    if cell == "rnn":
        said["nonlinearity"] = kinds[0]
    elif kinds[0] == "hardsigmoid":
        said[table.GATED] = "hard_sigmoid"
    if cell == "gru":
        said["reset_after"] = bool(given.get("linear_before_reset", 0))
    return said, slopes


def _state(states: dict[str, Array | None], batch_first: bool) -> Any:
    """Return the initial state, if the file holds any of it; the rest is zero."""
    there = [part for part in states.values() if part is not None]
    if not there:
        return None
    parts = tuple(np.zeros_like(there[0]) if part is None else part for part in states.values())
    if batch_first:
        parts = tuple(part.swapaxes(0, 1) for part in parts)
    return parts if len(parts) > 1 else parts[0]
