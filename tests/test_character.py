"""Text as indices, the network as a writer, and training."""

import math

import numpy as np
import pytest

from fastrnn.cells import CELLS
from fastrnn.character import Corpus, Options, Trainer, Vocabulary, sample, training
from fastrnn.character import text as texts
from fastrnn.character.model import build

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 40
SMALL = {"hidden": 24, "batch": 8, "window": 16, "lr": 0.02}


def trainer(text=TEXT, **options):
    options = Options(**(SMALL | options))
    return Trainer(Corpus.of(text, options.batch, options.window), options, "numpy")


# Text


def test_vocabulary_goes_there_and_back():
    vocabulary = Vocabulary.of("hello, wörld 😀")
    indices = vocabulary.encode("hello 😀")
    assert indices.dtype == np.uint8
    assert "".join(vocabulary.characters[i] for i in indices) == "hello 😀"
    assert vocabulary.characters == "\ufffd" + "".join(sorted(set("hello, wörld 😀")))


def test_characters_outside_share_index_zero():
    vocabulary = Vocabulary.of("ab")
    assert vocabulary.encode("axb\ufffd\udcff").tolist() == [1, 0, 2, 0, 0]
    assert vocabulary.unknown("xaxy\ufffd") == "xy"


def test_vocabulary_keeps_the_most_frequent_and_then_the_lowest():
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    vocabulary = Vocabulary.of(rare + "zz\ufffd\ufffd")
    assert vocabulary.characters == "\ufffdz" + rare[:254]
    assert len(vocabulary) == 256


@pytest.mark.parametrize("characters", ["", "a", "\ufffd", "a\ufffd", "\ufffdaa", "\ufffd" * 2])
def test_malformed_vocabulary_is_refused(characters):
    with pytest.raises(ValueError, match=r"^characters: expected "):
        Vocabulary(characters)


def test_streams_are_contiguous_and_shifted_by_one():
    inputs, targets = texts.streams(np.arange(12), 3)  # 11 targets: 3 streams of 3
    assert inputs.T.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert np.array_equal(targets, inputs + 1)


@pytest.mark.parametrize(("size", "held_out"), [(4000, 200), (100, 17)])
def test_the_end_is_held_out(size, held_out):
    text = "".join(chr(97 + n % 7) for n in range(size - 1)) + "!"
    corpus = Corpus.of(text, 2, 16)
    assert (len(corpus.train), len(corpus.held_out)) == (size - held_out, held_out)
    assert "!" not in corpus.vocabulary.characters  # it was never trained on
    assert corpus.held_out[-1] == 0
    assert corpus.digest != Corpus.of(text[:-1] + "a", 2, 16).digest


def test_shortest_text():
    shortest = 2 * 16 + 1 + 17
    assert Corpus.of("a" * shortest, 2, 16).train.size == 33
    with pytest.raises(ValueError, match=r"text: expected at least 33 characters .* got 49"):
        Corpus.of("a" * (shortest - 1), 2, 16)
    with pytest.raises(ValueError, match="empty text"):
        Corpus.of("", 2, 16)


def test_default_text_is_the_standard_library(tmp_path, monkeypatch):
    text = texts.standard_library()
    assert 2_000_000 < len(text) <= texts.STANDARD_LIBRARY_SIZE
    for name in ("a.py", "b.py", "test/c.py", "d/tests/e.py", "site-packages/f.py", "g.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    monkeypatch.setattr(texts.sysconfig, "get_path", lambda name: str(tmp_path))
    assert sorted(texts.standard_library().splitlines()) == ["# a.py", "# b.py"]
    assert texts.standard_library() == texts.standard_library()
    assert len(texts.standard_library(limit=10).splitlines()) == 1  # whole files only


def test_reading_a_file(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffzwölf\r\n".encode())
    assert texts.read(path) == "zwölf\n"
    path.write_bytes(b"zw\xf6lf")
    with pytest.raises(ValueError, match="expected UTF-8 text, got the byte 0xf6 at 2"):
        texts.read(path)


# Training


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cell", "transformer"),
        ("hidden", 0),
        ("layers", -1),
        ("batch", 0),
        ("window", 0),
        ("k2", 0),
        ("lr", math.nan),
        ("lr", 0.0),
        ("clip", math.inf),
        ("seed", -1),
    ],
)
def test_bad_options_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        Options(**{name: value})


def test_k2_is_the_window_unless_given():
    assert Options(window=10).k2 == 10
    assert Options(window=10, k2=30).k2 == 30


