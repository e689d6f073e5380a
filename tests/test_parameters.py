"""Parameters of the layers: names, shapes, initial values, seeds, loading; and their words."""

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn.cells import CELLS
from problems import VARIANTS, Variant

I, H, P = 2, 4, 3
variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        np.testing.assert_array_equal(found[name], want, err_msg=name, strict=True)


@variants
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_names_and_shapes_are_those_of_torch(
    variant: Variant, num_layers: int, bidirectional: bool, bias: bool
) -> None:
    layer = getattr(fastrnn, variant.cell.upper())(
        I,
        H,
        num_layers,
        bidirectional=bidirectional,
        bias=bias,
        **({"proj_size": P} if variant.projected else {}),
        **variant.options,
    )
    rows = {"rnn": 1, "gru": 3, "lstm": 4}[variant.cell] * H
    out = P if variant.projected else H
    expected = {}
    for k, direction in itertools.product(
        range(num_layers), ("", "_reverse") if bidirectional else ("",)
    ):
        inputs = I if k == 0 else out * (2 if bidirectional else 1)
        expected[f"weight_ih_l{k}{direction}"] = (rows, inputs)
        expected[f"weight_hh_l{k}{direction}"] = (rows, out)
        if bias:
            expected[f"bias_ih_l{k}{direction}"] = (rows,)
            expected[f"bias_hh_l{k}{direction}"] = (rows,)
        if variant.projected:
            expected[f"weight_hr_l{k}{direction}"] = (P, H)
    assert {name: array.shape for name, array in layer.parameters.items()} == expected
    assert list(layer.parameters) == list(expected)


@variants
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_initial_values_are_uniform_between_the_bounds(variant: Variant, dtype: str) -> None:
    kind = getattr(fastrnn, variant.cell.upper())
    layer = kind(64, 64, dtype=dtype, seed=5, **variant.options)
    bound = 1 / 8
    for name, array in layer.parameters.items():
        assert array.dtype == dtype, name
        assert array.min() >= -bound, name
        assert array.max() <= bound, name
        if array.ndim == 2:
            # 4096 and more values: each moment lies within five standard errors.
            assert abs(array.mean()) < 5 * bound / np.sqrt(3 * array.size), name
            assert array.std() == pytest.approx(bound / np.sqrt(3), rel=0.05), name
            assert array.max() > 0.99 * bound, name
            assert array.min() < -0.99 * bound, name


def test_seed_decides_the_initial_values() -> None:
    first, same, other, fresh, fresher = (
        fastrnn.LSTM(3, 5, seed=seed).parameters for seed in (7, 7, 8, None, None)
    )
    assert_equal(first, same)
    for name, array in first.items():
        assert not np.array_equal(array, other[name])
        assert not np.array_equal(fresh[name], fresher[name])
    values = np.concatenate([array.reshape(-1) for array in first.values()])
    assert len(np.unique(values)) > 0.99 * len(values)  # no parameter repeats another's draws


def test_load_parameters_copies_and_is_strict() -> None:
    layer, source = fastrnn.GRU(2, 3, seed=1), fastrnn.GRU(2, 3, seed=2)
    arrays = dict(layer.parameters)
    layer.load_parameters(source.parameters)
    assert_equal(layer.parameters, source.parameters)
    assert all(layer.parameters[name] is array for name, array in arrays.items())
    assert not any(
        np.shares_memory(array, source.parameters[name]) for name, array in arrays.items()
    )

    good = {name: np.zeros_like(array) for name, array in arrays.items()}
    before = {name: array.tobytes() for name, array in arrays.items()}
    last = list(good)[-1]
    for bad, error, words in (
        ({k: v for k, v in good.items() if k != last}, ValueError, f"missing {last}"),
        (good | {"weight": good[last]}, ValueError, "unknown weight"),
        (good | {last: np.zeros(8, np.float32)}, ValueError, f"mapping['{last}']: expected shape"),
        (good | {last: np.zeros(9)}, TypeError, f"mapping['{last}']: expected float32"),
        ([*good.values()], TypeError, "mapping: expected a mapping of arrays, got list"),
    ):
        with pytest.raises(error) as raised:
            layer.load_parameters(bad)
        assert words in str(raised.value)
        assert {name: array.tobytes() for name, array in layer.parameters.items()} == before


