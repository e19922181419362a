"""A small server that speaks the part of ClearML's protocol that the SDK uses in one run.

It keeps tasks, models, events and files in memory, and refuses status changes as the real server does.
`trouble` makes it misbehave: an error status for API calls, "hang", or "garbage".
"""

import contextlib
import json
import re
import socket
import threading
import time
import uuid
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import jwt

ACCESS_KEY, SECRET_KEY = "an-access-key", "a-secret-key"
# Status changes that the real server takes without `force`.
ALLOWED = {
    "completed": {"in_progress", "stopped"},
    "failed": {"in_progress", "stopped", "queued"},
    "stopped": {"in_progress", "queued", "completed", "failed", "created"},
}


class ClearmlServer:
    """Runs in a thread; use as a context manager.

    Attributes:
        tasks: by id, as the SDK edited them; models likewise.
        queues: id by name.
        queued: (task, queue) in order.
        events: all events in order of arrival.
        files: uploaded bytes by path.
        requests: names of the endpoints called.
        refused: endpoints that answer with error 400.
        trouble: None, an HTTP status, "hang" or "garbage"; may change while running.
    """

    def __init__(self, trouble: int | str | None = None) -> None:
        self.tasks: dict[str, dict[str, Any]] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.projects: dict[str, dict[str, Any]] = {}
        self.queues = {"gpu": "q" * 32}
        self.queued: list[tuple[str, str]] = []
        self.events: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.bodies: list[str] = []
        self.refused: set[str] = set()
        self.trouble = trouble
        self.released = threading.Event()
        self.connections: list[socket.socket] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server.connections.append(self.connection)

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                server.answer(self)

            do_POST = do_PUT = do_GET

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that went away
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.address = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "ClearmlServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server; connections are refused from then on."""
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):  # closed long ago
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point the SDK here."""
        hosts = dict.fromkeys(("CLEARML_API_HOST", "CLEARML_WEB_HOST", "CLEARML_FILES_HOST"), self.address)
        return hosts | {"CLEARML_API_ACCESS_KEY": ACCESS_KEY, "CLEARML_API_SECRET_KEY": SECRET_KEY}

    @property
    def task(self) -> dict[str, Any]:
        """The only task."""
        (task,) = self.tasks.values()
        return task

    def events_of(self, kind: str) -> list[dict[str, Any]]:
        """Events of one type, such as training_stats_scalar."""
        return [event for event in self.events if event["type"] == kind]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = _read_body(request)
        if self.trouble == "hang":
            self.released.wait(120)
            request.close_connection = True
            return
        if self.trouble == "garbage":
            _send(request, 200, b"<html>This is a router, not ClearML</html>", "text/html")
            return
        if isinstance(self.trouble, int):
            _send(request, self.trouble, _envelope("tasks.get_all", self.trouble, {}))
            return
        endpoint = re.fullmatch(r"(?:/v[\d.]+)?/([a-z_]+\.[a-z_0-9]+)", request.path.split("?")[0])
        if endpoint is None:
            self._take_files(request, body)
            return
        self.requests.append(endpoint[1])
        self.bodies.append(body.decode())
        code, data = self._call(endpoint[1], body, request.headers.get("Authorization", ""))
        _send(request, code, _envelope(endpoint[1], code, data))

    def _call(self, endpoint: str, body: bytes, authorization: str) -> tuple[int, dict[str, Any]]:
        if endpoint == "auth.login":
            if authorization.startswith("Basic") and not _is_known(authorization):
                return 401, {}
            claims = {"exp": time.time() + 86400, "api_version": "2.23", "server_version": "2.0.0"}
            return 200, {"token": jwt.encode(claims, "k" * 32, algorithm="HS256")}
        if not authorization.startswith("Bearer"):
            return 401, {}
        if endpoint in self.refused:
            return 400, {}
        if endpoint == "events.add_batch":
            self.events += [json.loads(line) for line in body.decode().splitlines()]
            return 200, {"added": 1, "errors": 0}
        values = json.loads(body or b"{}")
        handler = getattr(self, "_" + endpoint.replace(".", "_"), None)
        return handler(values) if handler else (200, {})

    def _take_files(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        kind = request.headers.get("Content-Type", "")
        if request.command == "GET":
            known = self.files.get(request.path.lstrip("/"))
            _send(request, 404 if known is None else 200, known or b"")
            return
        message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
        for part in message.iter_parts():
            name = part.get_param("name", header="content-disposition")
            self.files[f"{request.path.strip('/')}/{name}".strip("/")] = part.get_payload(decode=True) or b""
        _send(request, 200, json.dumps(["ok"]).encode())

    def _queues_get_all(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        pattern = values.get("name") or ""
        found = [{"id": id, "name": name} for name, id in self.queues.items() if re.search(pattern, name)]
        return 200, {"queues": found}

    def _queues_get_by_id(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 400, {}  # it is asked with names as well

    def _tasks_enqueue(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        task = self.tasks[values["task"]]
        if task["status"] != "stopped":
            return 400, {}
        task["status"] = "queued"
        self.queued.append((values["task"], values["queue"]))
        return 200, {"queued": 1, "updated": 1, "fields": {"status": "queued"}}

    def _projects_get_all(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        pattern = values.get("name")
        found = [p for p in self.projects.values() if not pattern or re.search(pattern, p["name"])]
        return 200, {"projects": found}

    def _projects_create(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        identity = uuid.uuid4().hex
        self.projects[identity] = values | {"id": identity}
        return 200, {"id": identity}

    def _projects_get_by_id(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, {"project": self.projects[values["project"]]}

    def _tasks_create(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        identity = uuid.uuid4().hex
        empty: dict[str, Any] = {"status": "created", "execution": {}, "script": {}, "output": {}}
        self.tasks[identity] = {**empty, **values, "id": identity}
        return 200, {"id": identity}

    def _tasks_get_by_id(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, {"task": self.tasks[values["task"]]}

    def _tasks_get_all(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        wanted = values.get("id") or list(self.tasks)
        return 200, {"tasks": [self.tasks[identity] for identity in wanted]}

    def _tasks_edit(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.tasks[values.pop("task")].update(values)
        return 200, {"updated": 1, "fields": {}}

    def _tasks_set_requirements(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.tasks[values["task"]]["script"]["requirements"] = values["requirements"]
        return 200, {"updated": 1, "fields": {}}

    def _tasks_edit_hyper_params(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        sections = self.tasks[values["task"]].setdefault("hyperparams", {})
        for item in values["hyperparams"]:
            sections.setdefault(item["section"], {})[item["name"]] = item
        return 200, {"updated": 1}

    def _tasks_edit_configuration(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        objects = self.tasks[values["task"]].setdefault("configuration", {})
        objects.update({item["name"]: item for item in values["configuration"]})
        return 200, {"updated": 1}

    def _tasks_add_or_update_artifacts(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.tasks[values["task"]]["execution"].setdefault("artifacts", []).extend(values["artifacts"])
        return 200, {"updated": 1}

    def _tasks_add_or_update_model(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        entry = {"name": values["name"], "model": values["model"]}
        models = self.tasks[values["task"]].setdefault("models", {"input": [], "output": []})
        models[values["type"]].append(entry)
        return 200, {"updated": 1}

    def _tasks_started(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.tasks[values["task"]]["status"] = "in_progress"
        return 200, {"updated": 1, "fields": {}}

    def _tasks_completed(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return self._change_status(values, "completed")

    def _tasks_failed(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return self._change_status(values, "failed")

    def _tasks_stopped(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return self._change_status(values, "stopped")

    def _change_status(self, values: dict[str, Any], status: str) -> tuple[int, dict[str, Any]]:
        task = self.tasks[values["task"]]
        if not values.get("force") and task["status"] not in ALLOWED[status]:
            return 400, {}
        task |= {"status": status, "status_message": values.get("status_message") or ""}
        return 200, {"updated": 1, "fields": {}}

    def _models_create(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        identity = uuid.uuid4().hex
        empty: dict[str, Any] = {"created": "2026-01-01T00:00:00", "tags": [], "system_tags": []}
        self.models[identity] = {**empty, **values, "id": identity}
        return 200, {"id": identity, "created": True}

    def _models_get_by_id(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, {"model": self.models[values["model"]]}

    def _models_edit(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.models[values.pop("model")].update(values)
        return 200, {"updated": 1, "fields": {}}

    _models_update = _models_edit


def _envelope(endpoint: str, code: int, data: dict[str, Any]) -> bytes:
    meta = {
        "id": uuid.uuid4().hex,
        "trx": uuid.uuid4().hex,
        "endpoint": {"name": endpoint, "requested_version": "2.23", "actual_version": "2.23"},
        "result_code": code,
        "result_subcode": 0,
        "result_msg": "OK" if code == 200 else "trouble",
        "error_stack": "",
        "error_data": {},
    }
    return json.dumps({"meta": meta, "data": data}).encode()


def _is_known(authorization: str) -> bool:
    from base64 import b64decode

    return b64decode(authorization.split()[1]).decode() == f"{ACCESS_KEY}:{SECRET_KEY}"


def _read_body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding", "").lower() == "chunked":
        chunks = []
        while size := int(request.rfile.readline().split(b";")[0], 16):
            chunks.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        return b"".join(chunks)
    return request.rfile.read(int(request.headers.get("Content-Length", 0)))


def _send(
    request: BaseHTTPRequestHandler, status: int, content: bytes, kind: str = "application/json"
) -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)
