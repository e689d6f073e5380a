"""The command line, in this process where that is possible."""

import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn import cli
from fastrnn.character import Checkpoint, Trainer, curve, training
from fastrnn.weights import safetensors

LINES = "the quick brown fox jumps over the lazy dog.\n"
ROOTS = [str(Path(fastrnn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """Run in a folder of its own; a mistake that goes unseen does not train for a minute."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "SECONDS", 1.0)
    Path("text").write_text(LINES * 12)


@pytest.fixture
def _no_picture(monkeypatch):
    """Leave out what takes longest."""
    monkeypatch.setattr(curve, "draw", lambda *_: None)


def train(*arguments, text="text"):
    small = shlex.split("--backend numpy --hidden 8 --batch 4 --window 8 --lr 0.02")
    return ["train", *small, "--text", text, *arguments]


def again(path, *arguments):
    return ["train", "--resume", path, *arguments]


def fastrnn_process(*arguments, **options):
    """Start the command line as a process of its own."""
    # An interrupt is ignored by what was started in the background: tests may be.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from fastrnn import cli; cli.LINE_EVERY = 0.1; sys.exit(cli.main())"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(ROOTS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


# What works


def test_info(capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for name in ("fastrnn", "NumPy", "ISA", "threads", *fastrnn.info()["backends"]):
        assert name in out
    assert cli.main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == fastrnn.info()


def test_version_and_help(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastrnn {fastrnn.info()['version']}\n"
    assert cli.main(["train", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    options = "cell hidden layers batch window k2 lr clip seed init forget-bias backend text"
    for option in [*options.split(), "seconds", "epochs", "out"]:
        value = option.upper().replace("-", "_")
        entry = words.split(f" --{option} {value} ")[-1]
        assert "(default: " in entry[: entry.find(") --")], option
    assert "--resume FILE" in words


def test_module_can_be_run():
    run = subprocess.run(
        [sys.executable, "-m", "fastrnn", "--version"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(ROOTS)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("fastrnn ")


def test_heavy_libraries_are_loaded_only_when_used():
    code = """
import sys
from fastrnn.cli import main
assert main(["info"]) == 0
heavy = {"numba", "rich", "matplotlib", "safetensors"} & set(sys.modules)
assert not heavy, heavy
"""
    process = [sys.executable, "-W", "error", "-c", code]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(ROOTS)}
    subprocess.run(process, env=env, check=True, stdout=subprocess.DEVNULL)


def test_train_then_generate(capsys):
    assert cli.main(train("--epochs", "2", "--out", "run.safetensors")) == 0
    out, err = capsys.readouterr()
    for words in ("numpy", "held out", "run.safetensors", "run.png", "sample"):
        assert words in out
    for words in ("left", "step", "bits/char", "chars/s", "gradient", "100%"):
        assert words in err
    assert sorted(path.name for path in Path().iterdir()) == ["run.png", "run.safetensors", "text"]

    generate = shlex.split("generate --checkpoint run.safetensors --backend numpy --length 40")
    written = []
    for more in ([], [], ["--seed", "1"], ["--temperature", "0", "--prompt", "\nthe quick bro"]):
        assert cli.main(generate + more) == 0
        written.append(capsys.readouterr().out)
    assert written[0] == written[1] != written[2]
    assert len(written[0]) == 1 + 40 + 1  # the prompt, the text, the end of the line
    assert written[3].startswith("\nthe quick bro")
    assert len(written[3]) == 14 + 40 + 1


@pytest.mark.usefixtures("_no_picture")
def test_unknown_characters_of_a_prompt_are_read_as_one(capsys):
    assert cli.main(train("--epochs", "1")) == 0
    capsys.readouterr()
    assert cli.main(["generate", "--backend", "numpy", "--prompt", "übel", "--length", "3"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("übel")
    assert err == "fastrnn: prompt: 'ü' not in the vocabulary, read as U+FFFD\n"


def test_picture_is_a_picture(capsys):
    assert cli.main(train("--epochs", "3")) == 0
    data = Path("character.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width >= 800
    assert height >= 400
    chunks, at = b"", 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            chunks += data[at + 8 : at + 8 + size]
        at += 12 + size
    rows = np.frombuffer(zlib.decompress(chunks), np.uint8).reshape(height, -1)
    assert np.count_nonzero(rows[:, 1:]) > 10_000  # filtered: zero where nothing changes


@pytest.mark.usefixtures("_no_picture")
@pytest.mark.parametrize(
    "more",
    [[], ["--k2", "20"], ["--layers", "2"], ["--init", "orthogonal", "--forget-bias", "1"]],
)
def test_resuming_gives_the_bits_of_one_run(capsys, monkeypatch, more):
    monkeypatch.setattr(training, "EVALUATE_EVERY", 7)
    assert cli.main(train("--epochs", "2", "--out", "straight.safetensors", *more)) == 0
    assert cli.main(train("--epochs", "1", "--out", "half.safetensors", *more)) == 0
    assert cli.main(again("half.safetensors", "--epochs", "2", "--out", "whole.safetensors")) == 0
    straight, half, whole = (
        safetensors.load(f"{name}.safetensors") for name in ("straight", "half", "whole")
    )
    assert whole[1] == straight[1]
    assert whole[0].keys() == straight[0].keys()
    for name, array in straight[0].items():
        assert whole[0][name].tobytes() == array.tobytes(), name
    assert half[0]["at.epoch"] == 1
    assert whole[0]["at.epoch"] == 2
    assert len(whole[0]["curve.losses"]) == 2 * len(half[0]["curve.losses"])


@pytest.mark.usefixtures("_no_picture")
def test_resume_without_out_goes_on_in_the_same_file(capsys):
    assert cli.main(train("--epochs", "1", "--out", "run.safetensors")) == 0
    same = ["--hidden", "8", "--lr", "0.02", "--text", "text", "--backend", "numpy"]
    assert cli.main(again("run.safetensors", "--epochs", "2", *same)) == 0
    assert safetensors.load("run.safetensors")[0]["at.epoch"] == 2


@pytest.mark.usefixtures("_no_picture")
def test_seconds_limit_the_time(capsys):
    start = time.perf_counter()
    assert cli.main(train("--seconds", "0.2")) == 0
    steps = len(Checkpoint.load("character.safetensors").arrays["curve.losses"])
    assert steps >= 1
    assert time.perf_counter() - start < 5


@pytest.mark.usefixtures("_no_picture")
def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(train("--epochs", "1")) == 0
    last = capsys.readouterr().err.split("\r")[-1]
    steps = len(Checkpoint.load("character.safetensors").arrays["curve.losses"])
    assert "━" * 20 in last
    assert_found(rf"0:00 left  step {steps}  \d.\d+ bits/char  gradient \d.\d+  .* chars/s", last)


@pytest.mark.usefixtures("_no_picture")
def test_speed_is_told_for_a_backend_that_is_not_the_reference(capsys, monkeypatch):
    # The reference under another name, so that nothing has to be compiled.
    row = fastrnn.dispatch.BACKENDS["numpy"]
    rows = {"swift": row, **fastrnn.dispatch.BACKENDS}
    monkeypatch.setattr(fastrnn.dispatch, "BACKENDS", rows)
    assert cli.main([*train("--epochs", "1"), "--backend", "swift"]) == 0
    out = capsys.readouterr().out
    assert "backend     swift\n" in out
    assert "times the NumPy reference" in out


# Mistakes


def mistake(capsys, arguments):
    """Run what is wrong, and return the one line that says so."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastrnn: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert not Path("character.safetensors").exists()
    return err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "command"),
        (["fly"], "fly"),
        (["info", "--fast"], "--fast"),
        (["info", "two\nlines"], "two lines"),
        (train("--cell", "transformer"), "cell: expected one of 'rnn', 'gru', 'lstm'"),
        (train("--hidden", "-8"), "hidden: expected at least 1, got -8"),
        (train("--hidden", "8.5"), "--hidden: expected a whole number, got '8.5'"),
        (train("--hidden", "9" * 5000), "--hidden: expected a whole number"),
        (train("--hidden", "9" * 15), "memory|allocate|large"),
        (train("--hid", "8"), "--hid"),
        (train("--layers", "0"), "layers: expected at least 1, got 0"),
        (train("--batch", "-1"), "batch: expected at least 1, got -1"),
        (train("--window", "0"), "window: expected at least 1, got 0"),
        (train("--k2", "0"), "k2: expected at least 1, got 0"),
        (train("--lr", "nan"), "lr: expected a number in .*, got nan"),
        (train("--lr", "-1"), "lr: expected a number in .*, got -1"),
        (train("--lr", "fast"), "--lr: expected a number, got 'fast'"),
        (train("--clip", "0"), "clip: expected a number"),
        (train("--seed", "-1"), "seed: expected at least 0"),
        (train("--init", "normal"), "init: expected one of 'uniform', 'orthogonal', got 'normal'"),
        (train("--forget-bias", "much"), "--forget-bias: expected a number, got 'much'"),
        (train("--forget-bias", "inf"), "forget_bias: expected a number in .*, got inf"),
        (train("--cell", "gru", "--forget-bias", "1"), "forget_bias: the cell 'gru' has no forget"),
        (train("--seconds", "0"), "seconds: expected a number"),
        (train("--seconds", "inf"), "seconds: expected a number"),
        (train("--epochs", "0"), "epochs: expected at least 1, got 0"),
        (train("--backend", "abacus"), "backend: expected one of 'c', 'numba', 'numpy'"),
        (train(text="absent"), "absent: No such file"),
        (train(text="."), "Is a directory"),
        (train(text="empty"), "text: .* empty text"),
        (train(text="short"), "text: expected at least 33 characters"),
        (train(text="binary"), "binary: expected UTF-8 text"),
        (train("--out", "run.txt"), "out: expected a name that ends in .safetensors"),
        (train("--out", "absent/run.safetensors"), r"out: expected a folder .* \(No such file"),
        (train("--out", "text/run.safetensors"), r"out: expected a folder .* \(Not a directory"),
        (train("--out", "folder.safetensors"), "out: expected a file, got the folder"),
        (train("--out", "beside.safetensors"), r"out: expected a file, got the folder beside\.png"),
        (again("absent"), "out: expected a name"),
        (again("absent.safetensors"), r"absent\.safetensors: No such file"),
        (["generate", "--checkpoint", "absent"], "absent: No such file"),
        (["generate", "--checkpoint", "text"], "text: expected a safetensors file"),
        (["generate", "--checkpoint", "empty"], "empty: expected a safetensors file"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, words):
    Path("empty").touch()
    Path("short").write_text("a" * 41)
    Path("binary").write_bytes(b"\xff\xfe")
    Path("folder.safetensors").mkdir()
    Path("beside.png").mkdir()
    assert_found(words, mistake(capsys, arguments))


def assert_found(words, line):
    __tracebackhide__ = True
    assert re.search(words, line), line


def test_a_run_that_diverges_ends_with_one_line(capsys):
    assert cli.main(train("--lr", "1e38", "--epochs", "9")) == 2
    assert_found(
        "^fastrnn: step .*: expected a finite loss .*a smaller lr may help",
        capsys.readouterr().err.splitlines()[-1],
    )
    assert not Path("character.safetensors").exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The bytes of a small checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "text").write_text(LINES * 12)
    out = folder / "run.safetensors"
    assert cli.main(train("--epochs", "1", "--out", str(out), text=str(folder / "text"))) == 0
    return out.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hidden", "9"], r"hidden: expected 8 as in run\.safetensors, got 9"),
        (["--cell", "gru"], r"cell: expected lstm as in run\.safetensors, got gru"),
        (["--lr", "0.03"], r"lr: expected 0\.02 as in run\.safetensors, got 0\.03"),
        (["--k2", "9"], "k2: expected 8"),
        (["--seed", "1"], "seed: expected 0"),
        (["--init", "orthogonal"], r"init: expected uniform as in run\.safetensors"),
        (["--forget-bias", "1"], r"forget_bias: expected None as in run\.safetensors, got 1"),
        (["--backend", "numba"], "backend: expected numpy"),
        (["--text", "text"], r"run\.safetensors: text: expected the one that was trained on"),
        (["--epochs", "1"], "epochs: expected more than the 1 done, got 1"),
    ],
)
def test_resuming_with_something_else_is_refused(capsys, checkpoint, arguments, words):
    Path("run.safetensors").write_bytes(checkpoint)
    Path("text").write_text(LINES * 13)
    assert_found(words, mistake(capsys, again("run.safetensors", *arguments)))
    assert Path("run.safetensors").read_bytes() == checkpoint


