"""Weights of safetensors files and of state dicts; what holds for all formats."""

import json
import pickle
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import fastrnn
from fastrnn import weights
from fastrnn.character import Checkpoint, Corpus, Options, Trainer
from fastrnn.weights import Layer, safetensors, table
from problems import VARIANTS, Variant


def make(variant: Variant, **arguments: object) -> fastrnn.layers.Recurrent:
    """A layer whose weights are all different."""
    arguments = {"seed": 1} | variant.options | arguments
    if variant.projected:
        arguments["proj_size"] = 2
    return getattr(fastrnn, variant.cell.upper())(3, 5, **arguments)


def assert_same(found: Layer, expected: fastrnn.layers.Recurrent | Layer) -> None:
    built = found.build() if isinstance(expected, fastrnn.layers.Recurrent) else found
    assert found.cell == Layer.of(expected).cell
    for name in ("options", "batch_first", "bidirectional", "num_layers", "proj_size", "dtype"):
        assert getattr(built, name) == getattr(expected, name), name
    assert list(built.parameters) == list(expected.parameters)
    for name, array in expected.parameters.items():
        np.testing.assert_array_equal(built.parameters[name], array, err_msg=name)


# Layers


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"bias": False, "dtype": "float64"},
        {"num_layers": 3, "bidirectional": True, "batch_first": True},
    ],
    ids=str,
)
def test_what_was_saved_is_loaded(tmp_path, variant, arguments):
    layer = make(variant, **arguments)
    path = tmp_path / "layer.safetensors"
    weights.save(path, layer)
    found = weights.load(path)
    assert list(found) == [""]
    assert_same(found[""], layer)
    assert found[""].assumed == {}
    x = np.ones((4, 4, 3), layer.dtype)
    np.testing.assert_array_equal(found[""].build()(x)[0], layer(x)[0])


def test_several_layers_keep_their_names_and_order(tmp_path):
    path = tmp_path / "layers.safetensors"
    layers = {f"part {k}.b": make(VARIANTS[k]) for k in (4, 1, 3, 0)}
    weights.save(path, layers)
    found = weights.load(path)
    assert list(found) == list(layers)
    for name, layer in layers.items():
        assert_same(found[name], layer)
    assert "part 4.b.weight_ih_l0" in weights.arrays(path)


def test_reverse_and_states_are_kept(tmp_path):
    path = tmp_path / "layers.safetensors"
    lstm, gru = fastrnn.LSTM(3, 5, seed=1), fastrnn.GRU(3, 5, seed=2, bidirectional=True)
    h, c = np.arange(20, dtype=np.float32).reshape(2, 1, 2, 5)
    layers = {
        "a": Layer("lstm", {}, lstm.parameters, reverse=True, state=(h, c)),
        "b": Layer("gru", {}, gru.parameters, state=np.ones((2, 1, 5), np.float32)),
    }
    weights.save(path, layers)
    found = weights.load(path)
    for name, layer in layers.items():
        assert_same(found[name], layer)
    assert (found["a"].reverse, found["b"].reverse) == (True, False)
    np.testing.assert_array_equal(found["a"].state, layers["a"].state)
    np.testing.assert_array_equal(found["b"].state, layers["b"].state)
    with pytest.raises(ValueError, match=r"reverse: expected .*functional.lstm"):
        found["a"].build()


def test_a_checkpoint_holds_a_layer(tmp_path):
    """It, and not the optimizer's moments, which are under similar names."""
    path = tmp_path / "run.safetensors"
    options = Options(cell="gru", hidden=5, layers=2, batch=3, window=8)
    trainer = Trainer(Corpus.of("abcdefgh" * 50, 3, 8), options, "numpy")
    trainer.step()
    Checkpoint.of(trainer, None).save(path)
    found = weights.load(path)
    assert list(found) == ["model.1"]
    assert_same(found["model.1"], trainer.model.layers[1])


