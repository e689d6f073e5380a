"""The layers of fastrnn.keras against those of Keras itself, on the same weights."""

import itertools
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch.testing import assert_close

import fastrnn.keras as ours

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of Keras
]

HARD = {"recurrent_activation": "hard_sigmoid"}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM": ("LSTM", {}),
    "LSTM without bias": ("LSTM", {"use_bias": False}),
    "LSTM hard": ("LSTM", HARD),
    "GRU": ("GRU", {}),
    "GRU without bias": ("GRU", {"use_bias": False}),
    "GRU hard": ("GRU", HARD),
    "GRU before": ("GRU", {"reset_after": False}),
    "GRU before, hard, without bias": ("GRU", {"reset_after": False, "use_bias": False, **HARD}),
    "SimpleRNN": ("SimpleRNN", {}),
    "SimpleRNN without bias": ("SimpleRNN", {"use_bias": False}),
    "SimpleRNN relu": ("SimpleRNN", {"activation": "relu"}),
}
NAMES = ["LSTM", "GRU", "SimpleRNN"]
MASKS = {
    "none": None,
    "all": ["11111", "11111", "11111"],
    "right": ["11100", "11111", "10000"],
    "left": ["00111", "11111", "00001"],
    "holes": ["01011", "10001", "11010"],
    "nothing": ["00000", "11000", "00110"],
}
B, T, I, H = 3, 5, 4, 6


@pytest.fixture(autouse=True)
def seed() -> None:
    keras.utils.set_random_seed(5)


def draw(*shape: int) -> np.ndarray:
    return np.random.standard_normal(shape).astype(np.float32)  # noqa: NPY002 - Keras' seed


def mask_of(name: str) -> torch.Tensor | None:
    rows = MASKS[name]
    return None if rows is None else torch.tensor([[c == "1" for c in row] for row in rows])


def pair(kind: str, units: int = H, inputs: int = I, **arguments: Any) -> tuple[Any, Any]:
    """A layer of Keras and ours, with the same weights, all of them different."""
    name, more = KINDS[kind]
    layers = [getattr(m, name)(units, **more | arguments) for m in (keras.layers, ours)]
    for layer in layers:
        layer.build((B, T, inputs))
    weights = [draw(*w.shape) * 0.7 for w in layers[0].trainable_weights]
    for layer in layers:
        for variable, w in zip(layer.trainable_weights, weights, strict=True):
            variable.assign(w)
    return layers[0], layers[1]


def flat(results: Any) -> list[torch.Tensor]:
    return list(results) if isinstance(results, list | tuple) else [results]


def run(layer: Any, x: np.ndarray, states: list[np.ndarray], **arguments: Any) -> Any:
    """The results of a call, and the gradients of input, weights and states."""
    tensors = [torch.tensor(a, dtype=layer.cell.kernel.value.dtype) for a in (x, *states)]
    for tensor in tensors:
        tensor.requires_grad_()
    results = flat(layer(tensors[0], initial_state=tensors[1:] or None, **arguments))
    rng = np.random.default_rng(1)
    loss = sum((r * torch.tensor(rng.standard_normal(r.shape))).sum() for r in results)
    wanted = [*tensors, *[v.value for v in layer.trainable_weights]]
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return [r.detach() for r in results], gradients


def states_of(kind: str, units: int = H) -> list[np.ndarray]:
    return [draw(B, units) for _ in range(2 if kind.startswith("LSTM") else 1)]


def compare(theirs: Any, mine: Any, x: np.ndarray, states: list[np.ndarray], **call: Any) -> None:
    wanted, wanted_gradients = run(theirs, x, states, **call)
    found, gradients = run(mine, x, states, **call)
    assert [f.dtype for f in found] == [w.dtype for w in wanted]
    assert_close(found, wanted, rtol=1e-5, atol=3e-6)
    assert_close(gradients, wanted_gradients, rtol=1e-4, atol=2e-5)


