"""PyTorch: its modules in inference mode, or with autograd."""

from __future__ import annotations

from typing import Any

from ..problem import LEARNING_RATE, VOCABULARY, Arrays, Problem, RefusedError, Run


def eager(p: Problem) -> Run:
    """Call the module."""
    import torch

    torch.set_num_threads(p.threads)
    if p.work.kind == "character":
        return _character(p)
    module = _module(p)
    if p.work.kind == "step":
        return _step(p, module)
    x, d_y = torch.from_numpy(p.x.copy()), torch.from_numpy(p.d_y)
    if p.work.kind == "inference":

        def infer() -> Arrays:
            with torch.inference_mode():
                return [module(x)[0].numpy()]

        return infer
    x.requires_grad_()

    def train() -> Arrays:
        module.zero_grad(set_to_none=True)
        x.grad = None
        y, _ = module(x)
        y.backward(d_y)
        return [y.detach().numpy(), *(t.grad.numpy() for t in (x, *module.parameters()))]

    return train


def compiled(p: Problem) -> Run:
    """Compile the single-step cell; the layers are opaque to the compiler."""
    if p.work.kind != "step":
        raise RefusedError("torch.compile leaves recurrent layers to eager mode")
    import torch

    torch.set_num_threads(p.threads)
    torch.compiler.reset()  # else it refuses the ninth network as one recompilation too many
    return _step(p, torch.compile(_module(p), fullgraph=True))


def _module(p: Problem) -> Any:
    import torch

    name = p.work.cell.upper()
    if p.work.kind == "step":
        module = getattr(torch.nn, f"{name}Cell")(p.work.I, p.work.H)
    else:
        module = getattr(torch.nn, name)(p.work.I, p.work.H, p.work.layers)
    module.load_state_dict({k: torch.from_numpy(v) for k, v in p.parameters.items()})
    return module


def _step(p: Problem, module: Any) -> Run:
    import torch

    x = torch.from_numpy(p.x)
    tensors = tuple(torch.from_numpy(array) for array in p.state)
    state = tensors if len(tensors) > 1 else tensors[0]

    def step() -> Arrays:
        with torch.inference_mode():
            found = module(x, state)
        return [t.numpy() for t in (found if isinstance(found, tuple) else (found,))]

    return step


def _character(p: Problem) -> Run:
    import torch

    embedding = torch.nn.Embedding(VOCABULARY, p.work.I)
    layer = getattr(torch.nn, p.work.cell.upper())(p.work.I, p.work.H, p.work.layers)
    linear = torch.nn.Linear(p.work.H, VOCABULARY)
    modules = torch.nn.ModuleList([embedding, layer, linear])
    modules.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in p.parameters.items()})
    optimizer = torch.optim.Adam(modules.parameters(), LEARNING_RATE)
    x, targets = torch.from_numpy(p.x), torch.from_numpy(p.d_y.reshape(-1))

    def train() -> Arrays:
        optimizer.zero_grad(set_to_none=True)
        logits = linear(layer(embedding(x))[0])
        torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), targets).backward()
        optimizer.step()
        gradients = {name: t.grad for name, t in modules.named_parameters()}
        return [gradients[name].numpy() for name in p.parameters]

    return train
