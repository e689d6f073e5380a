"""Readers and writers of weight files, one module a format. None of them executes what it reads.

`load` finds the recurrent layers of a file or of a torch ``state_dict``, `save` writes some,
`arrays` returns everything that is in a file. `table` holds how formats differ.
"""

from .formats import arrays, load, save
from .layer import Layer

__all__ = ["Layer", "arrays", "load", "save"]
