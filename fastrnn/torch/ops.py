"""One layer of a cell, in one or two directions, as an operator that torch can differentiate.

There are three ways, with the same results. `layer` takes the shortest, `direct`, where the case is
plain; else a `torch.autograd.Function`, whose tape stays a Python object. Where torch traces or
transforms (`torch.compile`, `torch.export`, `torch.func`), it takes the operators
``fastrnn::layer`` and ``fastrnn::layer_backward``, which know tensors alone: the latter runs the
recorded forward pass again, whose bits are the same.

All take

x
    (T, B, I).
states
    Initial states, (D, B, R) and LSTM: (D, B, H), or none at all for zeros.
weights
    For each direction weight_ih, weight_hh, bias_ih and bias_hh or neither, weight_hr or none.
lengths, reset
    (B,) int64 and (T, B) bool, or None.
cell, options, directions
    A row of `CELLS`, its options as `encode` gives them, and D.

and return the output (T, B, D*R), and final states like the initial ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active  # as torch's own Function.apply asks
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling

from .. import validation
from ..cells import CELLS
from ..stack import PARAMETERS, Stack, read_weights
from ..threads import at_most
from ..validation import Array
from . import direct
from .direct import PLAIN

Tensors = list[Tensor]


def layer(
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    cell: str,
    values: tuple[object, ...],
    directions: int,
) -> Tensors:
    """Run a layer; `values` are those of the options, the rest is described at the top."""
    plain = directions == 1 and lengths is None and reset is None and not is_watched()
    if plain and (found := direct.layer(x, states, weights, cell, values)) is not None:
        return list(found)
    sequence = (lengths, reset, cell, encode(cell, values), directions)
    tensors = (x, *states, *weights)
    if is_watched() or any(type(t) not in PLAIN or t.is_meta for t in tensors):
        if is_compiling() or not _are_functorch_transforms_active():
            return layer_op(x, list(states), list(weights), *sequence)
        kind: Any = _Transformed
    else:
        kind = _Layer
    return list(kind.apply(*sequence, len(states), *tensors))


def is_watched() -> bool:
    """Say whether torch traces or transforms what is computed now."""
    return is_compiling() or _are_functorch_transforms_active()


class _Layer(torch.autograd.Function):
    """The shorter way."""

    @staticmethod
    def forward(
        ctx: Any,
        lengths: Tensor | None,
        reset: Tensor | None,
        cell: str,
        options: str,
        directions: int,
        n: int,  # states among the tensors: x, states, weights
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        run = (tensors[0], tensors[1 : n + 1], tensors[n + 1 :], lengths, reset)
        if not any(ctx.needs_input_grad):
            return tuple(_tensors(*_run(Stack.infer, *run, cell, options, directions)))
        output, state, ctx.pullback, _ = _run(Stack.trace, *run, cell, options, directions)
        results = _tensors(output, state)
        # Saved, although the pullback has all of them, so that torch notices changes in place.
        ctx.save_for_backward(results[0], *tensors)
        ctx.run = (lengths, reset, cell, options, directions)
        ctx.states = n
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d: Tensor) -> tuple[Any, ...]:
        _, *tensors = ctx.saved_tensors
        n = ctx.states
        pullback, ctx.pullback = ctx.pullback, None
        if pullback is None:  # a second time, with retain_graph: it has overwritten its records
            run = (tensors[0], tensors[1 : n + 1], tensors[n + 1 :], *ctx.run)
            pullback = _run(Stack.trace, *run).pullback
        return (None,) * 6 + tuple(_gradients(pullback, n > 0, d[0], d[1:]))


@torch.library.custom_op("fastrnn::layer", mutates_args=())
def layer_op(
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    cell: str,
    options: str,
    directions: int,
) -> list[Tensor]:
    """Run a layer, recording nothing."""
    run = (x, states, weights, lengths, reset, cell, options, directions)
    return _tensors(*_run(Stack.infer, *run))


@torch.library.custom_op("fastrnn::layer_backward", mutates_args=())
def layer_backward_op(
    d_output: Tensor,
    d_states: list[Tensor],
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    cell: str,
    options: str,
    directions: int,
) -> list[Tensor]:
    """Return the gradients of x, states and weights."""
    run = (x, states, weights, lengths, reset, cell, options, directions)
    return _gradients(_run(Stack.trace, *run).pullback, bool(states), d_output, d_states)


@layer_op.register_fake
def _(
    x: Tensor,
    states: Tensors,
    weights: Tensors,
    lengths: Tensor | None,
    reset: Tensor | None,
    cell: str,
    options: str,
    directions: int,
) -> Tensors:
    row, hh = CELLS[cell], weights[1]
    (T, B), R = x.shape[:2], hh.shape[1]
    widths = (R, hh.shape[0] // len(row.gates))[: len(row.states)]
    finals = [x.new_empty((directions, B, width)) for width in widths]
    return [x.new_empty((T, B, directions * R)), *finals]


@layer_backward_op.register_fake
def _(
    d_output: Tensor,
    d_states: Tensors,
    x: Tensor,
    states: Tensors,
    weights: Tensors,
    *_: object,
) -> Tensors:
    return [
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, *states, *weights)
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, states, weights, *ctx.run = inputs
    ctx.states = len(states)
    ctx.save_for_backward(x, *states, *weights)


def _backward(ctx: Any, d: Tensors) -> tuple[Any, ...]:
    x, *others = ctx.saved_tensors
    n = ctx.states
    found = layer_backward_op(d[0], d[1:], x, others[:n], others[n:], *ctx.run)
    return found[0], found[1 : n + 1], found[n + 1 :], *[None] * len(ctx.run)


layer_op.register_autograd(_backward, setup_context=_setup_context)


class _Transformed(torch.autograd.Function):
    """The operators as `torch.func` takes them: it does not reach their own way back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        *sequence, n = inputs[:6]
        x, *others = inputs[6:]
        return tuple(layer_op(x, others[:n], others[n:], *sequence))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *ctx.run, ctx.states = inputs[:6]
        ctx.save_for_backward(*inputs[6:])

    @staticmethod
    def backward(ctx: Any, *d: Tensor) -> tuple[Any, ...]:
        found = _TransformedBackward.apply(*ctx.run, ctx.states, len(d), *d, *ctx.saved_tensors)
        return (None,) * 6 + tuple(found)


