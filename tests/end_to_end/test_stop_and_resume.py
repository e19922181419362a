"""A run that was stopped, or killed, goes on with the same line as if nothing had been."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from src.training.checkpoint import find_damage, list_checkpoints
from tests.end_to_end.workbench import (
    ONLY_NUMBERS,
    Clone,
    assert_same_checkpoint,
    assert_same_tensors,
    scalars,
)

# Several runs at once, on a machine that may be busy. The same in one process: tests/training/test_resume.py and
# test_signals.py; a signal to a command: tests/bad_input/test_runs.py.
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]
MAX_STEPS = 32
# All that could come out differently after a resume: module dropout, caption dropout, random crops, a schedule,
# groups with rates of their own, losses averaged over steps on both sides of the stop, several passes.
LINE = (
    *("sh", "train_run.sh", "run.name=x", "trainer.resume=auto", f"trainer.max_steps={MAX_STEPS}"),
    *("trainer.batch_size=2", "trainer.log_every=7", "trainer.save_every=8", "trainer.validate_every=11"),
    *("trainer.max_validation_images=4", "trainer.num_validation_timesteps=2", "trainer.caption_dropout=0.2"),
    *("adapter=pivotal", "adapter.rank=4", "adapter.dropout=0.2", "optimizer.schedule=cosine"),
    *("dataset.crop=random", "dataset.flip=true", "dataset.num_variants=2", *ONLY_NUMBERS),
)


def logged_step(run: Path) -> int:
    try:
        return max((step for _, step, _ in scalars(run)), default=0)
    except (FileNotFoundError, json.JSONDecodeError):  # not begun, or in the middle of a line
        return 0


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.03)


@dataclass(frozen=True, kw_only=True)
class Broken:
    """Starts of one line: where its run is, what each printed and how each ended."""

    folder: Path
    printed: list[str]
    codes: list[int]


def start(ready: Clone, output: Path) -> subprocess.Popen[str]:
    return ready.start(*LINE, f"paths.output_dir={output}")


def finish(processes: Sequence[subprocess.Popen[str]], output: Path) -> Broken:
    printed = [process.communicate(timeout=240)[0] for process in processes]
    codes = [process.returncode for process in processes]
    return Broken(folder=output / "train" / "x", printed=printed, codes=codes)


def broken_by(number: int, ready: Clone, output: Path, *, after_step: int) -> Broken:
    """A run that gets a signal once so many steps are logged, and the one that goes on with it."""
    # The signal goes to what was started as `sh`.
    first = start(ready, output)
    try:
        wait_until(lambda: logged_step(output / "train" / "x") >= after_step, first)
        first.send_signal(number)
        broken = finish([first], output)
    finally:
        first.kill()
    rest = finish([start(ready, output)], output)
    return Broken(folder=rest.folder, printed=broken.printed + rest.printed, codes=broken.codes + rest.codes)


@pytest.fixture(scope="module")
def both(ready: Clone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Broken, Broken]:
    """The same line unbroken and stopped by SIGTERM, side by side: most of each is imports."""
    folder = tmp_path_factory.mktemp("resume")
    unbroken = start(ready, folder / "unbroken")
    try:
        # At the validation of step 11: between two logs, so that the losses since the last one have to survive.
        stopped = broken_by(signal.SIGTERM, ready, folder / "stopped", after_step=11)
        return finish([unbroken], folder / "unbroken"), stopped
    finally:
        unbroken.kill()


@pytest.fixture(scope="module")
def unbroken(both: tuple[Broken, Broken]) -> Broken:
    return both[0]


@pytest.fixture(scope="module")
def stopped(both: tuple[Broken, Broken]) -> Broken:
    return both[1]


@pytest.fixture(scope="module")
def killed(ready: Clone, tmp_path_factory: pytest.TempPathFactory) -> Broken:
    """After a checkpoint, and after more was logged that the resumed run has to log again."""
    return broken_by(signal.SIGKILL, ready, tmp_path_factory.mktemp("killed"), after_step=14)


def losses(run: Path) -> dict[tuple[str, int], float]:
    """All that does not measure time. What was logged twice must have been the same both times."""
    found: dict[tuple[str, int], float] = {}
    for name, step, value in scalars(run):
        if not name.startswith(("throughput/", "memory_")):
            assert found.setdefault((name, step), value) == value, (name, step)
    return found


def test_a_signal_to_sh_stops_at_a_step_with_a_checkpoint(stopped: Broken) -> None:
    first, second = stopped.printed
    assert stopped.codes == [128 + signal.SIGTERM, 0], first + second
    assert "SIGTERM: stopping after this step, with a checkpoint." in first
    assert "Continue with: the same command, run.name=x trainer.resume=auto" in first
    stopped_at = int(first.split("Stopped after step ")[1].split(":")[0])
    assert 11 <= stopped_at < MAX_STEPS
    assert f"Training from step {stopped_at} to step {MAX_STEPS}." in second


def test_a_killed_run_starts_from_its_last_whole_checkpoint(killed: Broken) -> None:
    first, second = killed.printed
    assert killed.codes == [-signal.SIGKILL, 0], first + second
    resumed_at = int(second.split("Training from step ")[1].split(" to ")[0])
    assert resumed_at in range(8, MAX_STEPS)
    assert "Stopped after step" not in first


@pytest.mark.parametrize("kind", ["stopped", "killed"])
def test_the_result_is_that_of_an_unbroken_run(unbroken: Broken, request, kind: str) -> None:
    whole, broken = unbroken.folder, request.getfixturevalue(kind).folder
    assert unbroken.codes == [0], unbroken.printed
    for name in ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors"):
        assert_same_tensors(whole / "adapter" / name, broken / "adapter" / name)
    last = f"step_{MAX_STEPS:08d}"
    assert_same_checkpoint(whole / "checkpoints" / last, broken / "checkpoints" / last)
    for checkpoint in list_checkpoints(broken / "checkpoints"):
        assert find_damage(checkpoint) is None

    expected = losses(whole)
    assert {("loss/train", step) for step in (7, 14, 21, 28, MAX_STEPS)} <= expected.keys()
    assert {("loss/validation", step) for step in (11, 22, MAX_STEPS)} <= expected.keys()
    assert losses(broken) == expected
    results = [json.loads((run / "result.json").read_text()) for run in (whole, broken)]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]
