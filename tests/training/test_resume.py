"""A killed and resumed run equals an unbroken one, bit for bit."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from src.callbacks.base import Callback, RunView
from src.data.order import Position
from src.diffusion.timesteps import TimestepSampling
from src.errors import UserError
from src.training.checkpoint import load_checkpoint
from src.training.snapshot import Snapshot
from src.training.state import TrainState
from tests.training.tiny import Tiny, same


class KillAt(Callback):
    """Sends this process a signal after a step, as a scheduler would."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGTERM, times: int = 1) -> None:
        self.step, self.number, self.times = step, number, times

    def on_step_end(self, run: RunView) -> None:
        if run.state.step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


class Losses(Callback):
    """Keeps what is logged, without the timings."""

    def __init__(self) -> None:
        self.logged: dict[int, dict[str, float]] = {}

    def needs_guard(self, hook: str, step: int) -> bool:
        """Else no run that is looked at would be without what the guard does."""
        return False

    def on_log(self, run: RunView, scalars: dict[str, float]) -> None:
        kept = {key: value for key, value in scalars.items() if not key.startswith("throughput/")}
        self.logged[run.state.step] = kept


def _outcome(run: Tiny) -> tuple[dict, dict]:
    checkpoint = load_checkpoint(sorted(run.checkpoints.glob("step_*"))[-1])
    return checkpoint.tensors["weights"], checkpoint.tensors["optimizer"]


