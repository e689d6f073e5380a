"""What all examples share; the examples themselves are tried by `make test-examples`."""

import sys
import time

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
