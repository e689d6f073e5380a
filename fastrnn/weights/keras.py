"""Recurrent layers out of files of Keras: ``.keras``, ``.weights.h5``, the HDF5 of Keras 1 and 2.

A whole model has its configuration with it. Weights alone do not say by what gates are squashed,
nor an RNN's nonlinearity: that is assumed, from the version of Keras if the file has it. All of
Keras' layers have sequences (B, T, ·).
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..validation import Array
from . import keras_config, keras_weights, table
from .hdf5 import File
from .keras_config import Spec, Version
from .keras_weights import Found
from .layer import Layer, Options, naming
from .limits import Budget

_WEIGHTS = "model.weights.h5"


def read(path: Path, options: Options) -> dict[str, Layer]:
    """Read the layers of a file.

    Parameters
    ----------
    path
        A file of Keras.
    options
        What the caller knows; ``gate_activation="hard_sigmoid"`` is that of the file's Keras, which
        has another slope since version 3.

    Returns
    -------
    layers
        Path of the layers' names to layer.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError, TypeError
        If it is damaged, holds no layer, or one that does what the library does not.
    """
    with _open(path) as (file, config, version):
        left = keras_weights.scan(file)
        layers: dict[str, Layer] = {}
        for spec in [] if config is None else keras_config.specs(config):
            key = "/".join(spec.path)
            with naming(key):
                found = _match(spec, left)
                left.remove(found)
                layers[key] = _layer(file, found, spec, version, options)
        for found in left:
            # What the configuration does not have, or is of some other kind, such as convolutions.
            kinds = {keras_weights.cell(file, cell) for side in found.sides for cell in side}
            if all(found.sides) and len(kinds) == 1 and None not in kinds:
                with naming(found.key):
                    layers[found.key] = _layer(file, found, None, version, options)
    if not layers:
        raise ValueError("expected layers LSTM, GRU or SimpleRNN of Keras, got none of them")
    return layers


def arrays(path: Path) -> dict[str, Array]:
    """Read the numbers in a file; what is raised, as for `read`."""
    with _open(path) as (file, _, _):
        return {
            name: file.array(name)
            for name, dataset in file.datasets.items()
            if dataset.shape is not None and dataset.dtype.kind in "iufbV"
        }


@contextmanager
def _open(path: Path) -> Iterator[tuple[File, Any, Version]]:
    """Open a file, and read the model's configuration, if there is one, and Keras' version."""
    size = path.stat().st_size
    with path.open("rb") as start:
        zipped = start.read(2) == b"PK"
    if zipped:
        config, metadata, data = _unpack(path, size)
        written = metadata.get("keras_version") if isinstance(metadata, dict) else None
        with File(io.BytesIO(data), len(data)) as file:
            yield file, config, Version.of(str(written))
        return
    with File(path, size) as file:
        text = file.text("", "model_config")
        config = None if text is None else _json("model_config", "".join(text))
        words = file.text(keras_weights.root(file), "keras_version")
        if words is None:  # weights of Keras 3 do not say it, nor do those of Keras 1
            words = ["1.0" if keras_weights.is_legacy(file) else "3.0"]
        yield file, config, Version.of("".join(words))


def _unpack(path: Path, size: int) -> tuple[Any, Any, bytes]:
    """Return the parts of an archive that are needed; nothing is extracted to the disk."""
    budget = Budget(size)
    members = {"config.json": b"", "metadata.json": b"{}", _WEIGHTS: b""}
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in names:
                if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
                    raise ValueError(f"{name!r}: expected a member inside the archive")
            if len(set(names)) < len(names):
                raise ValueError("expected members with names of their own, got some twice")
            for name in set(members) & set(names):
                info = archive.getinfo(name)
                budget.take(name, [info.file_size], 1)
                with archive.open(info) as member:
                    members[name] = member.read(info.file_size)
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"expected a whole archive of Keras, got one that is not: {error}"
        ) from None
    for name in ("config.json", _WEIGHTS):
        if not members[name]:
            raise ValueError(f"expected an archive of Keras, got one without {name}")
    config, metadata = (_json(name, members[name]) for name in ("config.json", "metadata.json"))
    return config, metadata, members[_WEIGHTS]


def _json(name: str, data: bytes | str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # what JSON holds may be of any depth
        raise ValueError(f"{name}: expected JSON, got {type(error).__name__}: {error}") from None


def _match(spec: Spec, left: Sequence[Found]) -> Found:
    """Return the weights of a layer of the configuration."""
    key = "/".join(spec.path)
    rows = [f for f in left if f.location == (spec.location,)]
    rows = rows or [f for f in left if f.key == key and len(f.location) == 1]
    rows = rows or [f for f in left if f.location[0] == spec.path[0]]  # the group of Keras 1 and 2
    if len(rows) > 1:  # of a model inside the model
        rows = [f for f in rows if spec.path[-1] in f.location[1:]]
    if len(rows) != 1:
        raise ValueError(f"weights: expected those of one layer, got those of {len(rows)}")
    return rows[0]


def _layer(
    file: File, found: Found, spec: Spec | None, version: Version, options: Options
) -> Layer:
    sides = [[keras_weights.read(file, cell) for cell in side] for side in found.sides]
    notes: tuple[str, ...] = ()
    if spec is None:
        cell = str(keras_weights.cell(file, found.sides[0][0]))
        said: dict[str, Any] = {"batch_first": True}
        assumed = version.assumed(cell)
    else:
        if [len(side) for side in sides] != [len(spec.cells)] * (1 + spec.bidirectional):
            raise ValueError("weights: expected those of other directions or cells")
        cell, said, assumed, notes = spec.cell, spec.said(sides[0][0]), {}, spec.notes
    row = _row(cell, sides[0][0], said, assumed)
    values, assumed = options.settle(cell, said, assumed)
    parameters: dict[str, Array] = {}
    for suffix, side in zip(("", "_reverse"), sides, strict=False):
        for k, (ih, hh, *bias) in enumerate(side):
            part = table.read(row, ih, hh, bias[0] if bias else None)
            if values.get(table.GATED) == "hard_sigmoid" and version.slope != 0.2:
                part = table.scale_gates(cell, part, 5 * version.slope)
            parameters |= {f"{name}_l{k}{suffix}": array for name, array in part.items()}
    if set(assumed) - {"batch_first"}:
        notes = (*notes, f"what is assumed is what {version.words} does if it is not told")
    batch_first = values.pop("batch_first")
    reverse = spec is not None and bool(spec.layer.get("go_backwards"))
    notes = (*notes, *dict.fromkeys(file.notes))
    return Layer(cell, values, parameters, batch_first, reverse, None, assumed, notes)


def _row(
    cell: str, arrays: Sequence[Array], said: dict[str, Any], assumed: dict[str, Any]
) -> table.Conversion:
    """Return how these arrays lie. What the bias tells is added to what the file says."""
    if len(arrays) < 3 or cell == "rnn":
        return table.find("keras", cell, **assumed | said)
    bias, columns = arrays[2], arrays[1].shape[-1]
    if bias.shape == (2 * columns,):
        row = table.find("cudnn", cell)
        tells = {table.GATED: "sigmoid", **row.options}
    else:
        row = table.find("keras", cell, reset_after=bias.ndim == 2)
        tells = dict(row.options)
    for name, value in tells.items():
        if said.setdefault(name, value) != value:
            raise ValueError(f"{name}: expected {value!r}, since the bias is {bias.shape}")
        assumed.pop(name, None)
    return row
