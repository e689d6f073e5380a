"""Every layer, cell, loss and optimizer against torch: outputs, states and gradients."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import fastrnn
from fastrnn.cells import CELLS

pytestmark = [
    pytest.mark.peers,
    # Which of its implementations torch takes is no concern of ours.
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

T, B, I, H, P = 6, 4, 3, 5, 2
RTOL = {"float32": 2e-5, "float64": 1e-12}

# torch has the other options under other names, or not at all (reset_after=False).
OPTIONS = [("rnn", {"nonlinearity": "tanh"}), ("rnn", {"nonlinearity": "relu"})]
OPTIONS += [("gru", {}), ("lstm", {}), ("lstm", {"proj_size": P})]
CONFIGURATIONS = [
    pytest.param(cell, options | {"num_layers": n, "bidirectional": b, "bias": bias}, id=label)
    for (cell, options), n, b, bias in itertools.product(
        OPTIONS, (1, 2), (False, True), (True, False)
    )
    for label in [f"{cell}-{options}-layers={n}-bidirectional={b}-bias={bias}"]
]


def to_torch(value: Any) -> Any:
    """Arrays, and states of them, as tensors that record gradients."""
    if isinstance(value, tuple):
        return tuple(map(to_torch, value))
    tensor = torch.tensor(value)
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


def parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def assert_close(found: Any, expected: Any, dtype: str, label: str = "") -> None:
    want = expected.detach().numpy() if torch.is_tensor(expected) else expected
    assert found.dtype == want.dtype == dtype, label
    assert found.shape == want.shape, label
    scale = np.abs(want).max(initial=0)
    np.testing.assert_allclose(
        found, want, rtol=0, atol=RTOL[dtype] * scale, equal_nan=False, err_msg=label
    )


def make_pair(cell: str, options: dict[str, Any], dtype: str, backend: str) -> tuple[Any, Any]:
    """Our layer and torch's with the same parameters, copied there and back."""
    ours = getattr(fastrnn, cell.upper())(I, H, dtype=dtype, seed=1, backend=backend, **options)
    theirs = getattr(torch.nn, cell.upper())(I, H, dtype=getattr(torch, dtype), **options)
    assert {n: tuple(p.shape) for n, p in theirs.named_parameters()} == {
        n: p.shape for n, p in ours.parameters.items()
    }
    ours.load_parameters({n: p.detach().numpy() for n, p in theirs.named_parameters()})
    changed = {n: torch.tensor(p * 1.5) for n, p in ours.parameters.items()}
    theirs.load_state_dict(changed)
    for p in ours.parameters.values():
        p *= 1.5
    return ours, theirs


def draw(dtype: str, *shape: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def draw_state(ours: Any, dtype: str, batch: tuple[int, ...], seed: int) -> Any:
    n = ours.num_layers * (1 + ours.bidirectional)
    widths = (ours.proj_size or H, H)[: len(ours.cell.states)]
    state = tuple(draw(dtype, n, *batch, w, seed=seed + k) for k, w in enumerate(widths))
    return state if len(state) > 1 else state[0]


def compare(ours: Any, theirs: Any, x: np.ndarray, state: Any, dtype: str, **sequence: Any) -> None:
    """Run both forward and backward; `sequence` are the lengths, which torch gets packed."""
    x_t, state_t = to_torch(x), None if state is None else to_torch(state)
    if sequence:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            x_t, torch.tensor(sequence["lengths"]), ours.batch_first, enforce_sorted=False
        )
        y_t, last_t = theirs(packed, state_t)
        y_t, _ = torch.nn.utils.rnn.pad_packed_sequence(y_t, ours.batch_first)
    else:
        y_t, last_t = theirs(x_t, state_t)
    tape = ours.record(x, state, **sequence)
    y, last = ours(x, state, **sequence)
    assert_close(tape.output, y_t, dtype, "recorded output")
    assert_close(y, y_t, dtype, "output")
    for k, (a, b, c) in enumerate(zip(parts(tape.state), parts(last), parts(last_t), strict=True)):
        assert_close(a, c, dtype, f"recorded state {k}")
        assert_close(b, c, dtype, f"state {k}")

    d_y = draw(dtype, *y.shape, seed=7)
    d_last = tuple(draw(dtype, *part.shape, seed=8 + k) for k, part in enumerate(parts(last)))
    gradients = tape.backward(d_y, d_last if len(d_last) > 1 else d_last[0])
    torch.autograd.backward((y_t, *parts(last_t)), tuple(map(torch.tensor, (d_y, *d_last))))
    assert_close(gradients.input, x_t.grad, dtype, "gradient of x")
    for name, parameter in theirs.named_parameters():
        assert_close(gradients.parameters[name], parameter.grad, dtype, f"gradient of {name}")
    if state is not None:
        for k, (a, b) in enumerate(zip(parts(gradients.state), parts(state_t), strict=True)):
            assert_close(a, b.grad, dtype, f"gradient of state {k}")


