"""reactionrnn: the numbers of its README."""

import numpy as np
import pytest

import emotions
from fastrnn import weights

pytestmark = pytest.mark.network


def test_the_program_is_content(run_example):
    assert run_example("emotions").startswith("right: 25 of 25 shares")


def test_shares_are_the_published_ones():
    found = emotions.load()(list(emotions.PUBLISHED))
    np.testing.assert_allclose(found, list(emotions.PUBLISHED.values()), rtol=0, atol=0.5e-4)
    # The same README prints those of the first text once more, to eight decimals.
    np.testing.assert_allclose(found[0, :2], [0.97649449, 0.02350551], rtol=0, atol=1e-6)


def test_a_text_alone_or_in_a_batch_is_the_same():
    network, texts = emotions.load(), list(emotions.PUBLISHED)
    np.testing.assert_allclose(
        np.concatenate([network([text]) for text in texts]), network(texts), rtol=0, atol=1e-6
    )


def test_only_the_last_140_characters_that_are_known_count():
    network = emotions.load()
    assert (network(["No! " * 9 + "a" * 70 + "𓀀" + "a" * 70]) == network(["a" * 140])).all()
    assert (network(["No! " + "a" * 136]) != network(["a" * 140])).any()


def test_with_other_activations_the_shares_are_others(monkeypatch):
    """What the file does not say makes a difference: the test above can fail."""
    load = weights.load
    monkeypatch.setattr(
        weights, "load", lambda path, options: load(path, options={"gate_activation": "sigmoid"})
    )
    found = emotions.load()(list(emotions.PUBLISHED))
    assert np.abs(found - list(emotions.PUBLISHED.values())).max() > 0.1
