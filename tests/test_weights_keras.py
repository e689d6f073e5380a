"""Files of Keras, written here as Keras writes them, and hostile ones.

`tests/peers` compares with Keras 3 itself. What it no longer writes (the layers of cuDNN, Keras 1)
is judged here by the equations, in plain loops over the layouts that its sources document.
"""

import json
import math
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import fastrnn
from fastrnn import weights

I, H, T, B = 3, 2, 4, 2


def draw(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def write_legacy(
    path: Path,
    layers: dict[str, dict[str, np.ndarray]],
    version: str | None = "2.1.5",
    config: dict | None = None,
) -> None:
    """Weights as Keras 1 and 2 write them; whole models have them in a group of their own."""
    with h5py.File(path, "w") as file:
        group = file
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
            group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in layers]
        if version is not None:
            group.attrs["keras_version"] = version.encode()
        for name, arrays in layers.items():
            inner = group.create_group(name)
            inner.attrs["weight_names"] = [weight.encode() for weight in arrays]
            for weight, array in arrays.items():
                inner[weight] = array


def keras_weights(G: int, bias: tuple[int, ...] | None) -> dict[str, np.ndarray]:
    found = {"rnn/kernel:0": draw(I, G * H), "rnn/recurrent_kernel:0": draw(H, G * H)}
    return found if bias is None else found | {"rnn/bias:0": draw(*bias)}


def sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a))


# cuDNN, by the equations of its documentation (cudnnRNNMode_t), gate by gate


def product(matrix: list[list[float]], vector: list[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, vector, strict=True)) for row in matrix]


def of_cudnn(weights_: dict[str, np.ndarray], gates: str) -> dict[str, tuple]:
    """Cut Keras' three arrays into what cuDNN calls W, R, b_W and b_R of each gate.

    `CuDNNLSTM` and `CuDNNGRU` flatten `kernel[:, k*H:(k+1)*H]` and hand it to cuDNN, which takes it
    for a matrix of H rows of I numbers. The same holds for the recurrent kernel.
    """
    kernel, recurrent, bias = weights_.values()
    n = len(gates)
    found = {}
    for k, gate in enumerate(gates):
        flat = [float(v) for row in kernel[:, k * H : (k + 1) * H] for v in row]
        w = [flat[h * I : (h + 1) * I] for h in range(H)]
        flat = [float(v) for row in recurrent[:, k * H : (k + 1) * H] for v in row]
        r = [flat[h * H : (h + 1) * H] for h in range(H)]
        b_w = [float(v) for v in bias[k * H : (k + 1) * H]]
        b_r = [float(v) for v in bias[(n + k) * H : (n + k + 1) * H]]
        found[gate] = (w, r, b_w, b_r)
    return found


def cudnn_lstm(weights_: dict[str, np.ndarray], x: np.ndarray) -> list[list[float]]:
    """i, f, o = sigmoid(W x + R h + b_W + b_R), c~ = tanh(...), c = f c + i c~, h = o tanh(c)."""
    gates = of_cudnn(weights_, "ifco")
    h, c, outputs = [0.0] * H, [0.0] * H, []
    for row in x.tolist():
        a = {
            gate: [sum(t) for t in zip(product(w, row), product(r, h), b_w, b_r, strict=True)]
            for gate, (w, r, b_w, b_r) in gates.items()
        }
        for u in range(H):
            c[u] = sigmoid(a["f"][u]) * c[u] + sigmoid(a["i"][u]) * math.tanh(a["c"][u])
        h = [sigmoid(a["o"][u]) * math.tanh(c[u]) for u in range(H)]
        outputs.append(h)
    return outputs


