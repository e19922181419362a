"""COCO 2017 as its publishers offer it: one zip of images a split, and one with the annotations of both."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.checks import require_choice, require_flag, require_web_address, require_words
from src.data.archives import unpack_zip
from src.data.download import download, hash_fault
from src.data.fetch_http import FetchError, Retries
from src.data.readers.coco import CREDIT
from src.errors import UserError
from src.files import require_free_space, write_text_atomic

SPLITS = ("train2017", "val2017")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedZip:
    """A file as it is published. `unpacked` is how many bytes each part of the dataset in it has, about."""

    address: str
    size: int
    md5: str
    unpacked: dict[str, int]


# Sizes and MD5 as many projects that fetch the same files name them; COCO itself names none.
ZIPS = (
    PublishedZip(
        address="annotations/annotations_trainval2017.zip",
        size=252_907_541,
        md5="f4bbac642086de4f52a3fdda2de5fa2c",
        unpacked={
            "annotations/captions_train2017.json": 92_000_000,
            "annotations/captions_val2017.json": 4_000_000,
        },
    ),
    PublishedZip(
        address="zips/val2017.zip",
        size=815_585_330,
        md5="442b8da7639aecaf257c1dceb8ba8c80",
        unpacked={"val2017": 850_000_000},
    ),
    PublishedZip(
        address="zips/train2017.zip",
        size=19_336_861_798,
        md5="cced6f7f71b7629ddf16f17bbcfab6b2",
        unpacked={"train2017": 20_000_000_000},
    ),
)

_LICENCE = f"""# Licences of COCO 2017

{CREDIT}