@pytest.mark.parametrize("command", [["generate", "--checkpoint"], ["train", "--resume"]])
@pytest.mark.parametrize("kind", ["half", "other version", "other weights", "wrong shape"])
def test_damaged_checkpoints_are_one_line(capsys, checkpoint, command, kind):
    path = Path("run.safetensors")
    path.write_bytes(checkpoint)
    arrays, metadata = safetensors.load(path)
    if kind == "half":
        path.write_bytes(checkpoint[: len(checkpoint) // 2])
    elif kind == "other version":
        safetensors.save(path, arrays, metadata | {"version": "2"})
    elif kind == "other weights":
        safetensors.save(path, arrays, {})
    else:
        arrays["model.0.weight"] = np.zeros((1, 1))
        safetensors.save(path, arrays, metadata)
    words = {
        "half": "expected a safetensors file",
        "other version": "expected a checkpoint of version 1, got version 2",
        "other weights": "expected a checkpoint of fastrnn",
        "wrong shape": r"model\.0\.weight|mapping\['0.weight'\]",
    }
    assert_found(rf"run\.safetensors: .*({words[kind]})", mistake(capsys, [*command, str(path)]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", ""], "prompt: expected at least one character"),
        (["--length", "-1"], "length: expected at least 0, got -1"),
        (["--temperature", "nan"], "temperature: expected a number in .*, got nan"),
        (["--temperature", "-1"], "temperature: expected a number in .*, got -1"),
        (["--seed", "-1"], "seed: expected at least 0"),
        (["--backend", "abacus"], "backend: expected one of"),
    ],
)
def test_mistakes_of_generate_are_one_line(capsys, checkpoint, arguments, words):
    Path("run.safetensors").write_bytes(checkpoint)
    line = mistake(capsys, ["generate", "--checkpoint", "run.safetensors", *arguments])
    assert_found(words, line)


@pytest.mark.parametrize("command", [["info"], train(), ["generate"]])
@pytest.mark.parametrize("name", ["BACKEND", "ISA", "NUM_THREADS"])
def test_nonsense_in_the_environment_is_one_line(capsys, monkeypatch, command, name):
    monkeypatch.setenv(f"FASTRNN_{name}", "nonsense")
    assert f"FASTRNN_{name}: expected " in mistake(capsys, command)


@pytest.mark.parametrize("library", ["safetensors", "rich", "matplotlib"])
def test_missing_library_is_one_line_that_says_what_to_install(capsys, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    expected = f"fastrnn: {library} is not installed: pip install 'fastrnn[cli]'\n"
    assert mistake(capsys, train()) == expected
    if library == "safetensors":
        assert mistake(capsys, ["generate"]) == expected


# Interruptions


@pytest.mark.usefixtures("_no_picture")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_can_go_on(number):
    run = fastrnn_process(*train("--seconds", "100"))
    assert "step 1 " in run.stderr.readline()
    for _ in range(3):  # an impatient user
        run.send_signal(number)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 128 + number, err
    assert "--resume character.safetensors" in out
    assert err == ""
    steps = len(Checkpoint.load("character.safetensors").arrays["curve.losses"])
    assert steps >= 1
    epochs = steps // 15 + 1
    assert cli.main(again("character.safetensors", "--epochs", str(epochs))) == 0
    assert len(Checkpoint.load("character.safetensors").arrays["curve.losses"]) > steps


def test_an_interrupt_ends_neither_a_step_nor_the_saving(capsys, monkeypatch):
    step, save = Trainer.step, Checkpoint.save

    def interrupted_step(self):
        if len(self.losses) == 4:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    def interrupted_save(self, path):
        signal.raise_signal(signal.SIGINT)
        save(self, path)

    monkeypatch.setattr(Trainer, "step", interrupted_step)
    monkeypatch.setattr(Checkpoint, "save", interrupted_save)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli.main(train("--epochs", "5")) == 130
    finally:
        signal.signal(signal.SIGINT, handlers[0])
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert len(Checkpoint.load("character.safetensors").arrays["curve.losses"]) == 5
    assert not Path("character.png").exists()


def test_an_interrupt_before_training_leaves_nothing(capsys, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "warm_up", interrupted)
    assert cli.main(train()) == 130
    assert [path.name for path in Path().iterdir()] == ["text"]


@pytest.mark.usefixtures("_no_picture")
def test_long_runs_are_saved_now_and_then(capsys, monkeypatch):
    saved = []
    save = Checkpoint.save
    monkeypatch.setattr(cli, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(
        Checkpoint, "save", lambda self, path: (saved.append(len(self.arrays)), save(self, path))
    )
    assert cli.main(train("--epochs", "1")) == 0
    steps = len(Checkpoint.load("character.safetensors").arrays["curve.losses"])
    assert len(saved) == steps + 1


def test_a_reader_that_goes_away_is_no_error(checkpoint):
    Path("run.safetensors").write_bytes(checkpoint)
    arguments = shlex.split(
        "generate --checkpoint run.safetensors --backend numpy --length 1000000"
    )
    run = fastrnn_process(*arguments)
    run.stdout.read(10)
    run.stdout.close()
    assert run.wait(timeout=60) == 128 + signal.SIGPIPE
    assert run.stderr.read() == ""
    run.stderr.close()


def test_training_is_saved_when_nobody_reads_its_progress():
    run = fastrnn_process(*train("--seconds", "100"), cwd=Path.cwd())
    run.stderr.readline()
    run.stderr.close()
    assert run.wait(timeout=60) == 128 + signal.SIGPIPE
    run.stdout.close()
    assert len(Checkpoint.load("character.safetensors").arrays["curve.losses"]) > 1


def test_characters_that_a_terminal_lacks_do_not_stop_it(checkpoint):
    Path("run.safetensors").write_bytes(checkpoint)
    arguments = shlex.split("generate --checkpoint run.safetensors --backend numpy --length 3")
    env = {"PYTHONPATH": os.pathsep.join(ROOTS), "PYTHONIOENCODING": "ascii"}
    code = "import sys; from fastrnn.cli import main; sys.exit(main())"
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--prompt", "ü"],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("?")
