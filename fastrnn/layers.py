"""RNN, GRU, LSTM and their single-step cells: parameters, and the functions that run them."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import dispatch, initialisation, validation
from .cells import CELLS, Cell
from .stack import PARAMETERS, Stack
from .tape import Gradients, Run, Tape
from .validation import Array
from .workspace import Weights

START = {"init": initialisation.INITS[0], "forget_bias": None}  # the defaults
MOST_LAYERS = 10_000  # more are a mistake, which would be noticed when memory is gone


class Parametrized:
    """Something with parameters: a dict of arrays that optimizers change in place."""

    parameters: dict[str, Array]

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        """Take the attributes of a copy, with NumPy's own dtypes: a quick call looks for them."""
        vars(self).update(attributes)
        if "dtype" in attributes:
            vars(self)["dtype"] = validation.dtype("dtype", attributes["dtype"])
        for name, array in self.parameters.items():
            own = validation.dtype(name, array.dtype)
            if array.dtype is not own:  # it was unpickled
                self.parameters[name] = array.view(own)

    def load_parameters(self, mapping: Mapping[str, Array]) -> None:
        """Copy values into the parameters; names, shapes and dtypes must be the same.

        Raises
        ------
        ValueError, TypeError
            If anything differs; then no parameter has changed.
        """
        checked = validation.mapping("mapping", mapping, self.parameters)
        for name, value in checked.items():
            self.parameters[name][...] = value


class Stacked(Parametrized):
    """Something that runs a stack on its parameters."""

    cell: Cell
    options: Mapping[str, Any]
    dtype: np.dtype[Any]
    backend: str | None
    hidden_size: int
    init: str = initialisation.INITS[0]  # what was pickled by a version without the two has these
    forget_bias: float | None = None
    _shapes: Mapping[str, tuple[int, ...]]  # of the parameters
    _suffixes: tuple[str, ...]  # of their names, one a layer and direction
    _known: tuple[list[Array], list[tuple[int, ...]], Stack] | None = None

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute; what was made of the old ones is made anew."""
        super().__setattr__(name, value)
        super().__setattr__("_known", None)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: the attributes, and not what was made of them."""
        return {**vars(self), "_known": None}

    def _new_parameters(self, generator: np.random.Generator) -> dict[str, Array]:
        return initialisation.recurrent_parameters(
            self._shapes,
            self.cell,
            self.hidden_size,
            self.dtype,
            generator,
            init=self.init,
            forget_bias=self.forget_bias,
        )

    def _stack(self) -> Stack:
        """Return a stack on today's parameters; they are checked if they are others."""
        arrays = list(self.parameters.values())
        if self._known is not None:
            known, shapes, stack = self._known
            if (
                len(arrays) == len(known)
                and all(map(operator.is_, arrays, known))
                and [array.shape for array in arrays] == shapes
            ):
                return stack
        checked: dict[str, Array] = {}
        for name, shape in self._shapes.items():
            array = validation.floating(name, self.parameters.get(name), self.dtype)
            checked[name] = validation.shape(name, array, *shape)
        weights = {
            suffix: Weights(*(checked.get(name + suffix) for name in PARAMETERS))  # type: ignore[arg-type]
            for suffix in self._suffixes
        }
        stack = self._new_stack(weights)
        # Copies would not follow what the caller changes in place.
        if all(array is self.parameters[name] for name, array in checked.items()):
            super().__setattr__("_known", (arrays, [array.shape for array in arrays], stack))
        return stack

    def _new_stack(self, weights: Mapping[str, Weights]) -> Stack:
        raise NotImplementedError

    def _quick(self, form: str, x: object, state: object) -> tuple[Any, Any] | None:
        """Infer the short way, if it leads there (`dispatch.quick`): return output and state."""
        run = dispatch.quick(self.backend, form, self.cell.name, *self.options.values())
        if run is None:
            return None
        # Looked at anew each time, like all that is given; what they have in common, C looks at.
        arrays: list[Any] = list(map(self.parameters.get, self._shapes))
        if len(arrays) == 2:
            arrays += None, None
        elif arrays[-1] is None:  # a bias is missing
            return None
        try:
            ih, hh, b_ih, b_hh = arrays
            shapes = iter(self._shapes.values())
            if ih.dtype is not self.dtype or ih.shape != next(shapes) or hh.shape != next(shapes):
                return None
        except (AttributeError, ValueError):  # no arrays; or a projection
            return None
        if len(self.cell.states) == 1:
            found = run(x, state, None, ih, hh, b_ih, b_hh)
            return None if found is None else found[:2]
        if state is None:
            state = (None, None)
        elif type(state) is not tuple or len(state) != 2 or state[0] is None:
            return None
        found = run(x, *state, ih, hh, b_ih, b_hh)
        return None if found is None else (found[0], found[1:])


