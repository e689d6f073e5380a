"""`fastrnn latency`: who may be timed, what a time is, the numbers, the picture, mistakes."""

import importlib
import json
import os
import struct
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastrnn.bench import measure as bench
from fastrnn.cli import main
from fastrnn.latency import command, measure, steppers
from fastrnn.latency.measure import Latencies
from fastrnn.latency.steppers import Contender, Stepper
from problems import BACKENDS

SIZES = 3, 5, 2  # I, H, B


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PAUSE", 0.0)
    monkeypatch.setattr(bench, "LONGEST_PAUSE", 0.0)


def idle(output: np.ndarray) -> Stepper:
    return Stepper(lambda: None, lambda: output)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("name", [*BACKENDS, "torch", "ONNX Runtime"])
@pytest.mark.parametrize("threads", [1, 2])
def test_who_is_right_may_be_timed(cell: str, name: str, threads: int) -> None:
    """All of them, with their state kept from step to step and the input read in place."""
    who = {c.backend or c.name: c for c in steppers.CONTENDERS}[name]
    if who.missing():
        pytest.skip(f"{name}: {who.missing()}")
    p = steppers.problem(cell, *SIZES, threads)
    chosen, why = steppers.choose(who, p, steppers.reference(p))
    assert chosen is not None, why
    assert chosen.output().shape == (2, 5)
    if who.backend is not None:
        assert chosen.step.func.__self__.threads == threads  # type: ignore[attr-defined]
    elif name == "torch":
        assert importlib.import_module("torch").get_num_threads() == threads


def test_who_is_wrong_may_not() -> None:
    p = steppers.problem("gru", *SIZES)
    wanted = steppers.reference(p)

    def broken(p: Any) -> list[Stepper]:
        raise RuntimeError("no such operator")

    zeros = Contender("zeros", lambda p: [idle(np.zeros((2, 5)))])
    assert steppers.choose(zeros, p, wanted) == (
        None,
        "differs from the reference by 1.0e+00",
    )
    chosen, why = steppers.choose(Contender("broken", broken), p, wanted)
    assert (chosen, why) == (None, "RuntimeError: no such operator")
    absent = Contender("absent", broken, ("no_such_module",))
    assert steppers.choose(absent, p, wanted) == (None, "not installed: no_such_module")
    with pytest.raises(RuntimeError):  # an error of ours is no reason to leave us out
        steppers.choose(Contender("ours", broken, backend="numpy"), p, wanted)


def test_faster_way_is_taken_of_those_that_are_right() -> None:
    p = steppers.problem("gru", *SIZES)
    outputs = steppers.reference(p)

    def replay(how: str, pause: float, scale: float) -> Stepper:
        taken = -1

        def step() -> None:
            nonlocal taken
            taken += 1
            time.sleep(pause)

        return Stepper(step, lambda: scale * outputs[taken], how)

    ways = [replay("slow", 1e-3, 1.0), replay("fast", 1e-4, 1.0), replay("wrong", 0.0, 1.1)]
    chosen, _ = steppers.choose(Contender("several", lambda p: ways), p, outputs)
    assert chosen is not None
    assert chosen.how == "fast"


