from __future__ import annotations

import errno
import hashlib
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from src.data import archives
from src.data import download as downloads
from src.data.data_manager import PROJECT_ROOT, DataManager, prepare
from src.data.fetch_http import FetchError, Retries
from src.errors import UserError
from tests.data.fetch_server import Server, serving
from tests.data.test_fetch_archives import content, make_tar, make_zip
from tests.data.test_fetch_yandex import LINK, serve_disk

PHOTOS = {f"IMG_{k}.HEIC": bytes([k]) * 100 for k in range(4)} | {"captions.txt": b"IMG_0.HEIC|a toy\n"}
QUICK = Retries(attempts=2, pause=0.01, connect_timeout=2.0, read_timeout=2.0)


def run(*command: str, cwd: Path) -> None:
    subprocess.run(
        command, cwd=cwd, check=True, capture_output=True, env=os.environ | {"DVC_NO_ANALYTICS": "1"}
    )


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small repository laid out like this one: data/demo and assets/pocket in a folder remote."""
    root = tmp_path_factory.mktemp("origin")
    write(root / "data" / "demo", PHOTOS)
    write(root / "assets" / "pocket", {"sd15/model_index.json": b"{}", "dino.bin": b"d" * 50})
    dvc = (sys.executable, "-m", "dvc")
    run("git", "init", "-q", cwd=root)
    run(*dvc, "init", "-q", cwd=root)
    shutil.copy(PROJECT_ROOT / ".dvc" / "config", root / ".dvc" / "config")
    run(*dvc, "add", "-q", "data/demo", "assets/pocket", cwd=root)
    run(*dvc, "push", "-q", cwd=root)
    run("git", "add", "-A", cwd=root)
    run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "all", cwd=root)
    return root


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Path:
    run("git", "clone", "-q", str(origin), str(tmp_path / "clone"), cwd=tmp_path)
    return tmp_path / "clone"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def manager(root: Path, **settings: Any) -> DataManager:
    return DataManager(root=root, progress=False, retries=QUICK, **settings)


def test_a_fresh_clone_gets_the_demo_set_and_the_pocket(clone: Path) -> None:
    assert not (clone / "data" / "demo").exists()
    assert manager(clone).download_data() is True
    assert content(clone / "data" / "demo") == PHOTOS
    assert (clone / "assets" / "pocket" / "dino.bin").exists()
    assert manager(clone).ensure() == "present and verified"
    status = subprocess.run(
        ["git", "status", "--short"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert not [line for line in status.stdout.splitlines() if "darkroom" not in line]


def test_a_copy_without_git_works_as_well(clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    assert manager(clone).ensure() == "pulled by DVC and verified"
    assert content(clone / "data" / "demo") == PHOTOS


def test_a_second_start_needs_neither_dvc_nor_torch_and_is_quick(clone: Path) -> None:
    manager(clone).ensure()
    program = (
        "import sys, time; from pathlib import Path; from src.data.data_manager import DataManager\n"
        f"start = time.perf_counter(); assert DataManager(root=Path({str(clone)!r})).download_data()\n"
        "print(time.perf_counter() - start, {'dvc', 'torch', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    took, loaded = done.stdout.split(" ", 1)
    assert float(took) < 0.3
    assert loaded.strip() == "set()"


def test_removed_files_come_back(clone: Path) -> None:
    manager(clone).ensure()
    (clone / "data" / "demo" / "IMG_2.HEIC").unlink()
    assert manager(clone).ensure() == "pulled by DVC and verified"
    assert content(clone / "data" / "demo") == PHOTOS


def test_touched_files_are_verified_anew(clone: Path) -> None:
    manager(clone).ensure()
    os.utime(clone / "data" / "demo" / "IMG_2.HEIC", (1, 1))
    assert manager(clone).ensure() == "present, every file verified"
    assert manager(clone).ensure() == "present and verified"


def test_changed_files_are_named_and_left_alone(clone: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager(clone).ensure()
    (clone / "data" / "demo" / "IMG_2.HEIC").write_bytes(b"mine")
    assert manager(clone).download_data() is False
    assert "IMG_2.HEIC changed" in caplog.text
    assert "dvc checkout --force" in caplog.text
    assert (clone / "data" / "demo" / "IMG_2.HEIC").read_bytes() == b"mine"


def test_a_users_own_file_is_not_removed_by_a_repair(clone: Path) -> None:
    manager(clone).ensure()
    (clone / "data" / "demo" / "IMG_2.HEIC").unlink()
    (clone / "data" / "demo" / "mine.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"mine\.png"):
        manager(clone).ensure()
    assert (clone / "data" / "demo" / "mine.png").exists()


def test_when_dvc_fails_the_url_is_tried(clone: Path, server: Server, tmp_path: Path) -> None:
    shutil.rmtree(clone / "assets" / "dvc-remote")
    archive = make_zip(tmp_path / "x", PHOTOS).read_bytes()
    server.files["/set.zip"] = archive
    mine = manager(clone, url=server.url + "/set.zip", companions=())
    assert mine.ensure() == "downloaded and verified"
    assert content(clone / "data" / "demo") == PHOTOS
    assert sorted(
        entry.name for entry in (clone / "data").iterdir() if not entry.name.startswith(".demo")
    ) == [
        ".gitignore",
        "demo",
        "demo.dvc",
    ]


def test_when_all_fail_each_reason_is_named(clone: Path, server: Server) -> None:
    shutil.rmtree(clone / "assets" / "dvc-remote")
    with pytest.raises(UserError) as caught:
        manager(clone, url=server.url + "/none.zip", companions=()).ensure()
    message = str(caught.value)
    assert "DVC: " in message
    assert "404" in message
    assert "\n" not in message
    assert not (clone / "data" / "demo").exists()


def test_a_missing_companion_is_an_error(clone: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.dvc"):
        manager(clone, companions=["assets/nothing.dvc"])


def test_a_folder_of_the_user_is_taken_as_it_is(clone: Path, tmp_path: Path) -> None:
    write(tmp_path / "photos", {"a.png": b"1"})
    mine = manager(clone, path=tmp_path / "photos")
    assert mine.ensure() == "present, taken as it is"
    assert not (clone / "data" / "demo").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["clone", "photos"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_missing_or_empty_folder_says_what_to_do(clone: Path, tmp_path: Path, is_there: bool) -> None:
    path = tmp_path / "no" / "photos"
    if is_there:
        path.mkdir(parents=True)
    with pytest.raises(UserError, match=r"(does not exist|is empty).*dataset\.path or dataset\.url"):
        manager(clone, path=path).ensure()
    assert path.exists() == is_there
    assert (tmp_path / "no").exists() == is_there


def test_the_whole_file_system_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.path=/ is the whole file system"):
        manager(tmp_path, path="/")


@pytest.mark.parametrize(
    "url", ["http://[bad", "//[bad", "file://[bad", "http://localhost:abc/x", "ftp://x/y"]
)
def test_an_address_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"dataset\.url: "):
        manager(tmp_path, path=tmp_path / "mine", url=url).ensure()


def test_an_archive_is_downloaded_once(clone: Path, server: Server, tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "x", {f"top/{name}": data for name, data in PHOTOS.items()}).read_bytes()
    server.files["/set.tar.gz"] = archive
    settings = {
        "path": tmp_path / "mine",
        "url": server.url + "/set.tar.gz",
        "sha256": hashlib.sha256(archive).hexdigest(),
    }
    assert manager(clone, **settings).ensure() == "downloaded and verified"
    assert content(tmp_path / "mine") == PHOTOS
    assert manager(clone, **settings).ensure() == "present and verified"
    assert len(server.seen) == 1
    (tmp_path / "mine" / "IMG_1.HEIC").unlink()
    with pytest.raises(UserError, match=r"IMG_1\.HEIC missing or changed"):
        manager(clone, **settings).ensure()
    with pytest.raises(UserError, match="IMG_1"):
        manager(clone, path=tmp_path / "mine").ensure()


def test_another_sha256_than_the_one_downloaded(clone: Path, server: Server, tmp_path: Path) -> None:
    server.files["/set.zip"] = make_zip(tmp_path / "x", PHOTOS).read_bytes()
    url = server.url + "/set.zip"
    with pytest.raises(UserError, match="sha256"):
        manager(clone, path=tmp_path / "mine", url=url, sha256="00" * 32).ensure()
    assert not (tmp_path / "mine").exists()
    manager(clone, path=tmp_path / "mine", url=url).ensure()
    with pytest.raises(UserError, match="another archive"):
        manager(clone, path=tmp_path / "mine", url=url, sha256="00" * 32).ensure()


def test_an_archive_on_this_machine(clone: Path, tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", PHOTOS)
    assert manager(clone, path=tmp_path / "mine", url=str(archive)).ensure() == "downloaded and verified"
    assert content(tmp_path / "mine") == PHOTOS
    assert archive.exists()


def test_yandex_folder_and_file(clone: Path, server: Server, tmp_path: Path) -> None:
    serve_disk(server, {f"/{name}": data for name, data in PHOTOS.items()})
    api = server.url + "/v1/disk"
    mine = manager(clone, path=tmp_path / "mine", url=LINK, yandex_api=api)
    assert mine.ensure() == "downloaded and verified"
    assert content(tmp_path / "mine") == PHOTOS
    archive = make_zip(tmp_path / "x", PHOTOS).read_bytes()
    server.files["/x"] = archive
    server.answers["/v1/disk/public/resources"] = lambda _: (200, {"type": "file", "name": "x.zip"})
    server.answers["/v1/disk/public/resources/download"] = lambda _: (200, {"href": server.url + "/x"})
    other = manager(clone, path=tmp_path / "other", url=LINK, yandex_api=api)
    assert other.ensure() == "downloaded and verified"
    assert content(tmp_path / "other") == PHOTOS


def test_files_of_another_link_do_not_get_into_a_yandex_folder(server: Server, tmp_path: Path) -> None:
    def bring() -> str:
        api = server.url + "/v1/disk"
        return manager(tmp_path, path=tmp_path / "mine", url=LINK, yandex_api=api).ensure()

    serve_disk(server, {"/a.png": b"1", "/c/deep.png": b"2", "/old/x.png": b"3", "/z.png": b"4"})
    server.failures["/content/3"] = [404]
    with pytest.raises(UserError, match="404"):
        bring()
    (waiting,) = tmp_path.glob(".mine.darkroom-download/*/files")
    assert content(waiting).keys() == {"a.png", "c/deep.png", "old/x.png"}
    for name in ("z.png.part", "z.png.part.json", "c/y.png.part"):
        (waiting / name).write_bytes(b"{}")
    # A whole file has the name of what is a folder now, and the reverse.
    other = {"a.png/b.png": b"5", "c": b"6"}
    serve_disk(server, {f"/{name}": data for name, data in other.items()})
    assert bring() == "downloaded and verified"
    assert content(tmp_path / "mine") == other
    assert not (tmp_path / "mine/old").exists()


def test_a_download_is_known_as_one_from_the_moment_it_appears(
    clone: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/set.zip"] = make_zip(tmp_path / "x", PHOTOS).read_bytes()
    settings: dict[str, Any] = {"path": tmp_path / "mine", "url": server.url + "/set.zip"}
    rename, seen = Path.rename, []

    def watched(self: Path, target: Path) -> Path:
        renamed = rename(self, target)
        if target == tmp_path / "mine":
            seen.append(manager(clone, **settings).ensure())
        return renamed

    monkeypatch.setattr(Path, "rename", watched)
    assert manager(clone, **settings).ensure() == "downloaded and verified"
    assert seen == ["present and verified"]


@pytest.mark.parametrize("kind", ["url", "yandex"])
@pytest.mark.parametrize("has_hash", [True, False])
def test_a_whole_archive_is_not_fetched_again_when_unpacking_was_stopped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, has_hash: bool
) -> None:
    archive = make_zip(tmp_path / "x", PHOTOS).read_bytes()
    settings: dict[str, Any] = {"path": tmp_path / "mine", "url": server.url + "/set.zip"}
    if has_hash:
        settings["sha256"] = hashlib.sha256(archive).hexdigest()
    server.files["/set.zip"] = archive
    if kind == "yandex":
        settings |= {"url": LINK, "yandex_api": server.url + "/v1/disk"}
        server.answers["/v1/disk/public/resources"] = lambda _: (200, {"type": "file", "name": "x.zip"})
        address = {"href": server.url + "/set.zip"}
        server.answers["/v1/disk/public/resources/download"] = lambda _: (200, address)
    for stop in (KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")):
        with monkeypatch.context() as patch:
            patch.setattr(archives, "_write", failing(stop))
            with pytest.raises((KeyboardInterrupt, UserError)):
                manager(tmp_path, **settings).ensure()
        assert not (tmp_path / "mine").exists()
    assert manager(tmp_path, **settings).ensure() == "downloaded and verified"
    assert content(tmp_path / "mine") == PHOTOS
    assert [path for path, _ in server.seen].count("/set.zip") == 1
    assert not (tmp_path / ".mine.darkroom-download").exists()


def failing(error: Any) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_an_archive_that_is_kept_is_the_right_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_zip(tmp_path / "x", PHOTOS), make_zip(tmp_path / "y", {"other.png": b"1"})
    server.files |= {"/a.zip": first.read_bytes(), "/b.zip": second.read_bytes()}

    def bring(name: str, **settings: Any) -> None:
        manager(tmp_path, path=tmp_path / "mine", url=f"{server.url}/{name}", **settings).ensure()

    with monkeypatch.context() as patch:
        patch.setattr(archives, "_write", failing(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bring("a.zip")
    # Of the same address the publisher may offer another one, whose hash the user has.
    server.files["/a.zip"] = second.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(archives, "_write", failing(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bring("a.zip", sha256=hashlib.sha256(second.read_bytes()).hexdigest())
    bring("b.zip")
    assert [path for path, _ in server.seen] == ["/a.zip", "/a.zip", "/b.zip"]
    assert content(tmp_path / "mine") == {"other.png": b"1"}


def test_an_archive_that_is_unusable_is_fetched_again(server: Server, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"path": tmp_path / "mine", "url": server.url + "/set.zip"}
    whole = make_zip(tmp_path / "x", PHOTOS).read_bytes()
    server.files["/set.zip"] = whole[: len(whole) // 2]
    with pytest.raises(UserError, match="neither a zip"):
        manager(tmp_path, **settings).ensure()
    server.files["/set.zip"] = whole
    assert manager(tmp_path, **settings).ensure() == "downloaded and verified"
    # The user's own is left where it is.
    broken = tmp_path / "broken.zip"
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="neither a zip"):
        manager(tmp_path, path=tmp_path / "other", url=str(broken)).ensure()
    assert broken.exists()


def test_secrets_of_an_address_are_not_written(server: Server, tmp_path: Path) -> None:
    server.files["/set.zip"] = bytes(10_000)
    server.cut_after["/set.zip"] = [5000, 1000]
    url = server.url.replace("://", "://me:hidden@") + "/set.zip?token=secret"
    mine = manager(tmp_path, path=tmp_path / "mine", url=url)
    with pytest.raises(UserError, match="2 attempts"):
        mine.ensure()
    server.files["/set.zip"] = make_zip(tmp_path / "x", PHOTOS).read_bytes()
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(path.name.endswith(".part.json") for path in written)
    mine.ensure()
    written |= {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert not [path for path, data in written.items() if b"hidden" in data or b"secret" in data]


@pytest.mark.parametrize("kind", ["empty", "dangling"])
def test_a_link_in_the_place_of_the_folder_stays_one(server: Server, tmp_path: Path, kind: str) -> None:
    (tmp_path / "big").mkdir()
    if kind == "empty":
        (tmp_path / "big/photos").mkdir()
    (tmp_path / "mine").symlink_to(tmp_path / "big/photos")
    settings: dict[str, Any] = {"path": tmp_path / "mine", "url": str(make_zip(tmp_path / "x", PHOTOS))}
    assert manager(tmp_path, **settings).ensure() == "downloaded and verified"
    assert (tmp_path / "mine").is_symlink()
    assert content(tmp_path / "mine") == PHOTOS
    for path in ("mine", "big/photos"):
        assert manager(tmp_path, **settings | {"path": tmp_path / path}).ensure() == "present and verified"


def test_a_folder_that_was_moved_and_linked_is_known(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"path": tmp_path / "mine", "url": str(make_zip(tmp_path / "x", PHOTOS))}
    manager(tmp_path, **settings).ensure()
    (tmp_path / "mine").rename(tmp_path / "moved")
    (tmp_path / "mine").symlink_to(tmp_path / "moved")
    assert manager(tmp_path, **settings).ensure() == "present and verified"


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="a link that leads nowhere"):
        manager(tmp_path, path=tmp_path / "a", url=str(make_zip(tmp_path / "x", PHOTOS))).ensure()


def cannot_be_removed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As a mount point."""
    rmdir = Path.rmdir

    def busy(self: Path) -> None:
        if self == folder:
            raise OSError(errno.EBUSY, "Device or resource busy")
        rmdir(self)

    monkeypatch.setattr(Path, "rmdir", busy)


