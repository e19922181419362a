import io
import logging
import os
import re
import sys
from pathlib import Path

import pytest

from src.callbacks.progress import ProgressCallback
from src.errors import UserError
from src.logs import FILE_ONLY, run_log
from tests.callbacks.recorder import RESULT, SCALARS, VALIDATION, Recorder, make_run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _train(callback: ProgressCallback, folder: Path, *, first: int = 0) -> None:
    logger = Recorder()
    callback.on_fit_start(make_run(logger, folder, step=first))
    for step in range(first + 1, 11):
        callback.on_step_end(make_run(logger, folder, step=step))
        callback.on_log(make_run(logger, folder, step=step), SCALARS)
        if step == 4:
            callback.on_validation_end(make_run(logger, folder, step=step), VALIDATION)
    callback.on_fit_end(make_run(logger, folder, step=10), RESULT)


def test_a_terminal_gets_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    _train(ProgressCallback(), tmp_path)
    shown = terminal.getvalue().replace("\x1b[A", "")
    assert "100%" in shown
    assert "10/10" in shown
    assert "loss=0.5000" in shown
    assert "images/s=12.3" in shown
    assert "validation=0.2500" in shown


def test_behind_a_bar_the_file_gets_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    with run_log(tmp_path / "train.log"):
        _train(ProgressCallback(seconds_between_lines=0), tmp_path)
    log = (tmp_path / "train.log").read_text()
    assert log.count("  loss 0.5000  images/s 12.3  ") == 10
    assert log.count("step 4/10  validation loss 0.2500") == 1
    shown = terminal.getvalue()
    assert "left 0:00" not in shown.replace("[", ""), "the bar shows it"
    # On a line of its own, above the bar.
    assert re.search(r"[\r\n]step 4/10  validation loss 0\.2500 [^\r]*\n", shown)


def test_a_terminal_without_width_gets_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(terminal, "fileno", lambda: 2, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((0, 0)))
    with caplog.at_level(logging.INFO):
        _train(ProgressCallback(seconds_between_lines=60), tmp_path)
    assert terminal.getvalue() == ""
    assert len(caplog.records) == 3
    assert not any(getattr(record, FILE_ONLY, False) for record in caplog.records)


def test_a_resumed_run_does_not_begin_at_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    _train(ProgressCallback(), tmp_path, first=6)
    assert "6/10" in terminal.getvalue()
    assert "10/10" in terminal.getvalue()


def test_without_a_terminal_there_are_few_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        _train(ProgressCallback(seconds_between_lines=60), tmp_path)
    assert caplog.messages == [
        "step 1/10  loss 0.5000  images/s 12.3  left 0:00:18",
        f"step 4/10  validation loss 0.2500  ({VALIDATION.train_loss:.4f} on as many training images)",
        "step 10/10  loss 0.5000  images/s 12.3  left 0:00:00",
    ]


def test_a_failed_run_closes_its_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    callback = ProgressCallback()
    callback.on_fit_start(make_run(Recorder(), tmp_path))
    callback.on_exception(make_run(Recorder(), tmp_path), RuntimeError("boom"))
    assert terminal.getvalue().endswith("\n")


def test_a_negative_pause_is_refused() -> None:
    with pytest.raises(UserError, match="seconds_between_lines=-1"):
        ProgressCallback(seconds_between_lines=-1)
