"""The one way in which files are written."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, whole, whatever happens.

    A symbolic link is followed. If the file cannot be written, the old one is as it was and nothing
    is left behind.
    """
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
