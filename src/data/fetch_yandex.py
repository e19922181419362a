"""Public links of Yandex Disk, single files and folders, through its REST API.

API: `GET <api>/public/resources?public_key=<link>` lists, `.../download` gives a short-lived address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlencode, urlsplit

from src.checks import is_web_address
from src.data.download import download
from src.data.fetch_http import FetchError, Retries, get_json

YANDEX_API = "https://cloud-api.yandex.net/v1/disk"
_HOSTS = re.compile(r"disk(\.360)?\.yandex\.[a-z]{2,3}(\.[a-z]{2})?|yadi\.sk")
_PAGE = 200
_MAX_FILES = 1_000_000
# A request is sent for each folder, and each is in the path of what is below it.
_MAX_FOLDERS = 10_000
_MAX_DEPTH = 32
# In bytes: file systems take 255, of which the names of parts need some.
_MAX_NAME = 230


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicFile:
    """A file behind a public link. `path` is None for the link of a single file."""

    path: str | None
    name: PurePosixPath
    size: int | None
    sha256: str | None


def is_yandex_link(url: str) -> bool:
    """Whether the address is a public link of Yandex Disk."""
    host = (urlsplit(url).hostname or "").lower() if is_web_address(url) else ""
    return _HOSTS.fullmatch(host.removeprefix("www.")) is not None


def _ask(api: str, endpoint: str, parameters: dict[str, str | int], retries: Retries) -> dict[str, Any]:
    url = f"{api.rstrip('/')}/public/resources{endpoint}?{urlencode(parameters)}"
    try:
        return get_json(url, retries=retries, what="the Yandex Disk API")
    except FetchError as error:
        if "answered 404" in str(error):
            raise FetchError(
                "Yandex Disk knows no such public link. Open it in a browser and check dataset.url."
            ) from error
        raise


def _public_file(item: dict[str, Any], *, path: str | None, name: PurePosixPath) -> PublicFile:
    size, digest = item.get("size"), item.get("sha256")
    is_size = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    return PublicFile(
        path=path,
        name=name,
        size=size if is_size else None,
        sha256=digest if isinstance(digest, str) and digest else None,
    )


def _safe_name(item: dict[str, Any]) -> str:
    name = item.get("name")
    is_name = isinstance(name, str) and name not in {"", ".", ".."} and not any(c in name for c in "/\\\0")
    try:
        is_name = is_name and len(str(name).encode()) <= _MAX_NAME
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise FetchError(f"Yandex Disk lists a file with the unusable name {name!r:.90}; refused.")
    return str(name)


def _page(link: str, path: str, offset: int, *, api: str, retries: Retries) -> list[dict[str, Any]]:
    """Some of the items of a folder."""
    question: dict[str, str | int] = {"public_key": link, "path": path, "limit": _PAGE, "offset": offset}
    embedded = _ask(api, "", question, retries).get("_embedded")
    items = embedded.get("items") if isinstance(embedded, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise FetchError(f"the Yandex Disk API: the answer on the folder {path!r:.90} lists no items.")
    return items


def list_public_files(
    link: str, *, api: str = YANDEX_API, retries: Retries | None = None
) -> list[PublicFile]:
    """All files behind a public link, folders walked through, in a stable order.

    Raises:
        FetchError: no such link, it has no end, or the API cannot be reached or its answer not be used.
    """
    retries = retries or Retries()
    first = _ask(api, "", {"public_key": link, "limit": _PAGE, "offset": 0}, retries)
    if first.get("type") == "file":
        return [_public_file(first, path=None, name=PurePosixPath(_safe_name(first)))]
    found: list[PublicFile] = []
    places: set[PurePosixPath] = set()
    folders = [("/", PurePosixPath())]
    num_folders = 0
    while folders:
        path, place = folders.pop()
        num_folders += 1
        offset = 0
        while True:
            items = _page(link, path, offset, api=api, retries=retries)
            for item in items:
                name = _safe_name(item)
                inner = f"{path.rstrip('/')}/{name}"
                if place / name in places:
                    raise FetchError(f"Yandex Disk lists {inner!r:.90} twice; refused.")
                places.add(place / name)
                if item.get("type") == "dir":
                    folders.append((inner, place / name))
                else:
                    found.append(_public_file(item, path=inner, name=place / name))
            if (
                len(places) > _MAX_FILES
                or num_folders + len(folders) > _MAX_FOLDERS
                or len(place.parts) > _MAX_DEPTH
            ):
                raise FetchError(
                    f"More than {_MAX_FILES} files or {_MAX_FOLDERS} folders, or folders more than "
                    f"{_MAX_DEPTH} deep, behind the Yandex Disk link; refused."
                )
            offset += len(items)
            if len(items) < _PAGE:
                break
    if not found:
        raise FetchError("The folder behind the Yandex Disk link is empty.")
    return sorted(found, key=lambda file: file.name.as_posix())


def download_public_file(
    link: str,
    file: PublicFile,
    target: Path,
    *,
    api: str = YANDEX_API,
    sha256: str | None = None,
    retries: Retries | None = None,
    progress: bool = True,
) -> None:
    """Brings one file of a public link to `target`, checked against the hash that the API names.

    Raises:
        FetchError: it is gone, or the network failed at each attempt.
    """
    tries = retries or Retries()
    question: dict[str, str | int] = {"public_key": link}
    if file.path is not None:
        question["path"] = file.path

    def resolve() -> str:
        address = _ask(api, "/download", question, tries).get("href")
        if not isinstance(address, str):
            raise FetchError(f"Yandex Disk gives no download address for {file.name}.")
        return address

    download(
        resolve,
        target,
        source=f"{link}#{file.path or ''}",
        sha256=sha256 or file.sha256,
        size=file.size,
        retries=tries,
        progress=progress,
    )
