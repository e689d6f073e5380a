"""The example of data-parallel training: two processes against one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import data_parallel
import fastrnn

pytestmark = pytest.mark.peers


def test_two_processes_train_like_one() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", data_parallel.__file__, "--quick"],
        env=os.environ | {"PYTHONPATH": str(Path(fastrnn.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert all("%  one process" in line for line in done.stderr.splitlines())
    assert done.returncode == 0
    assert done.stdout.startswith("right: 20 steps on 2 processes and on one")


def test_the_comparison_can_fail() -> None:
    """Half of the rows alone train something else."""
    rows, vocabulary = data_parallel.batches(3, 0)
    half = np.ascontiguousarray(rows[:, :, : data_parallel.B // 2])
    whole, part = (data_parallel.train(r, vocabulary, 0, parallel=False) for r in (rows, half))
    assert np.abs(whole["losses"][1:] / part["losses"][1:] - 1).min() > 1e-4
    assert np.abs(whole["lstm.weight_hh_l0"] - part["lstm.weight_hh_l0"]).max() > 1e-3
