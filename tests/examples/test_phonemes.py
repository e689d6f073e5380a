"""g2p_en: the same phonemes as its own code."""

import numpy as np
import pytest

import phonemes

pytestmark = pytest.mark.network


def test_the_program_is_content(run_example):
    assert run_example("phonemes").startswith("right: 200 of 200 words")


@pytest.fixture(scope="module")
def speakers():
    return phonemes.load(), phonemes.original()


def test_words_of_a_dictionary_have_the_same_phonemes(speakers, dictionary):
    words = [word for word in dictionary if word.isascii() and word.isalpha()]
    chosen = np.random.default_rng(0).choice(words, 2000, replace=False).tolist()
    assert phonemes.disagreements(*speakers, chosen) == []


def test_unusual_words_have_the_same_phonemes(speakers):
    words = ["a", "x" * 60, "zyzzyva", "naïve", "o'clock", "co-op", "B", "日本", ""]
    assert phonemes.disagreements(*speakers, words) == []


def test_phonemes_are_names(speakers):
    ours, theirs = speakers
    (found,) = ours(["activationist"])
    names = "AE2 K T IH0 V EY1 SH AH0 N IH0 S T"
    assert [theirs.idx2p[index] for index in found] == names.split()