The captions are licensed under Creative Commons Attribution 4.0 (https://creativecommons.org/licenses/by/4.0/).
The photos are not COCO's: `licenses` in the annotation file lists their licences, and `license` of each image
says which of them is its own. Some forbid commercial use. COCO's terms: https://cocodataset.org/#termsofuse
"""

_log = logging.getLogger(__name__)


class CocoSource:
    """Brings the images and captions of COCO 2017, as `read_coco` reads them.

    Args:
        splits: which of `SPLITS`. One that is asked for later is added to the folder.
        base_url: where the zips are, of COCO itself or of a mirror with the same files.
        zip_dir: a folder of zips. Those that lie there are not downloaded, and never deleted.
        skip_download: use the zips of `zip_dir` only.
        force_extract: unpack again what has been unpacked, to mend it.
        delete_zips: delete downloaded zips once they are unpacked; false keeps them in `zip_dir`.

    Raises:
        UserError: an option is not what it may be.
    """

    def __init__(
        self,
        *,
        splits: Sequence[str] = ("val2017",),
        base_url: str = "http://images.cocodataset.org",
        zip_dir: str | None = None,
        skip_download: bool = False,
        force_extract: bool = False,
        delete_zips: bool = True,
    ) -> None:
        key = "dataset.source"
        require_words(f"{key}.splits", splits)
        for split in splits:
            require_choice(f"{key}.splits", split, SPLITS)
        if not splits:
            raise UserError(f"{key}.splits is empty. Name val2017 or train2017.")
        require_web_address(f"{key}.base_url", base_url)
        for name, value in (
            ("skip_download", skip_download),
            ("force_extract", force_extract),
            ("delete_zips", delete_zips),
        ):
            require_flag(f"{key}.{name}", value)
        if zip_dir is None and (skip_download or not delete_zips):
            option = "skip_download=true" if skip_download else "delete_zips=false"
            raise UserError(f"{key}.{option} needs {key}.zip_dir, the folder of the zips.")
        parts = [part for split in splits for part in (f"annotations/captions_{split}.json", split)]
        self._parts = list(dict.fromkeys(parts))
        self._base_url = base_url.rstrip("/")
        self._zip_dir = Path(zip_dir).expanduser().absolute() if zip_dir is not None else None
        self._skip_download, self._delete_zips = skip_download, delete_zips
        # What is older than this is unpacked again; so once a process, and once for processes of one run.
        self._renew_before = time.time() if force_extract else 0.0

    @property
    def origin(self) -> str:
        """What it brings, in words; the splits do not count, since they come one after the other."""
        return "COCO 2017"

    def missing(self, path: Path) -> list[str]:
        """The folders of images and the caption files that are not there, or are to be unpacked again.

        Raises:
            UserError: the zips would lie among what is unpacked.
        """
        if self._zip_dir is not None and self._zip_dir.resolve().is_relative_to(path.resolve()):
            raise UserError(
                f"dataset.source.zip_dir={self._zip_dir} lies in the dataset's folder {path}. "
                "Name one outside."
            )
        return [part for part in self._parts if not self._is_there(path / part)]

    def _is_there(self, part: Path) -> bool:
        return part.exists() and part.stat().st_mtime >= self._renew_before

    def fetch(self, folder: Path, *, missing: Sequence[str], retries: Retries, progress: bool) -> Path:
        """Brings zips and unpacks them; see `Source.fetch`.

        Raises:
            FetchError: a zip cannot be had, or is not COCO's.
            UserError: a zip is missing that is not to be downloaded, or not enough disk space.
        """
        whole = folder / "whole"
        todo = [part for part in missing if not self._is_there(whole / part)]
        zips = [file for file in ZIPS if file.unpacked.keys() & set(todo)]
        self._require_zips(zips, folder)
        self._require_space(zips, todo, folder)
        for file in zips:
            path = self._obtain(file, folder, retries=retries, progress=progress)
            parts = [part for part in file.unpacked if part in todo]
            _unpack(path, parts, whole, work=folder / "unpacking", progress=progress)
            if path.parent == folder:
                self._put_away(path)
        write_text_atomic(whole / "ATTRIBUTION.txt", CREDIT + "\n")
        write_text_atomic(whole / "LICENSE.md", _LICENCE)
        return whole

    def _put_away(self, path: Path) -> None:
        """Deletes a downloaded zip that is unpacked, or keeps it with the user's."""
        if self._delete_zips or self._zip_dir is None:
            os.sync()  # What the zip is deleted for has to be on the disk first.
            path.unlink()
        else:
            self._zip_dir.mkdir(parents=True, exist_ok=True)
            shutil.move(path, self._zip_dir)

    def _places(self, file: PublishedZip, folder: Path) -> list[Path]:
        """Where a zip may lie: among the user's, and where an earlier try has downloaded it."""
        name = file.address.rpartition("/")[2]
        return [place / name for place in (self._zip_dir, folder) if place is not None]

    def _lying(self, file: PublishedZip, folder: Path) -> Path | None:
        return next((path for path in self._places(file, folder) if path.is_file()), None)

    def _target(self, file: PublishedZip, folder: Path) -> Path:
        return self._places(file, folder)[-1 if self._delete_zips else 0]

    def _require_zips(self, zips: Sequence[PublishedZip], folder: Path) -> None:
        absent = [self._places(file, folder)[0].name for file in zips if not self._lying(file, folder)]
        if self._skip_download and absent:
            raise UserError(
                f"dataset.source.skip_download=true, and {self._zip_dir} lacks {', '.join(absent)}. Put them "
                "there, set dataset.source.zip_dir to their folder, or dataset.source.skip_download=false."
            )

    def _require_space(self, zips: Sequence[PublishedZip], parts: Sequence[str], folder: Path) -> None:
        """Room for all zips and all that comes out of them, before the first byte is fetched."""
        unpacked = sum(file.unpacked.get(part, 0) for file in zips for part in parts)
        downloads = 0
        for file in zips:
            if not self._lying(file, folder):
                part = self._target(file, folder).with_suffix(".zip.part")
                downloads += file.size - (part.stat().st_size if part.exists() else 0)
        if self._delete_zips or self._zip_dir is None or _device(self._zip_dir) == _device(folder):
            require_free_space(folder, downloads + unpacked, "COCO's zips and what is in them")
        else:
            require_free_space(self._zip_dir, downloads, "COCO's zips")
            require_free_space(folder, unpacked, "what is in COCO's zips")

    def _obtain(self, file: PublishedZip, folder: Path, *, retries: Retries, progress: bool) -> Path:
        """The zip, downloaded if it does not lie anywhere, and checked."""
        if path := self._lying(file, folder):
            _log.info("Checking %s", path)
            if path.stat().st_size != file.size or hash_fault(path, md5=file.md5):
                raise FetchError(
                    f"{path} is not the file that COCO publishes: {file.size} bytes with the MD5 {file.md5}. "
                    "It may be half of it; remove it, and it is downloaded."
                )
            return path
        target = self._target(file, folder)
        url = f"{self._base_url}/{file.address}"
        download(
            lambda: url, target, source=url, md5=file.md5, size=file.size, retries=retries, progress=progress
        )
        return target


def _unpack(path: Path, parts: Sequence[str], whole: Path, *, work: Path, progress: bool) -> None:
    """Unpacks some files or folders of a zip; each appears in `whole` complete or not at all."""
    shutil.rmtree(work, ignore_errors=True)  # of a try that was killed
    work.mkdir()
    try:
        unpack_zip(
            path,
            work,
            wanted=lambda name: any(name.is_relative_to(part) for part in parts),
            progress=progress,
        )
        if absent := [part for part in parts if not (work / part).exists()]:
            raise FetchError(f"{path} holds no {' and no '.join(absent)}.")
        for part in parts:
            place = whole / part
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(place, ignore_errors=True)
            (work / part).replace(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _device(folder: Path) -> int:
    """Which file system a folder is on, or will be."""
    while not folder.exists():
        folder = folder.parent
    return folder.stat().st_dev
