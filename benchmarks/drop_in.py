"""fastrnn.torch and fastrnn.keras against torch's modules and Keras' layers: whole calls.

    python benchmarks/drop_in.py [--rounds N] [--only WORDS]

Two threads each, all by turns in one process; medians, and quartiles of the ratios. Results are
compared before anything is timed. The column "bare" is the layer of fastrnn on arrays: what is
between it and "ours" is the cost of being a module of torch. Keras runs on torch.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
import fastrnn.torch
from fastrnn.bench.measure import Plan, interleave

THREADS = 2
Run = Callable[[], Any]


def pair(kind: str, *sizes: int) -> tuple[Any, Any]:
    """Their module and ours, with the same parameters."""
    theirs, ours = getattr(torch.nn, kind)(*sizes), getattr(fastrnn.torch, kind)(*sizes)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def first(value: Any) -> torch.Tensor:
    """The output of a sequence, the hidden state of a cell, the data of a packed sequence."""
    while not torch.is_tensor(value):
        value = value[0]
    return value


def forward(module: Any, *arguments: Any) -> Run:
    return lambda: first(module(*arguments))


def train(module: Any, d: torch.Tensor, *arguments: Any) -> Run:
    def run() -> Any:
        module.zero_grad()
        first(module(*arguments)).backward(d)
        return [p.grad for p in module.parameters()]

    return run


def bare(kind: str, theirs: Any, x: torch.Tensor, d: torch.Tensor | None) -> Run:
    """The layer of fastrnn that has the parameters of a module."""
    layer = getattr(fastrnn, kind)(theirs.input_size, theirs.hidden_size)
    layer.load_parameters({n: p.detach().numpy() for n, p in theirs.named_parameters()})
    array = x.numpy()
    if d is None:
        return lambda: layer(array)
    slope = d.numpy()
    return lambda: layer.record(array).backward(slope)


def rows() -> Iterator[tuple[str, dict[str, Run]]]:
    """Titles, and what is to be timed: theirs, ours, and bare where there is one."""
    I = H = 64
    B = T = 32
    x = torch.randn(2 * T, B, I)
    d = torch.randn(2 * T, B, H)
    for kind in ("GRU", "RNN", "LSTM"):
        theirs, ours = pair(kind, I, H)
        runs = {"theirs": train(theirs, d, x), "ours": train(ours, d, x)}
        yield f"{kind} training 64/64/32/64", runs | {"bare": bare(kind, theirs, x, d)}
        runs = {"theirs": forward(theirs, x), "ours": forward(ours, x)}
        yield f"{kind} inference 64/64/32/64", runs | {"bare": bare(kind, theirs, x, None)}
    x, h, c = torch.randn(3, 1, 32).unbind()
    for kind in ("GRU", "RNN", "LSTM"):
        theirs, ours = pair(f"{kind}Cell", 32, 32)
        state = (h, c) if kind == "LSTM" else h
        runs = {"theirs": forward(theirs, x, state), "ours": forward(ours, x, state)}
        yield f"{kind}Cell step, recorded, I=H=32, B=1", dict(runs)
        cell = getattr(fastrnn, f"{kind}Cell")(32, 32)
        arrays = x.numpy(), (h.numpy(), c.numpy()) if kind == "LSTM" else h.numpy()
        runs["bare"] = lambda cell=cell, arrays=arrays: cell(*arrays)
        yield f"{kind}Cell step, inference, I=H=32, B=1", runs
        d = torch.ones(1, 32)
        runs = {"theirs": train(theirs, d, x, state), "ours": train(ours, d, x, state)}
        yield f"{kind}Cell step and back, I=H=32, B=1", runs
    B, T, H = 32, 256, 128
    lengths = torch.randint(1, T + 1, (B,), generator=torch.Generator().manual_seed(0))
    lengths[0] = T
    packed = pack_padded_sequence(torch.randn(T, B, H), lengths, enforce_sorted=False)
    d = torch.randn(int(lengths.sum()), H)
    for kind in ("GRU", "RNN", "LSTM"):
        theirs, ours = pair(kind, H, H)
        runs = {"theirs": forward(theirs, packed), "ours": forward(ours, packed)}
        yield f"{kind} packed inference 128/128/32/1-256", runs
        runs = {"theirs": train(theirs, d, packed), "ours": train(ours, d, packed)}
        yield f"{kind} packed training 128/128/32/1-256", runs


def keras_rows() -> Iterator[tuple[str, dict[str, Run]]]:
    """The same for training steps of Keras: forward, backward, Adam."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    import fastrnn.keras

    I = H = T = 64
    x = np.random.default_rng(0).normal(size=(32, T, I)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=(32, T, H)).astype(np.float32)
    for kind in ("LSTM", "GRU", "SimpleRNN"):
        models = []
        for home in (keras.layers, fastrnn.keras):
            layer = getattr(home, kind)(H, return_sequences=True)
            models.append(keras.Sequential([keras.Input((T, I)), layer]))
            models[-1].compile(optimizer="adam", loss="mse")
        models[1].set_weights(models[0].get_weights())
        # A loss: that of weights that have been trained alike.
        runs = [lambda model=model: [torch.tensor(model.train_on_batch(x, y))] for model in models]
        yield (
            f"Keras {kind} train_on_batch 64/64/32/64",
            dict(zip(("theirs", "ours"), runs, strict=True)),
        )


def agree(runs: dict[str, Run]) -> bool:
    """Whether both have the same results, to what float32 can tell."""
    for _ in range(2):  # the second time after a step of training, where that is one
        found, expected = ([*map(first, run())] for run in (runs["ours"], runs["theirs"]))
    for a, b in zip(found, expected, strict=True):
        if not torch.allclose(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item()):
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21, help="default: 21")
    parser.add_argument("--only", default="", help="rows whose title has these words")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    fastrnn.set_num_threads(THREADS)
    table = Table("whole call", "theirs µs", "ours µs", "bare µs", "ratio (quartiles)")
    for title, runs in chain(rows(), keras_rows()):
        if options.only not in title:
            continue
        with torch.set_grad_enabled("inference" not in title):
            if not agree(runs):
                table.add_row(title, "", "", "", "DIFFERENT RESULTS")
                continue
            plan = Plan(THREADS, options.rounds, seconds=60)
            seconds = interleave(runs, plan, lambda words: None)
        times = {name: np.array(s) for name, s in seconds.items()}
        low, middle, high = np.quantile(times["theirs"] / times["ours"], [0.25, 0.5, 0.75])
        medians = [f"{1e6 * np.median(s):.1f}" for s in times.values()]
        table.add_row(
            title, *medians, *[""] * (3 - len(medians)), f"{middle:.2f} ({low:.2f}-{high:.2f})"
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
