"""Steps of a stream that are taken by compiled code: through addresses, from Numba, from C.

And that none of them allocates, locks, calls the system or touches a page for the first time:
tests/native/realtime.c takes them and watches.
"""

import ctypes
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from problems import BACKENDS

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "native" / "step.c"
T, B, I = 23, 3, 2

pytestmark = pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")

COMPILER = os.environ.get("CC", "cc")  # of what the Makefile makes; the example asks for cc
NO_SECCOMP = 77  # the exit code of realtime where the system has none
needs_make = pytest.mark.skipif(
    not all(shutil.which(program) for program in ("make", "cc", COMPILER.split()[0])),
    reason="there is no make, or no C compiler",
)


def functions(stream: fastrnn.Stream) -> tuple[Any, Any]:
    """A stream's step and push, of arrays, as a stranger would call them."""
    native = stream.native()
    pointer = ctypes.c_void_p
    step = ctypes.CFUNCTYPE(None, *[pointer] * 3)(native.step)
    push = ctypes.CFUNCTYPE(None, *[pointer] * 3, ctypes.c_int64)(native.push)

    def step_arrays(x: np.ndarray, y: np.ndarray) -> None:
        step(native.stream, x.ctypes.data, y.ctypes.data)

    def push_arrays(x: np.ndarray, y: np.ndarray) -> None:
        push(native.stream, x.ctypes.data, y.ctypes.data, len(x))

    return step_arrays, push_arrays


