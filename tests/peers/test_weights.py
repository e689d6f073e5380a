"""What is read from files, and written, against the frameworks that the files belong to."""

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
import torch

import fastrnn
from fastrnn import weights
from fastrnn.cells import CELLS
from problems import VARIANTS, Variant

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning"),  # of oneDNN
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of Keras
]

T, B, I, H = 6, 3, 4, 5
FLOAT = onnx.TensorProto.FLOAT
ONNX = [v for v in VARIANTS if not v.projected]
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def draw(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=3e-6)
    assert np.abs(expected).max() > 0.01


def run(layer: weights.Layer, x: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
    """Output and final states, also of a layer that runs backward."""
    if not layer.reverse:
        y, last = layer.build()(x, state)
        return y, last if isinstance(last, tuple) else (last,)
    assert not layer.batch_first
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    parts = (None,) * len(CELLS[layer.cell].states)
    if state is not None:
        parts = tuple(part[0] for part in (state if isinstance(state, tuple) else (state,)))
    y, last = getattr(fastrnn.functional, layer.cell)(
        x, *parts, *map(layer.parameters.get, names), reverse=True, **layer.options
    )
    return y, tuple(part[None] for part in (last if isinstance(last, tuple) else (last,)))


# torch


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_layers": 2, "bidirectional": True},
        {"bias": False, "batch_first": True},
        {"nonlinearity": "relu"},
        {"proj_size": 2, "num_layers": 2},
    ],
    ids=str,
)
def test_state_dicts(cell: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    if ("nonlinearity" in arguments) > (cell == "rnn") or ("proj_size" in arguments) > (
        cell == "lstm"
    ):
        pytest.skip("the cell has no such option")
    torch.manual_seed(1)
    layer = getattr(torch.nn, cell.upper())(I, H, **arguments)
    model = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(3, I), "rnn": layer})
    options = {"batch_first": layer.batch_first}
    if cell == "rnn":
        options["nonlinearity"] = layer.nonlinearity
    x = draw(T, B, I)
    with torch.no_grad():
        expected, state = layer(torch.from_numpy(x))
    for source in (model.state_dict(), dict(model.named_parameters())):
        found = weights.load(source, options=options)
        assert list(found) == ["rnn"]
        built = found["rnn"].build()
        y, last = built(x)
        close(y, expected.numpy())
        for a, b in zip(
            last if cell == "lstm" else (last,), state if cell == "lstm" else (state,), strict=True
        ):
            close(a, b.numpy())
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    assert built.parameters["weight_hh_l0"].all(), "a copy"


@pytest.mark.parametrize("cell", CELLS)
def test_state_dicts_of_cells(cell: str) -> None:
    torch.manual_seed(1)
    step = getattr(torch.nn, f"{cell.upper()}Cell")(I, H)
    options = {"nonlinearity": "tanh"} if cell == "rnn" else {}
    layer = weights.load(step.state_dict(), options=options)[""]
    x = draw(1, B, I)
    with torch.no_grad():
        expected = step(torch.from_numpy(x[0]))
    close(layer.build()(x)[0][0], (expected[0] if cell == "lstm" else expected).numpy())


def test_tensors_that_are_refused_or_widened() -> None:
    lstm = torch.nn.LSTM(I, H)
    for kind in (torch.bfloat16, torch.float16):
        layer = weights.load(lstm.to(kind).state_dict())[""]
        assert layer.dtype == np.float32
        assert layer.notes == (f"{str(kind)[6:]} was read as float32",)
        np.testing.assert_array_equal(
            layer.parameters["weight_hh_l0"], lstm.weight_hh_l0.detach().float().numpy()
        )
    with pytest.raises(TypeError, match=r"weight_ih_l0: expected an array, got torch\.Tensor"):
        weights.load(torch.nn.LSTM(I, H, device="meta").state_dict())
    with pytest.raises(TypeError, match=r"source: .* such as its state_dict\(\), got LSTM"):
        weights.load(lstm)


