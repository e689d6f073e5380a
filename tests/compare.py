"""The one place that says how near is near enough."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Solution = dict[str, np.ndarray]


class Tolerance(NamedTuple):
    """Greatest error: of a forward value `forward * (1 + |value|)`, of an element of a gradient
    `gradient` times the largest element of that gradient.
    """

    forward: float
    gradient: float


# Both are judged by the reference in float64 on the same (float32) numbers.
# float64: sums of up to some thousand terms of size 1, in any order: 2**-53 * 1000 is 1e-13.
# float32: states are at most a few units large and contractive, so that errors of a sum of 128
# products (about 10 ulp of 2**-24) pass on but hardly grow; gradients are sums of T * B such terms.
TOLERANCES = {
    "float64": Tolerance(forward=1e-12, gradient=1e-12),
    "float32": Tolerance(forward=2e-6, gradient=1e-5),
}


def assert_close(found: Solution, expected: Solution, tolerance: Tolerance) -> None:
    """Compare two solutions by name; NaN and inf are equal to nothing, not to themselves either."""
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        got = found[name]
        assert got.shape == want.shape, name
        if not want.size:
            continue
        largest = np.abs(want).max()
        allowed = (
            np.full(want.shape, tolerance.gradient * largest)
            if name.startswith("d_")
            else tolerance.forward * (1 + np.abs(want))
        )
        excess = np.abs(got - want) - allowed
        # Not `excess > 0`: a NaN must fail.
        if not (excess <= 0).all():
            worst = np.unravel_index(np.argmax(np.nan_to_num(excess, nan=np.inf)), want.shape)
            at = tuple(map(int, worst))
            raise AssertionError(
                f"{name}{list(at)}: {got[at]!r} instead of {want[at]!r} "
                f"(off by {abs(got[at] - want[at]):.2e}, allowed {allowed[at]:.2e})"
            )


def assert_same_bits(found: Solution, expected: Solution) -> None:
    """Compare two solutions by their bytes."""
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        got = found[name]
        assert got.dtype == want.dtype, name
        assert got.shape == want.shape, name
        assert got.tobytes() == want.tobytes(), name


def assert_gradient(
    function: Callable[[np.ndarray], float], x: np.ndarray, gradient: np.ndarray
) -> None:
    """Compare the gradient of a scalar function with central differences, element by element."""
    assert gradient.shape == x.shape
    for index in np.ndindex(x.shape):
        slopes = []
        for h in (1e-4, 2e-4):
            ahead, behind = x.copy(), x.copy()
            ahead[index] += h
            behind[index] -= h
            slopes.append((function(ahead) - function(behind)) / (2 * h))
        expected = (4 * slopes[0] - slopes[1]) / 3
        error = abs(gradient[index] - expected)
        assert error <= max(1e-8 * abs(expected), 1e-9), index


def assert_gradients_of_layer(layer: Any, x: np.ndarray, seed: int = 0) -> None:
    """Compare the gradients of a layer without memory in float64 with central differences: of its
    parameters, which are put back, and of x. A second backward pass must have the same bits.
    """
    tape = layer.record(x)
    u = np.random.default_rng(seed).standard_normal(tape.output.shape)
    gradients, again = tape.backward(u, retain=True), tape.backward(u)
    found = {"input": gradients.input, **gradients.parameters}
    assert_same_bits({"input": again.input, **again.parameters}, found)
    assert gradients.state is gradients.reset_state is None
    assert_gradient(lambda v: float(np.sum(u * layer(v))), x, gradients.input)
    assert_gradients_of_parameters(layer, gradients, lambda: float(np.sum(u * layer(x))))


def assert_gradients_of_parameters(model: Any, gradients: Any, loss: Callable[[], float]) -> None:
    """Compare the gradients of all parameters, which are put back, with central differences."""
    assert list(gradients.parameters) == list(model.parameters)
    for name, array in model.parameters.items():
        kept = array.copy()

        def value(changed: np.ndarray, array: np.ndarray = array) -> float:
            array[...] = changed
            return loss()

        assert_gradient(value, kept, gradients.parameters[name])
        array[...] = kept


def assert_windows_are_the_whole(layer: Any, x: np.ndarray, cuts: list[int]) -> None:
    """Any cut of the time axis must give the bits of the whole: outputs and final states."""
    whole, final = layer(x)
    state, parts = None, []
    for part in np.split(x, cuts):
        y, state = layer(part, state)
        parts.append(y)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    for found, expected in zip(state, final, strict=True):
        np.testing.assert_array_equal(found, expected)


def exact(curve: str, x: np.ndarray) -> np.ndarray:
    """The curve in a precision that is beyond the one under test."""
    with np.errstate(all="ignore"):
        wide = x.astype(np.longdouble if x.dtype == np.float64 else np.float64)
        if curve == "sigmoid":
            e = np.exp(-np.abs(wide))
            return np.where(wide >= 0, 1 / (1 + e), e / (1 + e))
        if curve == "hard_sigmoid":  # whose 0.2 has the precision of x
            return np.clip(x.dtype.type(0.2).astype(wide.dtype) * wide + 0.5, 0, 1)
        return {"exp": np.exp, "tanh": np.tanh}[curve](wide)


def ulps(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Errors in units of the last place of the exact results, denormal ones included."""
    with np.errstate(all="ignore"):
        rounded = right.astype(found.dtype)
        spacing = np.spacing(np.abs(rounded)).astype(right.dtype)
        error = np.abs(found.astype(right.dtype) - right) / spacing
    return np.where((found == rounded) | (np.isnan(found) & np.isnan(rounded)), 0, error)
