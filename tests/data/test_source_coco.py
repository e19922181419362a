"""COCO from a server that has small zips of the true shape."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from src.config.build import PROJECT_ROOT, register
from src.data import archives, fetch_http
from src.data import download as downloads
from src.data.data_manager import DataManager
from src.data.fetch_http import Retries
from src.data.readers.coco import CREDIT, read_coco
from src.data.sources import coco
from src.data.sources.coco import CocoSource, PublishedZip
from src.errors import UserError
from tests.data.fetch_server import Server, serving
from tests.data.pictures import noise_image
from tests.data.test_fetch_archives import content

QUICK = Retries(attempts=3, pause=0.01, connect_timeout=2.0, read_timeout=2.0)
CHUNK = downloads._CHUNK
IMAGES = {"val2017": (139, 285, 632), "train2017": (9, 25, 30, 34)}
VAL, TRAIN, NOTES = "/zips/val2017.zip", "/zips/train2017.zip", "/annotations/annotations_trainval2017.zip"


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    noise_image(number, (300, 280)).save(file, "jpeg", quality=100)
    return file.getvalue()


def captions(split: str) -> bytes:
    images = [{"id": id, "file_name": f"{id:012d}.jpg", "license": 4} for id in IMAGES[split]]
    notes = [
        {"id": 10 * id + n, "image_id": id, "caption": f"{n} {id}"} for id in IMAGES[split] for n in (1, 2)
    ]
    return json.dumps({"images": images, "annotations": notes, "licenses": [{"id": 4}]}).encode()


def published() -> dict[str, bytes]:
    zips = {
        f"/zips/{split}.zip": zipped(
            {f"{split}/": b""} | {f"{split}/{id:012d}.jpg": jpeg(id) for id in IMAGES[split]}
        )
        for split in IMAGES
    }
    kinds = {f"annotations/captions_{split}.json": captions(split) for split in IMAGES}
    others = {f"annotations/instances_{split}.json": b"{}" for split in IMAGES}
    return zips | {NOTES: zipped(kinds | others)}


PUBLISHED_FILES = coco.ZIPS
PUBLISHED = published()
UNPACKED = {VAL: ("val2017",), TRAIN: ("train2017",), NOTES: tuple(coco.ZIPS[0].unpacked)}


@pytest.fixture(autouse=True)
def small_zips(monkeypatch: pytest.MonkeyPatch) -> None:
    zips = tuple(
        PublishedZip(
            address=path[1:],
            size=len(PUBLISHED[path]),
            md5=hashlib.md5(PUBLISHED[path]).hexdigest(),
            unpacked=dict.fromkeys(UNPACKED[path], 200_000),
        )
        for path in (NOTES, VAL, TRAIN)
    )
    monkeypatch.setattr(coco, "ZIPS", zips)
    monkeypatch.setattr(os, "sync", lambda: None)  # the whole machine's, and slow where others write


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.files |= PUBLISHED
        yield running


def manager(server: Server, path: Path, **options: Any) -> DataManager:
    defaults = {"base_url": server.url + "/", "zip_dir": f"{path}_zips"}
    return DataManager(
        path=path,
        dvc_target=None,
        source=CocoSource(**defaults | options),
        retries=QUICK,
        progress=False,
    )


def ensure(server: Server, path: Path, **options: Any) -> str:
    return manager(server, path, **options).ensure()


def paths(server: Server) -> list[str]:
    return [path for path, _ in server.seen]


def is_whole(path: Path, split: str) -> bool:
    result = read_coco(path=path, split=split)
    found = {int(record.id) for record in result.records}
    same = all(record.path.read_bytes() == jpeg(int(record.id)) for record in result.records)
    return not result.problems and found == set(IMAGES[split]) and same


def test_the_published_zips_hold_every_part_of_every_split() -> None:
    parts = {part for file in PUBLISHED_FILES for part in file.unpacked}
    assert parts == {part for split in coco.SPLITS for part in (split, f"annotations/captions_{split}.json")}
    assert all(re.fullmatch("[0-9a-f]{32}", file.md5) for file in PUBLISHED_FILES)
    # JPEGs hardly become smaller in a zip.
    assert all(file.size < sum(file.unpacked.values()) for file in PUBLISHED_FILES[1:])


def test_a_split_comes_with_its_captions_only(server: Server, tmp_path: Path) -> None:
    assert ensure(server, tmp_path / "coco") == "downloaded and verified"
    assert is_whole(tmp_path / "coco", "val2017")
    assert paths(server) == [NOTES, VAL]
    assert sorted(content(tmp_path / "coco")) == sorted(
        [f"val2017/{id:012d}.jpg" for id in IMAGES["val2017"]]
        + ["annotations/captions_val2017.json", "ATTRIBUTION.txt", "LICENSE.md"]
    )
    assert (tmp_path / "coco/ATTRIBUTION.txt").read_text().strip() == CREDIT
    # The zips are gone by default.
    assert not list(tmp_path.rglob("*.zip*"))
    assert ensure(server, tmp_path / "coco") == "present and verified"
    assert len(server.seen) == 2


def test_both_splits_at_once(server: Server, tmp_path: Path) -> None:
    ensure(server, tmp_path / "coco", splits=["train2017", "val2017", "train2017"])
    assert is_whole(tmp_path / "coco", "val2017")
    assert is_whole(tmp_path / "coco", "train2017")
    assert paths(server) == [NOTES, VAL, TRAIN]


def test_another_split_is_added_later(server: Server, tmp_path: Path) -> None:
    ensure(server, tmp_path / "coco")
    (tmp_path / "coco/mine.txt").write_text("mine")
    server.seen.clear()
    assert ensure(server, tmp_path / "coco", splits=["train2017"]) == "downloaded and verified"
    assert paths(server) == [NOTES, TRAIN]
    assert is_whole(tmp_path / "coco", "val2017")
    assert is_whole(tmp_path / "coco", "train2017")
    assert (tmp_path / "coco/mine.txt").read_text() == "mine"
    for split in IMAGES:
        assert ensure(server, tmp_path / "coco", splits=[split]) == "present and verified"
    (tmp_path / "coco/train2017/000000000009.jpg").unlink()
    (tmp_path / "coco/val2017/000000000139.jpg").unlink()
    with pytest.raises(UserError, match=r"train2017/0+9\.jpg, val2017/0+139\.jpg missing or changed"):
        ensure(server, tmp_path / "coco")


def test_zips_are_kept_if_asked_for(server: Server, tmp_path: Path) -> None:
    ensure(server, tmp_path / "coco", delete_zips=False)
    kept = content(tmp_path / "coco_zips")
    assert kept == {"val2017.zip": PUBLISHED[VAL], "annotations_trainval2017.zip": PUBLISHED[NOTES]}
    server.seen.clear()
    # They are used for the next folder and not deleted, whatever that one says of downloads.
    ensure(server, tmp_path / "other", zip_dir=str(tmp_path / "coco_zips"), delete_zips=True)
    assert server.seen == []
    assert content(tmp_path / "coco_zips") == kept
    assert is_whole(tmp_path / "other", "val2017")


@pytest.mark.parametrize("zips", ["coco/_zips", "coco", "link/zips"])
def test_zips_among_what_is_unpacked_are_refused(server: Server, tmp_path: Path, zips: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "coco")
    with pytest.raises(UserError, match=r"zip_dir=.* lies in the dataset's folder .*coco\. Name one outside"):
        ensure(server, tmp_path / "coco", zip_dir=str(tmp_path / zips), delete_zips=False)
    assert server.seen == []
    assert not (tmp_path / "coco").exists()


def test_zips_lie_beside_the_folder_by_default() -> None:
    register()
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        config = compose("prepare", overrides=["dataset=coco", "dataset.path=/data/coco/"])
    assert config.dataset.source.zip_dir == "/data/coco_zips"


def test_a_server_is_asked_four_times_by_default(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(fetch_http.time, "sleep", pauses.append)
    server.failures[NOTES] = [503] * 9
    source = CocoSource(base_url=server.url)
    with pytest.raises(UserError, match="the server answered 503, 4 attempts"):
        DataManager(path=tmp_path / "coco", dvc_target=None, source=source, progress=False).ensure()
    assert paths(server) == [NOTES] * 4
    assert pauses == [1, 2, 4]


@pytest.mark.parametrize("option", [{"force_extract": True}, {"splits": ["train2017"]}])
def test_a_folder_of_the_user_is_taken_as_it_is_with_a_warning(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, option: dict[str, Any]
) -> None:
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/annotations/captions_val2017.json").write_bytes(captions("val2017"))
    (tmp_path / "coco/val2017").mkdir()
    for path in ("annotations/captions_val2017.json", "val2017"):
        os.utime(tmp_path / "coco" / path, (1, 1))
    assert ensure(server, tmp_path / "coco") == "present, taken as it is"
    assert not caplog.records
    mine = manager(server, tmp_path / "coco", **option)
    assert mine.ensure() == mine.ensure() == "present, taken as it is"
    (record,) = caplog.records
    part = option.get("splits", ["val2017"])[0]
    assert "coco was not filled by dataset.source and is taken as it is" in record.message
    assert f"{part} will not be brought or unpacked again" in record.message
    assert server.seen == []


def put_zips(folder: Path, *names: str) -> None:
    folder.mkdir()
    for name in names:
        (folder / name.rpartition("/")[2]).write_bytes(PUBLISHED[name])


def test_skip_download_uses_what_lies_there(server: Server, tmp_path: Path) -> None:
    put_zips(tmp_path / "zips", VAL, NOTES)
    ensure(server, tmp_path / "coco", zip_dir=str(tmp_path / "zips"), skip_download=True)
    assert is_whole(tmp_path / "coco", "val2017")
    assert server.seen == []
    assert len(content(tmp_path / "zips")) == 2


def test_skip_download_names_all_that_is_absent(server: Server, tmp_path: Path) -> None:
    put_zips(tmp_path / "coco_zips", VAL)
    with pytest.raises(
        UserError, match=r"coco_zips lacks annotations_trainval2017\.zip, train2017\.zip\. Put them there"
    ):
        ensure(server, tmp_path / "coco", splits=["val2017", "train2017"], skip_download=True)
    assert server.seen == []
    assert not (tmp_path / "coco").exists()


def test_half_a_zip_of_the_user_is_named(server: Server, tmp_path: Path) -> None:
    put_zips(tmp_path / "coco_zips", VAL, NOTES)
    file = tmp_path / "coco_zips/val2017.zip"
    for data in (PUBLISHED[VAL][:-9], PUBLISHED[VAL][:-9] + bytes(9)):
        file.write_bytes(data)
        with pytest.raises(UserError, match=r"val2017\.zip is not the file that COCO publishes.*remove it"):
            ensure(server, tmp_path / "coco")
    assert file.exists()
    file.unlink()
    ensure(server, tmp_path / "coco")
    assert is_whole(tmp_path / "coco", "val2017")


def test_a_cut_download_goes_on_in_the_next_run(server: Server, tmp_path: Path) -> None:
    assert len(PUBLISHED[VAL]) > 3 * CHUNK
    server.cut_after[VAL] = [2 * CHUNK, 1, 1]
    with pytest.raises(UserError, match=r"val2017\.zip: .*3 attempts\. What has come is kept"):
        ensure(server, tmp_path / "coco")
    server.seen.clear()
    ensure(server, tmp_path / "coco")
    assert server.seen == [(VAL, f"bytes={2 * CHUNK}-")]
    assert is_whole(tmp_path / "coco", "val2017")


def test_passing_errors_are_tried_again(server: Server, tmp_path: Path) -> None:
    server.failures |= {VAL: [500, 503], NOTES: [429]}
    server.cut_after[NOTES] = [7]
    ensure(server, tmp_path / "coco")
    assert is_whole(tmp_path / "coco", "val2017")


@pytest.mark.parametrize(
    ("answer", "message"),
    [(b"<html>sign in</html>", "20 bytes offered where"), (bytes(len(PUBLISHED[VAL])), "md5 is .*expected")],
)
def test_another_file_than_the_published_is_refused(
    server: Server, tmp_path: Path, answer: bytes, message: str
) -> None:
    server.files[VAL] = answer
    with pytest.raises(UserError, match=message):
        ensure(server, tmp_path / "coco")
    server.files[VAL] = PUBLISHED[VAL]
    ensure(server, tmp_path / "coco")
    assert is_whole(tmp_path / "coco", "val2017")


def test_redirects(server: Server, tmp_path: Path) -> None:
    with serving() as other:
        other.files["/mirror.zip"] = server.files.pop(VAL)
        server.redirects[VAL] = f"{other.url}/mirror.zip"
        ensure(server, tmp_path / "coco")
    assert is_whole(tmp_path / "coco", "val2017")
    server.redirects[TRAIN] = "file:///etc/hostname"
    del server.files[TRAIN]
    with pytest.raises(UserError, match="no http"):
        ensure(server, tmp_path / "coco", splits=["train2017"])
    assert is_whole(tmp_path / "coco", "val2017")


def test_no_network_says_what_to_do(tmp_path: Path) -> None:
    with serving() as server:
        pass
    with pytest.raises(UserError, match=r"ConnectionError, 3 attempts.*Set dataset\.path"):
        ensure(server, tmp_path / "coco")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, int]:
    """How much is free, by the name of the folder."""
    real, found = shutil.disk_usage(tmp_path), {"": 0}
    monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: real._replace(free=found.get(Path(folder).name, found[""]))
    )
    return found


def test_room_for_zips_and_content_is_asked_for_before_all(
    server: Server, tmp_path: Path, free: dict[str, int]
) -> None:
    needed = len(PUBLISHED[VAL]) + len(PUBLISHED[NOTES]) + 2 * 200_000
    free[""] = needed - 1
    with pytest.raises(UserError, match=r"Not enough disk space for COCO's zips and what is in them"):
        ensure(server, tmp_path / "coco")
    assert server.seen == []
    free[""] = needed
    ensure(server, tmp_path / "coco")


def test_what_is_there_needs_no_room(server: Server, tmp_path: Path, free: dict[str, int]) -> None:
    free[""] = 1 << 40
    server.cut_after[VAL] = [2 * CHUNK, 1, 1]
    with pytest.raises(UserError, match="3 attempts"):
        ensure(server, tmp_path / "coco")
    # The annotations are unpacked, and a part of the images is there.
    free[""] = len(PUBLISHED[VAL]) - 2 * CHUNK + 200_000
    ensure(server, tmp_path / "coco")


def test_zips_on_another_disk_are_counted_there(
    server: Server, tmp_path: Path, free: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(coco, "_device", lambda folder: int(folder.name == "elsewhere"))
    options = {"zip_dir": str(tmp_path / "elsewhere"), "delete_zips": False}
    downloads = len(PUBLISHED[VAL]) + len(PUBLISHED[NOTES])
    free |= {"": 2 * 200_000, "elsewhere": downloads - 1}
    with pytest.raises(UserError, match=r"Not enough disk space for COCO's zips: .*elsewhere"):
        ensure(server, tmp_path / "coco", **options)
    free |= {"": 2 * 200_000 - 1, "elsewhere": downloads}
    with pytest.raises(UserError, match=r"Not enough disk space for what is in COCO's zips"):
        ensure(server, tmp_path / "coco", **options)
    free[""] += 1
    ensure(server, tmp_path / "coco", **options)


def interrupt(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, *, call: int) -> None:
    """Ctrl-C at one of the calls of a function."""
    real, calls = getattr(module, name), []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, interrupted)


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (archives, "_write", 1),  # unpacking the captions
        (archives, "_write", 3),  # in the middle of the images
        (downloads, "hash_fault", 2),  # checking the zip of images
        (coco, "write_text_atomic", 1),  # all is unpacked
    ],
)
def test_ctrl_c_at_any_moment_loses_no_whole_zip(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, call: int
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, module, name, call=call)
        with pytest.raises(KeyboardInterrupt):
            ensure(server, tmp_path / "coco")
    assert not (tmp_path / "coco").exists()
    ensure(server, tmp_path / "coco")
    assert is_whole(tmp_path / "coco", "val2017")
    assert sorted(paths(server)) == [NOTES, VAL]
    assert not [path for path in tmp_path.iterdir() if "download" in path.name]


def test_a_zip_that_an_interrupted_run_was_to_delete_is_kept_if_this_one_says_so(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, archives, "_write", call=3)
        with pytest.raises(KeyboardInterrupt):
            ensure(server, tmp_path / "coco")
    ensure(server, tmp_path / "coco", delete_zips=False)
    assert content(tmp_path / "coco_zips") == {"val2017.zip": PUBLISHED[VAL]}
    assert sorted(paths(server)) == [NOTES, VAL]


def test_a_zip_is_deleted_before_the_next_is_unpacked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, archives, "_write", call=2 + len(IMAGES["val2017"]) + 1)
    with pytest.raises(KeyboardInterrupt):
        ensure(server, tmp_path / "coco", splits=["val2017", "train2017"])
    assert [path.name for path in tmp_path.rglob("*.zip")] == ["train2017.zip"]


def test_force_extract_mends_once(server: Server, tmp_path: Path) -> None:
    ensure(server, tmp_path / "coco", delete_zips=False)
    (tmp_path / "coco/val2017/000000000139.jpg").write_bytes(b"damaged")
    (tmp_path / "coco/val2017/000000000285.jpg").unlink()
    (tmp_path / "coco/val2017/mine.txt").write_text("mine")
    old = (tmp_path / "coco/val2017").stat().st_mtime - 60
    for path in ("coco/val2017", "coco/annotations/captions_val2017.json"):
        os.utime(tmp_path / path, (old, old))
    with pytest.raises(UserError, match="missing or changed"):
        ensure(server, tmp_path / "coco")
    server.seen.clear()
    mending = manager(server, tmp_path / "coco", force_extract=True)
    assert mending.ensure() == "downloaded and verified"
    assert is_whole(tmp_path / "coco", "val2017")
    assert (tmp_path / "coco/val2017/mine.txt").exists()
    assert server.seen == []
    # The other processes of the same run find it done.
    assert mending.ensure() == "present and verified"
    assert ensure(server, tmp_path / "coco") == "present and verified"


def test_force_extract_unpacks_again_what_an_interrupted_run_left(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"delete_zips": False}
    with monkeypatch.context() as patch:
        interrupt(patch, coco, "write_text_atomic", call=1)
        with pytest.raises(KeyboardInterrupt):
            ensure(server, tmp_path / "coco", **options)
    left = tmp_path / ".coco.darkroom-download/whole/val2017"
    (left / "000000000139.jpg").write_bytes(b"damaged")
    os.utime(left, (1, 1))
    ensure(server, tmp_path / "coco", force_extract=True, **options)
    assert is_whole(tmp_path / "coco", "val2017")


def test_a_zip_that_does_harm_is_refused(server: Server, tmp_path: Path, monkeypatch) -> None:
    evil = zipped({f"val2017/{id:012d}.jpg": jpeg(id) for id in IMAGES["val2017"]} | {"../evil": b"x"})
    serve_as_published(server, monkeypatch, VAL, evil)
    with pytest.raises(UserError, match="unsafe path"):
        ensure(server, tmp_path / "coco")
    assert not list(tmp_path.rglob("evil"))


def test_a_zip_of_something_else_is_named(server: Server, tmp_path: Path, monkeypatch) -> None:
    serve_as_published(server, monkeypatch, VAL, zipped({"other/a.jpg": b"x"}))
    with pytest.raises(UserError, match=r"val2017\.zip holds no val2017"):
        ensure(server, tmp_path / "coco")


def serve_as_published(server: Server, monkeypatch: pytest.MonkeyPatch, path: str, data: bytes) -> None:
    server.files[path] = data
    changed = [
        PublishedZip(
            address=file.address,
            size=len(server.files[f"/{file.address}"]),
            md5=hashlib.md5(server.files[f"/{file.address}"]).hexdigest(),
            unpacked=file.unpacked,
        )
        for file in coco.ZIPS
    ]
    monkeypatch.setattr(coco, "ZIPS", tuple(changed))


def test_two_at_once_fetch_once(server: Server, tmp_path: Path) -> None:
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(ensure(server, tmp_path / "coco"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["downloaded and verified", *["present and verified"] * 2]
    assert len(server.seen) == 2


def test_progress_is_shown(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    source = CocoSource(base_url=server.url)
    DataManager(path=tmp_path / "coco", dvc_target=None, source=source, retries=QUICK).ensure()
    shown = capsys.readouterr().err
    assert "unpacking val2017.zip: 100%" in shown
    assert "val2017.zip: 100%" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": ["test2017"]}, "splits=test2017 is not one of: train2017, val2017"),
        ({"splits": []}, "splits is empty"),
        ({"splits": "val2017"}, "must be a list of words"),
        ({"base_url": "images.cocodataset.org"}, "must be an address"),
        ({"skip_download": True}, "skip_download=true needs dataset.source.zip_dir"),
        ({"delete_zips": False}, "delete_zips=false needs dataset.source.zip_dir"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        CocoSource(**options)
    assert str(caught.value).startswith("dataset.source.")
