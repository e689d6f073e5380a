"""Keras 3 on torch: its layers on time-major input, turned as Keras wants it beforehand."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ...validation import Array
from ..problem import Arrays, Problem, RefusedError, Run

# Which of our gates stands at each place in Keras' order.
GATES = {"rnn": [0], "gru": [1, 0, 2], "lstm": [0, 1, 2, 3]}
MOST_STEPS = 1000
LAYERS = {"rnn": "SimpleRNN", "gru": "GRU", "lstm": "LSTM"}


def on_torch(p: Problem) -> Run:
    """Call the layer, or differentiate it with torch's autograd."""
    if p.work.kind not in ("inference", "training") or p.work.layers > 1:
        raise RefusedError("here for single layers on sequences only")
    if p.work.T > MOST_STEPS:
        raise RefusedError("goes from step to step in Python, which would take minutes here")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras
    import torch

    if keras.backend.backend() != "torch":
        raise RefusedError(f"runs on {keras.backend.backend()}")
    torch.set_num_threads(p.threads)
    layer = getattr(keras.layers, LAYERS[p.work.cell])(p.work.H, return_sequences=True)
    x = torch.from_numpy(np.ascontiguousarray(p.x.swapaxes(0, 1)))
    d_y = torch.from_numpy(np.ascontiguousarray(p.d_y.swapaxes(0, 1)))
    layer.build(tuple(x.shape))
    layer.set_weights(_weights(p))
    if p.work.kind == "inference":

        def infer() -> Arrays:
            with torch.inference_mode():
                return [layer(x, training=False).numpy().swapaxes(0, 1)]

        return infer
    tensors = [variable.value for variable in layer.trainable_weights]
    x.requires_grad_()

    def train() -> Arrays:
        y = layer(x, training=True)
        d_x, *gradients = torch.autograd.grad(y, [x, *tensors], d_y)
        found = [y.detach().numpy().swapaxes(0, 1), d_x.numpy().swapaxes(0, 1)]
        return found + _gradients(p, [g.numpy() for g in gradients])

    return train


def _order(p: Problem, array: Array, *, back: bool = False) -> Array:
    """Put blocks of rows into Keras' order of gates, or back into ours."""
    order = GATES[p.work.cell]
    if back:
        order = [order.index(k) for k in range(len(order))]
    blocks = np.split(array, len(order))
    return np.concatenate([blocks[k] for k in order])


def _weights(p: Problem) -> list[Array]:
    w: dict[str, Any] = {name.removesuffix("_l0"): a for name, a in p.parameters.items()}
    ih, hh, b_ih, b_hh = (
        _order(p, w[name]) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    return [ih.T, hh.T, np.stack([b_ih, b_hh]) if p.work.cell == "gru" else b_ih + b_hh]


def _gradients(p: Problem, gradients: list[Array]) -> Arrays:
    """Return gradients as ours are; where Keras has one bias, both of ours have its gradient."""
    d_ih, d_hh, d_b = gradients
    d_b_ih, d_b_hh = d_b if p.work.cell == "gru" else (d_b, d_b)
    return [_order(p, array, back=True) for array in (d_ih.T, d_hh.T, d_b_ih, d_b_hh)]
