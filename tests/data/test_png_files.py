"""Many small files from servers that are silent or slow."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from src.data.fetch_http import FetchError, Retries
from src.data.sources.pace import Pace
from src.data.sources.png_files import fetch_pngs

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


@contextmanager
def answering(*, drips: bool) -> Iterator[str]:
    """A server that sends a byte now and then, or nothing at all."""
    ended = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if drips:
                connection.sendall(HEAD)
            while not ended.wait(0.02):
                if drips:
                    connection.sendall(b"x")

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ended.set()
        listener.close()


def fetch(url, folder, *, read_timeout, num=4):
    return fetch_pngs(
        {folder / f"{n}.png": f"{url}/{n}.png" for n in range(num)},
        pace=Pace(per_second=1000),
        num_parallel=2,
        max_gone=0,
        retries=Retries(attempts=1, pause=0.01, read_timeout=read_timeout),
        progress=False,
        what="pictograms",
    )


def test_ctrl_c_does_not_wait_for_a_silent_server(tmp_path):
    before = signal.signal(signal.SIGUSR2, signal.default_int_handler)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR2))
    start = time.monotonic()
    try:
        with answering(drips=False) as url:
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                fetch(url, tmp_path, read_timeout=12.0)
            assert time.monotonic() - start < 4
    finally:
        timer.cancel()
        signal.signal(signal.SIGUSR2, before)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_drips_has_a_limit(tmp_path):
    start = time.monotonic()
    with (
        answering(drips=True) as url,
        pytest.raises(FetchError, match=r"not whole within 0\.5 s, 1 attempts"),
    ):
        fetch(url, tmp_path, read_timeout=0.1)
    assert time.monotonic() - start < 4
    assert list(tmp_path.iterdir()) == []
