"""Disks that are full, folders that cannot be written: nothing is lost."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bad_input.place import ROOT, Place, assert_refused

# Disks and folders


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A real file system of its own, where this machine lets us mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs more rights than these tests have")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_no_space_for_checkpoints_before_training(place: Place, monkeypatch) -> None:
    real = shutil.disk_usage(place.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1 << 20))
    done = place.run("train")
    assert_refused(done, "Not enough disk space", str(place.out), "Free some", "paths.output_dir")
    assert place.files() == {}


def test_a_disk_that_fills_up_while_training(place: Place, monkeypatch) -> None:
    """The kernel refuses the write, whatever was free before; earlier checkpoints stay whole."""
    from src.training.checkpoint import find_damage

    with small_disk(place.folder / "disk", "size=2m") as disk:
        place.out = disk
        real = shutil.disk_usage(ROOT)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1 << 40))
        done = place.run(
            "train",
            "trainer.max_steps=60",
            "trainer.save_every=1",
            "trainer.keep_checkpoints=60",
            "trainer.validate_every=null",
        )
        kept = sorted((disk / "train/mine/checkpoints").iterdir())
        assert_refused(done, "could not be written", str(disk), "No space left", "trainer.resume=auto")
        assert kept
        assert [path.name for path in kept] == [f"step_{n:08d}" for n in range(1, len(kept) + 1)]
        assert [find_damage(path) for path in kept] == [None] * len(kept)


def test_a_full_disk_loses_nothing_of_a_finished_run(trained: Place) -> None:
    with small_disk(trained.folder / "disk", "size=4m") as disk:
        shutil.copytree(trained.out, disk, dirs_exist_ok=True)
        trained.out = disk
        before = trained.files()
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        done = trained.run("train", "trainer.resume=auto", "trainer.max_steps=4")
        (disk / "ballast").unlink()
        # The log, which has no room either, says so once.
        said = "".join(line for line in done.err.splitlines(True) if "cannot write" not in line)
        assert_refused(replace(done, err=said), "Not enough disk space", "Free some")
        after = trained.files()
        # The log may say what happened.
        assert {**after, "train/mine/train.log": ""} == {**before, "train/mine/train.log": ""}


@pytest.mark.parametrize("script", ["train", "inference"])
def test_a_file_in_the_way_of_the_output(place: Place, script) -> None:
    (place.folder / "out").write_text("precious")
    done = place.run(script)
    assert_refused(done, str(place.folder / "out"), "Not a directory", "paths.output_dir")
    assert (place.folder / "out").read_text() == "precious"


@pytest.mark.parametrize("key", ["output", "cache", "data"])
def test_a_folder_that_cannot_be_written(place: Place, key) -> None:
    with small_disk(place.folder / "disk", "ro") as disk:
        done = place.run("train", f"paths.{key}_dir={disk}/x")
        assert_refused(done, str(disk), "Read-only file system", f"paths.{key}_dir")
        assert place.files() == {}


@pytest.mark.parametrize("key", ["cache", "data"])
def test_a_file_in_the_way_of_a_cache(place: Place, key) -> None:
    (place.folder / key).write_text("precious")
    done = place.run("train")
    assert_refused(done, str(place.folder / key), f"paths.{key}_dir")
    assert (place.folder / key).read_text() == "precious"
    assert place.files() == {}


def test_no_space_for_the_cache(place: Place) -> None:
    with small_disk(place.folder / "disk", "size=16k") as disk:
        done = place.run("train", f"paths.cache_dir={disk}")
        assert_refused(done, "Not enough disk space for the caches", str(disk), "paths.cache_dir")
        assert "0.0 MiB needed" not in done.err


def test_a_cache_that_fills_up(place: Place, monkeypatch) -> None:
    """The kernel refuses the write, whatever was free before."""
    with small_disk(place.folder / "disk", "size=16k") as disk:
        real = shutil.disk_usage(ROOT)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1 << 40))
        done = place.run("train", f"paths.cache_dir={disk}")
        assert_refused(done, str(disk), "o space left on the disk", "paths.cache_dir")
        # What a run leaves that failed at work: its log and its metrics, nothing that looks like a result.
        assert not {"config.yaml", "adapter", "checkpoints"} & {
            path.name for path in (place.out / "train/mine").iterdir()
        }
