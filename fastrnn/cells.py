"""The cells of the library: one frozen row each.

Everything that has to know which cells exist (layers, backends, command line, tests, benchmarks)
reads `CELLS`, so that a new cell is a new row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Cell:
    """What distinguishes one recurrent cell from another.

    Attributes
    ----------
    name
        The word used everywhere: ``"rnn"``, ``"gru"``, ``"lstm"``.
    gates
        Gate names in the order of the rows of the weights (torch's order).
    states
        State names; the first is the hidden state, which is also the output.
    records
        What a recorded forward pass keeps besides its state sequences: ``gates`` is (T, B, G, H),
        everything else (T, B, H).
    options
        Variants of the cell: option name to allowed values, the default first.
    projects
        Whether the hidden state may be projected to P < H values (``weight_hr``).
    """

    name: str
    gates: tuple[str, ...]
    states: tuple[str, ...]
    records: tuple[str, ...] = ()
    options: Mapping[str, tuple[object, ...]] = field(default_factory=lambda: MappingProxyType({}))
    projects: bool = False

    def parameter_shapes(
        self, input_size: int, hidden_size: int, proj_size: int = 0, *, bias: bool = True
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of one layer's parameters in one direction, under torch's names."""
        rows = len(self.gates) * hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, proj_size or hidden_size),
        }
        if bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if proj_size:
            shapes["weight_hr"] = (proj_size, hidden_size)
        return shapes

    def stack_shapes(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        proj_size: int = 0,
        bias: bool = True,
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters of layers on top of each other, under torch's names."""
        directions = ("", "_reverse") if bidirectional else ("",)
        shapes: dict[str, tuple[int, ...]] = {}
        width = input_size
        for k in range(num_layers):
            row = self.parameter_shapes(width, hidden_size, proj_size, bias=bias)
            shapes |= {
                f"{name}_l{k}{direction}": shape
                for direction in directions
                for name, shape in row.items()
            }
            width = (proj_size or hidden_size) * len(directions)
        return shapes


# hard_sigmoid is that of Keras 1 and 2 and of ONNX, clip(0.2 x + 0.5, 0, 1). Keras 3's,
# clip(x/6 + 0.5, 0, 1), is the same function of 5/6 x: scale the gates' weights for it.
GATE_ACTIVATIONS = ("sigmoid", "hard_sigmoid")

CELLS: Mapping[str, Cell] = MappingProxyType(
    {
        cell.name: cell
        for cell in (
            Cell(
                "rnn",
                gates=("h",),
                states=("h",),
                options=MappingProxyType({"nonlinearity": ("tanh", "relu")}),
            ),
            Cell(
                "gru",
                gates=("r", "z", "n"),
                states=("h",),
                # hidden_n is the hidden side of the candidate's pre-activation, W_hn h + b_hn
                # (reset_after) or W_hn (r*h) + b_hn; the derivative of r needs the former.
                records=("gates", "hidden_n"),
                options=MappingProxyType(
                    {"reset_after": (True, False), "gate_activation": GATE_ACTIVATIONS}
                ),
            ),
            Cell(
                "lstm",
                gates=("i", "f", "g", "o"),
                states=("h", "c"),
                records=("gates",),
                options=MappingProxyType({"gate_activation": GATE_ACTIVATIONS}),
                projects=True,
            ),
        )
    }
)
