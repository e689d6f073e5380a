"""Convolution and pooling against torch: initial values, sizes, outputs and all gradients."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

import fastrnn

pytestmark = pytest.mark.peers

RTOL = {"float32": 2e-5, "float64": 1e-12}
DTYPES = pytest.mark.parametrize("dtype", RTOL)
AXES = pytest.mark.parametrize("axes", [1, 2])


def grid(axes: int, most_padding: int) -> list[tuple[Any, Any, Any, Any]]:
    """Sizes, windows, steps and paddings: all of each for one axis, drawn for two."""
    one = list(itertools.product((1, 2, 7, 17), (1, 2, 3, 5), (1, 2, 4), (0, 1, 2, 4)))
    one = [(n, k, s, p) for n, k, s, p in one if n + 2 * p >= k and p * most_padding <= k]
    if axes == 1:
        return [((n,), (k,), (s,), (p,)) for n, k, s, p in one]
    pairs = np.random.default_rng(1).integers(0, len(one), (150, 2))
    return [tuple(zip(one[a], one[b], strict=True)) for a, b in pairs]


def assert_close(found: np.ndarray, expected: torch.Tensor, dtype: str, label: object) -> None:
    want = expected.detach().numpy()
    assert found.dtype == want.dtype == dtype, label
    assert found.shape == want.shape, label
    allowed = RTOL[dtype] * np.abs(want[np.isfinite(want)]).max(initial=0)
    np.testing.assert_allclose(found, want, rtol=0, atol=allowed, err_msg=str(label))


def assert_same(ours: Any, theirs: Any, x: np.ndarray, label: object) -> None:
    """Outputs and all gradients of one pass."""
    dtype = str(x.dtype)
    x_t, tape = torch.tensor(x, requires_grad=True), ours.record(x)
    y_t = theirs(x_t)
    assert_close(tape.output, y_t, dtype, label)
    assert_close(ours(x), y_t, dtype, label)
    d_y = np.random.default_rng(3).standard_normal(tape.output.shape).astype(dtype)
    y_t.backward(torch.tensor(d_y))
    gradients = tape.backward(d_y)
    assert_close(gradients.input, x_t.grad, dtype, label)
    named = dict(theirs.named_parameters())
    assert gradients.parameters.keys() == named.keys()
    for name, parameter in named.items():
        assert_close(gradients.parameters[name], parameter.grad, dtype, (label, name))


@AXES
@DTYPES
@pytest.mark.parametrize("bias", [True, False])
def test_convolution(axes: int, bias: bool, dtype: str) -> None:
    rng = np.random.default_rng(2)
    for size, kernel, stride, padding in grid(axes, most_padding=0):
        channels = map(int, rng.integers(1, 5, 2))
        arguments = (*channels, kernel)
        options = {"stride": stride, "padding": padding, "bias": bias}
        ours = getattr(fastrnn, f"Conv{axes}d")(*arguments, **options, dtype=dtype, seed=1)
        theirs = getattr(torch.nn, f"Conv{axes}d")(
            *arguments, **options, dtype=getattr(torch, dtype)
        )
        ours.load_parameters({n: p.detach().numpy() for n, p in theirs.named_parameters()})
        x = rng.standard_normal((rng.integers(1, 4), arguments[0], *size)).astype(dtype)
        assert_same(ours, theirs, x, (ours, size))


@AXES
@DTYPES
@pytest.mark.parametrize(
    ("kind", "values"),
    [("AvgPool", "any"), ("MaxPool", "any"), ("MaxPool", "with ties"), ("MaxPool", "with -inf")],
)
def test_pooling(kind: str, values: str, axes: int, dtype: str) -> None:
    rng = np.random.default_rng(2)
    for size, kernel, stride, padding in grid(axes, most_padding=2):
        ours = getattr(fastrnn, f"{kind}{axes}d")(kernel, stride=stride, padding=padding)
        theirs = getattr(torch.nn, f"{kind}{axes}d")(kernel, stride=stride, padding=padding)
        shape = (rng.integers(1, 4), rng.integers(1, 4), *size)
        x = rng.standard_normal(shape)
        if values == "with ties":
            x = rng.integers(-1, 2, shape)
        elif values == "with -inf":
            x[x < 1] = -np.inf
        assert_same(ours, theirs, x.astype(dtype), (ours, size))


@AXES
def test_maxima_of_nan(axes: int) -> None:
    """Where a window holds one NaN, it is passed on, and the gradient goes back to it."""
    ours, theirs = (getattr(m, f"MaxPool{axes}d")(3) for m in (fastrnn, torch.nn))
    x = np.random.default_rng(1).standard_normal((4, 3, *(9,) * axes))
    x[1, 2, ..., 4] = x[3, 0, ..., 6] = np.nan
    if axes == 2:  # not one in each row of a window
        x[:, :, [0, 2, 3, 5, 6, 8]] = 0.5
    assert np.isnan(ours(x)).any()
    assert_same(ours, theirs, x, "NaN")


@AXES
def test_default_step_of_a_pool(axes: int) -> None:
    for kind in ("MaxPool", "AvgPool"):
        ours, theirs = (getattr(m, f"{kind}{axes}d")(2) for m in (fastrnn, torch.nn))
        x = np.random.default_rng(1).standard_normal((2, 3, *(7,) * axes))
        assert_same(ours, theirs, x, kind)


@AXES
def test_sizes_of_networks(axes: int) -> None:
    """Many rows, channels and blocks of products."""
    for channels, kernel, options in ((3, 7, {"stride": 2, "padding": 3}), (70, 3, {"padding": 1})):
        arguments = (channels, 80, kernel)
        ours = getattr(fastrnn, f"Conv{axes}d")(*arguments, **options, seed=1)
        theirs = getattr(torch.nn, f"Conv{axes}d")(*arguments, **options)
        theirs.load_state_dict({n: torch.tensor(p) for n, p in ours.parameters.items()})
        x = np.random.default_rng(2).standard_normal((9, channels, *((200,), (29, 30))[axes - 1]))
        assert_same(ours, theirs, x.astype(np.float32), (ours, x.shape))


@AXES
@pytest.mark.parametrize("channels", [(1, 16), (16, 3)], ids=str)
def test_initial_values(axes: int, channels: tuple[int, int]) -> None:
    """Uniform between the same bounds."""
    ours = getattr(fastrnn, f"Conv{axes}d")(*channels, 5, seed=1).parameters
    torch.manual_seed(1)
    theirs = dict(getattr(torch.nn, f"Conv{axes}d")(*channels, 5).named_parameters())
    bound = (channels[0] * 5**axes) ** -0.5
    for name, found in ours.items():
        other = theirs[name].detach().numpy()
        assert found.shape == other.shape
        for values in (found, other):
            assert np.abs(values).max() <= bound
            spread = math.sqrt(np.mean(values.astype(float) ** 2)) * math.sqrt(3) / bound
            assert abs(spread - 1) < 3 / math.sqrt(values.size)


def test_convolutional_network_learns_as_one_of_torch() -> None:
    ours = fastrnn.Sequential(
        fastrnn.Conv2d(1, 6, 5, padding=2, dtype="float64", seed=1),
        fastrnn.ReLU(),
        fastrnn.MaxPool2d(2),
        fastrnn.Conv2d(6, 8, 3, stride=2, dtype="float64", seed=2),
        fastrnn.Tanh(),
        fastrnn.AvgPool2d(3, stride=2, padding=1),
        fastrnn.Flatten(),
        fastrnn.Linear(32, 5, dtype="float64", seed=3),
    )
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 8, 3, stride=2),
        torch.nn.Tanh(),
        torch.nn.AvgPool2d(3, stride=2, padding=1),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 5),
    ).double()
    theirs.load_state_dict({n: torch.tensor(p) for n, p in ours.parameters.items()})
    rng = np.random.default_rng(4)
    x, labels = rng.standard_normal((20, 1, 14, 14)), rng.integers(0, 5, 20)
    optimizer = fastrnn.SGD(ours.parameters, 0.1, momentum=0.9)
    optimizer_t = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)
    for step in range(5):
        y_t, tape = theirs(torch.tensor(x)), ours.record(x)
        assert_close(tape.output, y_t, "float64", step)
        optimizer_t.zero_grad()
        torch.nn.functional.cross_entropy(y_t, torch.tensor(labels)).backward()
        gradients = tape.backward(fastrnn.softmax_cross_entropy(tape.output, labels)[1])
        for name, parameter in theirs.named_parameters():
            assert_close(gradients.parameters[name], parameter.grad, "float64", (step, name))
        optimizer.step(gradients.parameters)
        optimizer_t.step()
