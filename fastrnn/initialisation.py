"""Where parameters start: uniform as in torch, orthogonal recurrent blocks, open forget gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import validation, workspace
from .cells import Cell
from .validation import Array

INITS = ("uniform", "orthogonal")  # the default first
FORGET = "f"  # the gate whose bias has a start of its own


def new_parameters(
    shapes: Mapping[str, tuple[int, ...]],
    bound: float,
    dtype: np.dtype[Any],
    generator: np.random.Generator,
) -> dict[str, Array]:
    """Draw parameters uniformly from [-bound, bound], as torch does."""
    # Before the first is allocated and filled: a later one may be the one that is too large.
    for shape in shapes.values():
        workspace.size_in_bytes(shape, dtype)
    parameters = {name: workspace.empty(shape, dtype) for name, shape in shapes.items()}
    for array in parameters.values():
        generator.random(out=array, dtype=dtype)
        array *= 2 * bound
        array -= bound
    return parameters


def options(
    cell: Cell, init: object, forget_bias: object, *, bias: bool
) -> tuple[str, float | None]:
    """Check what a recurrent layer is told about its start; return `init` and `forget_bias`.

    Raises
    ------
    ValueError, TypeError
        If `init` is none of `INITS`, or `forget_bias` neither None nor a number that float32 holds,
        or a number where the cell has no forget gate, or no bias.
    """
    validation.choice("init", init, INITS)
    if forget_bias is None:
        return str(init), None
    if FORGET not in cell.gates:
        raise ValueError(f"forget_bias: the cell {cell.name!r} has no forget gate")
    most = float(np.finfo(np.float32).max)
    found = validation.number("forget_bias", forget_bias, -most, most)
    if not bias:
        raise ValueError(f"forget_bias: expected None because bias is False, got {found}")
    return str(init), found


def recurrent_parameters(
    shapes: Mapping[str, tuple[int, ...]],
    cell: Cell,
    hidden_size: int,
    dtype: np.dtype[Any],
    generator: np.random.Generator,
    *,
    init: str,
    forget_bias: float | None,
) -> dict[str, Array]:
    """Draw the parameters of recurrent layers or of a cell.

    All are first drawn as torch does, uniformly in ±1/sqrt(H); then those that the options speak of
    are written over, so that the others have the same values with and without the options.

    Parameters
    ----------
    shapes
        Name of each parameter to its shape, under torch's names.
    hidden_size
        H.
    init
        ``"orthogonal"``: each gate's block of ``weight_hh`` is `orthogonal`.
    forget_bias
        If a number, the forget gate's ``bias_ih`` is it and its ``bias_hh`` is 0: the gate begins
        open, and the cell state keeps what it has (Gers, Schmidhuber & Cummins 2000; Jozefowicz,
        Zaremba & Sutskever 2015, who take 1).
    """
    H = hidden_size
    parameters = new_parameters(shapes, H**-0.5, dtype, generator)
    for name, array in parameters.items():
        if init == "orthogonal" and name.startswith("weight_hh"):
            for block in array.reshape(len(cell.gates), H, -1):
                block[...] = orthogonal(H, array.shape[1], generator)
        if forget_bias is not None and name.startswith("bias"):
            rows = array.reshape(len(cell.gates), H)
            rows[cell.gates.index(FORGET)] = forget_bias if name.startswith("bias_ih") else 0
    return parameters


def orthogonal(rows: int, columns: int, generator: np.random.Generator) -> Array:
    """Draw a matrix with orthonormal columns, no more of them than rows, uniformly from all.

    It is Q of a QR decomposition of normal variates (Saxe, McClelland & Ganguli 2014,
    arXiv:1312.6120), its columns turned so that R has a positive diagonal: only then Q is uniformly
    (Haar) distributed, whatever signs the decomposition chooses (Mezzadri 2007,
    arXiv:math-ph/0609050, section 5).

    Returns
    -------
    array
        (rows, columns) of float64. Its last bits are those of this machine's LAPACK.
    """
    q, r = np.linalg.qr(generator.standard_normal((rows, columns)))
    return np.asarray(q * np.copysign(1.0, np.diagonal(r)))
