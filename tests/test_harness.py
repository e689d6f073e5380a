"""What all examples share; the examples themselves are tried by `make test-examples`."""

import sys
import time

import numpy as np
import pytest

import fastrnn
import harness
from fetch import FetchError


def run(monkeypatch, example, *arguments):
    monkeypatch.setattr(sys, "argv", ["example.py", *arguments])
    with pytest.raises(SystemExit) as end:
        harness.main(example, "About.")
    return end.value.code


@pytest.mark.parametrize(("right", "code", "word"), [(True, 0, "right"), (False, 1, "WRONG")])
def test_what_is_found_is_printed_and_decides(monkeypatch, capsys, right, code, word):
    given = []

    def example(quick, seed):
        given.append((quick, seed))
        return harness.Outcome("so it is", right, [("a", "b"), ("long", "c")])

    assert run(monkeypatch, example, "--quick", "--seed", "3") == code
    assert run(monkeypatch, example) == code
    assert given == [(True, 3), (False, 0)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["a     b", "long  c", f"{word}: so it is"]
    assert lines[3].startswith(f"backend {fastrnn.info()['backend']}")


def test_what_goes_wrong_is_one_line(monkeypatch):
    def without_network(quick, seed):
        raise FetchError("thing: cannot download it")

    def without_package(quick, seed):
        import no_such_package  # noqa: F401 - it is not there

        raise AssertionError

    assert run(monkeypatch, without_network) == "thing: cannot download it"
    expected = "no_such_package is not installed: pip install 'fastrnn[examples]'"
    assert run(monkeypatch, without_package) == expected


def test_times_are_compared_on_as_many_threads_as_wanted():
    before = fastrnn.info()["threads"]
    seen = set()

    def ours():
        seen.add(fastrnn.info()["threads"])
        time.sleep(0.001)

    ratio = harness.compare(lambda: time.sleep(0.004), ours, quick=True, threads=1)
    assert seen == {1}
    assert fastrnn.info()["threads"] == before
    assert 2 < ratio.lower <= ratio.median <= ratio.upper < 6
    assert ratio.ours < ratio.theirs
    assert str(ratio) == f"{ratio.median:.1f} ({ratio.lower:.1f} to {ratio.upper:.1f})"


def test_a_picture_goes_where_it_is_wanted(monkeypatch, capsys, tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()

    def example(quick, seed):
        return harness.Outcome("drawn", True, picture=figure)

    path = tmp_path / "a b.png"
    assert run(monkeypatch, example, "--picture", str(path)) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"drawn: {path}\n" in capsys.readouterr().out
    nowhere = tmp_path / "nowhere" / "a.png"
    assert run(monkeypatch, example, "--picture", str(nowhere)).startswith("--picture: expected ")


def test_batches_take_every_row_once_an_epoch(capsys):
    def parts():
        generator = np.random.default_rng(3)
        return list(harness.batches(7, 3, 2, generator, "training"))

    found = parts()
    assert [len(part) for part in found] == [3, 3, 1] * 2
    first, second = np.concatenate(found[:3]), np.concatenate(found[3:])
    assert sorted(first) == sorted(second) == list(range(7))
    assert first.tolist() != second.tolist()
    assert all(map(np.array_equal, found, parts()))
    assert "100%  training\n" in capsys.readouterr().err


def test_a_split_tears_no_group_apart():
    generator = np.random.default_rng(0)
    groups = generator.integers(-50, 50, 1000) * 7
    found = harness.split(groups, (0.7, 0.1, 0.2), generator)
    assert np.array_equal(np.sort(np.concatenate(found)), np.arange(1000))
    seen = [set(groups[part].tolist()) for part in found]
    assert sum(map(len, seen)) == len(set().union(*seen)) == len(set(groups.tolist()))
    np.testing.assert_allclose([len(part) for part in found], [700, 100, 200], atol=30)
    again = harness.split(groups, (0.7, 0.1, 0.2), np.random.default_rng(1))
    assert [part.tolist() for part in again] != [part.tolist() for part in found]


def test_a_split_of_nothing_has_empty_parts():
    found = harness.split(np.array([], int), (0.5, 0.5), np.random.default_rng(0))
    assert [part.tolist() for part in found] == [[], []]


def test_rows_are_padded_behind_their_ends():
    x, lengths = harness.padded([[3, 4], [], [5, 6, 7]])
    assert x.tolist() == [[3, 0, 5], [4, 0, 6], [0, 0, 7]]
    assert lengths.tolist() == [2, 0, 3]
    assert harness.padded([])[0].shape == (0, 0)


def test_a_learning_rate_cools_in_the_second_half():
    found = [harness.cooled(2.0, done) for done in (0.0, 0.5, 0.75, 1.0)]
    assert found == [2.0, 2.0, 1.0, 0.0]
