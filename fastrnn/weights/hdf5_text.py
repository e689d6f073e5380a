"""Attributes of HDF5 files that are texts of any length, read without its library.

They lie in global heaps. The library goes round in circles in a heap that says of a piece of it
that it takes no room, and takes the memory that an attribute asks for before it looks for the text.
Sections are those of the HDF5 File Format Specification, version 3.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

from .limits import Budget

Data = bytes | mmap.mmap
_ATTRIBUTE, _CONTINUATION = 0x0C, 0x10  # kinds of messages (IV.A.2)
_SHARED = 2  # a flag of messages that are somewhere else


class Texts:
    """The texts of a file.

    Parameters
    ----------
    data
        All of the file.
    budget
        How much text it may have.

    Raises
    ------
    ValueError
        If addresses have another size than 8 bytes, or do not count from the file's beginning.
    """

    def __init__(self, data: Data, budget: Budget) -> None:
        self.data, self.budget = data, budget
        self.heaps: dict[int, dict[int, tuple[int, int]]] = {}
        # II.A: by the version of the superblock, where it has the sizes and the base address.
        version = self._number(8, 1)
        sizes, base = {0: (13, 24), 1: (13, 28), 2: (9, 12), 3: (9, 12)}.get(version, (0, 0))
        if not sizes or self._bytes(sizes, 2) != b"\x08\x08" or self._number(base, 8):
            raise ValueError("expected a whole HDF5 file, got one with other addresses than usual")

    def read(self, header: int, name: str, count: int) -> list[str]:
        """Read an attribute.

        Parameters
        ----------
        header
            Address of the object that has it.
        name
            Its name.
        count
            How many texts it is.

        Raises
        ------
        ValueError
            If it is not there, or damaged.
        """
        for start in self._attributes(header):
            # IV.A.2.m: the name, the type, and the sizes precede the values.
            version = self._number(start, 1)
            sizes = [self._number(start + 2 + 2 * k, 2) for k in range(3)]
            at = start + (9 if version == 3 else 8)
            if self._bytes(at, sizes[0]).rstrip(b"\0") != name.encode():
                continue
            if version not in (1, 2, 3) or (version > 1 and self._number(start + 1, 1)):
                break
            at += sum((size + 7) // 8 * 8 if version == 1 else size for size in sizes)
            return [self._text(name, at + 16 * k) for k in range(count)]
        raise ValueError(f"{name}: expected text beside its object, got none")

    def _attributes(self, header: int) -> Iterator[int]:
        """Go through an object's header; give where the messages begin that are attributes."""
        new = self._bytes(header, 4) == b"OHDR"  # IV.A.1.b, else IV.A.1.a
        order = 0
        if new:
            flags = self._number(header + 5, 1)
            order = 2 if flags & 4 else 0  # bytes of each message for the order of creation
            at = header + 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
            width = 1 << (flags & 3)
            blocks = [(at + width, self._number(at, width))]
        else:
            blocks = [(header + 16, self._number(header + 8, 4))]
        seen = set()
        while blocks:
            at, size = blocks.pop(0)
            if at in seen or at + size > len(self.data):
                raise ValueError("expected a whole HDF5 file, got an object that does not add up")
            seen.add(at)
            end = at + size
            while at + (4 + order if new else 8) <= end:
                kind, length = self._number(at, 1), self._number(at + (1 if new else 2), 2)
                flags = self._number(at + (3 if new else 4), 1)
                at += 4 + order if new else 8
                if kind == _ATTRIBUTE and not flags & _SHARED:
                    yield at
                elif kind == _CONTINUATION:
                    block, room = self._number(at, 8), self._number(at + 8, 8)
                    # New ones have a signature before and a sum behind their messages.
                    blocks.append((block + 4, room - 8) if new else (block, room))
                at += length

    def _text(self, name: str, at: int) -> str:
        """Read a text by its length, the address of its heap, and its number there (IV.B)."""
        length, heap, number = (self._number(at + k, n) for k, n in ((0, 4), (4, 8), (12, 4)))
        if not length:
            return ""
        if heap not in self.heaps:
            self.heaps[heap] = self._heap(heap)
        start, size = self.heaps[heap].get(number, (0, 0))
        if length > size:
            raise ValueError(f"{name}: expected text of at most {size} bytes, got {length}")
        self.budget.take(name, [length], 1)
        return self._bytes(start, length).rstrip(b"\0").decode("utf-8", "replace")

    def _heap(self, at: int) -> dict[int, tuple[int, int]]:
        """Return where the objects of a heap begin, and their sizes (III.E)."""
        end = at + self._number(at + 8, 8)
        if self._bytes(at, 4) != b"GCOL" or end > len(self.data):
            raise ValueError("expected a whole HDF5 file, got no text where one should be")
        found = {}
        at += 16
        while at + 16 <= end:
            number, size = self._number(at, 2), self._number(at + 8, 8)
            room = 16 + (size + 7) // 8 * 8 if number else size  # number 0 is what is free
            if not 0 < room <= end - at:
                raise ValueError("expected a whole HDF5 file, got text that does not add up")
            found[number] = at + 16, size
            at += room
        return found

    def _bytes(self, at: int, size: int) -> bytes:
        if at < 0 or at + size > len(self.data):
            raise ValueError("expected a whole HDF5 file, got one that ends too early")
        return self.data[at : at + size]

    def _number(self, at: int, size: int) -> int:
        return int.from_bytes(self._bytes(at, size), "little")
