"""The backend "numba": fused gates and register tiles, compiled when they are first called.

Only the product with the state and the gates are sequential. The input's product and dx go along
with them step by step, while what they need is in the cache; with few rows, and for the gradients
of the weights, they are products over the whole window. Nothing uses NumPy's BLAS.
"""

from __future__ import annotations

from ..validation import Array
from ..workspace import Backward, Call, Forward, State
from . import gru, lstm, rnn

CELLS = {"rnn": rnn, "gru": gru, "lstm": lstm}


def forward(call: Call, ws: Forward) -> None:
    """Run one layer in one direction over a window and fill `ws`."""
    CELLS[call.cell.name].forward(call, ws)


def backward(call: Call, tape: Forward, d_output: Array, d_state: State, ws: Backward) -> None:
    """Run it backward, fill `ws`, and overwrite `tape.records`."""
    CELLS[call.cell.name].backward(call, tape, d_output, d_state, ws)