def test_the_folded_sizes_of_a_layer():
    layer = Layer.of(make(VARIANTS[-1], num_layers=2, bidirectional=True, bias=False))
    assert (layer.input_size, layer.hidden_size, layer.num_layers, layer.proj_size) == (3, 5, 2, 2)
    assert (layer.bidirectional, layer.bias, layer.dtype) == (True, False, np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight_ih_l0": None}, "weight_ih_l0: is missing"),
        ({"weight_hh_l1": None}, "weight_ih_l1: belongs to no layer"),
        ({"bias_hh_l1": None}, "bias_hh_l1: is missing"),
        ({"weight_hr_l0": np.ones((5, 5), np.float32)}, "weight_hr_l0: expected an LSTM's"),
        ({"weight_hh_l0": np.ones((15, 4), np.float32)}, r"weight_hh_l0: .*\(15, 5\), got"),
        ({"weight_hh_l0": np.ones((14, 5), np.float32)}, r"weight_hh_l0: expected 3\*H rows"),
        ({"weight_hh_l0": np.ones((0, 0), np.float32)}, r"weight_hh_l0: expected a matrix"),
        ({"bias_ih_l1": np.ones(15)}, "bias_ih_l1: expected float32"),
        ({"weight_ih_l1": np.ones((15, 4), np.float32)}, r"weight_ih_l1: .*\(15, 5\), got"),
        ({"weight_ih_l9": np.ones((15, 5), np.float32)}, "weight_ih_l9: belongs to no layer"),
        ({"weight_hh_l99999999": np.ones((15, 5), np.float32)}, "weight_ih_l2: is missing"),
    ],
)
def test_layers_that_do_not_fit_together(change, words):
    parameters = fastrnn.GRU(3, 5, 2).parameters | change
    parameters = {name: array for name, array in parameters.items() if array is not None}
    with pytest.raises((ValueError, TypeError), match=words):
        Layer("gru", {}, parameters)
    with pytest.raises(ValueError, match=r"reverse: expected a single layer"):
        Layer("gru", {}, fastrnn.GRU(3, 5, 2).parameters, reverse=True)


# The table


