"""Named arrays and text metadata in one file of the safetensors format.

The format is a JSON header of sizes and offsets followed by raw numbers: reading it runs no code.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .. import files
from ..validation import Array


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
        As given to `save`.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not a whole safetensors file, or holds numbers that NumPy does not have.
    """
    from safetensors import SafetensorError, safe_open

    # Asked first, because opening a pipe would wait for a writer.
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise ValueError(f"{path}: expected a safetensors file, got a folder or a device")
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            return arrays, dict(file.metadata() or {})
    # It raises the latter two for numbers that NumPy lacks, such as bfloat16.
    except (SafetensorError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected a safetensors file, got one that is not: {error}"
        ) from None
