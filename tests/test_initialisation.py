"""Where layers start: what the options promise, and what they leave as it was."""

import copy
import hashlib
import pickle
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import initialisation
from fastrnn.cells import CELLS

# Computed before there were any options.
BEFORE = {
    "RNN(2, 4, seed=3)": "27439a0733690d9f",
    "GRU(3, 5, 2, bidirectional=True, seed=4)": "75f715e0f44dbb99",
    "LSTM(2, 4, 2, proj_size=3, dtype='float64', seed=5)": "e461d54c4c483ac6",
    "LSTM(2, 4, bias=False, seed=6)": "2ffed67efb52ac7f",
    "RNNCell(2, 4, seed=7)": "c664b8293f7f31a3",
    "GRUCell(2, 4, dtype='float64', seed=8)": "64aab85ef10f232e",
    "LSTMCell(2, 4, seed=9)": "daa0fd5a218822db",
    "Linear(2, 4, seed=10)": "32a46300c00b37c5",
}


@pytest.mark.parametrize("text", BEFORE)
def test_default_values_are_those_of_before(text: str) -> None:
    names = {name: value for name, value in vars(fastrnn).items() if isinstance(value, type)}
    digest = hashlib.sha256()
    for name, array in eval(text, names).parameters.items():  # noqa: S307 - text of this file
        digest.update(name.encode() + array.tobytes())
    assert digest.hexdigest()[:16] == BEFORE[text]


def test_dropout_draws_what_it_drew_before() -> None:
    layer = fastrnn.LSTM(2, 3, 2, dropout=0.5, seed=1, backend="numpy")
    found = layer.record(np.ones((2, 1, 2), np.float32)).output[-1, 0]
    np.testing.assert_allclose(found, [-0.30011183, -0.32427477, -0.01660857], rtol=1e-5)


def kinds() -> list[Any]:
    """Layers of every cell, direction and depth, and single steps."""
    found = []
    for cell in CELLS:
        layer = getattr(fastrnn, cell.upper())
        found += [
            pytest.param(layer, more, id=f"{cell}-{'-'.join(more)}")
            for more in ({}, {"num_layers": 2, "bidirectional": True}, {"bias": False})
        ]
        found.append(pytest.param(getattr(fastrnn, f"{cell.upper()}Cell"), {}, id=f"{cell}-step"))
    more = {"proj_size": 3, "num_layers": 2, "bidirectional": True}
    return [*found, pytest.param(fastrnn.LSTM, more, id="lstm-projected")]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kind", "more"), kinds())
def test_recurrent_blocks_are_orthogonal_and_nothing_else_changes(
    kind: Any, more: dict[str, Any], dtype: str
) -> None:
    H = 7
    layer = kind(3, H, dtype=dtype, seed=1, init="orthogonal", **more)
    plain = kind(3, H, dtype=dtype, seed=1, **more).parameters
    assert list(layer.parameters) == list(plain)
    blocks = []
    for name, array in layer.parameters.items():
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        if not name.startswith("weight_hh"):
            np.testing.assert_array_equal(array, plain[name], err_msg=name)
            continue
        assert array.shape == plain[name].shape
        for g in range(len(layer.cell.gates)):
            block = array[g * H : (g + 1) * H].astype(np.float64)
            exact = 1e-13 if dtype == "float64" else 1e-6
            eye = np.eye(block.shape[1])
            np.testing.assert_allclose(block.T @ block, eye, rtol=0, atol=exact, err_msg=name)
            blocks.append(block)
    directions = more.get("num_layers", 1) * (2 if "bidirectional" in more else 1)
    assert len(blocks) == directions * len(layer.cell.gates)
    assert len({block.tobytes() for block in blocks}) == len(blocks)  # each its own draw
    again = kind(3, H, dtype=dtype, seed=1, init="orthogonal", **more)
    other = kind(3, H, dtype=dtype, seed=2, init="orthogonal", **more)
    for name, array in layer.parameters.items():
        np.testing.assert_array_equal(array, again.parameters[name])
        assert not np.array_equal(array, other.parameters[name])


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_orthogonal_matrices_are_uniformly_distributed(n: int) -> None:
    """Invariants of the Haar measure: half of the determinants are 1, the trace has mean 0 and
    variance 1, each element mean 0 and variance 1/n (Diaconis & Shahshahani 1994).

    LAPACK's own Q fails this: its signs depend on the matrix.
    """
    draws = 4000
    generator = np.random.default_rng(0)
    found = np.stack([initialisation.orthogonal(n, n, generator) for _ in range(draws)])
    sigma = draws**-0.5
    assert abs(np.linalg.det(found).mean()) < 4 * sigma
    traces = np.trace(found, axis1=1, axis2=2)
    assert abs(traces.mean()) < 4 * sigma
    assert abs((traces**2).mean() - 1) < 4 * sigma * np.sqrt(2)
    assert (abs(found.mean(axis=0)) < 4.5 * sigma * n**-0.5).all()
    assert (abs((found**2).mean(axis=0) - 1 / n) < 4.5 * sigma * np.sqrt(2) / n).all()


