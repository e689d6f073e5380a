"""Softmax and its Jacobian, and layers without parameters: activations, Flatten, Dropout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import validation
from .feedforward import FeedForward
from .reference import GATES, Gate
from .stack import dropout_mask
from .tape import Gradients
from .validation import Array


def softmax(x: Array, axis: int = -1) -> Array:
    """Softmax exp(x) / sum(exp(x)) along an axis, stable for any finite x (Bridle 1990).

    It turns scores into probabilities and keeps their order, so the class that is predicted is the
    argmax of either; where only the class is wanted the scores do (and tell apart what exp rounds
    to the same number). With a temperature, ``softmax(x / temperature)``, the order stays the same,
    too: near 0 all the probability goes to the predicted class, at infinity all get the same.

    Parameters
    ----------
    x
        Array of float32 or float64 with at least one axis.
    axis
        The axis that sums to 1.

    Returns
    -------
    Array
        Shape and dtype of x.

    Raises
    ------
    ValueError, TypeError
        If x has no values along the axis, or another dtype; the message names the argument.

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.array([0.0, 0.0, 1000.0]))
    array([0., 0., 1.])
    """
    found = validation.floating("x", x)
    axis = _axis("x", found, axis)
    if not found.shape[axis]:
        raise ValueError(f"x: expected at least one value along axis {axis}, got {found.shape}")
    with np.errstate(all="ignore"):  # an exp that vanishes is a result, not a message
        e = np.exp(found - found.max(axis=axis, keepdims=True))
        e /= e.sum(axis=axis, keepdims=True)
    return np.asarray(e)


def softmax_jvp(y: Array, v: Array, axis: int = -1) -> Array:
    """Product of the softmax's Jacobian diag(y) - y yᵀ and v: y * (v - sum(y * v)).

    The Jacobian is symmetric, so this is the product from either side: the change of the output for
    a change v of the input (JVP), and the gradient of the input for a gradient v of the output
    (VJP).

    Parameters
    ----------
    y
        What `softmax` returned, float32 or float64.
    v
        Tangent or gradient, of the shape and dtype of y.
    axis
        The axis along which y sums to 1.

    Returns
    -------
    Array
        Shape and dtype of y; sums to 0 along the axis.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> softmax_jvp(np.array([0.5, 0.5]), np.array([1.0, 0.0]))
    array([ 0.25, -0.25])
    """
    found = validation.floating("y", y)
    tangent = validation.shape("v", validation.floating("v", v, found.dtype), *found.shape)
    axis = _axis("y", found, axis)
    with np.errstate(all="ignore"):
        return np.asarray(found * (tangent - (found * tangent).sum(axis=axis, keepdims=True)))


def _axis(name: str, x: Array, axis: object) -> int:
    found = validation.whole("axis", axis)
    if not -x.ndim <= found < x.ndim:
        raise ValueError(f"axis: expected an axis of {name} with shape {x.shape}, got {found}")
    return found


class Softmax(FeedForward):
    """`softmax` along an axis, as a layer: x and the output have one shape.

    For the cross-entropy of a softmax take the scores and `softmax_cross_entropy`, which is exact
    where a probability is rounded to 0.
    """

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = validation.whole("axis", axis)

    def _forward(self, x: Array) -> tuple[Array, Array]:
        y = softmax(x, self.axis)
        return y, y

    def _backward(self, kept: Array, d_y: Array) -> Gradients:
        return Gradients(softmax_jvp(kept, d_y, self.axis))

    def __repr__(self) -> str:
        return "Softmax()" if self.axis == -1 else f"Softmax({self.axis})"


class Pointwise(FeedForward):
    """A function of each element, whose slope follows from its value; the base of `Tanh`, ...

    x (...) of float32 or float64; the output has its shape and dtype.
    """

    function: Gate

    def _forward(self, x: Array) -> tuple[Array, Array]:
        y = np.asarray(self.function.value(x), x.dtype)
        return y, y

    def _backward(self, kept: Array, d_y: Array) -> Gradients:
        return Gradients(np.asarray(d_y * self.function.slope(kept), d_y.dtype))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Tanh(Pointwise):
    """Hyperbolic tangent, slope 1 - y²."""

    function = Gate(np.tanh, lambda y: 1 - y * y)


class Sigmoid(Pointwise):
    """Logistic function 1 / (1 + exp(-x)), stable for any x, slope y (1 - y)."""

    function = GATES["sigmoid"]


class ReLU(Pointwise):
    """max(x, 0) (Nair & Hinton 2010), slope 0 at 0."""

    function = Gate(lambda x: np.maximum(x, 0), lambda y: y > 0)


class Flatten(FeedForward):
    """Make rows of all axes but the first: x (B, ...) to (B, n), a view and not a copy."""

    def _read(self, x: object) -> Array:
        found = super()._read(x)
        if not found.ndim:
            raise ValueError(f"x: expected shape (B, ...), got {found.shape}")
        return found

    def _forward(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        return x.reshape(len(x), math.prod(x.shape[1:])), x.shape

    def _backward(self, kept: tuple[int, ...], d_y: Array) -> Gradients:
        return Gradients(d_y.reshape(kept))

    def __repr__(self) -> str:
        return "Flatten()"


class Dropout(FeedForward):
    """Zero values at random in `record`, and scale up those that are left (Srivastava et al. 2014).

    Parameters
    ----------
    p
        Probability with which a value is zeroed, from 0 to 1; the others are multiplied by
        1 / (1 - p), so that a call, which leaves x as it is (and returns a view), sees the same
        mean.
    seed
        Seed of the draws.
    """

    def __init__(self, p: float, seed: int | None = None) -> None:
        super().__init__()
        self.p = validation.number("p", p, 0.0, 1.0)
        self.generator = validation.generator("seed", seed)

    def _forward(self, x: Array) -> tuple[Array, None]:
        return x[...], None

    def _record(self, x: Array) -> tuple[Array, Any]:
        if not self.p:
            return self._forward(x)
        mask = dropout_mask(x, self.p, self.generator)
        return np.asarray(x * mask), mask

    def _backward(self, kept: Array | None, d_y: Array) -> Gradients:
        return Gradients(d_y if kept is None else np.asarray(d_y * kept))

    def __repr__(self) -> str:
        return f"Dropout({self.p})"
