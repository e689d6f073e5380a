"""Benchmarks: what is compared, how it is timed, what follows from the times, the command line."""

import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastrnn import dispatch
from fastrnn.bench import command, contenders, machine, measure, words
from fastrnn.bench.contenders import CONTENDERS, Contender
from fastrnn.bench.problem import Problem, RefusedError
from fastrnn.bench.results import Limits, Results, Row, Timing, changes
from fastrnn.bench.workloads import DEEPBENCH_CHOICE, SUITES, Workload, workloads
from fastrnn.cli import main
from interpreter import run_python

SMALL = {
    kind: Workload(suite="s", kind=kind, cell="lstm", I=3, H=4, B=2, T=1 if kind == "step" else 5)
    for kind in ("step", "inference", "training", "character")
}
PLAN = measure.Plan(threads=1, rounds=3, seconds=60.0)


def quiet(words: str) -> None:
    """Take no notice."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PAUSE", 0.0)
    monkeypatch.setattr(measure, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(measure, "WARM", 0.0)
    monkeypatch.setattr(measure, "TURN", 1e-4)


def test_workloads_are_told_apart_by_their_names() -> None:
    rows = list(workloads(4))
    names = [(row.suite, row.name) for row in rows]
    assert len(set(names)) == len(names)
    assert {row.suite for row in rows} == set(SUITES)
    assert {row.kind for row in rows} == set(SMALL)


def test_choice_is_from_the_lists() -> None:
    rows = [row for row in workloads(2) if row.suite == "deepbench"]
    common = [row for row in rows if not row.rare]
    assert len(common) == sum(map(len, DEEPBENCH_CHOICE.values()))
    # Counted in the lists that DeepBench publishes, of which one line is commented out.
    assert len([row for row in rows if row.kind == "training"]) == 12 + 16 + 3 + 3 + 15 + 3
    assert len([row for row in rows if row.kind == "inference"]) == 2 + 15 + 48 + 3 + 3


def test_quick_set_has_every_suite_but_those_of_others() -> None:
    quick = {row.suite for row in workloads(2) if row.quick}
    assert quick == set(SUITES) - {"deepbench", "ptb"}


def test_operations_and_bytes_of_a_workload() -> None:
    work = replace(SMALL["inference"], layers=2)
    # 4 gates of 4 units: 3 + 4 inputs in the first layer, 4 + 4 in the second.
    assert work.weights == 4 * 4 * (3 + 4) + 4 * 4 * (4 + 4)
    assert work.flop == 2 * 5 * 2 * work.weights
    assert replace(work, kind="training").flop == 3 * work.flop
    assert work.weight_bytes == 4 * 2 * (4 * 4 * 4)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_our_backends_agree_with_the_reference(cell: str, kind: str) -> None:
    work = replace(SMALL[kind], cell=cell)
    problem = Problem(work, 1)
    wanted = problem.reference()
    assert all(array.dtype == np.float64 for array in wanted)
    for contender in CONTENDERS:
        if contender.backend is not None and not contender.missing():
            timing, run = measure.check(contender, problem, wanted)
            assert (timing.status, timing.why) == ("timed", "")
            assert 0 < timing.error < 1e-5
            assert run is not None


def refuse(problem: Problem) -> None:
    raise RefusedError("no such thing")


def wrong(problem: Problem):
    run = problem.ours("numpy")
    return lambda: [array + 0.001 for array in run()]


def not_a_number(problem: Problem):
    run = problem.ours("numpy")
    return lambda: [array * np.nan for array in run()]


def misshapen(problem: Problem):
    run = problem.ours("numpy")
    return lambda: [array[:1] for array in run()]


def broken(problem: Problem) -> None:
    raise ZeroDivisionError("by\nzero")


@pytest.mark.parametrize(
    ("prepare", "modules", "status", "why"),
    [
        (refuse, (), "refused", "no such thing"),
        (wrong, (), "wrong", r"differs from the reference by \d\.\de-0\d"),
        (not_a_number, (), "wrong", "by nan"),
        (misshapen, (), "wrong", "by inf"),
        (broken, (), "failed", "ZeroDivisionError: by zero"),
        (refuse, ("no_such_module",), "missing", "not installed: no_such_module"),
    ],
)
def test_who_does_not_compute_it_gets_no_time(prepare, modules, status, why) -> None:
    peer = Contender("peer", "peer", prepare, modules)
    ours = next(c for c in CONTENDERS if c.backend == "numpy")
    row = measure.measure(SMALL["inference"], [ours, peer], PLAN, quiet)
    first, second = row.timings
    assert (first.status, len(first.seconds)) == ("timed", 3)
    assert (second.status, second.seconds) == (status, ())
    assert re.search(why, second.why)
    assert row.best_peer is None
    assert row.ratio() is None


def test_rounds_are_interleaved() -> None:
    """Nobody has two turns in a row, and all have equally many."""
    order: list[str] = []

    def run(name):
        def turn():
            order.append(name)
            return []

        return turn

    times = measure.interleave({name: run(name) for name in "abc"}, PLAN, quiet)
    assert {name: len(seconds) for name, seconds in times.items()} == dict.fromkeys("abc", 3)
    turns = [name for k, name in enumerate(order) if k == 0 or order[k - 1] != name]
    assert turns == list("abc") * 4  # once to see how long a call takes


@pytest.mark.parametrize("taken", [0.25, 2**-16])  # longer and shorter than a turn
def test_time_is_that_of_a_call(taken: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def call():
        nonlocal now
        now += taken
        return []

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now)
    assert measure.interleave({"a": call}, PLAN, quiet) == {"a": [taken] * 3}
    # Two rounds in any case, then no further one is begun when the time is over.
    short = replace(PLAN, seconds=taken)
    assert measure.interleave({"a": call}, short, quiet) == {"a": [taken] * 2}


def test_what_takes_very_long_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(measure, "TOO_LONG", 0.0)
    found = measure.interleave(
        {"a": lambda: calls.append(0) or []}, replace(PLAN, seconds=0.0), quiet
    )
    assert len(found["a"]) == 1
    assert len(calls) <= 2


def test_a_turn_begins_when_nobody_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def spin() -> None:
        end = time.perf_counter() + 0.2
        while time.perf_counter() < end:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    measure.wait_for_quiet()
    assert not thread.is_alive()
    start = time.perf_counter()
    measure.wait_for_quiet()
    assert time.perf_counter() - start < measure.LONGEST_PAUSE


def test_growth_of_the_process() -> None:
    # In a process of its own: this one may have free memory of other tests.
    code = """
