"""ClearML's SDK against a small server that speaks its protocol, and servers that do not."""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.loggers.clearml import ClearmlLogger, send_run
from src.loggers.events import read_events
from src.loggers.multi import MultiLogger
from tests.loggers.calls import log_everything
from tests.loggers.clearml_server import ClearmlServer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClearmlServer]:
    with ClearmlServer() as running:
        for key, value in running.environment.items():
            monkeypatch.setenv(key, value)
        yield running


def _multi(run_dir: Path, close_timeout: float = 20.0, **settings: Any) -> MultiLogger:
    logger = ClearmlLogger(run_dir=run_dir, run_name="a run", **settings)
    return MultiLogger({"clearml": logger}, run_dir=run_dir, close_timeout=close_timeout)


def test_a_whole_session(server: ClearmlServer, run_dir: Path, files: Path) -> None:
    logger = _multi(run_dir, project="darkroom/toys", tags=["sweep"])
    logger.start()
    log_everything(logger, files)
    logger.log_model("whole", files / "model", {})
    logger.close("completed")

    task = server.task
    assert (task["status"], task["name"], task["tags"]) == ("completed", "a run", ["sweep"])
    assert server.projects[task["project"]]["name"] == "darkroom/toys"
    general = {key: item["value"] for key, item in task["hyperparams"]["General"].items()}
    assert general["trainer.max_steps"] == "4"
    assert "max_steps = 4" in task["configuration"]["config"]["value"]
    scalars = [
        (event["metric"], event["variant"], event["iter"], event["value"])
        for event in server.events_of("training_stats_scalar")
    ]
    assert sorted(scalars) == [
        ("loss", "train", 1, 0.5),
        ("loss", "train", 2, 0.25),
        ("throughput", "images_per_second", 1, 3),
    ]
    (image,) = server.events_of("training_debug_image")
    assert (image["metric"], image["variant"], image["iter"]) == ("samples", "a toy", 2)
    assert {event["metric"] for event in server.events_of("plot")} == {"loss by timestep", "results"}
    assert any("the first line" in event["msg"] for event in server.events_of("log"))
    assert [item["key"] for item in task["execution"]["artifacts"]] == ["config"]
    assert {model["name"] for model in server.models.values()} == {"adapter", "whole"}
    (adapter,) = (model for model in server.models.values() if model["name"] == "adapter")
    assert adapter["uri"].endswith("/adapter.safetensors")
    assert "pocket" in json.dumps(adapter["design"])
    stored = {Path(name).name: content for name, content in server.files.items()}
    assert stored["adapter.safetensors"] == b"weights"
    assert stored["toy.png"] == (files / "toy.png").read_bytes()
    # The SDK deletes what it has sent unless told not to.
    assert (files / "adapter.safetensors").exists()
    assert (files / "model" / "unet.bin").exists()
    assert f"{server.address}/projects/{task['project']}/experiments/{task['id']}" in logger.where()
    assert "missing" not in logger.where()


@pytest.mark.parametrize(("status", "expected"), [("failed", "failed"), ("aborted", "stopped")])
def test_how_a_run_ended_is_told(status: Any, expected: str, server: ClearmlServer, run_dir: Path) -> None:
    logger = _multi(run_dir)
    logger.start()
    logger.log_scalars({"loss/train": 0.5}, 1)
    logger.close(status, "RuntimeError: boom")
    assert (server.task["status"], server.task["status_message"]) == (expected, "RuntimeError: boom")
    assert [event["value"] for event in server.events_of("training_stats_scalar")] == [0.5]


@pytest.mark.slow
def test_an_abort_in_the_web_interface_ends_the_run_as_sigterm_does(
    server: ClearmlServer, run_dir: Path
) -> None:
    """The SDK alone would end the process at once, and what was trained since the last checkpoint were lost."""
    program = textwrap.dedent(f"""
        import signal, time
        from pathlib import Path
        from src.loggers.clearml import ClearmlLogger

        signals = []
        logger = ClearmlLogger(run_dir=Path({str(run_dir)!r}), run_name="a run")
        logger.start()
        signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
        print("training", flush=True)
        deadline = time.monotonic() + 90
        while not signals and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(4)  # a checkpoint takes its time
        logger.close("aborted", "signal SIGTERM")
        print("saved" if signals else "not told", flush=True)
    """)
    environment = os.environ | server.environment | {"HOME": str(run_dir)}
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert "training\n" in child.stdout  # reads up to there
        server.task["status"] = "stopped"
        assert "saved\n" in child.stdout
    assert child.returncode == 0
    assert server.task["status"] == "stopped"


