"""Caches with little room: a limit, a disk that fills up."""

import re
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from src.data.cache_limit import Inventory
from tests.bad_input.place import LORA, Done, Place, assert_refused
from tests.bad_input.test_disks import small_disk

ENTRY = 4096
NUM_IMAGES = 6


def text_bytes(done: Done) -> int:
    """Of one text on the disk, from what the run announced."""
    found = re.search(r"Encoding (\d+) images \(.*?\) and (\d+) texts \((.*?) MB\)", done.out)
    assert found is not None, done.out
    return round(float(found[3]) * 1e6 / int(found[2]) / ENTRY) * ENTRY


def weights(place: Place, name: str) -> dict[str, torch.Tensor]:
    return load_file(place.out / "train" / name / "adapter" / LORA)


@pytest.fixture
def few_texts(place: Place) -> Place:
    """Photos with captions of their own."""
    (place.photos / "captions.txt").write_text(
        "\n".join(f"IMG_{n:04d}.png|a photo of sksToy toy number {n}" for n in range(NUM_IMAGES)) + "\n"
    )
    return place


@pytest.mark.slow
def test_the_limit_holds_over_runs(few_texts: Place) -> None:
    place = few_texts
    first = place.run("train", "run.name=first")
    assert first.code == 0, first.err
    cache = place.folder / "cache"
    stored = Inventory([cache / "latents", cache / "texts"]).num_bytes
    limit = stored + 2 * ENTRY
    assert list((cache / "leases").iterdir()) == []
    # Other sizes are other latents. Texts are the same, claimed, and stay.
    second = place.run(
        "train", "run.name=second", "dataset.resolution=40", f"paths.cache_limit_gb={limit / 1e9}"
    )
    assert second.code == 0, second.err
    assert f"Removed {NUM_IMAGES - 2} entries of the caches" in second.out
    assert Inventory([cache / "latents", cache / "texts"]).num_bytes <= limit
    again = place.run(
        "train", "run.name=again", "dataset.resolution=40", f"paths.cache_limit_gb={limit / 1e9}"
    )
    assert "Encoding " not in again.out


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "fp16"])
def test_texts_without_room_are_encoded_live_and_train_the_same(few_texts: Place, precision) -> None:
    place = few_texts
    settings = (f"dataset.cache_precision={precision}", "optimizer.lr=0.01")
    kept = place.run("train", "run.name=kept", *settings)
    assert kept.code == 0, kept.err
    limit = NUM_IMAGES * ENTRY + 2 * text_bytes(kept)
    cache = place.folder / "other"
    live = place.run(
        "train", "run.name=live", f"paths.cache_dir={cache}", f"paths.cache_limit_gb={limit / 1e9}", *settings
    )
    assert live.code == 0, live.err
    assert "encoded at each step" in live.out
    assert not (cache / "texts").exists()
    a, b = weights(place, "live"), weights(place, "kept")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_limit_below_the_images_is_refused_before_work(place: Place) -> None:
    done = place.run("train", f"paths.cache_limit_gb={3 * ENTRY / 1e9}")
    assert_refused(
        done, "Not enough disk space for the caches", "paths.cache_limit_gb", "dataset.cache=false"
    )
    assert not (place.folder / "cache/latents").exists()


def test_precision_is_part_of_what_a_run_is(trained: Place) -> None:
    done = trained.run("train", "trainer.resume=auto", "trainer.max_steps=4", "dataset.cache_precision=fp16")
    assert_refused(done, "dataset.cache_precision (then unset, now fp16)")


def test_a_cache_that_filled_up_is_gone_on_with(place: Place, monkeypatch) -> None:
    """What was encoded before the disk was full is used, once there is room."""
    with small_disk(place.folder / "disk", "size=96k") as disk:
        real = shutil.disk_usage(place.folder)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1 << 40))
        done = place.run("train", f"paths.cache_dir={disk}")
        assert_refused(done, str(disk), "o space left on the disk", "What is there stays usable")
        kept = {path: path.stat().st_mtime_ns for path in disk.rglob("*.safetensors")}
        assert kept
        assert list(disk.rglob("*.tmp")) == []
        contents = {path: path.read_bytes() for path in kept}
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        done = place.run("train", f"paths.cache_dir={disk}", "run.name=later")
        assert done.code == 0, done.err
        assert {path: path.read_bytes() for path in kept} == contents
        announced = re.search(r"Encoding (\d+) images", done.out)
        assert announced is not None
        assert int(announced[1]) == NUM_IMAGES - sum("latents" in path.parts for path in kept)
