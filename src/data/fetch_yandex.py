"""Public links of Yandex Disk, single files and folders, through its REST API.

API: `GET <api>/public/resources?public_key=<link>` lists, `.../download` gives a short-lived address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlencode, urlsplit

from src.data.download import download
from src.data.fetch_http import FetchError, Retries, get_json

YANDEX_API = "https://cloud-api.yandex.net/v1/disk"
_HOSTS = re.compile(r"disk(\.360)?\.yandex\.[a-z]{2,3}(\.[a-z]{2})?|yadi\.sk")
_PAGE = 200
_MAX_FILES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicFile:
    """A file behind a public link. `path` is None for the link of a single file."""

    path: str | None
    name: PurePosixPath
    size: int | None
    sha256: str | None


def is_yandex_link(url: str) -> bool:
    """Whether the address is a public link of Yandex Disk."""
    host = (urlsplit(url).hostname or "").lower()
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
    return PublicFile(
        path=path,
        name=name,
        size=size if isinstance(size, int) else None,
        sha256=digest if isinstance(digest, str) and digest else None,
    )


def _safe_name(item: dict[str, Any]) -> str:
    name = item.get("name")
    if not isinstance(name, str) or name in {"", ".", ".."} or "/" in name or "\\" in name or "\0" in name:
        raise FetchError(f"Yandex Disk lists a file with the unusable name {name!r}; refused.")
    return name


def list_public_files(
    link: str, *, api: str = YANDEX_API, retries: Retries | None = None
) -> list[PublicFile]:
    """All files behind a public link, folders walked through, in a stable order.

    Raises:
        FetchError: no such link, or the API cannot be reached.
    """
    retries = retries or Retries()
    first = _ask(api, "", {"public_key": link, "limit": _PAGE, "offset": 0}, retries)
    if first.get("type") == "file":
        return [_public_file(first, path=None, name=PurePosixPath(_safe_name(first)))]
    found: list[PublicFile] = []
    folders: list[tuple[str, PurePosixPath]] = [("/", PurePosixPath())]
    while folders:
        path, place = folders.pop()
        offset = 0
        while True:
            question: dict[str, str | int] = {
                "public_key": link,
                "path": path,
                "limit": _PAGE,
                "offset": offset,
            }
            items = _ask(api, "", question, retries).get("_embedded", {}).get("items", [])
            for item in items:
                name = _safe_name(item)
                inner = f"{path.rstrip('/')}/{name}"
                if item.get("type") == "dir":
                    folders.append((inner, place / name))
                else:
                    found.append(_public_file(item, path=inner, name=place / name))
            if len(found) + len(folders) > _MAX_FILES:
                raise FetchError(f"More than {_MAX_FILES} files behind the Yandex Disk link; refused.")
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
