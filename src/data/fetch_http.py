"""Downloads over HTTP(S) that survive cut connections: retries, resume, checks of size and hash."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from src.errors import UserError
from src.files import read_json, require_free_space, sha256_file, write_json_atomic

_CHUNK = 1 << 14  # small: of a cut connection at most this much is lost
_MAX_REDIRECTS = 5
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class FetchError(UserError):
    """Data could not be brought here; the message says why."""


class _PassingError(Exception):
    """A failure that may be gone at the next attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and how patiently a download is tried: waits grow as pause, 2 pause, 4 pause..."""

    attempts: int = 4
    pause: float = 1.0
    connect_timeout: float = 10.0
    read_timeout: float = 60.0


def shown(url: str) -> str:
    """A URL as it may be printed: without user, password, query and fragment, which can hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _check_url(url: str, *, after: str | None = None) -> None:
    scheme = urlsplit(url).scheme.lower()
    if scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise FetchError(f"{shown(url)} is no http(s) address. Check dataset.url.")
    if after is not None and urlsplit(after).scheme.lower() == "https" and scheme != "https":
        raise FetchError(f"{shown(after)} redirects from https to {shown(url)}; refused.")


def open_url(url: str, *, headers: dict[str, str], retries: Retries, stream: bool) -> Any:
    """GET that follows at most five redirects, each checked, and returns the `requests.Response`.

    Raises:
        FetchError: a redirect leads somewhere it must not, or there are too many.
    """
    import requests

    _check_url(url)
    for _ in range(_MAX_REDIRECTS + 1):
        response = requests.get(
            url,
            headers={"User-Agent": "darkroom", **headers},
            stream=stream,
            timeout=(retries.connect_timeout, retries.read_timeout),
            allow_redirects=False,
        )
        if response.status_code not in {301, 302, 303, 307, 308} or "Location" not in response.headers:
            return response
        target = urljoin(url, response.headers["Location"])
        response.close()
        _check_url(target, after=url)
        url = target
    raise FetchError(f"{shown(url)}: more than {_MAX_REDIRECTS} redirects.")


def with_retries(action: Callable[[], None], *, retries: Retries, what: str) -> None:
    """Calls `action` until it succeeds; network errors and passing HTTP statuses are tried again.

    Raises:
        FetchError: it still fails at the last attempt, or at once for what cannot pass.
    """
    import requests

    reason = ""
    for attempt in range(retries.attempts):
        if attempt:
            time.sleep(retries.pause * 2 ** (attempt - 1))
        try:
            return action()
        except (_PassingError, requests.RequestException, ConnectionError, TimeoutError) as error:
            reason = str(error) if isinstance(error, _PassingError) else type(error).__name__
    raise FetchError(f"{what}: {reason}, {retries.attempts} attempts.")


def check_status(status: int, what: str) -> None:
    """Sorts HTTP statuses: fine (2xx), passing (tried again), final.

    Raises:
        FetchError: a final one, such as 404.
    """
    if status in _PASSING_STATUS:
        raise _PassingError(f"the server answered {status}")
    if not 200 <= status < 300:
        raise FetchError(f"{what}: the server answered {status}. Check dataset.url.")


def get_json(url: str, *, retries: Retries, what: str) -> dict[str, Any]:
    """GET of a JSON object, tried again like a download."""
    found: dict[str, Any] = {}

    def attempt() -> None:
        response = open_url(url, headers={"Accept": "application/json"}, retries=retries, stream=False)
        check_status(response.status_code, what)
        try:
            value = response.json()
        except ValueError as error:
            raise FetchError(f"{what}: the answer is no JSON.") from error
        if not isinstance(value, dict):
            raise FetchError(f"{what}: the answer is no JSON object.")
        found.update(value)

    with_retries(attempt, retries=retries, what=what)
    return found


