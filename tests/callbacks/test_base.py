"""A bare callback does nothing, and what it sees cannot be changed."""

import dataclasses
from pathlib import Path

import pytest

from src.callbacks.base import Callback, RunView
from src.loggers.jsonl import JsonlLogger
from src.training.state import TrainResult, TrainState, ValidationResult


def _view(tmp_path: Path) -> RunView:
    return RunView(
        state=TrainState(step=3),
        start_step=0,
        max_steps=10,
        num_epochs=2.5,
        seed=0,
        output_dir=tmp_path,
        model=object(),
        logger=JsonlLogger(run_dir=tmp_path),
    )


def test_every_hook_does_nothing(tmp_path) -> None:
    callback, run = Callback(), _view(tmp_path)
    validation = ValidationResult(
        step=3, loss=1.0, curve={5: 1.0}, train_loss=1.0, train_curve={5: 1.0}, num_images=1, seconds=0.1
    )
    result = TrainResult(
        step=3, stop_reason="max_steps", best=None, best_checkpoint=None, checkpoint=None, losses={}
    )
    assert callback.on_fit_start(run) is None
    assert callback.on_step_end(run) is None
    assert callback.on_log(run, {"loss/train": 1.0}) is None
    assert callback.on_memory(run, {"memory_save/process": 1.0}) is None
    assert callback.on_validation_end(run, validation) is None
    assert callback.on_checkpoint(run, tmp_path, False) is None
    callback.on_fit_end(run, result)
    callback.on_exception(run, RuntimeError("x"))
    assert not list(tmp_path.iterdir())


def test_a_view_is_frozen(tmp_path) -> None:
    run = _view(tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.state = TrainState(step=9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.state.step = 9


@pytest.mark.parametrize(("number", "code"), [(None, 0), (15, 143), (2, 130), (10, 138)])
def test_exit_codes(number, code) -> None:
    result = TrainResult(
        step=3,
        stop_reason="x",
        best=None,
        best_checkpoint=None,
        checkpoint=None,
        losses={},
        received_signal=number,
    )
    assert result.exit_code == code
