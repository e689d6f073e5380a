"""A run continues to the bit, and its file is whole whatever happens."""

import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as serialize

import fastrnn
from fastrnn.character import Checkpoint, Corpus, Options, Trainer, training
from fastrnn.weights import safetensors

TEXT = "".join(chr(97 + (n * n) % 23) for n in range(500))


def trainer(text=TEXT, **options):
    options = Options(**({"hidden": 5, "batch": 3, "window": 8} | options))
    return Trainer(Corpus.of(text, options.batch, options.window), options, "numpy")


def assert_same(run, expected):
    arrays, wanted = run.snapshot(), expected.snapshot()
    assert arrays.keys() == wanted.keys()
    for name, array in arrays.items():
        assert array.dtype == wanted[name].dtype, name
        assert array.tobytes() == wanted[name].tobytes(), name


# Runs


@pytest.mark.parametrize("cell", fastrnn.CELLS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": 2},
        {"k2": 20},
        {"k2": 20, "layers": 2},
        {"k2": 3},
        {"init": "orthogonal"},
    ],
    ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()) or "k2=k1",
)
def test_stopping_anywhere_changes_no_bit(tmp_path, monkeypatch, cell, options):
    monkeypatch.setattr(training, "EVALUATE_EVERY", 4)
    straight = trainer(cell=cell, **options)
    per_epoch = straight.steps_per_epoch
    stops = {1, 2, 5, per_epoch - 1, per_epoch, per_epoch + 3}
    run = straight.replica()
    path = tmp_path / "run.safetensors"
    while straight.epoch < 2:
        straight.step()
        run.step()
        if len(run.losses) in stops:
            Checkpoint.of(run, None).save(path)
            run = Checkpoint.load(path).trainer(straight.corpus)
            assert_same(run, straight)
    assert len(run.losses) == 2 * per_epoch
    assert len(run.held_out) == 2 * per_epoch // 4
    assert_same(run, straight)


def test_a_lost_part_of_the_state_would_show():
    # The test above proves something only if every part that is carried makes a difference.
    straight = trainer(k2=20)
    for _ in range(4):
        straight.step()
    arrays = straight.snapshot()
    straight.step()
    for name in ("model.1.weight_hh_l0", "adam.second.0.weight", "carry.h", "context.c"):
        damaged = trainer(k2=20)
        damaged.restore(arrays | {name: arrays[name] * np.float32(0.5)})
        damaged.step()
        parameters = damaged.model.parameters
        same = [np.array_equal(parameters[n], straight.model.parameters[n]) for n in parameters]
        # With k2 > k1 the state after the last step is computed again: nothing depends on it.
        assert all(same) == (name == "carry.h"), name


def test_what_a_checkpoint_says(tmp_path):
    run = trainer(k2=10, lr=0.1)
    run.step()
    path = tmp_path / "run.safetensors"
    Checkpoint.of(run, "/some/text").save(path)
    found = Checkpoint.load(path)
    assert found.options == run.options
    assert found.backend == "numpy"
    assert found.vocabulary.characters == run.corpus.vocabulary.characters
    assert (found.digest, found.source) == (run.corpus.digest, "/some/text")
    model = found.model()
    for name, array in run.model.parameters.items():
        assert np.array_equal(model.parameters[name], array)
    with pytest.raises(ValueError, match="text: expected the one that was trained on"):
        found.trainer(Corpus.of(TEXT + "a", 3, 8))


def test_a_checkpoint_without_the_options_of_later_versions(tmp_path):
    path = tmp_path / "run.safetensors"
    old = json.dumps({"cell": "lstm", "hidden": 5, "batch": 3, "window": 8})
    corpus = changed(path, options=old)
    found = Checkpoint.load(path)
    assert (found.options.init, found.options.forget_bias) == ("uniform", None)
    run = trainer()
    run.step()
    assert_same(found.trainer(corpus), run)


def test_the_start_of_the_recurrent_layers_is_an_option():
    run = trainer(init="orthogonal", forget_bias=1)
    for name, array in run.model.parameters.items():
        if "weight_hh" in name:
            blocks = array.reshape(4, 5, 5)
            eye = np.eye(5)
            for block in blocks:
                np.testing.assert_allclose(block.T @ block, eye, rtol=0, atol=1e-6)
        if "bias_" in name:
            assert (array[5:10] == ("bias_ih" in name)).all()


