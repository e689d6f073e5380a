"""Named arrays and text metadata in one file of the safetensors format.

The format is a JSON header of sizes and offsets followed by raw numbers: reading it runs no code.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np

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
    target = Path(path).resolve()
    # In the same folder, since a rename is atomic only within one file system. The name is not
    # built on the target's, which may already be as long as a name can be.
    draft = target.parent / f".fastrnn-{secrets.token_hex(8)}.tmp"
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the bytes must be on the disk before the name points at them
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # and so must the name, or a power cut may bring the old file back
    finally:
        os.close(folder)


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