import numpy as np
from fastrnn.bench import measure
grown = measure.Growth()
block = np.ones(1 << 23)
print(grown.bytes())
"""
    found = run_python(code)
    if found == "None\n":
        pytest.skip("the system does not tell")
    assert 0.9 * (1 << 26) < int(found) < 1.5 * (1 << 26)


def timing(name: str, *seconds: float, **more) -> Timing:
    return Timing(name, "timed", seconds=seconds, error=1e-7, **more)


def row(*timings: Timing, **more) -> Row:
    given = {
        "suite": "batch", "name": "n", "kind": "inference", "cell": "lstm",
        "sizes": {"I": 4, "H": 4, "B": 1, "T": 10, "layers": 1}, "threads": 2,
        "flop": 1e6, "weight_bytes": 4000.0,
    }  # fmt: skip
    return Row(**{**given, **more}, timings=timings)


def test_ratio_is_that_of_the_rounds() -> None:
    found = row(
        timing("fastrnn (c)", 1.0, 2.0, 4.0, 1.0, 1.0),
        timing("fastrnn (numba)", 0.1, 0.1, 0.1, 0.1, 0.1),
        timing("slow", 9.0, 9.0, 9.0, 9.0, 9.0),
        timing("peer", 2.0, 4.0, 8.0, 3.0, 1.0),
        Timing("absent", "missing", "not installed"),
    )
    assert found.ours is found.timings[0]  # the first of ours, not the fastest
    assert found.best_peer is found.timings[3]
    assert found.ratio() == (2.0, 2.0, 2.0)  # 2 2 2 3 1
    assert found.ratio(found.timings[2]) == (9.0, 4.5, 9.0)
    assert found.timings[0].median == 1.0
    assert found.timings[0].quartiles == (1.0, 2.0)
    assert found.timings[0].noisy
    assert not found.timings[1].noisy


def test_share_of_the_limit_that_applies() -> None:
    limits = Limits({1: 1e9, 2: 2e9}, {1024: 8e9, 4096: 4e9, 65536: 1e9})
    ours = timing("fastrnn (c)", 1e-3)
    # 1e6 operations at 2e9 a second: 0.5 ms; 10 times 2000 bytes at 4e9 a second: 5 µs.
    assert row(ours).share(ours, limits) == (pytest.approx(0.5), "compute")
    # 10 times 40,000 bytes at 1e9 a second: 0.4 ms against 5 µs of operations.
    large = row(ours, flop=1e4, weight_bytes=8e4)
    assert large.share(ours, limits) == (pytest.approx(0.4), "bandwidth")
    assert replace(large, kind="training").share(ours, limits)[0] == pytest.approx(1.2)
    # No cache has room for it: the largest array's rate.
    assert row(ours, flop=1.0, weight_bytes=1e6).share(ours, limits)[0] == pytest.approx(5.0)
    assert row(ours).share(ours, None) is None
    # What was not measured lies between one thread and all: 3 ms at 1e9 a second and thread.
    three = row(ours, threads=3, flop=9e6)
    more = Limits({1: 1e9, 8: 5e9}, limits.bandwidth)
    assert three.share(ours, more) == (pytest.approx(3.0), "compute")


def results(*rows: Row) -> Results:
    limits = Limits({1: 1e11, 2: 2e11}, {16384: 1e11})
    found = machine.Machine("a CPU", 2, 1 << 30, "Linux", "avx2", limits, {"Python": "3.11"})
    return Results("2026-01-02T03:04:05+00:00", {"set": "quick", "threads": 2}, found, list(rows))


def test_results_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    saved = results(row(timing("fastrnn (c)", 1.0, memory=7), Timing("p", "failed", "why")))
    saved.save(path)
    assert Results.load(path) == saved
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert results(row()).machine.limits == Results.load(path).machine.limits


def spoiled(text: str) -> list[str]:
    document = json.loads(text)
    return [
        "",
        "[]",
        text[:-10],
        json.dumps({**document, "format": "something else"}),
        json.dumps({**document, "version": 2}),
        json.dumps({**document, "rows": [{"suite": "x"}]}),
        json.dumps({k: v for k, v in document.items() if k != "machine"}),
    ]


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    results(row(timing("fastrnn (c)", 1.0))).save(path)
    for text in spoiled(path.read_text()):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"r\.json: no benchmark results"):
            Results.load(path)
        assert main(["bench", "--compare", str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_changes_beyond_the_noise() -> None:
    before = [row(timing("fastrnn (c)", 1.0, 1.0), timing("torch", 1.0, 1.0))]
    for seconds, verdict in ((1.04, ""), (1.2, "slower"), (0.8, "faster")):
        (change,) = changes(before, [row(timing("fastrnn (c)", seconds, seconds))])
        assert (change.verdict, change.ratio) == (verdict, pytest.approx(seconds))
    (noisy,) = changes(before, [row(timing("fastrnn (c)", 0.9, 1.5))])
    assert noisy.verdict == ""
    assert changes(before, [row(timing("fastrnn (c)", 1.0), name="another")]) == []


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.9994, "999 ms"), (12.3456, "12.3 s"), (0.00123456, "1.23 ms"), (1.5e-9, "1.50 ns")],
)
def test_times_in_words(seconds: float, written: str) -> None:
    assert words.seconds(seconds) == written


def test_limits_of_the_machine() -> None:
    if dispatch.isa() is None:
        pytest.skip("the C kernels are not built")
    found = machine.limits(2)
    assert set(found.flops) == {1, 2}
    assert 1e9 < found.flops[1] < 1e12
    assert list(found.bandwidth) == sorted(found.bandwidth)
    rates = list(found.bandwidth.values())
    assert rates == sorted(rates, reverse=True)
    assert 1e9 < min(rates) <= max(rates) < 1e13


def test_memory_that_is_read_is_there() -> None:
    """Pages that nobody has written to are one and the same, which stays in the nearest cache."""
    # In a process of its own, too.
    code = """