def half_copied(source: Path, target: Path, **_: Any) -> None:
    name = min(path.name for path in source.iterdir())
    (target / name).mkdir() if (source / name).is_dir() else (target / name).write_bytes(b"half")
    raise shutil.Error([(str(source), str(target), "[Errno 28] No space left on device")])


@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_a_mount_point_is_filled(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    settings: dict[str, Any] = {"path": tmp_path / "mine", "url": str(make_zip(tmp_path / "x", PHOTOS))}
    if kind == "folder":
        serve_disk(server, {f"/in/{name}": data for name, data in PHOTOS.items()})
        settings |= {"url": LINK, "yandex_api": server.url + "/v1/disk"}
    (tmp_path / "mine").mkdir()
    inode = (tmp_path / "mine").stat().st_ino
    cannot_be_removed(monkeypatch, tmp_path / "mine")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", half_copied)
        with pytest.raises(UserError, match=r"cannot be filled: .*No space left"):
            manager(tmp_path, **settings).ensure()
    assert not any((tmp_path / "mine").iterdir())
    assert manager(tmp_path, **settings).ensure() == "downloaded and verified"
    assert (tmp_path / "mine").stat().st_ino == inode
    assert {name.removeprefix("in/"): data for name, data in content(tmp_path / "mine").items()} == PHOTOS
    assert manager(tmp_path, **settings).ensure() == "present and verified"


def test_without_locks_it_works_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fcntl.flock", failing(OSError(errno.ENOLCK, "No locks available")))
    mine = manager(tmp_path, path=tmp_path / "mine", url=str(make_zip(tmp_path / "x", PHOTOS)))
    assert mine.ensure() == "downloaded and verified"
    assert f"{tmp_path} cannot be locked: start no other run" in caplog.text


def brings(server: Server, kind: str, data: dict[str, bytes], path: Path) -> DataManager:
    """The manager of what the server has as an archive or as a Yandex folder."""
    if kind == "url":
        server.files["/set.zip"] = make_zip(path.with_name("x"), data).read_bytes()
        return manager(path.parent, path=path, url=server.url + "/set.zip")
    serve_disk(server, {f"/{name}": content for name, content in data.items()})
    return manager(path.parent, path=path, url=LINK, yandex_api=server.url + "/v1/disk")


def fetched(server: Server) -> list[str]:
    """Where each request for content began; of an archive or of several files."""
    return [start or "" for path, start in server.seen if path.startswith(("/set.zip", "/content"))]


RANDOM = {f"{n}.png": random.Random(n).randbytes(50_000) for n in range(2)}


@pytest.mark.parametrize("kind", ["url", "yandex"])
def test_ctrl_c_in_a_download_leaves_what_has_come(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(downloads, "_CHUNK", 10_000)
    mine = brings(server, kind, RANDOM, tmp_path / "mine")
    num_chunks = 0
    iter_content = requests.Response.iter_content

    def stopped(self: requests.Response, size: int) -> Iterator[bytes]:
        nonlocal num_chunks
        for chunk in iter_content(self, size):
            num_chunks += size == downloads._CHUNK
            if num_chunks == 8:
                raise KeyboardInterrupt
            yield chunk

    with monkeypatch.context() as patch:
        patch.setattr(requests.Response, "iter_content", stopped)
        with pytest.raises(KeyboardInterrupt):
            mine.ensure()
    assert not (tmp_path / "mine").exists()
    server.seen.clear()
    assert mine.ensure() == "downloaded and verified"
    assert content(tmp_path / "mine") == RANDOM
    # Of the folder the first file is whole; the rest of the second is all that is asked for.
    assert fetched(server) == ["bytes=70000-" if kind == "url" else "bytes=20000-"]
    assert sorted(path.name for path in tmp_path.iterdir() if "download" in path.name) == []


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond it, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", ["url", "yandex"])
def test_a_disk_that_fills_while_it_downloads_leaves_what_has_come(
    server: Server, tmp_path: Path, kind: str
) -> None:
    mine = brings(
        server, kind, {"a.png": RANDOM["0.png"][:1000], "b.png": RANDOM["1.png"]}, tmp_path / "mine"
    )
    with pytest.raises(OSError, match="File too large"), largest_file(40_000):
        mine.ensure()
    assert not (tmp_path / "mine").exists()
    server.seen.clear()
    assert mine.ensure() == "downloaded and verified"
    assert content(tmp_path / "mine") == {"a.png": RANDOM["0.png"][:1000], "b.png": RANDOM["1.png"]}
    assert fetched(server) == ["bytes=40000-"]


def test_two_at_once_download_once(clone: Path, server: Server, tmp_path: Path) -> None:
    server.files["/set.zip"] = make_zip(tmp_path / "x", PHOTOS).read_bytes()
    url, results = server.url + "/set.zip", []

    def bring() -> None:
        results.append(manager(clone, path=tmp_path / "mine", url=url).ensure())

    threads = [threading.Thread(target=bring) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["downloaded and verified"] + ["present and verified"] * 3
    assert len(server.seen) == 1


class Shelf:
    """A source that has a set at hand, or fails."""

    def __init__(self, files: dict[str, bytes] | None) -> None:
        self.files = files
        self.num_fetched = 0

    @property
    def origin(self) -> str:
        return "the shelf"

    def missing(self, path: Path) -> list[str]:
        return [] if path.exists() and any(path.iterdir()) else ["all"]

    def fetch(self, folder: Path, *, missing: Sequence[str], retries: Retries, progress: bool) -> Path:
        self.num_fetched += 1
        (folder / "half").write_bytes(b"half")
        if self.files is None:
            raise FetchError("the shelf is empty.")
        write(folder / "whole", self.files)
        return folder / "whole"


def test_a_source_is_tried_after_all_else(clone: Path, server: Server, tmp_path: Path) -> None:
    shelf = Shelf(PHOTOS)
    assert manager(clone, source=shelf, companions=()).ensure() == "pulled by DVC and verified"
    server.files["/set.zip"] = make_zip(tmp_path / "x", PHOTOS).read_bytes()
    settings: dict[str, Any] = {"path": tmp_path / "a", "url": server.url + "/set.zip", "source": shelf}
    assert manager(clone, **settings).ensure() == "downloaded and verified"
    # What came from the URL did not come from the source, and that is no fault.
    assert manager(clone, **settings).ensure() == "present and verified"
    assert shelf.num_fetched == 0
    settings |= {"path": tmp_path / "b", "url": server.url + "/none.zip"}
    assert manager(clone, **settings).ensure() == "downloaded and verified"
    assert content(tmp_path / "b") == PHOTOS
    shutil.rmtree(clone / "data" / "demo")
    shutil.rmtree(clone / "assets" / "dvc-remote")
    shutil.rmtree(clone / ".dvc" / "cache", ignore_errors=True)
    assert manager(clone, source=shelf, companions=()).ensure() == "downloaded and verified"
    assert shelf.num_fetched == 2


def test_what_a_source_brought_is_known_and_what_failed_is_kept(clone: Path, tmp_path: Path) -> None:
    shelf = Shelf(None)
    mine = manager(clone, path=tmp_path / "mine", url=str(tmp_path / "none.zip"), source=shelf)
    with pytest.raises(
        UserError, match=r"dataset\.url: .*none\.zip is not a file\. dataset\.source: the shelf is empty"
    ):
        mine.ensure()
    assert content(tmp_path / ".mine.darkroom-download") == {"half": b"half"}
    shelf.files = PHOTOS
    assert mine.ensure() == "downloaded and verified"
    assert not (tmp_path / ".mine.darkroom-download").exists()
    assert mine.ensure() == "present and verified"
    (tmp_path / "mine" / "IMG_1.HEIC").unlink()
    with pytest.raises(UserError, match=r"IMG_1\.HEIC missing or changed"):
        manager(clone, path=tmp_path / "mine").ensure()


def test_prepare_says_one_line(clone: Path) -> None:
    start = time.perf_counter()
    line = prepare(manager(clone))
    assert "pulled by DVC and verified; 5 files" in line
    assert "\n" not in line
    assert time.perf_counter() - start < 10
