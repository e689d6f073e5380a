"""Losses; every one returns its value and the gradient of its first argument."""

from __future__ import annotations

import numpy as np

from . import validation
from .validation import Array

REDUCTIONS = ("mean", "sum")


@np.errstate(all="ignore")
def softmax_cross_entropy(
    logits: Array, targets: Array, *, weights: Array | None = None, reduction: str = "mean"
) -> tuple[float, Array]:
    """Cross-entropy -log softmax(logits)[target] in nats, fused with its gradient.

    Parameters
    ----------
    logits
        (..., K), float32 or float64.
    targets
        (...) integers in 0 ... K-1.
    weights
        (...) weight of each target, of the dtype of `logits`, at least 0; None for ones. A weight
        of 0 leaves a target out (padding).
    reduction
        "mean" (weighted, over all targets; 0 if the weights sum to 0) or "sum".

    Returns
    -------
    loss, d_logits
        The loss, and its gradient, shaped like `logits`.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it.
    """
    found = validation.floating("logits", logits)
    if found.ndim == 0 or not found.shape[-1]:
        raise ValueError(f"logits: expected shape (..., K), got {found.shape}")
    K = found.shape[-1]
    wanted = validation.shape(
        "targets", validation.indices("targets", targets, K), *found.shape[:-1]
    ).reshape(-1)
    scale, share = _weights(weights, found.shape[:-1], found.dtype, reduction)
    rows = found.reshape(-1, K)
    # The gradient is softmax - onehot, and the loss is log(sum(exp)) - logit: one exp serves both.
    d_rows = rows - rows.max(axis=1, keepdims=True)
    picked = (np.arange(len(rows)), wanted)
    chosen = d_rows[picked].astype(np.float64)
    np.exp(d_rows, out=d_rows)
    total = d_rows.sum(axis=1, keepdims=True)
    losses = np.log(total[:, 0].astype(np.float64)) - chosen
    d_rows /= total
    d_rows[picked] -= 1
    d_rows *= share if share.ndim == 0 else share.reshape(-1, 1)
    return _total(losses, scale, share), d_rows.reshape(found.shape)


@np.errstate(all="ignore")
def mean_squared_error(
    prediction: Array, target: Array, *, weights: Array | None = None, reduction: str = "mean"
) -> tuple[float, Array]:
    """Squared error (prediction - target)², averaged, and its gradient.

    Parameters
    ----------
    prediction, target
        Arrays of one shape (...) and dtype, float32 or float64.
    weights
        Weight of each element, of the same shape and dtype, at least 0; None for ones.
    reduction
        "mean" (weighted, over all elements) or "sum".

    Returns
    -------
    loss, d_prediction
        The loss, and its gradient, shaped like `prediction`.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it.
    """
    found = validation.floating("prediction", prediction)
    wanted = validation.floating("target", target, found.dtype)
    validation.shape("target", wanted, *found.shape)
    scale, share = _weights(weights, found.shape, found.dtype, reduction)
    difference = found - wanted
    losses = np.square(difference, dtype=np.float64).reshape(-1)
    return _total(losses, scale, share), np.reshape(2 * difference * share, found.shape)


def _weights(
    weights: object, shape: tuple[int, ...], dtype: np.dtype[np.floating], reduction: object
) -> tuple[float, Array]:
    """Check the weights; return what to divide their sum by, and each element's share.

    The share has an axis if there are weights, and none if it is the same for all.
    """
    validation.choice("reduction", reduction, REDUCTIONS)
    if weights is None:
        count = float(np.prod(shape)) if reduction == "mean" else 1.0
        scale = count or 1.0
        return scale, np.asarray(1 / scale, dtype)
    found = validation.shape("weights", validation.floating("weights", weights, dtype), *shape)
    if not ((found >= 0) & (found < np.inf)).all():
        raise ValueError(
            f"weights: expected finite values of at least 0, got {found.min()} to {found.max()}"
        )
    scale = (float(found.sum(dtype=np.float64)) or 1.0) if reduction == "mean" else 1.0
    return scale, np.asarray(found / dtype.type(scale), dtype).reshape(shape or (1,))


def _total(losses: Array, scale: float, share: Array) -> float:
    if share.ndim == 0:
        return float(losses.sum() / scale)
    return float((losses * share.reshape(-1)).sum())
