"""When checkpoints are written, and what a full disk does to them."""

import contextlib
import errno
import logging
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from src.callbacks.base import Callback
from src.errors import FullDiskError, UserError
from src.files import is_full_disk
from src.training import saving
from src.training.checkpoint import find_damage, list_checkpoints
from tests.bad_input.test_disks import small_disk
from tests.training.tiny import same


class Hours(Callback):
    """Lets the main process's clock run on by half an hour a step."""

    def __init__(self, monkeypatch) -> None:
        self._now = 0.0
        monkeypatch.setattr(saving.time, "monotonic", lambda: self._now)

    def on_step_end(self, run):
        self._now += 1800


def _steps(run) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in list_checkpoints(run.checkpoints)]


def test_every_so_many_minutes_counted_from_the_last_checkpoint(tiny, monkeypatch) -> None:
    run = tiny(save_every_minutes=60, callbacks=[Hours(monkeypatch)], keep=9, max_steps=7)
    run.trainer().fit()
    assert _steps(run) == [2, 4, 6, 7]


def test_minutes_beside_steps(tiny, monkeypatch) -> None:
    """A checkpoint that the steps ask for begins the minutes anew."""
    run = tiny(save_every_minutes=60, save_every=3, callbacks=[Hours(monkeypatch)], keep=9, max_steps=7)
    run.trainer().fit()
    assert _steps(run) == [2, 3, 5, 6, 7]


def test_without_minutes_no_time_counts(tiny, monkeypatch) -> None:
    run = tiny(callbacks=[Hours(monkeypatch)], keep=9, max_steps=7)
    run.trainer().fit()
    assert _steps(run) == [7]


def test_which_errors_mean_a_full_disk() -> None:
    assert is_full_disk(OSError(errno.EDQUOT, "quota"))
    assert is_full_disk(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_full_disk(OSError(errno.EACCES, "Permission denied (os error 13)"))


@contextmanager
def _limited_files(num_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond that: stands for a full disk where nothing can be mounted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Ballast(Callback):
    """Fills the disk after a step, to the last byte; takes it away again some time later, if at all."""

    def __init__(self, disk: Path, *, step: int, seconds: float | None = None) -> None:
        self._file, self._step, self._seconds = disk / "ballast", step, seconds

    def on_step_end(self, run):
        if run.state.step == self._step:
            with self._file.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            if self._seconds is not None:
                threading.Timer(self._seconds, self._file.unlink).start()


@pytest.fixture
def never_lies(monkeypatch):
    """The kernel refuses the write, whatever was free before."""
    real = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1 << 40))


SEEN_BEFORE_OR_NOT = [pytest.param(True, marks=pytest.mark.slow), False]


@pytest.mark.parametrize("is_foreseen", SEEN_BEFORE_OR_NOT)
def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint_intact(
    tiny, tmp_path, is_foreseen, request, caplog
) -> None:
    if not is_foreseen:
        request.getfixturevalue("never_lies")
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        run = replace(tiny(save_every=2, keep=1, callbacks=[Ballast(disk, step=3)]), folder=disk)
        with pytest.raises(FullDiskError, match="Not enough disk space" if is_foreseen else "No space left"):
            run.trainer().fit()
        assert "Lost: steps 3 to 4. The newest checkpoint is that of step 2: continue" in caplog.text
        assert "could not be saved" not in caplog.text, "the error says so"
        assert _steps(run) == [2]
        assert find_damage(run.checkpoints / "step_00000002") is None
        assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step_00000002"]
        (disk / "ballast").unlink()
        resumed = replace(run, resume="auto", callbacks=())
        assert resumed.trainer().fit().step == 10
        unbroken = tiny("unbroken")
        unbroken.trainer().fit()
        assert same(resumed.weights(), unbroken.weights())


def test_a_file_size_limit_ends_the_run_and_leaves_the_last_checkpoint_intact(tiny) -> None:
    """The same without the rights to mount."""
    run = tiny(save_every=2, keep=1)
    trainer = run.trainer()
    save = trainer._saver.save

    def limited(state, *, num_reserved):
        with _limited_files(1000 if state.step > 2 else resource.RLIM_INFINITY):
            save(state, num_reserved=num_reserved)

    trainer._saver.save = limited
    with pytest.raises(UserError, match="The checkpoint of step 4 could not be written"):
        trainer.fit()
    # The disk had room again when the error was told: the last good state is there, too.
    assert _steps(run) == [4]
    assert find_damage(run.checkpoints / "step_00000004") is None


@pytest.mark.parametrize("is_foreseen", SEEN_BEFORE_OR_NOT)
def test_a_run_waits_for_space(tiny, tmp_path, monkeypatch, caplog, is_foreseen, request) -> None:
    monkeypatch.setattr(saving, "_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(saving, "_GLANCE_SECONDS", 0.05)
    if not is_foreseen:
        request.getfixturevalue("never_lies")
    unbroken = tiny("unbroken")
    unbroken.trainer().fit()
    with small_disk(tmp_path / "disk", "size=8m") as disk, caplog.at_level(logging.INFO):
        ballast = Ballast(disk, step=3, seconds=1.0)
        run = replace(tiny(save_every=2, callbacks=[ballast], wait_for_space=True), folder=disk)
        assert run.trainer().fit().step == 10
        assert same(run.weights(), unbroken.weights())
        assert all(find_damage(path) is None for path in list_checkpoints(run.checkpoints))
    assert caplog.text.count("Training waits at step 4 until there is space") == 1
    assert "There is space again; waited" in caplog.text


@pytest.mark.parametrize("fits_one", [True, False])
def test_a_signal_ends_the_wait(tiny, monkeypatch, fits_one) -> None:
    """With room for one checkpoint the run ends as after any signal; without, with the error."""
    monkeypatch.setattr(saving, "_GLANCE_SECONDS", 0.05)
    real = shutil.disk_usage("/")
    free = real.free

    class Fill(Callback):
        def on_step_end(self, run):
            nonlocal free
            if run.state.step == 3:
                free = (1 << 20) + 50_000 if fits_one else 1000
                threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=free))
    run = tiny(save_every=2, keep=1, callbacks=[Fill()], wait_for_space=True)
    started = time.monotonic()
    if fits_one:
        assert run.trainer().fit().exit_code == 143
        assert _steps(run) == [4]
    else:
        with pytest.raises(FullDiskError, match="Not enough disk space for the next checkpoint"):
            run.trainer().fit()
        assert _steps(run) == [2]
    assert time.monotonic() - started < 30
    assert all(find_damage(path) is None for path in list_checkpoints(run.checkpoints))


def test_before_training_nothing_waits(tiny, monkeypatch) -> None:
    real = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1000))
    with pytest.raises(FullDiskError, match="disk space for the next 2 checkpoints"):
        tiny(wait_for_space=True).trainer().fit()


def test_what_waiting_does_not_help_is_an_error_at_once(tiny, monkeypatch) -> None:
    def refuse(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    run = tiny(save_every=2, wait_for_space=True)
    trainer = run.trainer()
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match=r"step 2 could not be written .*Input/output error"):
        trainer.fit()
