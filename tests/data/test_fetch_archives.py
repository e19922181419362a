from __future__ import annotations

import errno
import gzip
import io
import shutil
import stat
import tarfile
import tempfile
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data import archives
from src.data.archives import Limits, UnusableArchive, extract_archive
from src.data.fetch_http import FetchError
from src.errors import UserError


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def refused(archive: Path, tmp_path: Path, match: str, limits: Limits | None = None) -> None:
    target = tmp_path / "set"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FetchError, match=match):
        extract_archive(archive, target, limits=limits)
    assert sorted(tmp_path.rglob("*")) == before


MEMBERS = {"a.txt": b"one", "b/c.txt": b"two"}


@pytest.mark.parametrize("kind", ["zip", "w:gz", "w:xz", "w"])
def test_plain_archives(tmp_path: Path, kind: str) -> None:
    make = make_zip(tmp_path / "x", MEMBERS) if kind == "zip" else make_tar(tmp_path / "x", MEMBERS, kind)
    extract_archive(make, tmp_path / "set")
    assert content(tmp_path / "set") == MEMBERS


def test_one_top_folder_is_left_out_and_so_is_litter(tmp_path: Path) -> None:
    members = {"top/" + name: data for name, data in MEMBERS.items()}
    litter = {"__MACOSX/top/._a.txt": b"x", "top/._a.txt": b"x", "top/.DS_Store": b"x"}
    extract_archive(make_zip(tmp_path / "x", members | litter), tmp_path / "set")
    assert content(tmp_path / "set") == MEMBERS


def test_a_top_folder_may_hold_its_own_name(tmp_path: Path) -> None:
    extract_archive(make_tar(tmp_path / "x", {"set/set/a": b"1", "set/content": b"2"}), tmp_path / "set")
    assert content(tmp_path / "set") == {"set/a": b"1", "content": b"2"}


def test_dot_folders_of_tar(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"1")
    with tarfile.open(tmp_path / "x", "w") as archive:
        archive.add(tmp_path / "in", arcname=".")
    extract_archive(tmp_path / "x", tmp_path / "set")
    assert content(tmp_path / "set") == {"a": b"1"}


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:/evil", "a\\..\\evil"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_paths_that_leave_are_refused(tmp_path: Path, name: str, make: object) -> None:
    archive = make(tmp_path / "x", {"a": b"1", name: b"evil"})  # type: ignore[operator]
    refused(archive, tmp_path, "unsafe path")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x", "w") as archive:
        info = tarfile.TarInfo("door")
        info.type, info.linkname = kind, "/etc"
        archive.addfile(info)
        inside = tarfile.TarInfo("door/passwd")
        inside.size = 4
        archive.addfile(inside, io.BytesIO(b"evil"))
    refused(tmp_path / "x", tmp_path, "only plain files")


def test_links_in_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        info = zipfile.ZipInfo("door")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc")
    refused(tmp_path / "x", tmp_path, "link")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_bombs_are_refused(tmp_path: Path, make: object) -> None:
    archive = make(tmp_path / "x", {"zeros": bytes(70 << 20)})  # type: ignore[operator]
    refused(archive, tmp_path, "bomb")


def test_the_total_size_is_capped(tmp_path: Path) -> None:
    refused(make_zip(tmp_path / "x", MEMBERS), tmp_path, "bomb", Limits(max_bytes=5))