@pytest.mark.parametrize("row", [r for r in table.CONVERSIONS if r.source == "onnx"], ids=str)
def test_writing_is_the_inverse_of_reading(row):
    G = len(row.gates)
    ih, hh, bias = (
        np.arange(n, dtype=np.float32).reshape(shape)
        for n, shape in ((G * 10, (G * 2, 5)), (G * 4, (G * 2, 2)), (G * 4, (G * 4,)))
    )
    for given in (bias, None):
        for found, expected in zip(
            table.write(row, table.read(row, ih, hh, given)), (ih, hh, given), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


# Foreign names


def foreign(layer, prefix):
    return {prefix + name: array for name, array in layer.parameters.items()}


def test_layers_of_a_bigger_model_are_found():
    lstm = fastrnn.LSTM(3, 5, 2, bidirectional=True, proj_size=2, seed=1)
    gru, rnn, cell = fastrnn.GRU(2, 3, seed=2), fastrnn.RNN(2, 3, seed=3), fastrnn.LSTMCell(2, 4)
    mapping = {
        "embedding.weight": np.ones((9, 3), np.float32),
        "steps": np.array(7),
        **foreign(lstm, "module.encoder.rnn."),
        **foreign(gru, "a."),
        "weight": np.ones(3),
        **foreign(rnn, ""),
        **foreign(cell, "decoder.cell."),
    }
    with pytest.warns(UserWarning, match="source: nothing says the nonlinearity of ''"):
        found = weights.load(mapping)
    assert list(found) == ["module.encoder.rnn", "a", "", "decoder.cell"]
    for key, layer in zip(found, (lstm, gru, rnn), strict=False):
        assert_same(found[key], layer)
        assert found[key].assumed["batch_first"] is False
    for name, array in cell.parameters.items():
        np.testing.assert_array_equal(found["decoder.cell"].parameters[f"{name}_l0"], array)
    found["a"].parameters["bias_hh_l0"][:] = 0  # a copy
    assert gru.parameters["bias_hh_l0"].any()


def test_a_file_of_torch_is_read(tmp_path):
    gru = fastrnn.GRU(2, 3, 2, seed=2)
    path = tmp_path / "model.safetensors"
    save_file(foreign(gru, "x.gru."), path, metadata={"format": "pt"})
    found = weights.load(path, options={"batch_first": True, "reset_after": True})
    assert list(found) == ["x.gru"]
    assert found["x.gru"].batch_first is True
    assert found["x.gru"].assumed == {}
    for name, array in gru.parameters.items():
        np.testing.assert_array_equal(found["x.gru"].parameters[name], array)


def test_options_say_what_a_source_does_not():
    rnn, gru = fastrnn.RNN(2, 3), fastrnn.GRU(2, 3)
    both = foreign(rnn, "rnn.") | foreign(gru, "gru.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = weights.load(both, options={"nonlinearity": "relu"})
    assert found["rnn"].options["nonlinearity"] == "relu"
    assert found["rnn"].assumed == {"batch_first": False}
    for given, words in (
        ({"reset_after": False}, r"gru: options\['reset_after'\]: expected True as in the file"),
        ({"nonlinearity": "sin"}, "options.*: expected one of 'tanh', 'relu', got 'sin'"),
        ({"power": 9}, "options: expected one of .*, got 'power'"),
    ):
        with pytest.raises(ValueError, match=words):
            weights.load(both, options=given)
    with pytest.raises(ValueError, match=r"options\['nonlinearity'\]: no layer"):
        weights.load(foreign(gru, ""), options={"nonlinearity": "relu"})
    with pytest.raises(TypeError, match="options: expected a mapping"):
        weights.load(both, options=7)


def test_half_precision_becomes_float32(tmp_path):
    gru = fastrnn.GRU(2, 3, seed=1)
    halves = {name: array.astype(np.float16) for name, array in gru.parameters.items()}
    found = weights.load(halves)[""]
    assert found.dtype == np.float32
    assert found.notes == ("float16 was read as float32",)
    np.testing.assert_array_equal(found.parameters["weight_ih_l0"], halves["weight_ih_l0"])
    path = tmp_path / "brain.safetensors"
    header = {"weight": {"dtype": "BF16", "shape": [3, 1], "data_offsets": [0, 6]}}
    write_safetensors(path, header, struct.pack("<3H", 0x3F80, 0xC049, 0x7F80))
    np.testing.assert_array_equal(weights.arrays(path)["weight"], [[1], [-3.140625], [np.inf]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"m.weight_hh_l0": None}, "m.weight_ih_l0: expected weight_hh_l0 beside it"),
        ({"m.weight_hh_l0": np.ones((15, 6))}, "m: weight_hh_l0: expected 1, 3 or 4 times"),
        ({"m.weight_hh_l0": np.ones(15)}, r"m: weight_hh_l0: expected shape \(G\*H, H\)"),
        ({"m.weight_hh_l0": np.ones((0, 0))}, r"m: weight_hh_l0: expected shape \(G\*H, H\)"),
        ({"m.weight_hh": np.ones((15, 5))}, "m.weight_hh: expected a layer or a cell, got both"),
        ({"m.bias_ih_l0": np.ones(15, int)}, "m: bias_ih_l0: expected an array of float32"),
        ({"m.bias_ih_l0": None}, "m: bias_ih_l0: is missing"),
        ({"m.bias_ih_l0": np.ones(15)}, "m: bias_ih_l0: expected float32"),
        ({"m.bias_ih_l0": [[1], [2, 3]]}, "m: bias_ih_l0: expected an array"),
    ],
)
def test_state_dicts_that_do_not_fit_together(change, words):
    mapping = foreign(fastrnn.GRU(2, 5), "m.") | change
    with pytest.raises((ValueError, TypeError), match=words):
        weights.load({name: array for name, array in mapping.items() if array is not None})


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ({}, ValueError, "expected recurrent layers .* none among 0 arrays"),
        ({"weight_hh_l0_raw": 1}, ValueError, "got weight_hh_l0_raw, which is none of them"),
        ({"model": {"weight_hh_l0": 1}}, ValueError, "none among 1 arrays"),
        (fastrnn.GRU(2, 3), TypeError, "source: expected a file or a mapping"),
        (None, TypeError, "source: expected a file or a mapping"),
        (".", ValueError, r"\.: expected a file, got a folder"),
        ("/dev/null", ValueError, "/dev/null: expected a file, got a folder or a device"),
        ("absent.onnx", OSError, "absent.onnx"),
    ],
)
def test_sources_that_are_none(source, error, words):
    with pytest.raises(error, match=words):
        weights.load(source)


