"""A small HTTP server that misbehaves on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Server:
    """Serves `files` by path. `seen` lists (path, Range header) of each request.

    `failures` are statuses given first, with `failure_headers`; `headers` go with whole answers; `cut_after` bytes the connection ends; paths in
    `without_length` get no Content-Length, so that only their end says how long they are.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.failures: dict[str, list[int]] = {}
        self.failure_headers: dict[str, str] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.cut_after: dict[str, list[int]] = {}
        self.without_length: set[str] = set()
        self.answers: dict[str, Callable[[dict[str, str]], tuple[int, object]]] = {}
        self.ranges = True
        self.validators = True
        self.seen: list[tuple[str, str | None]] = []
        self.url = ""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            server.seen.append((parts.path, self.headers.get("Range")))
            if server.failures.get(parts.path):
                self._send(server.failures[parts.path].pop(0), b"no", server.failure_headers)
            elif parts.path in server.answers:
                question = {key: values[0] for key, values in parse_qs(parts.query).items()}
                status, value = server.answers[parts.path](question)
                body = value if isinstance(value, bytes) else json.dumps(value).encode()
                self._send(status, body, {}, parts.path)
            elif parts.path in server.redirects:
                self.send_response(302)
                self.send_header("Location", server.redirects[parts.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif parts.path in server.files:
                self._send_file(parts.path, server.files[parts.path])
            else:
                self.send_error(404)

        def _send_file(self, path: str, data: bytes) -> None:
            tag = f'"{hashlib.md5(data).hexdigest()}"'
            headers = ({"ETag": tag} if server.validators else {}) | server.headers.get(path, {})
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if server.ranges and wanted and self.headers.get("If-Range") == tag:
                start = int(wanted[1])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                self._send(206, data[start:], headers, path)
            else:
                self._send(200, data, headers, path)

        def _send(self, status: int, data: bytes, headers: dict[str, str], path: str = "") -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if path not in server.without_length and "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if server.cut_after.get(path):
                data = data[: server.cut_after[path].pop(0)]
                self.close_connection = True
            with suppress(ConnectionError):  # a client that has seen enough hangs up
                self.wfile.write(data)

    return Handler


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