@pytest.mark.parametrize("cell", CELLS)
def test_a_repetitive_text_is_learned(cell):
    run = trainer(cell=cell)
    before = run.evaluate()
    blind = math.log2(len(run.corpus.vocabulary))
    assert abs(before - blind) < 1
    for progress in run.run(epochs=6):
        assert progress.loss == run.losses[progress.step - 1]
    assert progress.epoch == 6
    assert len(run.losses) == 6 * run.steps_per_epoch
    assert run.evaluate() < 0.5 * before


def test_first_loss_is_that_of_blind_guessing():
    run = trainer()
    progress = run.step()
    assert progress.loss == pytest.approx(math.log2(len(run.corpus.vocabulary)), rel=0.1)
    assert progress.characters == 8 * 16
    assert progress.norm > 0


def test_an_epoch_reads_every_stream_to_its_end():
    run = trainer(TEXT[:500])
    characters = [progress.characters for progress in run.run(epochs=1)]
    T = (len(run.corpus.train) - 1) // 8
    assert sum(characters) == 8 * T
    assert characters[0] > characters[-1]  # the last window is short


@pytest.mark.parametrize("at_most", [1, 65_536])
def test_bits_per_character_of_a_uniform_model_are_log2(monkeypatch, at_most):
    monkeypatch.setattr(training, "EVALUATE_AT_MOST", at_most)
    run = trainer(TEXT * 20)
    for array in run.model.parameters.values():
        array[...] = 0
    assert run.evaluate() == pytest.approx(math.log2(len(run.corpus.vocabulary)), rel=1e-6)


def test_evaluation_is_scheduled_by_steps(monkeypatch):
    monkeypatch.setattr(training, "EVALUATE_EVERY", 3)
    run = trainer()
    records = [run.step() for _ in range(7)]
    assert [r.step for r in records if r.held_out is not None] == [3, 6]
    assert run.held_out == [(r.step, r.held_out) for r in records if r.held_out is not None]


def test_evaluation_changes_nothing():
    run, other = trainer(), trainer()
    for _ in range(3):
        run.step()
        run.evaluate()
        other.step()
    assert_same(run.snapshot(), other.snapshot())


def test_replica_is_independent():
    run = trainer()
    run.step()
    before = run.snapshot()
    twin = run.replica()
    assert_same(twin.snapshot(), before)
    twin.step()
    run.warm_up()
    training.measure(run, repeats=2)
    assert_same(run.snapshot(), before)


def test_measured_backends_must_agree(monkeypatch):
    run = trainer()
    speed = training.measure(run, repeats=2)
    assert speed.step > 0
    assert speed.reference > 0
    healthy = run.replica

    def damaged(backend=None):
        twin = healthy(backend)
        if backend is None:
            twin.model.parameters["2.weight"][0] += 0.1
        return twin

    monkeypatch.setattr(run, "replica", damaged)
    with pytest.raises(ArithmeticError, match="expected the reference's"):
        training.measure(run, repeats=2)


def test_divergence_is_reported_and_changes_nothing():
    run = trainer(lr=1e38)
    run.step()
    before = {name: array.copy() for name, array in run.model.parameters.items()}
    with pytest.raises(FloatingPointError, match="a smaller lr may help"):
        run.step()
    assert_same(run.model.parameters, before)


def assert_same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert array.dtype == expected[name].dtype, name
        assert array.tobytes() == expected[name].tobytes(), name


# Writing


def write(temperature, seed=0, length=30, prompt="the q"):
    vocabulary = Vocabulary.of(TEXT)
    model = build(Options(**SMALL), vocabulary, "numpy")
    model.parameters["2.weight"] *= 20
    characters = sample(model, vocabulary, prompt, length, temperature=temperature, seed=seed)
    return "".join(characters)


def test_sampling_is_deterministic_under_a_seed():
    assert len(write(1.0)) == 30
    assert write(1.0) == write(1.0)
    assert write(1.0) != write(1.0, seed=1)
    assert write(1.0, length=0) == ""


def test_the_replacement_character_is_never_written():
    assert "\ufffd" not in write(1e9, length=500)  # all others are equally likely here


def test_temperature_zero_takes_the_likeliest():
    assert write(0.0) == write(0.0, seed=1)
    # Any gap between logits becomes infinite: the limit is the likeliest, without a warning.
    assert write(1e-320) == write(0.0)


def test_a_trained_model_writes_its_text():
    run = trainer()
    for _ in run.run(epochs=8):
        pass
    written = "".join(
        sample(run.model, run.corpus.vocabulary, "\nthe quick brown", 30, temperature=0)
    )
    assert written == " fox jumps over the lazy dog.\n"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("prompt", {"prompt": ""}),
        ("length", {"length": -1}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": math.nan}),
        ("seed", {"seed": -1}),
    ],
)
def test_bad_arguments_of_sampling_are_named_at_once(name, arguments):
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        write(**({"temperature": 1.0} | arguments))
