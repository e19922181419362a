"""Downloads that survive cut connections: resume, checks of size and hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.data.fetch_http import FetchError, PassingError, Retries, check_status, open_url, shown, with_retries
from src.files import md5_file, read_json, require_free_space, sha256_file, write_json_atomic

_CHUNK = 1 << 14  # small: of a cut connection at most this much is lost


def part_files(target: Path) -> tuple[Path, Path]:
    """What lies beside a file while it is downloaded: the part that has come, and a note on the whole."""
    return target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")


def source_key(source: str) -> str:
    """What tells one source from another on disk: an address can hold a password or a token."""
    return hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()


class _Part:
    """The half-finished file beside the target, and what is known about the whole it belongs to."""

    def __init__(self, target: Path, source: str) -> None:
        self.path, self._note = part_files(target)
        self._source = source_key(source)

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
        return _number(response.headers.get("Content-Range", "").rpartition("/")[2])
    length = _number(response.headers.get("Content-Length", ""))
    return None if length is None else offset + length


def _number(text: str) -> int | None:
    # No more digits than Python reads, and no others: of a superscript isdigit() is true as well.
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


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
    if offset and offset == known.get("size"):
        return  # Whole already: stopped between the last byte and the check of it.
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": known["validator"]}
    with open_url(url, headers=headers, retries=retries, stream=True) as response:
        if response.status_code == 416:
            part.forget()
            raise PassingError("the server refused to go on, starting anew")
        check_status(response, what)
        if response.status_code != 206:
            offset = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            part.forget()
            raise PassingError("the server sent another part than asked for")
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
    expected = known_size if total is None else total
    if expected is not None and received != expected:
        raise PassingError(f"the connection ended after {received} of {expected} bytes")


def hash_fault(path: Path, *, sha256: str | None = None, md5: str | None = None) -> str | None:
    """Which hash a file should have and has not; None if it has those that are given."""
    for name, expected, compute in (("sha256", sha256, sha256_file), ("md5", md5, md5_file)):
        found = compute(path) if expected else None
        if expected and found != expected.lower():
            return f"{name} is {found}, expected {expected}"
    return None


def download(
    resolve: Callable[[], str],
    target: Path,
    *,
    source: str,
    sha256: str | None = None,
    md5: str | None = None,
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
        md5: the same, for publishers that name no better one.
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
        if fault := hash_fault(part.path, sha256=sha256, md5=md5):
            part.forget()
            if resumed:
                raise PassingError("the resumed file has the wrong hash")
            raise FetchError(f"{what}: {fault}. {'Check dataset.sha256.' if sha256 else 'Start again.'}")

    with_retries(attempt, retries=retries, what=what)
    part.finish(target)
