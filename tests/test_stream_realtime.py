"""A step in C neither allocates nor locks, calls the system or touches a page for the first time.

tests/native/realtime.c takes the steps and watches them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILER = os.environ.get("CC", "cc").split()[0]
NO_SECCOMP = 77  # the program's exit code where the system has none

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="counts as Linux does"),
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason="there is no C compiler"),
]


@pytest.fixture(scope="module")
def program() -> Path:
    """The program, compiled where that was not done before."""
    out = Path("build/plain/realtime")
    make = ["make", "-s", "-j2", "-f", "tests/native/Makefile", str(out)]
    subprocess.run([*make, f"CC={os.environ.get('CC', 'cc')}"], cwd=ROOT, check=True)
    return ROOT / out


def run(program: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode == NO_SECCOMP:
        pytest.skip(done.stdout.strip())
    return done.returncode, done.stdout


def test_steps_ask_nobody_for_anything(program: Path) -> None:
    assert run(program) == (0, "kept\n")


@pytest.mark.parametrize(
    ("offence", "words"),
    [
        ("allocate", "4000 calls, 0 page faults, no system call"),  # malloc and free
        ("lock", "2000 calls, 0 page faults, no system call"),
        ("fault", "0 calls, 2000 page faults, no system call"),
        ("call", "0 calls, 0 page faults, a system call"),
    ],
)
def test_an_offence_is_seen(program: Path, offence: str, words: str) -> None:
    code, output = run(program, offence)
    assert code == 1
    assert output.strip().endswith(words)
