"""Networks inside the worker processes of torch's DataLoader, which are forked beside threads."""

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


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "numpy"])
def test_workers_compute(backend: str, threads: int) -> None:
    """The bits of the parent, whose threads have worked before."""
    fastrnn.set_num_threads(threads)
    data = Features(fastrnn.LSTM(64, 64, seed=1, backend=backend))
    expected = np.stack([data[k] for k in range(len(data))])
    for _ in range(2):
        loader = torch.utils.data.DataLoader(
            data, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60
        )
        found = np.concatenate([batch.numpy() for batch in loader])
        np.testing.assert_array_equal(found, expected)