@pytest.mark.parametrize(
    "text",
    [
        "RNN(2, 4, dtype='float32')",
        "RNN(2, 4, num_layers=2, nonlinearity='relu', dtype='float64')",
        "GRU(2, 4, bias=False, batch_first=True, reset_after=False, dtype='float32')",
        "LSTM(2, 4, num_layers=2, dropout=0.5, bidirectional=True, proj_size=3, dtype='float32')",
        "LSTM(2, 4, backend='numpy', dtype='float32')",
        "RNNCell(2, 4, bias=False, nonlinearity='relu', dtype='float32')",
        "GRUCell(2, 4, reset_after=False, dtype='float64')",
        "LSTMCell(2, 4, dtype='float32')",
        "LSTMCell(2, 4, gate_activation='hard_sigmoid', dtype='float32')",
        "RNN(2, 4, init='orthogonal', nonlinearity='relu', dtype='float32')",
        "LSTM(2, 4, init='orthogonal', forget_bias=1.0, backend='numpy', dtype='float32')",
        "GRUCell(2, 4, init='orthogonal', dtype='float32')",
        "LSTMCell(2, 4, forget_bias=0.0, dtype='float64')",
        "Linear(2, 4, bias=False, dtype='float32')",
        "Embedding(2, 4, dtype='float64')",
        "Sequential(Embedding(5, 2, dtype='float32'), LSTM(2, 4, dtype='float32'))",
        "Sequential(Flatten(), Sequential(Tanh(), Sigmoid(), ReLU()), Softmax(), Dropout(0.5))",
        "ManyToMany(RNN(2, 4, dtype='float32'), OneToOne(Tanh(), Linear(4, 2, dtype='float32')))",
        "ManyToOne(GRU(2, 4, dtype='float32'), Linear(4, 2, dtype='float32'))",
        "OneToMany(Linear(3, 8, dtype='float32'), "
        "Sequential(Embedding(5, 2, dtype='float32'), LSTM(2, 4, dtype='float32')))",
        "EncoderDecoder(GRU(3, 4, dtype='float32'), "
        "Sequential(Embedding(5, 2, dtype='float32'), GRU(2, 4, dtype='float32')))",
        "Stream(GRU(3, 4, dtype='float32'), batch=2)",
        "Softmax(0)",
        "Conv1d(2, 4, 3, dtype='float32')",
        "Conv2d(2, 4, (3, 5), stride=2, padding=(1, 2), bias=False, dtype='float64')",
        "Conv2d(2, 4, 1, stride=(2, 1), dtype='float32')",
        "Sequential(MaxPool1d(2), MaxPool1d(3, stride=1, padding=1))",
        "Sequential(AvgPool2d((2, 3)), AvgPool2d(4, stride=(2, 1), padding=(0, 2)))",
        "Perceptron(2, 3, dtype='float64')",
        "MLP(2, 4, 3, dtype='float32')",
        "MLP(2, (4, 5), 3, activation='tanh', dropout=0.5, dtype='float64')",
    ],
)
def test_repr_is_the_call_that_makes_the_layer(text: str) -> None:
    names = {name: value for name, value in vars(fastrnn).items() if isinstance(value, type)}
    made = eval(text, names)  # noqa: S307 - text of this file
    assert repr(made) == text


def test_every_cell_has_a_layer_and_a_single_step() -> None:
    for name in CELLS:
        assert getattr(fastrnn, name.upper()).cell is CELLS[name]
        assert getattr(fastrnn, f"{name.upper()}Cell").cell is CELLS[name]
        assert callable(getattr(fastrnn.functional, name))


def test_parameters_may_be_changed_between_calls() -> None:
    """In place, by another array, by one that has to be copied: the next call sees the values."""
    layer, x = fastrnn.GRU(I, H, seed=0), np.ones((3, 2, I), np.float32)
    before = layer(x)[0]
    other = fastrnn.GRU(I, H, seed=1)
    expected = other(x)[0]
    assert not np.array_equal(before, expected)
    for name, value in other.parameters.items():
        layer.parameters[name][...] = value
    np.testing.assert_array_equal(layer(x)[0], expected)

    turned = np.zeros((I, 3 * H), np.float32).T  # not C-contiguous
    layer.parameters["weight_ih_l0"] = turned
    assert not np.array_equal(layer(x)[0], expected)
    turned[...] = other.parameters["weight_ih_l0"]
    np.testing.assert_array_equal(layer(x)[0], expected)