def changed(path, arrays=(), **metadata):
    """Write a checkpoint with something wrong in it."""
    run = trainer()
    run.step()
    Checkpoint.of(run, None).save(path)
    found, texts = safetensors.load(path)
    for name, array in dict(arrays).items():
        if array is None:
            del found[name]
        else:
            found[name] = array
    texts = {k: v for k, v in (texts | metadata).items() if v is not None}
    safetensors.save(path, found, texts)
    return run.corpus


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"format": None}, "expected a checkpoint of fastrnn, got other weights"),
        ({"format": "pt"}, "expected a checkpoint of fastrnn, got other weights"),
        ({"version": "0"}, "expected a checkpoint of version 1, got version 0"),
        ({"options": None}, "'options'"),
        ({"options": "{"}, "expected a whole checkpoint"),
        ({"options": "[" * 100_000}, "expected a whole checkpoint"),
        ({"options": "[]"}, "expected a whole checkpoint"),
        ({"options": '{"hidden": "5"}'}, "hidden: expected a whole number"),
        ({"options": '{"hidden": -5}'}, "hidden: expected at least 1"),
        ({"options": '{"hidden": 4000000000}'}, "model.1.weight_hh_l0: expected shape"),
        ({"options": '{"hidden": 5, "layers": 4000000000}'}, "layers: expected"),
        ({"options": '{"hidden": 5, "lr": NaN}'}, "lr: expected"),
        ({"options": '{"power": 9}'}, "power"),
        ({"options": '{"hidden": 5, "init": []}'}, "init: expected one of"),
        ({"options": '{"cell": "gru", "forget_bias": 1}'}, "forget_bias: the cell 'gru'"),
        ({"vocabulary": '"abc"'}, "characters: expected"),
        ({"vocabulary": "7"}, "expected a whole checkpoint"),
        ({"text": "null"}, "expected a whole checkpoint"),
        ({"text": "{}"}, "sha256"),
    ],
)
def test_wrong_metadata_is_refused(tmp_path, metadata, words):
    path = tmp_path / "run.safetensors"
    changed(path, **metadata)
    with pytest.raises(ValueError, match=r"run\.safetensors: .*" + words):
        Checkpoint.load(path)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("model.0.weight", None),
        ("model.0.weight", np.zeros((2, 2), np.float32)),
        ("model.0.weight", np.zeros((24, 5), np.float64)),
        ("model.9.weight", np.zeros(1, np.float32)),
        ("adam.first.0.weight", None),
        ("adam.steps", None),
        ("adam.steps", np.array(-1)),
        ("adam.steps", np.array(0.5)),
        ("at.epoch", None),
        ("at.epoch", np.array(7)),
        ("at.position", np.array(-8)),
        ("at.position", np.array(3)),
        ("at.position", np.array(8_000)),
        ("at.position", np.array([8, 8])),
        ("carry.h", None),
        ("carry.h", np.zeros((1, 2, 5), np.float32)),
        ("curve.losses", None),
        ("curve.losses", np.zeros(2)),
        ("curve.held_out", np.zeros((1, 2))),
        ("curve.held_out", np.zeros((0, 2), np.int64)),
        ("other", np.zeros(1)),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, name, array):
    path = tmp_path / "run.safetensors"
    corpus = changed(path, {name: array})
    with pytest.raises((ValueError, TypeError)):
        Checkpoint.load(path).trainer(corpus)


def test_wrong_context_is_refused():
    run = trainer(k2=20)
    for _ in range(3):
        run.step()
    arrays = run.snapshot()
    x = arrays["context.x"]
    for name, array in (
        ("context.x", None),
        ("context.x", x[1:]),
        ("context.x", x + np.uint8(100)),
        ("context.x", x.astype(np.float32)),
        ("context.h", None),
    ):
        wrong = arrays | {name: array}
        if array is None:
            del wrong[name]
        with pytest.raises((ValueError, TypeError), match="context"):
            trainer(k2=20).restore(wrong)


# Files


