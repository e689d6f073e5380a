"""RNN, GRU and LSTM against the operators of ONNX Runtime: outputs and final states.

ONNX (Operators.md) has the gates in another order, weights as (directions, G*H, ·), both biases in
one, states as (directions, B, H), and the output as (T, directions, B, H).
"""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import fastrnn

pytestmark = pytest.mark.peers

T, B, I, H = 6, 4, 3, 5

OPERATORS = [
    ("rnn", {"nonlinearity": "tanh"}),
    ("rnn", {"nonlinearity": "relu"}),
    ("gru", {"reset_after": True}),
    ("gru", {"reset_after": False}),
    ("gru", {"reset_after": True, "gate_activation": "hard_sigmoid"}),
    ("gru", {"reset_after": False, "gate_activation": "hard_sigmoid"}),
    ("lstm", {}),
    ("lstm", {"gate_activation": "hard_sigmoid"}),
]
# With HardSigmoid for its gates an operator names all activations, of every direction, and takes
# alpha 0.2 and beta 0.5 by default, which is the function of Keras 1 and 2 and ours.
HARD = {"gru": ["HardSigmoid", "Tanh"], "lstm": ["HardSigmoid", "Tanh", "Tanh"]}
# Which of our gates stands at each place of ONNX' order (z r h, and i o f c).
GATES = {"rnn": [0], "gru": [1, 0, 2], "lstm": [0, 3, 1, 2]}
DIRECTIONS = {"forward": ("",), "reverse": ("_reverse",), "bidirectional": ("", "_reverse")}


def draw(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def reorder(array: np.ndarray, cell: str) -> np.ndarray:
    """Put the gates of a weight or bias into ONNX' order."""
    blocks = np.split(array, len(GATES[cell]))
    return np.concatenate([blocks[k] for k in GATES[cell]])


def make_session(
    cell: str, options: dict[str, Any], direction: str, layer: Any, inputs: dict[str, np.ndarray]
) -> Any:
    """A model of one operator, which holds the layer's parameters."""
    suffixes = [f"_l0{d}" for d in DIRECTIONS[direction]]
    n = len(suffixes)

    def stack(*names: str) -> np.ndarray:
        rows = [
            np.concatenate([reorder(layer.parameters[name + suffix], cell) for name in names])
            for suffix in suffixes
        ]
        return np.stack(rows)

    constants = {"W": stack("weight_ih"), "R": stack("weight_hh")}
    attributes: dict[str, Any] = {"hidden_size": H, "direction": direction}
    if layer.bias:
        constants["bias"] = stack("bias_ih", "bias_hh")
    if cell == "gru":
        attributes["linear_before_reset"] = int(options["reset_after"])
    if cell == "rnn":
        attributes["activations"] = [options["nonlinearity"].capitalize()] * n
    if options.get("gate_activation") == "hard_sigmoid":
        attributes["activations"] = HARD[cell] * n
    names = ["x", "W", "R", "bias", "lengths", *layer.cell.states]
    there = [name if name in constants | inputs else "" for name in names]
    outputs = ["y", "h_n", "c_n"][: 3 if cell == "lstm" else 2]
    node = onnx.helper.make_node(cell.upper(), there, outputs, **attributes)
    kinds = {
        np.dtype(np.float32): onnx.TensorProto.FLOAT,
        np.dtype(np.int32): onnx.TensorProto.INT32,
    }
    graph = onnx.helper.make_graph(
        [node],
        cell,
        [
            onnx.helper.make_tensor_value_info(name, kinds[value.dtype], value.shape)
            for name, value in inputs.items()
        ],
        [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in zip(outputs, [(T, n, B, H), (n, B, H), (n, B, H)], strict=False)
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [onnx.helper.make_opsetid("", 14)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def run_layer(layer: Any, direction: str, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Our results, arranged as ONNX has them. `layer` is bidirectional in any case."""
    state = tuple(inputs[name] for name in ("h", "c") if name in inputs)
    lengths = inputs.get("lengths")
    if direction == "bidirectional":
        y, last = layer(
            inputs["x"],
            None if not state else state if len(state) > 1 else state[0],
            lengths=None if lengths is None else lengths.astype(np.int64),
        )
        y = y.reshape(*y.shape[:2], 2, H).swapaxes(1, 2)
        return [y, *(last if isinstance(last, tuple) else (last,))]
    suffix = f"_l0{DIRECTIONS[direction][0]}"
    w = [
        layer.parameters.get(f"{n}{suffix}")
        for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    initial = tuple(part[0] for part in state) or (None,) * len(layer.cell.states)
    y, last = getattr(fastrnn.functional, layer.cell.name)(
        inputs["x"],
        *initial,
        *w,
        **layer.options,
        lengths=lengths,
        reverse=direction == "reverse",
        backend=layer.backend,
    )
    states = last if isinstance(last, tuple) else (last,)
    return [y[:, None], *(part[None] for part in states)]


@pytest.mark.parametrize(("cell", "options"), OPERATORS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("given", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize("padded", [True, False], ids=["lengths", "no lengths"])
def test_operators(
    cell: str,
    options: dict[str, Any],
    direction: str,
    bias: bool,
    given: bool,
    padded: bool,
    backend: str,
) -> None:
    layer = getattr(fastrnn, cell.upper())(
        I, H, bias=bias, bidirectional=True, seed=1, backend=backend, **options
    )
    if "gate_activation" in options:  # from ±0.45 on, too little to reach their ends
        for array in layer.parameters.values():
            array *= 3
    n = len(DIRECTIONS[direction])
    inputs = {"x": draw(T, B, I)}
    if padded:
        # No length of 0: there the runtime returns a final state of zeros.
        inputs["lengths"] = np.array([2, T, 1, 4], np.int32)
    if given:
        inputs |= {s: draw(n, B, H, seed=2 + k) for k, s in enumerate(layer.cell.states)}
    session = make_session(cell, options, direction, layer, inputs)
    expected = session.run(None, inputs)
    found = run_layer(layer, direction, inputs)
    assert len(found) == len(expected)
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.shape == b.shape
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5, equal_nan=False, err_msg=f"result {k}")
        assert np.abs(b).max() > 0.01
