"""Complete ONNX models of recurrent layers.

A model has the inputs ``x``, ``h0`` and, for an LSTM, ``c0``, and the outputs ``output``, ``h_n``
and ``c_n``, laid out like those of the layer; with several layers their names and dots precede
these. An initial state that a layer has is part of the model, which then has no such inputs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import files
from ..cells import CELLS
from ..validation import FLOAT32, Array
from . import table
from .layer import Layer, naming
from .onnx import ACTIVATIONS

_OPSET, _IR = 14, 8  # the first with what is written here, and what came with it
_MOST = (1 << 31) - 1  # bytes of a message of protobuf


def write(path: str | os.PathLike[str], layers: Mapping[str, Layer]) -> None:
    """Write a model of layers that do not depend on each other.

    Parameters
    ----------
    path
        The file to write or replace.
    layers
        Name to layer.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If a layer has a projection, which ONNX lacks, or the model more than 2 GB.
    """
    import onnx

    size = sum(array.nbytes for layer in layers.values() for array in layer.parameters.values())
    if size > _MOST:
        raise ValueError(f"layers: expected at most {_MOST} bytes of parameters, got {size}")
    graph = onnx.GraphProto(name="fastrnn")
    for name, layer in layers.items():
        with naming(name or "layer"):
            _Writer(graph, name, f"{name}." if len(layers) > 1 else "", layer).write()
    opset = [onnx.helper.make_opsetid("", _OPSET)]
    model = onnx.helper.make_model(
        graph, opset_imports=opset, ir_version=_IR, producer_name="fastrnn"
    )
    onnx.checker.check_model(model)
    files.write(path, model.SerializeToString())


class _Writer:
    """Adds one layer to a graph: `prefix` precedes all its names, but those of its nodes."""

    def __init__(self, graph: Any, name: str, prefix: str, layer: Layer) -> None:
        if layer.proj_size:
            raise ValueError(
                f"proj_size: expected 0, because ONNX has no projection, got {layer.proj_size}"
            )
        self.graph, self.name, self.prefix, self.layer = graph, name, prefix, layer
        self.states = CELLS[layer.cell].states

    def write(self) -> None:
        layer = self.layer
        D, L, H = 1 + layer.bidirectional, layer.num_layers, layer.hidden_size
        batch: str | int = "batch"
        initial = {state: self.prefix + f"{state}0" for state in self.states}
        if layer.state is not None:
            parts = layer.state if isinstance(layer.state, tuple) else (layer.state,)
            batch = parts[0].shape[1]
            for state, part in zip(self.states, parts, strict=True):
                self._constant(f"{state}0", part.astype(layer.dtype))
        steps = (batch, "time") if layer.batch_first else ("time", batch)
        self._declare(self.graph.input, "x", *steps, layer.input_size)
        if layer.state is None:
            for state in self.states:
                self._declare(self.graph.input, f"{state}0", L * D, batch, H)
        sizes = self._constant("sizes", np.full(L, D)) if L > 1 else ""
        for state, name in initial.items():
            if L > 1:
                outputs = [f"{state}0_l{k}" for k in range(L)]
                self._node("Split", [name, sizes], outputs, axis=0)
        x = self.prefix + "x"
        if layer.batch_first:
            x = self._node("Transpose", [x], ["x_time_first"], perm=[1, 0, 2])
        joined = self._constant("joined", np.array([0, 0, D * H]))
        for k in range(L):
            suffix = f"_l{k}" if L > 1 else ""
            inputs = [f"{self.prefix}{state}0{suffix}" for state in self.states]
            outputs = [f"y_l{k}", *(f"{state}_n{suffix}" for state in self.states)]
            y = self._recurrent(k, x, inputs, outputs)
            y = self._node("Transpose", [y], [f"y_l{k}_rows"], perm=[0, 2, 1, 3])
            last = k == L - 1 and not layer.batch_first
            x = self._node("Reshape", [y, joined], ["output" if last else f"output_l{k}"])
        if layer.batch_first:
            self._node("Transpose", [x], ["output"], perm=[1, 0, 2])
        self._declare(self.graph.output, "output", *steps, D * H)
        for state in self.states:
            if L > 1:
                finals = [f"{self.prefix}{state}_n_l{k}" for k in range(L)]
                self._node("Concat", finals, [f"{state}_n"], axis=0)
            self._declare(self.graph.output, f"{state}_n", L * D, batch, H)

    def _recurrent(self, k: int, x: str, states: list[str], outputs: list[str]) -> str:
        layer = self.layer
        row = table.find("onnx", layer.cell)
        suffixes = ("", "_reverse") if layer.bidirectional else ("",)
        parts = []
        for suffix in suffixes:
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            found = {name: layer.parameters.get(f"{name}_l{k}{suffix}") for name in names}
            there = {name: array for name, array in found.items() if array is not None}
            parts.append(table.write(row, there))
        W, R, B = zip(*parts, strict=True)
        inputs = [x, self._constant(f"W_l{k}", np.stack(W)), self._constant(f"R_l{k}", np.stack(R))]
        inputs.append(self._constant(f"B_l{k}", np.stack(B)) if layer.bias else "")
        direction = "reverse" if layer.reverse else "forward"
        attributes: dict[str, Any] = {
            "hidden_size": layer.hidden_size,
            "direction": "bidirectional" if layer.bidirectional else direction,
        }
        D = len(suffixes)
        if layer.cell == "gru":
            attributes["linear_before_reset"] = int(layer.options["reset_after"])
        if layer.options.get("nonlinearity") == "relu":
            attributes["activations"] = ["Relu"] * D
        if layer.options.get(table.GATED) == "hard_sigmoid":
            attributes["activations"] = ["HardSigmoid", *ACTIVATIONS[layer.cell][1:]] * D
            attributes |= {"activation_alpha": [0.2] * D, "activation_beta": [0.5] * D}
        # By the layer's name, which a reader then finds again.
        name = (self.name or layer.cell) + (f"_l{k}" if layer.num_layers > 1 else "")
        return self._node(layer.cell.upper(), [*inputs, "", *states], outputs, name, **attributes)

    def _node(
        self, kind: str, inputs: list[str], outputs: list[str], name: str = "", **attributes: Any
    ) -> str:
        """Add a node, whose inputs are whole names, and return the name of its first output."""
        import onnx

        outputs = [self.prefix + output for output in outputs]
        name = name or f"{outputs[0]}_node"
        self.graph.node.append(onnx.helper.make_node(kind, inputs, outputs, name, **attributes))
        return outputs[0]

    def _constant(self, name: str, array: Array) -> str:
        import onnx

        name = self.prefix + name
        self.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return name

    def _declare(self, where: Any, name: str, *shape: int | str) -> None:
        import onnx

        kind = onnx.TensorProto.FLOAT if self.layer.dtype == FLOAT32 else onnx.TensorProto.DOUBLE
        where.append(onnx.helper.make_tensor_value_info(self.prefix + name, kind, shape))
