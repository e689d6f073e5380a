"""ONNX Runtime and OpenVINO: the same model for both, made once."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...validation import Array
from ..problem import Arrays, Problem, RefusedError, Run

# Which of our gates stands at each place in ONNX' order.
GATES = {"rnn": [0], "gru": [1, 0, 2], "lstm": [0, 3, 1, 2]}
OPSET, IR_VERSION = 14, 8  # old enough for every release that is asked


def onnxruntime(p: Problem) -> Run:
    """Run a session that was made once."""
    import onnxruntime as ort

    model = serialized(p)
    options = ort.SessionOptions()
    options.intra_op_num_threads = p.threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = _inputs(p)

    def run() -> Arrays:
        return _outputs(p, session.run(None, inputs))

    return run


def openvino(p: Problem) -> Run:
    """Run a request with static shapes, compiled for latency."""
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(serialized(p)),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": p.threads,
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    request = compiled.create_infer_request()
    tensors = {name: ov.Tensor(array, shared_memory=True) for name, array in _inputs(p).items()}
    for name, tensor in tensors.items():
        request.set_tensor(name, tensor)

    def run() -> Arrays:
        request.infer()
        return _outputs(p, [request.get_output_tensor(k).data for k in range(_count(p))])

    return run


def _inputs(p: Problem) -> dict[str, Array]:
    if p.work.kind != "step":
        return {"x": p.x}
    states = {f"{name}0": array[None] for name, array in zip("hc", p.state, strict=False)}
    return {"x": p.x[None], **states}


def _count(p: Problem) -> int:
    return len(p.state) if p.work.kind == "step" else 1


def _outputs(p: Problem, found: list[Array]) -> Arrays:
    if p.work.kind == "step":
        return [array[0] for array in found]
    return [found[0][:, 0]]


def serialized(p: Problem) -> bytes:
    """Return the model of a step or a sequence, as the bytes of an ONNX file."""
    if p.work.kind not in ("step", "inference"):
        raise RefusedError("does not train")
    if p.work.layers > 1:
        raise RefusedError("one layer a node")
    import onnx

    cell, step = p.work.cell, p.work.kind == "step"
    H, B = p.work.H, p.work.B

    def order(array: Array) -> Array:
        blocks = np.split(array, len(GATES[cell]))
        return np.concatenate([blocks[k] for k in GATES[cell]])

    w = {name.removesuffix("_l0"): order(array) for name, array in p.parameters.items()}
    constants = {
        "W": w["weight_ih"][None],
        "R": w["weight_hh"][None],
        "B": np.concatenate([w["bias_ih"], w["bias_hh"]])[None],
    }
    states = [name for name in _inputs(p) if name != "x"]
    results = ["", *(f"{name[0]}_n" for name in states)] if step else ["y"]
    attributes: dict[str, Any] = {"linear_before_reset": 1} if cell == "gru" else {}
    node = onnx.helper.make_node(
        cell.upper(),
        ["x", *constants, *([""] if states else []), *states],
        results,
        hidden_size=H,
        **attributes,
    )
    FLOAT = onnx.TensorProto.FLOAT

    def value(name: str, *shape: int) -> Any:
        return onnx.helper.make_tensor_value_info(name, FLOAT, shape)

    graph = onnx.helper.make_graph(
        [node],
        cell,
        [value(name, *array.shape) for name, array in _inputs(p).items()],
        [
            value(name, 1, B, H) if step else value(name, p.work.T, 1, B, H)
            for name in results
            if name
        ],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    serialized: bytes = model.SerializeToString()
    return serialized
