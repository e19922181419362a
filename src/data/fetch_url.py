"""What dataset.url can name: an archive over HTTP(S) or on this machine, or a public link of Yandex Disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from src.data.archives import Limits, UnusableArchive, extract_archive
from src.data.download import download, hash_fault, part_files, source_key
from src.data.fetch_http import FetchError, Retries, shown
from src.data.fetch_yandex import PublicFile, download_public_file, is_yandex_link, list_public_files
from src.data.whole_folders import settle
from src.files import require_free_space, sha256_file


def fetch_url(
    url: str,
    target: Path,
    *,
    folder: Path,
    note: Callable[..., None],
    sha256: str | None,
    yandex_api: str,
    limits: Limits | None,
    retries: Retries | None,
    progress: bool,
) -> None:
    """Downloads and unpacks to `target`, which appears whole or not at all.

    Args:
        url: the address, or the path of an archive.
        target: the dataset's folder, absent or empty.
        folder: where downloads wait to be whole.
        note: called with the finished folder and what is known of it, right before it gets its name.
        sha256: expected hash of the archive.
        yandex_api: address of the API.
        limits: how far an archive may unpack.
        retries: attempts, pauses and timeouts.
        progress: show progress bars when on a terminal.

    Raises:
        FetchError: it could not be had, or is not what it should be.
        UserError: not enough disk space.
    """
    # A folder for each address: what an interrupted download of another one has left plays no part.
    folder = folder / source_key(url)[:16]
    archive = folder / "archive"
    if is_yandex_link(url):
        settings: dict[str, Any] = {"api": yandex_api, "retries": retries, "progress": progress}
        files = list_public_files(url, api=yandex_api, retries=retries)
        if files[0].path is not None:
            if sha256:
                raise FetchError("dataset.sha256 is for archives; this link leads to a folder. Remove it.")
            _fetch_files(url, files, folder / "files", **settings)
            settle(folder / "files", target, before=lambda new: note(new, source=shown(url)))
            return
        expected = sha256 or files[0].sha256
        if not _is_kept(archive, sha256=expected):
            download_public_file(url, files[0], archive, sha256=expected, **settings)
    elif "://" in url and not url.startswith("file:"):
        if not _is_kept(archive, sha256=sha256):
            download(lambda: url, archive, source=url, sha256=sha256, retries=retries, progress=progress)
    else:
        archive = Path(unquote(_path_of(url)) if url.startswith("file:") else url)
    try:
        _unpack(archive, target, url=url, sha256=sha256, limits=limits, note=note)
    except UnusableArchive:
        if archive.parent == folder:
            archive.unlink()
        raise


def _is_kept(archive: Path, *, sha256: str | None) -> bool:
    """Whether an earlier start that was stopped while it unpacked has left the archive: it is whole."""
    return archive.exists() and hash_fault(archive, sha256=sha256) is None


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError as error:
        raise FetchError(f"{url} is no address of a file ({error}).") from error


def _fetch_files(link: str, files: list[PublicFile], folder: Path, **settings: Any) -> None:
    require_free_space(folder, sum(file.size or 0 for file in files), "the download")
    places = {folder / file.name for file in files}
    # What is there may be of another link, or of this one as it was: it is no part of the dataset, and must
    # not lie where a listed file goes. Parts of listed files are gone on with.
    _keep_only(folder, places | {part for place in places for part in part_files(place)})
    # Files that an interrupted download has brought already are not fetched again.
    for file in files:
        place = folder / file.name
        if not (place.exists() and file.sha256 and sha256_file(place) == file.sha256):
            download_public_file(link, file, place, **settings)
    _keep_only(folder, places)


def _keep_only(folder: Path, wanted: set[Path]) -> None:
    """Deletes every file below a folder that is not wanted, and the folders that this leaves empty."""
    # The deepest first, so that a folder is seen after what was in it.
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_dir():
            if path not in wanted:
                path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()


def _unpack(
    archive: Path,
    target: Path,
    *,
    url: str,
    sha256: str | None,
    limits: Limits | None,
    note: Callable[..., None],
) -> None:
    if not archive.is_file():
        raise FetchError(f"{archive} is not a file.")
    digest = sha256_file(archive)
    if sha256 and digest != sha256.lower():
        raise FetchError(f"sha256 of {archive.name} is {digest}, expected {sha256}.")
    extract_archive(
        archive, target, limits=limits, before=lambda new: note(new, sha256=digest, source=shown(url))
    )