# -- results and gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("masked", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_results_and_gradients(kind: str, masked: str) -> None:
    x, mask = draw(B, T, I), mask_of(masked)
    for sequences, backwards, zero, given in itertools.product([False, True], repeat=4):
        if zero and mask is None:
            continue
        layers = pair(
            kind,
            return_sequences=sequences,
            go_backwards=backwards,
            zero_output_for_mask=zero,
            return_state=True,
        )
        compare(*layers, x, states_of(kind) if given else [], mask=mask)


@pytest.mark.parametrize("units", [1, 2, 7, 17, 33])
@pytest.mark.parametrize("name", NAMES)
def test_sizes(name: str, units: int) -> None:
    for inputs, masked, sequences in itertools.product([1, 9], ["none", "holes"], [False, True]):
        layers = pair(name, units, inputs, return_sequences=sequences)
        compare(*layers, draw(B, T, inputs), [], mask=mask_of(masked))


@pytest.mark.parametrize("kind", ["LSTM", "LSTM hard", "GRU", "GRU without bias", "GRU hard"])
def test_float64(kind: str) -> None:
    """Keras computes in float64 where it does not go from cell to cell, whose products it rounds.

    So what is masked is compared with its valid steps alone.
    """
    arguments = {"dtype": "float64", "return_sequences": True, "return_state": True}
    theirs, mine = pair(kind, **arguments)
    x, states = draw(B, T, I).astype(float), states_of(kind)
    wanted, wanted_gradients = run(theirs, x, states)
    found, gradients = run(mine, x, states)
    assert_close(found, wanted, rtol=0, atol=1e-13)
    # torch's hard sigmoid has a slope in single precision, whatever is squashed.
    rtol = 1e-6 if "hard" in kind else 1e-12
    assert_close(gradients, wanted_gradients, rtol=rtol, atol=rtol)
    mask = mask_of("holes")
    y, *finals = mine(x, initial_state=[torch.tensor(s) for s in states], mask=mask)
    for b, valid in enumerate(mask.numpy()):
        given = [torch.tensor(s[b : b + 1]) for s in states]
        part, *last = theirs(x[b : b + 1, valid], initial_state=given)
        assert_close(y[b, valid], part[0], rtol=0, atol=1e-13)
        assert_close([s[b : b + 1] for s in finals], last, rtol=0, atol=1e-13)


@pytest.mark.parametrize("masked", ["right", "holes", "nothing"])
@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences(kind: str, masked: str) -> None:
    mask = mask_of(masked)
    for sequences, backwards in ((False, False), (True, True)):
        _, mine = pair(
            kind,
            2,
            2,
            dtype="float64",
            return_state=True,
            return_sequences=sequences,
            go_backwards=backwards,
        )
        variables = [v.value for v in mine.trainable_weights]

        def call(
            x: torch.Tensor, *tensors: torch.Tensor, mine: Any = mine, n: int = len(variables)
        ) -> Any:
            for variable, tensor in zip(mine.trainable_weights, tensors, strict=False):
                variable._value = tensor
            return mine(x, initial_state=list(tensors[n:]), mask=mask)

        given = [torch.tensor(a, dtype=torch.float64) for a in (draw(B, T, 2), *states_of(kind, 2))]
        inputs = [given[0], *[v.detach().clone() for v in variables], *given[1:]]
        for tensor in inputs:
            tensor.requires_grad_()
        assert torch.autograd.gradcheck(call, inputs)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_single(name: str, policy: str) -> None:
    # Keras' own initializer has no orthogonal matrices of bfloat16.
    _, mine = pair(
        name, dtype=policy, return_sequences=True, recurrent_initializer="glorot_uniform"
    )
    half = getattr(torch, mine.compute_dtype)
    single, _ = pair(name, return_sequences=True)
    for variable, rounded in zip(single.trainable_weights, mine.trainable_weights, strict=True):
        variable.assign(rounded.value.to(half).float())
    x = torch.tensor(draw(B, T, I)).to(half)
    y = mine(x)
    assert y.dtype == half
    # Theirs may round to the neighbour in half precision.
    ulp = torch.finfo(half).eps
    assert_close(y.float(), single(x.float()), rtol=ulp, atol=ulp)
    y.float().sum().backward()
    assert all(torch.isfinite(v.value.grad).all() for v in mine.trainable_weights)


