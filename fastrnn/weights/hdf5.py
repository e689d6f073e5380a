"""HDF5 files, read with care: only numbers and text that the file itself holds.

Links other than hard ones, data in other files, data put together from elsewhere, references and
filters that would have to be loaded are refused. What HDF5's own library does with a damaged file
is up to it; what it reports becomes one kind of error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..validation import FLOAT32, FLOAT64, Array
from .limits import Budget

_MOST_OBJECTS = 1_000_000
_MOST_TEXT = 1 << 30  # bytes that the texts of one attribute could take at most
_FILTERS = (1, 2, 3)  # deflate, shuffle, fletcher32: those that are part of the library


@contextmanager
def damage() -> Iterator[None]:
    """Word what the library of HDF5 has to say about a damaged file."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, TypeError, NotImplementedError) as error:
        words = " ".join(str(error).split())
        raise ValueError(f"expected a whole HDF5 file, got one that is not: {words}") from None


class File:
    """A file, with all its datasets looked up.

    Parameters
    ----------
    source
        Its name, or its bytes as a file.
    size
        How many bytes it has.

    Attributes
    ----------
    datasets
        Path in the file to dataset, in the order of the file.
    notes
        What was changed in what was read.

    Raises
    ------
    ValueError
        If it is damaged, or holds links.
    """

    def __init__(self, source: Path | BinaryIO, size: int) -> None:
        import h5py

        self.budget = Budget(size)
        self.size = size
        self.notes: list[str] = []
        self.datasets: dict[str, Any] = {}
        self._groups: dict[str, Any] = {}
        with damage():
            self._file = h5py.File(source, "r")
            try:
                self._walk()
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> File:
        """Return itself: it is closed in the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def _walk(self) -> None:
        """Look up every group and dataset, following hard links alone."""
        import h5py

        waiting = [("", self._file)]
        seen = {h5py.h5o.get_info(self._file.id).addr}
        while waiting:
            path, group = waiting.pop()
            self._groups[path] = group
            inner = []
            for name in group:
                inside = f"{path}/{name}" if path else name
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ValueError(f"{inside}: expected a group or numbers, got a link")
                found = group[name]
                if isinstance(found, h5py.Dataset):
                    self.datasets[inside] = found
                elif isinstance(found, h5py.Group):
                    address = h5py.h5o.get_info(found.id).addr
                    if address in seen:
                        raise ValueError(f"{inside}: expected a group of its own, got another's")
                    seen.add(address)
                    inner.append((inside, found))
                if len(self.datasets) + len(seen) > _MOST_OBJECTS:
                    raise ValueError(f"expected at most {_MOST_OBJECTS} objects")
            waiting += reversed(inner)  # so that the next that is taken is the first

    def has_group(self, path: str) -> bool:
        """Whether there is a group of this path."""
        return path in self._groups

    def text(self, path: str, name: str) -> list[str] | None:
        """Return an attribute of a group that is text, or several; None if there is none.

        Keras cuts those that are too long into ``name0``, ``name1``, and so on.

        Raises
        ------
        ValueError
            If it is no text.
        """
        group = self._groups.get(path)
        if group is None:
            return None
        with damage():
            if name in group.attrs:
                return self._text(group, name)
            parts: list[str] = []
            while f"{name}{len(parts)}" in group.attrs and len(parts) < _MOST_OBJECTS:
                parts.append(f"{name}{len(parts)}")
            if not parts:
                return None
            return [text for part in parts for text in self._text(group, part)]

    def _text(self, group: Any, name: str) -> list[str]:
        import h5py

        if name not in group.attrs:
            return []
        attribute = group.attrs.get_id(name)
        kind = h5py.check_string_dtype(attribute.dtype)
        count = int(np.prod(attribute.shape, dtype=object))
        if kind is None and count:  # Keras writes a list of none as one of floats
            raise ValueError(f"{name}: expected text, got {attribute.dtype}")
        if not count:
            return []
        if kind.length is None:
            # Each text may be as long as what no dataset takes, and all of them may be the same.
            rest = self.size - sum(d.id.get_storage_size() for d in self.datasets.values())
            if count * max(rest, 0) > _MOST_TEXT:
                raise ValueError(f"{name}: expected less text, got {count} pieces of it")
        else:
            self.budget.take(name, [count], kind.length)
        found = np.ravel(np.asarray(group.attrs[name], dtype=object))
        return [
            text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
            for text in found
        ]

    def array(self, path: str) -> Array:
        """Return the numbers of a dataset; half precision becomes float32.

        Raises
        ------
        ValueError
            If they are not plain numbers that this file holds.
        """
        with damage():
            return self._array(path, self.datasets[path])

    def _array(self, path: str, dataset: Any) -> Array:
        import h5py

        made = dataset.id.get_create_plist()
        if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
            raise ValueError(f"{path}: expected numbers in this file, got those of others")
        filters = [made.get_filter(k)[0] for k in range(made.get_nfilters())]
        if not set(filters) <= set(_FILTERS):
            raise ValueError(f"{path}: expected filters among {_FILTERS}, got {filters}")
        if dataset.shape is None:
            raise ValueError(f"{path}: expected numbers, got an empty dataset")
        kind = dataset.dtype
        brain = kind == np.dtype("V2") and self._text(dataset, "dtype") == ["bfloat16"]
        if kind.kind not in "iufb" and not brain:
            raise ValueError(f"{path}: expected numbers, got {kind}")
        size = self.budget.take(path, dataset.shape, kind.itemsize)
        held = dataset.id.get_storage_size()
        # Without filters all of it must be there; what was never written would be made up.
        if not filters and size > min(held, self.size):
            raise ValueError(f"{path}: expected {size} bytes of numbers, got {held}")
        array = np.asarray(dataset[()])
        if brain:  # as Keras 3 writes what HDF5 does not have
            self.notes.append("bfloat16 was read as float32")
            return (array.view("<u2").astype("<u4") << 16).view("<f4")
        if array.dtype.kind in "iub" or array.dtype.newbyteorder("=") in (FLOAT32, FLOAT64):
            return array
        self.notes.append(f"{array.dtype} was read as float32")
        return array.astype(np.float32)
