"""The constants of an ONNX model, wherever it keeps them, read with care."""

from __future__ import annotations

import os
import stat
from collections import ChainMap
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from ..validation import FLOAT32, FLOAT64, Array
from .limits import Budget

Scope = ChainMap[str, Any]  # what names mean inside a graph: a tensor, or the node that computes it
_DEEPEST = 32  # nodes between a constant and where it is used


class Values:
    """A model and what it holds.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    model
        The ModelProto; external data is not in it.
    notes
        What was changed in what was read.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no ONNX model.
    """

    def __init__(self, path: Path) -> None:
        import onnx
        from google.protobuf.message import DecodeError

        self.folder = path.parent
        data = path.read_bytes()
        try:
            self.model = onnx.ModelProto.FromString(data)
        except DecodeError as error:  # among others, for messages inside messages without end
            raise ValueError(f"expected an ONNX model, got one that is not: {error}") from None
        if not self.model.HasField("graph") or not self.model.ir_version:
            raise ValueError("expected an ONNX model, got one without a graph")
        self.budget = Budget(len(data))
        self.notes: list[str] = []
        self.files: set[Path] = set()
        # By the object's number, which is another's once it is gone: it is kept beside the array.
        self.known: dict[int, tuple[Any, Array | None]] = {}

    def scope(self, graph: Any, outer: Scope) -> Scope:
        """Return the names that a graph sees: its own, and those around it."""
        here: dict[str, Any] = {value.name: None for value in graph.input}
        here |= {output: node for node in graph.node for output in node.output if output}
        here |= {tensor.name: tensor for tensor in graph.initializer}
        return outer.new_child(here)

    def constant(
        self, name: str, scope: Scope, *, fold: bool = True, depth: int = 0
    ) -> Array | None:
        """Return an array that depends on no input of the model, or None.

        Parameters
        ----------
        name, scope
            The value, and the names around it.
        fold
            Whether it may be what nodes make of others that only move numbers.

        Raises
        ------
        OSError
            If external data cannot be read.
        ValueError
            If a tensor is damaged, too large, or lies outside the model's folder.
        """
        import onnx

        found = scope.get(name)
        if found is None:
            return None
        if id(found) in self.known:
            return self.known[id(found)][1]
        array = None
        if isinstance(found, onnx.TensorProto):
            array = self._tensor(found)
        elif found.domain in ("", "ai.onnx"):
            given = {a.name: onnx.helper.get_attribute_value(a) for a in found.attribute}
            if found.op_type == "Constant":
                array = self._literal(given)
            elif fold and found.op_type in _MOVES and depth < _DEEPEST:
                parts = [self.constant(n, scope, depth=depth + 1) for n in found.input if n]
                if parts and all(part is not None for part in parts):
                    array = self._moved(found, parts, given)
        if fold:
            self.known[id(found)] = found, array
        return array

    def _literal(self, given: dict[str, Any]) -> Array | None:
        for name, value in given.items():
            if name == "value":
                return self._tensor(value)
            if name in ("value_float", "value_floats"):
                return np.asarray(value, np.float32)
            if name in ("value_int", "value_ints"):
                return np.asarray(value, np.int64)
        return None

    def _moved(self, node: Any, parts: Sequence[Any], given: dict[str, Any]) -> Array | None:
        self.budget.take(node.name or node.op_type, [sum(p.nbytes for p in parts)], 1)
        try:
            return np.asarray(_MOVES[node.op_type](parts, given))
        except (ValueError, TypeError, IndexError, KeyError):  # as in branches that are never run
            return None

    def _tensor(self, tensor: Any) -> Array | None:
        """Return a tensor as an array; None for text. Half precision becomes float32."""
        import onnx

        if tensor.data_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
            return None
        try:
            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        except KeyError:
            raise ValueError(f"{tensor.name}: unknown type {tensor.data_type}") from None
        size = self.budget.take(tensor.name, tensor.dims, kind.itemsize)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            data = self._external(tensor, size)
            array = np.frombuffer(data, kind.newbyteorder("<")).reshape(tuple(tensor.dims))
        else:
            held = len(tensor.raw_data)
            if tensor.HasField("raw_data") and kind.itemsize > 1 and held != size:
                raise ValueError(f"{tensor.name}: expected {size} bytes, got {held}")
            try:
                array = onnx.numpy_helper.to_array(tensor)
            except Exception as error:  # noqa: BLE001 - of every kind, for tensors that are damaged
                raise ValueError(f"{tensor.name}: cannot be read: {error}") from None
        if array.dtype.kind in "iub" or array.dtype.newbyteorder("=") in (FLOAT32, FLOAT64):
            return array
        note = f"{array.dtype} was read as float32"
        if note not in self.notes:
            self.notes.append(note)
        return array.astype(np.float32)

    def _external(self, tensor: Any, size: int) -> bytes:
        """Read numbers that lie in another file, which has to be in the model's own folder."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        steps = PurePosixPath(location).parts
        refused = (
            not location
            or "\0" in location
            or "\\" in location
            or ".." in steps
            or PurePosixPath(location).is_absolute()
            or bool(PureWindowsPath(location).drive)
        )
        target = self.folder if refused else (self.folder / location).resolve()
        if refused or not target.is_relative_to(self.folder.resolve()):  # a link may lead out of it
            raise ValueError(
                f"{tensor.name}: expected external data in the model's own folder, got {location!r}"
            )
        try:
            offset, length = (int(entries.get(key) or 0) for key in ("offset", "length"))
        except ValueError:
            raise ValueError(f"{tensor.name}: expected numbers as offset and length") from None
        with open(target, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{tensor.name}: expected a file, got {location!r}")
            if offset < 0 or length not in (0, size) or offset + size > status.st_size:
                raise ValueError(
                    f"{tensor.name}: expected {size} bytes, got {length} at {offset} of "
                    f"{location!r}, which has {status.st_size}"
                )
            if target not in self.files:
                self.files.add(target)
                self.budget.grow(status.st_size)
            file.seek(offset)
            return file.read(size)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a pipe would wait for a writer


def _axes(parts: Sequence[Array], given: dict[str, Any]) -> tuple[int, ...]:
    """Axes are an attribute, since operator set 13 an input."""
    return tuple(map(int, parts[1] if len(parts) > 1 else given["axes"]))


def _slice(parts: Sequence[Array], given: dict[str, Any]) -> Array:
    x, *rest = parts
    names = ("starts", "ends", "axes", "steps")  # attributes, since operator set 10 inputs
    found = dict(zip(names, rest, strict=False)) or given
    starts, ends = found["starts"], found["ends"]
    axes = found.get("axes", range(len(starts)))
    steps = found.get("steps", [1] * len(starts))
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            raise ValueError("a slice that runs backward")
        index[axis] = slice(int(start), int(end), int(step))
    return x[tuple(index)]


# What exporters put between weights and the node that uses them.
_MOVES: dict[str, Callable[[Sequence[Any], dict[str, Any]], Array]] = {
    "Identity": lambda parts, given: parts[0],
    "Unsqueeze": lambda parts, given: np.expand_dims(parts[0], _axes(parts, given)),
    "Squeeze": lambda parts, given: np.squeeze(parts[0], _axes(parts, given)),
    "Transpose": lambda parts, given: np.transpose(parts[0], given.get("perm")),
    "Concat": lambda parts, given: np.concatenate(parts, given["axis"]),
    "Slice": _slice,
}