class _Part:
    """The half-finished file beside the target, and what is known about the whole it belongs to."""

    def __init__(self, target: Path, source: str) -> None:
        self.path = target.with_name(target.name + ".part")
        self._note = target.with_name(target.name + ".part.json")
        self._source = source

    def known(self) -> dict[str, Any]:
        """Validator and size of the whole file, if there is a part of the same source to go on with."""
        if not self.path.exists() or not self._note.exists():
            return {}
        try:
            note = read_json(self._note)
        except (json.JSONDecodeError, OSError):
            return {}
        return note if isinstance(note, dict) and note.get("source") == self._source else {}

    def remember(self, validator: str | None, size: int | None) -> None:
        write_json_atomic(self._note, {"source": self._source, "validator": validator, "size": size})

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        self.path.replace(target)
        self._note.unlink(missing_ok=True)


def _validator(headers: Any) -> str | None:
    """What tells one version of a file from another; weak ETags do not (RFC 9110, 13.1.5)."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _total_size(response: Any, offset: int) -> int | None:
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        return int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return offset + int(length) if length.isdigit() else None


def _receive(
    url: str,
    part: _Part,
    *,
    known_size: int | None,
    max_bytes: int,
    retries: Retries,
    progress: bool,
    what: str,
) -> None:
    """One attempt: goes on where the part ends when the server can, else starts anew."""
    from tqdm import tqdm

    known = part.known()
    offset = part.path.stat().st_size if known.get("validator") else 0
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": known["validator"]}
    with open_url(url, headers=headers, retries=retries, stream=True) as response:
        if response.status_code == 416:
            part.forget()
            raise _PassingError("the server refused to go on, starting anew")
        check_status(response.status_code, what)
        if response.status_code != 206:
            offset = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            part.forget()
            raise _PassingError("the server sent another part than asked for")
        total = _total_size(response, offset)
        if known_size is not None and total is not None and total != known_size:
            raise FetchError(f"{what}: {total} bytes offered where {known_size} were expected.")
        if (total or 0) > max_bytes:
            raise FetchError(f"{what}: {total} bytes, more than the limit of {max_bytes}.")
        require_free_space(part.path.parent, max(0, (total or 0) - offset), "the download")
        part.remember(_validator(response.headers), total)
        received = offset
        with (
            part.path.open("ab" if offset else "wb") as file,
            tqdm(
                total=total,
                initial=offset,
                unit="B",
                unit_scale=True,
                desc=what,
                disable=None if progress else True,
            ) as bar,
        ):
            for chunk in response.iter_content(_CHUNK):
                received += len(chunk)
                if received > max_bytes:
                    raise FetchError(f"{what}: more than the limit of {max_bytes} bytes.")
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and received != total:
        raise _PassingError(f"the connection ended after {received} of {total} bytes")


def download(
    resolve: Callable[[], str],
    target: Path,
    *,
    source: str,
    sha256: str | None = None,
    size: int | None = None,
    max_bytes: int = 1 << 40,
    retries: Retries | None = None,
    progress: bool = True,
) -> None:
    """Brings a file to `target`, whole or not at all; a part stays beside it for the next try.

    Args:
        resolve: gives the address; called at each attempt, since some links live only for minutes.
        target: where the file goes.
        source: a stable name of the file, to recognise a part of it; printed without its query.
        sha256: expected hash, if known.
        size: expected size in bytes, if known.
        max_bytes: refuse more than this.
        retries: attempts, pauses and timeouts.
        progress: show a progress bar when on a terminal.

    Raises:
        FetchError: not there, not what was expected, or the network failed at each attempt.
        UserError: not enough disk space.
    """
    retries = retries or Retries()
    what = f"download of {shown(source) if '://' in source else source}"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target, source)

    def attempt() -> None:
        resumed = bool(part.known())
        _receive(
            resolve(),
            part,
            known_size=size,
            max_bytes=max_bytes,
            retries=retries,
            progress=progress,
            what=what,
        )
        found = sha256_file(part.path) if sha256 else None
        if sha256 and found != sha256.lower():
            part.forget()
            if resumed:
                raise _PassingError("the resumed file has the wrong hash")
            raise FetchError(f"{what}: sha256 is {found}, expected {sha256}. Check dataset.sha256.")

    with_retries(attempt, retries=retries, what=what)
    part.finish(target)
