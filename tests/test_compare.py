"""The guard against slower commits: benchmarks/compare.py, on a repository of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROW = ["--backends", "numpy", "--only", "step: rnn 8/8/1/1", "--rounds", "5"]
# In front of a step of the reference.
PAUSE = "import time; time.sleep(0.002)"

pytestmark = pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / "benchmarks").is_dir(),
    reason="not in a checkout with git",
)


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess:
    names = ("AUTHOR", "COMMITTER")
    who = {f"GIT_{n}_{what}": "x@y" for n in names for what in ("NAME", "EMAIL")}
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **who},
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """Three commits: as we are here; slower; the same as that."""
    folder = tmp_path_factory.mktemp("compare") / "a repository"
    shutil.copytree(ROOT / "fastrnn", folder / "fastrnn", ignore=lambda _, names: {"__pycache__"})
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=lambda *_: {"results"})
    (folder / ".gitignore").write_text("build/\n__pycache__/\n*.so\n")
    assert run("git", "init", "-q", cwd=folder).returncode == 0
    cell = folder / "fastrnn" / "reference.py"
    head, found, rest = cell.read_text().partition("\ndef forward(")
    assert found
    signature, end, body = rest.partition('"""')
    texts = [cell.read_text(), f"{head}{found}{signature}{PAUSE}\n    {end}{body}"]
    texts.append(texts[-1] + "# the same\n")
    for text in texts:
        cell.write_text(text)
        for command in (["add", "-A"], ["commit", "-q", "-m", "a step"]):
            done = run("git", *command, cwd=folder)
            assert done.returncode == 0, done.stderr
    return folder


def compare(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return run(sys.executable, "benchmarks/compare.py", *arguments, cwd=folder)


def test_a_slower_commit_is_named(repository):
    done = compare(repository, "HEAD~2", "HEAD~1", *ROW)
    assert done.returncode == 1, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("step: rnn 8/8/1/1"))
    assert line.endswith("slower")
    assert not any((repository / "build" / "compare").iterdir())


def test_a_faster_commit_is_named(repository):
    done = compare(repository, "HEAD~1", "HEAD~2", *ROW)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("faster")


def test_commits_of_the_same_speed_are_not_named(repository):
    done = compare(repository, *ROW)  # the sleep takes the same time in both
    assert done.returncode == 0, done.stderr
    assert "slower" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-commit", *ROW], "no-such-commit"),
        (["--backends", "numpy,fortran"], "backends: expected"),
        (["--only", "no such row"], "only: expected"),
        (["--only", "character"], "expected at least one layer or cell"),
        (["--rounds", "1", "--only", "step"], "2 rounds"),
    ],
)
def test_mistakes_are_named_without_a_traceback(repository, arguments, words):
    done = compare(repository, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