def cudnn_gru(weights_: dict[str, np.ndarray], x: np.ndarray) -> list[list[float]]:
    """h' = tanh(W x + r (R h + b_R) + b_W), h = (1 - i) h' + i h, where Keras calls i z."""
    gates = of_cudnn(weights_, "zrh")
    h, outputs = [0.0] * H, []
    for row in x.tolist():
        w_x = {
            gate: [s + t for s, t in zip(product(w, row), b_w, strict=True)]
            for gate, (w, r, b_w, b_r) in gates.items()
        }
        r_h = {
            gate: [s + t for s, t in zip(product(r, h), b_r, strict=True)]
            for gate, (w, r, b_w, b_r) in gates.items()
        }
        z, r = ([sigmoid(s + t) for s, t in zip(w_x[g], r_h[g], strict=True)] for g in "zr")
        new = [math.tanh(w_x["h"][u] + r[u] * r_h["h"][u]) for u in range(H)]
        h = [(1 - z[u]) * new[u] + z[u] * h[u] for u in range(H)]
        outputs.append(h)
    return outputs


@pytest.mark.parametrize(("G", "oracle"), [(4, cudnn_lstm), (3, cudnn_gru)], ids=["lstm", "gru"])
@pytest.mark.parametrize("whole", [False, True], ids=["weights", "model"])
def test_layers_of_cudnn(tmp_path: Path, G: int, oracle: Callable, whole: bool) -> None:
    held = keras_weights(G, (2 * G * H,))
    kind = {4: "CuDNNLSTM", 3: "CuDNNGRU"}[G]
    config = {"class_name": "Sequential", "config": [layer_config(kind)]} if whole else None
    path = tmp_path / "model.h5"
    write_legacy(path, {"rnn": held}, config=config)
    layer = weights.load(path)["rnn"]
    assert layer.assumed == {}
    assert layer.options["gate_activation"] == "sigmoid"
    x = draw(B, T, I, seed=2)
    y, _ = layer.build("numpy")(x)
    expected = np.array([oracle(held, row) for row in x])
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)
    assert np.abs(expected).max() > 0.1
    # Keras' own conversion (keras/engine/saving.py) documents what the kernel becomes.
    block = held["rnn/kernel:0"][:, :H]
    np.testing.assert_array_equal(
        layer.parameters["weight_ih_l0"][:H]
        if G == 4
        else layer.parameters["weight_ih_l0"][H : 2 * H],
        block.T.reshape(block.shape, order="F").T,
    )


def test_both_directions_of_cudnn(tmp_path: Path) -> None:
    held = keras_weights(4, (8 * H,))
    sides = {
        f"both/{side}_rnn/{name[4:]}": array * (1 if side == "forward" else -1)
        for side in ("forward", "backward")
        for name, array in held.items()
    }
    path = tmp_path / "model.h5"
    write_legacy(path, {"both": sides})
    layer = weights.load(path)["both"]
    assert layer.bidirectional
    x = draw(1, T, I, seed=2)
    y, _ = layer.build("numpy")(x)
    np.testing.assert_allclose(y[0, :, :H], cudnn_lstm(held, x[0]), rtol=0, atol=1e-6)
    back = cudnn_lstm({name: -array for name, array in held.items()}, x[0, ::-1])
    np.testing.assert_allclose(y[0, ::-1, H:], back, rtol=0, atol=1e-6)


# Golden values: every weight is another, so that any permutation shows


def golden(*shape: int, first: int) -> np.ndarray:
    return np.arange(first, first + math.prod(shape), dtype=np.float32).reshape(shape)


# One unit, one input: the columns of Keras' kernels are its gates.
GOLDEN = {
    "lstm": (
        {"kernel": [[1, 2, 3, 4]], "recurrent_kernel": [[5, 6, 7, 8]], "bias": [11, 12, 13, 14]},
        {},
        ([1, 2, 3, 4], [5, 6, 7, 8], [11, 12, 13, 14], [0, 0, 0, 0]),
    ),
    "gru, reset after": (
        {
            "kernel": [[1, 2, 3]],
            "recurrent_kernel": [[5, 6, 7]],
            "bias": [[11, 12, 13], [14, 15, 16]],
        },
        {"reset_after": True},
        ([2, 1, 3], [6, 5, 7], [12, 11, 13], [15, 14, 16]),
    ),
    "gru, reset before": (
        {"kernel": [[1, 2, 3]], "recurrent_kernel": [[5, 6, 7]], "bias": [11, 12, 13]},
        {"reset_after": False},
        ([2, 1, 3], [6, 5, 7], [12, 11, 13], [0, 0, 0]),
    ),
    "cudnn lstm": (
        {
            "kernel": [[1, 2, 3, 4]],
            "recurrent_kernel": [[5, 6, 7, 8]],
            "bias": [11, 12, 13, 14, 15, 16, 17, 18],
        },
        {"gate_activation": "sigmoid"},
        ([1, 2, 3, 4], [5, 6, 7, 8], [11, 12, 13, 14], [15, 16, 17, 18]),
    ),
    "cudnn gru": (
        {"kernel": [[1, 2, 3]], "recurrent_kernel": [[5, 6, 7]], "bias": [11, 12, 13, 14, 15, 16]},
        {"gate_activation": "sigmoid", "reset_after": True},
        ([2, 1, 3], [6, 5, 7], [12, 11, 13], [15, 14, 16]),
    ),
    "rnn": (
        {"kernel": [[1]], "recurrent_kernel": [[5]], "bias": [11]},
        {},
        ([1], [5], [11], [0]),
    ),
    "keras 1 lstm": (
        {
            f"lstm_1_{kind}_{gate}": value
            for kind, offset in (("W", 0), ("U", 4), ("b", 10))
            for gate, value in zip(
                "icfo",
                [
                    [offset + k] if kind == "b" else [[offset + k]]
                    for k in (1, 3, 2, 4)  # of i, c, f, o
                ],
                strict=True,
            )
        },
        {},
        ([1, 2, 3, 4], [5, 6, 7, 8], [11, 12, 13, 14], [0, 0, 0, 0]),
    ),
    "keras 1 gru": (
        {
            f"gru_1_{kind}_{gate}:0": [offset + k] if kind == "b" else [[offset + k]]
            for k, gate in enumerate("zrh", 1)
            for kind, offset in (("W", 0), ("U", 4), ("b", 10))
        },
        {"reset_after": False},
        ([2, 1, 3], [6, 5, 7], [12, 11, 13], [0, 0, 0]),
    ),
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_golden_values(tmp_path: Path, kind: str) -> None:
    held, options, expected = GOLDEN[kind]
    prefix = "" if kind.startswith("keras 1") else "rnn/"
    path = tmp_path / "model.h5"
    arrays = {prefix + name: np.array(value, np.float32) for name, value in held.items()}
    write_legacy(path, {"rnn": arrays}, version=None if kind.startswith("keras 1") else "2.1.5")
    given = {"nonlinearity": "tanh"} if kind == "rnn" else {"gate_activation": "sigmoid"}
    layer = weights.load(path, options=given)["rnn"]
    assert layer.options.items() >= options.items()
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_array_equal(layer.parameters[name].ravel(), values, err_msg=name)


# Versions, and what a file does not say


@pytest.mark.parametrize(
    ("version", "gates"),
    [
        (None, "hard_sigmoid"),
        ("2.0.6", "hard_sigmoid"),
        ("2.2.4-tf", "hard_sigmoid"),
        ("2.3.0", "sigmoid"),
        ("2.11.0", "sigmoid"),
        ("3.15.1", "sigmoid"),
    ],
)
def test_what_is_assumed_depends_on_the_version(tmp_path: Path, version, gates) -> None:
    path = tmp_path / "model.h5"
    write_legacy(path, {"rnn": keras_weights(3, None)}, version)
    with pytest.warns(UserWarning, match="model.h5: nothing says the") as caught:
        layer = weights.load(path)["rnn"]
    assert len(caught) == 2
    assert layer.assumed == {"gate_activation": gates, "reset_after": gates == "sigmoid"}
    assert f"Keras {version or '1.0'}" in layer.notes[0]


@pytest.mark.parametrize("version", ["2.2.4", "3.1.0"])
def test_the_slope_of_hard_sigmoid_depends_on_the_version(tmp_path: Path, version) -> None:
    held = keras_weights(4, (4 * H,))
    path = tmp_path / "model.h5"
    write_legacy(path, {"rnn": held}, version)
    layer = weights.load(path, options={"gate_activation": "hard_sigmoid"})["rnn"]
    factor = np.float32(5 / 6) if version[0] == "3" else np.float32(1)
    kernel = held["rnn/kernel:0"].T.reshape(4, H, I)
    found = layer.parameters["weight_ih_l0"].reshape(4, H, I)
    np.testing.assert_array_equal(found[[0, 1, 3]], kernel[[0, 1, 3]] * factor)
    np.testing.assert_array_equal(found[2], kernel[2])


def layer_config(kind: str, **config) -> dict:
    return {"class_name": kind, "config": {"name": "rnn", **config}}


@pytest.mark.parametrize(
    ("kind", "config", "bias", "words"),
    [
        ("LSTM", {"activation": "relu"}, (4 * H,), "activation: expected tanh, got 'relu'"),
        ("LSTM", {"activation": {"class_name": "Snake"}}, (4 * H,), "activation: expected tanh"),
        ("LSTM", {"recurrent_activation": "linear"}, (4 * H,), "recurrent_activation: expected"),
        ("LSTM", {"inner_activation": "relu"}, (4 * H,), "recurrent_activation: expected"),
        ("LSTM", {"units": 7}, (4 * H,), "units: expected 2 as in the weights, got 7"),
        ("LSTM", {"output_dim": 7}, (4 * H,), "units: expected 2 as in the weights, got 7"),
        ("LSTM", {"use_bias": False}, (4 * H,), "use_bias: expected True as in the weights"),
        ("LSTM", {"use_bias": True}, None, "use_bias: expected False as in the weights"),
        ("GRU", {}, (4 * H,), r"recurrent weights: expected shape \(H, 3\*H\), got \(2, 8\)"),
        ("LSTM", {}, (7,), r"bias: expected shape \(4\*H=8,\), got \(7,\)"),
        ("LSTM", {}, (8, 1), r"bias: expected shape \(4\*H=8,\), got \(8, 1\)"),
        (
            "LSTM",
            {"recurrent_activation": "hard_sigmoid"},
            (8 * H,),
            r"gate_activation: expected 'sigmoid', since the bias is \(16,\)",
        ),
        ("RNN", {"cell": {"class_name": "NASCell", "config": {}}}, (4 * H,), "cell: expected one"),
        ("RNN", {}, (4 * H,), "config: expected a mapping"),
        (
            "Bidirectional",
            {"layer": {"class_name": "Dense"}},
            (4 * H,),
            "expected Bidirectional of",
        ),
        (
            "Bidirectional",
            {"layer": layer_config("LSTM")},
            (4 * H,),
            "weights: expected those of o",
        ),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, kind, config, bias, words) -> None:
    path = tmp_path / "model.h5"
    model = {"class_name": "Sequential", "config": {"layers": [layer_config(kind, **config)]}}
    write_legacy(path, {"rnn": keras_weights(4, bias)}, config=model)
    with pytest.raises(ValueError, match=f"model.h5: rnn: {words}"):
        weights.load(path)


def test_a_gru_that_contradicts_its_bias(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    model = {"class_name": "Sequential", "config": [layer_config("GRU", reset_after=True)]}
    write_legacy(path, {"rnn": keras_weights(3, (3 * H,))}, config=model)
    with pytest.raises(ValueError, match=r"rnn: reset_after: expected False, since the bias is"):
        weights.load(path)


def test_a_layer_without_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    model = {"class_name": "Sequential", "config": [layer_config("GRU")]}
    write_legacy(path, {"dense": {"dense/kernel:0": draw(2, 3)}}, config=model)
    with pytest.raises(ValueError, match=r"rnn: weights: expected those of one layer, got .* 0"):
        weights.load(path)
    write_legacy(path, {"dense": {"dense/kernel:0": draw(2, 3)}})
    with pytest.raises(ValueError, match="expected layers LSTM, GRU or SimpleRNN of Keras"):
        weights.load(path)


def test_long_lists_of_names(tmp_path: Path) -> None:
    """HDF5 has a limit for attributes: Keras cuts those that reach it."""
    path = tmp_path / "model.h5"
    write_legacy(path, {"rnn": keras_weights(4, (8 * H,))})
    with h5py.File(path, "a") as file:
        names = file["rnn"].attrs.pop("weight_names")
        file["rnn"].attrs["weight_names0"], file["rnn"].attrs["weight_names1"] = (
            names[:2],
            names[2:],
        )
    assert weights.load(path)["rnn"].bias


# Hostile files


def good(path: Path) -> None:
    write_legacy(path, {"rnn": keras_weights(4, (8 * H,))})


def no_weights_run(path: Path, words: str) -> None:
    """Both readers refuse it in one way, and leave nothing behind."""
    before = sorted(path.parent.iterdir())
    for read in (weights.load, weights.arrays):
        with pytest.raises(ValueError, match=f"{path.name}: .*({words})"):
            read(path)
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize("share", [*range(1, 64, 7), *np.linspace(0.01, 0.999, 40)])
def test_truncated_files(tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.h5"
    good(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share) if share >= 1 else int(share * len(data))])
    no_weights_run(path, "expected")


def assert_read_or_refused(path: Path) -> None:
    for read in (weights.load, weights.arrays):
        words = ""
        try:
            read(path)
        except ValueError as error:
            words = str(error)
        assert not words or words.startswith(f"{path}: ")


@pytest.mark.parametrize("seed", range(60))
def test_damaged_files(tmp_path: Path, seed: int) -> None:
    """Whatever bytes are changed: a layer, or an error that says so."""
    path = tmp_path / "model.h5"
    good(path)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(8, len(data), 20):
        data[at] = rng.integers(256)
    path.write_bytes(data)
    assert_read_or_refused(path)


def damaged(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        good(path)
        with h5py.File(path, "a") as file:
            change(file)

    return write


def replace(file: h5py.File, name: str = "rnn/rnn/kernel:0", **arguments: object) -> h5py.Dataset:
    del file[name]
    return file.create_dataset(name, **arguments)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((I, 4 * H), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "kernel", (I, 4 * H))
    del file["rnn/rnn/kernel:0"]
    file.create_virtual_dataset("rnn/rnn/kernel:0", layout)


def link(target: object) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        del file["rnn/rnn/kernel:0"]
        file["rnn/rnn/kernel:0"] = target

    return damaged(change)


def unknown_filter(file: h5py.File) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((I, 4 * H))
    made.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
    del file["rnn/rnn/kernel:0"]
    space = h5py.h5s.create_simple((I, 4 * H))
    h5py.h5d.create(file["rnn/rnn"].id, b"kernel:0", h5py.h5t.IEEE_F32LE, space, made)


def loop(file: h5py.File) -> None:
    file["rnn/again"] = file["rnn"]


def deep(file: h5py.File) -> None:
    group = file
    for _ in range(3000):
        group = group.create_group("g")
    group["x"] = h5py.SoftLink("/")


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "soft link": (link(h5py.SoftLink("/rnn/rnn/bias:0")), "kernel:0: expected .* got a link"),
    "external link": (link(h5py.ExternalLink("/etc/passwd", "/x")), "kernel:0: .* got a link"),
    "group inside itself": (damaged(loop), "rnn/again: expected a group of its own"),
    "very deep": (damaged(deep), "got a link"),
    "external storage": (
        damaged(
            lambda file: replace(
                file, shape=(I, 4 * H), dtype="f4", external=[("/etc/passwd", 0, 96)]
            )
        ),
        "kernel:0: expected numbers in this file, got those of others",
    ),
    "virtual": (damaged(virtual), "kernel:0: expected numbers in this file"),
    "filter of a plugin": (damaged(unknown_filter), "kernel:0: expected filters among"),
    "never written": (
        damaged(lambda file: replace(file, shape=(I, 4 * H), dtype="f4")),
        "kernel:0: expected 96 bytes of numbers, got 0",
    ),
    "never written, huge": (
        damaged(lambda file: replace(file, shape=(1 << 40, 4 * H), dtype="f4")),
        "kernel:0: expected no more than the file can hold",
    ),
    "chunks never written, huge": (
        damaged(lambda file: replace(file, shape=(1 << 40, 8), dtype="f4", chunks=(1024, 8))),
        "kernel:0: expected no more than the file can hold",
    ),
    "sizes that overflow": (
        damaged(lambda file: replace(file, shape=(1 << 60, 4 * H), dtype="f4", chunks=(8, 8))),
        "kernel:0: expected no more than the file can hold",
    ),
    "compressed zeros": (
        damaged(lambda file: replace(file, data=np.zeros((1 << 20, 8)), compression="gzip")),
        "kernel:0: expected no more than the file can hold",
    ),
}
# `arrays` reads what is there and is no plain number as nothing at all.
HOSTILE_LAYERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "references": (
        damaged(lambda file: replace(file, data=np.array([file.ref] * 3, h5py.ref_dtype))),
        "kernel:0: expected|expected layers",
    ),
    "text": (
        damaged(lambda file: replace(file, data=np.full((I, 4 * H), b"x"))),
        "kernel:0: expected numbers, got",
    ),
    "structures": (
        damaged(lambda file: replace(file, data=np.zeros((I, 4 * H), "f4,f4"))),
        "kernel:0: expected numbers, got",
    ),
    "complex": (
        damaged(lambda file: replace(file, data=np.zeros((I, 4 * H), "c8"))),
        "kernel:0: expected numbers, got",
    ),
    "nothing": (
        damaged(lambda file: replace(file, data=h5py.Empty("f4"))),
        "expected layers|kernel:0: expected",
    ),
    "whole numbers": (
        damaged(lambda file: replace(file, data=np.zeros((I, 4 * H), int))),
        "rnn: weight_ih_l0: expected an array of float32",
    ),
    "three dimensions": (
        damaged(lambda file: replace(file, data=np.zeros((I, 4 * H, 1), np.float32))),
        "expected layers",
    ),
    "names of nothing": (
        damaged(lambda file: file["rnn"].attrs.__setitem__("weight_names", [b"a/kernel"])),
        "a/kernel: expected numbers, as weight_names says, got none",
    ),
    "names that lead away": (
        damaged(lambda file: file["rnn"].attrs.__setitem__("weight_names", [b"../../kernel"])),
        "kernel: expected numbers, as weight_names says, got none",
    ),
    "names that are numbers": (
        damaged(lambda file: file["rnn"].attrs.__setitem__("weight_names", [1.0, 2.0])),
        "weight_names: expected text, got float64",
    ),
    "names that are references": (
        damaged(
            lambda file: file["rnn"].attrs.__setitem__(
                "weight_names", np.array([file.ref] * 2, h5py.ref_dtype)
            )
        ),
        "weight_names: expected text, got object",
    ),
    "some gates of Keras 1": (
        damaged(
            lambda file: (
                file["rnn"].attrs.__setitem__("weight_names", [b"a_W_i", b"a_U_i"]),
                file["rnn"].__setitem__("a_W_i", draw(2, 2)),
                file["rnn"].__setitem__("a_U_i", draw(2, 2)),
            )
        ),
        "weight_names: expected all gates of a cell, got i",
    ),
    "version": (
        damaged(lambda file: file.attrs.__setitem__("keras_version", "new")),
        "keras_version: expected numbers, got 'new'",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_hdf5(tmp_path: Path, name: str) -> None:
    write, words = HOSTILE[name]
    path = tmp_path / "hostile.h5"
    write(path)
    no_weights_run(path, words)


@pytest.mark.parametrize("name", HOSTILE_LAYERS)
def test_hostile_layers(tmp_path: Path, name: str) -> None:
    write, words = HOSTILE_LAYERS[name]
    path = tmp_path / "hostile.h5"
    write(path)
    with pytest.raises(ValueError, match=f"hostile.h5: .*({words})"):
        weights.load(path)


def with_text(path: Path, **options: object) -> bytearray:
    """A file whose attributes are texts of any length, and its bytes."""
    with h5py.File(path, "w", **options) as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": []})
        file.attrs["keras_version"] = "2.1.5"
        file.attrs["layer_names"] = ["rnn", "x" * 300]
        file.create_group("x" * 300)
        group = file.create_group("rnn")
        held = keras_weights(4, (8 * H,))
        group.attrs["weight_names"] = list(held)
        for name, array in held.items():
            group[name] = array
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
@pytest.mark.parametrize("order", [False, True], ids=["", "creation order"])
def test_texts_of_any_length(tmp_path: Path, libver: str, order: bool) -> None:
    path = tmp_path / "model.h5"
    data = with_text(path, libver=libver, track_order=order)
    assert weights.load(path)["rnn"].options == {"gate_activation": "sigmoid"}
    assert b"GCOL" in data


def test_texts_that_do_not_add_up(tmp_path: Path) -> None:
    """HDF5's library would go round in circles, or take 4 GB."""
    path = tmp_path / "hostile.h5"
    data = with_text(path)
    heap = data.index(b"GCOL")
    reference = data.index(heap.to_bytes(8, "little") + b"\1\0\0\0") - 4
    for at, change in (
        (heap + 16 + 8, b"\xff" * 8),
        (heap + 16, b"\0\0\0\0\0\0\0\0" * 2),
        (heap + 16, b"\0\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0"),
        (heap + 8, b"\xff" * 8),
        (heap, b"HEAP"),
        (reference, b"\xff" * 4),
        (reference + 4, b"\xff" * 8),
        (reference + 4, len(data).to_bytes(8, "little")),
        (reference + 12, b"\x77"),
    ):
        broken = bytearray(data)
        broken[at : at + len(change)] = change
        path.write_bytes(broken)
        start = time.perf_counter()
        no_weights_run(path, "expected")
        assert time.perf_counter() - start < 1
    # A text that would go on into what lies behind it.
    length = int.from_bytes(data[reference : reference + 4], "little")
    data[reference : reference + 4] = (length + 40).to_bytes(4, "little")
    path.write_bytes(data)
    no_weights_run(path, f"expected text of at most {length} bytes, got {length + 40}")


def test_texts_that_repeat_a_long_one(tmp_path: Path) -> None:
    """Each of many may be the same megabyte."""
    path = tmp_path / "hostile.h5"
    with_text(path)
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = ["x" * 60_000] + ["y"] * 3000
    data = bytearray(path.read_bytes())
    heap = data.rindex(b"GCOL", 0, data.index(b"x" * 60_000))
    at = data.index(b"\x60\xea\0\0" + heap.to_bytes(8, "little"))
    data[at : at + 16 * 3001] = data[at : at + 16] * 3001
    path.write_bytes(data)
    with pytest.raises(ValueError, match="layer_names: expected no more than the file can hold"):
        weights.load(path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (b"", "model_config: expected JSON"),
        (b"{", "model_config: expected JSON"),
        (b'{"config":' * 6_000, "model_config: expected JSON"),
        (b"7", "config: expected a mapping, got int"),
        (b'{"config": 7}', "config: expected a mapping, got int"),
        (b'{"config": {"layers": [7]}}', "config: expected a mapping, got int"),
        (b'{"config": {"layers": [{"class_name": "LSTM", "config": 7}]}}', "config: expected a m"),
        (b'{"config": {"layers": [{"class_name": ["LSTM"], "config": {}}]}}', "none of them"),
        (b'{"config": {"layers": [{"class_name": "LSTM", "config": {"units": "x"}}]}}', "expected"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_hostile_configurations(tmp_path: Path, config: bytes, words: str) -> None:
    path = tmp_path / "hostile.h5"
    write_legacy(path, {"dense": {"dense/kernel:0": draw(2, 3)}}, config={})
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = np.bytes_(config) if config else ""
    with pytest.raises(ValueError, match=f"hostile.h5: .*{words}"):
        weights.load(path)


# Archives


def write_archive(
    path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED
) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.fixture
def members(tmp_path: Path) -> dict[str, bytes]:
    """The parts of a good archive."""
    path = tmp_path / "inside.h5"
    with h5py.File(path, "w") as file:
        for k, array in enumerate(keras_weights(4, (4 * H,)).values()):
            file[f"layers/lstm/cell/vars/{k}"] = array
    data = path.read_bytes()
    path.unlink()
    config = {"class_name": "Sequential", "config": {"layers": [layer_config("LSTM", units=H)]}}
    return {
        "metadata.json": b'{"keras_version": "3.1.0"}',
        "config.json": json.dumps(config).encode(),
        "model.weights.h5": data,
    }


def test_a_good_archive(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = tmp_path / "model.keras"
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        write_archive(path, members, compression)
        assert list(weights.load(path)) == ["rnn"]
        assert list(weights.arrays(path)) == [f"layers/lstm/cell/vars/{k}" for k in range(3)]
    for name in ("other", "other.h5", "other.onnx"):  # what it holds decides
        shutil.copy(path, tmp_path / name)
        assert list(weights.load(tmp_path / name)) == ["rnn"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"../evil": b"x"}, "'../evil': expected a member inside the archive"),
        ({"/evil": b"x"}, "'/evil': expected a member inside"),
        ({"a/../../evil": b"x"}, "expected a member inside"),
        ({"..\\evil": b"x"}, "expected a member inside"),
        ({"config.json": None}, "expected an archive of Keras, got one without config.json"),
        ({"model.weights.h5": None}, "got one without model.weights.h5"),
        ({"config.json": b"{"}, "config.json: expected JSON"),
        ({"config.json": b"[" * 100_000}, "config.json: expected JSON"),
        ({"metadata.json": b"{"}, "metadata.json: expected JSON"),
        ({"metadata.json": b"[]"}, "keras_version: expected numbers"),
        ({"metadata.json": b'{"keras_version": {"a": 1}}'}, "keras_version: expected numbers"),
        ({"model.weights.h5": b"text"}, "expected a whole HDF5 file"),
        ({"model.weights.h5": b"\x89HDF\r\n\x1a\n"}, "expected a whole HDF5 file"),
    ],
    ids=str,
)
def test_hostile_archives(tmp_path: Path, members, change, words) -> None:
    path = tmp_path / "hostile.keras"
    write_archive(path, {k: v for k, v in (members | change).items() if v is not None})
    no_weights_run(path, words)


def test_bombs(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = tmp_path / "hostile.keras"
    for name in ("config.json", "model.weights.h5"):
        write_archive(path, members | {name: bytes(1 << 28)}, zipfile.ZIP_DEFLATED)
        no_weights_run(path, f"{name}: expected no more than the file can hold")
    write_archive(path, members)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("config.json", b"{}")
    no_weights_run(path, "expected members with names of their own")


@pytest.mark.parametrize("share", np.linspace(0.001, 0.999, 30))
def test_truncated_archives(tmp_path: Path, members: dict[str, bytes], share: float) -> None:
    path = tmp_path / "hostile.keras"
    write_archive(path, members)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data)) + 1])
    no_weights_run(path, "expected")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_archives(tmp_path: Path, members: dict[str, bytes], seed: int) -> None:
    path = tmp_path / "hostile.keras"
    write_archive(path, members, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(4, len(data), 5):
        data[at] = rng.integers(256)
    path.write_bytes(data)
    assert_read_or_refused(path)


def test_what_was_read_does_not_depend_on_the_file(
    tmp_path: Path, members: dict[str, bytes]
) -> None:
    path = tmp_path / "model.keras"
    write_archive(path, members)
    layer = weights.load(path)["rnn"]
    path.unlink()
    assert layer.parameters["weight_ih_l0"].flags.writeable
    assert isinstance(layer.build(), fastrnn.LSTM)
