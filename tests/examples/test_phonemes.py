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


def test_what_phonemes_hang_on_is_what_their_own_code_says(speakers):
    """A letter that is unknown, and the phonemes so far given, through g2p_en's GRU."""
    ours, theirs = speakers
    word = "physician"
    found, lost = ours.dependence(word)
    assert found == ours([word])[0]
    assert lost.shape == (len(found), len(word))

    def bits(letters):
        enc = (getattr(theirs, f"enc_{name}") for name in ("w_ih", "w_hh", "b_ih", "b_hh"))
        dec = [getattr(theirs, f"dec_{name}") for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
        h = theirs.gru(theirs.encode(letters), len(letters) + 1, *enc)[:, -1]
        for last, phoneme in zip([phonemes.START, *found], found, strict=False):
            h = theirs.grucell(theirs.dec_emb[[last]], h, *dec)
            z = (h @ theirs.fc_w.T + theirs.fc_b)[0].astype(float)
            yield (np.log(np.exp(z).sum()) - z[phoneme]) / np.log(2)

    known = np.array(list(bits(word)))
    for k in range(len(word)):
        expected = np.array(list(bits([*word[:k], "<unk>", *word[k + 1 :]]))) - known
        np.testing.assert_allclose(lost[:, k], expected, rtol=1e-3, atol=1e-4)
    assert lost[0].argmax() in (0, 1)  # F is ph,
    assert lost[-1].argmax() == 8  # N is n