class Recurrent(Stacked):
    """Layers of one cell, one or two directions each; the base of `RNN`, `GRU` and `LSTM`.

    Parameters
    ----------
    input_size, hidden_size
        I and H, at least 1.
    num_layers
        Layers, each reading the output of the one before.
    bias
        Whether there are bias_ih and bias_hh.
    batch_first
        Sequences are (B, T, ·) instead of (T, B, ·); states are not affected.
    dropout
        Probability with which a value that goes from layer to layer is zeroed in `record`; a
        single layer warns that it has no effect.
    bidirectional
        A second set of parameters, suffix ``_reverse``, runs from the last step to the first.
    proj_size
        P: project the hidden state to so many values, fewer than H; 0 for none. LSTM only.
    dtype
        "float32" or "float64".
    init
        Where the parameters start: "uniform", in ±1/sqrt(H) as in torch; or "orthogonal", where
        each gate's (H, H) block of ``weight_hh`` is orthogonal, (H, P) with orthonormal columns
        with a projection, and everything else is as with "uniform".
    forget_bias
        LSTM only: where the sum of the forget gate's two biases starts, such as 1; None leaves
        them as they were drawn.
    seed
        Seed of the initialisation, and of dropout.
    backend
        "c", "numba" or "numpy"; None takes the fastest that is there.
    **options
        The variants of the cell.

    Attributes
    ----------
    parameters
        Dict of arrays under torch's names: ``weight_ih_l0`` (G*H, I), ``weight_hh_l0`` (G*H, H),
        ``bias_ih_l0`` and ``bias_hh_l0`` (G*H,), ``weight_hr_l0`` (P, H), and so on.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        init: str = "uniform",
        forget_bias: float | None = None,
        dtype: str = "float32",
        seed: int | None = None,
        backend: str | None = None,
        **options: object,
    ) -> None:
        self.input_size = validation.positive("input_size", input_size)
        self.hidden_size = validation.positive("hidden_size", hidden_size)
        self.num_layers = validation.positive("num_layers", num_layers)
        self.bias = validation.flag("bias", bias)
        self.batch_first = validation.flag("batch_first", batch_first)
        if self.num_layers > MOST_LAYERS:
            raise ValueError(f"num_layers: expected at most {MOST_LAYERS}, got {num_layers}")
        self.dropout = validation.number("dropout", dropout, 0.0, 1.0)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout={dropout} has no effect: it acts between layers, and num_layers is 1",
                stacklevel=2,
            )
        self.bidirectional = validation.flag("bidirectional", bidirectional)
        self.proj_size = validation.non_negative("proj_size", proj_size)
        if self.proj_size and not self.cell.projects:
            raise ValueError(f"proj_size: the cell {self.cell.name!r} has no projection")
        if self.proj_size >= self.hidden_size:
            raise ValueError(
                f"proj_size: expected less than hidden_size={hidden_size}, got {proj_size}"
            )
        self.init, self.forget_bias = initialisation.options(
            self.cell, init, forget_bias, bias=self.bias
        )
        self.dtype = validation.dtype("dtype", dtype)
        self.backend = dispatch.backend_name("backend", backend)
        self.options = validation.options(self.cell, options)
        self.generator = validation.generator("seed", seed)
        directions = ("", "_reverse") if self.bidirectional else ("",)
        self._suffixes = tuple(
            f"_l{k}{direction}" for k in range(self.num_layers) for direction in directions
        )
        self._shapes = self.cell.stack_shapes(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            bidirectional=self.bidirectional,
            proj_size=self.proj_size,
            bias=self.bias,
        )
        self.parameters = self._new_parameters(self.generator)

    def _new_stack(self, weights: Mapping[str, Weights]) -> Stack:
        return Stack(
            self.cell,
            self.options,
            weights,
            self.backend,
            directions=2 if self.bidirectional else 1,
            batch_first=self.batch_first,
            dropout=self.dropout,
            generator=self.generator,
        )

    def __call__(
        self,
        x: Array,
        state: Any = None,
        *,
        lengths: Array | None = None,
        reset: Array | None = None,
        reset_state: Any = None,
    ) -> tuple[Array, Any]:
        """Infer: run the layers, recording nothing, without dropout.

        Parameters
        ----------
        x
            Input, (T, B, I), or (B, T, I) with `batch_first`, or (T, I) for one row.
        state
            Initial state (layers * directions, B, H), LSTM: a tuple (h, c); without B for one
            row. None for zeros. With a projection h has P values.
        lengths
            (B,) integers: how many steps of each row are valid (an integer for one row). The
            output past them is zero, the final state is that of the last valid step, the reverse
            direction starts at the last valid step, and a length of 0 leaves the state unchanged.
        reset
            Booleans, laid out like the first two dimensions of x: where true, the state of the
            row is replaced before x_t is consumed, in either direction of processing.
        reset_state
            What it is replaced by, shaped like `state`; None for zeros.

        Returns
        -------
        output, state
            Output, laid out like x, with directions * H (or P) values; and the final state,
            shaped like the initial one.

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong; the message names it.
        """
        whole = lengths is None and reset is None and reset_state is None
        single = whole and len(self._suffixes) == 1 and not self.batch_first
        if single and (found := self._quick("layer", x, state)):
            return found
        return self._stack().infer(x, state, lengths, reset, reset_state)

    def record(
        self,
        x: Array,
        state: Any = None,
        *,
        lengths: Array | None = None,
        reset: Array | None = None,
        reset_state: Any = None,
    ) -> Tape:
        """Train: run the layers, with dropout, and return a `Tape`; arguments as in a call."""
        return self._stack().record(x, state, lengths, reset, reset_state)

    def __repr__(self) -> str:
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            "proj_size": 0,
            **START,
            "backend": None,
        }
        return _describe(self, self.cell, self.options, defaults)


class RNN(Recurrent):
    """Plain recurrent network, h' = tanh(W_ih x + b_ih + W_hh h + b_hh) (Elman 1990).

    Takes the arguments of `Recurrent`, and ``nonlinearity="tanh"`` or ``"relu"``.
    """

    cell = CELLS["rnn"]


class GRU(Recurrent):
    """Gated recurrent units (Cho et al. 2014), gates r, z, n.

    Takes the arguments of `Recurrent`, and ``reset_after=True`` (the reset gate comes after the
    product W_hn h, as in torch and cuDNN) or ``False`` (before it, as in the paper), and
    ``gate_activation="sigmoid"`` or ``"hard_sigmoid"``, clip(0.2x + 0.5, 0, 1) as in Keras 1 and 2.
    """

    cell = CELLS["gru"]


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), gates i, f, g, o.

    Takes the arguments of `Recurrent`, of which it alone has ``proj_size`` (Sak et al. 2014) and
    ``forget_bias`` (Gers et al. 2000), and ``gate_activation="sigmoid"`` or ``"hard_sigmoid"``,
    clip(0.2x + 0.5, 0, 1) as in Keras 1 and 2.
    """

    cell = CELLS["lstm"]