@pytest.mark.parametrize("masked", ["none", "holes"])
@pytest.mark.parametrize("name", NAMES)
def test_dropout_draws_what_keras_draws(name: str, masked: str) -> None:
    layers = pair(name, dropout=0.4, seed=3, return_sequences=True)
    compare(*layers, draw(B, T, I), [], mask=mask_of(masked), training=True)
    compare(*layers, draw(B, T, I), [], mask=mask_of(masked), training=True)
    compare(*layers, draw(B, T, I), [], mask=mask_of(masked))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_masked_steps_is_read(name: str) -> None:
    _, mine = pair(name, return_sequences=True)
    x, mask = draw(B, T, I), mask_of("nothing")
    wanted, gradients = run(mine, x, [], mask=mask)
    x[~mask.numpy()] = np.nan
    found, others = run(mine, x, [], mask=mask)
    assert_close((found, others), (wanted, gradients), rtol=0, atol=0)


def test_masks_of_other_forms() -> None:
    _, mine = pair("LSTM")
    x, mask = draw(B, T, I), mask_of("holes")
    wanted = mine(x, mask=mask)
    for form in (mask.numpy(), mask.float(), mask.int(), mask[..., None]):
        assert torch.equal(mine(x, mask=form), wanted)
    assert not torch.equal(mine(x), wanted)


def test_long_sequence_with_holes() -> None:
    """Torch sorts long rows in another way than short ones."""
    theirs, mine = pair("GRU", return_sequences=True)
    x, mask = draw(2, 1000, I), torch.tensor(draw(2, 1000)) > 0
    y = mine(x, mask=mask)
    for b, valid in enumerate(mask.numpy()):
        assert_close(y[b, valid], theirs(x[b : b + 1, valid])[0], rtol=1e-4, atol=1e-5)


def test_masking_layer() -> None:
    x = draw(B, T, I)
    x[~mask_of("holes").numpy()] = 3
    masking = keras.layers.Masking(3)
    theirs, mine = pair("SimpleRNN", return_sequences=True)
    assert_close(mine(masking(x)), theirs(masking(x)))
    assert torch.equal(mine(masking(x))._keras_mask, mask_of("holes"))


def test_state_that_is_no_list() -> None:
    theirs, mine = pair("GRU")
    x, state = draw(B, T, I), draw(B, H)
    assert_close(mine(x, initial_state=state), theirs(x, initial_state=state))


@pytest.mark.parametrize("name", NAMES)
def test_the_kernels_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class CalledError(Exception):
        pass

    def layer(*arguments: Any) -> None:
        raise CalledError

    monkeypatch.setattr("fastrnn.torch.ops.layer", layer)
    theirs, mine = pair(name)
    theirs(draw(B, T, I))
    with pytest.raises(CalledError):
        mine(draw(B, T, I))


def test_integer_input() -> None:
    theirs, mine = pair("GRU")
    x = np.arange(B * T * I).reshape(B, T, I) % 3
    assert_close(mine(x), theirs(x))


def test_rows_and_steps_that_are_not_there() -> None:
    _, mine = pair("GRU", return_sequences=True)
    assert mine(draw(0, T, I)).shape == (0, T, H)
    assert mine(draw(0, T, I), mask=np.ones((0, T), bool)).shape == (0, T, H)


