"""Modules of torch and ours with the same parameters, run and compared."""

from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

import fastrnn.torch as ours

I, H, P = 3, 5, 2
KINDS = ("LSTM", "GRU", "RNN")
CELLS = ("LSTMCell", "GRUCell", "RNNCell")
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def pair(kind: str, *args: Any, **options: Any) -> tuple[Any, Any]:
    """Their module and ours, with the same parameters."""
    theirs, mine = getattr(torch.nn, kind)(*args, **options), getattr(ours, kind)(*args, **options)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, mine


def leaves(value: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples; of a packed sequence its data."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if torch.is_tensor(value):
        return [value]
    return [] if value is None else [t for part in value for t in leaves(part)]


def assert_same(found: Any, expected: Any, tolerance: float | None = None) -> None:
    """Same structure, dtypes and shapes, and numbers as close as their type allows."""
    found, expected = leaves(found), leaves(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        scale = b.abs().max().item() if b.numel() else 0.0
        limit = (tolerance or TOLERANCE[b.dtype]) * max(scale, 1.0)
        torch.testing.assert_close(a, b, rtol=0, atol=limit)


def run(module: Any, arguments: tuple[Any, ...], seed: int = 0) -> tuple[Any, list[torch.Tensor]]:
    """What a module returns, and the gradients of a random loss: parameters, then arguments."""
    results = module(*arguments)
    torch.manual_seed(seed)
    loss = sum((t * torch.randn_like(t)).sum() for t in leaves(results))
    wanted = [*module.parameters(), *[t for t in leaves(arguments) if t.requires_grad]]
    return results, list(torch.autograd.grad(loss, wanted))


def compare(theirs: Any, mine: Any, *arguments: Any) -> None:
    assert_same(run(mine, arguments), run(theirs, arguments))
    with torch.no_grad():
        assert_same(mine(*arguments), theirs(*arguments))
    with torch.inference_mode():
        assert_same(mine(*arguments), theirs(*arguments))


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def draw_state(module: Any, *batch: int, dtype: torch.dtype = torch.float32) -> Any:
    """An initial state for a sequence module, or for a cell."""
    cell = isinstance(module, torch.nn.RNNCellBase)
    layers = () if cell else (module.num_layers * (1 + module.bidirectional),)
    h = draw(*layers, *batch, getattr(module, "proj_size", 0) or H, dtype=dtype, seed=2)
    if "LSTM" not in type(module).__name__:
        return h
    return h, draw(*layers, *batch, H, dtype=dtype, seed=3)