LAYERS = {layer.cell.name: layer for layer in (RNN, GRU, LSTM)}


class RecurrentCell(Stacked):
    """One step of a cell; the base of `RNNCell`, `GRUCell` and `LSTMCell`.

    Parameters
    ----------
    input_size, hidden_size, bias, init, forget_bias, dtype, seed, backend, **options
        As for `Recurrent`.

    Attributes
    ----------
    parameters
        Dict of arrays under torch's names: ``weight_ih`` (G*H, I), ``weight_hh`` (G*H, H),
        ``bias_ih`` and ``bias_hh`` (G*H,).

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        init: str = "uniform",
        forget_bias: float | None = None,
        dtype: str = "float32",
        seed: int | None = None,
        backend: str | None = None,
        **options: object,
    ) -> None:
        self.input_size = validation.positive("input_size", input_size)
        self.hidden_size = validation.positive("hidden_size", hidden_size)
        self.bias = validation.flag("bias", bias)
        self.init, self.forget_bias = initialisation.options(
            self.cell, init, forget_bias, bias=self.bias
        )
        self.dtype = validation.dtype("dtype", dtype)
        self.backend = dispatch.backend_name("backend", backend)
        self.options = validation.options(self.cell, options)
        self._suffixes = ("",)
        self._shapes = self.cell.parameter_shapes(self.input_size, self.hidden_size, bias=self.bias)
        self.parameters = self._new_parameters(validation.generator("seed", seed))

    def __call__(self, x: Array, state: Any = None) -> Any:
        """Advance by one step.

        Parameters
        ----------
        x
            Input, (B, I), or (I,) for one row.
        state
            State (B, H), LSTM: a tuple (h, c); without B for one row. None for zeros.

        Returns
        -------
        state
            The new state; LSTM: (h, c).

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong; the message names it.
        """
        if found := self._quick("cell", x, state):
            return found[1]
        return self._stack().infer(self._one_step(x), state, None, None, None)[1]

    def record(self, x: Array, state: Any = None) -> Tape:
        """Advance by one step and return a `Tape`, whose output is the new hidden state (B, H).

        Arguments, and what they raise, as in a call.
        """
        tape = self._stack().record(self._one_step(x), state, None, None, None)

        def pullback(d_output: object, d_state: object) -> Run:
            if d_output is not None:
                found = validation.floating("d_output", d_output, self.dtype)
                d_output = validation.shape("d_output", found, *tape.output.shape[1:])[None]
            sequence = tape.check(d_output, d_state)

            def run(retain: bool) -> Gradients:
                gradients = sequence(retain)
                assert gradients.input is not None
                gradients.input = gradients.input[0]
                return gradients

            return run

        cells = None if tape.cell_states is None else tape.cell_states[0]
        return Tape(tape.output[0], tape.state, pullback, cells)

    def _one_step(self, x: object) -> Array:
        found = validation.floating("x", x, self.dtype)
        axes = ("B",) if found.ndim != 1 else ()
        return validation.shape("x", found, *axes, ("I", self.input_size))[None]

    def _new_stack(self, weights: Mapping[str, Weights]) -> Stack:
        return Stack(self.cell, self.options, weights, self.backend, stacked=False)

    def __repr__(self) -> str:
        defaults = {"bias": True, **START, "backend": None}
        return _describe(self, self.cell, self.options, defaults)


class RNNCell(RecurrentCell):
    """One step of `RNN`; takes the arguments of `RecurrentCell` and ``nonlinearity``."""

    cell = CELLS["rnn"]


class GRUCell(RecurrentCell):
    """One step of `GRU`; takes those of `RecurrentCell`, ``reset_after``, ``gate_activation``."""

    cell = CELLS["gru"]


class LSTMCell(RecurrentCell):
    """One step of `LSTM`; takes the arguments of `RecurrentCell` and ``gate_activation``."""

    cell = CELLS["lstm"]


def _describe(layer: Any, cell: Cell, options: Mapping[str, Any], defaults: dict[str, Any]) -> str:
    """Word a layer as the call that makes it, leaving defaults out."""
    words = [str(layer.input_size), str(layer.hidden_size)]
    values = {name: getattr(layer, name) for name in defaults} | dict(options)
    defaults = defaults | {name: allowed[0] for name, allowed in cell.options.items()}
    words += [f"{name}={value!r}" for name, value in values.items() if value != defaults[name]]
    return f"{type(layer).__name__}({', '.join(words)}, dtype='{layer.dtype}')"
