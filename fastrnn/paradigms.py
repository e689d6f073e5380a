"""What goes in and what comes out, one or many: a class for each way to put layers together.

All of them have `parameters` for the optimizers, a call that infers, and `record`, whose `Tape`
runs backward to `Gradients`. docs/paradigms.md shows when each one fits, and draws it.
`encoder_decoder` has those that write tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import states
from .feedforward import FeedForward
from .layers import Parametrized, Recurrent, RecurrentCell
from .sequential import Layer, Sequential
from .tape import Gradients, Run, Tape
from .validation import Array


class OneToOne(Sequential):
    """One input, one output, without memory: layers without recurrence.

    Raises
    ------
    ValueError, TypeError
        If there is no layer, or one that is none, or that is recurrent.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> model = fastrnn.OneToOne(fastrnn.Linear(8, 16), fastrnn.Tanh(), fastrnn.Linear(16, 3))
    >>> model(np.zeros((5, 8), np.float32)).shape
    (5, 3)
    """

    def __init__(self, *layers: Layer) -> None:
        for k, layer in enumerate(layers):
            need_no_recurrence(f"layers[{k}]", layer)
        super().__init__(*layers)


class ManyToMany(Sequential):
    """A sequence in, and one output a step, in step with it; at least one layer is recurrent.

    A call, `record` and the states are those of `Sequential`.

    Raises
    ------
    ValueError, TypeError
        If there is no recurrent layer, or something that is no layer.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> model = fastrnn.ManyToMany(fastrnn.GRU(8, 16), fastrnn.Linear(16, 3))
    >>> y, (h_n,) = model(np.zeros((10, 5, 8), np.float32))
    >>> y.shape, h_n.shape
    ((10, 5, 3), (1, 5, 16))
    """

    def __init__(self, *layers: Layer) -> None:
        super().__init__(*layers)
        states.need_recurrent("layers", self)


class ManyToOne(Parametrized):
    """A sequence in, one output: what the last recurrent layer ends with goes on.

    The layers up to the last recurrent one run over the sequence. Those behind it get its final
    hidden state, of its last layer, both directions side by side: (B, D*H), or (B, D*P) with a
    projection; the forward direction's after the last valid step, the reverse direction's after the
    first. Without layers behind it, that is the output.

    Attributes
    ----------
    layers
        The layers, in order.
    parameters
        Their parameters under the names of `Sequential` (not copies).

    Raises
    ------
    ValueError, TypeError
        If there is no recurrent layer, or something that is no layer.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> model = fastrnn.ManyToOne(
    ...     fastrnn.Embedding(100, 8),
    ...     fastrnn.LSTM(8, 16, bidirectional=True),
    ...     fastrnn.Linear(32, 3),
    ... )
    >>> words = np.zeros((10, 5), int)
    >>> model(words, lengths=np.array([10, 7, 3, 1, 0])).shape
    (5, 3)
    """

    def __init__(self, *layers: Layer) -> None:
        whole = Sequential(*layers)
        states.need_recurrent("layers", whole)
        self.layers = layers
        self.parameters = whole.parameters
        behind = 1 + max(k for k, layer in enumerate(layers) if isinstance(layer, Recurrent))
        self._body = Sequential(*layers[:behind])
        self._head: Layer = Sequential(*layers[behind:]) if behind < len(layers) else _Identity()
        names = list(self.parameters)[len(self._body.parameters) :]
        self._names = dict(zip(self._head.parameters, names, strict=True))  # the head's here
        self._directions = 2 if getattr(layers[behind - 1], "bidirectional", False) else 1

    def __call__(
        self,
        x: Array,
        state: Any = None,
        *,
        lengths: Array | None = None,
        reset: Array | None = None,
        reset_state: Any = None,
    ) -> Array:
        """Infer, recording nothing.

        Parameters
        ----------
        x
            What the first layer takes: (T, B, I), or (T, B) indices for an `Embedding`; laid out as
            the recurrent layers have it (`batch_first`), and without B for one row.
        state, lengths, reset, reset_state
            As for `Sequential`.

        Returns
        -------
        output
            (B, ·): what the last layer makes of the final hidden state.

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong; the message names it.
        """
        _, finals = self._body(x, state, lengths=lengths, reset=reset, reset_state=reset_state)
        return np.asarray(self._head(self._hidden(finals[-1])))

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

        Its states, and those of `Gradients`, are tuples with one for each recurrent layer.
        """
        body = self._body.record(x, state, lengths=lengths, reset=reset, reset_state=reset_state)
        finals: tuple[Any, ...] = body.state  # type: ignore[assignment]  # of a Sequential
        head = self._head.record(self._hidden(finals[-1]))

        def pullback(d_output: object, d_state: Any) -> Run:
            body.check(None, d_state)
            head.check(d_output)

            def run(retain: bool) -> Gradients:
                later = head.backward(d_output, retain=retain)
                d_states = list(d_state or [None] * len(finals))
                d_states[-1] = self._plus_hidden(finals[-1], d_states[-1], later.input)
                gradients = body.backward(None, d_states, retain=retain)
                for name, gradient in later.parameters.items():
                    gradients.parameters[self._names[name]] = gradient
                return gradients

            return run

        return Tape(head.output, finals, pullback)

    def _hidden(self, final: Any) -> Array:
        """Return what goes on, (B, D*H), of the last recurrent layer's final state."""
        h = final[0] if isinstance(final, tuple) else final
        return np.concatenate(h[-self._directions :], axis=-1)

    def _plus_hidden(self, final: Any, d_final: Any, d_hidden: Any) -> Any:
        """Return the gradient of the final state: d_final, and that of what went on."""
        arrays = final if isinstance(final, tuple) else (final,)
        if d_final is None:
            h, *others = map(np.zeros_like, arrays)
        else:
            h, *others = d_final if isinstance(final, tuple) else (d_final,)
        h = np.array(h)  # a copy: it may be the caller's
        with np.errstate(all="ignore"):  # inf and NaN are results, not messages
            h[-self._directions :] += np.stack(np.split(d_hidden, self._directions, axis=-1))
        return (h, *others) if isinstance(final, tuple) else h

    def __repr__(self) -> str:
        return f"ManyToOne({', '.join(map(repr, self.layers))})"


class _Identity(FeedForward):
    """What stands where there is no layer."""

    def _forward(self, x: Array) -> tuple[Array, None]:
        return x[...], None

    def _backward(self, kept: None, d_y: Array) -> Gradients:
        return Gradients(d_y)


def need_no_recurrence(name: str, layer: object) -> None:
    """Check that something is a layer without memory; `TypeError` if not."""
    known = hasattr(layer, "record") and hasattr(layer, "parameters")
    recurrent = isinstance(layer, Recurrent | RecurrentCell | ManyToOne)
    if not known or recurrent or getattr(layer, "recurrent", False):
        raise TypeError(f"{name}: expected a layer without recurrence, got {type(layer).__name__}")