class _TransformedBackward(torch.autograd.Function):
    """Its way back, which has none of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        *sequence, n, results = inputs[:7]
        d, (x, *others) = inputs[7 : 7 + results], inputs[7 + results :]
        return tuple(layer_backward_op(d[0], list(d[1:]), x, others[:n], others[n:], *sequence))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *d: Tensor) -> tuple[Any, ...]:
        raise NotImplementedError("fastrnn: there are no second derivatives of recurrent layers")


def _one_by_one(op: Callable[..., Tensors]) -> Callable[..., tuple[Tensors, Any]]:
    """Return what vmap makes of an operator: a call for each element of the mapped dimension."""

    def run(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensors, Any]:
        def element(value: Any, dim: Any, k: int) -> Any:
            if isinstance(value, list):
                return [element(v, d, k) for v, d in zip(value, dim, strict=True)]
            return value if dim is None else value.select(dim, k)

        results = [
            op(*[element(v, d, k) for v, d in zip(arguments, in_dims, strict=True)])
            for k in range(info.batch_size)
        ]
        stacked = [torch.stack(parts) for parts in zip(*results, strict=True)]
        return stacked, [0] * len(stacked)

    return run


layer_op.register_vmap(_one_by_one(layer_op))
layer_backward_op.register_vmap(_one_by_one(layer_backward_op))


def array(name: str, tensor: Tensor) -> Array:
    """Return the numbers of a tensor as an array, in the same memory."""
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {tensor.layout}")
    return tensor.detach().resolve_neg().numpy()


def encode(cell: str, values: tuple[object, ...]) -> str:
    """Write options as a text, since an operator takes no dict: "reset_after=False"."""
    names = CELLS[cell].options
    return " ".join([f"{name}={value}" for name, value in zip(names, values, strict=True)])


@lru_cache(maxsize=256)
def _options(cell: str, text: str) -> dict[str, Any]:
    row = CELLS[cell]
    given: dict[str, object] = {}
    for word in text.split():
        name, value = word.split("=")
        meant = {str(allowed): allowed for allowed in row.options.get(name, ())}
        given[name] = meant.get(value, value)
    return validation.options(row, given)


def _stack(weights: Sequence[Tensor], cell: str, options: str, directions: int) -> Stack:
    row, each = CELLS[cell], len(weights) // directions
    names = PARAMETERS[:each] if each != 3 else (*PARAMETERS[:2], PARAMETERS[4])
    parameters = {}
    for direction, suffix in enumerate(("", "_reverse")[:directions]):
        some = weights[direction * each : (direction + 1) * each]
        given = {name: array(name + suffix, w) for name, w in zip(names, some, strict=True)}
        parameters[suffix] = read_weights(row, given)
    return Stack(row, _options(cell, options), parameters, directions=directions)


def _arguments(
    x: Tensor, states: Sequence[Tensor], lengths: Tensor | None, reset: Tensor | None
) -> tuple[Any, ...]:
    arrays = tuple([array("hx", s) for s in states])
    return (
        array("input", x),
        None if not arrays else arrays if len(arrays) > 1 else arrays[0],
        None if lengths is None else array("lengths", lengths),
        None if reset is None else array("reset", reset),
        None,
    )


def _run(
    way: Callable[..., Any],
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    cell: str,
    options: str,
    directions: int,
) -> Any:
    """Return what `Stack.infer` or `Stack.trace` makes of the tensors' numbers."""
    stack = _stack(weights, cell, options, directions)
    with at_most(torch.get_num_threads()):
        return way(stack, *_arguments(x, states, lengths, reset))


def _gradients(pullback: Any, given: bool, d_output: Tensor, d_states: Sequence[Tensor]) -> Tensors:
    """Return the gradients of x, of the states if they were given, and of the weights."""
    d_last = tuple([array("gradient of a state", d) for d in d_states])
    with at_most(torch.get_num_threads()):
        run = pullback(
            array("gradient of the output", d_output), d_last if len(d_last) > 1 else d_last[0]
        )
        found = run(False)
    return _tensors(found.input, found.state if given else (), *found.parameters.values())


def _tensors(first: Array, state: Any, *others: Array) -> Tensors:
    """Return arrays as tensors in the same memory: one, a state's, and others."""
    states = state if isinstance(state, tuple) else (state,)
    return [torch.from_numpy(a) for a in (first, *states, *others)]