def test_files_of_torch_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for legacy in (False, True):
        torch.save(
            torch.nn.LSTM(I, H).state_dict(), path, _use_new_zipfile_serialization=not legacy
        )
        with pytest.raises(ValueError, match=r"model.pt: .* got a pickle"):
            weights.load(path)
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(torch.nn.Linear(2, 3)).save(path)
    with pytest.raises(ValueError, match=r"model.pt: .* got a pickle"):
        weights.load(path)


# ONNX: what is read


def onnx_model(
    operator: str,
    inputs: dict[str, np.ndarray | str],
    constants: dict[str, np.ndarray],
    nodes: tuple[Any, ...] = (),
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one operator; the names of `constants` are those of its inputs."""
    order = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    there = [name if name in inputs or name in constants else "" for name in order]
    for node in nodes:
        there = [
            name or (order[k] if order[k] in node.output else "") for k, name in enumerate(there)
        ]
    while not there[-1]:
        there.pop()
    outputs = ["Y", "Y_h", "Y_c"][: 3 if operator == "LSTM" else 2]
    node = onnx.helper.make_node(operator, there, outputs, "some/node", **attributes)
    kinds = {"f": FLOAT, "i": onnx.TensorProto.INT32}
    graph = onnx.helper.make_graph(
        [*nodes, node],
        "graph",
        [
            onnx.helper.make_tensor_value_info(name, kinds[value.dtype.kind], value.shape)
            for name, value in inputs.items()
        ],
        [
            onnx.helper.make_tensor_value_info(name, FLOAT, [f"{name}{k}" for k in range(rank)])
            for name, rank in zip(outputs, (4, 3, 3), strict=False)
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [onnx.helper.make_opsetid("", 14)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)


def session(model: Any) -> onnxruntime.InferenceSession:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def parameters(cell: str, D: int, bias: str = "both") -> dict[str, np.ndarray]:
    G = len(CELLS[cell].gates)
    found = {"W": draw(D, G * H, I) / 2, "R": draw(D, G * H, H) / 2}
    if bias != "none":
        found["B"] = draw(D, 2 * G * H) / 2
        if bias != "both":
            half = slice(0, G * H) if bias == "recurrent" else slice(G * H, None)
            found["B"][:, half] = 0
    return found


def attributes_of(variant: Variant, D: int) -> dict[str, Any]:
    """The options of a cell as ONNX says them."""
    found: dict[str, Any] = {"hidden_size": H}
    if variant.options.get("nonlinearity") == "relu":
        found["activations"] = ["Relu"] * D
    if variant.options.get("gate_activation") == "hard_sigmoid":
        found["activations"] = ["HardSigmoid", "Tanh", "Tanh"][: 2 + (variant.cell == "lstm")] * D
    if variant.cell == "gru":
        found["linear_before_reset"] = int(variant.options["reset_after"])
    return found


@pytest.mark.parametrize("variant", ONNX, ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("bias", ["both", "input", "recurrent", "none"])
@pytest.mark.parametrize("held", ["given", "held", "none"])
def test_operators_are_read(
    variant: Variant, direction: str, bias: str, held: str, tmp_path: Path
) -> None:
    D = DIRECTIONS[direction]
    constants = parameters(variant.cell, D, bias)
    x = draw(T, B, I)
    states = CELLS[variant.cell].states
    initial = {f"initial_{s}": draw(D, B, H, seed=k + 2) for k, s in enumerate(states)}
    inputs = {"X": x} | (initial if held == "given" else {})
    constants |= initial if held == "held" else {}
    attributes = attributes_of(variant, D) | {"direction": direction}
    model = onnx_model(variant.cell.upper(), inputs, constants, **attributes)
    onnx.checker.check_model(model)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    found = weights.load(path)
    assert list(found) == ["some/node"]
    layer = found["some/node"]
    assert layer.options == variant.options
    assert layer.assumed == {}
    assert layer.bias == (bias != "none")
    assert layer.reverse == (direction == "reverse")
    assert len(layer.notes) == (len(states) if held == "given" else 0)
    state = layer.state
    if held == "given":
        state = tuple(initial.values()) if len(states) > 1 else initial["initial_h"]
    y, *last = session(model).run(None, inputs)
    found_y, found_last = run(layer, x, state)
    close(found_y.reshape(T, B, D, H).swapaxes(1, 2), y)
    for a, b in zip(found_last, last, strict=True):
        close(a, b)


@pytest.mark.parametrize("cell", CELLS)
def test_batch_first_is_read(cell: str, tmp_path: Path) -> None:
    """ONNX Runtime does not have layout 1, ONNX' own evaluator has."""
    constants, D = parameters(cell, 1), 1
    states = CELLS[cell].states
    initial = {f"initial_{s}": draw(B, D, H, seed=k + 2) for k, s in enumerate(states)}
    x = draw(B, T, I)
    given = {"hidden_size": H, "layout": 1} | ({"linear_before_reset": 1} if cell == "gru" else {})
    path = tmp_path / "model.onnx"
    onnx.save(onnx_model(cell.upper(), {"X": x}, constants | initial, **given), path)
    layer = weights.load(path)["some/node"]
    assert layer.batch_first
    y, _ = run(layer, x, layer.state)
    swapped = {name: part.swapaxes(0, 1) for name, part in initial.items()}
    model = onnx_model(
        cell.upper(), {"X": x.swapaxes(0, 1)}, constants | swapped, **given | {"layout": 0}
    )
    expected = session(model).run(None, {"X": np.ascontiguousarray(x.swapaxes(0, 1))})[0]
    close(y, expected[:, 0].swapaxes(0, 1))


def test_lengths_are_noted(tmp_path: Path) -> None:
    x, lengths = draw(T, B, I), np.array([2, T, 4], np.int32)
    path = tmp_path / "model.onnx"
    model = onnx_model(
        "GRU", {"X": x, "sequence_lens": lengths}, parameters("gru", 1), hidden_size=H
    )
    onnx.save(model, path)
    layer = weights.load(path)["some/node"]
    assert layer.notes == ("lengths are the graph's 'sequence_lens'",)
    expected = session(model).run(None, {"X": x, "sequence_lens": lengths})
    y, last = layer.build()(x, lengths=lengths)
    close(y, expected[0][:, 0])
    close(last, expected[1])


def test_constants_behind_nodes_are_found(tmp_path: Path) -> None:
    """As exporters leave them that do not compute what they could."""
    made = parameters("lstm", 1)
    node = onnx.helper.make_node
    tensor = onnx.numpy_helper.from_array
    W, R, b = made["W"], made["R"], made["B"]
    constants = {
        "first": W[0, : 2 * H],
        "second": np.concatenate((W[0, 2 * H :], W[0, :3])),
        "starts": np.array([0]),
        "ends": np.array([2 * H]),
        "axes": np.array([0]),
        "turned": R[0].T.copy(),
        "bias": b[:, None],
    }
    nodes = (
        node("Slice", ["second", "starts", "ends", "axes"], ["cut"]),
        node("Concat", ["first", "cut"], ["w"], axis=0),
        node("Unsqueeze", ["w", "axes"], ["W"]),
        node("Transpose", ["turned"], ["r"], perm=[1, 0]),
        node("Identity", ["r"], ["same"]),
        node("Unsqueeze", ["same", "axes"], ["R"]),
        node("Constant", [], ["one"], value=tensor(np.array([1]))),
        node("Squeeze", ["bias", "one"], ["B"]),
    )
    model = onnx_model("LSTM", {"X": draw(T, B, I)}, constants, nodes, hidden_size=H)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    x = draw(T, B, I)
    expected = session(model).run(None, {"X": x})[0]
    close(weights.load(path)["some/node"].build()(x)[0], expected[:, 0])
    plain = onnx_model("LSTM", {"X": x}, made, hidden_size=H)
    np.testing.assert_array_equal(expected, session(plain).run(None, {"X": x})[0])


def test_nodes_inside_branches_are_found(tmp_path: Path) -> None:
    x = draw(T, B, I)
    graphs = []
    for k in range(2):
        inner = onnx_model("GRU", {"X": x}, parameters("gru", 1), hidden_size=H).graph
        inner.ClearField("input")
        inner.node[0].output[0] = f"Y{k}"
        del inner.output[1:]
        inner.output[0].name = f"Y{k}"
        graphs.append(inner)
    branch = onnx.helper.make_node(
        "If", ["which"], ["Y"], then_branch=graphs[0], else_branch=graphs[1]
    )
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [branch],
        "graph",
        [value("which", onnx.TensorProto.BOOL, []), value("X", FLOAT, [T, B, I])],
        [value("Y", FLOAT, None)],
    )
    opset = [onnx.helper.make_opsetid("", 14)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    found = weights.load(path)
    assert list(found) == ["some/node", "some/node (2)"]
    expected = session(model).run(None, {"X": x, "which": np.array(True)})[0]
    close(found["some/node"].build()(x)[0], expected[:, 0])
    assert list(weights.arrays(path)) == ["W", "R", "B", "W (2)", "R (2)", "B (2)"]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_slopes_of_hard_sigmoids(cell: str, direction: str, tmp_path: Path) -> None:
    D = DIRECTIONS[direction]
    names = ["HardSigmoid", *["Tanh"] * (2 if cell == "lstm" else 1)] * D
    slopes = [1 / 6, 0.31][:D]
    given = {
        "activations": names,
        "activation_alpha": slopes,
        "activation_beta": [0.5] * D,
        "direction": direction,
        "hidden_size": H,
    }
    constants = {name: 2 * array for name, array in parameters(cell, D).items()}
    x = draw(T, B, I)
    model = onnx_model(cell.upper(), {"X": x}, constants, **given)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    layer = weights.load(path)["some/node"]
    assert layer.options["gate_activation"] == "hard_sigmoid"
    y, _ = run(layer, x)
    close(y.reshape(T, B, D, H).swapaxes(1, 2), session(model).run(None, {"X": x})[0])


# ONNX: what is written


@pytest.mark.parametrize("variant", ONNX, ids=str)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_layers": 3, "bidirectional": True, "batch_first": True},
        {"num_layers": 2, "bias": False},
        {"bidirectional": True},
        {"batch_first": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("held", [False, True], ids=["given", "held"])
def test_models_are_written(
    variant: Variant, arguments: dict[str, Any], held: bool, tmp_path: Path
) -> None:
    layer = getattr(fastrnn, variant.cell.upper())(I, H, seed=1, **variant.options, **arguments)
    path = tmp_path / "model.onnx"
    n = layer.num_layers * (1 + layer.bidirectional)
    states = [draw(n, B, H, seed=k + 2) for k in range(len(layer.cell.states))]
    state = tuple(states) if len(states) > 1 else states[0]
    x = draw(B, T, I) if layer.batch_first else draw(T, B, I)
    inputs = {"x": x}
    if held:
        described = weights.Layer.of(layer)
        weights.save(
            path,
            weights.Layer(
                described.cell, described.options, layer.parameters, layer.batch_first, state=state
            ),
        )
    else:
        weights.save(path, layer)
        inputs |= dict(zip(("h0", "c0"), states, strict=False))
    onnx.checker.check_model(onnx.load(path), full_check=True)
    runtime = session(path.read_bytes())
    assert [value.name for value in runtime.get_inputs()] == list(inputs)
    names = ["output", "h_n", "c_n"][: 1 + len(states)]
    assert [value.name for value in runtime.get_outputs()] == names
    y, last = layer(x, state)
    for a, b in zip(
        (y, *(last if isinstance(last, tuple) else (last,))), runtime.run(None, inputs), strict=True
    ):
        close(a, b)
    found = weights.load(path)
    assert len(found) == layer.num_layers
    for k, part in enumerate(found.values()):
        assert part.options == layer.options
        for name, array in part.parameters.items():
            np.testing.assert_array_equal(array, layer.parameters[name.replace("l0", f"l{k}")])


def test_a_written_model_of_several_layers(tmp_path: Path) -> None:
    lstm, gru = fastrnn.LSTM(I, H, seed=1), fastrnn.GRU(2, 3, 2, seed=1, dtype="float32")
    back = weights.Layer("gru", {}, fastrnn.GRU(I, H, seed=3).parameters, reverse=True)
    path = tmp_path / "model.onnx"
    weights.save(path, {"a.b": lstm, "c": gru, "d": back})
    x = {"a.b.x": draw(T, B, I), "c.x": draw(T, B, 2), "d.x": draw(T, B, I)}
    initial = {
        "a.b.h0": np.zeros((1, B, H), np.float32),
        "a.b.c0": np.zeros((1, B, H), np.float32),
        "c.h0": np.zeros((2, B, 3), np.float32),
        "d.h0": np.zeros((1, B, H), np.float32),
    }
    outputs = session(path.read_bytes()).run(["a.b.output", "c.output", "d.output"], x | initial)
    close(lstm(x["a.b.x"])[0], outputs[0])
    close(gru(x["c.x"])[0], outputs[1])
    close(run(back, x["d.x"])[0], outputs[2])


def test_a_written_model_takes_any_length_and_batch(tmp_path: Path) -> None:
    layer = fastrnn.GRU(I, H, 2, seed=1)
    path = tmp_path / "model.onnx"
    weights.save(path, layer)
    runtime = session(path.read_bytes())
    for t, b in ((1, 1), (9, 2), (3, 7)):
        x = draw(t, b, I)
        close(layer(x)[0], runtime.run(None, {"x": x, "h0": np.zeros((2, b, H), np.float32)})[0])


def test_a_written_model_in_float64(tmp_path: Path) -> None:
    """ONNX Runtime has no kernels for it, ONNX' own evaluator has."""
    layer = fastrnn.LSTM(I, H, seed=1, dtype="float64")
    path = tmp_path / "model.onnx"
    weights.save(path, layer)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    x, zero = draw(T, B, I).astype(np.float64), np.zeros((1, B, H))
    found = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x, "h0": zero, "c0": zero})
    np.testing.assert_allclose(layer(x)[0], found[0], rtol=0, atol=1e-12)
    assert weights.load(path)["lstm"].dtype == np.float64


