"""The one table of how formats lay out the weights of a cell, and the two ways through it.

A row says in which order a format has the gates, how its matrices lie, and how it has its biases.
Here every format becomes torch's layout, which is that of the library: ``weight_ih`` (G*H, I),
``weight_hh`` (G*H, H), ``bias_ih`` and ``bias_hh`` (G*H,), blocks of H rows in the order of
`Cell.gates`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from ..cells import CELLS
from ..validation import Array, shape

GATED = "gate_activation"  # the option that says by what the gates are squashed


@dataclass(frozen=True, slots=True)
class Conversion:
    """How one format has one variant of a cell.

    Attributes
    ----------
    source, cell
        The format and the cell.
    gates
        The gates in the format's order, by our names.
    matrices
        ``"rows"``: (G*H, I), a block of H rows a gate, as here. ``"columns"``: (I, G*H), to be
        transposed. ``"cudnn"``: (I, G*H) by name, but each gate's block of the input's matrix
        holds the numbers of a (H, I) matrix row by row, and each of the state's is (H, H) as here.
    bias
        ``"apart"``: two arrays (G*H,). ``"joined"``: one (2*G*H,), the input's first.
        ``"stacked"``: one (2, G*H). ``"input"``: the input's alone, (G*H,).
    options
        What a layer of this kind is, whatever else its file says, where it is not the default.
    """

    source: str
    cell: str
    gates: tuple[str, ...]
    matrices: str
    bias: str
    options: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def places(self) -> list[int]:
        """Where the format has each gate, in our order."""
        return [self.gates.index(gate) for gate in CELLS[self.cell].gates]


_BEFORE = MappingProxyType({"reset_after": False})
_AFTER = MappingProxyType({"reset_after": True})

# Sources: torch.nn.LSTM, GRU and RNN; ONNX' Operators.md; keras.layers (LSTMCell.call, ...), where
# g is called c and n h; cuDNN's layers of Keras 2, keras/layers/cudnn_recurrent.py, and the
# conversion in keras/engine/saving.py.
CONVERSIONS = (
    Conversion("torch", "rnn", ("h",), "rows", "apart"),
    Conversion("torch", "gru", ("r", "z", "n"), "rows", "apart", _AFTER),
    Conversion("torch", "lstm", ("i", "f", "g", "o"), "rows", "apart"),
    Conversion("onnx", "rnn", ("h",), "rows", "joined"),
    Conversion("onnx", "gru", ("z", "r", "n"), "rows", "joined"),
    Conversion("onnx", "lstm", ("i", "o", "f", "g"), "rows", "joined"),
    Conversion("keras", "rnn", ("h",), "columns", "input"),
    Conversion("keras", "gru", ("z", "r", "n"), "columns", "input", _BEFORE),
    Conversion("keras", "gru", ("z", "r", "n"), "columns", "stacked", _AFTER),
    Conversion("keras", "lstm", ("i", "f", "g", "o"), "columns", "input"),
    Conversion("cudnn", "gru", ("z", "r", "n"), "cudnn", "joined", _AFTER),
    Conversion("cudnn", "lstm", ("i", "f", "g", "o"), "cudnn", "joined"),
)


def find(source: str, cell: str, **options: object) -> Conversion:
    """Return the row of a format and cell, and of such options where several variants differ."""
    for row in CONVERSIONS:
        if (row.source, row.cell) == (source, cell) and all(
            row.options.get(name, value) == value for name, value in options.items()
        ):
            return row
    raise KeyError((source, cell, options))


def read(row: Conversion, ih: Array, hh: Array, bias: Array | None) -> dict[str, Array]:
    """Put a format's arrays into the order and layout of the library.

    Parameters
    ----------
    row
        How they lie.
    ih, hh
        The matrices of the input and the state.
    bias
        Both biases as the format has them (``"apart"``: side by side), or None.

    Returns
    -------
    parameters
        ``weight_ih``, ``weight_hh`` and, if there is a bias, ``bias_ih`` and ``bias_hh``.

    Raises
    ------
    ValueError
        If a shape is another one than the row says.
    """
    G = len(row.gates)
    across = row.matrices != "rows"  # G*H columns, not rows
    if hh.ndim != 2 or not hh.size or hh.shape[across] != G * hh.shape[not across]:
        expected = f"(H, {G}*H)" if across else f"({G}*H, H)"
        raise ValueError(f"recurrent weights: expected shape {expected}, got {hh.shape}")
    H = hh.shape[not across]
    axes: list[str | tuple[str, int]] = ["I", (f"{G}*H", G * H)]
    shape("input weights", ih, *(axes if across else axes[::-1]))
    if not ih.size:
        raise ValueError(f"input weights: expected an input of at least 1 value, got {ih.shape}")
    if row.matrices == "columns":
        ih, hh = ih.T, hh.T
    elif row.matrices == "cudnn":
        ih = np.concatenate([block.reshape(H, -1) for block in np.split(ih, G, axis=1)])
        hh = np.concatenate(np.split(hh, G, axis=1))
    parameters = {"weight_ih": ih, "weight_hh": hh}
    if bias is not None:
        one = (f"{G}*H", G * H)
        if row.bias == "stacked":
            shape("bias", bias, 2, one)
        else:
            shape("bias", bias, one if row.bias == "input" else (f"2*{G}*H", 2 * G * H))
        halves = (bias, np.zeros_like(bias)) if row.bias == "input" else bias.reshape(2, -1)
        parameters |= dict(zip(("bias_ih", "bias_hh"), halves, strict=True))
    return _reordered(parameters, row.places)


def write(row: Conversion, parameters: Mapping[str, Array]) -> tuple[Array, Array, Array | None]:
    """Put parameters of the library into a format that has rows of gates and biases joined.

    Returns
    -------
    ih, hh, bias
        As `read` takes them.
    """
    ours = CELLS[row.cell].gates
    found = _reordered(parameters, [ours.index(gate) for gate in row.gates])
    bias = None
    if "bias_ih" in found:
        bias = np.concatenate((found["bias_ih"], found["bias_hh"]))
    return found["weight_ih"], found["weight_hh"], bias


def scale_gates(cell: str, parameters: Mapping[str, Array], factor: float) -> dict[str, Array]:
    """Scale what goes into the gates, in parameters of one layer and direction.

    A hard sigmoid clip(a x + 0.5, 0, 1) is that of the library, whose slope is 0.2, of 5 a x.
    """
    factors = gate_factors(cell, factor)
    scaled = {}
    for name, array in parameters.items():
        blocks = np.split(array, len(factors))
        kind = array.dtype.type
        scaled[name] = np.concatenate(
            [block * kind(by) for block, by in zip(blocks, factors, strict=True)]
        )
    return scaled


def gate_factors(cell: str, factor: float) -> list[float]:
    """Return `factor` for each gate, and 1 for the candidate: it is squashed by tanh."""
    return [1.0 if gate in ("g", "n") else factor for gate in CELLS[cell].gates]


def _reordered(parameters: Mapping[str, Array], places: list[int]) -> dict[str, Array]:
    """Move blocks of rows: the block at each place of the result is that at `places[k]`."""
    found = {}
    for name, array in parameters.items():
        blocks = np.split(array, len(places))
        found[name] = np.concatenate([blocks[k] for k in places])
    return found
