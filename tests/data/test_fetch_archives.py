from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from src.data.archives import Limits, extract_archive
from src.data.fetch_http import FetchError


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
