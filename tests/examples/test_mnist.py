"""MNIST's digits: the data, their parts, how images are shifted, and what is learnt."""

import numpy as np
import pytest

import mnist

pytestmark = pytest.mark.network


def test_the_program_is_content(run_example):
    assert " % of the test digits (scikit-learn's SVC 9" in run_example("mnist")


def test_the_digits_are_all_there():
    images, labels = mnist.digits()
    assert (images.shape, images.dtype, labels.dtype) == ((5000, 28, 28), "f4", "i8")
    assert (images.min(), images.max()) == (0, 1)
    np.testing.assert_array_equal(np.bincount(labels), [500] * 10)
    # No image is there twice, and digits look like their class: its mean is the nearest to most.
    assert len(np.unique(images.reshape(5000, -1), axis=0)) == 5000
    means = np.stack([images[labels == k].mean(axis=0) for k in range(10)])
    distances = ((images[:, None] - means) ** 2).sum(axis=(2, 3))
    assert (distances.argmin(axis=1) == labels).mean() > 0.75


def test_the_parts_are_disjoint_and_stratified():
    parts = mnist.split(0)
    images, labels = mnist.digits()
    label = {image.tobytes(): k for image, k in zip(images, labels, strict=True)}
    seen = set()
    for name, each in (("train", 350), ("validation", 50), ("test", 100)):
        np.testing.assert_array_equal(np.bincount(parts[name][1]), [each] * 10)
        for image, k in zip(*parts[name], strict=True):
            assert label[image.tobytes()] == k
            seen.add(image.tobytes())
    assert len(seen) == 5000
    assert (mnist.split(0)["test"][0] == parts["test"][0]).all()
    assert (mnist.split(1)["test"][0] != parts["test"][0]).any()


def test_images_are_shifted_and_nothing_else():
    images = mnist.digits()[0][::50]
    images[:, :2] = images[:, -2:] = images[:, :, :2] = images[:, :, -2:] = 0  # nothing falls off
    found = mnist.shifted(images, np.random.default_rng(1))
    moves = set()
    for image, other in zip(images, found, strict=True):
        by = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if (np.roll(image, (down, right), (0, 1)) == other).all()
        ]
        assert len(by) == 1
        moves.update(by)
    assert len(moves) > 15  # of 25


def test_learning_does_not_look_at_the_test_part_and_repeats():
    parts = mnist.split(1)
    parts["test"] = None
    parts["train"] = tuple(array[::10] for array in parts["train"])
    first, second = (mnist.learn(parts, 6, 1) for _ in range(2))
    assert first.curves == second.curves
    assert {name: len(curve) for name, curve in first.curves.items()} == {
        "train": 6,
        "validation": 6,
    }
    for name, array in first.model.parameters.items():
        np.testing.assert_array_equal(array, second.model.parameters[name])
    images, labels = parts["validation"]
    found = (first.model(images[:, None]).argmax(axis=1) == labels).mean()
    assert found in first.curves["validation"]
    assert found > 0.5
