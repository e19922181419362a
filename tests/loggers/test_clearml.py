"""ClearML without a server, and what its SDK would do to the process if it were let."""

import json
import logging
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.errors import UserError
from src.loggers.clearml import ClearmlLogger, send_run
from src.loggers.multi import MultiLogger
from tests.loggers.calls import log_everything

ROOT = Path(__file__).parents[2]


def _session(run_dir: Path) -> tuple[dict[str, Any], list[dict[str, Any]], set[str]]:
    """task.json, the events and the names of all files of the only offline session of a run."""
    (archive,) = (run_dir / "clearml" / "offline").glob("*.zip")
    with zipfile.ZipFile(archive) as session:
        names = set(session.namelist())
        lines = session.read("metrics.jsonl").decode().splitlines() if "metrics.jsonl" in names else []
        events = [event for line in lines for event in json.loads(line)]
        return json.loads(session.read("task.json")), events, names


def _python(code: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CLEARML_")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env=kept | {"HOME": str(home)} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_binding_hydra_is_quick_and_brings_no_torch(tmp_path: Path) -> None:
    result = _python(
        """
        import sys, time
        began = time.perf_counter()
        from src.loggers.clearml import bind_hydra
        bind_hydra()
        took = time.perf_counter() - began
        from hydra.core import utils
        from clearml import Task
        assert "torch" not in sys.modules
        assert "clearml" in utils.run_job.__module__, "Hydra is not patched"
        assert not Task._report_subprocess_enabled
        print(took)
        """,
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 5  # about 0.9 s on a quiet machine


def test_a_broken_clearml_is_a_warning(tmp_path: Path) -> None:
    code = """
        import sys
        sys.modules["clearml"] = None
        from src.loggers.clearml import bind_hydra
        bind_hydra()
        print("on it goes")
        """
    result = _python(code, tmp_path)
    assert result.stdout == "on it goes\n"
    assert "Warning: ClearML cannot be used here" in result.stderr


def test_an_offline_session_holds_everything(run_dir: Path, files: Path) -> None:
    logger = ClearmlLogger(run_dir=run_dir, run_name="a run", project="darkroom/toys", tags=["sweep"])
    logger.start()
    log_everything(logger, files)
    logger.close("completed")

    task, events, names = _session(run_dir)
    assert (task["project_name"], task["name"], task["tags"]) == ("darkroom/toys", "a run", ["sweep"])
    general = {key: item["value"] for key, item in task["hyperparams"]["General"].items()}
    assert general == {"trainer.max_steps": "4", "trainer.seed": "1", "prompts": '["a toy", "a dog"]'}
    assert "max_steps = 4" in task["configuration"]["config"]["value"]
    assert {item["key"] for item in task["execution"]["artifacts"]} == {"config", "adapter"}
    assert any(name.endswith("artifacts/adapter/adapter.safetensors") for name in names)
    (plot,) = (event for event in events if event["metric"] == "loss by timestep")
    (line,) = json.loads(plot["plot_str"])["data"]
    assert (line["x"], line["y"]) == ([1, 500], [0.5, 0.125])
    (console,) = (name for name in names if name == "log.jsonl")
    (archive,) = (run_dir / "clearml" / "offline").glob("*.zip")
    with zipfile.ZipFile(archive) as session:
        text = session.read(console).decode()
    assert "the first line" in text
    assert "loss/validation is nan" in text  # the SDK would have drawn it as 0
    assert "Task.import_offline_session('" + str(archive) in logger.where()


def test_a_folder_of_weights_becomes_one_artifact_and_stays(run_dir: Path, files: Path) -> None:
    logger = ClearmlLogger(run_dir=run_dir, run_name="a run")
    logger.start()
    logger.log_model("model", files / "model", {})
    logger.close("completed")
    _, _, names = _session(run_dir)
    assert any(name.endswith("artifacts/model/model.zip") for name in names)
    assert (files / "model" / "unet.bin").exists()


@pytest.mark.parametrize("status", ["failed", "aborted"])
def test_a_failed_run_keeps_its_metrics(status: Any, run_dir: Path) -> None:
    # As it happens: the error is on its way up while the run closes its loggers.
    logger = MultiLogger({"clearml": ClearmlLogger(run_dir=run_dir, run_name="a run")}, run_dir=run_dir)
    logger.start()

    def run() -> None:
        try:
            logger.log_scalars({"loss/train": 0.5}, 1)
            raise ZeroDivisionError("boom")
        except ZeroDivisionError as error:
            logger.close(status, repr(error))
            raise

    with pytest.raises(ZeroDivisionError):
        run()
    task, events, _ = _session(run_dir)
    assert [event["value"] for event in events if event["type"] == "training_stats_scalar"] == [0.5]
    assert task["tags"] == [status]


def test_tasks_one_after_another_close_quickly(tmp_path: Path) -> None:
    for number in range(3):
        run_dir = tmp_path / f"job{number}"
        logger = MultiLogger(
            {"clearml": ClearmlLogger(run_dir=run_dir, run_name=f"job{number}")}, run_dir=run_dir
        )
        logger.start()
        logger.log_scalars({"loss/train": float(number)}, 1)
        began = time.perf_counter()
        logger.close("failed" if number == 1 else "completed")
        assert time.perf_counter() - began < 5
        task, events, _ = _session(run_dir)
        assert task["name"] == f"job{number}"
        assert [event["value"] for event in events] == [number]


def test_the_sdk_leaves_the_process_alone(run_dir: Path) -> None:
    def noted(*_: object) -> None:
        pass

    kept = {number: signal.signal(number, noted) for number in (signal.SIGTERM, signal.SIGINT)}
    logger = ClearmlLogger(run_dir=run_dir, run_name="a run")
    np.random.seed(5)
    torch.manual_seed(5)
    state = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    root_handlers, hook, stdout = list(logging.getLogger().handlers), sys.excepthook, sys.stdout
    save, environment = torch.save, {k: v for k, v in os.environ.items() if "OFFLINE" in k}
    try:
        logger.start()
        assert [signal.getsignal(number) for number in kept] == [noted, noted]
        assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == state
        assert (list(logging.getLogger().handlers), sys.excepthook, sys.stdout) == (
            root_handlers,
            hook,
            stdout,
        )
        assert torch.save is save
        assert {k: v for k, v in os.environ.items() if "OFFLINE" in k} == environment
        _assert_forks_are_free()
        logger.close("completed")
        assert [signal.getsignal(number) for number in kept] == [noted, noted]
        assert list(logging.getLogger().handlers) == root_handlers
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _assert_forks_are_free() -> None:
    """A data loader's worker is forked: it must not start reporting, nor wait for a report at its end."""
    began = time.perf_counter()
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    worker = context.Process(target=_count_threads, args=(send,))
    worker.start()
    num_threads = receive.recv()
    worker.join(20)
    assert worker.exitcode == 0
    assert num_threads == 1
    assert time.perf_counter() - began < 5


def _count_threads(send: Any) -> None:
    import threading

    send.send(threading.active_count())


def test_nothing_is_left_at_home_nor_sent_anywhere(tmp_path: Path) -> None:
    # Made here: one written in this file would stand in the git diff that the task records.
    secret = secrets.token_hex(8)
    home = tmp_path / "home"
    home.mkdir()
    result = _python(
        f"""
        import socket
        class Refused(socket.socket):
            def connect(self, address):
                print("connects to", address)
                raise OSError("no network in this test")
        socket.socket = Refused
        from src.loggers.clearml import ClearmlLogger
        from pathlib import Path
        logger = ClearmlLogger(run_dir=Path({str(tmp_path / "run")!r}), run_name="a run")
        logger.start()
        logger.log_text("hello")
        logger.close("completed")
        """,
        home,
        SECRET_PASSWORD=secret,
    )
    assert result.returncode == 0, result.stderr
    assert "connects to" not in result.stdout  # not even to ask for a newer version of the SDK
    assert list(home.rglob("*")) == []
    for file in (tmp_path / "run").rglob("*.json*"):
        assert secret not in file.read_text()


def test_hydra_overrides_are_recorded_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("url: ''\nseed: 0\nhub: {token: ''}\n")
    script = f"""
        import sys
        from pathlib import Path
        from src.loggers.clearml import ClearmlLogger, bind_hydra
        bind_hydra()
        import hydra

        @hydra.main(version_base=None, config_path={str(tmp_path)!r}, config_name="job")
        def main(config):
            name = str(config.seed)
            logger = ClearmlLogger(run_dir=Path({str(tmp_path)!r}) / name, run_name=name)
            logger.start()
            logger.close("failed" if config.seed == 1 else "completed")

        more = ["hub.token=hunter3"]
        sys.argv[1:] = ["-m", "seed=1,2", "url=https://me:hunter2@host/x", *more, "hydra.sweep.dir={tmp_path}/sweep"]
        main()
        """
    result = _python(script, tmp_path)
    assert result.returncode == 0, result.stderr
    for seed in (1, 2):
        task, _, _ = _session(tmp_path / str(seed))
        overrides = {key: item["value"] for key, item in task["hyperparams"]["Hydra"].items()}
        assert overrides["seed"] == str(seed)
        assert overrides["url"] == r"https\://***@host/x"
        assert overrides["hub.token"] == "***"
        assert "hunter" not in json.dumps(task | {"script": None})


def test_a_parent_with_a_task_of_its_own_takes_nothing(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEARML_PROC_MASTER_ID", "1:a-task-of-the-parent")
    logger = ClearmlLogger(run_dir=run_dir, run_name="a run")
    logger.start()
    logger.log_scalars({"loss/train": 0.5}, 1)
    logger.close("completed")
    assert [event["value"] for event in _session(run_dir)[1]] == [0.5]


def test_the_users_own_folder_and_offline_setting_are_respected(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    monkeypatch.setenv("CLEARML_API_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "k")
    monkeypatch.setenv("CLEARML_API_SECRET_KEY", "s")
    logger = ClearmlLogger(run_dir=run_dir, run_name="a run")
    with caplog.at_level(logging.INFO):
        logger.start()
    logger.close("completed")
    assert "CLEARML_OFFLINE_MODE is set" in caplog.text
    assert os.environ["CLEARML_OFFLINE_MODE"] == "1"
    assert len(list((tmp_path / "mine" / "offline").glob("*.zip"))) == 1


def test_wrong_settings_are_told_at_once(run_dir: Path) -> None:
    with pytest.raises(UserError, match="auto, true or false"):
        ClearmlLogger(run_dir=run_dir, run_name="x", offline="maybe")
    with pytest.raises(UserError, match="three letters"):
        ClearmlLogger(run_dir=run_dir, run_name="x", project="ab")


def test_sending_a_run_needs_a_run_and_a_server(run_dir: Path) -> None:
    with pytest.raises(UserError, match=r"no metrics.jsonl"):
        send_run(str(run_dir))
    run_dir.mkdir(parents=True)
    (run_dir / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="no credentials"):
        send_run(str(run_dir))
