"""Layers one after the other under one record/backward protocol."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from .layers import Parametrized, Recurrent, RecurrentCell
from .tape import Gradients, Run, Tape
from .validation import Array


class Layer(Protocol):
    """What `Sequential` composes."""

    parameters: dict[str, Array]

    def __call__(self, x: Array, /) -> Any:
        """Infer."""

    def record(self, x: Array, /) -> Tape:
        """Run and return a tape."""


class Sequential(Parametrized):
    """Layers that feed one another; the recurrent ones also take and return a state.

    With recurrent layers, the state of the whole is a tuple with one entry for each of them, in
    order. Lengths, resets and reset states reach every recurrent layer.

    Without any it is itself a layer without memory: a call returns the output alone, and it may be
    one of the layers of another `Sequential`.

    Attributes
    ----------
    layers
        The layers, in order.
    recurrent
        How many of them are recurrent.
    parameters
        Their parameters under the names ``0.weight``, ``1.weight_ih_l0`` ... (not copies), those of
        a `Sequential` inside under ``0.1.weight`` ...

    Raises
    ------
    ValueError, TypeError
        If there is no layer, or one that is none.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> head = fastrnn.Sequential(fastrnn.Linear(4, 3, seed=1), fastrnn.ReLU())
    >>> head(np.zeros((2, 4), np.float32)).shape
    (2, 3)
    >>> model = fastrnn.Sequential(fastrnn.RNN(2, 4, seed=2), head)
    >>> y, (h_n,) = model(np.zeros((5, 1, 2), np.float32))
    >>> y.shape, h_n.shape
    ((5, 1, 3), (1, 1, 4))
    >>> list(model.parameters)[-2:]
    ['1.0.weight', '1.0.bias']
    """

    def __init__(self, *layers: Layer) -> None:
        if not layers:
            raise ValueError("layers: expected at least one layer")
        for k, layer in enumerate(layers):
            known = hasattr(layer, "record") and hasattr(layer, "parameters")
            # A cell returns a state where the next layer expects its input.
            if not known or isinstance(layer, RecurrentCell):
                raise TypeError(f"layers[{k}]: expected a layer, got {type(layer).__name__}")
            if isinstance(layer, Sequential) and layer.recurrent:
                raise TypeError(
                    f"layers[{k}]: expected a layer, got a Sequential with recurrent layers"
                )
        self.layers = layers
        self.recurrent: int = sum(isinstance(layer, Recurrent) for layer in layers)
        self.parameters = {
            f"{k}.{name}": array
            for k, layer in enumerate(layers)
            for name, array in layer.parameters.items()
        }

    def __call__(
        self,
        x: Array,
        state: Any = None,
        *,
        lengths: Array | None = None,
        reset: Array | None = None,
        reset_state: Any = None,
    ) -> Any:
        """Infer, recording nothing.

        Parameters
        ----------
        x
            What the first layer takes: (T, B, I), or (T, B) indices for an `Embedding`.
        state, reset_state
            A tuple with the state of each recurrent layer, as that layer takes it, or None.
        lengths, reset
            As for the layers; they go to every recurrent one.

        Returns
        -------
        output, states
            The last layer's output, (T, B, ·), and a tuple with the final state of each recurrent
            layer. The output alone if there is none.

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong; the message names it.
        """
        finals = []
        for layer, arguments in self._arguments(state, lengths, reset, reset_state):
            result = layer(x, **arguments)
            if isinstance(layer, Recurrent):
                x, final = result
                finals.append(final)
            else:
                x = result
        return (x, tuple(finals)) if self.recurrent else x

    def record(
        self,
        x: Array,
        state: Any = None,
        *,
        lengths: Array | None = None,
        reset: Array | None = None,
        reset_state: Any = None,
    ) -> Tape:
        """Run and return a `Tape`; arguments, and what they raise, as in a call.

        Its states, and those of `Gradients`, are tuples with one for each recurrent layer, and None
        if there is none.
        """
        tapes = []
        for layer, arguments in self._arguments(state, lengths, reset, reset_state):
            tapes.append(layer.record(x, **arguments))
            x = tapes[-1].output
        finals = tuple(
            tape.state
            for layer, tape in zip(self.layers, tapes, strict=True)
            if isinstance(layer, Recurrent)
        )

        def pullback(d_output: object, d_state: object) -> Run:
            d_states = self.split_state("d_state", d_state)
            # All of them, before the first tape is used up.
            given = iter(d_states)
            for layer, tape in zip(self.layers, tapes, strict=True):
                d_last = d_output if tape is tapes[-1] else None
                tape.check(d_last, next(given) if isinstance(layer, Recurrent) else None)
            return partial(self._backward, tapes, d_output, d_states)

        return Tape(x, finals or None, pullback)

    def _backward(
        self, tapes: list[Tape], d_output: object, d_states: list[Any], retain: bool
    ) -> Gradients:
        left = list(d_states)
        states: list[Any] = []
        reset_states: list[Any] = []
        parameters: dict[str, Array] = {}
        d_x = d_output
        for k in range(len(tapes) - 1, -1, -1):
            recurrent = isinstance(self.layers[k], Recurrent)
            gradients = tapes[k].backward(d_x, left.pop() if recurrent else None, retain=retain)
            if recurrent:
                states.insert(0, gradients.state)
                reset_states.insert(0, gradients.reset_state)
            parameters |= {f"{k}.{name}": g for name, g in gradients.parameters.items()}
            d_x = gradients.input
        return Gradients(
            gradients.input,
            tuple(states) or None,
            {name: parameters[name] for name in self.parameters},
            tuple(reset_states) if any(state is not None for state in reset_states) else None,
        )

    def _arguments(
        self, state: object, lengths: object, reset: object, reset_state: object
    ) -> list[tuple[Any, dict[str, Any]]]:
        """Return each layer with what it takes besides its input."""
        self._need_recurrent("lengths", lengths)
        self._need_recurrent("reset", reset)
        states = self.split_state("state", state)
        reset_states = self.split_state("reset_state", reset_state)
        return [
            (
                layer,
                {
                    "state": states.pop(0),
                    "lengths": lengths,
                    "reset": reset,
                    "reset_state": reset_states.pop(0),
                }
                if isinstance(layer, Recurrent)
                else {},
            )
            for layer in self.layers
        ]

    def _need_recurrent(self, name: str, value: object) -> None:
        if value is not None and not self.recurrent:
            raise ValueError(f"{name}: expected None, as no layer is recurrent")

    def split_state(self, name: str, state: object) -> list[Any]:
        """Return the state of each recurrent layer, None for all of them if it is None.

        Raises
        ------
        ValueError, TypeError
            If it is no tuple of as many states; what they are is left to the layers.
        """
        count = self.recurrent
        self._need_recurrent(name, state)
        if state is None:
            return [None] * count
        if not isinstance(state, tuple | list):
            raise TypeError(
                f"{name}: expected a tuple of {count} states, got {type(state).__name__}"
            )
        if len(state) != count:
            raise ValueError(f"{name}: expected a tuple of {count} states, got {len(state)}")
        return list(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"