@pytest.mark.parametrize(("kind", "shape"), [(fastrnn.LSTM, (3, 2, I)), (fastrnn.LSTMCell, (2, I))])
def test_wrong_parameters_are_found_at_the_next_call(kind: type, shape: tuple[int, ...]) -> None:
    layer, x = kind(I, H, seed=0), np.ones(shape, np.float32)
    layer(x)
    name = next(iter(layer.parameters))
    layer.parameters[name].shape = (I, 4 * H)  # the same array with another shape
    with pytest.raises(ValueError, match=rf"{name}: expected shape \(16, 2\), got \(2, 16\)"):
        layer(x)
    layer.parameters[name] = np.zeros((4 * H, I))
    with pytest.raises(TypeError, match=f"{name}: expected float32"):
        layer(x)
    del layer.parameters[name]
    with pytest.raises(TypeError, match=f"{name}: expected an array, got None"):
        layer(x)


@pytest.mark.parametrize(("kind", "shape"), [(fastrnn.GRU, (3, 2, I)), (fastrnn.GRUCell, (2, I))])
def test_another_network_is_no_parameter(kind: type, shape: tuple[int, ...]) -> None:
    """Nor are parameters that fit each other, but not the layer, or lack the biases."""
    layer, x = kind(I, H, seed=0), np.ones(shape, np.float32)
    kept = dict(layer.parameters)
    for name, array in kind(I, H + 1, seed=0).parameters.items():
        layer.parameters[name] = array
    with pytest.raises(ValueError, match=rf"weight_ih\w*: expected shape \({3 * H}, {I}\)"):
        layer(x)
    layer.parameters.update(kept)
    for name in [name for name in kept if name.startswith("bias")]:
        del layer.parameters[name]
    with pytest.raises(TypeError, match=r"bias_ih.*: expected an array, got None"):
        layer(x)
    layer.parameters.update({name: array.astype(np.float64) for name, array in kept.items()})
    with pytest.raises(TypeError, match=r"weight_ih.*: expected float32"):
        layer(x.astype(np.float64))


def pickled(layer: fastrnn.RNN) -> fastrnn.RNN:
    return pickle.loads(pickle.dumps(layer))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_layers_can_be_copied_and_pickled(again: Callable[[fastrnn.RNN], fastrnn.RNN]) -> None:
    layer, x = fastrnn.RNN(I, H, 2, bidirectional=True, seed=0), np.ones((3, 2, I), np.float32)
    expected = layer(x)[0]
    twin = again(layer)
    np.testing.assert_array_equal(twin(x)[0], expected)
    if again is not copy.copy:
        layer.parameters["weight_ih_l0"][...] = 0
        np.testing.assert_array_equal(twin(x)[0], expected)
        assert not np.array_equal(layer(x)[0], expected)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_copies_have_numpys_own_dtypes(again: Callable[[Any], Any]) -> None:
    """Which a quick call looks for: a copied layer took six times as long for a step."""
    model = fastrnn.Sequential(fastrnn.GRU(I, H, seed=0), fastrnn.Linear(H, 2, seed=1))
    twin = again(model)
    layer, head = twin.layers
    for part in (layer, head):
        assert part.dtype is np.dtype(np.float32)
    for name, array in (*layer.parameters.items(), *twin.parameters.items()):
        assert array.dtype is np.dtype(np.float32), name
    twin.parameters["0.weight_ih_l0"][...] = 3  # and a model's arrays are still its layers'
    assert (layer.parameters["weight_ih_l0"] == 3).all()
    twin.parameters["1.bias"][...] = 3
    assert (head.parameters["bias"] == 3).all()


def test_attributes_may_be_changed_between_calls() -> None:
    """What a call was prepared with is prepared anew."""
    layer, x = fastrnn.GRU(I, H, seed=0), np.ones((3, 2, I), np.float32)
    turned = layer(x.swapaxes(0, 1))[0]
    layer.record(x)
    layer.batch_first = True
    np.testing.assert_array_equal(layer.record(x).output, turned.swapaxes(0, 1))
    layer.backend = "wrong"
    with pytest.raises(ValueError, match="backend: expected one of"):
        layer(x)
    with pytest.raises(ValueError, match="backend: expected one of"):
        layer.record(x)
