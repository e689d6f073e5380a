"""Named arrays and text metadata in one file of the safetensors format.

The format is a JSON header of sizes and offsets followed by raw numbers: reading it runs no code.
Layers are stored under torch's names; the metadata says what those do not, under ``layers``.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..cells import CELLS
from ..validation import Array
from . import torch
from .layer import Layer, Options, naming

STATE = "initial_"  # precedes the names of the states, where a layer has an initial state


def save(
    path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, str]
) -> None:
    """Write a file so that a reader finds the old one or the new one, whole, whatever happens.

    Parameters
    ----------
    path
        The file to write or replace. A symbolic link is followed.
    arrays
        Name to array of numbers.
    metadata
        Name to text.

    Raises
    ------
    OSError
        If the file cannot be written; then the old one is as it was and nothing is left behind.
    """
    from safetensors.numpy import save as serialize

    data = serialize({name: np.require(a, None, "C") for name, a in arrays.items()}, dict(metadata))
    files.write(path, data)


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a file.

    Returns
    -------
    arrays, metadata
        As given to `save`; bfloat16, which NumPy does not have, becomes float32.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not a whole safetensors file, or holds numbers that NumPy does not have.
    """
    from safetensors import SafetensorError, deserialize, safe_open

    # Asked first, because opening a pipe would wait for a writer.
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise ValueError(f"{path}: expected a safetensors file, got a folder or a device")
    try:
        with safe_open(path, framework="np") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no dict
            metadata = dict(file.metadata() or {})
            arrays = {n: file.get_tensor(n) for n, kind in kinds.items() if kind != "BF16"}
        if len(arrays) < len(kinds):
            for name, entry in deserialize(Path(path).read_bytes()):  # type: ignore[no-untyped-call]
                if kinds.get(name) == "BF16":
                    upper = np.frombuffer(entry["data"], "<u2").astype("<u4") << 16
                    arrays[name] = upper.view("<f4").reshape(entry["shape"])
        return {name: arrays[name] for name in kinds}, metadata
    # It raises the latter two for numbers that NumPy lacks, such as those of 8 bits.
    except (SafetensorError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected a safetensors file, got one that is not: {error}"
        ) from None


def arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read the arrays of a file; what is raised, as for `load`."""
    return load(path)[0]


def describe(layers: Mapping[str, Layer]) -> dict[str, str]:
    """Return the metadata by which `read` knows layers again."""
    rows = {
        name: {
            "cell": layer.cell,
            "options": dict(layer.options),
            "batch_first": layer.batch_first,
            "reverse": layer.reverse,
            "state": layer.state is not None,
        }
        for name, layer in layers.items()
    }
    return {"layers": json.dumps(rows)}


def write(path: str | os.PathLike[str], layers: Mapping[str, Layer]) -> None:
    """Write layers; what `read` returns is the same."""
    arrays: dict[str, Array] = {}
    for name, layer in layers.items():
        prefix = f"{name}." if name else ""
        arrays |= {prefix + key: array for key, array in layer.parameters.items()}
        if layer.state is not None:
            states = layer.state if isinstance(layer.state, tuple) else (layer.state,)
            names = CELLS[layer.cell].states
            arrays |= {prefix + STATE + key: part for key, part in zip(names, states, strict=True)}
    save(path, arrays, {"format": "fastrnn"} | describe(layers))


def read(path: str | os.PathLike[str], options: Options) -> dict[str, Layer]:
    """Find the layers of a file: those that its metadata names, or those that look like some.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError, TypeError
        If it is damaged, or holds no layer.
    """
    arrays, metadata = load(path)
    if not metadata.get("format", "").startswith("fastrnn") or "layers" not in metadata:
        return torch.read(arrays, options)
    try:
        rows = json.loads(metadata["layers"])
        return {name: _layer(name, dict(row), arrays, options) for name, row in rows.items()}
    # What JSON holds may be of any kind and depth.
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"metadata 'layers': expected those of fastrnn, got {error!r}") from None


def _layer(name: str, row: dict[str, Any], arrays: Mapping[str, Array], options: Options) -> Layer:
    prefix = f"{name}." if name else ""
    states = [prefix + STATE + state for state in CELLS[row["cell"]].states]
    parameters = {
        key.removeprefix(prefix): array
        for key, array in arrays.items()
        if key.startswith(prefix) and torch.NAME.fullmatch(key) and "." not in key[len(prefix) :]
    }
    with naming(name):
        said = dict(row["options"]) | {"batch_first": row["batch_first"]}
        values, _ = options.settle(row["cell"], said, {})
        batch_first = values.pop("batch_first")
        state = None
        if row["state"]:
            parts = tuple(arrays[key] for key in states)
            state = parts if len(parts) > 1 else parts[0]
        return Layer(row["cell"], values, parameters, batch_first, row["reverse"], state)
