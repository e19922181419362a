"""`queue=...`: the task waits in the queue, and an agent carries it out with its overrides, edited or not."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.config.build import PROJECT_ROOT
from tests.loggers.clearml_server import ClearmlServer


@pytest.fixture
def server() -> Iterator[ClearmlServer]:
    with ClearmlServer() as running:
        yield running


def train(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROJECT_ROOT / "train.py"), *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def on_agent(server: ClearmlServer) -> dict[str, str]:
    """What an agent adds to a process's environment, once it has taken the task."""
    server.task["status"] = "in_progress"
    return server.environment | {"CLEARML_TASK_ID": server.task["id"], "CLEARML_LOG_TASK_TO_BACKEND": "1"}


def test_the_task_waits_with_its_overrides_and_an_agent_meets_our_gates(
    server: ClearmlServer, tmp_path: Path
) -> None:
    given = ("queue=gpu", "trainer.max_steps=7", "model=pocket", "run.name=mine", "run.tags=[a]")
    done = train(tmp_path, *given, **server.environment)
    assert done.returncode == 0, done.stderr
    assert f"Waits in the queue gpu: {server.address}" in done.stdout
    assert "Traceback" not in done.stderr
    task: dict[str, Any] = server.task
    assert server.queued == [(task["id"], server.queues["gpu"])]
    assert (task["status"], task["name"], task["tags"]) == ("queued", "mine", ["a"])
    hydra = {name: item["value"] for name, item in task["hyperparams"]["Hydra"].items()}
    assert hydra["trainer.max_steps"] == "7"
    assert hydra["model"] == "pocket"
    assert task["script"]["entry_point"] == "train.py"
    assert "General" not in task["hyperparams"], "the agent's own values go there"
    assert not (tmp_path / "outputs/train/mine").exists()

    task["hyperparams"]["Hydra"]["trainer.max_stps"] = {
        **task["hyperparams"]["Hydra"]["trainer.max_steps"],
        "name": "trainer.max_stps",
    }
    refused = train(tmp_path, **on_agent(server))
    assert refused.returncode == 2, refused.stderr
    assert "trainer.max_stps is not a known key. Did you mean trainer.max_steps" in refused.stderr


@pytest.mark.slow
def test_an_agent_trains_with_the_edited_overrides(server: ClearmlServer, tmp_path: Path) -> None:
    few = (
        "trainer.max_steps=7",
        "trainer.batch_size=2",
        "callbacks=none",
        "metrics=none",
        "logger=[clearml]",
    )
    given = (*few, "run.name=mine", f"paths.cache_dir={tmp_path}/cache")
    assert train(tmp_path, "queue=gpu", *given, **server.environment).returncode == 0
    server.task["hyperparams"]["Hydra"]["trainer.max_steps"]["value"] = "2"
    done = train(tmp_path, **on_agent(server))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "outputs/train/mine/result.json").read_text())
    assert result["steps"] == 2
    assert len(server.tasks) == 1, "the agent goes on with the same task"
    assert server.task["status"] == "in_progress", "the agent calls it completed by the exit code"
    assert "missing there" not in done.stdout
    general = {key: item["value"] for key, item in server.task["hyperparams"]["General"].items()}
    assert general["trainer.max_steps"] == "2"


@pytest.mark.slow
def test_an_agent_starts_the_processes_of_a_named_run(server: ClearmlServer, tmp_path: Path) -> None:
    """Neither the name nor the number of processes is among the arguments that the launcher passes on."""
    few = (
        "trainer.max_steps=2",
        "trainer.batch_size=2",
        "callbacks=none",
        "metrics=none",
        "logger=[clearml]",
    )
    given = (*few, "accelerate=multi_cpu", "run.name=mine", f"paths.cache_dir={tmp_path}/cache")
    queued = train(tmp_path, "queue=gpu", *given, **server.environment)
    assert queued.returncode == 0, queued.stderr
    done = train(tmp_path, **on_agent(server))
    assert done.returncode == 0, done.stderr
    run = tmp_path / "outputs/train/mine"
    assert json.loads((run / "result.json").read_text())["steps"] == 2
    assert len(server.tasks) == 1
    saved = json.loads((run / "checkpoints/step_00000002/loop.json").read_text())
    assert saved["must_match"]["global batch size"] == 4, "two processes with two images each"


@pytest.mark.parametrize(
    ("arguments", "online", "message"),
    [
        (["queue=gpu"], False, "queue=gpu needs a ClearML server: no credentials"),
        (["queue=gpus"], True, "queue=gpus is not on the ClearML server. There: gpu."),
    ],
)
def test_what_cannot_be_queued_is_one_line_and_no_task(
    arguments: list[str], online: bool, message: str, server: ClearmlServer, tmp_path: Path
) -> None:
    done = train(tmp_path, *arguments, **(server.environment if online else {}))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert server.tasks == {}
    assert list(tmp_path.glob("outputs/train/*")) == []


@pytest.mark.slow
def test_a_task_that_cannot_be_put_into_the_queue_is_named(
    server: ClearmlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_tasks_enqueue", lambda values: (400, {}))
    done = train(tmp_path, "queue=gpu", "run.name=mine", **server.environment)
    assert done.returncode == 2, done.stderr
    (identity,) = server.tasks
    assert f"queue=gpu: the task {server.address}" in done.stderr
    assert identity in done.stderr
    assert "could not be put into the queue" in done.stderr
    assert "Traceback" not in done.stderr