@pytest.mark.parametrize(("cell", "options"), CONFIGURATIONS)
@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("kind", ["time first", "batch first", "unbatched", "packed", "no state"])
def test_layers(cell: str, options: dict[str, Any], kind: str, dtype: str, backend: str) -> None:
    batch_first = kind == "batch first"
    ours, theirs = make_pair(cell, options | {"batch_first": batch_first}, dtype, backend)
    batch = () if kind == "unbatched" else (B,)
    shape = {"batch first": (B, T, I), "unbatched": (T, I)}.get(kind, (T, B, I))
    state = None if kind == "no state" else draw_state(ours, dtype, batch, seed=3)
    # Packed sequences are all of one step at least, and one has all steps.
    sequence = {"lengths": np.array([2, T, 1, 4])} if kind == "packed" else {}
    compare(ours, theirs, draw(dtype, *shape), state, dtype, **sequence)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", RTOL)
def test_layers_of_some_size(cell: str, dtype: str, backend: str) -> None:
    ours = getattr(fastrnn, cell.upper())(33, 65, 2, dtype=dtype, seed=1, backend=backend)
    theirs = getattr(torch.nn, cell.upper())(33, 65, 2, dtype=getattr(torch, dtype))
    theirs.load_state_dict({n: torch.tensor(p) for n, p in ours.parameters.items()})
    compare(ours, theirs, draw(dtype, 40, 17, 33), None, dtype)


@pytest.mark.parametrize(("cell", "options"), [(c, o) for c, o in OPTIONS if "proj_size" not in o])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(B,), ()], ids=["batched", "unbatched"])
@pytest.mark.parametrize("dtype", RTOL)
def test_cells(
    cell: str,
    options: dict[str, Any],
    bias: bool,
    batch: tuple[int, ...],
    dtype: str,
    backend: str,
) -> None:
    name = f"{cell.upper()}Cell"
    ours = getattr(fastrnn, name)(I, H, bias=bias, dtype=dtype, seed=1, backend=backend, **options)
    theirs = getattr(torch.nn, name)(I, H, bias=bias, dtype=getattr(torch, dtype), **options)
    assert [n for n, _ in theirs.named_parameters()] == list(ours.parameters)
    theirs.load_state_dict({n: torch.tensor(p) for n, p in ours.parameters.items()})
    x = draw(dtype, *batch, I)
    state = tuple(draw(dtype, *batch, H, seed=3 + k) for k in range(len(ours.cell.states)))
    state = state if len(state) > 1 else state[0]
    for given in (None, state):
        x_t, state_t = to_torch(x), None if given is None else to_torch(given)
        theirs.zero_grad()
        new_t, tape = theirs(x_t, state_t), ours.record(x, given)
        for a, b, c in zip(parts(ours(x, given)), parts(tape.state), parts(new_t), strict=True):
            assert_close(a, c, dtype)
            assert_close(b, c, dtype)
        d_new = tuple(draw(dtype, *batch, H, seed=5 + k) for k in range(len(parts(new_t))))
        torch.autograd.backward(parts(new_t), tuple(map(torch.tensor, d_new)))
        gradients = tape.backward(None, d_new if len(d_new) > 1 else d_new[0])
        assert_close(gradients.input, x_t.grad, dtype)
        for label, parameter in theirs.named_parameters():
            assert_close(gradients.parameters[label], parameter.grad, dtype, label)
        if given is not None:
            for a, b in zip(parts(gradients.state), parts(state_t), strict=True):
                assert_close(a, b.grad, dtype)


