"""Turn the recurrent modules of a model into ours, and back."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from . import modules
from .direct import TYPES
from .modules import STEP, WIDER

OURS: dict[type, type] = {
    getattr(nn, name): getattr(modules, name)
    for name in ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}


@dataclass
class Report:
    """What `accelerate` did.

    Attributes
    ----------
    swapped
        Name of each module that runs on fastrnn now, to what it is.
    left
        Name of each recurrent module that was left as it is, to the reason.
    """

    swapped: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{name}: {kind} runs on fastrnn" for name, kind in self.swapped.items()]
        lines += [f"{name}: left as it is: {why}" for name, why in self.left.items()]
        return "\n".join(lines) or "no recurrent modules"


def accelerate(model: nn.Module) -> Report:
    """Let every supported recurrent module of a model run on fastrnn, in place.

    Each stays the object that it is, with its parameters, buffers and hooks, so that optimizers,
    references and state_dicts are not affected; what changes is its class. Supported are LSTM,
    GRU, RNN and their cells. The root of the model has the name "".

    Raises
    ------
    TypeError
        If `model` is not a module.
    """
    report = Report()
    for name, module in _modules(model):
        kind = type(module)
        if kind in THEIRS:
            report.left[name] = "it runs on fastrnn already"
        elif (why := _unfit(module)) is not None:
            report.left[name] = why
        else:
            module.__class__ = OURS[kind]
            report.swapped[name] = kind.__name__
    return report


def restore(model: nn.Module) -> list[str]:
    """Turn every module of ours in a model into torch's own; return their names.

    Raises
    ------
    TypeError
        If `model` is not a module.
    """
    found = [(name, module) for name, module in _modules(model) if type(module) in THEIRS]
    for _, module in found:
        module.__dict__.pop(STEP, None)
        module.__class__ = THEIRS[type(module)]
    return [name for name, _ in found]


def _modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    kinds = (nn.RNNBase, nn.RNNCellBase)
    return [
        (name, module) for name, module in model.named_modules() if _is_recurrent(module, kinds)
    ]


def _is_recurrent(module: nn.Module, kinds: tuple[type, ...]) -> bool:
    """Recognize scripted ones, too."""
    return isinstance(module, kinds) or getattr(module, "original_name", "") in {
        kind.__name__ for kind in OURS
    }


def _unfit(module: nn.Module) -> str | None:
    """Say why a module cannot be ours."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted"
    if type(module) not in OURS:
        return f"{type(module).__qualname__} is a class of its own"
    for name, parameter in module.named_parameters():
        if parameter.device.type not in ("cpu", "meta"):
            return f"{name} is on {parameter.device}, and fastrnn computes on the CPU"
        if parameter.dtype not in (*TYPES, *WIDER):
            return f"{name} is {parameter.dtype}"
    return None
