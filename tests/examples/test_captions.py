"""Captions: what is right is right, and the network looks at the image."""

import numpy as np
import pytest

import captions
import mnist

pytestmark = pytest.mark.network


def test_the_program_is_content(run_example):
    assert "of 300 captions are right" in run_example("captions")


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [
        ("", "", 0),
        ("one", "", 3),
        ("", "two", 3),
        ("seven", "seven", 0),
        ("one two", "one  two", 1),
        ("three", "tree", 1),
        ("kitten", "sitting", 3),
        ("four five", "five four", 6),
    ],
)
def test_edits(a, b, edits):
    assert captions.distance(a, b) == captions.distance(b, a) == edits


@pytest.fixture(scope="module")
def parts():
    return mnist.split(0)


def test_images_show_their_captions(parts):
    """Each digit of an image is one of the part, whole, and the rest of it is empty."""
    made = captions.compose(parts["test"], 30, np.random.default_rng(1))
    images, labels = parts["test"]
    known = {
        image.tobytes(): captions.NAMES[label] for image, label in zip(images, labels, strict=True)
    }
    assert sorted(set(made.digits)) == [1, 2, 3]
    for image, caption, n in zip(made.images[:, 0], made.captions, made.digits, strict=True):
        places = [
            left
            for left in range(captions.WIDTH - captions.SIDE * n + 1)
            if all(
                part.tobytes() in known
                for part in np.split(image[:, left : left + captions.SIDE * n], n, axis=1)
            )
        ]
        read = [
            " ".join(
                known[part.tobytes()]
                for part in np.split(image[:, left : left + captions.SIDE * n], n, axis=1)
            )
            for left in places
        ]
        assert caption in read
        assert image.sum() == pytest.approx(
            image[:, places[0] : places[0] + captions.SIDE * n].sum(), rel=1e-5
        )


def test_no_digit_is_in_two_parts(parts):
    seen = [{image.tobytes() for image in images} for images, _ in parts.values()]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_tokens_are_the_letters_and_a_stop(parts):
    made = captions.compose(parts["test"], 6, np.random.default_rng(1))
    tokens, lengths = made.tokens(np.arange(6))
    for column, n, caption in zip(tokens.T, lengths, made.captions, strict=True):
        assert "".join(captions.LETTERS[k] for k in column[: n - 1]) == caption
        assert column[n - 1] == captions.STOP
    assert max(map(len, made.captions)) < captions.LONGEST


def test_scores():
    names = ["one", "two six", "one", "one two six"]
    wanted = captions.Captioned(np.zeros(0), names, np.array([1, 2, 1, 3]))
    found = captions.score(["one", "two sin", "", "one two six"], wanted)
    assert found.exact == 0.5
    assert found.letters == pytest.approx(1 - 4 / 24)
    assert found.by_digits == (0.5, 0.0, 1.0)


def test_an_untrained_network_writes_nothing_right(parts):
    made = captions.compose(parts["test"], 30, np.random.default_rng(1))
    written = captions.write(captions.network(0), made.images, 1)
    assert captions.score(written, made).exact == 0