# -- what training needs --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias: bool, dtype: str) -> None:
    ours = fastrnn.Linear(I, H, bias=bias, dtype=dtype, seed=1)
    theirs = torch.nn.Linear(I, H, bias=bias, dtype=getattr(torch, dtype))
    theirs.load_state_dict({n: torch.tensor(p) for n, p in ours.parameters.items()})
    x, d_y = draw(dtype, T, B, I), draw(dtype, T, B, H, seed=4)
    x_t = to_torch(x)
    y_t, tape = theirs(x_t), ours.record(x)
    assert_close(tape.output, y_t, dtype)
    y_t.backward(torch.tensor(d_y))
    gradients = tape.backward(d_y)
    assert_close(gradients.input, x_t.grad, dtype)
    for name, parameter in theirs.named_parameters():
        assert_close(gradients.parameters[name], parameter.grad, dtype, name)


@pytest.mark.parametrize("dtype", RTOL)
def test_embedding(dtype: str) -> None:
    ours = fastrnn.Embedding(7, I, dtype=dtype, seed=1)
    theirs = torch.nn.Embedding(7, I, dtype=getattr(torch, dtype))
    theirs.load_state_dict({"weight": torch.tensor(ours.parameters["weight"])})
    x = np.random.default_rng(2).integers(0, 6, (T, B))
    d_y = draw(dtype, T, B, I)
    y_t, tape = theirs(torch.tensor(x)), ours.record(x)
    assert_close(tape.output, y_t, dtype)
    y_t.backward(torch.tensor(d_y))
    assert_close(tape.backward(d_y).parameters["weight"], theirs.weight.grad, dtype)


WITHOUT_PARAMETERS = {
    "softmax": (fastrnn.Softmax(), torch.nn.Softmax(-1)),
    "softmax 0": (fastrnn.Softmax(0), torch.nn.Softmax(0)),
    "softmax 1": (fastrnn.Softmax(1), torch.nn.Softmax(1)),
    "tanh": (fastrnn.Tanh(), torch.nn.Tanh()),
    "sigmoid": (fastrnn.Sigmoid(), torch.nn.Sigmoid()),
    "relu": (fastrnn.ReLU(), torch.nn.ReLU()),
    "flatten": (fastrnn.Flatten(), torch.nn.Flatten()),
    "dropout 0": (fastrnn.Dropout(0.0), torch.nn.Dropout(0.0)),
    "dropout 1": (fastrnn.Dropout(1.0), torch.nn.Dropout(1.0)),
}


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("name", WITHOUT_PARAMETERS)
def test_layers_without_parameters(name: str, dtype: str) -> None:
    ours, theirs = WITHOUT_PARAMETERS[name]
    x = 3 * draw(dtype, T, B, I)
    x[0, 0] = 0  # the kink of relu
    x_t = to_torch(x)
    y_t, tape = theirs(x_t), ours.record(x)
    assert_close(tape.output, y_t, dtype, "output")
    d_y = draw(dtype, *tape.output.shape, seed=7)
    y_t.backward(torch.tensor(d_y))
    assert_close(tape.backward(d_y).input, x_t.grad, dtype, "gradient of x")


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_mlp_learns_as_one_of_torch(activation: str, dtype: str) -> None:
    ours = fastrnn.MLP(I, (7, H), 4, activation=activation, dtype=dtype, seed=1)
    kind = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "sigmoid": torch.nn.Sigmoid}[activation]
    linear = [
        torch.nn.Linear(a, b, dtype=getattr(torch, dtype)) for a, b in ((I, 7), (7, H), (H, 4))
    ]
    theirs = torch.nn.Sequential(linear[0], kind(), linear[1], kind(), linear[2])
    theirs.load_state_dict({n: torch.tensor(p) for n, p in ours.parameters.items()})
    optimizer = fastrnn.SGD(ours.parameters, 0.1, momentum=0.9)
    optimizer_t = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)
    x, labels = draw(dtype, 33, I), np.random.default_rng(3).integers(0, 4, 33)
    for step in range(5):
        x_t, tape = to_torch(x), ours.record(x)
        y_t = theirs(x_t)
        assert_close(tape.output, y_t, dtype, f"output of step {step}")
        optimizer_t.zero_grad()
        torch.nn.functional.cross_entropy(y_t, torch.tensor(labels)).backward()
        gradients = tape.backward(fastrnn.softmax_cross_entropy(tape.output, labels)[1])
        assert_close(gradients.input, x_t.grad, dtype, f"gradient of x in step {step}")
        for name, parameter in theirs.named_parameters():
            assert_close(gradients.parameters[name], parameter.grad, dtype, f"{name}, step {step}")
        optimizer.step(gradients.parameters)
        optimizer_t.step()


