"""`LSTM`, `GRU` and `SimpleRNN`: the layers of Keras, with another way through the sequence.

Constructor, weights, configuration and all that surrounds a call are Keras' own. What the kernels
do not compute is refused when the layer is made.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from ..cells import CELLS

# Functions by which Keras' layers squash, by our names.
KNOWN = {
    "tanh": (keras.activations.tanh, keras.ops.tanh),
    "relu": (keras.activations.relu, keras.ops.relu),
    "sigmoid": (keras.activations.sigmoid, keras.ops.sigmoid),
    "hard_sigmoid": (keras.activations.hard_sigmoid, keras.ops.hard_sigmoid),
}
DTYPES = ("float32", "float64", "float16", "bfloat16")


class _Recurrent:
    """What the three layers have in common; the next class in line is one of `keras.layers`."""

    kind: ClassVar[str]  # the row of CELLS
    # Argument of Keras to our option, whose values it may have; None: tanh alone.
    squashed: ClassVar[dict[str, str | None]]

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if keras.backend.backend() != "torch":
            raise RuntimeError(
                "fastrnn.keras: expected Keras on torch (KERAS_BACKEND=torch in the environment "
                f"before keras is imported), got {keras.backend.backend()}"
            )
        super().__init__(*args, **kwargs)
        options: dict[str, Any] = {}
        for name, option in self.squashed.items():
            allowed = CELLS[self.kind].options[option] if option else ("tanh",)
            found = _squashing(name, getattr(self, name), allowed)
            if option:
                options[option] = found
        if hasattr(self.cell, "reset_after"):
            options["reset_after"] = bool(self.cell.reset_after)
        self._options = {name: options[name] for name in CELLS[self.kind].options}
        if self.recurrent_dropout:
            raise ValueError(f"recurrent_dropout: expected 0, got {self.recurrent_dropout}")
        if self.dropout and self.cell.__dict__.get("dropout_mask_count"):
            raise ValueError("implementation: expected 2 where there is dropout, got 1")
        if self.compute_dtype not in DTYPES:
            raise ValueError(
                f"dtype: expected one of {', '.join(DTYPES)} to compute in, "
                f"got {self.compute_dtype}"
            )
        if getattr(self, "use_cudnn", False) is True:
            raise ValueError("use_cudnn: expected 'auto' or False, got True")
        self.use_cudnn = False  # so that Bidirectional does not try, either

    def inner_loop(
        self: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> tuple[Any, Any, list[Any]]:
        """Run the layer on (B, T, I); return last output, outputs, states, as Keras' own does."""
        from .sequence import run

        if training and self.dropout:
            sequences = sequences * self.cell.get_dropout_mask(sequences[:, 0])[:, None]
        if isinstance(mask, list | tuple):
            mask = mask[0]
        cell = self.cell
        return run(
            self.kind,
            self._options,
            sequences,
            # A stateful layer writes its new state over the old one, which the way back reads.
            [state.clone() if self.stateful else state for state in initial_state],
            mask,
            [cell.kernel, cell.recurrent_kernel, *([] if cell.bias is None else [cell.bias])],
            backwards=self.go_backwards,
            zero=self.zero_output_for_mask,
        )


@keras.saving.register_keras_serializable(package="fastrnn")
class LSTM(_Recurrent, keras.layers.LSTM):
    """`keras.layers.LSTM` on our kernels: its arguments and weights.

    Raises
    ------
    ValueError
        For `activation` other than tanh, `recurrent_activation` other than sigmoid and
        hard_sigmoid, `recurrent_dropout`, ``use_cudnn=True``, or ``implementation=1`` with dropout.
    RuntimeError
        If Keras runs on something else than torch.
    """

    kind = "lstm"
    squashed: ClassVar = {"activation": None, "recurrent_activation": "gate_activation"}


@keras.saving.register_keras_serializable(package="fastrnn")
class GRU(_Recurrent, keras.layers.GRU):
    """`keras.layers.GRU` on our kernels: its arguments and weights.

    Raises
    ------
    ValueError, RuntimeError
        As `LSTM`.
    """

    kind = "gru"
    squashed: ClassVar = {"activation": None, "recurrent_activation": "gate_activation"}


@keras.saving.register_keras_serializable(package="fastrnn")
class SimpleRNN(_Recurrent, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN` on our kernels: its arguments and weights.

    Raises
    ------
    ValueError
        For `activation` other than tanh and relu, or `recurrent_dropout`.
    RuntimeError
        If Keras runs on something else than torch.
    """

    kind = "rnn"
    squashed: ClassVar = {"activation": "nonlinearity"}


def _squashing(name: str, function: Any, allowed: tuple[Any, ...]) -> str:
    """Return our name of a function of Keras."""
    for word in allowed:
        if function in KNOWN[word]:
            return str(word)
    called = getattr(function, "__name__", repr(function))
    raise ValueError(f"{name}: expected {' or '.join(allowed)}, got {called}")