# Keras


@pytest.fixture(scope="module")
def keras() -> Any:
    """Keras 3 on torch; others of these tests may have imported it on something else."""
    with pytest.MonkeyPatch.context() as patch:
        if "keras" not in sys.modules:
            patch.setenv("KERAS_BACKEND", "torch")
        module = importlib.import_module("keras")
    module.utils.set_random_seed(1)
    return module


KERAS = {
    "LSTM": ("lstm", {}),
    "LSTM without bias": ("lstm", {"use_bias": False}),
    "LSTM hard": ("lstm", {"recurrent_activation": "hard_sigmoid"}),
    "GRU": ("gru", {}),
    "GRU before": ("gru", {"reset_after": False}),
    "GRU before, without bias": ("gru", {"reset_after": False, "use_bias": False}),
    "GRU after, without bias": ("gru", {"use_bias": False}),
    "GRU hard": ("gru", {"recurrent_activation": "hard_sigmoid", "reset_after": False}),
    "SimpleRNN": ("rnn", {}),
    "SimpleRNN relu": ("rnn", {"activation": "relu"}),
}
CLASSES = {"lstm": "LSTM", "gru": "GRU", "rnn": "SimpleRNN"}


def randomize(model: Any) -> None:
    """Give a model weights that are all different, biases among them."""
    model.set_weights([draw(*w.shape, seed=k) * 0.7 for k, w in enumerate(model.get_weights())])


