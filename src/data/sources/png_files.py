"""Many small PNG files over HTTP, several at a time at one pace; each file is whole or absent."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from src.data.fetch_http import (
    FetchError,
    PassingError,
    Retries,
    check_status,
    open_url,
    retry_after,
    shown,
    with_retries,
)
from src.data.sources.pace import Pace
from src.files import write_bytes_atomic

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_BYTES = 64 << 20
_CHUNK = 1 << 16
_GONE = frozenset({404, 410})
_BUSY = frozenset({429, 503})


def is_whole_png(data: bytes | bytearray) -> bool:
    """Whether these are the bytes of a PNG file from its signature to IEND, each chunk with its checksum."""
    if not data.startswith(_SIGNATURE):
        return False
    start = len(_SIGNATURE)
    while start + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + size
        if end > len(data) or zlib.crc32(data[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            return False
        if kind == b"IEND":
            return True
        start = end
    return False


def fetch_pngs(
    addresses: Mapping[Path, str],
    *,
    pace: Pace,
    num_parallel: int,
    max_gone: int,
    retries: Retries,
    progress: bool,
    what: str,
) -> list[Path]:
    """Fetches the files that are not there whole already.

    Args:
        addresses: where each file goes and where it comes from; the folders have to be there.
        pace: of all requests; stopped when anything goes wrong.
        num_parallel: requests under way at once.
        max_gone: how many files the server may not have (404, 410).
        retries: attempts, pauses and timeouts of one file.
        progress: show a progress bar when on a terminal.
        what: how messages call the files.

    Returns:
        The files that the server does not have, in the order of `addresses`.

    Raises:
        FetchError: one cannot be had for another reason, or too many are gone.
    """
    from tqdm import tqdm

    todo = [path for path in addresses if not (path.exists() and is_whole_png(path.read_bytes()))]
    fetch = _Fetch(pace=pace, retries=retries)
    gone: set[Path] = set()
    with (
        tqdm(
            total=len(addresses),
            initial=len(addresses) - len(todo),
            unit="file",
            desc=what,
            disable=None if progress else True,
        ) as bar,
        ThreadPoolExecutor(num_parallel) as pool,
    ):
        try:
            waiting = {pool.submit(fetch, addresses[path], path): path for path in todo}
            for done in as_completed(waiting):
                if not done.result():
                    gone.add(waiting[done])
                if len(gone) > max_gone:
                    raise FetchError(
                        f"{len(gone)} of {len(addresses)} {what} are not there (404), the last at "
                        f"{shown(addresses[waiting[done]])}. Check the address."
                    )
                bar.update()
        except BaseException:
            # Ctrl-C included: what is under way comes to an end, nothing else begins.
            pace.stop()
            raise
    return [path for path in addresses if path in gone]


class _Fetch:
    """Fetches one file; a thread keeps its connection open from one file to the next."""

    def __init__(self, *, pace: Pace, retries: Retries) -> None:
        self._pace, self._retries = pace, retries
        self._local = threading.local()

    def __call__(self, url: str, path: Path) -> bool:
        """Brings a file; False if the server does not have it."""
        what = f"download of {shown(url)}"
        data = with_retries(
            lambda: self._ask(url, what), retries=self._retries, what=what, sleep=self._pace.sleep
        )
        if data is not None:
            # Not synced: a file that a power cut damages is noticed by its checksums and fetched again.
            write_bytes_atomic(path, data, durable=False)
        return data is not None

    def _ask(self, url: str, what: str) -> bytes | None:
        """One request; None if the file is gone."""
        self._pace.wait()
        session = self._session()
        with open_url(url, headers={}, retries=self._retries, stream=True, session=session) as response:
            if response.status_code in _GONE:
                return None
            if response.status_code in _BUSY:
                self._pace.hold(retry_after(response.headers))
            check_status(response, what)
            data = bytearray()
            for chunk in response.iter_content(_CHUNK):
                data += chunk
                if len(data) > _MAX_BYTES:
                    raise FetchError(f"{what}: more than the limit of {_MAX_BYTES} bytes.")
        if not is_whole_png(data):
            raise PassingError(f"{len(data)} bytes came that are no whole PNG image")
        return bytes(data)

    def _session(self) -> Any:
        import requests

        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        return self._local.session
