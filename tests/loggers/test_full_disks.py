"""A tracker's disk that fills up: the run neither waits nor ends, and what is missing there is kept elsewhere."""

import os
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.loggers.clearml import ClearmlLogger
from src.loggers.clearml_offline import require_whole
from src.loggers.events import read_events
from src.loggers.multi import MultiLogger
from src.loggers.protocol import Logger
from src.loggers.tensorboard import TensorboardLogger
from tests.bad_input.test_disks import small_disk

ROOT = Path(__file__).resolve().parents[2]
# Enough to fill the disk several times over.
NUM_STEPS = 600
SCALARS = {f"loss/{name}": 0.5 for name in range(20)}


def fill(name: str, tracker: Logger, run_dir: Path) -> None:
    """Logs to a tracker whose disk is too small; called in a process of its own, too."""
    multi = MultiLogger({name: tracker}, run_dir=run_dir, close_timeout=4)
    multi.start()
    longest = 0.0
    for step in range(NUM_STEPS):
        began = time.perf_counter()
        multi.log_scalars(SCALARS, step)
        longest = max(longest, time.perf_counter() - began)
        time.sleep(0.001)
    began = time.perf_counter()
    multi.close("completed")
    assert time.perf_counter() - began < 30
    assert longest < 5
    assert f"{name}: " in multi.where()
    assert "missing there" in multi.where()
    assert len(list(read_events(run_dir))) == NUM_STEPS, "all of it can be sent later"


# TensorBoard's own thread dies with the error; that is its to print.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_on_a_full_disk(run_dir: Path, tmp_path: Path) -> None:
    run_dir.mkdir(parents=True)
    with small_disk(tmp_path / "disk", "size=100k") as disk:
        (run_dir / "tensorboard").symlink_to(disk)
        fill("tensorboard", TensorboardLogger(run_dir=run_dir), run_dir)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_goes_on_when_there_is_space_again(run_dir: Path, tmp_path: Path) -> None:
    run_dir.mkdir(parents=True)
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        (run_dir / "tensorboard").symlink_to(disk)
        logger = TensorboardLogger(run_dir=run_dir, flush_seconds=0)
        logger.start()
        logger.log_scalars({"loss/train": 1.0}, 1)
        time.sleep(0.2)  # until it is written
        with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        failures, deadline = 0, time.monotonic() + 20
        while not failures and time.monotonic() < deadline:
            try:
                logger.log_scalars(SCALARS, 2)
            except OSError:
                failures += 1
        assert failures
        (disk / "ballast").unlink()
        logger.log_scalars({"loss/train": 3.0}, 3)
        logger.close("completed")
        events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
        assert [event.step for event in events.Scalars("loss/train")] == [1, 3]


@pytest.mark.slow
def test_an_offline_session_on_a_full_disk(run_dir: Path, tmp_path: Path) -> None:
    """In a process of its own, which must also come to its end: threads of the SDK die."""
    code = f"""
        from pathlib import Path
        from src.loggers.clearml import ClearmlLogger
        from tests.loggers.test_full_disks import fill
        run_dir = Path({str(run_dir)!r})
        fill("clearml", ClearmlLogger(run_dir=run_dir, run_name="a run", offline=True), run_dir)
        print("all is well")
        """
    with small_disk(tmp_path / "disk", "size=100k") as disk:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=ROOT,
            env=os.environ | {"CLEARML_CACHE_DIR": str(disk)},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "all is well" in done.stdout
    assert "the offline session" in done.stderr, "cannot be read, or lacks numbers"


def test_an_offline_session_that_lacks_numbers_is_noticed(run_dir: Path, tmp_path: Path) -> None:
    logger = ClearmlLogger(run_dir=run_dir, run_name="a run", offline=True)
    logger.start()
    logger.log_scalars({"loss/train": 0.5, "loss/prior": float("nan")}, 1)
    logger.close("completed")
    (archive,) = (run_dir / "clearml" / "offline").glob("*.zip")
    require_whole(archive, num_scalars=1)
    with pytest.raises(OSError, match="holds 1 of 2 numbers"):
        require_whole(archive, num_scalars=2)
    archive.write_bytes(archive.read_bytes()[:-40])
    for path in (archive, tmp_path / "absent.zip"):
        with pytest.raises(OSError, match="cannot be read"):
            require_whole(path, num_scalars=1)
