"""Data-parallel training: a character model on two processes, and on one with the joint batch.

Torch's DistributedDataParallel with gloo, over this machine's loopback. Each process sees half of
the rows of every batch; the gradients' mean over the processes is the gradient of the joint batch.
The model is a torch model whose LSTM runs on fastrnn, and all that makes it so is one line.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import numpy as np

import harness
from fastrnn.character.text import Vocabulary, standard_library

PROCESSES, B, T, H = 2, 16, 32, 64


def batches(steps: int, seed: int) -> tuple[np.ndarray, int]:
    """Return rows of Python code as indices, (steps, T + 1, B), and the size of the vocabulary."""
    text = standard_library()
    vocabulary = Vocabulary.of(text)
    indices = vocabulary.encode(text)
    starts = np.random.default_rng(seed).integers(len(indices) - T - 1, size=(steps, 1, B))
    rows = indices[starts + np.arange(T + 1)[:, None]].astype(np.int64)
    return rows, len(vocabulary)


def train(rows: np.ndarray, vocabulary: int, seed: int, *, parallel: bool) -> dict[str, np.ndarray]:
    """Train on (steps, T + 1, B) indices; return the parameters, and the loss of each step."""
    import torch

    import fastrnn.torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(vocabulary, H)
            self.lstm = torch.nn.LSTM(H, H, num_layers=2)
            self.head = torch.nn.Linear(H, vocabulary)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(self.embed(x))[0])

    torch.manual_seed(seed)
    model = Model().double()  # in float32 Adam makes much of the last bits, which sums differ in
    fastrnn.torch.accelerate(model)
    step = torch.nn.parallel.DistributedDataParallel(model) if parallel else model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    batches = torch.from_numpy(rows)
    for batch in batches if parallel else harness.progress(batches, len(rows), "one process"):
        optimizer.zero_grad()
        logits = step(batch[:-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found = {name: p.detach().numpy() for name, p in model.named_parameters()}
    return found | {"losses": np.array(losses)}


def member(rank: int, port: int, steps: int, seed: int, folder: str) -> None:
    """Do a process's share, and save what came of it."""
    import torch

    os.environ |= {
        "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // PROCESSES))  # fastrnn keeps to it
    torch.distributed.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    try:
        rows, vocabulary = batches(steps, seed)
        mine = np.ascontiguousarray(np.split(rows, PROCESSES, axis=2)[rank])
        np.savez(Path(folder, f"{rank}.npz"), **train(mine, vocabulary, seed, parallel=True))
    finally:
        torch.distributed.destroy_process_group()


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Train both ways, and compare."""
    import torch

    steps = 20 if quick else 100
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(member, (port, steps, seed, folder), nprocs=PROCESSES)
        shares = [dict(np.load(Path(folder, f"{rank}.npz"))) for rank in range(PROCESSES)]
    rows, vocabulary = batches(steps, seed)
    alone = train(rows, vocabulary, seed, parallel=False)
    losses = np.mean([share.pop("losses") for share in shares], axis=0)
    expected = alone.pop("losses")
    equal = all((shares[0][name] == shares[1][name]).all() for name in alone)
    apart = max(np.abs(shares[0][name] - p).max() / np.abs(p).max() for name, p in alone.items())
    loss_apart = np.abs(losses / expected - 1).max()
    line = (
        f"{steps} steps on {PROCESSES} processes and on one: losses {loss_apart:.0e} apart, "
        f"parameters {apart:.0e}; {expected[0]:.2f} to {expected[-1]:.2f} nats a character"
    )
    right = equal and loss_apart < 1e-9 and apart < 1e-6 and losses[-1] < losses[0] / 1.3
    return harness.Outcome(line, bool(right))


if __name__ == "__main__":
    harness.main(example, __doc__)
