"""Text as indices: the vocabulary, the default text, and how a text is laid out for training."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..validation import Array

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
VOCABULARY_SIZE = 256  # so that an index is one byte

# Of the standard library: what is not in every installation, and tables and quoted help texts,
# which are no programs.
LEFT_OUT = frozenset(
    ["test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "pydoc_data"]
)
STANDARD_LIBRARY_SIZE = 5_000_000  # characters: more than a minute of training gets through
HELD_OUT = 20  # one part of so many


class Vocabulary:
    """The characters that a model knows, each with an index; all others share index 0, U+FFFD.

    Parameters
    ----------
    characters
        Each character once, U+FFFD first, 2 to 256 in all.

    Raises
    ------
    ValueError
        If that is not so.
    """

    def __init__(self, characters: str) -> None:
        if (
            characters[:1] != REPLACEMENT
            or not 2 <= len(characters) <= VOCABULARY_SIZE
            or len(set(characters)) < len(characters)
        ):
            raise ValueError(
                f"characters: expected 2 to {VOCABULARY_SIZE} different ones, U+FFFD first, "
                f"got {characters!r}"
            )
        self.characters = characters
        self._index = np.zeros(sys.maxunicode + 1, np.uint8)
        self._index[_code_points(characters)] = np.arange(len(characters))

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """Take the 255 most frequent characters of a text; of equally frequent ones the lower."""
        counts = np.bincount(_code_points(text), minlength=sys.maxunicode + 1)
        counts[ord(REPLACEMENT)] = 0
        order = np.argsort(-counts, kind="stable")[: VOCABULARY_SIZE - 1]
        return cls(REPLACEMENT + "".join(map(chr, sorted(order[counts[order] > 0]))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Array:
        """Return the indices of a text, (len(text),) uint8."""
        return np.asarray(self._index[_code_points(text)])

    def unknown(self, text: str) -> str:
        """Return the characters of a text, each once, that stand for U+FFFD."""
        return "".join(sorted(set(text) - set(self.characters)))


def _code_points(text: str) -> Array:
    # surrogatepass: what a command line cannot decode reaches Python as lone surrogates.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text, laid out for training.

    Attributes
    ----------
    vocabulary
        Made from the training part alone.
    train
        The first 95 % of the text, as indices, uint8.
    held_out
        The last 5 %, at least enough for one window, which is only ever measured on.
    digest
        SHA-256 of the whole text.
    """

    vocabulary: Vocabulary
    train: Array
    held_out: Array
    digest: str

    @classmethod
    def of(cls, text: str, batch: int, window: int) -> Corpus:
        """Split a text; `ValueError` if its parts are shorter than one window for each stream."""
        if not text:
            raise ValueError("text: expected at least one character, got an empty text")
        held_out = max(len(text) // HELD_OUT, window + 1)
        rest = max(len(text) - held_out, 0)
        if rest < batch * window + 1:
            raise ValueError(
                f"text: expected at least {batch * window + 1} characters (batch={batch} streams "
                f"of one window={window}) and {held_out} that are held out, got {len(text)}"
            )
        vocabulary = Vocabulary.of(text[:rest])
        indices = vocabulary.encode(text)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return cls(vocabulary, indices[:rest], indices[rest:], digest)


def streams(indices: Array, batch: int) -> tuple[Array, Array]:
    """Cut a text into `batch` contiguous streams, time first.

    Returns
    -------
    inputs, targets
        (T, B) each. A target is the character after the input; a remainder of less than B
        characters is left out.
    """
    T = (len(indices) - 1) // batch
    inputs, targets = (indices[shift : shift + batch * T].reshape(batch, T).T for shift in (0, 1))
    return inputs, targets


def read(path: str | os.PathLike[str]) -> str:
    """Read a file of UTF-8 text; `OSError` or `ValueError` if that is not possible."""
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        found = error.object[error.start]
        raise ValueError(
            f"{path}: expected UTF-8 text, got the byte 0x{found:02x} at {error.start}"
        ) from None


def standard_library(limit: int = STANDARD_LIBRARY_SIZE) -> str:
    """Return the running Python's own ``.py`` files, whole ones, up to `limit` characters.

    Their order is by a hash of the name: the same on every machine with this Python, and shuffled,
    so that the end of the text is much like the rest.
    """
    root = Path(sysconfig.get_path("stdlib"))
    names = [path.relative_to(root) for path in root.rglob("*.py")]
    # _sysconfigdata*.py says how this one interpreter was built.
    names = [name for name in names if name.name[:15] != "_sysconfigdata_"]
    names = [name for name in names if LEFT_OUT.isdisjoint(name.parts)]
    names.sort(key=lambda name: hashlib.sha256(name.as_posix().encode()).digest())
    texts: list[str] = []
    size = 0
    for name in names:
        text = (root / name).read_text("utf-8", errors="replace")
        if size + len(text) > limit:
            break
        texts.append(text)
        size += len(text)
    return "".join(texts)
