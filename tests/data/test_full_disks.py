"""A disk that is full half-way: what has come stays usable, and the next try goes on."""

import errno
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from src.config.explain import disk_message
from src.data.adverbs.prepared_captions import captions_without_adverbs
from src.data.sources.png_files import is_whole_png
from src.errors import UserError
from tests.bad_input.test_disks import small_disk
from tests.data import test_source_arasaac as arasaac
from tests.data import test_source_coco as coco
from tests.data.fetch_server import serving
from tests.data.test_source_coco import small_zips  # noqa: F401  # a fixture that this file's COCO needs


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The space is there when it is looked for, and then another program takes it."""
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1 << 40))


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


def said(error: BaseException) -> str:
    """What the user reads."""
    if isinstance(error, UserError):
        return str(error)
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    return str(disk_message(error))


def test_captions(tmp_path: Path) -> None:
    notes = [{"id": n, "image_id": 1, "caption": f"{n} very big dogs."} for n in range(2000)]
    annotations = tmp_path / "captions_val2017.json"
    annotations.write_text(json.dumps({"images": [], "annotations": notes}))
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        with pytest.raises(OSError, match="No space left") as caught:
            captions_without_adverbs(annotations, folder=disk, num_processes=1)
        assert "No space left on the disk" in said(caught.value)
        assert [path.suffix for path in disk.iterdir()] == [".lock"]
        enlarge(disk)
        made = captions_without_adverbs(annotations, folder=disk, num_processes=1)
        assert json.loads(made.read_text())["annotations"][0]["caption"] == "0 big dogs."


def test_pictograms(tmp_path: Path) -> None:
    with serving() as server, small_disk(tmp_path / "disk", "size=48k") as disk:
        arasaac.serve(server, [arasaac.item(id, f"word {id}") for id in arasaac.IDS])
        manager = arasaac.manager(server, disk / "set", requests_per_second=1000)
        with pytest.raises((OSError, UserError)) as caught:
            manager.ensure()
        assert "o space left" in said(caught.value)
        assert not (disk / "set").exists()
        come = list(disk.glob(".set.darkroom-download/colour_500/images/*.png"))
        assert come
        assert all(is_whole_png(path.read_bytes()) for path in come)
        enlarge(disk)
        server.seen.clear()
        assert arasaac.fetch(server, disk / "set") == set(arasaac.IDS)
        asked = {Path(path).name.split("_")[0] for path in arasaac.images_asked_for(server)}
        assert asked == {str(id) for id in arasaac.IDS} - {path.stem for path in come}


@pytest.mark.parametrize("size", ["64k", "160k"])  # too small for the zip; for what is in it as well
def test_coco(tmp_path: Path, size: str) -> None:
    with serving() as server, small_disk(tmp_path / "disk", f"size={size}") as disk:
        server.files |= coco.PUBLISHED
        manager = coco.manager(server, disk / "set", splits=["val2017"])
        with pytest.raises((OSError, UserError)) as caught:
            manager.ensure()
        assert "o space left" in said(caught.value)
        assert not (disk / "set").exists()
        enlarge(disk)
        server.seen.clear()
        manager.ensure()
        assert len(list((disk / "set/val2017").iterdir())) == len(coco.IMAGES["val2017"])
        whole = [path for path, start in server.seen if start is None and path == coco.VAL]
        assert len(whole) <= 1
