"""`LSTM`, `GRU`, `RNN` and their cells: the modules of torch.nn, with a forward pass of their own.

Constructor, attributes, initialisation and state_dict are torch's, and errors are worded as there.
Sequences are subclasses of `torch.nn.RNNBase`, not of `torch.nn.LSTM` and so on, whose instances
`torch.compile` refuses. Numbers are float32 or float64; half precision is computed in float32,
and under autocast everything is in the precision of the weights.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from .. import validation
from ..cells import CELLS, Cell
from . import ops, packing
from .step import Step

STEP = "_fastrnn_step"  # where a cell keeps its `Step`
NAMES = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]  # of a cell's parameters
WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}  # what is computed in


class _Recurrent:
    """What sequences and cells have in common."""

    cell: ClassVar[Cell]

    def _values(self: Any) -> tuple[object, ...]:
        """Return the values of the cell's options, some of which torch does not have."""
        given = self.__dict__
        return tuple([given.get(name, all_[0]) for name, all_ in self.cell.options.items()])

    def _state(self: Any, hx: Any) -> list[Tensor]:
        """Return the initial states; none at all for zeros."""
        if hx is None:
            return []
        if len(self.cell.states) == 1:
            return [hx]
        if not isinstance(hx, tuple | list) or len(hx) != 2:
            raise TypeError(f"hx: expected a tuple (h, c), got {type(hx).__name__}")
        return list(hx)

    def _weights(self: Any, names: list[str]) -> list[Tensor]:
        known = self._parameters
        return [getattr(self, name) if known.get(name) is None else known[name] for name in names]


def on_cpu(name: str, *tensors: Tensor) -> None:
    """Refuse what is on another device; `meta` is the one of tensors that have no numbers."""
    for t in tensors:
        if not (t.is_cpu or t.is_meta):
            raise TypeError(
                f"{name}: expected a tensor on the CPU, where fastrnn computes, "
                f"got one on {t.device}"
            )