def make(dtype: str = "float32") -> fastrnn.Sequential:
    return fastrnn.Sequential(
        fastrnn.LSTM(I, 9, 2, dtype=dtype, seed=1, backend="c"),
        fastrnn.Linear(9, 4, dtype=dtype, seed=2),
        fastrnn.Tanh(),
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_by_address_are_steps(dtype: str) -> None:
    """They and those from Python go on from each other, and have the same bits."""
    model = make(dtype)
    x = np.random.default_rng(0).standard_normal((T, B, I)).astype(dtype)
    expected = fastrnn.Stream(model, B).push(x)
    stream = fastrnn.Stream(model, B)
    step, push = functions(stream)
    y = np.full((T, B, 4), np.nan, dtype)
    for k in range(5):
        step(x[k], y[k])
    y[5] = stream.step(x[5])
    push(x[6:20], y[6:20])
    y[20:] = stream.push(x[20:])
    np.testing.assert_array_equal(y, expected, strict=True)
    stream.reset()
    step(x[0], y[1])
    np.testing.assert_array_equal(y[1], expected[0])


def test_addresses_after_a_refresh_are_those_of_the_new_parameters() -> None:
    model = make()
    stream = fastrnn.Stream(model, B)
    model.layers[1].parameters["bias"] += 1
    stream.refresh()
    x, y = np.ones((B, I), np.float32), np.empty((B, 4), np.float32)
    functions(stream)[0](x, y)
    np.testing.assert_array_equal(y, fastrnn.Stream(model, B).step(x))


# -- Numba ----------------------------------------------------------------------------------------


def test_numba_example(capsys: pytest.CaptureFixture[str]) -> None:
    """Its loop is the one in Python, to the bit, though each has a stream of its own."""
    pytest.importorskip("numba")
    example = importlib.import_module("numba_stream")
    signal = np.random.default_rng(1).standard_normal(500).astype(np.float32)
    found = example.compiled(example.make())(signal)
    np.testing.assert_array_equal(found, example.plain(example.make())(signal), strict=True)
    # The gain feeds back: a sequence call computes something else.
    assert np.abs(found - example.make().push(signal[:, None, None])[:, 0, 0]).max() > 1e-3
    assert example.main() == 0
    assert "the same to the bit" in capsys.readouterr().out


# -- C --------------------------------------------------------------------------------------------


def commands(text: str) -> list[str]:
    """The two lines that compile the library and the program."""
    found = re.findall(r"^(?://  )? *(cc .*)$", text, re.MULTILINE)
    assert len(found) == 2
    return found


def test_page_and_program_say_the_same() -> None:
    page = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
    assert commands(page) == commands(EXAMPLE.read_text())


def compile_(*targets: str) -> None:
    """Compile the kernels, or a program with them, where that was not done before."""
    command = ["make", "-s", "-j2", "-f", "tests/native/Makefile", f"CC={COMPILER}", *targets]
    subprocess.run(command, cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, made as its comment says, but of sources that other tests have compiled, too."""
    folder = tmp_path_factory.mktemp("native")
    compile_("objects")
    sources = sorted(path.relative_to(ROOT) for path in (ROOT / "csrc").rglob("*.c"))
    objects = " ".join(f"build/plain/{path.with_suffix('.o')}" for path in sources)
    for command in commands(EXAMPLE.read_text()):
        line = command.replace(" build/", f" {folder}/").replace("csrc/*.c csrc/isa/*.c", objects)
        subprocess.run(
            ["sh", "-c", f"{line} -Wall -Wextra -Wno-psabi -Werror"], cwd=ROOT, check=True
        )
    return folder / "step"


def run(program: Path, *arguments: str | Path) -> tuple[int, bytes, str]:
    done = subprocess.run([program, *arguments], capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.slow
@needs_make
@pytest.mark.skipif(sys.platform == "win32", reason="commands of a POSIX shell")
def test_c_example(example: Path, tmp_path: Path) -> None:
    """It puts out what Python's stream does, to the bit, and refuses what is not for it."""
    gru, linear = fastrnn.GRU(1, 16, seed=1, backend="c"), fastrnn.Linear(16, 1, seed=2)
    model = fastrnn.Sequential(gru, linear)
    weights, signal, short = (tmp_path / name for name in ("weights", "signal", "short"))
    with weights.open("wb") as file:
        for array in model.parameters.values():
            array.tofile(file)
    short.write_bytes(weights.read_bytes()[:-4])
    x = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    x.tofile(signal)
    code, output, words = run(example, weights, signal)
    assert code == 0, words
    assert re.fullmatch(r"5000 steps, \d+\.\d{3} us each \(\w+\)\n", words)
    expected = fastrnn.Stream(model).push(x[:, None, None])[:, 0, 0]
    np.testing.assert_array_equal(np.frombuffer(output, np.float32), expected, strict=True)
    empty = tmp_path / "empty"
    empty.touch()
    assert run(example, weights, empty)[:2] == (0, b"")
    for files, why in (
        ([], "expected two files"),
        ([short, signal], "these are not the weights of a GRU(1, 16)"),
        ([weights, tmp_path / "absent"], "a file cannot be read"),
    ):
        code, output, words = run(example, *files)
        assert (code, output) == (1, b"")
        assert words.startswith(f"step: {why}")


# -- real time ------------------------------------------------------------------------------------

linux = pytest.mark.skipif(sys.platform != "linux", reason="counts as Linux does")


@pytest.fixture(scope="module")
def realtime() -> Path:
    program = "build/plain/realtime"
    compile_(program)
    return ROOT / program


def watch(realtime: Path, *arguments: str) -> tuple[int, str]:
    code, output, _ = run(realtime, *arguments)
    if code == NO_SECCOMP:
        pytest.skip(output.decode().strip())
    return code, output.decode()


@pytest.mark.slow
@needs_make
@linux
def test_steps_ask_nobody_for_anything(realtime: Path) -> None:
    assert watch(realtime) == (0, "kept\n")


@pytest.mark.slow
@needs_make
@linux
@pytest.mark.parametrize(
    ("offence", "words"),
    [
        ("allocate", "4000 calls, 0 page faults, no system call"),  # malloc and free
        ("lock", "2000 calls, 0 page faults, no system call"),
        ("fault", "0 calls, 2000 page faults, no system call"),
        ("call", "0 calls, 0 page faults, a system call"),
    ],
)
def test_an_offence_is_seen(realtime: Path, offence: str, words: str) -> None:
    code, output = watch(realtime, offence)
    assert code == 1
    assert output.strip().endswith(words)
