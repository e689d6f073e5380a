"""Files of published packages: verified, read in memory, never run; none of it needs a network."""

import bz2
import gzip
import hashlib
import io
import lzma
import shutil
import stat
import subprocess
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

import fetch

CONTENT = b"the file that was asked for"


def zipped(*rows: tuple[str, bytes], mode: int = 0o644, method: int = 8) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that comes twice
        for name, data in rows:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = method
            archive.writestr(info, data)
    return buffer.getvalue()


def tarred(*rows: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in rows:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def debian(*rows: tuple[str, bytes]) -> bytes:
    data = lzma.compress(tarred(*rows))
    archive = b"!<arch>\n"
    for name, body in (("debian-binary", b"2.0"), ("control.tar.xz", b"x"), ("data.tar.xz", data)):
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode()
        archive += header + body + b"\n" * (len(body) % 2)
    return archive


ROWS = ("other", b"another file"), ("a/b.txt", CONTENT)
ARCHIVES = {
    "zip": zipped(*ROWS),
    "tar": tarred(*ROWS),
    "tar.gz": gzip.compress(tarred(*ROWS)),
    "tar.bz2": bz2.compress(tarred(*ROWS)),
    "tar.xz": lzma.compress(tarred(*ROWS)),
    "deb": debian(("./other", b"x"), ("./a/b.txt", CONTENT)),
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fastrnn" / "packages"


def pin(monkeypatch: pytest.MonkeyPatch, filename: str, data: bytes, name: str = "thing") -> None:
    row = fetch.Package("1.0", filename, hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(fetch.PACKAGES, name, row)


def no_network(monkeypatch: pytest.MonkeyPatch, links: Path) -> None:
    """Let pip look into a folder and nowhere else."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))


# Members


@pytest.mark.parametrize("archive", ARCHIVES.values(), ids=ARCHIVES)
def test_a_member_is_read(archive):
    assert fetch.member(archive, "a/b.txt") == CONTENT


@pytest.mark.parametrize("archive", ARCHIVES.values(), ids=ARCHIVES)
def test_a_member_that_is_missing_is_named(archive):
    with pytest.raises(fetch.FetchError, match=r"^thing: b\.txt: not in the archive$"):
        fetch.member(archive, "b.txt", "thing: b.txt")


@pytest.mark.parametrize("archive", ARCHIVES.values(), ids=ARCHIVES)
def test_cut_off_archives_are_refused(archive):
    for size in range(0, len(archive), 7):
        try:
            found = fetch.member(archive[:size], "a/b.txt")
        except fetch.FetchError as error:
            assert "\n" not in str(error)  # noqa: PT017 - the one case in which none is raised follows
        else:  # only padding is missing
            assert found == CONTENT
            assert not archive[size:].strip(b"\0")


@pytest.mark.parametrize("make", [zipped, tarred, debian])
@pytest.mark.parametrize("path", ["../b.txt", "/b.txt", "a/../../b.txt", "", "..\\b.txt"])
def test_paths_that_leave_the_archive_are_refused(make, path):
    with pytest.raises(fetch.FetchError, match="not a plain path"):
        fetch.member(make((path or "b.txt", CONTENT)), path)


@pytest.mark.parametrize("make", [zipped, tarred, debian])
def test_a_member_outside_does_not_stand_for_one_inside(make):
    with pytest.raises(fetch.FetchError, match="not in the archive"):
        fetch.member(make(("../a/b.txt", CONTENT), ("/a/b.txt", CONTENT)), "a/b.txt")


@pytest.mark.parametrize("make", [zipped, tarred, debian])
def test_a_name_that_comes_twice_is_refused(make):
    with pytest.raises(fetch.FetchError, match="more than once"):
        fetch.member(make(("b.txt", CONTENT), ("b.txt", b"another")), "b.txt")


@pytest.mark.parametrize(
    "archive",
    [
        zipped(("b.txt", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777),
        zipped(("b.txt/", b"")),
        tarred(("b.txt", b""), kind=tarfile.SYMTYPE),
        tarred(("b.txt", b""), kind=tarfile.LNKTYPE),
        tarred(("b.txt", b""), kind=tarfile.DIRTYPE),
        tarred(("b.txt", b""), kind=tarfile.FIFOTYPE),
    ],
)
def test_links_and_the_like_are_refused(archive):
    with pytest.raises(fetch.FetchError, match="not a regular file"):
        fetch.member(archive, "b.txt")


@pytest.mark.parametrize("kind", ["zip", "zip that lies", "tar.gz", "tar.xz"])
def test_what_grows_too_large_is_refused(monkeypatch, kind):
    monkeypatch.setattr(fetch, "MOST", 1 << 20)
    bomb = bytes((1 << 20) + 1)
    archive = zipped(("b.txt", bomb)) if kind.startswith("zip") else tarred(("b.txt", bomb))
    if kind == "zip that lies":
        archive = archive.replace(len(bomb).to_bytes(4, "little"), (9).to_bytes(4, "little"))
    elif kind != "zip":
        archive = (gzip if kind == "tar.gz" else lzma).compress(archive)
    with pytest.raises(fetch.FetchError, match=r"more than 1 MB|cannot be read"):
        fetch.member(archive, "b.txt")


def test_damage_inside_is_seen():
    archive = bytearray(zipped(("b.txt", CONTENT), method=zipfile.ZIP_STORED))
    archive[archive.index(CONTENT)] ^= 1
    with pytest.raises(fetch.FetchError, match="cannot be read: Bad CRC"):
        fetch.member(bytes(archive), "b.txt")


# Packages


def test_a_kept_package_needs_no_network(cache, monkeypatch):
    archive = zipped(("b.zip", zipped(("c.txt", CONTENT))))
    pin(monkeypatch, "thing-1.0-py3-none-any.whl", archive)
    monkeypatch.setattr(subprocess, "run", None)  # any download would fail
    cache.mkdir(parents=True)
    (cache / "thing-1.0-py3-none-any.whl").write_bytes(archive)
    assert fetch.package("thing") == archive
    assert fetch.read("thing", "b.zip", "c.txt") == CONTENT


def test_a_file_is_copied_and_mended_and_nothing_else_is_written(cache, monkeypatch):
    archive = zipped(("other", b"x"), ("a/b.txt", CONTENT))
    pin(monkeypatch, "thing.whl", archive)
    cache.mkdir(parents=True)
    (cache / "thing.whl").write_bytes(archive)
    copy = fetch.file("thing", "a/b.txt")
    assert copy.name == "b.txt"
    assert copy.read_bytes() == CONTENT
    copy.write_bytes(b"changed")
    assert fetch.file("thing", "a/b.txt").read_bytes() == CONTENT
    found = {path.name for path in cache.rglob("*")}
    assert found == {"thing.whl", "thing.whl.files", "b.txt"}


def sdist(folder: Path, trap: Path, name: str = "thing") -> bytes:
    """Make a source distribution whose setup.py leaves a trace."""
    code = f"open({str(trap)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name={name!r})\n"
    info = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    rows = ("setup.py", code.encode()), ("PKG-INFO", info.encode()), ("b.txt", CONTENT)
    data = gzip.compress(tarred(*((f"{name}-1.0/{path}", data) for path, data in rows)))
    (folder / f"{name}-1.0.tar.gz").write_bytes(data)
    return data


@pytest.mark.parametrize("kept", [None, b"", b"\x1f\x8b cut off"])
def test_a_source_distribution_is_downloaded_and_not_run(cache, tmp_path, monkeypatch, kept):
    trap = tmp_path / "trap"
    pin(monkeypatch, "thing-1.0.tar.gz", sdist(tmp_path, trap))
    no_network(monkeypatch, tmp_path)
    if kept is not None:
        cache.mkdir(parents=True)
        (cache / "thing-1.0.tar.gz").write_bytes(kept)
    assert fetch.read("thing", "thing-1.0/b.txt") == CONTENT
    assert not trap.exists()
    assert [path.name for path in cache.iterdir()] == ["thing-1.0.tar.gz"]
    (tmp_path / "thing-1.0.tar.gz").unlink()
    assert fetch.read("thing", "thing-1.0/b.txt") == CONTENT  # kept


@pytest.mark.parametrize("name", ["two-words", "two_words", "two.words"])
def test_a_source_distribution_may_have_a_name_of_two_words(cache, tmp_path, monkeypatch, name):
    trap = tmp_path / "trap"
    pin(monkeypatch, f"{name}-1.0.tar.gz", sdist(tmp_path, trap, name), name)
    no_network(monkeypatch, tmp_path)
    assert fetch.read(name, f"{name}-1.0/b.txt") == CONTENT
    assert not trap.exists()


def wheel(folder: Path, filename: str) -> bytes:
    tag = filename.removesuffix(".whl").split("-", 2)[2]
    data = zipped(
        ("b.txt", CONTENT),
        ("thing-1.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n"),
        ("thing-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n".encode()),
        ("thing-1.0.dist-info/RECORD", b""),
    )
    (folder / filename).write_bytes(data)
    return data


@pytest.mark.parametrize("tags", ["py3-none-any", "cp311-cp311-win_amd64"])
def test_a_wheel_is_downloaded_whatever_machine_it_is_for(cache, tmp_path, monkeypatch, tags):
    filename = f"thing-1.0-{tags}.whl"
    pin(monkeypatch, filename, wheel(tmp_path, filename))
    no_network(monkeypatch, tmp_path)
    assert fetch.read("thing", "b.txt") == CONTENT
    assert (cache / filename).exists()


@pytest.mark.parametrize("kind", ["thing-1.0-py3-none-any.whl", "thing-1.0.tar.gz"])
def test_a_package_with_another_hash_is_refused_and_not_kept(cache, tmp_path, monkeypatch, kind):
    trap = tmp_path / "trap"
    data = wheel(tmp_path, kind) if kind.endswith("whl") else sdist(tmp_path, trap)
    pin(monkeypatch, kind, b"something else")
    no_network(monkeypatch, tmp_path)
    got = hashlib.sha256(data).hexdigest()
    with pytest.raises(fetch.FetchError, match=rf"^thing: expected .* sha256 \w+, got {got}$"):
        fetch.package("thing")
    assert not trap.exists()
    assert not cache.exists()


def test_a_downloader_is_not_trusted(cache, monkeypatch):
    pin(monkeypatch, "thing_1.0_all.deb", debian(("b.txt", CONTENT)))
    other = debian(("b.txt", b"another"))

    def download(command, cwd, **options):
        (Path(cwd) / "thing_1.0_all.deb").write_bytes(other)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(fetch.FetchError, match="expected a file with sha256"):
        fetch.package("thing")
    assert not cache.exists()


@pytest.mark.usefixtures("cache")
def test_without_a_network_there_is_one_line(tmp_path, monkeypatch):
    no_network(monkeypatch, tmp_path)
    for filename in ("thing-1.0-py3-none-any.whl", "thing-1.0.tar.gz"):
        pin(monkeypatch, filename, b"")
        with pytest.raises(fetch.FetchError, match=r"^thing: cannot download [^\n]*network\?\)$"):
            fetch.package("thing")


@pytest.mark.usefixtures("cache")
def test_what_is_needed_and_not_there_is_named(monkeypatch):
    pin(monkeypatch, "thing_1.0_all.deb", b"")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(fetch.FetchError, match="thing: apt-get is needed"):
        fetch.package("thing")
    with pytest.raises(fetch.FetchError, match="nothing: not a known package; known are arch, "):
        fetch.package("nothing")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    filename = "thing-1.0-py3-none-any.whl"
    pin(monkeypatch, filename, wheel(tmp_path, filename))
    no_network(monkeypatch, tmp_path)
    shutil.copy(tmp_path / filename, tmp_path / "plain file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "plain file"))
    with pytest.raises(fetch.FetchError, match="cannot keep a download there"):
        fetch.package("thing")


def test_every_pin_is_whole():
    for name, row in fetch.PACKAGES.items():
        assert len(bytes.fromhex(row.sha256)) == 32, name
        assert row.version in row.filename, name