@pytest.mark.parametrize("masked", ["none", "right", "holes"])
@pytest.mark.parametrize("name", NAMES)
def test_bidirectional(name: str, masked: str) -> None:
    for merge, sequences in itertools.product(["concat", "sum", None], [False, True]):
        theirs, mine = (
            keras.layers.Bidirectional(
                getattr(m, name)(H, return_sequences=sequences, return_state=True),
                merge_mode=merge,
            )
            for m in (keras.layers, ours)
        )
        theirs.build((B, T, I))
        mine.build((B, T, I))
        assert type(mine.backward_layer) is getattr(ours, name)
        weights = [draw(*w.shape) for w in theirs.get_weights()]
        theirs.set_weights(weights)
        mine.set_weights(weights)
        x, states = draw(B, T, I), [torch.tensor(s) for s in 2 * states_of(name)]
        for given in (None, states):
            wanted, found = (
                layer(x, mask=mask_of(masked), initial_state=given) for layer in (theirs, mine)
            )
            assert_close(flat(found), flat(wanted), rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("masked", ["none", "right", "holes"])
@pytest.mark.parametrize("name", NAMES)
def test_stateful(name: str, masked: str) -> None:
    theirs, mine = pair(name, stateful=True, return_sequences=True, return_state=True)
    theirs.use_cudnn = False  # else it writes over the state that its own way back reads
    for _ in range(3):
        compare(theirs, mine, draw(B, T, I), [], mask=mask_of(masked))
        assert_close([v.value for v in mine.states], [v.value for v in theirs.states])
        assert any(v.value.any() for v in mine.states)
    theirs.reset_states()
    mine.reset_states()
    assert not any(v.value.any() for v in mine.states)
    compare(theirs, mine, draw(B, T, I), [], mask=mask_of(masked))
    with pytest.raises(ValueError, match="batch size"):
        mine(draw(B + 1, T, I))


# -- models ---------------------------------------------------------------------------------------


def model_of(module: Any, kind: str, **arguments: Any) -> Any:
    """Words to a number, with what surrounds such a layer: masks, dropout, penalties."""
    name, more = KINDS[kind]
    layer = getattr(module, name)
    return keras.Sequential(
        [
            keras.Input((None,)),
            keras.layers.Embedding(9, I, mask_zero=True),
            keras.layers.Bidirectional(layer(H, return_sequences=True, **more | arguments)),
            layer(
                H,
                kernel_regularizer="l2",
                recurrent_constraint="max_norm",
                dropout=0.2,
                seed=4,
                **more | arguments,
            ),
            keras.layers.Dense(1),
        ]
    )


def models(kind: str) -> tuple[Any, Any]:
    theirs, mine = model_of(keras.layers, kind), model_of(ours, kind)
    mine.set_weights(theirs.get_weights())
    return theirs, mine


def words(rows: int = 12, steps: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Words, padded with 0 on the right, and a number to learn."""
    rng = np.random.default_rng(2)
    found = rng.integers(1, 9, (rows, steps))
    found[np.arange(steps) >= rng.integers(1, steps + 1, rows)[:, None]] = 0
    return found, (found == 3).sum(1, keepdims=True).astype(np.float32)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "GRU before", "SimpleRNN", "LSTM hard"])
def test_fit(kind: str) -> None:
    x, y = words()
    curves, weights = [], []
    for model in models(kind):
        keras.utils.set_random_seed(6)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        fit = model.fit(x, y, epochs=6, batch_size=5, verbose=0)
        curves.append(
            [*fit.history["loss"], model.train_on_batch(x, y), model.evaluate(x, y, verbose=0)]
        )
        weights.append([*model.get_weights(), model.predict(x, verbose=0)])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)
    assert curves[1][5] < 0.9 * curves[1][0]
    for found, wanted in zip(*weights[::-1], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_functional_model_with_states() -> None:
    """An encoder whose states a decoder starts with; the mask passes through."""
    x, _ = words()
    found = []
    for m in (keras.layers, ours):
        source, target = keras.Input((None,)), keras.Input((4, I))
        embedded = keras.layers.Embedding(9, I, mask_zero=True)(source)
        y, *state = m.LSTM(H, return_state=True, return_sequences=True)(embedded)
        decoded = m.LSTM(H, return_sequences=True, unroll=True)(target, initial_state=state)
        again = m.LSTM(H)(y, initial_state=state)
        pooled = keras.layers.GlobalAveragePooling1D()(m.GRU(3, return_sequences=True)(y))
        model = keras.Model([source, target], [decoded, again, pooled])
        assert model.output_shape == [(None, 4, H), (None, H), (None, 3)]
        found.append(model)
    theirs, mine = found
    mine.set_weights(theirs.get_weights())
    inputs = [x, draw(len(x), 4, I)]
    for one, other in zip(
        mine.predict(inputs, verbose=0), theirs.predict(inputs, verbose=0), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_stateful_model_learns() -> None:
    """The state that a step leaves is that of the next one, while gradients are computed."""
    curves = []
    for m in (keras.layers, ours):
        keras.utils.set_random_seed(7)
        layer = m.GRU(H, stateful=True, use_cudnn=False)  # as above
        model = keras.Sequential([keras.Input(batch_shape=(B, T, I)), layer, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        x = draw(4 * B, T, I)
        fit = model.fit(x, x[:, 0, :1], epochs=3, batch_size=B, shuffle=False, verbose=0)
        curves.append(fit.history["loss"])
    np.testing.assert_allclose(*curves, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of torch's compiler
@pytest.mark.parametrize("name", ["GRU"])
def test_compiled_training(name: str) -> None:
    if " " in str(torch.__file__):
        pytest.skip("torch.compile: its calls of a compiler break at a space in a path")
    x, y = words(8)
    curves = []
    for compiled in (False, True):
        keras.utils.set_random_seed(8)
        model = keras.Sequential(
            [keras.Input((7,)), keras.layers.Embedding(9, I, mask_zero=True), ours.GRU(H)]
        )
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=compiled)
        curves.append(model.fit(x, y, epochs=2, batch_size=8, verbose=0).history["loss"])
    np.testing.assert_allclose(*curves, rtol=1e-5)


@pytest.mark.filterwarnings("default")  # of torch's compiler
@pytest.mark.parametrize("masked", ["none", "right", "holes"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU hard", "SimpleRNN"])
def test_traced(kind: str, masked: str) -> None:
    _, mine = pair(kind, return_sequences=True, return_state=True)
    x, mask = torch.tensor(draw(B, T, I)), mask_of(masked)

    def call(x: torch.Tensor, mask: torch.Tensor | None) -> Any:
        return mine(x, mask=mask)

    compiled = torch.compile(call, backend="aot_eager")
    assert_close(compiled(x, mask), call(x, mask), rtol=0, atol=0)
    spec = Outer(mine)(keras.Input(batch_shape=x.shape), masked=mask is not None)
    assert [s.shape for s in spec] == [(B, T, H), *[(B, H)] * (len(spec) - 1)]


class Outer(keras.Layer):
    """A layer that Keras has to trace, with tensors without numbers, to know what it returns."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def call(self, x: Any, masked: bool) -> Any:
        return self.layer(x, mask=x[:, :, 0] > 0 if masked else None)


# -- configurations and files ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_configuration_is_that_of_keras(kind: str) -> None:
    theirs, mine = pair(
        kind, name="one", dropout=0.1, stateful=True, go_backwards=True, bias_constraint="non_neg"
    )
    assert mine.get_config() == theirs.get_config()
    again = keras.layers.deserialize(keras.layers.serialize(mine))
    assert type(again) is type(mine)
    assert again.get_config() == mine.get_config()
    assert [(w.path, w.shape) for w in mine.weights] == [(w.path, w.shape) for w in theirs.weights]


@pytest.mark.parametrize("kind", KINDS)
def test_initial_weights_are_those_of_keras(kind: str) -> None:
    name, more = KINDS[kind]
    found = []
    for m in (keras.layers, ours):
        keras.utils.set_random_seed(9)
        layer = getattr(m, name)(H, **more)
        layer.build((B, T, I))
        found.append(layer.get_weights())
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", ["model.weights.h5", "model.keras"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "GRU before", "SimpleRNN"])
def test_files_both_ways(kind: str, name: str, tmp_path: Path) -> None:
    x, _ = words()
    theirs, mine = model_of(keras.layers, kind), model_of(ours, kind)
    path = tmp_path / name
    for source, target in ((theirs, mine), (mine, theirs)):
        source.set_weights([draw(*w.shape) if w.ndim else w for w in source.get_weights()])
        if name == "model.keras":
            source.save(path)
            loaded = keras.models.load_model(path)
            kinds = {type(layer) for layer in loaded.layers}
            assert kinds == {type(layer) for layer in source.layers}
            np.testing.assert_array_equal(
                loaded.predict(x, verbose=0), source.predict(x, verbose=0)
            )
            target.load_weights(path)
        else:
            source.save_weights(path)
            target.load_weights(path)
        np.testing.assert_allclose(
            target.predict(x, verbose=0), source.predict(x, verbose=0), rtol=1e-5, atol=1e-5
        )


# -- what is refused ------------------------------------------------------------------------------

REFUSED = [
    ("LSTM", {"activation": "relu"}, "activation: expected tanh, got relu"),
    ("GRU", {"activation": None}, "activation: expected tanh, got linear"),
    ("SimpleRNN", {"activation": "sigmoid"}, "activation: expected tanh or relu, got sigmoid"),
    ("SimpleRNN", {"activation": keras.layers.ReLU(0.5)}, "activation: expected tanh or relu"),
    (
        "LSTM",
        {"recurrent_activation": "tanh"},
        "recurrent_activation: expected sigmoid or hard_sigmoid, got tanh",
    ),
    *[
        (name, {"recurrent_dropout": 0.5}, "recurrent_dropout: expected 0, got 0.5")
        for name in NAMES
    ],
    ("GRU", {"use_cudnn": True}, "use_cudnn: expected 'auto' or False, got True"),
    ("LSTM", {"implementation": 1, "dropout": 0.1}, "implementation: expected 2 where there is"),
    ("LSTM", {"dtype": "int32"}, "dtype: expected one of float32, float64, float16, bfloat16"),
]


@pytest.mark.parametrize(("name", "arguments", "words"), REFUSED)
def test_refused_by_name(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        getattr(ours, name)(3, **arguments)


def test_accepted_without_a_meaning() -> None:
    theirs, mine = pair("GRU", unroll=True, use_cudnn=False, implementation=1)
    compare(theirs, mine, draw(B, T, I), [])
    ours.LSTM(3, activation=keras.ops.tanh, recurrent_activation=keras.activations.sigmoid)


def test_wrong_calls() -> None:
    _, mine = pair("LSTM")
    x = draw(B, T, I)
    for arguments, message in (
        ({"sequences": draw(B, T, I + 1)}, r"sequences: expected shape \(B, T, I=4\)"),
        ({"mask": np.ones((B, T + 1), bool)}, r"mask: expected shape \(B=3, T=5\)"),
        ({"mask": np.ones((B, T, 2), bool)}, r"mask: expected shape \(B=3, T=5, 1\)"),
        ({"initial_state": [draw(B, H)]}, r"initial_state: expected 2 of them \(h, c\), got 1"),
        ({"initial_state": [draw(1, H)] * 2}, r"initial_state: expected shape \(B=3, H=6\)"),
    ):
        with pytest.raises(ValueError, match=message):
            mine(**{"sequences": x} | arguments)


def test_other_devices() -> None:
    _, mine = pair("LSTM")
    elsewhere = type("Elsewhere", (torch.Tensor,), {"is_cpu": False, "device": "cuda:0"})
    x = torch.tensor(draw(B, T, I)).as_subclass(elsewhere)
    with pytest.raises(TypeError, match=r"sequences: expected a tensor on the CPU.* on cuda:0"):
        mine(x)


def test_keras_on_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    for kind in (ours.LSTM, ours.GRU, ours.SimpleRNN):
        with pytest.raises(RuntimeError, match=r"expected Keras on torch .* got jax"):
            kind(3)
