"""What is built and installed: the sdist, the wheel made from it, a build without a compiler.

All of it in copies, in folders with a space in their names, and without a network.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CC = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
COMPILER = shutil.which(CC[0]) is not None
needs_compiler = pytest.mark.skipif(not COMPILER, reason=f"no C compiler: {CC[0]}")
NO_COMPILER = {"CC": "/no/compiler"}
CHOSEN = {"CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED"} & os.environ.keys()

# Stands in for a compiler: the first file is done when the second is, and what comes out is `made`.
STAND_IN = """
import shutil, sys, time
from pathlib import Path

here = Path(__file__).parent
output = Path(sys.argv[sys.argv.index("-o") + 1])
shutil.copy(here / "made", output)
if output.suffix == ".o":
    (here / output.name).touch()
else:
    (here / "linked").write_text("\\n".join(Path(name).name for name in sys.argv))
patience = time.monotonic() + 20
while output.name == "fastrnn._c.o" and not (here / "dispatch.o").exists():
    time.sleep(0.01)
    if time.monotonic() > patience:
        sys.exit("one after another")
"""

# Results of the backends that are named, in the folder that is named, agree.
COMPUTE = """
import sys
from pathlib import Path
import numpy as np
import fastrnn

folder, *backends = sys.argv[1:]
rng = np.random.default_rng(0)
x, d_output = rng.normal(size=(7, 3, 5)), rng.normal(size=(7, 3, 4))
results = []
for backend in backends:
    tape = fastrnn.LSTM(5, 4, 2, dtype="float64", seed=1, backend=backend).record(x)
    gradients = tape.backward(d_output)
    named = dict(enumerate((tape.output, *tape.state, gradients.input, *gradients.state)))
    results.append(named | gradients.parameters)
    assert all(np.abs(value).max() > 0 for value in results[-1].values())
for result in results:
    for name, value in result.items():
        np.testing.assert_allclose(value, results[0][name], rtol=0, atol=1e-12, err_msg=name)
for name in [name for name in sys.modules if name.startswith("fastrnn")]:
    file = getattr(sys.modules[name], "__file__", None)  # ffi and lib of the C side have none
    assert file is None or Path(file).is_relative_to(folder), file
print("in", Path(fastrnn.__file__).parent.parent)
"""


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the interpreter of these tests, to which no setting of theirs is passed on."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FASTRNN_", "PYTHONPATH")) and name not in CHOSEN
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def pip(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pip with what is installed here; from its cache it would take what is to be built."""
    options = ("--isolated", "--disable-pip-version-check", "--no-cache-dir")
    command, *rest = arguments
    local = ("--no-build-isolation", "--no-index", "--no-deps")
    return python("-m", "pip", *options, command, *local, *rest, cwd=cwd, **environment)


def hook(name: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call what pip calls to build (PEP 517, PEP 660); results go to a folder beside it."""
    code = f"from setuptools import build_meta; build_meta.{name}('../built')"
    return python("-c", code, cwd=folder, **environment)


def done(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode == 0, process.stdout
    return process.stdout


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def program(folder: Path, *arguments: str, cwd: Path) -> str:
    """Run Python with what is installed in a folder, and what that needs from the usual places.

    Without `site`, as an editable install would add the extension of the source folder.
    """
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    return done(python("-S", "-W", "error", *arguments, cwd=cwd, PYTHONPATH=path))


def compute(folder: Path, *backends: str, cwd: Path) -> None:
    assert program(folder, "-c", COMPUTE, str(folder), *backends, cwd=cwd) == f"in {folder}\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone would hold if all was committed; where git is not, all that is no product."""
    folder = tmp_path_factory.mktemp("source tree") / "fastrnn"
    if not ((ROOT / ".git").exists() and shutil.which("git")):
        products = ("build", "dist", "*.egg-info", "__pycache__", "*.so", ".*")
        return shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*products))
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listing, cwd=ROOT, text=True).split("\0"):
        if (ROOT / name).is_file():  # not deleted
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    done(hook("build_sdist", tree))
    (path,) = (tree.parent / "built").iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built where pip unpacks the sdist; where there is a compiler, it has to do.

    Optimised less than for users, in three quarters of the time; not at all (-O0) takes longer.
    """
    folder = tmp_path_factory.mktemp("wheel of it")
    settings = {"CFLAGS": "-O1"} | {name: os.environ[name] for name in CHOSEN}
    settings |= {"TMPDIR": str(folder), "FASTRNN_REQUIRE_C": f"{COMPILER:d}"}
    done(pip("wheel", str(sdist), cwd=folder, **settings))
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed here")
    done(pip("install", "--target", str(folder), str(wheel), cwd=folder))
    return folder


def test_sdist_holds_the_sources(tree: Path, sdist: Path) -> None:
    """All but what begins with a dot, and nothing else but metadata."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    generated = {"PKG-INFO", "setup.cfg"}
    names = {name for name in names - generated if ".egg-info/" not in name}
    clone = {name for name in files(tree) - generated if not name.startswith(".")}
    assert names == {name for name in clone if ".egg-info/" not in name}
    assert {"LICENSE", "csrc/fastrnn.h", "csrc/isa/neon.c", "tests/test_build.py"} <= names


