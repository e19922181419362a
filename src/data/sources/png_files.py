"""Many small PNG files over HTTP, several at a time at one pace; each file is whole or absent."""

from __future__ import annotations

import queue
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from src.data.sources.pace import Pace, StoppedError
from src.files import write_bytes_atomic

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_BYTES = 64 << 20
_CHUNK = 1 << 16
# A small file may take so many times the timeout of a single read: each byte could take as long as that.
_PATIENCE = 5
# Seconds for requests under way to come to an end by themselves once the work is stopped.
_GRACE = 1.0
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
        _done_in_parallel(
            lambda path: fetch(addresses[path], path),
            todo,
            num_parallel=num_parallel,
            stop=pace.stop,
            abandon=fetch.abandon,
        ) as results,
    ):
        for path, is_there in results:
            if not is_there:
                gone.add(path)
            if len(gone) > max_gone:
                raise FetchError(
                    f"{len(gone)} of {len(addresses)} {what} are not there (404), the last at "
                    f"{shown(addresses[path])}. Check the address."
                )
            bar.update()
    return [path for path in addresses if path in gone]


@contextmanager
def _done_in_parallel(
    work: Callable[[Path], bool],
    items: Sequence[Path],
    *,
    num_parallel: int,
    stop: Callable[[], None],
    abandon: Callable[[], None],
) -> Iterator[Iterator[tuple[Path, bool]]]:
    """Items and what came of them, as they are done by threads that nobody has to wait for.

    When the block is left early, by Ctrl-C too, `stop` is called so that nothing else begins. A thread that
    a silent server keeps waiting would end with its timeout only: `abandon` tells it to write nothing more.
    """
    waiting: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    done: queue.SimpleQueue[tuple[Path, bool | BaseException]] = queue.SimpleQueue()

    def run() -> None:
        while not waiting.empty():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((item, work(item)))
            except StoppedError:
                return
            except BaseException as error:
                done.put((item, error))

    def results() -> Iterator[tuple[Path, bool]]:
        for _ in items:
            item, result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield item, result

    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(num_parallel, len(items)))]
    try:
        for thread in threads:
            thread.start()
        yield results()
    except BaseException:
        stop()
        deadline = time.monotonic() + _GRACE
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        abandon()
        raise


class _Fetch:
    """Fetches one file; a thread keeps its connection open from one file to the next."""

    def __init__(self, *, pace: Pace, retries: Retries) -> None:
        self._pace, self._retries = pace, retries
        self._local = threading.local()
        self._is_abandoned = False

    def abandon(self) -> None:
        """Lets files that come from now on be dropped: the folder may be somebody else's by then."""
        self._is_abandoned = True

    def __call__(self, url: str, path: Path) -> bool:
        """Brings a file; False if the server does not have it."""
        what = f"download of {shown(url)}"
        data = with_retries(
            lambda: self._ask(url, what), retries=self._retries, what=what, sleep=self._pace.sleep
        )
        if self._is_abandoned:
            raise StoppedError
        if data is not None:
            # Not synced: a file that a power cut damages is noticed by its checksums and fetched again.
            write_bytes_atomic(path, data, durable=False)
        return data is not None

    def _ask(self, url: str, what: str) -> bytes | None:
        """One request; None if the file is gone."""
        self._pace.wait()
        session = self._session()
        limit = _PATIENCE * self._retries.read_timeout
        deadline = time.monotonic() + limit
        with open_url(url, headers={}, retries=self._retries, stream=True, session=session) as response:
            if response.status_code in _GONE:
                return None
            if response.status_code in _BUSY:
                self._pace.hold(retry_after(response.headers))
            check_status(response, what)
            data = bytearray()
            for chunk in _as_it_comes(response):
                data += chunk
                if time.monotonic() > deadline:
                    raise PassingError(f"not whole within {limit:g} s")
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


def _as_it_comes(response: Any) -> Iterator[bytes]:
    """The body in pieces, however small: a full one of a server that drips would take for ever."""
    from urllib3.exceptions import HTTPError

    try:
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            yield chunk
    except HTTPError as error:
        raise PassingError(type(error).__name__) from error
