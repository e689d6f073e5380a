"""One recurrent layer, in one direction, on plain arrays: rnn(), gru(), lstm().

All arrays of a call share one dtype, float32 or float64, which is also that of the results. Sizes
are T (time), B (batch), I (input), H (hidden), P (projection). Arguments that the three functions
share:

x
    Input, (T, B, I), or (T, I) for one row.
h0, c0
    Initial states, (B, H), or (H,) for one row; None for zeros.
weight_ih, weight_hh, bias_ih, bias_hh
    Parameters in torch's layout, (G*H, I), (G*H, H), (G*H,), (G*H,), with one block of H rows a
    gate. The biases may be None, both together.
lengths
    (B,) integers: row b has lengths[b] valid steps. The output past them is zero, the final state
    is that of the last valid step, and a length of 0 leaves the state unchanged.
reset
    (T, B) booleans, or (T,) for one row: where true, the state of the row is replaced before x_t
    is consumed, and no gradient crosses. It becomes `reset_state`, shaped like the initial state,
    or zeros.
reverse
    Process the steps from the last (valid) one to the first.
backend
    "c", "numba" or "numpy"; None takes the fastest that is there (`fastrnn.info`).
record
    Return a `Tape`, which can be run backward, in place of output and final state.

They raise `ValueError` for a wrong shape or value and `TypeError` for a wrong dtype or kind of
argument, before anything is computed; the message names the argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import dispatch, validation
from .cells import CELLS
from .stack import PARAMETERS, Stack, read_weights
from .validation import Array


def rnn(
    x: Array,
    h0: Array | None,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None = None,
    bias_hh: Array | None = None,
    *,
    nonlinearity: str = "tanh",
    lengths: Array | None = None,
    reset: Array | None = None,
    reset_state: Array | None = None,
    reverse: bool = False,
    backend: str | None = None,
    record: bool = False,
) -> Any:
    """Plain recurrent layer, h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu (Elman 1990).

    G = 1; the other arguments are described at the top of this module.

    Returns
    -------
    (output, h_n), or Tape
        Output (T, B, H) and final state (B, H).

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> x, w, u = np.ones((3, 1, 1)), np.ones((1, 1)), np.ones((1, 1))
    >>> y, h_n = fastrnn.functional.rnn(x, None, w, u, nonlinearity="relu", backend="numpy")
    >>> y[:, 0, 0]
    array([1., 2., 3.])
    """
    whole = lengths is None and reset is None and reset_state is None
    named = backend is None or type(backend) is str
    if whole and named and reverse is False and record is False and type(nonlinearity) is str:
        quick = dispatch.quick(backend, "function", "rnn", nonlinearity)
        found = quick and quick(x, h0, None, weight_ih, weight_hh, bias_ih, bias_hh)
        if found:
            return found[:2]
    parameters = (weight_ih, weight_hh, bias_ih, bias_hh)
    sequence = (lengths, reset, reset_state, reverse)
    options = {"nonlinearity": nonlinearity}
    return _run("rnn", options, x, (h0,), parameters, sequence, backend, record)


def gru(
    x: Array,
    h0: Array | None,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None = None,
    bias_hh: Array | None = None,
    *,
    reset_after: bool = True,
    gate_activation: str = "sigmoid",
    lengths: Array | None = None,
    reset: Array | None = None,
    reset_state: Array | None = None,
    reverse: bool = False,
    backend: str | None = None,
    record: bool = False,
) -> Any:
    """Gated recurrent unit (Cho et al. 2014), gates r, z, n; h' = (1-z)*n + z*h.

    ``reset_after=True`` is the form of cuDNN and torch, n = tanh(W_in x + b_in + r*(W_hn h +
    b_hn)); ``False`` is that of the paper, n = tanh(W_in x + b_in + W_hn (r*h) + b_hn).
    ``gate_activation="hard_sigmoid"`` makes r and z clip(0.2 a + 0.5, 0, 1), as in Keras 1 and 2.
    G = 3; the other arguments are described at the top of this module.

    Returns
    -------
    (output, h_n), or Tape
        Output (T, B, H) and final state (B, H).
    """
    whole = lengths is None and reset is None and reset_state is None
    named = backend is None or type(backend) is str
    chosen = type(reset_after) is bool and type(gate_activation) is str
    if whole and named and reverse is False and record is False and chosen:
        quick = dispatch.quick(backend, "function", "gru", reset_after, gate_activation)
        found = quick and quick(x, h0, None, weight_ih, weight_hh, bias_ih, bias_hh)
        if found:
            return found[:2]
    parameters = (weight_ih, weight_hh, bias_ih, bias_hh)
    sequence = (lengths, reset, reset_state, reverse)
    options = {"reset_after": reset_after, "gate_activation": gate_activation}
    return _run("gru", options, x, (h0,), parameters, sequence, backend, record)


def lstm(
    x: Array,
    h0: Array | None,
    c0: Array | None,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None = None,
    bias_hh: Array | None = None,
    *,
    weight_hr: Array | None = None,
    gate_activation: str = "sigmoid",
    lengths: Array | None = None,
    reset: Array | None = None,
    reset_state: tuple[Array, Array] | None = None,
    reverse: bool = False,
    backend: str | None = None,
    record: bool = False,
) -> Any:
    """Long short-term memory (Hochreiter & Schmidhuber 1997; Gers et al. 2000), gates i, f, g, o.

    ``weight_hr`` (P, H) projects the hidden state (Sak et al. 2014); then h0, the output and the
    columns of ``weight_hh`` have P values in place of H.
    ``gate_activation="hard_sigmoid"`` makes i, f, o clip(0.2 a + 0.5, 0, 1), as in Keras 1 and 2.
    G = 4; the other arguments are described at the top of this module.

    Returns
    -------
    (output, (h_n, c_n)), or Tape
        Output (T, B, H) and final states (B, H) each.
    """
    whole = lengths is None and reset is None and reset_state is None
    named = backend is None or type(backend) is str
    chosen = weight_hr is None and type(gate_activation) is str
    if whole and named and reverse is False and record is False and chosen:
        quick = dispatch.quick(backend, "function", "lstm", gate_activation)
        found = quick and quick(x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh)
        if found:
            return found[0], found[1:]
    parameters = (weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    sequence = (lengths, reset, reset_state, reverse)
    options = {"gate_activation": gate_activation}
    return _run("lstm", options, x, (h0, c0), parameters, sequence, backend, record)


def _run(
    name: str,
    options: Mapping[str, object],
    x: object,
    initial: tuple[object, ...],
    parameters: tuple[object, ...],
    sequence: tuple[object, ...],
    backend: str | None,
    record: bool,
) -> Any:
    cell = CELLS[name]
    names = tuple(f"{state}0" for state in cell.states)
    given = [value is not None for value in initial]
    if any(given) and not all(given):
        raise ValueError(
            f"{names[given.index(False)]}: expected an array because {names[given.index(True)]} "
            "was given, got None"
        )
    lengths, reset, reset_state, reverse = sequence
    stack = Stack(
        cell,
        validation.options(cell, options),
        {"": read_weights(cell, dict(zip(PARAMETERS, parameters, strict=False)))},
        backend,
        reverse=validation.flag("reverse", reverse),
        stacked=False,
        state_names=names,
    )
    state = None if not any(given) else initial if len(initial) > 1 else initial[0]
    run = stack.record if validation.flag("record", record) else stack.infer
    return run(x, state, lengths, reset, reset_state)
