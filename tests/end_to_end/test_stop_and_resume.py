"""A run that was stopped, or killed, goes on with the same line as if nothing had been."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
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

pytestmark = pytest.mark.timeout(600)  # several runs at once, on a machine that may be busy
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


@pytest.fixture(scope="module")
def runs(
    ready: Clone, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, list[str], list[int]]]:
    """The same line unbroken, stopped by SIGTERM, and killed: (run folder, printed, exit codes) of each."""
    folder = tmp_path_factory.mktemp("resume")
    outputs = {kind: folder / kind for kind in ("unbroken", "stopped", "killed")}
    run_folders = {kind: output / "train" / "x" for kind, output in outputs.items()}

    def start(kind: str) -> subprocess.Popen[str]:
        return ready.start(*LINE, f"paths.output_dir={outputs[kind]}")

    printed: dict[str, list[str]] = {kind: [] for kind in outputs}
    codes: dict[str, list[int]] = {kind: [] for kind in outputs}
    # Side by side: most of each is imports.
    processes = {kind: start(kind) for kind in outputs}
    try:
        # The signals go to what was started as `sh`.
        stopped, killed = processes["stopped"], processes["killed"]
        # At the validation of step 11: between two logs, so that the losses since the last one have to survive.
        wait_until(lambda: logged_step(run_folders["stopped"]) >= 11, stopped)
        stopped.send_signal(signal.SIGTERM)
        # After a checkpoint, and after more was logged that the resumed run has to log again.
        wait_until(lambda: logged_step(run_folders["killed"]) >= 14, killed)
        killed.kill()
        for kind in ("stopped", "killed", "unbroken"):
            printed[kind].append(processes[kind].communicate(timeout=240)[0])
            codes[kind].append(processes[kind].returncode)
        processes = {kind: start(kind) for kind in ("stopped", "killed")}
        for kind, process in processes.items():
            printed[kind].append(process.communicate(timeout=240)[0])
            codes[kind].append(process.returncode)
    finally:
        for process in processes.values():
            process.kill()
    return {kind: (run_folders[kind], printed[kind], codes[kind]) for kind in outputs}


def losses(run: Path) -> dict[tuple[str, int], float]:
    """All that does not measure time. What was logged twice must have been the same both times."""
    found: dict[tuple[str, int], float] = {}
    for name, step, value in scalars(run):
        if not name.startswith("throughput/"):
            assert found.setdefault((name, step), value) == value, (name, step)
    return found


def test_a_signal_to_sh_stops_at_a_step_with_a_checkpoint(runs) -> None:
    _, (first, second), codes = runs["stopped"]
    assert codes == [128 + signal.SIGTERM, 0], first + second
    assert "SIGTERM: stopping after this step, with a checkpoint." in first
    assert "Continue with: the same command, run.name=x trainer.resume=auto" in first
    stopped_at = int(first.split("Stopped after step ")[1].split(":")[0])
    assert 11 <= stopped_at < MAX_STEPS
    assert f"Training from step {stopped_at} to step {MAX_STEPS}." in second


def test_a_killed_run_starts_from_its_last_whole_checkpoint(runs) -> None:
    _, (first, second), codes = runs["killed"]
    assert codes == [-signal.SIGKILL, 0], first + second
    resumed_at = int(second.split("Training from step ")[1].split(" to ")[0])
    assert resumed_at in range(8, MAX_STEPS)
    assert "Stopped after step" not in first


@pytest.mark.parametrize("kind", ["stopped", "killed"])
def test_the_result_is_that_of_an_unbroken_run(runs, kind: str) -> None:
    unbroken, broken = runs["unbroken"][0], runs[kind][0]
    assert runs["unbroken"][2] == [0], runs["unbroken"][1]
    for name in ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors"):
        assert_same_tensors(unbroken / "adapter" / name, broken / "adapter" / name)
    last = f"step_{MAX_STEPS:08d}"
    assert_same_checkpoint(unbroken / "checkpoints" / last, broken / "checkpoints" / last)
    for checkpoint in list_checkpoints(broken / "checkpoints"):
        assert find_damage(checkpoint) is None

    expected = losses(unbroken)
    assert {("loss/train", step) for step in (7, 14, 21, 28, MAX_STEPS)} <= expected.keys()
    assert {("loss/validation", step) for step in (11, 22, MAX_STEPS)} <= expected.keys()
    assert losses(broken) == expected
    results = [json.loads((run / "result.json").read_text()) for run in (unbroken, broken)]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]