# (max_steps, num_epochs, accumulation, killed after): 14 images in batches of 4 are 4 micro-batches a pass.
CASES = {
    "mid-pass": (10, None, 1, 6),
    "end of a pass": (10, None, 1, 4),
    "accumulation across passes": (8, None, 3, 4),
    "partial last group": (None, 2, 3, 2),
    "first step": (3, None, 1, 1),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_and_resumed_equals_unbroken(tiny, case, num_workers) -> None:
    max_steps, num_epochs, accumulation, killed_after = case
    settings = {"max_steps": max_steps, "num_epochs": num_epochs, "accumulation": accumulation}
    unbroken_losses, resumed_losses = Losses(), Losses()
    unbroken = tiny("unbroken", **settings, callbacks=[unbroken_losses])
    expected = unbroken.trainer().fit()

    killed = tiny(
        "killed", **settings, num_workers=num_workers, callbacks=[KillAt(killed_after), resumed_losses]
    )
    result = killed.trainer().fit()
    assert (result.step, result.stop_reason, result.exit_code) == (killed_after, "signal SIGTERM", 143)
    resumed = replace(killed, resume="auto", callbacks=[resumed_losses])
    result = resumed.trainer().fit()

    assert (result.step, result.stop_reason) == (expected.step, expected.stop_reason)
    for left, right in zip(_outcome(unbroken), _outcome(resumed), strict=True):
        assert same(left, right)
    assert same(unbroken.weights(), resumed.weights())
    assert resumed_losses.logged == unbroken_losses.logged


@pytest.mark.parametrize("moved", [Position(pass_number=1, index=1), Position(pass_number=1, index=3)])
def test_control_a_position_moved_by_one_micro_batch_is_noticed(tiny, monkeypatch, moved) -> None:
    unbroken = tiny("unbroken")
    unbroken.trainer().fit()
    killed = tiny("killed", callbacks=[KillAt(6)])
    killed.trainer().fit()
    restore = Snapshot.restore

    def moved_restore(self, checkpoint) -> TrainState:
        state = restore(self, checkpoint)
        assert state.position == Position(pass_number=1, index=2)
        return replace(state, position=moved)

    monkeypatch.setattr(Snapshot, "restore", moved_restore)
    resumed = replace(killed, resume="auto", callbacks=())
    resumed.trainer().fit()
    assert not same(unbroken.weights(), resumed.weights())


@pytest.mark.parametrize("moved", [0, -1, 1])
def test_control_a_position_moved_by_one_sample_is_noticed(tiny, moved) -> None:
    """With one image in a micro-batch; the control of the control is not moved, and is not noticed."""
    settings = {"batch_size": 1, "max_steps": 5}
    unbroken = tiny("unbroken", **settings)
    unbroken.trainer().fit()
    killed = tiny("killed", **settings, callbacks=[KillAt(3)])
    killed.trainer().fit()
    resumed = replace(killed, resume="auto", callbacks=())
    trainer = resumed.trainer()
    trainer.restore()
    position = trainer._state.position
    assert position == Position(pass_number=0, index=3)
    trainer._state = replace(trainer._state, position=replace(position, index=position.index + moved))
    trainer.fit()
    assert same(unbroken.weights(), resumed.weights()) == (moved == 0)


def test_workers_come_and_go_between_resumes(tiny) -> None:
    unbroken = tiny("unbroken")
    unbroken.trainer().fit()
    run = tiny("killed", callbacks=[KillAt(3)])
    run.trainer().fit()
    run = replace(run, resume="auto", num_workers=2, callbacks=[KillAt(6)])
    run.trainer().fit()
    run = replace(run, num_workers=0, callbacks=())
    run.trainer().fit()
    assert same(unbroken.weights(), run.weights())


def test_a_flipped_byte_in_each_file_of_a_checkpoint_means_the_one_before(tiny, caplog) -> None:
    settings = {"held_out": [], "configured": {"trainer": {"seed": 0}}, "ema_decay": 0.9}
    run = tiny(save_every=2, max_steps=4, **settings)
    run.trainer().fit()
    last = run.checkpoints / "step_00000004"
    files = sorted(last.iterdir())
    assert [file.name for file in files] == [
        *("config.json", "evaluation.safetensors", "loop.json", "manifest.json"),
        *("optimizer.safetensors", "state.json", "weights.safetensors"),
    ]
    for file in files:
        whole = file.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            trainer = replace(run, resume="auto", max_steps=6).trainer()
            trainer.restore()
            assert trainer._state.step == 2, (file.name, place)
            assert f"Skipping the damaged checkpoint {last}: {file.name}" in caplog.text
            caplog.clear()
        file.write_bytes(whole)
    assert replace(run, resume="auto", max_steps=6).trainer().fit().step == 6


def test_a_second_resume_and_world_without_text_cache(tiny) -> None:
    unbroken = tiny("unbroken", text=False, save_every=2)
    unbroken.trainer().fit()
    run = tiny("killed", text=False, callbacks=[KillAt(3)])
    run.trainer().fit()
    run = replace(run, resume="latest", callbacks=[KillAt(7, signal.SIGUSR1, times=2)])
    assert run.trainer().fit().exit_code == 138
    run = replace(run, resume="latest", callbacks=())
    assert run.trainer().fit().step == 10
    assert same(unbroken.weights(), run.weights())
    assert {"table.weight"} < set(run.weights())


def test_resumed_learning_rates_follow_the_formula_of_the_new_plan(tiny) -> None:
    losses = Losses()
    run = tiny(max_steps=4, log_every=1, callbacks=[losses])
    run.trainer().fit()
    replace(run, max_steps=8, resume="auto").trainer().fit()
    rates = {step: scalars["lr/unet_lora"] for step, scalars in losses.logged.items()}

    def formula(step: int, max_steps: int) -> float:
        cosine = 0.5 * (
            1 + torch.cos(torch.tensor(torch.pi * (step - 2) / (max_steps - 2), dtype=torch.float64))
        )
        return 1e-2 * ((step + 1) / 2 if step < 2 else cosine.item())

    expected = {step + 1: formula(step, 4 if step < 4 else 8) for step in range(8)}
    assert rates == pytest.approx(expected, rel=1e-12)
    assert losses.logged[5]["lr/text_encoder"] == pytest.approx(expected[5] / 10)


def test_rates_with_a_warm_up_in_passes_and_a_floor_follow_the_formula_after_a_resume(tiny) -> None:
    """4 micro-batches a pass: 0.75 passes are 3 steps. Planned for 5 steps, stopped, then for 9."""
    losses, settings = Losses(), {"schedule": "linear", "warmup_epochs": 0.75, "min_lr_ratio": 0.1}
    run = tiny(max_steps=5, log_every=1, callbacks=[losses, KillAt(4)], **settings)
    run.trainer().fit()
    replace(run, max_steps=9, resume="auto", callbacks=[losses]).trainer().fit()

    def formula(step: int) -> float:
        last = 5 if step < 4 else 9
        return 1e-2 * ((step + 1) / 3 if step < 3 else 0.1 + 0.9 * (1 - (step - 3) / (last - 3)))

    rates = {step: scalars["lr/unet_lora"] for step, scalars in losses.logged.items()}
    assert rates == pytest.approx({step + 1: formula(step) for step in range(9)}, rel=1e-12)


def test_resuming_a_finished_run_changes_nothing(tiny, held_out) -> None:
    run = tiny(max_steps=4, held_out=held_out)
    first = run.trainer().fit()
    manifest = (first.checkpoint / "manifest.json").read_bytes()
    weights = {name: tensor.clone() for name, tensor in run.weights().items()}
    again = replace(run, resume="auto")
    second = again.trainer().fit()
    assert (second.step, second.best, second.stop_reason) == (4, first.best, "max_steps")
    assert (first.checkpoint / "manifest.json").read_bytes() == manifest
    assert same(weights, again.weights())


def test_a_run_that_cannot_be_continued_is_refused(tiny) -> None:
    run = tiny(max_steps=2, must_match={"seed": 0, "base": "abc"})
    run.trainer().fit()
    with pytest.raises(UserError, match=r"base \(then abc, now xyz\)"):
        replace(run, resume="auto", must_match={"seed": 0, "base": "xyz"}).trainer().fit()
    with pytest.raises(UserError, match=r"optimizer \(then AdamW, now SGD\)"):
        replace(run, resume="auto", algorithm=torch.optim.SGD).trainer().fit()


def test_resume_from_another_run_folder_looks_for_its_own_best(tiny, held_out) -> None:
    source = tiny("source", max_steps=2, held_out=held_out)
    assert source.trainer().fit().best is not None
    run = tiny("other", max_steps=4, held_out=held_out, resume=str(source.folder))
    result = run.trainer().fit()
    assert result.step == result.best.step == 4
    assert result.best_checkpoint.parent == run.checkpoints
    with pytest.raises(UserError, match="already holds checkpoints"):
        run.trainer().fit()


def test_metrics_survive_in_json(tiny: Callable[..., Tiny]) -> None:
    run = tiny(max_steps=4, log_every=3)
    path: Path = run.trainer().fit().checkpoint
    loop = json.loads((path / "loop.json").read_text())
    assert loop["means"]["count"] == 0, "the last interval was logged at the end"


def test_loader_workers_end_with_the_run(tiny) -> None:
    before = set(multiprocessing.active_children())
    tiny(num_workers=2, max_steps=3).trainer().fit()
    assert set(multiprocessing.active_children()) <= before


def test_masks_offset_and_range_resume_exactly(tiny) -> None:
    timesteps = TimestepSampling(distribution="logit_normal", first=20, end=90)
    objective = {"noise_offset": 0.1, "unmasked_weight": 0.1, "timesteps": timesteps}
    settings = {"masks": True, "objective": objective, "max_steps": 6}
    unbroken = tiny("unbroken", **settings)
    unbroken.trainer().fit()
    killed = tiny("killed", **settings, num_workers=2, callbacks=[KillAt(3)])
    assert killed.trainer().fit().step == 3
    assert replace(killed, resume="auto", callbacks=[]).trainer().fit().step == 6
    for left, right in zip(_outcome(unbroken), _outcome(killed), strict=True):
        assert same(left, right)
