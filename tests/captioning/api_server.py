"""A local server that speaks Anthropic's Messages API, and misbehaves on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from PIL import Image

KEY = "sk-test-0123456789-secret"
ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


def caption_of(data: str) -> str:
    """What this server says of an image, by its content: another image, another caption."""
    return f"a sksToy toy numbered {hashlib.sha256(data.encode()).hexdigest()[:8]}"


class Question:
    """One request as it came."""

    def __init__(self, headers: Any, body: dict[str, Any]) -> None:
        self.time = time.monotonic()
        self.headers = headers
        self.body = body
        content = body["messages"][-1]["content"]
        self.images = [block["source"]["data"] for block in content if block["type"] == "image"]
        self.labels = [block["text"] for block in content if block["type"] == "text"]

    @property
    def answer(self) -> dict[str, str]:
        return {str(number): caption_of(data) for number, data in enumerate(self.images, start=1)}

    def opened(self) -> list[Image.Image]:
        return [Image.open(BytesIO(base64.b64decode(data))) for data in self.images]


class ApiServer:
    """Answers questions well unless `script` says otherwise for the next ones.

    An entry is a status, a text for the model's words, a function from the right answer to the model's words,
    or one of "garbage", "half", "hang", "cut", "refuse".
    """

    def __init__(self) -> None:
        self.url = ""
        self.script: list[int | str | Callable[[dict[str, str]], Any]] = []
        self.headers: dict[str, str] = {}
        self.questions: list[Question] = []
        self.stop_reason = "end_turn"
        self.released = threading.Event()

    @property
    def asked(self) -> list[int]:
        return [len(question.images) for question in self.questions]

    def message(self, text: str) -> dict[str, Any]:
        return {
            "id": "msg_01",
            "type": "message",
            "role": "assistant",
            "model": "claude-test",
            "content": [{"type": "text", "text": text}],
            "stop_reason": self.stop_reason,
            "stop_sequence": None,
            "usage": {
                "input_tokens": 1000,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 100,
            },
        }


def _handler(server: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            assert self.path == "/v1/messages", self.path
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = Question(self.headers, body)
            server.questions.append(question)
            step = server.script.pop(0) if server.script else (lambda answer: answer)
            if isinstance(step, int):
                error = {"type": ERRORS.get(step, "api_error"), "message": f"no luck with {step}"}
                self._send(step, json.dumps({"type": "error", "error": error}).encode(), server.headers)
            elif step == "garbage":
                self._send(200, b"<html>busy</html>", {}, kind="text/html")
            elif step == "half":
                self._send(200, json.dumps(server.message("x")).encode(), {}, cut=40)
            elif step == "other":
                self._send(200, b'{"hello": [1]}', {})
            elif step == "hang":
                server.released.wait(60)
                self.close_connection = True
            else:
                words = step(question.answer) if callable(step) else step
                text = words if isinstance(words, str) else json.dumps(words)
                self._send(200, json.dumps(server.message(text)).encode(), {})

        def _send(
            self,
            status: int,
            data: bytes,
            headers: dict[str, str],
            *,
            kind: str = "application/json",
            cut: int | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if cut is not None:
                self.close_connection = True
            with suppress(ConnectionError):
                self.wfile.write(data[:cut])

    return Handler


@contextmanager
def api_serving() -> Iterator[ApiServer]:
    server = ApiServer()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        http.shutdown()
        http.server_close()
        thread.join()
