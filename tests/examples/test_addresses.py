"""usaddress: a network that tags words, and what it is compared with."""

import numpy as np
import pytest

import addresses
import fastrnn

pytestmark = pytest.mark.network


def test_the_program_is_content(run_example):
    assert run_example("addresses").startswith("right: the GRU tags ")


@pytest.fixture(scope="module")
def everything():
    return addresses.load()


@pytest.fixture(scope="module")
def tagger(everything):
    return addresses.Tagger(everything[:60], seed=3)


def test_every_address_is_read(everything):
    assert len(everything) == 1513
    assert len({tag for address in everything for tag in address.tags}) == 29
    first = everything[0]
    assert " ".join(first.words) == "8128 S. DR MARTIN LUTHER KING JR Drive"
    assert first.tags[:3] == ("AddressNumber", "StreetNamePreDirectional", "StreetName")
    assert all(word and not word[0].isspace() for address in everything for word in address.words)


def test_equal_addresses_are_in_one_part(everything):
    parts = addresses.parts(everything, seed=0)
    assert sum(map(len, parts)) == len(everything)
    texts = [{" ".join(map(addresses.core, a.words)) for a in part} for part in parts]
    assert not texts[0] & texts[1]
    assert not texts[2] & (texts[0] | texts[1])
    np.testing.assert_allclose(np.array([*map(len, parts)]) / 1513, addresses.SHARES, atol=0.01)


def test_shapes_and_cores():
    found = {word: (addresses.core(word), addresses.shape(word)) for word in ("St.,", "60602-12")}
    assert found == {"St.,": ("st", "Aa.,"), "60602-12": ("6060212", "00-00")}


@pytest.mark.parametrize("part", ["word", "letters", "tags"])
def test_gradients_are_those_of_the_loss(everything, part):
    """Along the gradient of each part: there the difference is largest, and float32 will do."""
    tagger = addresses.Tagger(everything[:60], seed=3)
    for layer in tagger.tags.layers:
        if isinstance(layer, fastrnn.Dropout):
            layer.p = 0.0
    some = everything[10:14]
    given = tagger.numbers(some)
    y = np.zeros(given[0].shape, int)
    for b, address in enumerate(some):
        y[: len(address), b] = [tagger.names.index(tag) for tag in address.tags]
    weights = (np.arange(len(y))[:, np.newaxis] < given[1]).astype(np.float32)

    def loss():
        return fastrnn.softmax_cross_entropy(tagger.scores(*given), y, weights=weights)[0]

    found = {k: v for k, v in tagger.gradients(*given, y).items() if k.startswith(f"{part}.")}
    norm = np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in found.values()))
    step, losses = 1e-2, []
    for sign in (1, -2):
        for name, gradient in found.items():
            tagger.parameters[name] += np.float32(sign * step / norm) * gradient
        losses.append(loss())
    assert norm > 1e-3
    np.testing.assert_allclose((losses[0] - losses[1]) / (2 * step), norm, rtol=1e-3)


def test_an_address_alone_or_in_a_batch_has_the_same_scores(everything, tagger):
    some = everything[:20]
    together = tagger.scores(*tagger.numbers(some))
    for b, address in enumerate(some):
        alone = tagger.scores(*tagger.numbers([address]))
        np.testing.assert_allclose(alone[:, 0], together[: len(address), b], rtol=0, atol=1e-6)


def test_a_seed_says_what_is_learnt(everything):
    def learnt(seed):
        found = addresses.Tagger(everything[:60], seed)
        assert list(found.learn(2)) == [1, 2]
        return found.parameters

    first, again, other = learnt(0), learnt(0), learnt(1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_the_most_frequent_tag_is_that_of_the_word_or_its_shape():
    training = [
        addresses.Address(("12", "Main", "St"), ("N", "S", "T")),
        addresses.Address(("Main", "St", "main"), ("S", "T", "P")),
        addresses.Address(("7", "MAIN,"), ("N", "S")),
    ]
    given = addresses.Address(("99", "main", "Elm", "?"), ("",) * 4)
    # 99 has the shape of 12, Elm that of Main (S), and ? none: S is the most frequent of all.
    assert addresses.most_frequent(training)([given]) == [("N", "S", "S", "S")]


def test_scores_count_words_and_addresses():
    given = [addresses.Address(("a", "b"), ("X", "Y")), addresses.Address(("c",), ("X",))]
    share, whole = addresses.score(given, [("X", "X"), ("X",)])
    assert share == pytest.approx(2 / 3)
    assert whole.tolist() == [False, True]