@pytest.mark.parametrize(
    ("path", "layers", "error", "words"),
    [
        ("x.txt", fastrnn.GRU(2, 3), ValueError, r"path: expected a name that ends in .safetens"),
        ("x.safetensors", {}, ValueError, "layers: expected at least one"),
        ("x.safetensors", {1: fastrnn.GRU(2, 3)}, TypeError, "layers: expected names that are"),
        ("x.safetensors", {"a": 1}, TypeError, "layers: expected Layer, RNN, GRU or LSTM"),
        ("x.safetensors", fastrnn.GRUCell(2, 3), TypeError, "layers: expected Layer, RNN"),
        (7, fastrnn.GRU(2, 3), TypeError, "path: expected a file"),
    ],
)
def test_what_cannot_be_saved(tmp_path, monkeypatch, path, layers, error, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        weights.save(path, layers)
    assert not list(Path().iterdir())


# Hostile files


def write_safetensors(path, header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)


ROW = {"dtype": "F32", "shape": [3, 1], "data_offsets": [0, 12]}
LAYERS = {"cell": "rnn", "options": {}, "batch_first": False, "reverse": False, "state": False}


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ({"weight_hh_l0": ROW}, 1 << 62),
        ({"weight_hh_l0": ROW}, 1 << 20),
        ({"weight_hh_l0": ROW}, 3),
        (b"", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b'{"a":' * 100_000, None),
        ({"weight_hh_l0": ROW | {"shape": [1 << 32, 1 << 32]}}, None),
        ({"weight_hh_l0": ROW | {"shape": [1 << 63, 2]}}, None),
        ({"weight_hh_l0": ROW | {"shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, None),
        ({"weight_hh_l0": ROW | {"shape": [-3, -1]}}, None),
        ({"weight_hh_l0": ROW | {"shape": [3.5]}}, None),
        (b'{"weight_hh_l0":{"dtype":"F32","shape":[NaN],"data_offsets":[0,12]}}', None),
        ({"weight_hh_l0": ROW | {"shape": "3"}}, None),
        ({"weight_hh_l0": ROW | {"dtype": "O"}}, None),
        ({"weight_hh_l0": ROW | {"dtype": "F8_E4M3", "shape": [12]}}, None),
        ({"weight_hh_l0": ROW | {"data_offsets": [12, 0]}}, None),
        ({"weight_hh_l0": ROW | {"data_offsets": [0, 24]}}, None),
        ({"a": ROW, "b": ROW}, None),
    ],
    ids=lambda value: str(value)[:70],
)
def test_hostile_safetensors(tmp_path, header, size):
    path = tmp_path / "hostile.safetensors"
    write_safetensors(path, header, bytes(12), size)
    for read in (weights.load, weights.arrays):
        with pytest.raises(ValueError, match=r"hostile\.safetensors: expected"):
            read(path)


@pytest.mark.parametrize(
    "layers",
    [
        "{",
        "[" * 100_000,
        "7",
        '{"a": 7}',
        '{"a": {}}',
        json.dumps({"a": LAYERS}),
        json.dumps({"": LAYERS | {"cell": "elman"}}),
        json.dumps({"": LAYERS | {"cell": []}}),
        json.dumps({"": LAYERS | {"options": {"power": 9}}}),
        json.dumps({"": LAYERS | {"options": 9}}),
        json.dumps({"": LAYERS | {"options": {"nonlinearity": "sin"}}}),
        json.dumps({"": LAYERS | {"state": True}}),
        json.dumps({"": LAYERS | {"cell": "lstm"}}),
    ],
    ids=lambda text: text[:60],
)
def test_hostile_metadata(tmp_path, layers):
    path = tmp_path / "hostile.safetensors"
    rnn = fastrnn.RNN(2, 3)
    safetensors.save(path, rnn.parameters, {"format": "fastrnn", "layers": layers})
    with pytest.raises(ValueError, match=r"hostile\.safetensors: "):
        weights.load(path)
    safetensors.save(
        path, rnn.parameters, {"format": "fastrnn", "layers": json.dumps({"": LAYERS})}
    )
    assert_same(weights.load(path)[""], rnn)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of a file was run')",)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.onnx", "x.h5", "x.keras", "x"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_never_read(tmp_path, name, protocol):
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"weight_hh_l0": Evil()}, protocol))
    for read in (weights.load, weights.arrays):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            read(path)
    if protocol > 1:
        with pytest.raises(ValueError, match=r"got a pickle, .* safetensors.torch.save_file"):
            weights.load(path)


@pytest.mark.parametrize("name", ["x.safetensors", "x.onnx", "x.h5", "x.keras", "x", "x.hdf5"])
@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x08", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"text\n" * 9]
)
def test_a_file_of_nothing(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    for read in (weights.load, weights.arrays):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            read(path)


@pytest.mark.parametrize("share", [0, 1, 7, 8, 9, 0.1, 0.5, 0.9, -1])
def test_a_truncated_file(tmp_path, share):
    path = tmp_path / "cut.safetensors"
    weights.save(path, fastrnn.GRU(2, 3))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data)) if 0 < share < 1 else share])
    with pytest.raises(ValueError, match=r"cut\.safetensors: expected"):
        weights.load(path)