def test_arrays_and_metadata_come_back(tmp_path):
    arrays = {
        "f": np.linspace(0, 1, 7, dtype=np.float32),
        "scalar": np.array(3),
        "empty": np.zeros((0, 4)),
        "transposed": np.arange(6).reshape(2, 3).T,
        "bytes": np.arange(5, dtype=np.uint8)[::-1],
        "big": np.arange(3, dtype=">f8"),
    }
    safetensors.save(tmp_path / "a", arrays, {"näme": "täxt\n\0"})
    found, metadata = safetensors.load(tmp_path / "a")
    assert metadata == {"näme": "täxt\n\0"}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)


def file_of(header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def one(dtype, shape, *offsets):
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}}


HOSTILE = {
    "nothing": b"",
    "too short": b"abc",
    "text": b"import os\n" * 20,
    "a pickle": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.",
    "endless header": file_of(b"{}", size=2**63),
    "large header": file_of(b"{}", size=99_000_000),
    "not JSON": file_of(b"{not json}"),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "unknown type": file_of(one("X9", [1], 0, 4), bytes(4)),
    "float8": file_of(one("F8_E4M3", [4], 0, 4), bytes(4)),
    "sizes that overflow": file_of(one("F32", [2**62, 8], 0, 4), bytes(4)),
    "negative size": file_of(one("F32", [-1], 0, 4), bytes(4)),
    "offsets with a hole": file_of(one("F32", [1], 4, 8), bytes(8)),
    "offsets beyond the end": file_of(one("F32", [4], 0, 16), bytes(4)),
    "bytes past the end": file_of(one("F32", [1], 0, 4), bytes(8)),
    "metadata that is no text": file_of({"__metadata__": {"a": 1}}),
    "half a file": serialize({"a": np.zeros(100)}, {"b": "c"})[:-300],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_by_name(tmp_path, name):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match=r"hostile\.safetensors: expected a safetensors file"):
        safetensors.load(path)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ValueError, match="got a folder or a device"):
            safetensors.load(path)
    with pytest.raises(FileNotFoundError):
        safetensors.load(tmp_path / "absent")


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, error):
    path = tmp_path / "a"
    safetensors.save(path, {"a": np.zeros(3)}, {})
    before = path.read_bytes()

    def fail(*_):
        raise error

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        write = fail

    if call == "write":
        opened = Path.open
        monkeypatch.setattr(Path, "open", lambda self, mode: Full(opened(self, mode)))
    elif call == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(type(error)):
        safetensors.save(path, {"a": np.ones(3)}, {})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_save_follows_links_and_respects_the_umask(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    link.symlink_to(target)
    old = os.umask(0o027)
    try:
        safetensors.save(link, {"a": np.zeros(1)}, {})
    finally:
        os.umask(old)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert list((tmp_path / "elsewhere").iterdir()) == [target]


KILLING = """
import mmap, os, random, signal, struct, sys, time
from pathlib import Path
import numpy as np
from fastrnn.weights.safetensors import load, save

path, kills, deadline = Path(sys.argv[1]), 500, time.monotonic() + 8
saved = mmap.mmap(-1, 8)  # shared with the children: the number of the last finished save

def write(n):
    save(path, {"a": np.full(40_000, n), "b": np.full(1_000, -n)}, {"n": str(n)})
    saved[:] = struct.pack("q", n)

write(0)
random.seed(0)
done = 0
while done < kills and time.monotonic() < deadline:
    first = struct.unpack("q", saved[:])[0]
    child = os.fork()
    if not child:
        while True:
            first += 1
            write(first)
    time.sleep(random.uniform(0, 0.012))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    arrays, metadata = load(path)
    n = int(metadata["n"])
    assert n - struct.unpack("q", saved[:])[0] in (0, 1), "neither the old nor the new one"
    assert (arrays["a"] == n).all() and (arrays["b"] == -n).all(), "a mixture"
    saved[:] = struct.pack("q", n)
    drafts = [p for p in path.parent.iterdir() if p != path]
    assert all(p.name.startswith(".fastrnn-") and p.suffix == ".tmp" for p in drafts)
    for draft in drafts:
        draft.unlink()
    done += 1
print(done, n)
"""


@pytest.mark.slow
def test_a_kill_at_any_time_leaves_the_old_file_or_the_new_one(tmp_path):
    roots = [str(Path(fastrnn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(roots), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", KILLING, str(tmp_path / "run.safetensors")]
    out = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert out.returncode == 0, out.stderr
    kills, saves = map(int, out.stdout.split())
    assert kills >= 50
    assert saves >= 50  # so that the children did get as far as saving