V = 7
ROWS, TARGETS = np.array([2, T, 1, 4]), np.array([3, 1, 5, T])  # lengths; of torch's at least 1


def torch_model(ours: Any, **modules: Any) -> Any:
    """Torch's modules with our parameters: their names are the same."""
    theirs = torch.nn.ModuleDict(modules)
    theirs.load_state_dict({n: torch.tensor(p) for n, p in ours.parameters.items()})
    return theirs


def torch_run(layer: Any, x: Any, lengths: np.ndarray, state: Any = None) -> tuple[Any, Any]:
    """A recurrent layer over padded rows."""
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    y, last = layer(packed, state)
    return torch.nn.utils.rnn.pad_packed_sequence(y, total_length=len(x))[0], last


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("cell", CELLS)
def test_encoder_decoder(cell: str, dtype: str, backend: str) -> None:
    """Both directions of the encoder begin the two layers of the decoder; padded on both sides."""
    kind, kind_t = getattr(fastrnn, cell.upper()), getattr(torch.nn, cell.upper())
    f, f_t = {"dtype": dtype}, {"dtype": getattr(torch, dtype)}
    ours = fastrnn.EncoderDecoder(
        fastrnn.Sequential(
            fastrnn.Embedding(V, I, seed=1, **f),
            kind(I, H, bidirectional=True, seed=2, backend=backend, **f),
        ),
        fastrnn.Sequential(
            fastrnn.Embedding(V, I, seed=3, **f),
            kind(I, H, 2, seed=4, backend=backend, **f),
            fastrnn.Linear(H, V, seed=5, **f),
        ),
    )
    theirs = torch_model(
        ours,
        encoder=torch.nn.ModuleList(
            [torch.nn.Embedding(V, I, **f_t), kind_t(I, H, bidirectional=True, **f_t)]
        ),
        decoder=torch.nn.ModuleList(
            [
                torch.nn.Embedding(V, I, **f_t),
                kind_t(I, H, 2, **f_t),
                torch.nn.Linear(H, V, **f_t),
            ]
        ),
    )
    rng = np.random.default_rng(2)
    source, target, right = (rng.integers(0, V, (T, B)) for _ in range(3))
    valid = np.arange(T)[:, None] < TARGETS

    _, state = torch_run(theirs["encoder"][1], theirs["encoder"][0](torch.tensor(source)), ROWS)
    y, _ = torch_run(
        theirs["decoder"][1], theirs["decoder"][0](torch.tensor(target)), TARGETS, state
    )
    logits = theirs["decoder"][2](y)
    chosen = torch.tensor(valid)
    torch.nn.functional.cross_entropy(logits[chosen], torch.tensor(right)[chosen]).backward()

    tape = ours.record(source, target, lengths=ROWS, target_lengths=TARGETS)
    assert_close(tape.output, logits, dtype, "logits")
    _, d_output = fastrnn.softmax_cross_entropy(tape.output, right, weights=valid.astype(dtype))
    gradients = tape.backward(d_output).parameters
    assert list(gradients) == [name for name, _ in theirs.named_parameters()]
    for name, parameter in theirs.named_parameters():
        assert_close(gradients[name], parameter.grad, dtype, name)


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("cell", CELLS)
def test_many_to_one(cell: str, dtype: str, backend: str) -> None:
    f, f_t = {"dtype": dtype}, {"dtype": getattr(torch, dtype)}
    options = {"num_layers": 2, "bidirectional": True}
    ours = fastrnn.ManyToOne(
        fastrnn.Embedding(V, I, seed=1, **f),
        getattr(fastrnn, cell.upper())(I, H, seed=2, backend=backend, **options, **f),
        fastrnn.Linear(2 * H, 4, seed=3, **f),
    )
    embedding, layer, head = torch_model(
        ours,
        **{
            "0": torch.nn.Embedding(V, I, **f_t),
            "1": getattr(torch.nn, cell.upper())(I, H, **options, **f_t),
            "2": torch.nn.Linear(2 * H, 4, **f_t),
        },
    ).values()
    x, labels = np.random.default_rng(2).integers(0, V, (T, B)), np.arange(B)
    _, last = torch_run(layer, embedding(torch.tensor(x)), ROWS)
    h_n = parts(last)[0]
    logits = head(torch.cat([h_n[-2], h_n[-1]], dim=1))
    torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
    tape = ours.record(x, lengths=ROWS)
    assert_close(tape.output, logits, dtype, "logits")
    assert_close(ours(x, lengths=ROWS), logits, dtype, "logits")
    gradients = tape.backward(fastrnn.softmax_cross_entropy(tape.output, labels)[1]).parameters
    theirs = {"0": embedding, "1": layer, "2": head}
    for name, gradient in gradients.items():
        k, _, own = name.partition(".")
        assert_close(gradient, getattr(theirs[k], own).grad, dtype, name)


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_jacobian_of_softmax(axis: int, dtype: str) -> None:
    x, v = draw(dtype, T, B, I), draw(dtype, T, B, I, seed=3)
    jacobian = torch.autograd.functional.jacobian(
        lambda z: torch.softmax(z, axis).reshape(-1), torch.tensor(x)
    )
    expected = (jacobian * torch.tensor(v)).sum(dim=(1, 2, 3)).reshape(x.shape)
    assert_close(fastrnn.softmax_jvp(fastrnn.softmax(x, axis), v, axis), expected, dtype)


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses(reduction: str, dtype: str) -> None:
    logits, target = 5 * draw(dtype, T, B, H), draw(dtype, T, B, H, seed=3)
    classes = np.random.default_rng(4).integers(0, H, (T, B))
    a, b = to_torch(logits), to_torch(logits)
    entropy = torch.nn.functional.cross_entropy(
        a.reshape(-1, H), torch.tensor(classes).reshape(-1), reduction=reduction
    )
    squares = torch.nn.functional.mse_loss(b, torch.tensor(target), reduction=reduction)
    entropy.backward()
    squares.backward()
    for (loss, gradient), loss_t, tensor in (
        (fastrnn.softmax_cross_entropy(logits, classes, reduction=reduction), entropy, a),
        (fastrnn.mean_squared_error(logits, target, reduction=reduction), squares, b),
    ):
        assert loss == pytest.approx(loss_t.item(), rel=RTOL[dtype])
        assert_close(gradient, tensor.grad, dtype)
    for axis in (0, 1, -1):
        assert_close(fastrnn.softmax(logits, axis), torch.softmax(a, axis), dtype)


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.1}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        ("Adam", {}),
        ("Adam", {"lr": 0.1, "betas": (0.5, 0.8), "eps": 1e-3, "weight_decay": 0.1}),
        ("AdamW", {"lr": 0.1, "weight_decay": 0.1}),
    ],
)
def test_optimizers(name: str, options: dict[str, Any], dtype: str) -> None:
    ours = {"a": draw(dtype, 3, 4), "b": draw(dtype, 5)}
    theirs = {key: torch.tensor(p) for key, p in ours.items()}
    optimizer = getattr(fastrnn, name)(ours, **options)
    optimizer_t = getattr(torch.optim, name)(list(theirs.values()), **options)
    for step in range(20):
        gradients = {key: draw(dtype, *p.shape, seed=step + 5) for key, p in ours.items()}
        for key, tensor in theirs.items():
            tensor.grad = torch.tensor(gradients[key])
        optimizer.step(gradients)
        optimizer_t.step()
        for key, tensor in theirs.items():
            assert_close(ours[key], tensor, dtype, f"{key} after step {step}")


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping(limit: float, dtype: str) -> None:
    ours = {"a": draw(dtype, 3, 4), "b": draw(dtype, 5)}
    theirs = [torch.zeros(p.shape, dtype=getattr(torch, dtype)) for p in ours.values()]
    for clip, clip_t in (
        (fastrnn.clip_by_global_norm, torch.nn.utils.clip_grad_norm_),
        (fastrnn.clip_by_value, torch.nn.utils.clip_grad_value_),
    ):
        found = {key: p.copy() for key, p in ours.items()}
        for tensor, p in zip(theirs, ours.values(), strict=True):
            tensor.grad = torch.tensor(p)
        norm, norm_t = clip(found, limit), clip_t(theirs, limit)
        if norm_t is not None:
            assert norm == pytest.approx(norm_t.item(), rel=RTOL[dtype])
        for tensor, p in zip(theirs, found.values(), strict=True):
            # torch divides by the norm + 1e-6.
            np.testing.assert_allclose(p, tensor.grad.numpy(), rtol=2e-6)
