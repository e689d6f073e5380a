"""vaderSentiment's sentences: what is read, how it is split, what is measured."""

import json

import numpy as np
import pytest

import fastrnn
import fetch
import sentiment

pytestmark = pytest.mark.network


def test_the_program_is_content(run_example):
    assert run_example("sentiment").startswith("right: on ")


@pytest.fixture(scope="module")
def sentences():
    return sentiment.load()


@pytest.fixture(scope="module")
def reader(sentences):
    return sentiment.Reader(sentences[np.arange(0, 23703, 60)], (12, 10), seed=4)


def test_every_sentence_is_read_once_with_the_mean_of_its_ratings(sentences):
    """The single ratings are in other files of the archive, the products' in another order.

    Of 199 tweets the rating that is published is not the mean of the single ones.
    """
    assert np.bincount(sentences.sources).tolist() == [4200, 10605, 3708, 5190]
    for k, (source, name) in enumerate(sentiment.SOURCES.items()):
        path = f"hutto_ICWSM_2014/{name}_anonDataRatings.txt"
        lines = fetch.read("vaderSentiment", sentiment.ARCHIVE, path).decode().splitlines()
        singles = [np.mean(json.loads(line.split("\t")[3])) for line in lines]
        found = sentences.ratings[sentences.sources == k]
        if source == "products":
            found, singles = np.sort(found), np.sort(singles)
        others = np.abs(found - singles) > 1e-6
        assert others.sum() == (199 if source == "tweets" else 0)
        assert np.corrcoef(found, singles)[0, 1] > 0.99


def test_what_belongs_together_is_in_one_part(sentences):
    parts = sentiment.parts(sentences, seed=0)
    assert sum(map(len, parts)) == len(sentences)
    for find in (lambda part: part.groups.tolist(), lambda part: map(bag, part.texts)):
        training, validation, test = (set(find(part)) for part in parts)
        assert not training & validation
        assert not test & (training | validation)
    for k in range(len(sentiment.SOURCES)):
        counts = np.array([(part.sources == k).sum() for part in parts])
        np.testing.assert_allclose(counts / counts.sum(), sentiment.SHARES, rtol=0, atol=0.015)


def bag(text):
    return frozenset(sentiment.words(text)) - set("!?.,:;-'\"()")


def test_near_duplicates_are_found():
    texts = [
        "Ugly anger wins nothing, never!",
        "ugly anger wins NOTHING",  # 4 of 5 words
        "A phone that works.",
        "Calm wins.",
        "a phone: that works!!",
        "",
    ]
    found = sentiment.related(texts, [0, 1, 2, 3, 4, 5])
    assert found[0] == found[1]
    assert found[2] == found[4]
    assert len(set(found)) == 4
    reviews = sentiment.related(texts, ["a", "b", "a", "c", "d", "c"])
    assert reviews[0] == reviews[1] == reviews[2] == reviews[4]
    assert reviews[3] == reviews[5] != reviews[0]


def test_words_marks_and_emoticons():
    assert sentiment.words("Don’t GO :-) at 10!!! <3") == [
        "don't",
        "go",
        ":-)",
        "at",
        *("10", "!!!", "<3"),
    ]


def test_a_rating_moves_along_a_sentence_as_if_it_ended_there(reader):
    text = "the phone is not good , but i like it a lot"
    found = reader.along(text)
    prefixes = [" ".join(text.split()[:n]) for n in range(1, 13)]
    np.testing.assert_allclose(found, reader(prefixes)[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[-1:], reader([text])[0], rtol=0, atol=1e-6)
    assert np.ptp(found) > 1e-4


def test_a_text_without_words_has_a_rating(reader):
    ratings, _ = reader(["", "a phone"])
    assert ratings[0] == reader.model.parameters["4.bias"][0]
    assert np.isfinite(ratings).all()


def test_the_gradient_is_that_of_the_loss():
    generator = np.random.default_rng(0)
    output, ratings = generator.normal(size=(5, 3)), np.array([1.5, -0.2, 0.0, 3.0, -2.0])

    def loss(y):
        signed = ratings != 0
        chances = np.exp(y[:, 1:]) / np.exp(y[:, 1:]).sum(axis=1, keepdims=True)
        right = chances[np.arange(5), (ratings > 0).astype(int)]
        return np.mean((y[:, 0] - ratings) ** 2) - 0.5 * np.mean(np.log(right[signed]))

    expected = np.empty_like(output)
    for index in np.ndindex(*output.shape):
        step = np.zeros_like(output)
        step[index] = 1e-6
        expected[index] = (loss(output + step) - loss(output - step)) / 2e-6
    np.testing.assert_allclose(sentiment.d_loss(output, ratings), expected, rtol=0, atol=1e-8)


def test_a_seed_says_what_is_learnt(sentences):
    some = sentences[np.arange(0, 23703, 100)]

    def learnt(seed):
        found = sentiment.Reader(some, (8, 8), seed)
        found.learn(2)
        return found.model.parameters

    first, again, other = learnt(0), learnt(0), learnt(1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_answers_are_measured():
    ratings = np.array([-2.0, -1.0, 0.0, 1.0, 4.0])
    rows = np.array([0, 1, 2, 3])
    found = sentiment.rated(np.array([-1.0, 1.0, 3.0, 1.0, -9.0]))
    r, error, sign = found.against(ratings, rows)
    # Deviations -1.5, -0.5, 0.5, 1.5 and -2, 0, 2, 0: 4 / sqrt(5 * 8).
    assert r == pytest.approx(4 / 40**0.5)
    assert error == 1.5
    assert sign == pytest.approx(2 / 3)  # a rating of 0 has none
    signs_alone = sentiment.Answers(None, found.positive).against(ratings, rows)
    assert np.isnan(signs_alone[:2]).all()
    assert signs_alone[2] == sign


def test_a_gain_is_found_where_there_is_one():
    generator = np.random.default_rng(0)
    ratings = generator.normal(size=400)
    close, far = (ratings + generator.normal(size=400) * noise for noise in (0.5, 2.0))
    low, high = sentiment.gain(close, far, ratings, 0)
    assert 0.2 < low < high < 0.7
    assert sentiment.gain(far, far, ratings, 0) == (0, 0)


def test_batches_of_texts_are_read_as_one_by_one(reader, sentences):
    """More than one batch; each sentence gets its own rating back."""
    texts = sentences.texts[:300]
    together, positive = reader(texts)
    assert fastrnn.ManyToOne is type(reader.model)
    alone = [reader([text]) for text in texts[::37]]
    np.testing.assert_allclose(together[::37], [r[0] for r, _ in alone], rtol=0, atol=1e-6)
    assert positive[::37].tolist() == [p[0] for _, p in alone]