def test_jobs_of_a_sweep_are_tasks_of_their_own(server: ClearmlServer, tmp_path: Path) -> None:
    for number in range(3):
        logger = _multi(tmp_path / f"job{number}")
        logger.start()
        logger.log_scalars({"loss/train": float(number)}, 1)
        began = time.perf_counter()
        logger.close("failed" if number == 1 else "completed")
        assert time.perf_counter() - began < 5
    assert [task["status"] for task in server.tasks.values()] == ["completed", "failed", "completed"]
    by_task = {event["task"]: event["value"] for event in server.events_of("training_stats_scalar")}
    assert [by_task[identity] for identity in server.tasks] == [0, 1, 2]


def test_an_offline_session_can_be_sent_later(
    server: ClearmlServer, run_dir: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = _multi(run_dir, offline=True)
    logger.start()
    log_everything(logger, files)
    logger.close("completed")
    assert server.requests == []
    command = logger.where().rsplit(' -c "')[1].removesuffix('"')
    result = _child(command, run_dir, server.environment)
    assert result.returncode == 0, result.stderr
    assert {event["metric"] for event in server.events_of("training_stats_scalar")} == {"loss", "throughput"}
    assert len(server.events_of("training_debug_image")) == 1
    assert any(name.endswith("adapter.safetensors") for name in server.files)


def test_a_run_that_a_server_missed_can_be_sent_later(
    server: ClearmlServer, run_dir: Path, files: Path
) -> None:
    logger = MultiLogger({}, run_dir=run_dir)
    logger.start()
    log_everything(logger, files)
    logger.close("completed")
    assert server.address in send_run(str(run_dir))
    assert server.task["status"] == "completed"
    assert len(server.events_of("training_stats_scalar")) == 3
    assert len(server.models) == 1


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("refused", "cannot be reached"),
        ("hang", "does not answer in time"),
        (500, "answers with error 500"),
        ("garbage", "does not answer like a ClearML API server"),
        (401, "does not accept the credentials"),
    ],
)
def test_a_server_in_trouble_means_offline(
    trouble: Any,
    words: str,
    server: ClearmlServer,
    run_dir: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if trouble == "refused":
        monkeypatch.setenv("CLEARML_API_HOST", "http://127.0.0.1:9")
    else:
        server.trouble = trouble
    began = time.perf_counter()
    logger = _multi(run_dir)
    logger.start()
    logger.log_scalars({"loss/train": 0.5}, 1)
    logger.close("completed")
    assert time.perf_counter() - began < 15
    assert words in caplog.text
    assert "ClearML (offline): " in logger.where()
    assert len(list((run_dir / "clearml" / "offline").glob("*.zip"))) == 1


def test_a_server_that_takes_the_login_but_no_task(server: ClearmlServer, run_dir: Path) -> None:
    server.refused = {"tasks.create"}
    logger = _multi(run_dir)
    logger.start()
    logger.log_scalars({"loss/train": 0.5}, 1)
    logger.close("completed")
    assert "ClearML (offline): " in logger.where()


@pytest.mark.parametrize(
    "trouble",
    [
        "hang",
        500,
        pytest.param("gone", marks=pytest.mark.slow),
        pytest.param("garbage", marks=pytest.mark.slow),
    ],
)
def test_a_server_that_dies_during_a_run(trouble: Any, server: ClearmlServer, run_dir: Path) -> None:
    """In a process of its own: it must also come to its end."""
    code = f"""
        import sys, time
        from pathlib import Path
        from src.loggers.clearml import ClearmlLogger
        from src.loggers.multi import MultiLogger
        run_dir = Path({str(run_dir)!r})
        tracker = ClearmlLogger(run_dir=run_dir, run_name="x")
        logger = MultiLogger({{"clearml": tracker}}, run_dir=run_dir, close_timeout=2)
        logger.start()
        print("started", flush=True)
        sys.stdin.readline()
        for step in range(100):
            began = time.perf_counter()
            logger.log_scalars({{"loss/train": 0.5}}, step)
            assert time.perf_counter() - began < 1
        began = time.perf_counter()
        logger.close("completed")
        print("closed in", time.perf_counter() - began)
        print(logger.where())
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env=os.environ | server.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    while "started" not in process.stdout.readline():
        assert process.poll() is None
    if trouble == "gone":
        server.stop()
    else:
        server.trouble = trouble
    began = time.perf_counter()
    output, _ = process.communicate("go\n", timeout=60)
    assert process.returncode == 0, output
    assert time.perf_counter() - began < 12, output
    assert "clearml: " in output
    assert "docs/clearml.md says how to send them" in output
    assert len(list(read_events(run_dir))) == 100, "what the server missed is on disk"


def _child(code: str, home: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | variables | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