@pytest.mark.slow
def test_wheel_holds_the_package(tree: Path, wheel: Path) -> None:
    """One file for every CPython from 3.11 on, of a few megabytes at most."""
    name, version, *tag = wheel.stem.split("-")
    assert tag[2] != "any"
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):  # it has no limited API
        assert tag[:2] == ["cp311", "abi3"]
    with zipfile.ZipFile(wheel) as archive:
        names = {entry.filename for entry in archive.infolist()}
        assert sum(entry.file_size for entry in archive.infolist()) < 5e6
    metadata = {found for found in names if found.startswith(f"{name}-{version}.dist-info/")}
    compiled = {found for found in names if found.startswith("fastrnn/_c.")}
    sources = {f"fastrnn/{found}" for found in files(tree / "fastrnn")}
    assert "fastrnn/py.typed" in sources
    assert names - metadata - compiled == sources
    assert len(compiled) == COMPILER
    assert f"{name}-{version}.dist-info/licenses/LICENSE" in metadata
    assert all(tag[1] in found for found in compiled)


@pytest.mark.slow
@needs_compiler
def test_wheel_computes(installed: Path, tmp_path: Path) -> None:
    compute(installed, "c", "numpy", cwd=tmp_path)


@pytest.mark.slow
def test_without_a_compiler(sdist: Path, tmp_path: Path) -> None:
    """What is installed says so, and the other backends compute."""
    folder = tmp_path / "without C"
    done(pip("install", "--target", str(folder), str(sdist), cwd=tmp_path, **NO_COMPILER))
    assert not list(folder.glob("fastrnn/_c.*"))
    said = program(folder, "-m", "fastrnn", "info", cwd=tmp_path)
    assert "not built: there was no C compiler when fastrnn was installed" in " ".join(said.split())
    compute(folder, "numpy", cwd=tmp_path)


@pytest.mark.slow
def test_compiler_can_be_required(sdist: Path, tmp_path: Path) -> None:
    process = pip("wheel", str(sdist), cwd=tmp_path, FASTRNN_REQUIRE_C="1", **NO_COMPILER)
    assert process.returncode != 0
    reasons = [line for line in process.stdout.splitlines() if line.strip().startswith("error: ")]
    assert any(NO_COMPILER["CC"] in line and "No such file" in line for line in reasons), reasons
    assert not list(tmp_path.glob("*.whl"))


# -- editable -------------------------------------------------------------------------------------


@pytest.fixture
def editable(tree: Path, installed: Path, tmp_path: Path) -> Path:
    """A source folder with an extension that is newer than its sources, which do not compile."""
    folder = shutil.copytree(tree, tmp_path / "a tree" / "fastrnn")
    header = folder / "csrc" / "fastrnn.h"
    before = header.stat().st_mtime
    header.write_text("#error compiled\n" + header.read_text())
    os.utime(header, (before, before))
    (built,) = installed.glob("fastrnn/_c.*")
    (tmp_path / "a tree" / "built").mkdir()
    os.utime(shutil.copy(built, folder / "fastrnn"))
    return folder


def extension(folder: Path) -> Path:
    (path,) = folder.glob("fastrnn/_c.*")
    return path


@pytest.mark.slow
@needs_compiler
def test_newer_extension_is_taken_as_it_is(editable: Path) -> None:
    path = extension(editable)
    before = path.stat()
    done(hook("build_editable", editable, FASTRNN_REQUIRE_C="1"))
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("change", ["header", "flags", "compiler", "build", "machine", "wheel"])
def test_any_other_is_compiled(change: str, editable: Path) -> None:
    environment = {"FASTRNN_REQUIRE_C": "1"}
    match change:
        case "header":
            os.utime(editable / "csrc" / "vec.inc.h", (time.time() + 1,) * 2)
        case "build":
            os.utime(editable / "csrc" / "build_ffi.py", (time.time() + 1,) * 2)
        case "flags":
            environment["CFLAGS"] = "-O1"
        case "compiler":
            environment["CC"] = shlex.join(CC)
        case "machine":
            extension(editable).write_bytes(b"\x7fELF of another")
    name = "build_wheel" if change == "wheel" else "build_editable"
    process = hook(name, editable, **environment)
    assert process.returncode != 0
    assert "building 'fastrnn._c' extension" in process.stdout


@pytest.fixture
def stand_in(editable: Path, tmp_path: Path) -> dict[str, str]:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if count == 1:
        pytest.skip("one processor")
    script = tmp_path / "stand in.py"
    script.write_text(STAND_IN)
    extension(editable).rename(tmp_path / "made")
    command = shlex.join([sys.executable, str(script)])
    return {"CC": command, "LDSHARED": command, "FASTRNN_REQUIRE_C": "1"}


@pytest.mark.slow
@needs_compiler
def test_files_are_compiled_together_and_linked_in_order(
    editable: Path, stand_in: dict[str, str], tmp_path: Path
) -> None:
    done(hook("build_editable", editable, **stand_in))
    sources = sorted(name for name in files(editable / "csrc") if name.endswith(".c"))
    linked = [name for name in (tmp_path / "linked").read_text().split() if name.endswith(".o")]
    assert linked == ["fastrnn._c.o", *(f"{Path(name).stem}.o" for name in sources)]


@pytest.mark.slow
@needs_compiler
def test_extension_of_another_compiler_is_not_kept(
    editable: Path, stand_in: dict[str, str]
) -> None:
    """When nothing is said about the compiler any more, the usual one has to make it."""
    done(hook("build_editable", editable, **stand_in))
    process = hook("build_editable", editable, FASTRNN_REQUIRE_C="1")
    assert process.returncode != 0
    assert "building 'fastrnn._c' extension" in process.stdout


@pytest.mark.slow
@needs_compiler
def test_old_extension_does_not_outlive_a_failure(editable: Path) -> None:
    """Else it would compute, and nothing would say that it is not what the sources are."""
    os.utime(extension(editable), (0, 0))
    done(hook("build_editable", editable))
    assert not list(editable.glob("fastrnn/_c.*"))
