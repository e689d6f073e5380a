"""Captions of rows of digits: the rows, the words, the scores, and what is learnt."""

import numpy as np
import pytest

import captions
import mnist

pytestmark = pytest.mark.network


def test_the_program_is_content(run_example):
    assert run_example("captions").startswith("right: written to the letter: ")


@pytest.fixture(scope="module")
def parts():
    return captions.parts(seed=0)


@pytest.fixture(scope="module")
def writer(parts):
    """A network that has learnt a little: what it writes is often wrong."""
    found = captions.Writer(seed=3)
    found.learn(parts[0], parts[1], steps=40, every=20)
    return found


def test_no_digit_is_in_two_parts(parts):
    images = [{image.tobytes() for image in part.images[: len(part)]} for part in parts]
    assert [*map(len, images)] == [*map(len, parts)] == [3500, 500, 1000]
    assert not images[0] & images[1]
    assert not images[2] & (images[0] | images[1])
    everything, labels = mnist.digits()
    known = {image.tobytes(): label for image, label in zip(everything, labels, strict=True)}
    for part in parts:
        np.testing.assert_array_equal(np.bincount(part.labels), [len(part) // 10] * 10)
        assert [known[image.tobytes()] for image in part.images[:-1]] == part.labels.tolist()
        assert not part.images[captions.NONE].any()


def test_an_image_shows_its_digits_from_left_to_right(parts):
    part, generator = parts[0], np.random.default_rng(1)
    rows = np.array([[5, 2000, 3001], [7, 8, -1], [3499, -1, -1]])
    starts = set()
    for image, row in zip(
        part.show(np.tile(rows, (20, 1)), generator), np.tile(rows, (20, 1)), strict=True
    ):
        assert (image.shape, image.dtype) == ((1, 32, 92), "f4")
        digits = row[row >= 0]
        assert image.sum() == pytest.approx(part.images[digits].sum(), rel=1e-5)
        found = [
            x
            for x in range(9)
            if all(
                any(
                    np.array_equal(image[0, y : y + 28, x + 28 * k :][:, :28], part.images[digit])
                    for y in range(5)
                )
                for k, digit in enumerate(digits)
            )
        ]
        assert len(found) == 1
        starts.add(found[0])
    assert len(starts) > 4


def test_captions_are_words(parts):
    part = parts[0]
    digits = [int(np.flatnonzero(part.labels == label)[0]) for label in (7, 0, 3)]
    rows = np.array([digits, [digits[1], -1, -1], [digits[2], digits[0], -1]])
    assert part.captions(rows) == ["seven zero three", "zero", "three seven"]


def test_the_decoder_reads_what_it_should_have_written_before():
    read, right, lengths = captions.tokens(["one", "two six"])
    assert lengths.tolist() == [4, 8]
    assert read.shape == right.shape == (8, 2)
    for b, caption in enumerate(("one", "two six")):
        n = len(caption)
        assert read[0, b] == captions.START
        assert captions.text([read[1 : n + 1, b], right[:n, b]]) == [caption, caption]
        assert right[n, b] == captions.STOP
    assert captions.text([[captions.START]]) == ["?"]
    assert len("three seven eight") + 1 == captions.LONGEST


def test_rows_have_one_to_three_digits(parts):
    rows = captions.draw_rows(parts[1], 3000, np.random.default_rng(0))
    sizes = (rows != captions.NONE).sum(axis=1)
    assert all(
        (row[:n] >= 0).all() and (row[n:] == -1).all() for row, n in zip(rows, sizes, strict=True)
    )
    assert np.bincount(sizes, minlength=4)[1:].min() > 900
    assert np.unique(rows[:, 0]).size > 490
    held_out = captions.held_out(parts[1], np.random.default_rng(0))
    assert {n: rows.shape for n, rows in held_out.items()} == {n: (500, n) for n in (1, 2, 3)}
    for column in (column for rows in held_out.values() for column in rows.T):
        assert sorted(column.tolist()) == list(range(500))


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [
        ("", "", 0),
        ("six", "six", 0),
        ("", "one", 3),
        ("one", "", 3),
        ("kitten", "sitting", 3),  # k to s, e to i, g
        ("nine", "five", 2),
        ("one", "nine", 2),  # ni for o
        ("four", "four four", 5),
        ("seven two", "two", 6),
        ("ab", "ba", 2),  # no letters change places
        ("flaw", "lawn", 2),  # f out, n in
    ],
)
def test_distances_are_those_counted_by_hand(a, b, edits):
    assert captions.distance(a, b) == captions.distance(b, a) == edits


def test_scores_count_captions_and_letters():
    wanted, found = ["one", "six", "four"], ["one", "sex", "fourteen"]
    assert captions.exact(wanted, found) == pytest.approx(1 / 3)
    assert captions.per_character(wanted, found) == pytest.approx(1 - (0 + 1 + 4) / (3 + 3 + 8))
    assert captions.per_character(wanted, wanted) == 1
    assert captions.per_character(["one"], ["xxxxxx"]) == 0


def test_the_most_frequent_captions_have_their_numbers_of_digits(parts):
    labels = np.array([4, 4, 4, 4, 4, 4, 4, 4, 4, 9])
    part = captions.Part(np.zeros((11, 28, 28), np.float32), labels)
    found = captions.most_frequent(part, np.random.default_rng(0))
    assert found == {1: "four", 2: "four four", 3: "four four four"}


def test_the_loss_is_that_of_the_right_letters(parts):
    """Of each caption alone, letter by letter; nothing counts that follows an end."""
    writer = captions.Writer(seed=3)
    writer.model.encoder.layers[-2].p = 0.0
    rows = captions.draw_rows(parts[0], 8, np.random.default_rng(2))
    loss, _ = writer.gradients(parts[0], rows, np.random.default_rng(5))
    nats = []
    images = parts[0].show(rows, np.random.default_rng(5))
    for image, caption in zip(images, parts[0].captions(rows), strict=True):
        probabilities = writer.probabilities(image, caption)
        right = [*map(captions.LETTERS.index, caption), captions.STOP]
        nats += [-np.log(probabilities[t, k]) for t, k in enumerate(right)]
    assert loss == pytest.approx(np.mean(nats), rel=1e-5)


def test_gradients_are_those_of_the_loss(parts):
    """Along the gradient of each part: there the difference is largest, and float32 will do."""
    writer = captions.Writer(seed=3)
    writer.model.encoder.layers[-2].p = 0.0
    rows = captions.draw_rows(parts[0], 8, np.random.default_rng(2))

    def run():
        return writer.gradients(parts[0], rows, np.random.default_rng(5))

    _, gradients = run()
    for name in ("encoder", "decoder"):
        found = {key: array for key, array in gradients.items() if key.startswith(name)}
        norm = np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in found.values()))
        step, losses = 1e-2, []
        for sign in (1, -2, 1):
            for key, gradient in found.items():
                writer.model.parameters[key] += np.float32(sign * step / norm) * gradient
            losses.append(run()[0])
        assert norm > 1e-3
        np.testing.assert_allclose((losses[0] - losses[1]) / (2 * step), norm, rtol=1e-2)


