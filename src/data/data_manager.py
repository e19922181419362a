"""Makes a dataset present and verified: DVC first, then a download; quick when there is nothing to do."""

from __future__ import annotations

import fcntl
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from src.data.archives import Limits, extract_archive, settle, working_folder
from src.data.download import download
from src.data.fetch_dvc import Tracked, few, files_below, pull, read_dvc_file, verify
from src.data.fetch_http import FetchError, Retries, shown
from src.data.fetch_yandex import YANDEX_API, download_public_file, is_yandex_link, list_public_files
from src.errors import UserError
from src.files import read_json, require_free_space, require_writable, sha256_file, write_json_atomic

PROJECT_ROOT = Path(__file__).resolve().parents[2]
DEMO_TARGET = "data/demo.dvc"
POCKET_TARGET = "assets/pocket.dvc"

_log = logging.getLogger(__name__)


class DataManager:
    """Brings one dataset to one folder.

    Order: present and verified -> DVC pull -> download (an archive over HTTP(S), or a public link of Yandex
    Disk). What is there already is never overwritten. A small manifest beside the folder
    (`.<name>.darkroom.json`) remembers what was verified, so the next start only compares sizes and times.

    Args:
        path: the dataset's folder. A relative one is meant from the working directory, except for what the
            DVC target tracks.
        dvc_target: the .dvc file, relative to `root`. It counts only for the folder it tracks: with a `path`
            of the user's own it plays no part.
        url: where else to get the data: an http(s) archive (zip, tar, tar.gz, tar.xz), a path to one, or a
            public link of Yandex Disk (an archive or a folder).
        sha256: expected hash of the archive.
        root: the project's folder.
        companions: further .dvc files, relative to `root`, that have to be there. Default: beside the demo
            set the pocket weights, when this checkout tracks them.
        yandex_api: address of the API.
        limits: how far an archive may unpack.
        retries: attempts, pauses and timeouts of downloads.
        progress: show progress bars when on a terminal.
    """

    def __init__(
        self,
        *,
        path: Path | str = "data/demo",
        dvc_target: str | None = DEMO_TARGET,
        url: str | None = None,
        sha256: str | None = None,
        root: Path = PROJECT_ROOT,
        companions: Sequence[str] | None = None,
        yandex_api: str = YANDEX_API,
        limits: Limits | None = None,
        retries: Retries | None = None,
        progress: bool = True,
    ) -> None:
        self._root = root.resolve()
        self._tracked = self._tracked_for(Path(path), dvc_target)
        self.path = self._tracked.output if self._tracked else Path(path).absolute()
        if companions is None:
            pocket = dvc_target == DEMO_TARGET and self._tracked and (self._root / POCKET_TARGET).exists()
            companions = [POCKET_TARGET] if pocket else []
        self._companions = [
            DataManager.from_target(name, root=root, progress=progress) for name in companions
        ]
        self._url, self._sha256, self._yandex_api = url, sha256, yandex_api
        self._limits, self._retries, self._progress = limits, retries, progress

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
        if not self._tracked and not self._url:
            state = "is empty" if self.path.exists() else "does not exist"
            raise UserError(
                f"The dataset folder {self.path} {state}, and neither DVC nor dataset.url says where to get "
                "it. Put the images there, or set dataset.path or dataset.url."
            )
        with self._alone():
            # Another process may have brought it while this one waited.
            return self._found_quickly() or self._bring()

    def verified_by(self) -> str | None:
        """The hash that the data was verified by: DVC's, or the archive's; None for a user's own folder."""
        manifest = self._manifest()
        found = manifest.get("digest") or manifest.get("sha256")
        return found if isinstance(found, str) else None

    def _found_quickly(self) -> str | None:
        """What is known without DVC and without reading the files.

        Raises:
            UserError: what is there is damaged, and only its owner can say what to do.
        """
        if not self.path.exists():
            return None
        manifest = self._manifest()
        if self._tracked:
            known = manifest.get("digest") == self._tracked.digest
            return "present and verified" if known and not self._changed_since(manifest) else None
        if not self.path.is_dir():
            raise UserError(f"{self.path} is not a folder. Set dataset.path to the dataset's folder.")
        if not any(self.path.iterdir()):
            return None
        if not manifest:
            return "present, taken as it is"
        if damaged := self._changed_since(manifest):
            raise UserError(
                f"{self.path} is no longer what was downloaded: {few(damaged)} missing or changed. "
                f"Rename the folder to fetch it again, or remove {self._manifest_path()} to use it as it is."
            )
        if self._sha256 and manifest.get("sha256") not in {None, self._sha256.lower()}:
            raise UserError(
                f"{self.path} came from another archive than dataset.sha256 names. "
                "Rename the folder to fetch it again, or correct dataset.sha256."
            )
        return "present and verified"

    def _bring(self) -> str:
        """Tries each source in turn."""
        failures = []
        if self._tracked:
            try:
                if names := verify(self._tracked, root=self._root):
                    self._remember(names, digest=self._tracked.digest)
                    return "present, every file verified"
            except Exception as error:  # DVC's own troubles come in many families; the pull reports them.
                _log.debug("could not verify %s: %s", self.path, error)
            try:
                self._remember(pull(self._tracked, root=self._root), digest=self._tracked.digest)
                return "pulled by DVC and verified"
            except FetchError as error:
                failures.append(f"DVC: {error}")
        if self._url:
            try:
                return self._fetch(self._url)
            except FetchError as error:
                failures.append(f"dataset.url: {error}")
        raise UserError(
            f"The data for {self.path} could not be brought here. {' '.join(failures)} "
            "Set dataset.path to a folder of your own, or dataset.url to an archive."
        )

    def _fetch(self, url: str) -> str:
        """Downloads and unpacks into the dataset's folder."""
        if self.path.exists() and (self.path.is_file() or any(self.path.iterdir())):
            raise FetchError(
                f"{self.path} exists already and is left as it is. Move it away to download again."
            )
        if is_yandex_link(url):
            self._fetch_yandex(url)
        elif urlsplit(url).scheme in {"", "file"}:
            self._unpack(Path(unquote(urlsplit(url).path) if url.startswith("file:") else url), url)
        else:
            with self._download_folder() as folder:
                archive = folder / "archive"
                download(
                    lambda: url,
                    archive,
                    source=url,
                    sha256=self._sha256,
                    retries=self._retries,
                    progress=self._progress,
                )
                self._unpack(archive, url)
        return "downloaded and verified"

    def _fetch_yandex(self, link: str) -> None:
        files = list_public_files(link, api=self._yandex_api, retries=self._retries)
        settings: dict[str, Any] = {
            "api": self._yandex_api,
            "retries": self._retries,
            "progress": self._progress,
        }
        with self._download_folder() as folder:
            if files[0].path is None:
                download_public_file(link, files[0], folder / "archive", sha256=self._sha256, **settings)
                self._unpack(folder / "archive", link)
                return
            if self._sha256:
                raise FetchError("dataset.sha256 is for archives; this link leads to a folder. Remove it.")
            require_free_space(folder, sum(file.size or 0 for file in files), "the download")
            # Files that an interrupted download has brought already are not fetched again.
            for file in files:
                target = folder / "files" / file.name
                if not (target.exists() and file.sha256 and sha256_file(target) == file.sha256):
                    download_public_file(link, file, target, **settings)
            with working_folder(self.path) as work:
                whole = (folder / "files").rename(work / "files")
                settle(whole, self.path, before=self._noting(link, None))

    def _unpack(self, archive: Path, url: str) -> None:
        """Unpacks an archive that is on this machine."""
        if not archive.is_file():
            raise FetchError(f"{archive} is not a file.")
        digest = sha256_file(archive)
        if self._sha256 and digest != self._sha256.lower():
            raise FetchError(f"sha256 of {archive.name} is {digest}, expected {self._sha256}.")
        extract_archive(archive, self.path, limits=self._limits, before=self._noting(url, digest))

    def _noting(self, url: str, digest: str | None) -> Callable[[Path], None]:
        """Writes the manifest of a download while it still waits beside its place: whoever sees the folder
        sees the manifest, too, and never takes a download for a folder of the user's own."""

        def note(folder: Path) -> None:
            self._remember(list(files_below(folder)), folder=folder, sha256=digest, source=shown(url))

        return note

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
        lock = self._beside("lock")
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _beside(self, purpose: str) -> Path:
        return self.path.with_name(f".{self.path.name}.darkroom-{purpose}")

    def _manifest_path(self) -> Path:
        return self.path.with_name(f".{self.path.name}.darkroom.json")

    def _manifest(self) -> dict[str, Any]:
        try:
            manifest = read_json(self._manifest_path())
        except (OSError, ValueError):
            return {}
        return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else {}

    def _changed_since(self, manifest: dict[str, Any]) -> list[str]:
        """Names of the manifest's files that are gone or look touched."""
        return [name for name, seen in manifest["files"].items() if self._stamp(name) != seen]

    def _stamp(self, name: str, folder: Path | None = None) -> list[int] | None:
        """Size, and for what DVC tracks the time of the last change (it can be verified again; a download
        cannot, and copying a folder changes times)."""
        try:
            status = ((folder or self.path) / name).stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns] if self._tracked else [status.st_size]

    def _remember(self, names: Sequence[str], *, folder: Path | None = None, **what: str | None) -> None:
        files = {name: self._stamp(name, folder) for name in names}
        write_json_atomic(self._manifest_path(), {"files": files, **what})


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
