"""textgenrnn: it knows English."""

import numpy as np
import pytest

import characters

pytestmark = pytest.mark.network


def test_the_program_is_content(run_example):
    assert run_example("characters").startswith("right: ")


@pytest.fixture(scope="module")
def writer():
    return characters.load()


def test_prose_is_predicted(writer):
    text = characters.prose()[:3000]
    _, shares = characters.frequencies(text)
    assert -(shares @ np.log2(shares)) > 4.1
    assert writer.bits(text) < 2.5
    shuffled = "".join(np.random.default_rng(0).permutation(list(text)))
    assert writer.bits(shuffled) > 5


def test_what_it_writes_is_english(writer, dictionary):
    written = characters.words(writer.write("The ", 50, seed=1))
    in_dictionary = set(dictionary)
    assert len(written) > 500
    assert np.mean([word in in_dictionary for word in written]) > 0.95
    spelled_backwards = [word[::-1] in in_dictionary for word in written]
    assert np.mean(spelled_backwards) < 0.3


def test_a_seed_says_what_is_written(writer):
    assert writer.write("", 3, seed=2) == writer.write("", 3, seed=2)
    assert writer.write("", 3, seed=2) != writer.write("", 3, seed=3)


def test_what_is_drawn_is_what_is_measured(writer):
    text = "The quick brown fox jumps over the lazy dog. " * 20
    bits, p = writer.read(text, 300, 310)
    assert p.shape == (10, 465)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    for place, found in zip(range(300, 310), bits, strict=True):
        (expected,) = writer([text[:place][-characters.T :]])
        index = writer.vocabulary[text[place]]
        assert found == pytest.approx(-np.log2(expected[index] + characters.EPSILON), rel=1e-4)
    parts = [writer.read(text, start, start + 130)[0] for start in range(0, len(text), 130)]
    assert sum(map(len, parts)) == len(text)
    assert np.concatenate(parts).mean() == pytest.approx(writer.bits(text), rel=1e-4)
