"""Recurrent layers by the names that torch gives to their parameters. It does not need torch.

A module that holds an LSTM as ``encoder.rnn`` has ``encoder.rnn.weight_ih_l0`` and so on in its
``state_dict``; an LSTMCell has ``weight_ih`` and so on. Neither the batch's place nor an RNN's
nonlinearity is among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import validation
from ..validation import Array
from . import table
from .layer import Layer, Options, naming

# Prefix, name, and the layer's number and direction, which a cell does not have.
NAME = re.compile(
    r"(.*\.)?((?:weight_(?:ih|hh|hr)|bias_(?:ih|hh))(_l\d+(?:_reverse)?)?)", re.ASCII | re.DOTALL
)
_CELLS = {1: "rnn", 3: "gru", 4: "lstm"}  # by the rows of weight_hh for each of its columns


def read(arrays: Mapping[str, object], options: Options) -> dict[str, Layer]:
    """Find the layers among named arrays.

    Parameters
    ----------
    arrays
        Name to array or to tensor of torch, of float16, bfloat16 (both become float32, which is
        exact), float32 or float64.
    options
        What the caller knows.

    Returns
    -------
    layers
        Name of the module ("" if the names have no prefix) to layer, in the order of `arrays`.

    Raises
    ------
    ValueError, TypeError
        If a layer is incomplete, or an array is none that the library can take.
    """
    found: dict[str, dict[str, object]] = {}
    for name in arrays:
        match = NAME.fullmatch(name) if isinstance(name, str) else None
        if match:
            parameters = found.setdefault(match[1] or "", {})
            key = match[2] if match[3] else f"{match[2]}_l0"  # a cell is a layer of its own
            if key in parameters:
                raise ValueError(f"{name}: expected a layer or a cell, got both")
            parameters[key] = arrays[name]
    layers = {}
    for prefix, parameters in found.items():
        if "weight_hh_l0" not in parameters:
            raise ValueError(f"{prefix}{next(iter(parameters))}: expected weight_hh_l0 beside it")
        with naming(prefix.removesuffix(".") or "layer"):
            layers[prefix.removesuffix(".")] = _layer(parameters, options)
    if not layers:
        near = [str(name) for name in arrays if "weight_hh" in str(name)]
        raise ValueError(
            "expected recurrent layers under torch's names (weight_ih_l0, weight_hh_l0, ...), got "
            + (f"{near[0]}, which is none of them" if near else f"none among {len(arrays)} arrays")
        )
    return layers


def _layer(given: Mapping[str, object], options: Options) -> Layer:
    notes: list[str] = []
    parameters = {name: plain(name, value, notes) for name, value in given.items()}
    hh = parameters["weight_hh_l0"]
    if hh.ndim != 2 or not hh.size:
        raise ValueError(f"weight_hh_l0: expected shape (G*H, H), got {hh.shape}")
    projection = parameters.get("weight_hr_l0")
    H = hh.shape[1] if projection is None else projection.shape[-1]
    G = len(hh) / max(H, 1)
    if G not in _CELLS:
        raise ValueError(
            f"weight_hh_l0: expected 1, 3 or 4 times as many rows as columns, got {hh.shape}"
        )
    cell = _CELLS[int(G)]
    said = table.find("torch", cell).options
    assumed = {"batch_first": False} | ({"nonlinearity": "tanh"} if cell == "rnn" else {})
    values, assumed = options.settle(cell, said, assumed)
    batch_first = values.pop("batch_first")
    return Layer(
        cell, values, parameters, batch_first, assumed=assumed, notes=tuple(dict.fromkeys(notes))
    )


def plain(name: str, value: Any, notes: list[str]) -> Array:
    """Return an array of its own from an array or a tensor; half precision becomes float32."""
    if hasattr(value, "detach"):  # a tensor, which may be a parameter
        value = value.detach()
        if str(value.dtype) == "torch.bfloat16":  # NumPy has no such type
            value = value.float()
            notes.append("bfloat16 was read as float32")
    array = validation.array(name, value)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
        notes.append("float16 was read as float32")
    return validation.floating(name, array).copy()
