"""Trackers are guests: nothing they do stops or slows training, and nothing is lost."""

import logging
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from src.errors import UserError
from src.loggers.events import read_events
from src.loggers.multi import MultiLogger
from src.loggers.protocol import Logger, Number, Status
from tests.loggers.calls import log_everything


class Rude(Logger):
    """Misbehaves in one method."""

    def __init__(self, method: str, deed: str) -> None:
        self.released = threading.Event()
        self.scalars: list[Mapping[str, Number]] = []
        self.closed: Status | None = None
        self.abandoned = False
        self._method = method
        self._deed = deed

    def _do(self, method: str) -> None:
        if method != self._method:
            return
        if self._deed == "hang":
            self.released.wait(60)
        elif self._deed == "exit":
            sys.exit(3)
        elif self._deed == "full disk":
            raise OSError(28, "No space left on device")

    def start(self) -> None:
        self._do("start")

    def log_scalars(self, scalars: Mapping[str, Number], step: int) -> None:
        self._do("log_scalars")
        self.scalars.append(scalars)

    def close(self, status: Status, message: str = "") -> None:
        self._do("close")
        self.closed = status

    def abandon(self) -> None:
        self.abandoned = True

    def where(self) -> str:
        return "Rude: look here"


@pytest.mark.parametrize("deed", ["hang", "exit", "full disk"])
@pytest.mark.parametrize("method", ["start", "log_scalars", "close"])
def test_a_rude_logger_costs_nothing(method: str, deed: str, run_dir: Path) -> None:
    rude, polite = Rude(method, deed), Rude("", "")
    multi = MultiLogger(
        {"rude": rude, "polite": polite}, run_dir=run_dir, start_timeout=0.2, close_timeout=0.4
    )
    multi.start()
    longest = 0.0
    for step in range(50):
        began = time.perf_counter()
        multi.log_scalars({"loss/train": float(step)}, step)
        longest = max(longest, time.perf_counter() - began)
    began = time.perf_counter()
    multi.close("failed", "why")
    took = time.perf_counter() - began
    rude.released.set()

    assert longest < 5, "a hanging logger waits for 60"
    assert took < 10
    assert len(polite.scalars) == 50
    assert polite.closed == "failed"
    assert len(list(read_events(run_dir))) == 50
    assert "missing there" in multi.where()
    assert "metrics.jsonl" in multi.where()
    assert rude.abandoned == (deed == "hang")


def test_a_full_queue_passes_a_slow_logger_over(run_dir: Path) -> None:
    slow = Rude("log_scalars", "hang")
    multi = MultiLogger({"slow": slow}, run_dir=run_dir, close_timeout=0.3, queue_size=200)
    multi.start()
    for step in range(300):
        multi.log_scalars({"loss/train": 1.0}, step)
        time.sleep(0.0005)  # metrics.jsonl has the same queue and keeps up
    multi.close("completed")
    slow.released.set()
    assert len(list(read_events(run_dir))) == 300
    assert "slow: " in multi.where()


def test_everything_arrives_in_order_before_close(run_dir: Path, files: Path) -> None:
    multi = MultiLogger({}, run_dir=run_dir)
    multi.start()
    log_everything(multi, files)
    multi.close("completed")
    multi.close("failed")  # a second one, from a finally block, does nothing
    multi.log_text("too late")
    kinds = " ".join(event.kind for event in read_events(run_dir))
    assert kinds == "config scalars scalars image curve table text artifact model"
    assert "missing" not in multi.where()


def test_what_the_program_logs_goes_to_the_trackers(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    handlers = list(logging.getLogger().handlers)
    multi = MultiLogger({}, run_dir=run_dir)
    multi.start()
    logging.getLogger("src.run").info("Model: pocket")
    logging.getLogger("src.loggers.multi").warning("about themselves they do not tell themselves")
    multi.close("completed")
    logging.getLogger("src.run").info("too late")
    (event,) = read_events(run_dir)
    assert event.arguments["text"].endswith("INFO Model: pocket")
    assert logging.getLogger().handlers == handlers


def test_large_files_get_the_time_they_need(run_dir: Path, tmp_path: Path) -> None:
    class Slow(Rude):
        def log_model(self, name: str, path: Path, metadata: Mapping[str, str]) -> None:
            time.sleep(1.0)

    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights.bin").write_bytes(bytes(4_000_000))
    slow = Slow("", "")
    multi = MultiLogger({"slow": slow}, run_dir=run_dir, close_timeout=0.1)
    multi.start()
    multi.log_model("adapter", tmp_path / "adapter", {})
    multi.close("completed")
    assert slow.closed == "completed"


def test_secrets_of_the_configuration_reach_no_logger(run_dir: Path) -> None:
    multi = MultiLogger({}, run_dir=run_dir)
    multi.start()
    multi.log_config({"dataset": {"url": "https://me:pw@host/x"}, "hub": {"token": "abc"}})
    multi.close("completed")
    text = (run_dir / "metrics.jsonl").read_text()
    assert "pw" not in text
    assert "abc" not in text


def test_other_processes_log_nothing(run_dir: Path) -> None:
    logger = Rude("", "")
    multi = MultiLogger({"one": logger}, run_dir=run_dir, is_main=False)
    multi.start()
    multi.log_scalars({"loss/train": 1.0}, 1)
    multi.close("completed")
    assert logger.scalars == []
    assert multi.where() == ""
    assert not run_dir.exists()


def test_no_place_for_metrics_jsonl_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    multi = MultiLogger({}, run_dir=tmp_path / "file" / "run")
    with caplog.at_level(logging.WARNING):
        multi.start()
    multi.log_scalars({"loss/train": 1.0}, 1)
    multi.close("completed")
    assert "metrics.jsonl failed, training goes on" in caplog.text
    assert "missing. Is the disk full?" in multi.where()


def test_a_missing_wandb_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    import importlib.util

    from src.loggers.wandb import WandbLogger

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a)
    )
    with pytest.raises(UserError, match=r"DARKROOM_EXTRAS=1 sh train_run\.sh"):
        WandbLogger(run_dir=run_dir, run_name="x", cache_dir=run_dir)
