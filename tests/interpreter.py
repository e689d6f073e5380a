"""Programs in an interpreter of their own."""

import os
import subprocess
import sys
from pathlib import Path

import fastrnn

PACKAGE = Path(fastrnn.__file__).parent


def run_python(code: str, **environment: str) -> str:
    """Run a program in an interpreter of its own and return what it prints."""
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": path, "FASTRNN_BACKEND": ""} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout
