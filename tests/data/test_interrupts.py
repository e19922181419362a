"""Stopped at any moment, encoding, fetching and preparing captions leave nothing half, and go on."""

import json
import shutil
from pathlib import Path

import pytest

from src.data.adverbs.prepared_captions import captions_without_adverbs
from src.data.adverbs.removal import remove_adverbs
from src.data.encode import EncodedDataset
from src.data.latent_cache import LatentCache
from src.data.sources.png_files import is_whole_png
from src.data.tensor_store import TensorStore
from src.data.text_cache import TextCache
from tests.data import test_source_arasaac as arasaac
from tests.data import test_source_coco as coco
from tests.data.fetch_server import serving
from tests.data.interrupting import interrupted_often
from tests.data.pictures import TinyEncoders, photo_records
from tests.data.test_fetch_archives import content
from tests.data.test_source_coco import small_zips  # noqa: F401  # a fixture that this file's COCO needs

TIMES = [10, pytest.param(100, marks=pytest.mark.slow)]


@pytest.mark.parametrize("times", TIMES)
def test_encoding(tmp_path: Path, times: int) -> None:
    records, hashes = photo_records(tmp_path / "photos", 40)
    encoders = TinyEncoders()

    def dataset() -> EncodedDataset:
        return EncodedDataset(
            records,
            hashes=hashes,
            sizes={record.id: (32, 24) for record in records},
            seed=0,
            encode_images=encoders.images,
            encode_text=encoders.text,
            latent_cache=LatentCache(tmp_path / "latents", vae_hash="vae"),
            text_cache=TextCache(tmp_path / "texts", text_hash="text"),
        )

    kept: dict[Path, int] = {}

    def check() -> None:
        found = {path: path.stat().st_ino for path in tmp_path.rglob("*.safetensors")}
        for path in found.keys() - kept.keys():
            assert TensorStore(path.parent.parent).read(path.stem) is not None
        assert kept.items() <= found.items(), "an entry was made twice"
        kept.update(found)

    interrupted_often(lambda: dataset().fill(), check, times=times, longest=0.08)
    assert len(kept) == 40 + 41
    assert dataset().num_missing() == ({}, 0)


def begin_again(folder: Path) -> None:
    """Takes away what has come as a whole, so that the next try has something to do."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("times", TIMES)
def test_pictograms(tmp_path: Path, times: int) -> None:
    num_whole = 0
    with serving() as server:
        arasaac.serve(server, [arasaac.item(id, f"word {id}") for id in arasaac.IDS])
        waiting = tmp_path / ".set.darkroom-download/colour_500/images"

        def check() -> None:
            nonlocal num_whole
            assert all(is_whole_png(path.read_bytes()) for path in waiting.glob("*.png"))
            if (tmp_path / "set").exists():
                assert len(list((tmp_path / "set/images").iterdir())) == len(arasaac.IDS)
                num_whole += 1
                begin_again(tmp_path)

        num_stopped = interrupted_often(
            lambda: arasaac.manager(server, tmp_path / "set").ensure(), check, times=times, longest=0.06
        )
    assert num_whole
    assert num_stopped


@pytest.mark.parametrize("times", TIMES)
def test_coco(tmp_path: Path, times: int) -> None:
    num_whole = 0
    with serving() as server:
        server.files |= coco.PUBLISHED
        whole = {f"val2017/{id:012d}.jpg": coco.jpeg(id) for id in coco.IMAGES["val2017"]}

        def check() -> None:
            nonlocal num_whole
            if (tmp_path / "set").exists():
                found = content(tmp_path / "set")
                assert {name: found[name] for name in whole} == whole
                assert json.loads(found["annotations/captions_val2017.json"])["images"]
                num_whole += 1
                begin_again(tmp_path)

        num_stopped = interrupted_often(
            lambda: coco.manager(server, tmp_path / "set", splits=["val2017"]).ensure(),
            check,
            times=times,
            longest=0.06,
        )
    assert num_whole
    assert num_stopped


@pytest.mark.parametrize("times", TIMES)
def test_captions(tmp_path: Path, times: int) -> None:
    # Not while the tagger is imported: this process goes on with what is half imported, a user's does not.
    remove_adverbs("a very big dog")
    notes = [{"id": n, "image_id": 1, "caption": f"{n} very big dogs sit quietly."} for n in range(1500)]
    annotations = tmp_path / "captions_val2017.json"
    annotations.write_text(json.dumps({"images": [], "annotations": notes}))

    def check() -> None:
        for path in (tmp_path / "made").glob("*.json"):
            captions = [item["caption"] for item in json.loads(path.read_text())["annotations"]]
            assert captions == [f"{n} big dogs sit." for n in range(1500)]

    interrupted_often(
        lambda: captions_without_adverbs(annotations, folder=tmp_path / "made", num_processes=1),
        check,
        times=times,
        longest=0.4,
    )
    assert len(list((tmp_path / "made").glob("*.json"))) == 1
