"""`fastrnn inspect` and `fastrnn convert`."""

import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import fastrnn
from fastrnn import cli, weights


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def layer():
    return fastrnn.GRU(3, 5, seed=1, batch_first=True)


def keras_weights(name="rnn"):
    """A file of Keras 2 that does not say by what gates are squashed."""
    with h5py.File("model.h5", "w") as file:
        file.attrs["layer_names"] = [name.encode()]
        file.attrs["keras_version"] = b"2.0.6"
        group = file.create_group(name)
        group.attrs["weight_names"] = [
            f"{name}/{kind}".encode() for kind in ("kernel", "recurrent_kernel")
        ]
        group[f"{name}/kernel"] = np.ones((3, 8), np.float32)
        group[f"{name}/recurrent_kernel"] = np.ones((2, 8), np.float32)


def test_inspect(capsys, layer):
    weights.save("model.safetensors", {"encoder": layer, "": fastrnn.LSTM(2, 4, 2, proj_size=3)})
    assert cli.main(["inspect", "model.safetensors"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = [re.split(r"\s*│\s*", line)[1:-1] for line in out.splitlines() if "│" in line]
    assert rows[0] == [
        "encoder",
        "GRU",
        "3",
        "5",
        "1",
        "forward",
        "r z n",
        "reset_after=True, gate_activation=sigmoid, batch_first=True, bias=True",
        "",
    ]
    assert rows[1][:7] == ["(no name)", "LSTM", "2", "4 to 3", "2", "forward", "i f g o"]
    assert ["encoder.weight_hh_l0", "(15, 5)", "float32"] in rows
    assert len(rows) == 2 + 4 + 10


def test_inspect_says_what_was_assumed(capsys):
    keras_weights()
    assert cli.main(["inspect", "model.h5"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"batch_first=True, bias=False +│ gate_activation=hard_sigmoid", out)
    assert "rnn: what is assumed is what Keras 2.0.6 does if it is not told\n" in out
    assert cli.main(["inspect", "model.h5", "--option", "gate_activation=sigmoid"]) == 0
    assert re.search(r"gate_activation=sigmoid, batch_first=True", capsys.readouterr().out)


def test_names_do_not_control_a_terminal(capsys):
    name = "\x1b]0;title\x07[red]\n"
    keras_weights(name)
    assert cli.main(["inspect", "model.h5"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[red]" in out


@pytest.mark.parametrize("out", ["out.onnx", "out.safetensors"])
def test_convert(capsys, layer, out):
    weights.save("model.safetensors", {"encoder": layer})
    for _ in range(2):  # a second time it is replaced
        assert cli.main(["convert", "model.safetensors", out]) == 0
        assert capsys.readouterr().out == f"layer       encoder: GRU 3 -> 5\nwritten     {out}\n"
    found = weights.load(out)["encoder"]
    for name, array in layer.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], array)
    assert cli.main(["convert", out, "again.safetensors"]) == 0
    for name, array in layer.parameters.items():
        np.testing.assert_array_equal(
            weights.load("again.safetensors")["encoder"].parameters[name], array
        )


def test_convert_says_what_was_assumed(capsys):
    keras_weights()
    assert cli.main(["convert", "model.h5", "out.safetensors"]) == 0
    assert "rnn: LSTM 3 -> 2, assumed: gate_activation=hard_sigmoid\n" in capsys.readouterr().out
    option = ["--option", "gate_activation=sigmoid"]
    assert cli.main(["convert", "model.h5", "out.safetensors", *option]) == 0
    assert "assumed" not in capsys.readouterr().out
    assert weights.load("out.safetensors")["rnn"].options == {"gate_activation": "sigmoid"}
    option = ["--option", "batch_first=TRUE", *option]
    assert cli.main(["convert", "model.h5", "out.safetensors", *option]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect"], "FILE"),
        (["inspect", "absent.onnx"], r"absent\.onnx: No such file"),
        (["inspect", "."], r"\.: expected a file, got a folder"),
        (["inspect", "text"], "text: expected a file of one of"),
        (["inspect", "model.pt"], r"model\.pt: expected a file of weights, got a pickle"),
        (["inspect", "gru.safetensors", "--option", "x"], "--option: expected NAME=VALUE, got 'x'"),
        (["inspect", "gru.safetensors", "--option", "x=1"], "options: expected one of .* got 'x'"),
        (
            ["inspect", "gru.safetensors", "--option", "reset_after=false"],
            r"gru\.safetensors: .*options\['reset_after'\]: expected True as in the file, got",
        ),
        (["convert", "gru.safetensors"], "OUT"),
        (["convert", "gru.safetensors", "out.h5"], r"out: expected a name that ends in \.safeten"),
        (["convert", "gru.safetensors", "x/out.onnx"], "out: expected a folder that can be writ"),
        (["convert", "gru.safetensors", "gru.safetensors"], "out: expected another file than IN"),
        (["convert", "absent.onnx", "out.onnx"], r"absent\.onnx: No such file"),
        (["convert", "lstm.safetensors", "out.onnx"], "proj_size: expected 0, because ONNX has no"),
    ],
)
def test_mistakes_are_one_line(capsys, layer, arguments, words):
    Path("text").write_text("text\n")
    Path("model.pt").write_bytes(b"\x80\x04N.")
    weights.save("gru.safetensors", layer)
    weights.save("lstm.safetensors", fastrnn.LSTM(2, 4, proj_size=3))
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"fastrnn: .*{words}.*\n", err), err
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.parametrize(
    ("name", "library"),
    [("model.h5", "h5py"), ("model.onnx", "onnx"), ("gru.safetensors", "safetensors")],
)
def test_a_missing_library_is_one_line(capsys, monkeypatch, layer, name, library):
    keras_weights()
    weights.save("gru.safetensors", layer)
    weights.save("model.onnx", layer)
    monkeypatch.setitem(sys.modules, library, None)
    line = f"fastrnn: {library} is not installed: pip install 'fastrnn[weights]'\n"
    for arguments in (["inspect", name], ["convert", name, "out.safetensors"]):
        assert cli.main(arguments) == 2
        assert capsys.readouterr().err == line
    with pytest.raises(ModuleNotFoundError, match=f"{library} is not installed"):
        weights.load(name)
    if library == "onnx":
        with pytest.raises(ModuleNotFoundError, match="onnx is not installed"):
            weights.save("new.onnx", layer)
