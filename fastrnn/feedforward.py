"""Layers without memory: what they have in common, Linear and Embedding."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import validation, workspace
from .initialisation import new_parameters
from .layers import Parametrized
from .tape import Gradients, Run, Tape
from .validation import Array

# OpenBLAS computes products of so many multiplications alone. After a larger one its threads go on
# spinning for some 30 ms, and fight for the processors with those of the recurrent layers: a step
# of training a character model took a third longer, the LSTM's part of it twice as long.
ALONE = 1 << 18
FEWEST_ROWS = 8  # of a piece that is worth a call; larger products are for all threads


def _pieces(rows: int, others: int) -> list[slice]:
    """Cut rows, each of so many multiplications, into pieces that are computed alone, or not."""
    step = ALONE // max(others, 1)
    if step >= rows or step < FEWEST_ROWS:
        return [slice(0, rows)]
    return [slice(start, min(rows, start + step)) for start in range(0, rows, step)]


def _product(a: Array, b: Array) -> Array:
    """Return a (N, K) @ b (K, M)."""
    pieces = _pieces(len(a), b.size)
    if len(pieces) == 1:
        return np.asarray(a @ b)
    out = workspace.empty((len(a), b.shape[1]), a.dtype)
    for part in pieces:
        np.matmul(a[part], b, out=out[part])
    return out


def _product_of_columns(a: Array, b: Array) -> Array:
    """Return a.T @ b, of a (N, M) and b (N, K)."""
    first, *others = _pieces(len(a), a.shape[1] * b.shape[1])
    out = np.asarray(a[first].T @ b[first])
    for part in others:
        out += a[part].T @ b[part]
    return out


class FeedForward(Parametrized):
    """A layer without memory; the base of all of them.

    A layer states what is its own, in `_read`, `_forward` and `_backward`; one that records
    otherwise than it infers also `_record`. None of them may write to what it is given. Inf and
    NaN are results there, not messages.

    Attributes
    ----------
    parameters
        Name to array; empty for a layer that has nothing to learn.
    """

    def __init__(self) -> None:
        self.parameters = {}

    def __call__(self, x: Array) -> Array:
        """Infer: return the output for x, recording nothing.

        Raises
        ------
        ValueError, TypeError
            If x is wrong.
        """
        found = self._read(x)
        with np.errstate(all="ignore"):
            return self._forward(found)[0]

    def record(self, x: Array) -> Tape:
        """Train: run on x and return a `Tape` without a state; raises what a call raises."""
        found = self._read(x)
        with np.errstate(all="ignore"):
            output, kept = self._record(found)
        output.flags.writeable = False

        @np.errstate(all="ignore")
        def run(d_y: Array) -> Gradients:
            return self._backward(kept, d_y)

        def pullback(d_output: object, d_state: object) -> Run:
            d_y = _d_output(d_output, d_state, output)
            return lambda retain: run(d_y)

        return Tape(output, None, pullback)

    def _read(self, x: object) -> Array:
        """Check x and return it as an array; here any of float32 or float64."""
        return validation.floating("x", x)

    def _forward(self, x: Array) -> tuple[Array, Any]:
        """Return the output, an array object of its own, and what `_backward` needs."""
        raise NotImplementedError

    def _record(self, x: Array) -> tuple[Array, Any]:
        """Return what `_forward` returns, for a pass that is recorded."""
        return self._forward(x)

    def _backward(self, kept: Any, d_y: Array) -> Gradients:
        """Return the gradients, given that of the output, of its shape and dtype."""
        raise NotImplementedError


class Linear(FeedForward):
    """Affine map y = W x + b over the last axis: x (..., I) to (..., O).

    Parameters
    ----------
    in_features, out_features
        I and O, at least 1.
    bias
        Whether there is b.
    dtype
        "float32" or "float64".
    seed
        Seed of the initialisation, uniform in ±1/sqrt(I) as in torch.

    Attributes
    ----------
    parameters
        ``weight`` (O, I) and ``bias`` (O,).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        dtype: str = "float32",
        seed: int | None = None,
    ) -> None:
        self.in_features = validation.positive("in_features", in_features)
        self.out_features = validation.positive("out_features", out_features)
        self.dtype = validation.dtype("dtype", dtype)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        if validation.flag("bias", bias):
            shapes["bias"] = (self.out_features,)
        self.parameters = new_parameters(
            shapes, self.in_features**-0.5, self.dtype, validation.generator("seed", seed)
        )

    def _read(self, x: object) -> Array:
        found = validation.floating("x", x, self.dtype)
        if found.ndim < 1 or found.shape[-1] != self.in_features:
            raise ValueError(f"x: expected shape (..., I={self.in_features}), got {found.shape}")
        return found

    def _forward(self, x: Array) -> tuple[Array, Array]:
        # One product over all rows: matmul would take the leading axes one by one.
        rows = _product(x.reshape(-1, self.in_features), self.parameters["weight"].T)
        if "bias" in self.parameters:
            rows += self.parameters["bias"]
        return rows.reshape(*x.shape[:-1], self.out_features), x

    def _backward(self, kept: Array, d_y: Array) -> Gradients:
        rows = d_y.reshape(-1, self.out_features)
        gradients = {"weight": _product_of_columns(rows, kept.reshape(len(rows), self.in_features))}
        if "bias" in self.parameters:
            gradients["bias"] = rows.sum(axis=0)
        d_x = _product(rows, self.parameters["weight"])
        return Gradients(d_x.reshape(kept.shape), parameters=gradients)

    def __repr__(self) -> str:
        bias = "" if "bias" in self.parameters else ", bias=False"
        return f"Linear({self.in_features}, {self.out_features}{bias}, dtype='{self.dtype}')"


