"""MNIST's digits: the data."""

import numpy as np
import pytest

import mnist

pytestmark = pytest.mark.network


def test_the_digits_are_all_there() -> None:
    images, labels = mnist.digits()
    assert (images.shape, images.dtype, labels.dtype) == ((5000, 28, 28), "f4", "i8")
    assert (images.min(), images.max()) == (0, 1)
    np.testing.assert_array_equal(np.bincount(labels), [500] * 10)
    # No image is there twice, and a digit looks like its class: each mean is nearest to itself.
    assert len(np.unique(images.reshape(5000, -1), axis=0)) == 5000
    means = np.stack([images[labels == k].mean(axis=0) for k in range(10)])
    distances = ((images[:, None] - means) ** 2).sum(axis=(2, 3))
    assert (distances.argmin(axis=1) == labels).mean() > 0.75