from fastrnn.bench import machine, measure
grown = measure.Growth()
data = machine._memory_to_read(1 << 26)
print(grown.bytes(), data.ctypes.data % machine.LINE)
"""
    found, rest = run_python(code).split()
    assert rest == "0"
    if found == "None":
        pytest.skip("the system does not tell")
    assert 0.9 * (1 << 26) < int(found) < 1.5 * (1 << 26)


def bench(*arguments: str) -> int:
    return main(["bench", "--rounds", "2", *arguments])


def test_bench_measures_saves_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.json"
    only = ("--only", "step: rnn 8/8/1/1", "--threads", "1")
    assert bench(*only, "--save", str(path)) == 0
    found = Results.load(path)
    assert [row.name for row in found.rows] == ["rnn 8/8/1/1"]
    names = {t.contender: t for t in found.rows[0].timings}
    assert names.keys() == {c.name for c in CONTENDERS}
    assert names["fastrnn (numpy)"].status == "timed"
    assert len(names["fastrnn (numpy)"].seconds) == 2
    assert found.settings["threads"] == 1
    output = capsys.readouterr()
    assert "step: rnn 8/8/1/1" in output.out
    assert "workloads in" in output.err
    assert bench(*only, "--compare", str(path)) == 0
    assert "noise" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "no such workload"], "only: expected a part of a workload's name"),
        (["--against", "torch,nobody"], "against: expected names from torch, ort, openvino"),
        (["--rounds", "1"], "rounds: expected at least 2, got 1"),
        (["--threads", "0"], "threads: expected at least 1, got 0"),
        (["--save", "/no/such/folder/r.json"], "save: expected a folder that can be written to"),
        (["--compare", "/no/such/file.json"], "/no/such/file.json: No such file"),
        (["--quick", "--full"], "not allowed with"),
    ],
)
def test_mistakes_are_one_line(arguments, words, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("fastrnn: ")
    assert words in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_interrupt_keeps_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, calls = tmp_path / "r.json", []

    def first_only(work: Workload, *arguments) -> Row:
        calls.append(work)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return measure.measure(work, *arguments)

    monkeypatch.setattr(command, "measure", first_only)
    assert bench("--only", "step: ", "--save", str(path)) == 130
    found = Results.load(path)
    assert not found.complete
    assert len(found.rows) == 1
    assert "Interrupted" in capsys.readouterr().out


def test_patterns() -> None:
    rows = list(workloads(2))
    names = lambda pattern: {r.suite for r in command.select(rows, pattern, full=False)}  # noqa: E731
    assert names("step: ") == {"step"}
    assert names("*lstm*8/32/1*") >= {"sequence", "long"}
    assert command.select(rows, None, full=True) == [r for r in rows if not r.rare]
    assert any(r.rare for r in command.select(rows, "deepbench", full=False))
    assert len(command.select(rows, None, full=False)) == sum(r.quick for r in rows)


def test_contenders_are_chosen_by_word() -> None:
    ours = [c.name for c in CONTENDERS if c.backend is not None]
    assert [c.name for c in contenders.choose("ort, torch")] == [
        *ours, "torch", "torch.compile", "ONNX Runtime",
    ]  # fmt: skip
    assert contenders.choose(None) == list(CONTENDERS)


def test_geometry_of_a_short_row() -> None:
    """One round: quartiles are the number itself."""
    single = row(timing("fastrnn (c)", 1.0), timing("peer", 3.0))
    assert single.ratio() == (3.0, 3.0, 3.0)
    assert math.isclose(single.timings[0].median, 1.0)


@pytest.mark.slow
def test_suites_run_on_pytest_benchmark(tmp_path: Path) -> None:
    """Its file has the times that were measured; who is not there is skipped by name."""
    path = tmp_path / "r.json"
    root = Path(__file__).parents[1]
    chosen = "numpy and step and not gru and not lstm"
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "--rounds", "3", "-k", chosen]
    done = subprocess.run(
        [*command, f"--benchmark-json={path}", "-p", "no:cacheprovider"],
        cwd=root,
        # Else it takes itself for one of several processes, and does not measure.
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {b["name"]: b for b in json.loads(path.read_text())["benchmarks"]}
    (numpy,) = (b for name, b in found.items() if "numpy" in name)
    assert numpy["group"] == "step: rnn 32/32/1/1"
    assert numpy["stats"]["rounds"] == 3
    assert 1e-6 < numpy["stats"]["median"] < 1e-2
    assert 0 < numpy["extra_info"]["error"] < 1e-5