class Embedding(FeedForward):
    """Table that maps an index to a vector: integers x (...), each in 0 ... V-1, to (..., E).

    Indices have no gradient, so ``Gradients.input`` is None.

    Parameters
    ----------
    num_embeddings, embedding_dim
        Rows V and columns E of the table, at least 1.
    dtype
        "float32" or "float64".
    seed
        Seed of the initialisation, standard normal as in torch.

    Attributes
    ----------
    parameters
        ``weight`` (V, E).
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        dtype: str = "float32",
        seed: int | None = None,
    ) -> None:
        self.num_embeddings = validation.positive("num_embeddings", num_embeddings)
        self.embedding_dim = validation.positive("embedding_dim", embedding_dim)
        self.dtype = validation.dtype("dtype", dtype)
        weight = workspace.empty((self.num_embeddings, self.embedding_dim), self.dtype)
        validation.generator("seed", seed).standard_normal(out=weight, dtype=self.dtype)
        self.parameters = {"weight": weight}

    def _read(self, x: object) -> Array:
        return validation.indices("x", x, self.num_embeddings)

    def _forward(self, x: Array) -> tuple[Array, Array]:
        return np.take(self.parameters["weight"], x, axis=0), x

    def _backward(self, kept: Array, d_y: Array) -> Gradients:
        """Sum the gradient of each row of the table: sorted runs, as np.add.at is slow."""
        gradient = np.zeros_like(self.parameters["weight"])
        if kept.size:
            order = np.argsort(kept, axis=None, kind="stable")
            used, starts = np.unique(kept.reshape(-1)[order], return_index=True)
            rows = d_y.reshape(-1, self.embedding_dim)[order]
            gradient[used] = np.add.reduceat(rows, starts, axis=0)
        return Gradients(None, parameters={"weight": gradient})

    def __repr__(self) -> str:
        return f"Embedding({self.num_embeddings}, {self.embedding_dim}, dtype='{self.dtype}')"


def _d_output(d_output: object, d_state: object, output: Array) -> Array:
    if d_state is not None:
        raise ValueError("d_state: expected None, as the layer has no state")
    if d_output is None:
        return np.zeros_like(output)
    found = validation.floating("d_output", d_output, output.dtype)
    return validation.shape("d_output", found, *output.shape)
