"""ONNX models: golden values, what is refused by name, and hostile files.

`tests/peers` compares with ONNX Runtime.
"""

import itertools
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info
from onnx.numpy_helper import from_array

import fastrnn
from fastrnn import weights

I, H = 1, 1
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def golden(G: int, D: int = 1) -> dict[str, np.ndarray]:
    """Weights of one unit and one input, all of them different."""
    count = iter(range(1, 1000))

    def block(*shape: int) -> np.ndarray:
        numbers = [next(count) for _ in range(math.prod(shape))]
        return np.array(numbers, np.float32).reshape(shape)

    return {"W": block(D, G, 1), "R": block(D, G, 1), "B": block(D, 2 * G)}


def make_model(
    operator: str = "LSTM",
    constants: dict[str, Any] | None = None,
    inputs: tuple[str, ...] = ("X", "W", "R", "B"),
    nodes: tuple[Any, ...] = (),
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    constants = golden(GATES.get(operator, 4)) if constants is None else constants
    node = make_node(operator, inputs, ["Y"], "node", domain=domain, **attributes)
    graph = onnx.helper.make_graph(
        [*nodes, node],
        "graph",
        [make_tensor_value_info("X", TensorProto.FLOAT, ["T", "B", I])],
        [make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [
            value if isinstance(value, TensorProto) else from_array(np.asarray(value), name)
            for name, value in constants.items()
        ],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "model.onnx"


def load(path: Path, model: onnx.ModelProto) -> weights.Layer:
    path.write_bytes(model.SerializeToString())
    return weights.load(path)["node"]


def refused(path: Path, words: str, arrays: bool = False) -> None:
    before = sorted(path.parent.iterdir())
    for read in (weights.load, *([weights.arrays] if arrays else [])):
        with pytest.raises(ValueError, match=f"{path.name}: .*({words})"):
            read(path)
    assert sorted(path.parent.iterdir()) == before


# What is right


@pytest.mark.parametrize(
    ("operator", "places"),
    # For each of our gates its place among those of ONNX: z r h, and i o f c.
    [("RNN", [0]), ("GRU", [1, 0, 2]), ("LSTM", [0, 2, 3, 1])],
)
@pytest.mark.parametrize("D", [1, 2])
def test_golden_values(path: Path, operator: str, places: list[int], D: int) -> None:
    G = GATES[operator]
    held = golden(G, D)
    direction = {"direction": "bidirectional"} if D == 2 else {}
    layer = load(path, make_model(operator, held, **direction))
    assert layer.cell == operator.lower()
    assert layer.bidirectional == (D == 2)
    for d, suffix in enumerate(["_l0", "_l0_reverse"][:D]):
        for name, values in (
            ("weight_ih", held["W"][d, :, 0]),
            ("weight_hh", held["R"][d, :, 0]),
            ("bias_ih", held["B"][d, :G]),
            ("bias_hh", held["B"][d, G:]),
        ):
            np.testing.assert_array_equal(
                layer.parameters[name + suffix].ravel(), [values[k] for k in places], err_msg=name
            )


def test_what_is_written_is_read(path: Path) -> None:
    layer = fastrnn.GRU(3, 5, seed=1, reset_after=False, bidirectional=True)
    stack = fastrnn.LSTM(3, 5, 2)
    for layers, keys, prefix in (
        ({"a/b": layer}, ["a/b"], ""),
        (layer, ["gru"], ""),
        ({"c": stack, "a/b": layer}, ["c_l0", "c_l1", "a/b"], "a/b."),
    ):
        weights.save(path, layers)
        found = weights.load(path)
        assert list(found) == keys
        for name, array in layer.parameters.items():
            np.testing.assert_array_equal(found[keys[-1]].parameters[name], array)
        assert {f"{prefix}W_l0", f"{prefix}R_l0"} <= set(weights.arrays(path))


@pytest.mark.parametrize(
    ("operator", "attributes", "options"),
    [
        ("GRU", {}, {"reset_after": False}),
        ("GRU", {"linear_before_reset": 1}, {"reset_after": True}),
        ("GRU", {"activations": ["hardsigmoid", "TANH"]}, {"gate_activation": "hard_sigmoid"}),
        ("LSTM", {"activations": ["Sigmoid", "Tanh", "Tanh"]}, {"gate_activation": "sigmoid"}),
        ("RNN", {"activations": ["Relu"]}, {"nonlinearity": "relu"}),
        ("RNN", {}, {"nonlinearity": "tanh"}),
        ("LSTM", {"input_forget": 0, "hidden_size": 1, "output_sequence": 1, "layout": 0}, {}),
    ],
)
def test_options(path: Path, operator: str, attributes: dict, options: dict) -> None:
    layer = load(path, make_model(operator, **attributes))
    assert layer.options.items() >= options.items()
    assert layer.assumed == {}


def test_an_option_that_contradicts_is_refused(path: Path) -> None:
    path.write_bytes(make_model("GRU").SerializeToString())
    with pytest.raises(ValueError, match=r"node: options\['reset_after'\]: expected False as in"):
        weights.load(path, options={"reset_after": True})


@pytest.mark.parametrize("states", [("initial_h",), ("initial_c",), ("initial_h", "initial_c")])
@pytest.mark.parametrize("layout", [0, 1])
def test_initial_states(path: Path, states: tuple[str, ...], layout: int) -> None:
    """One that is missing is zero."""
    shape = (3, 1, H) if layout else (1, 3, H)
    held = {s: np.full(shape, k + 2, np.float32) for k, s in enumerate(states)}
    inputs = (
        "X",
        "W",
        "R",
        "B",
        "",
        *(s if s in states else "" for s in ("initial_h", "initial_c")),
    )
    layer = load(path, make_model("LSTM", golden(4) | held, inputs, layout=layout))
    for part, name in zip(layer.state, ("initial_h", "initial_c"), strict=True):
        assert part.shape == (1, 3, H)
        np.testing.assert_array_equal(part, held[name].ravel()[0] if name in states else 0)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_precisions(path: Path, kind: int) -> None:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    held = {name: from_array(a.astype(dtype), name) for name, a in golden(4).items()}
    layer = load(path, make_model("LSTM", held))
    assert layer.dtype == ("float64" if kind == TensorProto.DOUBLE else "float32")
    assert len(layer.notes) == (kind != TensorProto.DOUBLE)
    np.testing.assert_array_equal(layer.parameters["weight_ih_l0"].ravel(), [1, 3, 4, 2])


def test_numbers_that_are_not_raw(path: Path) -> None:
    held: dict[str, Any] = golden(4)
    for name, array in golden(4).items():
        held[name] = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        held[name].float_data.extend(array.ravel())
    layer = load(path, make_model("LSTM", held))
    np.testing.assert_array_equal(layer.parameters["weight_ih_l0"].ravel(), [1, 3, 4, 2])


# What is refused by name


@pytest.mark.parametrize(
    ("operator", "attributes", "words"),
    [
        ("LSTM", {"clip": 3.0}, "clip: expected none, got 3"),
        ("GRU", {"clip": 0.5}, "clip: expected none, got 0.5"),
        ("LSTM", {"input_forget": 1}, "input_forget: expected 0"),
        ("LSTM", {"direction": "sideways"}, "direction: expected one of forward, reverse, bidir"),
        ("LSTM", {"direction": "bidirectional"}, r"R: expected shape \(2, '4\*H', 'H'\), got"),
        ("LSTM", {"hidden_size": 7}, "hidden_size: expected 1 as in R, got 7"),
        ("LSTM", {"hidden_size": "x"}, "hidden_size: expected .* each of its type"),
        ("LSTM", {"power": 9}, "power: expected hidden_size, "),
        ("LSTM", {"activations": ["Sigmoid", "Tanh"]}, "activations: expected 3 for each of 1"),
        ("LSTM", {"activations": ["Tanh"] * 3}, "activations: expected sigmoid or hardsigmoid"),
        ("LSTM", {"activations": ["Sigmoid", "Relu", "Tanh"]}, "activations: .* tanh for the oth"),
        ("LSTM", {"activations": ["Sigmoid", "Tanh", "Relu"]}, "activations: .* tanh for the oth"),
        ("GRU", {"activations": ["Sigmoid", "Relu"]}, "activations: .* tanh for the others"),
        ("GRU", {"activations": ["Softsign", "Tanh"]}, "activations: expected sigmoid or hard"),
        ("GRU", {"activations": [b"\xff", "Tanh"]}, "activations: expected sigmoid or hard"),
        ("RNN", {"activations": ["LeakyRelu"]}, "activations: expected tanh or relu, got"),
        ("RNN", {"activations": ["HardSigmoid"]}, "activations: expected tanh or relu"),
        ("RNN", {"activations": ["Affine"], "activation_alpha": [1.0]}, "activations: expected"),
        (
            "GRU",
            {"activations": ["HardSigmoid", "Tanh"], "activation_beta": [0.25]},
            "activation_beta: expected 0.5 .* got 0.25",
        ),
        (
            "GRU",
            {"activations": ["HardSigmoid", "Tanh"], "activation_alpha": [math.nan]},
            "activation_beta: expected .* got 0.5 and nan",
        ),
        ("GRU", {"activation_alpha": [0.3]}, "activation_alpha, activation_beta: expected numbers"),
    ],
)
def test_attributes_that_are_refused(path: Path, operator, attributes, words) -> None:
    path.write_bytes(make_model(operator, **attributes).SerializeToString())
    refused(path, f"node: {words}")


def test_directions_that_differ_are_refused(path: Path) -> None:
    names = ["Sigmoid", "Tanh", "HardSigmoid", "Tanh"]
    model = make_model("GRU", golden(3, 2), direction="bidirectional", activations=names)
    path.write_bytes(model.SerializeToString())
    refused(path, "node: activations: expected the same in both directions")


@pytest.mark.parametrize(
    ("inputs", "change", "words"),
    [
        (
            ("X", "W", "R", "", "", "", "", "P"),
            {"P": np.ones((1, 3))},
            "P: expected none, got p",
        ),
        (("X", "X", "R"), {}, "W: expected an initializer or a constant, got 'X', which the graph"),
        (("X", "W", "nowhere"), {}, "R: expected an initializer or a constant, got 'nowhere'"),
        (("X", "W"), {}, "R: expected an initializer or a constant, got None"),
        (("X", "W", "R", "X"), {}, "B: expected an initializer or a constant, got 'X'"),
        (("X", "W", "R"), {"R": np.ones((4, 1))}, r"R: expected shape \(1, '4\*H', 'H'\), got"),
        (("X", "W", "R"), {"R": np.ones((1, 5, 1))}, r"recurrent weights: expected shape \(4"),
        (("X", "W", "R"), {"R": np.ones((1, 0, 0))}, r"W: expected shape \(1, 0, 'I'\)"),
        (("X", "W", "R"), {"W": np.ones((1, 5, 1))}, r"W: expected shape \(1, 4, 'I'\), got"),
        (("X", "W", "R"), {"W": np.ones((1, 4, 0), np.float32)}, "input weights: expected an in"),
        (("X", "W", "R", "B"), {"B": np.ones((1, 4))}, r"B: expected shape \(1, 8\), got \(1, 4"),
        (("X", "W", "R"), {"R": np.ones((1, 4, 1), int)}, "weight_hh_l0: expected an array of fl"),
        (("X", "W", "R"), {"R": np.ones((1, 4, 1))}, "expected float64|expected float32"),
        (("X", "W", "R", "", "", "h"), {"h": np.ones((1, 2, 7))}, "initial_h: expected shape"),
        (("X", "W", "R"), {"W": np.full((1, 4, 1), "x")}, "W: expected an initializer"),
    ],
)
def test_inputs_that_are_refused(path: Path, inputs, change, words) -> None:
    path.write_bytes(make_model("LSTM", golden(4) | change, inputs).SerializeToString())
    refused(path, f"node: .*{words}")


@pytest.mark.parametrize(
    ("operator", "domain", "words"),
    [
        ("DynamicQuantizeLSTM", "com.microsoft", "got com.microsoft.DynamicQuantizeLSTM"),
        ("LSTM", "my.own", "got my.own.LSTM"),
        ("AttnLSTM", "", "got ai.onnx.AttnLSTM"),
    ],
)
def test_other_operators_are_refused(path: Path, operator, domain, words) -> None:
    path.write_bytes(make_model(operator, domain=domain).SerializeToString())
    refused(path, f"node: operator: expected LSTM, GRU or RNN, {words}")


def test_a_model_without_any(path: Path) -> None:
    path.write_bytes(make_model("Add", inputs=("X", "W")).SerializeToString())
    refused(path, "expected nodes LSTM, GRU or RNN, got none in the graph")


@pytest.mark.parametrize("layer", [fastrnn.LSTM(3, 5, proj_size=2)], ids=["projection"])
def test_what_onnx_does_not_have_is_not_written(path: Path, layer: Any) -> None:
    with pytest.raises(ValueError, match="layer: proj_size: expected 0, because ONNX has no proj"):
        weights.save(path, layer)
    assert not path.exists()


# Hostile files


@pytest.mark.parametrize("share", [*range(1, 40), *np.linspace(0.05, 0.999, 40)])
def test_truncated_models(path: Path, share: float) -> None:
    data = make_model().SerializeToString()
    path.write_bytes(data[: int(share) if share >= 1 else int(share * len(data))])
    refused(path, "expected", arrays=share < 0.9)


@pytest.mark.parametrize("seed", range(200))
def test_damaged_models(path: Path, seed: int) -> None:
    data = bytearray(make_model().SerializeToString())
    rng = np.random.default_rng(seed)
    for at in rng.integers(2, len(data), 3):
        data[at] = rng.integers(256)
    path.write_bytes(data)
    for read in (weights.load, weights.arrays):
        words = ""
        try:
            read(path)
        except (ValueError, OSError) as error:  # the latter of external data that is nowhere
            words = str(error)
        assert not words or "model.onnx: " in words or "No such file" in words


def varint(number: int) -> bytes:
    found = []
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def message(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def nested(depth: int) -> bytes:
    """A graph inside an attribute of a node of a graph, and so on."""
    graph = b""
    for _ in range(depth):
        graph = message(1, message(5, message(6, graph)))
    return b"\x08\x08" + message(7, graph)


@pytest.mark.parametrize(
    "data",
    [
        nested(5000),
        nested(30),
        b"\x08\x08" + message(7, b"")[:1] + b"\xff\xff\xff\xff\x07",
        b"\x08\x08" + b"\x3a" + b"\xff" * 20,
        b"\x08" + b"\xff" * 9 + b"\x01",
        b"\x08\x08",
        b"\x08\x08\x3a\x00",
        b"\x0b" * 10_000,  # groups without end
    ],
    ids=lambda data: f"{data[:12].hex()}-{len(data)}",
)
def test_hostile_messages(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"model.onnx: expected"):
        weights.load(path)


def tensor(**fields: Any) -> TensorProto:
    return TensorProto(name="W", **({"data_type": TensorProto.FLOAT, "dims": [1, 4, 1]} | fields))


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (tensor(dims=[1 << 62, 1 << 62], raw_data=b""), "W: expected no more than the file can"),
        (tensor(dims=[1 << 32, 1 << 32], raw_data=bytes(16)), "W: expected no more than the file"),
        (tensor(dims=[1, 400_000, 1], raw_data=bytes(16)), "W: expected no more than the file can"),
        (tensor(dims=[1, 40_000, 1], raw_data=bytes(16)), "W: expected 160000 bytes, got 16"),
        (tensor(dims=[-1, -4, 1], raw_data=bytes(16)), "W: expected sizes of at least 0"),
        (tensor(dims=[1, 4, 1], raw_data=bytes(12)), "W: expected 16 bytes, got 12"),
        (tensor(dims=[1, 4, 1], raw_data=b""), "W: expected 16 bytes, got 0"),
        (tensor(float_data=[1.0, 2.0]), "W: cannot be read"),
        (tensor(data_type=77, raw_data=bytes(16)), "W: unknown type 77"),
        (tensor(data_type=0, raw_data=bytes(16)), "W: expected an initializer"),
        (tensor(data_type=TensorProto.STRING, string_data=[b"x"] * 4), "W: expected an initial"),
    ],
    ids=str,
)
def test_hostile_tensors(path: Path, held: TensorProto, words: str) -> None:
    path.write_bytes(make_model("LSTM", golden(4) | {"W": held}).SerializeToString())
    refused(path, words, arrays="initial" not in words)


def external(location: str, offset: object = 0, length: object = 16) -> TensorProto:
    held = tensor(data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            held.external_data.add(key=key, value=str(value))
    return held


def write_external(path: Path, *arguments: object) -> None:
    model = make_model("LSTM", golden(4) | {"W": external(*arguments)})
    path.write_bytes(model.SerializeToString())
    for folder in (path.parent, path.parent.parent):
        (folder / "data").write_bytes(golden(4)["W"].tobytes() + b"\x11" * 100)


@pytest.mark.parametrize("arguments", [("data",), ("data", 0, None), ("./data",), ("data", None)])
def test_external_data_in_the_folder(path: Path, arguments: tuple) -> None:
    write_external(path, *arguments)
    layer = weights.load(path)["node"]
    np.testing.assert_array_equal(layer.parameters["weight_ih_l0"].ravel(), [1, 3, 4, 2])
    np.testing.assert_array_equal(weights.arrays(path)["W"].ravel(), [1, 2, 3, 4])


OUTSIDE = "W: expected external data in the model's own folder"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("../data",), OUTSIDE),
        (("x/../../data",), OUTSIDE),
        (("x/../data",), OUTSIDE),
        (("/etc/passwd",), OUTSIDE),
        (("",), OUTSIDE),
        (("\0data",), OUTSIDE),
        (("..\\data",), OUTSIDE),
        (("C:/data",), OUTSIDE),
        (("link",), OUTSIDE),
        (("inside/data",), OUTSIDE),
        (("data", 101), "W: expected 16 bytes, got 16 at 101 of 'data', which has 116"),
        (("data", -1), "W: expected 16 bytes"),
        (("data", 0, 17), "W: expected 16 bytes, got 17"),
        (("data", 0, 1 << 70), "W: expected 16 bytes, got"),
        (("data", 1 << 70), "W: expected 16 bytes, got"),
        (("data", "x"), "W: expected numbers as offset and length"),
        (("data", "9" * 5000), "W: expected numbers as offset and length"),
        (("pipe",), "W: expected a file, got 'pipe'"),
        (("folder",), "directory|W: expected a file"),
        (("absent",), "No such file"),
    ],
)
def test_external_data_elsewhere(path: Path, arguments: tuple, words: str) -> None:
    write_external(path, *arguments)
    (path.parent / "link").symlink_to("../data")
    (path.parent / "inside").symlink_to("..")
    (path.parent / "folder").mkdir()
    os.mkfifo(path.parent / "pipe")
    for read in (weights.load, weights.arrays):
        with pytest.raises((ValueError, OSError), match=words):
            read(path)