def save_keras(model: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of HDF5, which is called legacy
        if path.name.endswith(".weights.h5"):
            model.save_weights(path)
        elif path.name == "legacy-weights.h5":
            from keras.src.legacy.saving import legacy_h5_format

            with h5py.File(path, "w") as file:
                legacy_h5_format.save_weights_to_hdf5_group(file, model)
        else:
            model.save(path)


def options_of(arguments: dict[str, Any], cell: str) -> dict[str, Any]:
    """What the file of weights does not say."""
    if cell == "rnn":
        return {"nonlinearity": arguments.get("activation", "tanh")}
    found = {"gate_activation": arguments.get("recurrent_activation", "sigmoid")}
    if not arguments.get("use_bias", True) and cell == "gru":
        found["reset_after"] = arguments.get("reset_after", True)
    return found


FILES = ["model.keras", "model.weights.h5", "model.h5", "legacy-weights.h5"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", KERAS)
@pytest.mark.parametrize("wrapped", ["alone", "bidirectional", "backward", "cell", "stack"])
def test_layers_of_keras(keras: Any, name: str, kind: str, wrapped: str, tmp_path: Path) -> None:
    cell, arguments = KERAS[kind]
    make = getattr(keras.layers, CLASSES[cell])
    make_cell = getattr(keras.layers, f"{CLASSES[cell]}Cell")
    sequences = {"return_sequences": True, "name": "some"}
    layer = {
        "alone": lambda: make(H, **sequences, **arguments),
        "bidirectional": lambda: keras.layers.Bidirectional(
            make(H, return_sequences=True, **arguments), name="some"
        ),
        "backward": lambda: make(H, go_backwards=True, **sequences, **arguments),
        "cell": lambda: keras.layers.RNN(make_cell(H, **arguments), **sequences),
        "stack": lambda: keras.layers.RNN(
            [make_cell(H, **arguments) for _ in range(3)], **sequences
        ),
    }[wrapped]()
    model = keras.Sequential([keras.Input((T, I)), layer])
    randomize(model)
    path = tmp_path / name
    save_keras(model, path)
    whole = name in ("model.keras", "model.h5")
    given = {} if whole else options_of(arguments, cell)
    found = weights.load(path, options=given)
    assert list(found) == ["some"]
    part = found["some"]
    assert part.batch_first
    assert part.assumed == {}
    x = draw(B, T, I)
    expected = model.predict(x, verbose=0)
    if wrapped == "backward":
        assert part.reverse == whole  # of weights alone nobody can tell
        expected, x = expected[:, ::-1], x[:, ::-1]
        part = weights.Layer(part.cell, part.options, part.parameters, True)
        close(part.build()(x)[0], expected[:, ::-1])
        return
    close(part.build()(x)[0], expected)


@pytest.mark.parametrize("name", FILES)
def test_a_bigger_model_of_keras(keras: Any, name: str, tmp_path: Path) -> None:
    layers = keras.layers
    x = keras.Input((T,))
    y = layers.Embedding(9, I, name="embed")(x)
    inside = keras.Sequential(
        [keras.Input((T, I)), layers.GRU(3, return_sequences=True, name="deep")], name="inside"
    )
    y = layers.Concatenate()([layers.LSTM(2, return_sequences=True, name="b")(y), inside(y)])
    y = layers.LSTM(H, return_sequences=True, name="a")(y)
    y = layers.Bidirectional(layers.SimpleRNN(2), name="both", merge_mode="sum")(y)
    model = keras.Model(x, layers.Dense(3, name="head")(y))
    model.compile("adam", "mse")
    randomize(model)
    path = tmp_path / name
    save_keras(model, path)
    options = (
        {}
        if name in ("model.keras", "model.h5")
        else {"gate_activation": "sigmoid", "nonlinearity": "tanh"}
    )
    found = weights.load(path, options=options)
    assert set(found) >= {"a", "b", "both"}
    (deep,) = set(found) - {"a", "b", "both"}
    assert deep.startswith("inside")
    for key, inner in (("a", "a"), ("b", "b")):
        kernel = model.get_layer(inner).get_weights()[0]
        np.testing.assert_array_equal(found[key].parameters["weight_ih_l0"], kernel.T)
    assert found[deep].cell == "gru"
    assert found["both"].bidirectional
    if options == {}:
        assert "sum" in found["both"].notes[0]
    held = weights.arrays(path)
    embedding = model.get_layer("embed").get_weights()[0]
    assert any(array.shape == (9, I) and (array == embedding).all() for array in held.values())
    # The whole, put together from what was read.
    rows = embedding[np.arange(T)[None] % 9]
    parts = [found[key].build()(rows)[0] for key in ("b", deep)]
    y = found["a"].build()(np.concatenate(parts, axis=2))[0]
    _, last = found["both"].build()(y)
    dense, bias = model.get_layer("head").get_weights()
    close((last[0] + last[1]) @ dense + bias, model.predict(np.arange(T)[None] % 9, verbose=0))


def test_options_of_keras_that_are_refused(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    for layer, words in (
        (layers.LSTM(2, activation="relu"), "activation: expected tanh, got 'relu'"),
        (layers.GRU(2, activation="linear"), "activation: expected tanh"),
        (layers.LSTM(2, recurrent_activation="tanh"), "recurrent_activation: expected sigmoid or"),
        (layers.SimpleRNN(2, activation="elu"), "activation: expected tanh or relu, got 'elu'"),
        (layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)]), "cells: expected cells of one kind"),
        (layers.RNN([layers.LSTMCell(2), layers.LSTMCell(3)]), "cells: expected cells of one kind"),
        (
            layers.Bidirectional(layers.LSTM(2, go_backwards=True), backward_layer=layers.LSTM(2)),
            "go_backwards: expected False inside Bidirectional",
        ),
        (
            layers.Bidirectional(
                layers.LSTM(2),
                backward_layer=layers.LSTM(
                    2, go_backwards=True, recurrent_activation="hard_sigmoid"
                ),
            ),
            "backward_layer: expected the options of the other one",
        ),
    ):
        model = keras.Sequential([keras.Input((T, I)), layer])
        for name in ("model.keras", "model.h5"):
            path = tmp_path / name
            save_keras(model, path)
            with pytest.raises(ValueError, match=f"{name}: {layer.name}: {words}"):
                weights.load(path)