def _as_computed(
    input: Tensor, state: list[Tensor], weights: list[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return tensors in the precision that is computed in: that of the weights, or a wider one."""
    on_cpu("input", input)
    on_cpu("hx", *state)
    on_cpu("weights", *weights)
    dtype = weights[0].dtype
    autocast = torch.is_autocast_enabled("cpu")
    if input.dtype != dtype and not autocast:
        raise ValueError(
            f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
            f"Convert input: input.to({dtype}), or convert model: model.to({input.dtype})"
        )
    for s in state:
        if s.dtype != dtype and not autocast:
            raise RuntimeError(
                "Input and hidden tensors are not the same dtype, found input tensor with "
                f"{input.dtype} and hidden tensor with {s.dtype}"
            )
    wide = WIDER.get(dtype, dtype)
    return input.to(wide), [s.to(wide) for s in state], [w.to(wide) for w in weights]


class _Sequence(_Recurrent):
    """The forward pass of `LSTM`, `GRU` and `RNN`."""

    def forward(
        self: Any,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Any = None,
        reset: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """Run the layers.

        Parameters
        ----------
        input
            (T, B, I), or (B, T, I) with `batch_first`, or (T, I) for one row, or a packed sequence.
        hx
            Initial state (layers * directions, B, H), LSTM: a tuple (h, c), or None for zeros.
        lengths
            (B,) integers, in any order: how many steps of each row are valid. The output past
            them is zero, and the final state is that of the last valid step.
        reset
            Booleans, laid out like the first two dimensions of the input: where true, the state
            of the row is zero before x_t is consumed, and no gradient crosses.

        Returns
        -------
        output, state
            As those of the module of torch.nn.

        Raises
        ------
        ValueError, RuntimeError, TypeError
            If an argument is wrong, as in torch; for lengths and reset the message names them.
        """
        plain = lengths is None and reset is None
        if isinstance(input, PackedSequence):
            return self._packed(input, hx, plain)
        if input.ndim not in (2, 3):
            kind = self.cell.name.upper()
            raise ValueError(f"{kind}: Expected input to be 2D or 3D, got {input.ndim}D instead")
        batched = input.ndim == 3
        state = self._state(hx)
        for name, s in zip(self.cell.states, state, strict=False):
            if s.ndim != input.ndim:
                raise RuntimeError(
                    f"For {'batched 3-D' if batched else 'unbatched 2-D'} input, hx should "
                    f"also be {input.ndim}-D but got {s.ndim}-D tensor for {name}"
                )
        if not batched:
            input, state = input[:, None], [s[:, None] for s in state]
            reset = None if reset is None else reset[..., None]
        time_first = batched and self.batch_first
        if time_first:
            input = input.transpose(0, 1)
            reset = None if reset is None else reset.transpose(0, 1)
        if lengths is not None:
            lengths = torch.as_tensor(lengths).reshape(-1)
        output, final = self._layers(input, state, lengths, reset)
        if time_first:
            output = output.transpose(0, 1)
        if not batched:
            output, final = output[:, 0], [s[:, 0] for s in final]
        return output, final[0] if len(final) == 1 else tuple(final)

    def _packed(self: Any, input: PackedSequence, hx: Any, plain: bool) -> tuple[Any, Any]:
        if not plain:
            raise ValueError(
                "lengths, reset: expected None with a PackedSequence, which has lengths of its own"
            )
        data, sizes, order, order_back = input
        if data.ndim != 2:
            raise RuntimeError(f"input must have 2 dimensions, got {data.ndim}")
        state = self._state(hx)
        if order is not None:
            state = [s.index_select(1, order) for s in state]
        x, lengths = packing.pad(data, sizes)
        output, final = self._layers(x, state, lengths, None)
        packed = packing.pack(output, sizes, lengths)
        if order_back is not None:
            final = [s.index_select(1, order_back) for s in final]
        output = PackedSequence(packed, sizes, order, order_back)
        return output, final[0] if len(final) == 1 else tuple(final)

    def _layers(
        self: Any, x: Tensor, state: list[Tensor], lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the layers one after the other on (T, B, I)."""
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                "input.size(-1) must be equal to input_size. "
                f"Expected {self.input_size}, got {x.shape[-1]}"
            )
        D = 2 if self.bidirectional else 1
        widths = (self.proj_size or self.hidden_size, self.hidden_size)
        for k, (s, width) in enumerate(zip(state, widths, strict=False)):
            expected = (self.num_layers * D, x.shape[1], width)
            if s.shape != expected:
                name = f"hidden[{k}]" if len(state) > 1 else "hidden"
                raise RuntimeError(f"Expected {name} size {expected}, got {list(s.shape)}")
        given = self._weights(self._flat_weights_names)
        y, state, weights = _as_computed(x, state, given)
        each = len(weights) // self.num_layers
        finals = []
        for n in range(self.num_layers):
            if n and self.dropout and self.training:
                y = functional.dropout(y, self.dropout)
            y, *final = ops.layer(
                y,
                [s[n * D : (n + 1) * D] for s in state] if self.num_layers > 1 else state,
                weights[n * each : (n + 1) * each],
                lengths,
                reset,
                self.cell.name,
                self._values(),
                D,
            )
            finals.append(final)
        last = finals[0] if len(finals) == 1 else [torch.cat(f) for f in zip(*finals, strict=True)]
        dtype = given[0].dtype
        return y.to(dtype), [s.to(dtype) for s in last]


class LSTM(_Sequence, nn.RNNBase):
    """`torch.nn.LSTM` on fastrnn; the forward pass also takes `lengths` and `reset`."""

    cell = CELLS["lstm"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)


class GRU(_Sequence, nn.RNNBase):
    """`torch.nn.GRU` on fastrnn; the forward pass also takes `lengths` and `reset`."""

    cell = CELLS["gru"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse_projection(kwargs)
        super().__init__("GRU", *args, **kwargs)


class RNN(_Sequence, nn.RNNBase):
    """`torch.nn.RNN` on fastrnn; the forward pass also takes `lengths` and `reset`."""

    cell = CELLS["rnn"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse_projection(kwargs)
        if len(args) > 3:  # input_size, hidden_size, num_layers, nonlinearity, ...
            args, kwargs = (*args[:3], *args[4:]), kwargs | {"nonlinearity": args[3]}
        nonlinearity = kwargs.pop("nonlinearity", "tanh")
        allowed = self.cell.options["nonlinearity"]
        self.nonlinearity = validation.choice("nonlinearity", nonlinearity, allowed)
        super().__init__(f"RNN_{nonlinearity.upper()}", *args, **kwargs)


def _refuse_projection(given: dict[str, Any]) -> None:
    if "proj_size" in given:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


class _Cell(_Recurrent):
    """The forward pass of `LSTMCell`, `GRUCell` and `RNNCell`."""

    def forward(self: Any, input: Tensor, hx: Any = None) -> Any:
        """Advance by one step.

        Parameters
        ----------
        input
            (B, I), or (I,) for one row.
        hx
            State (B, H), LSTM: a tuple (h, c); without B for one row. None for zeros.

        Returns
        -------
        state
            The new state; LSTM: (h, c).

        Raises
        ------
        ValueError, RuntimeError, TypeError
            If an argument is wrong, as in torch.
        """
        if type(input) is Tensor and not ops.is_watched():
            parameters = self._parameters
            step = self.__dict__.get(STEP)
            if step is None or not step.holds(parameters):
                step = self._find_step()
            if step and (found := step(input, hx, parameters)) is not None:
                return found
        state = self._state(hx)
        self._check(input, state)
        given = self._weights(self._names())
        x, state, weights = _as_computed(input, state, given)
        x, *state = [t[None] if input.ndim > 1 else t[None, None] for t in (x, *state)]
        _, *new = ops.layer(x, state, weights, None, None, self.cell.name, self._values(), 1)
        new = [(s[0] if input.ndim > 1 else s[0, 0]).to(given[0].dtype) for s in new]
        return new[0] if len(new) == 1 else tuple(new)

    def _names(self: Any) -> list[str]:
        return NAMES if self.bias else NAMES[:2]

    def _find_step(self: Any) -> Step | None:
        weights = {name: self._parameters.get(name) for name in self._names()}
        step = Step.find(self.cell.name, self._values(), weights)
        self.__dict__[STEP] = step
        return step

    def __getstate__(self: Any) -> dict[str, Any]:
        """Return what is copied and pickled: all but what is found out anew."""
        return {name: value for name, value in self.__dict__.items() if name != STEP}

    def _check(self: Any, input: Tensor, state: list[Tensor]) -> None:
        kind = f"{type(self).__name__}: Expected"
        if input.ndim not in (1, 2):
            raise ValueError(f"{kind} input to be 1D or 2D, got {input.ndim}D instead")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {input.shape[-1]} "
                f"expected {self.input_size}"
            )
        for k, s in enumerate(state):
            if s.ndim not in (1, 2):
                name = f"hx[{k}]" if len(state) > 1 else "hidden"
                raise ValueError(f"{kind} {name} to be 1D or 2D, got {s.ndim}D instead")
            if s.shape[-1] != self.hidden_size:
                raise RuntimeError(
                    f"hidden{k} has inconsistent hidden_size: got {s.shape[-1]}, "
                    f"expected {self.hidden_size}"
                )
            if s.ndim != input.ndim:
                raise RuntimeError(
                    f"hidden{k}: expected {input.ndim} dimensions like the input, got {s.ndim}"
                )
            if s.shape[:-1] != input.shape[:-1]:
                raise RuntimeError(
                    f"Input batch size {input.shape[0]} doesn't match hidden{k} batch size "
                    f"{s.shape[0]}"
                )


class LSTMCell(_Cell, nn.LSTMCell):
    """`torch.nn.LSTMCell` on fastrnn."""

    cell = CELLS["lstm"]


class GRUCell(_Cell, nn.GRUCell):
    """`torch.nn.GRUCell` on fastrnn."""

    cell = CELLS["gru"]


class RNNCell(_Cell, nn.RNNCell):
    """`torch.nn.RNNCell` on fastrnn."""

    cell = CELLS["rnn"]
