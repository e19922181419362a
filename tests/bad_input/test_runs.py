"""Runs of one name, and ends that nobody asked for."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from src.logs import run_log
from src.training.checkpoint import find_damage
from tests.bad_input.place import Done, Place, assert_refused

# Runs of one name


def test_a_second_run_of_one_name(trained: Place) -> None:
    before = trained.files()
    assert_refused(trained.run("train"), "already holds checkpoints", "trainer.resume=auto", "run.name")
    assert trained.files() == before
    # The same with any other fault: what is refused leaves a run's folder byte for byte.
    assert_refused(trained.run("train", "trainer.resume=auto", "dataset.path=/nowhere"), "/nowhere")
    assert trained.files() == before


@pytest.mark.parametrize("resume", ["never", "auto"])
def test_an_adapter_whose_checkpoints_were_removed(trained: Place, resume) -> None:
    shutil.rmtree(trained.out / "train/mine/checkpoints")
    before = trained.files()
    done = trained.run("train", f"trainer.resume={resume}")
    assert_refused(done, "mine/adapter holds a trained adapter", "run.name")
    assert trained.files() == before


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("trainer.seed=5", "trainer.seed (then 0, now 5)"),
        ("adapter.rank=3", "adapter.rank (then 2, now 3)"),
        ("adapter.target_modules=[to_k]", "that this run does not train"),
    ],
)
def test_a_run_that_cannot_be_continued_keeps_its_records(trained: Place, override, part) -> None:
    """Its config.yaml says how to read its checkpoints: that of the refused attempt would be wrong."""
    before = trained.files()
    done = trained.run("train", "trainer.resume=auto", "trainer.max_steps=4", override)
    assert_refused(done, "step_00000002 cannot be continued", part, "run.name")
    after = trained.files()
    # The log grows where the attempt came as far as the weights.
    appended = {"train/mine/train.log"}
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == (appended if "does not train" in part else set())
    assert trained.run("inference", "adapter.weights=2").code == 0


def test_a_change_that_is_allowed_is_shown_and_marked(trained: Place) -> None:
    line = ("trainer.resume=auto", "trainer.max_steps=3", "trainer.seed=5", "trainer.resume_changed=allow")
    assert_refused(trained.run("train", *line, "adapter.rank=3"), "adapter.rank", "does not cover")
    done = trained.run("train", *line)
    assert done.code == 0, done.err
    shown = done.out.partition("The configuration has changed since step_00000002:\n")[2]
    assert "  trainer.max_steps: 2 -> 3\n  trainer.seed: 0 -> 5\n" in shown
    mark = "step 2: trainer.seed 0 -> 5"
    assert f"Resumed with another value: {mark}" in done.out
    for name in ("lineage.json", "result.json"):
        kept = json.loads((trained.out / "train/mine" / name).read_text())
        assert kept["resumed_with_changes"] == [mark]


@pytest.mark.slow
def test_a_second_sweep_of_one_name(place: Place) -> None:
    sweep_of_two = ("-m", "trainer.seed=1,2", "trainer.max_steps=1")
    assert place.run("train", *sweep_of_two).code == 0
    before = place.files()
    assert_refused(place.run("train", *sweep_of_two), "sweeps/mine already holds a sweep", "run.name")
    assert place.files() == before
    assert place.run("train", *sweep_of_two, "trainer.resume=auto").code == 0


def test_two_runs_at_once_in_one_folder(place: Place, monkeypatch) -> None:
    """Two default runs that begin within one second have the same name."""
    monkeypatch.setattr("src.logs._PATIENCE", 0.3)
    with run_log(place.out / "train/mine/train.log"):
        before = place.files()
        done = place.run("train")
        assert_refused(done, "Another process is running in", "train/mine", "run.name")
        assert place.files() == before


# Ends that nobody asked for


def test_an_unexpected_error_saves_and_says_how_to_go_on(place: Place, monkeypatch) -> None:
    from src.training.optimizer_step import OptimizerStep

    take = OptimizerStep.take

    def fail_at_the_second(self, state, shares):
        if state.step == 1:
            raise RuntimeError("a defect")
        return take(self, state, shares)

    monkeypatch.setattr(OptimizerStep, "take", fail_at_the_second)
    done = place.run("train", "trainer.max_steps=3")
    assert done.code == 1
    assert "RuntimeError: a defect" in done.err
    assert done.err.strip().splitlines()[-1].startswith("error: Unexpected RuntimeError")
    assert "step 1 is saved" in done.out
    assert "run.name and trainer.resume=auto" in done.out
    monkeypatch.undo()
    assert place.run("train", "trainer.max_steps=3", "trainer.resume=auto").code == 0


def test_ctrl_c_before_training(place: Place, monkeypatch) -> None:
    """A signal at its lowest level: while photos are looked at, there is no loop to ask for an end."""
    from src.data import inspection

    def press(path):
        os.kill(os.getpid(), signal.SIGINT)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(inspection, "sha256_file", press)
    # A shell starts what it puts in the background with SIGINT ignored, and pytest may be there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = place.run("train")
    finally:
        signal.signal(signal.SIGINT, before)
    assert_refused(done, "Stopped by Ctrl-C")
    assert done.code == 130
    assert place.files() == {}


def _interrupt_when_saved(
    process: "subprocess.Popen[str]", checkpoints: Path, number: signal.Signals = signal.SIGINT
) -> tuple[str, str]:
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if any(checkpoints.glob("*/step_*")) or any(checkpoints.glob("step_*")):
            # What is started by a launcher is its child.
            for receiver in psutil.Process(process.pid).children() or [process]:
                receiver.send_signal(number)
            break
        time.sleep(0.1)
    try:
        return process.communicate(timeout=200)
    finally:
        # Endless runs: none is left behind, whatever went wrong.
        for left in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            left.kill()
        process.kill()


ENDLESS = ("trainer.max_steps=100000", "trainer.save_every=3", "trainer.validate_every=null")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_training(place: Place, number) -> None:
    process = place.start(*ENDLESS)
    out, err = _interrupt_when_saved(process, place.out / "train/mine/checkpoints", number)
    assert process.returncode == 128 + number, err
    assert f"{number.name}: stopping after this step" in err
    assert "Traceback" not in out + err
    assert out.strip().splitlines()[-1].endswith("run.name=mine trainer.resume=auto")


@pytest.mark.slow
def test_under_a_launcher_the_code_is_not_0_and_the_cause_in_the_log(place: Place) -> None:
    """One process under `accelerate launch`, whose own exit code is 1 whatever the cause was."""
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1")
    process = place.start(*ENDLESS, launcher=(*launcher, "--mixed_precision", "no"))
    out, err = _interrupt_when_saved(process, place.out / "train/mine/checkpoints", signal.SIGTERM)
    assert process.returncode == 1, err
    assert "SIGTERM: stopping after this step" in err
    assert "(signal SIGTERM)" in out
    assert "(signal SIGTERM)" in (place.out / "train/mine/train.log").read_text()
    assert all(find_damage(path) is None for path in (place.out / "train/mine/checkpoints").iterdir())


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_and_not_one_job(place: Place) -> None:
    process = place.start(
        "-m",
        "trainer.seed=1,2",
        "trainer.max_steps=100000",
        "trainer.save_every=3",
        "trainer.validate_every=null",
    )
    out, err = _interrupt_when_saved(process, place.out / "sweeps/mine/0/checkpoints")
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert re.search(r"The sweep .*SIGINT", out)
    assert "trainer.resume=auto" in out.strip().splitlines()[-1]
    assert sorted(path.name for path in (place.out / "sweeps/mine").iterdir() if path.is_dir()) == ["0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "override", "part"),
    [
        ("train", "dataset.path=/nowhere", "/nowhere does not exist"),
        ("train", "paths.output_dir=/dev/null/out", "/dev/null/out"),
        ("train", "model.path=nobody/not-in-the-cache", "cannot be reached"),
        ("inference", "adapter.weights=7", "sh train_run.sh"),
    ],
)
def test_the_same_in_a_process_of_its_own(place: Place, script, override, part) -> None:
    """With all that start-up prints: still one line."""
    process = place.start(override, script=script)
    out, err = process.communicate(timeout=120)
    assert_refused(Done(process.returncode, out, err), part)