def test_a_file_of_weights_warns_of_what_it_does_not_say(keras: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((T, I)), keras.layers.GRU(H, name="some")])
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    with pytest.warns(UserWarning, match=r"model.weights.h5: nothing says the gate_activation"):
        layer = weights.load(path)["some"]
    assert layer.assumed == {"gate_activation": "sigmoid"}
    assert "Keras 3" in layer.notes[0]


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_other_precisions_of_keras(keras: Any, kind: str, tmp_path: Path) -> None:
    # torch has no orthogonal matrices of half precision.
    layer = keras.layers.LSTM(H, dtype=kind, recurrent_initializer="glorot_uniform")
    model = keras.Sequential([keras.Input((T, I), dtype=kind), layer])
    path = tmp_path / "model.keras"
    model.save(path)
    (found,) = weights.load(path).values()
    assert found.dtype == ("float64" if kind == "float64" else "float32")
    kernel = keras.ops.convert_to_numpy(keras.ops.cast(layer.cell.kernel, "float64"))
    np.testing.assert_array_equal(found.parameters["weight_ih_l0"], kernel.T)
    assert found.notes == (() if kind == "float64" else (f"{kind} was read as float32",))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "GRU before"])
def test_the_hard_sigmoid_of_keras_2(keras: Any, kind: str, tmp_path: Path) -> None:
    """Another one than that of Keras 3, which gets it as a function."""
    cell, arguments = KERAS[kind]
    layer = getattr(keras.layers, CLASSES[cell])(
        H,
        return_sequences=True,
        recurrent_activation=lambda x: keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0),
        name="some",
        **arguments,
    )
    model = keras.Sequential([keras.Input((T, I)), layer])
    randomize(model)
    path = tmp_path / "legacy-weights.h5"
    save_keras(model, path)
    with h5py.File(path, "a") as file:
        file.attrs["keras_version"] = "2.1.5"
    with pytest.warns(UserWarning, match=r"gate_activation of 'some': assumed 'hard_sigmoid'"):
        found = weights.load(path)["some"]
    x = draw(B, T, I)
    close(found.build()(x)[0], model.predict(x, verbose=0))