def test_greedy_writing_takes_the_most_probable_letter_each_time(parts, writer):
    """Against reading the caption so far from its beginning, for every letter."""
    rows = captions.draw_rows(parts[1], 20, np.random.default_rng(0))
    images = parts[1].show(rows, np.random.default_rng(1))
    for image, found in zip(images, writer.write(images, 1), strict=True):
        probabilities = writer.probabilities(image, found)
        expected = [captions.LETTERS.index(letter) for letter in found]
        if len(found) < captions.LONGEST:
            expected.append(captions.STOP)
        assert probabilities[: len(expected)].argmax(axis=1).tolist() == expected


def test_a_beam_finds_captions_of_greater_probability(parts, writer):
    """In all: a beam may lose what greedy decoding finds, most of all before much is learnt."""
    rows = captions.draw_rows(parts[1], 60, np.random.default_rng(0))
    images = parts[1].show(rows, np.random.default_rng(1))

    def log_probability(image, caption):
        ps = writer.probabilities(image, caption)
        right = [*map(captions.LETTERS.index, caption), captions.STOP]
        return np.log(ps[np.arange(len(right)), right]).sum()

    greedy, beam = (
        np.array([*map(log_probability, images, writer.write(images, width))])
        for width in (1, captions.WIDTH)
    )
    assert (beam >= greedy - 1e-4).mean() > 0.5
    assert beam.sum() > greedy.sum()


def test_a_seed_says_what_is_learnt(parts):
    def learnt(seed):
        found = captions.Writer(seed)
        at, curves = found.learn(parts[0], parts[1], steps=4, every=2)
        assert at == [2, 4]
        assert [*map(len, curves.values())] == [2, 2]
        return found.model.parameters

    first, again, other = learnt(0), learnt(0), learnt(1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)