def doubling(times: int) -> tuple[Any, ...]:
    names = ["W", *(f"w{k}" for k in range(times))]
    return tuple(make_node("Concat", [a, a], [b], axis=1) for a, b in itertools.pairwise(names))


def circle(times: int) -> tuple[Any, ...]:
    return tuple(make_node("Identity", [f"w{k}"], [f"w{(k + 1) % times}"]) for k in range(times))


@pytest.mark.parametrize(
    ("nodes", "source", "words"),
    [
        (doubling(25), "w24", "Concat: expected no more than the file can hold"),
        (circle(1), "w0", "W: expected an initializer or a constant"),
        (circle(3), "w0", "W: expected an initializer or a constant"),
        ((make_node("Transpose", ["W"], ["w"], perm=[0, 9, 1]),), "w", "W: expected an initial"),
        ((make_node("Slice", ["W"], ["w"], starts=[0], ends=[4], axes=[9]),), "w", "W: expected"),
        ((make_node("Slice", ["W"], ["w"]),), "w", "W: expected an initializer"),
        ((make_node("Concat", ["W"], ["w"]),), "w", "W: expected an initializer"),
        ((make_node("Expand", ["W", "W"], ["w"]),), "w", "W: expected an initializer"),
        ((make_node("Constant", [], ["w"]),), "w", "W: expected an initializer"),
        ((make_node("Identity", [], ["w"]),), "w", "W: expected an initializer"),
    ],
    ids=lambda value: str(value)[:40].replace("\n", " "),
)
def test_hostile_nodes(path: Path, nodes: tuple, source: str, words: str) -> None:
    model = make_model("LSTM", inputs=("X", source, "R", "B"), nodes=nodes)
    path.write_bytes(model.SerializeToString())
    start = time.perf_counter()
    refused(path, f"node: .*{words}")
    assert time.perf_counter() - start < 5


def test_many_ways_to_one_constant_are_gone_once(path: Path) -> None:
    """Each of these nodes doubles the ways, and not the work."""
    nodes = [make_node("Slice", ["W"], ["w0"], starts=[0], ends=[1], axes=[1])]
    for k in range(28):
        nodes.append(make_node("Concat", [f"w{k}", f"w{k}"], [f"v{k}"], axis=1))
        nodes.append(make_node("Slice", [f"v{k}"], [f"w{k + 1}"], starts=[0], ends=[1], axes=[1]))
    nodes = nodes[:29]
    model = make_model("LSTM", inputs=("X", "w14", "R", "B"), nodes=tuple(nodes))
    path.write_bytes(model.SerializeToString())
    start = time.perf_counter()
    refused(path, r"node: W: expected shape \(1, 4, 'I'\), got \(1, 1, 1\)")
    assert time.perf_counter() - start < 5


def test_errors_of_a_file_name_it_first(path: Path) -> None:
    path.write_bytes(make_model("LSTM", clip=1.0).SerializeToString())
    with pytest.raises(ValueError, match=f"^{path}: node: clip: "):
        weights.load(path)
