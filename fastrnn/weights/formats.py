"""Which file is what, and the three things that are done with it: load, save, arrays."""

from __future__ import annotations

import os
import stat
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..cells import CELLS
from ..layers import Recurrent
from ..validation import Array
from . import keras, onnx, onnx_writer, safetensors, torch
from .layer import Layer, Options, damage, naming, needing

READERS: Mapping[str, ModuleType] = {
    ".safetensors": safetensors,
    ".onnx": onnx,
    ".keras": keras,
    ".h5": keras,
    ".hdf5": keras,
}
WRITERS: Mapping[str, Callable[[Path, Mapping[str, Layer]], None]] = {
    ".safetensors": safetensors.write,
    ".onnx": onnx_writer.write,
}
_HDF5 = b"\x89HDF\r\n\x1a\n"
_PICKLE = (
    "expected a file of weights, got a pickle, which can run any code when it is read; save the "
    "state_dict with safetensors.torch.save_file, or pass it to fastrnn.weights.load itself"
)


def load(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    options: Mapping[str, object] | None = None,
) -> dict[str, Layer]:
    """Read the recurrent layers of a file, or find them among named arrays.

    Parameters
    ----------
    source
        A file of safetensors, ONNX or Keras (``.keras``, ``.weights.h5``, ``.h5``, ``.hdf5``);
        what it holds decides, not its name. Or a mapping of names to arrays or tensors, such as a
        torch module's ``state_dict()``.
    options
        What the source does not say: options of cells, such as ``{"gate_activation":
        "hard_sigmoid"}``, and ``batch_first``.

    Returns
    -------
    layers
        Where it was found (a module's name, a node's, the path of a Keras layer) to layer, in
        the order of the file.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError, TypeError
        If the file is damaged or of no such format, if it has no recurrent layer, or one that
        does what the library does not; if the options are wrong or contradict it.
    ModuleNotFoundError
        If the library that reads the format is not installed.

    Warns
    -----
    UserWarning
        If an option of a cell had to be assumed, because nothing says it.
    """
    known = Options(options)
    if isinstance(source, Mapping):
        layers, where = torch.read(source, known), "source"
        known.check()
    else:
        path, where = _path("source", source), str(source)
        with naming(where), needing(), damage():
            layers = READERS[kind(path)].read(path, known)
            known.check()
    for name, layer in layers.items():
        for option, value in layer.assumed.items():
            if option in CELLS[layer.cell].options:
                warnings.warn(
                    f"{where}: nothing says the {option} of {name!r}: assumed {value!r} (options="
                    f"{{{option!r}: ...}} says it)",
                    stacklevel=2,
                )
    return layers


def arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read every array of numbers in a file, by its name or path in it.

    Raises
    ------
    OSError, ValueError, ModuleNotFoundError
        As for `load`.
    """
    found = _path("path", path)
    with naming(path), needing(), damage():
        result: dict[str, Array] = READERS[kind(found)].arrays(found)
        return result


def save(
    path: str | os.PathLike[str], layers: Mapping[str, Layer | Recurrent] | Layer | Recurrent
) -> None:
    """Write layers to a file, atomically.

    Parameters
    ----------
    path
        A name that ends in ``.safetensors`` or ``.onnx``. A file of that name is replaced.
    layers
        Name to layer, or one layer.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError, TypeError
        If the format cannot hold them.
    ModuleNotFoundError
        If the library that writes the format is not installed.
    """
    target = _path("path", path)
    check_suffix("path", target)
    rows = layers if isinstance(layers, Mapping) else {"": layers}
    if not rows:
        raise ValueError("layers: expected at least one, got none")
    for name in rows:
        if not isinstance(name, str):
            raise TypeError(f"layers: expected names that are text, got {name!r}")
    found = {name: Layer.of(layer) for name, layer in rows.items()}
    with needing():
        WRITERS[target.suffix](target, found)


def check_suffix(argument: str, path: Path) -> None:
    """Refuse a name that does not say in which format a file is to be written."""
    if path.suffix not in WRITERS:
        words = " or ".join(WRITERS)
        raise ValueError(f"{argument}: expected a name that ends in {words}, got {str(path)!r}")


def kind(path: Path) -> str:
    """Say which reader a file is for, by what it holds; `ValueError` if none."""
    # Asked first, because opening a pipe would wait for a writer.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("expected a file, got a folder or a device")
    with path.open("rb") as file:
        head = file.read(16)
    # Before the pickles, with one of which the size of a header may begin as well.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return ".safetensors"
    if head.startswith(b"\x80"):
        raise ValueError(_PICKLE)
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if head.startswith(_HDF5):
        return ".h5"
    if head.startswith(b"\x08"):  # the number of a version, with which ONNX begins
        return ".onnx"
    if path.suffix in READERS:  # whose reader will say what is wrong
        return path.suffix
    raise ValueError(f"expected a file of one of {', '.join(READERS)}, got something else")


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"expected a whole archive, got one that is not: {error}") from None
    if any(name.endswith(".pkl") for name in names):
        raise ValueError(_PICKLE)
    if any(name.endswith(".npy") for name in names):
        raise ValueError(
            "expected a file of weights, got NumPy arrays: pass dict(numpy.load(...)) instead"
        )
    return ".keras"


def _path(argument: str, value: object) -> Path:
    if not isinstance(value, str | os.PathLike):
        hint = ", such as its state_dict()" if hasattr(value, "state_dict") else ""
        raise TypeError(
            f"{argument}: expected a file or a mapping of arrays{hint}, got {type(value).__name__}"
        )
    return Path(value)