def test_a_time_is_that_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the steps that warm up nor what comes between two steps counts."""
    now, seen = 0, []
    x = np.zeros((1, 1), np.float32)

    def clock() -> int:
        nonlocal now
        now += 1
        return now

    def step() -> None:
        nonlocal now
        seen.append(x[0, 0])
        now += 100 * len(seen)

    monkeypatch.setattr(time, "perf_counter_ns", clock)
    monkeypatch.setattr(measure, "WARM", 3)
    given = np.arange(7, dtype=np.float32).reshape(7, 1, 1)
    times = measure.turn(Stepper(step, lambda: x), x, given, 5)
    assert times.tolist() == [401, 501, 601, 701, 801]
    assert seen == [4, 5, 6, 0, 1, 2, 3, 4]


def test_context_of_a_contender_is_entered() -> None:
    inside = []

    @contextmanager
    def around() -> Any:
        inside.append("in")
        yield
        inside.append("out")

    step = Stepper(lambda: inside.append("step"), lambda: np.zeros(1), "", around)
    measure.turn(step, np.zeros((1, 1)), np.zeros((1, 1, 1)), 1)
    assert inside == ["in", "step", "step", "out"]


def test_quantiles_and_shares() -> None:
    rng = np.random.default_rng(0)
    times = rng.permutation(np.arange(1, 1001)) * 10
    row = Latencies("a", "quiet", "", [times[:300], times[300:]])
    assert row.count == 1000
    assert row.quantiles() == {"p50": 5000, "p90": 9000, "p99": 9900, "p99.9": 9990, "max": 10000}
    found, share = row.slower()
    for t, s in zip(found[::97], share[::97], strict=True):
        assert s == pytest.approx(np.mean(times > t))
    few = Latencies("a", "quiet", "", [np.array([7, 7, 9])])
    assert few.quantiles() == {"p50": 7, "p90": 9, "p99": 9, "p99.9": 9, "max": 9}


def test_turns_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, counts = [], []

    def turn(stepper: Stepper, x: Any, samples: Any, steps: int) -> np.ndarray:
        turns.append((stepper.how, steps))
        return np.full(steps, len(turns))

    @contextmanager
    def beside(count: int) -> Any:
        counts.append(count)
        yield

    monkeypatch.setattr(measure, "turn", turn)
    monkeypatch.setattr(measure, "beside", beside)
    who = {name: Stepper(lambda: None, lambda: np.zeros(1), name) for name in "ab"}
    x = np.zeros((1, 1))
    conditions = {"quiet": 0, "busy": 3}
    shown: list[float] = []
    found, complete = measure.measure(
        who, x, x[None], (7, 2), conditions, lambda done, words: shown.append(done)
    )
    assert complete
    assert counts == [0, 3, 0, 3]
    assert turns == [("a", 3), ("b", 3)] * 2 + [("a", 4), ("b", 4)] * 2
    assert [(row.contender, row.condition) for row in found] == [
        ("a", "quiet"), ("b", "quiet"), ("a", "busy"), ("b", "busy"),
    ]  # fmt: skip
    assert [[int(block[0]) for block in row.blocks] for row in found] == [
        [1, 5], [2, 6], [3, 7], [4, 8],
    ]  # fmt: skip
    assert shown == sorted(shown)
    assert shown[-1] == 1.0


def test_neighbours_are_busy_and_go_away(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def start(*args: Any, **options: Any) -> Any:
        started.append(original(*args, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0

    def used(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    def interrupted() -> None:
        with measure.beside(2):
            assert [process.poll() for process in started] == [None, None]
            deadline = time.monotonic() + 60
            while Path("/proc/self/stat").exists() and min(used(p.pid) for p in started) < 0.1:
                assert time.monotonic() < deadline, "a neighbour does nothing"
                time.sleep(0.02)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(started) == 2
    assert None not in [process.poll() for process in started]


def test_neighbours_leave_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, threads, count in ((1, 1, 1), (2, 1, 1), (2, 2, 1), (8, 1, 7), (8, 3, 5)):
        monkeypatch.setattr(measure, "processors", lambda n=processors: n)
        assert measure.neighbours(threads) == count


def latency(*arguments: str) -> int:
    return main(["latency", "--steps", "1000", *arguments])


def test_command_measures_draws_and_saves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, saved = tmp_path / "l.png", tmp_path / "l.json"
    sizes = ["--input", "3", "--hidden", "5", "--batch", "2", "--threads", "2"]
    options = ["--cell", "gru", *sizes, "--busy"]
    files = ["--out", str(picture), "--save", str(saved)]
    assert latency(*options, *files, "--backend", "numpy") == 0
    output = capsys.readouterr()
    assert "1,000 steps each" in output.err
    title = "gru 3/5, 2 rows, 2 threads"
    for words in (title, "p99.9/p50", "fastrnn (numpy)", "\nquiet ", "\nbusy "):
        assert words in output.out
    assert "fastrnn (c)" not in output.out
    for contender in steppers.CONTENDERS:
        if contender.backend is None and contender.missing():
            assert f"left out: {contender.missing()}" in output.out
    png = picture.read_bytes()
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) > (800, 400)
    document = json.loads(saved.read_text())
    assert document["complete"]
    assert document["settings"]["hidden"] == 5
    assert document["settings"]["threads"] == 2
    assert document["neighbours"] >= 1
    rows = {(row["contender"], row["condition"]): row for row in document["rows"]}
    for condition in ("quiet", "busy"):
        row = rows["fastrnn (numpy)", condition]
        assert sum(row["steps"]) == 1000
        assert row["quantiles"]["max"] == row["nanoseconds"][-1]
        # A step in Python takes longer than two readings of a clock.
        assert row["quantiles"]["p50"] > rows[steppers.CLOCK, condition]["quantiles"]["p50"]


@pytest.mark.parametrize("after", [0, 4])
def test_interrupt_keeps_whole_rounds(
    after: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two contenders take turns: the third round is cut short."""
    original, turns = measure.turn, []

    def turn(*arguments: Any) -> np.ndarray:
        turns.append(arguments)
        if len(turns) > after:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(measure, "turn", turn)
    rows = [c for c in steppers.CONTENDERS if c.backend == "numpy"]
    monkeypatch.setattr(steppers, "CONTENDERS", rows)
    saved = tmp_path / "l.json"
    assert latency("--backend", "numpy", "--save", str(saved)) == 130
    out = capsys.readouterr().out
    assert "Interrupted" in out
    if not after:
        assert not saved.exists()
        return
    document = json.loads(saved.read_text())
    assert not document["complete"]
    assert [sum(row["steps"]) for row in document["rows"]] == [200, 200]
    assert "200 of lstm" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cell", "elman"], "cell: expected one of 'rnn', 'gru', 'lstm', got 'elman'"),
        (["--hidden", "0"], "hidden: expected at least 1, got 0"),
        (["--input", "two"], "--input: expected a whole number, got 'two'"),
        (["--batch", "-1"], "batch: expected at least 1, got -1"),
        (["--threads", "0"], "threads: expected at least 1, got 0"),
        (["--steps", "999"], "steps: expected at least 1,000, got 999"),
        (["--backend", "cuda"], "backend: expected one of "),
        (["--out", "picture.svg"], "out: expected a name that ends in .png, got 'picture.svg'"),
        (["--out", "/no/such/folder/l.png"], "out: expected a folder that can be written to"),
        (["--save", "/no/such/folder/l.json"], "save: expected a folder that can be written to"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert latency(*arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith("fastrnn: ")
    assert words in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_quick_takes_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def nothing(args: Any, steps: int, who: Any) -> Any:
        asked.append(steps)
        return [], False

    monkeypatch.setattr(command, "_measure", nothing)
    for arguments in ([], ["--quick"], ["--quick", "--steps", "5000"]):
        assert main(["latency", *arguments]) == 130
    assert asked == [1_000_000, 20_000, 5000]
