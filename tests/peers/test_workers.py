"""Networks inside the worker processes of torch's DataLoader, which are forked beside threads."""

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch

import fastrnn
from problems import BACKENDS

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more than processors
    pytest.mark.filterwarnings("ignore:os.fork"),  # JAX, where another test has imported it
]


class Features(torch.utils.data.Dataset):
    """What a network makes of sequences."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.x = np.random.default_rng(0).normal(size=(6, 40, 8, 64)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.layer(self.x[index])[0]


@contextmanager
def in_use(data: Features) -> Iterator[None]:
    """Another thread computes meanwhile."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            data[0]

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("state", ["unused", "used", "in use"])
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "numpy"])
def test_workers_compute(backend: str, threads: int, state: str) -> None:
    """The bits of the parent, whose threads have not been started, have worked, or work."""
    fastrnn.set_num_threads(threads)
    if backend == "c":
        importlib.import_module("fastrnn._c").lib.fastrnn_stop()
    data = Features(fastrnn.LSTM(64, 64, seed=1, backend=backend))

    def compute() -> np.ndarray:
        return np.stack([data[k] for k in range(len(data))])

    expected = None if state == "unused" else compute()
    with in_use(data) if state == "in use" else nullcontext():
        rounds = []
        for _ in range(2):
            loader = torch.utils.data.DataLoader(
                data, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60
            )
            rounds.append(np.concatenate([batch.numpy() for batch in loader]))
    for found in rounds:
        np.testing.assert_array_equal(found, compute() if expected is None else expected)
