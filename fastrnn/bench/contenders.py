"""Who computes: one table of contenders."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .. import dispatch
from .peers import jax, keras, onnx, torch
from .problem import Problem, Run


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the table.

    Attributes
    ----------
    name
        How results call it.
    word
        How the command line calls it; several contenders may share a word.
    prepare
        Makes the function that computes a problem; raises `RefusedError` if it cannot.
    modules
        What has to be installed.
    backend
        One of ours, or None.
    """

    name: str
    word: str
    prepare: Callable[[Problem], Run]
    modules: tuple[str, ...] = ()
    backend: str | None = None

    def missing(self) -> str:
        """Say why it cannot be asked, or nothing."""
        if self.backend is not None:
            return dispatch.missing(self.backend) or ""
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else ""


CONTENDERS = (
    *(
        Contender(f"fastrnn ({name})", name, partial(Problem.ours, backend=name), backend=name)
        for name in dispatch.BACKENDS
    ),
    Contender("torch", "torch", torch.eager, ("torch",)),
    Contender("torch.compile", "torch", torch.compiled, ("torch",)),
    Contender("ONNX Runtime", "ort", onnx.onnxruntime, ("onnxruntime", "onnx")),
    Contender("OpenVINO", "openvino", onnx.openvino, ("openvino", "onnx")),
    Contender("JAX", "jax", jax.scan, ("jax",)),
    Contender("Keras (torch)", "keras", keras.on_torch, ("keras", "torch")),
)


def words() -> list[str]:
    """Words for the peers, in the table's order."""
    return list(dict.fromkeys(row.word for row in CONTENDERS if row.backend is None))


def choose(names: str | None) -> list[Contender]:
    """Return our backends and the peers whose words a comma-separated list has, or all.

    Raises
    ------
    ValueError
        If a word is unknown.
    """
    if names is None:
        return list(CONTENDERS)
    known = words()
    wanted = [word.strip() for word in names.split(",")]
    for word in wanted:
        if word not in known:
            raise ValueError(f"against: expected names from {', '.join(known)}, got {word!r}")
    return [row for row in CONTENDERS if row.backend is not None or row.word in wanted]


def libraries() -> list[str]:
    """Name the installed libraries that may be asked."""
    names = dict.fromkeys(name for row in CONTENDERS for name in row.modules)
    return [name for name in names if importlib.util.find_spec(name) is not None]