@pytest.mark.parametrize(("rows", "columns"), [(2, 1), (7, 3), (64, 33)])
def test_fewer_columns_than_rows(rows: int, columns: int) -> None:
    found = initialisation.orthogonal(rows, columns, np.random.default_rng(1))
    assert found.shape == (rows, columns)
    np.testing.assert_allclose(found.T @ found, np.eye(columns), rtol=0, atol=1e-13)


@pytest.mark.parametrize("value", [1, 0, -2.5, np.float32(0.1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forget_bias_is_the_sum_of_both_biases(value: float, dtype: str) -> None:
    I, H = 2, 5
    deep = {"num_layers": 2, "bidirectional": True}
    for kind, more in ((fastrnn.LSTM, deep), (fastrnn.LSTMCell, {})):
        layer = kind(I, H, seed=1, dtype=dtype, forget_bias=value, **more)
        plain = kind(I, H, seed=1, dtype=dtype, **more).parameters
        forget = np.arange(4 * H) // H == 1  # i, f, g, o
        suffixes = [name[9:] for name in plain if name.startswith("weight_ih")]
        for suffix in suffixes:
            total = layer.parameters[f"bias_ih{suffix}"] + layer.parameters[f"bias_hh{suffix}"]
            np.testing.assert_array_equal(total[forget], total.dtype.type(value))
        for name, array in layer.parameters.items():
            rest = ~forget if name.startswith("bias") else slice(None)
            np.testing.assert_array_equal(array[rest], plain[name][rest])
        assert len(suffixes) == (4 if more else 1)


def test_the_forget_gate_begins_open() -> None:
    """With a large bias the cell state stays what it is."""
    cell = fastrnn.LSTMCell(1, 3, seed=0, forget_bias=50)
    cell.parameters["weight_ih"][...] = 0
    cell.parameters["weight_hh"][...] = 0
    for name in ("bias_ih", "bias_hh"):
        cell.parameters[name][:3] = -50  # nothing comes in
    c = np.array([[1.0, -2.0, 3.0]], np.float32)
    state = (np.zeros_like(c), c)
    for _ in range(100):
        state = cell(np.ones((1, 1), np.float32), state)
    np.testing.assert_array_equal(state[1], c)


def test_options_survive_copies_and_pickles() -> None:
    layer = fastrnn.LSTM(2, 3, seed=0, init="orthogonal", forget_bias=1)
    pickled = pickle.loads(pickle.dumps(layer))  # noqa: S301 - our own bytes
    for twin in (copy.copy(layer), copy.deepcopy(layer), pickled):
        assert (twin.init, twin.forget_bias) == ("orthogonal", 1.0)
        assert repr(twin) == repr(layer)


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.LSTMCell])
def test_layers_pickled_before_there_were_options(kind: Any) -> None:
    layer = kind(2, 3, seed=0)
    attributes = layer.__getstate__()
    del attributes["init"], attributes["forget_bias"]
    twin = kind.__new__(kind)
    twin.__setstate__(attributes)
    assert repr(twin) == repr(layer)