def test_a_size_that_lies_is_refused(tmp_path: Path) -> None:
    data = make_zip(tmp_path / "x", {"a": b"1" * 1000}).read_bytes()
    assert data.count((1000).to_bytes(4, "little")) == 2
    (tmp_path / "x").write_bytes(data.replace((1000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    refused(tmp_path / "x", tmp_path, r"unpacked|larger")


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    refused(make_tar(tmp_path / "x", {"a": b"1", "./a": b"2"}), tmp_path, "twice")


def test_damage_and_other_files_are_refused(tmp_path: Path) -> None:
    data = make_tar(tmp_path / "x", {"a": bytes(range(256)) * 100}).read_bytes()
    (tmp_path / "x").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "x", tmp_path, "cannot be unpacked|neither")
    (tmp_path / "x").write_bytes(b"<html>sign in</html>")
    refused(tmp_path / "x", tmp_path, "neither a zip nor a tar.*<html>")


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x", MEMBERS)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").write_bytes(b"1")
    refused(archive, tmp_path, "exists already")


def tar_header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(**records: str) -> bytes:
    """A tar archive with one file that these records describe."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a")
        info.pax_headers, info.size = records, 3
        archive.addfile(info, io.BytesIO(b"abc"))
    return file.getvalue()


def zip_with_a_bad_name() -> bytes:
    """The name is said to be UTF-8 and is not."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("\u00e9.txt", b"one")
    return file.getvalue().replace("\u00e9".encode(), b"\xff\xfe")


@pytest.mark.parametrize(
    "data",
    [
        zip_with_a_bad_name(),
        pax(**{"GNU.sparse.map": "a,b"}),
        pax(**{"GNU.sparse.size": "zz", "GNU.sparse.major": "0", "GNU.sparse.minor": "0"}),
        pax(**{"GNU.sparse.realsize": "q", "GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
        pax(size="-5"),
        pax(size="9" * 30),
    ],
    ids=["zip name", "sparse map", "sparse size", "sparse real size", "negative size", "huge size"],
)
def test_numbers_and_names_that_are_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    refused(tmp_path / "x", tmp_path, "cannot be unpacked|bomb|special|damaged")


def test_a_sparse_file_that_is_skipped_for_hours_is_refused(tmp_path: Path) -> None:
    sparse = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "10", "size": str(1 << 50)}
    (tmp_path / "x").write_bytes(pax(**sparse))
    refused(tmp_path / "x", tmp_path, "special file")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_bomb_in_a_name_does_not_get_into_memory(tmp_path: Path, kind: bytes) -> None:
    size = 50 << 20
    with gzip.open(tmp_path / "x", "wb", compresslevel=1) as file:
        file.write(tar_header("ok", tarfile.REGTYPE, 0) + tar_header("x", kind, size))
        for _ in range(size >> 20):
            file.write(b"a" * (1 << 20))
    tracemalloc.start()
    refused(tmp_path / "x", tmp_path, "to name one member")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


def test_many_headers_of_one_member_are_one_bomb(tmp_path: Path) -> None:
    long = tar_header("x", tarfile.GNUTYPE_LONGNAME, 512) + b"a" * 512
    (tmp_path / "x").write_bytes(tar_header("ok", tarfile.REGTYPE, 0) + long * 2000)
    refused(tmp_path / "x", tmp_path, "cannot be unpacked: .*recursion|to name one member")


def test_what_is_said_of_members_counts(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "x", {f"{n}": b"" for n in range(40)})
    refused(archive, tmp_path, "bomb", Limits(max_bytes=39 * 512))
    extract_archive(archive, tmp_path / "set", limits=Limits(max_bytes=40 * 512))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_folders_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object) -> None:
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 10)
    if make is make_zip:
        make_zip(tmp_path / "x", {f"{n}/": b"" for n in range(20)} | {"a": b"1"})
    else:
        (tmp_path / "x").write_bytes(
            b"".join(tar_header(f"{n}", tarfile.DIRTYPE, 0) for n in range(20)) + bytes(1024)
        )
    refused(tmp_path / "x", tmp_path, "bomb")


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_of_zip_are_read_little_by_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    sizes, read = [], zipfile.ZipExtFile.read

    def noted(self: zipfile.ZipExtFile, size: int = -1) -> bytes:
        sizes.append(size)
        return read(self, size)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", noted)
    with zipfile.ZipFile(tmp_path / "x", "w", kind) as archive:
        archive.writestr("a", bytes(range(256)) * 100)
    extract_archive(tmp_path / "x", tmp_path / "set")
    assert content(tmp_path / "set") == {"a": bytes(range(256)) * 100}
    assert max(sizes) <= 4096


def test_a_full_disk_is_no_fault_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = make_zip(tmp_path / "x", MEMBERS)
    monkeypatch.setattr(archives, "_write", full)
    with pytest.raises(FetchError, match="No space left") as caught:
        extract_archive(archive, tmp_path / "set")
    assert not isinstance(caught.value, UnusableArchive)


def whole_archives() -> list[bytes]:
    """One of each kind, with names of several lengths."""
    members = {"a.txt": b"one" * 50, "b/c.txt": b"two", f"b/{'long' * 40}.txt": b"three"}
    found = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x"
        for mode in ("w", "w:gz"):
            make_tar(path, members, mode)
            found.append(path.read_bytes())
        found += [make_zip(path, members).read_bytes(), pax(comment="c" * 300)]
    return found


ARCHIVES = whole_archives()
CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=12)), max_size=6
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An archive with some bytes replaced, perhaps cut, perhaps compressed with all that."""
    data = bytearray(draw(st.sampled_from(ARCHIVES)))
    for place, change in draw(CHANGES):
        start = int(place * len(data))
        data[start : start + len(change)] = change
    if draw(st.booleans()):
        del data[int(draw(st.floats(0, 1)) * len(data)) :]
    return gzip.compress(bytes(data)) if draw(st.booleans()) else bytes(data)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=600), damaged(), damaged()))
def test_whatever_comes_it_is_unpacked_or_refused_and_nothing_gets_outside(data: bytes) -> None:
    place = Path(tempfile.mkdtemp())
    try:
        (place / "x").write_bytes(data)
        (place / "in").mkdir()
        with suppress(UserError):
            extract_archive(place / "x", place / "in/set")
        assert {path.name for path in place.iterdir()} == {"x", "in"}
        assert {path.name for path in (place / "in").iterdir()} <= {"set"}
        assert not [path for path in place.rglob("*") if path.is_symlink()]
    finally:
        shutil.rmtree(place)
