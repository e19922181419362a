"""Makes a dataset present and verified: DVC, a download, or its source; quick when there is nothing to do."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.data.archives import Limits
from src.data.fetch_dvc import Tracked, few, files_below, pull, read_dvc_file, verify
from src.data.fetch_http import FetchError, Retries
from src.data.fetch_url import fetch_url
from src.data.fetch_yandex import YANDEX_API
from src.data.manifest import Manifest
from src.data.sources.base import Source
from src.data.whole_folders import merge, settle
from src.errors import UserError
from src.files import one_at_a_time, require_writable, write_json_atomic

PROJECT_ROOT = Path(__file__).resolve().parents[2]
DEMO_TARGET = "data/demo.dvc"
POCKET_TARGET = "assets/pocket.dvc"

_log = logging.getLogger(__name__)


class DataManager:
    """Brings one dataset to one folder.

    Order: present and verified -> DVC pull -> download (an archive over HTTP(S), or a public link of Yandex
    Disk) -> source. What is there already is never overwritten. A small manifest beside the folder
    (`.<name>.darkroom.json`) remembers what was verified, so the next start only compares sizes and times.

    Args:
        path: the dataset's folder. A relative one is meant from the working directory, except for what the
            DVC target tracks.
        dvc_target: the .dvc file, relative to `root`. It counts only for the folder it tracks: with a `path`
            of the user's own it plays no part.
        url: where else to get the data: an http(s) archive (zip, tar, tar.gz, tar.xz), a path to one, or a
            public link of Yandex Disk (an archive or a folder).
        sha256: expected hash of the archive.
        source: where the dataset is published, for what neither DVC nor `url` brings.
        root: the project's folder.
        companions: further .dvc files, relative to `root`, that have to be there. Default: beside the demo
            set the pocket weights, when this checkout tracks them.
        yandex_api: address of the API.
        limits: how far an archive may unpack.
        retries: attempts, pauses and timeouts of downloads.
        progress: show progress bars when on a terminal.

    Raises:
        UserError: the path is no folder of a dataset.
    """

    def __init__(
        self,
        *,
        path: Path | str = "data/demo",
        dvc_target: str | None = DEMO_TARGET,
        url: str | None = None,
        sha256: str | None = None,
        source: Source | None = None,
        root: Path = PROJECT_ROOT,
        companions: Sequence[str] | None = None,
        yandex_api: str = YANDEX_API,
        limits: Limits | None = None,
        retries: Retries | None = None,
        progress: bool = True,
    ) -> None:
        self._root = root.resolve()
        self._tracked = self._tracked_for(Path(path), dvc_target)
        self.path = self._tracked.output if self._tracked else _without_links(Path(path))
        if not self.path.name:
            raise UserError(f"dataset.path={path} is the whole file system. Name a folder in it.")
        if companions is None:
            pocket = dvc_target == DEMO_TARGET and self._tracked and (self._root / POCKET_TARGET).exists()
            companions = [POCKET_TARGET] if pocket else []
        self._companions = [
            DataManager.from_target(name, root=root, progress=progress) for name in companions
        ]
        self._url, self._sha256, self._yandex_api = url, sha256, yandex_api
        self._limits, self._retries, self._progress = limits, retries, progress
        self._source = source
        # A folder that was moved away later, with a link left in its place, has its manifest beside the link.
        link = Manifest(Path(path).absolute(), with_times=False)
        is_beside_link = self._tracked is None and link.path.exists()
        self._manifest = link if is_beside_link else Manifest(self.path, with_times=self._tracked is not None)
        self._has_warned = False

    @classmethod
    def from_target(cls, target: str, *, root: Path = PROJECT_ROOT, progress: bool = True) -> DataManager:
        """The manager of what one .dvc file tracks, for example "assets/pocket.dvc".

        Raises:
            UserError: there is no such .dvc file.
        """
        tracked = read_dvc_file(root.resolve() / target)
        return cls(path=tracked.output, dvc_target=target, root=root, companions=(), progress=progress)

    def _tracked_for(self, path: Path, dvc_target: str | None) -> Tracked | None:
        if dvc_target is None or not (self._root / dvc_target).exists():
            return None
        tracked = read_dvc_file(self._root / dvc_target)
        return tracked if tracked.output in {path.resolve(), (self._root / path).resolve()} else None

    def download_data(self) -> bool:
        """Makes the data present and verified; whether that worked. The reason of a failure is logged."""
        try:
            self.ensure()
        except UserError as error:
            _log.error("%s", error)
            return False
        return True

    def ensure(self) -> str:
        """Makes the data present and verified; returns in a few words how.

        Raises:
            UserError: it could not be made present; the message names each attempt and its reason.
        """
        for companion in self._companions:
            companion.ensure()
        if found := self._found_quickly():
            return found
        if not self._tracked and not self._url and not self._source:
            state = "is empty" if self.path.exists() else "does not exist"
            raise UserError(
                f"The dataset folder {self.path} {state}, and neither DVC, dataset.url nor dataset.source "
                "says where to get it. Put the images there, or set dataset.path or dataset.url."
            )
        with self._alone():
            # Another process may have brought it while this one waited.
            return self._found_quickly() or self._bring()

    def verified_by(self) -> str | None:
        """The hash that the data was verified by: DVC's, or the archive's; None for a user's own folder."""
        manifest = self._manifest.read()
        found = manifest.get("digest") or manifest.get("sha256")
        return found if isinstance(found, str) else None

    def _found_quickly(self) -> str | None:
        """What is known without DVC and without reading the files.

        Raises:
            UserError: what is there is damaged, and only its owner can say what to do.
        """
        if not self.path.exists():
            return None
        manifest = self._manifest.read()
        if self._tracked:
            known = manifest.get("digest") == self._tracked.digest
            return "present and verified" if known and not self._manifest.changed(manifest) else None
        if not self.path.is_dir():
            raise UserError(f"{self.path} is not a folder. Set dataset.path to the dataset's folder.")
        if not any(self.path.iterdir()):
            return None
        if not manifest:
            self._warn_of_idle_source()
            return "present, taken as it is"
        if self._came_from_source(manifest) and self._source and self._source.missing(self.path):
            return None
        if damaged := self._manifest.changed(manifest):
            raise UserError(
                f"{self.path} is no longer what was downloaded: {few(damaged)} missing or changed. "
                f"Rename the folder to fetch it again, or remove {self._manifest.path} to use it as it is."
            )
        if self._sha256 and manifest.get("sha256") not in {None, self._sha256.lower()}:
            raise UserError(
                f"{self.path} came from another archive than dataset.sha256 names. "
                "Rename the folder to fetch it again, or correct dataset.sha256."
            )
        return "present and verified"

    def _warn_of_idle_source(self) -> None:
        """Says once that the source brings and mends nothing in a folder of the user's own."""
        missing = self._source.missing(self.path) if self._source is not None else []
        if missing and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "%s was not filled by dataset.source and is taken as it is: %s will not be brought or "
                "unpacked again. Set another dataset.path for that.",
                self.path,
                few(list(missing)),
            )

    def _came_from_source(self, manifest: dict[str, Any]) -> bool:
        """Whether the source that is configured has filled the folder.

        Raises:
            UserError: that source, or one of another kind, with other settings.
        """
        origin = manifest.get("origin")
        if self._source is not None and origin not in {None, self._source.origin}:
            raise UserError(
                f"{self.path} holds {origin}, and dataset.source asks for {self._source.origin}. Rename the "
                "folder to fetch it anew, set another dataset.path, or set dataset.source as it was."
            )
        return self._source is not None and origin is not None

    def _bring(self) -> str:
        """Tries each source in turn."""
        failures = []
        if self._tracked:
            try:
                if names := verify(self._tracked, root=self._root):
                    self._manifest.remember(names, digest=self._tracked.digest)
                    return "present, every file verified"
            except Exception as error:  # DVC's own troubles come in many families; the pull reports them.
                _log.debug("could not verify %s: %s", self.path, error)
            try:
                names = pull(self._tracked, root=self._root)
                self._manifest.remember(names, digest=self._tracked.digest)
                return "pulled by DVC and verified"
            except FetchError as error:
                failures.append(f"DVC: {error}")
        if self._url:
            try:
                return self._fetch(self._url)
            except FetchError as error:
                failures.append(f"dataset.url: {error}")
        if self._source:
            try:
                return self._fetch_from(self._source)
            except FetchError as error:
                kept = "What has come is kept: start again, with a network, and it goes on from there."
                failures.append(f"dataset.source: {error} {kept}")
        raise UserError(
            f"The data for {self.path} could not be brought here. {' '.join(failures)} "
            "Set dataset.path to a folder of your own, or dataset.url to an archive."
        )

    def _fetch(self, url: str) -> str:
        """Downloads and unpacks into the dataset's folder."""
        self._refuse_to_replace()
        with self._download_folder() as folder:
            fetch_url(
                url,
                self.path,
                folder=folder,
                note=self._note,
                sha256=self._sha256,
                yandex_api=self._yandex_api,
                limits=self._limits,
                retries=self._retries,
                progress=self._progress,
            )
        return "downloaded and verified"

    def _refuse_to_replace(self) -> None:
        if self.path.exists() and (self.path.is_file() or any(self.path.iterdir())):
            raise FetchError(f"{self.path} exists and is left as it is. Move it away to download again.")

    def _fetch_from(self, source: Source) -> str:
        """Lets the source fill the folder, or add what it lacks to a folder that it has filled."""
        manifest = self._manifest.read() if self.path.exists() else {}
        is_addition = self._came_from_source(manifest)
        if not is_addition:
            self._refuse_to_replace()
        missing = source.missing(self.path)
        _log.info("Bringing to %s: %s; %s", self.path, source.origin, few(missing))
        with self._download_folder() as folder:
            whole = source.fetch(
                folder, missing=missing, retries=self._retries or Retries(), progress=self._progress
            )
            if is_addition:
                names = [*manifest["files"], *files_below(whole)]
                merge(whole, self.path)
                self._manifest.remember(names, origin=source.origin)
            else:
                settle(whole, self.path, before=lambda new: self._note(new, origin=source.origin))
        return "downloaded and verified"

    def _note(self, folder: Path, **what: str) -> None:
        """Writes the manifest of a download while it still waits beside its place: whoever sees the folder
        sees the manifest, too, and never takes a download for a folder of the user's own."""
        self._manifest.remember(files_below(folder), folder=folder, **what)

    @contextmanager
    def _download_folder(self) -> Iterator[Path]:
        """Where downloads wait to be whole; kept after a failure, so that the next try goes on from there."""
        folder = self._beside("download")
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        shutil.rmtree(folder)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time: jobs of a sweep start together and want the same data."""
        require_writable(self.path.parent)
        with one_at_a_time(self._beside("lock")):
            yield

    def _beside(self, purpose: str) -> Path:
        return self.path.with_name(f".{self.path.name}.darkroom-{purpose}")


def _without_links(path: Path) -> Path:
    """The folder itself, so that what is fetched is renamed to its place and not to that of a link.

    Raises:
        UserError: links lead in a circle.
    """
    folder = Path(os.path.realpath(path))  # pathlib's raises another error in each version of Python
    if folder.is_symlink():
        raise UserError(f"dataset.path={path} is a link that leads nowhere. Name a folder.")
    return folder


def prepare(manager: DataManager, *, report: Path | None = None) -> str:
    """What `train.py -cn prepare` does: makes the data present and says so in one line.

    Args:
        manager: of the dataset.
        report: where to write, as JSON, what is there: names, sizes, and the hash it was verified by. Its
            content depends on the data only, so DVC's next stages run again only when the data changed.

    Raises:
        UserError: it could not be made present.
    """
    start = time.perf_counter()
    how = manager.ensure()
    sizes = {name: file.stat().st_size for name, file in files_below(manager.path).items()}
    if report is not None:
        write_json_atomic(report, {"files": sizes, "verified_by": manager.verified_by()})
    took = time.perf_counter() - start
    return f"{manager.path}: {how}; {len(sizes)} files, {sum(sizes.values()) / 2**20:.1f} MiB ({took:.1f} s)"
