"""What holds of every optimiser that ships: exact resume, steps that are masked, what moves and what stays."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from src.config.targets import SLOTS, resolve
from src.data.order import Position
from src.errors import UserError
from src.training.checkpoint import load_checkpoint
from src.training.optimizers import GROUP_STATE, make_optimizer
from src.training.saving import checkpoint_bytes
from src.training.snapshot import Snapshot
from tests.training.shipped_optimizers import AVERAGING, CASES, shipped
from tests.training.test_optimizer_step import _Scaled, _with_nan
from tests.training.test_resume import KillAt, Losses
from tests.training.tiny import TinyDenoiser, groups_of, same


def _saved(run, step=10):
    """All that a checkpoint says of weights and optimiser."""
    checkpoint = load_checkpoint(run.checkpoints / f"step_{step:08d}")
    return checkpoint.tensors, checkpoint.documents["loop"]["optimizer"]


def _assert_equal(left, right):
    (left_tensors, left_document), (right_tensors, right_document) = left, right
    assert left_document == right_document
    assert left_tensors.keys() == right_tensors.keys()
    for group, tensors in left_tensors.items():
        assert same(tensors, right_tensors[group]), group
        assert all(tensors[name].dtype == right_tensors[group][name].dtype for name in tensors)


def _has_what_it_should(case, saved):
    tensors, document = saved
    assert ("evaluation" in tensors) == (case in AVERAGING)
    group_keys = {
        "prodigy": {"k", "d", "d_max", "d_numerator", "d_denom", "d_hat"},
        "schedule_free": {"k", "weight_sum", "lr_max", "scheduled_lr"},
    }
    assert {key for group in document["groups"].values() for key in group} == group_keys.get(case, set())
    if case == "adamw_8bit":
        dtypes = {name.rpartition("/")[2]: tensor.dtype for name, tensor in tensors["optimizer"].items()}
        assert dtypes["absmax1"] == dtypes["qmap1"] == torch.float32
        assert tensors["optimizer"]["out.weight/state1"].dtype == torch.uint8
        assert tensors["optimizer"]["out.bias/state1"].dtype == torch.float32


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_equals_unbroken(tiny, case, monkeypatch) -> None:
    """Killed twice; and the control: from a position one micro-batch further it is another run."""
    settings = shipped(case)
    unbroken = tiny("unbroken", **settings)
    unbroken.trainer().fit()
    run = tiny("killed", **settings, callbacks=[KillAt(3)])
    run.trainer().fit()
    run = replace(run, resume="auto", callbacks=[KillAt(6)])
    run.trainer().fit()
    resumed = replace(run, callbacks=())
    resumed.trainer().fit()
    saved = _saved(unbroken)
    _has_what_it_should(case, saved)
    _assert_equal(saved, _saved(resumed))

    restore = Snapshot.restore

    def moved_restore(self, checkpoint):
        state = restore(self, checkpoint)
        assert state.position == Position(pass_number=1, index=2)
        return replace(state, position=Position(pass_number=1, index=3))

    monkeypatch.setattr(Snapshot, "restore", moved_restore)
    moved = tiny("moved", **settings, resume=str(run.checkpoints / "step_00000006"))
    moved.trainer().fit()
    with pytest.raises(AssertionError):
        _assert_equal(saved, _saved(moved))


@pytest.mark.parametrize("case", CASES)
def test_nan_never_reaches_weights_state_or_average(tiny, records, case) -> None:
    """NaN in step 3 is noticed at the log of step 5, and what is left is all of step 2."""
    _, records_with_nan = _with_nan(records)
    settings = shipped(case) | {"records": records_with_nan, "log_every": 5, "schedule": "constant"}
    good = tiny("good", **settings, max_steps=2)
    good.trainer().fit()
    run = tiny("run", **settings, max_steps=20)
    with pytest.raises(UserError, match=r"at step 3; .* step 2 were kept"):
        run.trainer().fit()
    assert same(good.weights(), run.weights())
    _assert_equal(_saved(good, 2), _saved(run, 2))


@pytest.mark.parametrize("case", CASES)
def test_what_is_trained_moves_and_what_is_frozen_stays(tiny, case) -> None:
    run = tiny(**shipped(case), max_steps=2, text=False)
    trainer = run.trainer()
    before = {name: p.detach().clone() for name, p in run.denoiser.named_parameters()}
    trainer.fit()
    moved = {name for name, p in run.denoiser.named_parameters() if not torch.equal(before[name], p)}
    assert moved == {name for name, p in run.denoiser.named_parameters() if p.requires_grad}
    assert "frozen.weight" in before.keys() - moved


@pytest.mark.parametrize("case", CASES)
def test_gradient_scaling_changes_nothing_but_the_rounding(tiny, case) -> None:
    plain = tiny("plain", **shipped(case), max_steps=3)
    plain.trainer().fit()
    scaled = tiny("scaled", **shipped(case), max_steps=3, accelerator=_Scaled.accelerator(1024.0))
    scaled.trainer().fit()
    _assert_equal(_saved(plain, 3), _saved(scaled, 3))


@pytest.mark.parametrize("case", ["prodigy", "schedule_free", "ema"])
def test_nan_latches_with_gradient_scaling_too(tiny, records, case) -> None:
    _, records_with_nan = _with_nan(records)
    settings = shipped(case) | {"records": records_with_nan, "schedule": "constant"}
    good = tiny("good", **settings, max_steps=2)
    good.trainer().fit()
    run = tiny("run", **settings, max_steps=20, log_every=10, accelerator=_Scaled.accelerator(2.0))
    with pytest.raises(UserError, match="at step 3"):
        run.trainer().fit()
    _assert_equal(_saved(good, 2), _saved(run, 2))


@pytest.mark.parametrize("target", sorted(SLOTS["optimizer.algorithm"].targets))
def test_nothing_else_changes_in_the_groups_of_any_optimiser_that_is_allowed(target) -> None:
    """What changes there and is not saved would be lost in a resume."""
    algorithm, _ = resolve("optimizer.algorithm", {"_target_": target})
    fixed = {"relative_step": False} if target.endswith("Adafactor") else {}
    groups = groups_of(TinyDenoiser())
    optimizer = make_optimizer(groups, algorithm=partial(algorithm, **fixed), lr=1.0)
    before = [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    for group in groups:
        for _, parameter in group.parameters:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for old, group in zip(before, optimizer.param_groups, strict=True):
        changed = {key for key in group if key != "params" and (key not in old or old[key] != group[key])}
        assert changed <= set(GROUP_STATE)
        assert ("k" in changed) == target.startswith(("prodigyopt.", "schedulefree."))


@pytest.mark.parametrize("case", [case for case in CASES if case != "adamw_8bit"])
def test_the_room_for_a_checkpoint_is_known_before_there_is_one(tiny, case) -> None:
    """8-bit states have their tables beside them, which only in large tensors take next to nothing."""
    run = tiny(**shipped(case), max_steps=3)
    tensors = load_checkpoint(run.trainer().fit().checkpoint).tensors
    taken = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    name = type(run.optimizer).__name__
    expected = checkpoint_bytes(run.weights().values(), optimizer=name, has_average=case in AVERAGING)
    assert 0.7 < taken / expected < 1.1


def test_a_checkpoint_without_group_state_is_read(tiny) -> None:
    """As versions before Prodigy and schedule-free wrote it."""
    run = tiny(max_steps=4)
    trainer = run.trainer()
    trainer.fit()
    checkpoint = load_checkpoint(run.checkpoints / "step_00000004")
    assert checkpoint.documents["loop"]["optimizer"].pop("groups") == {}
    again = tiny("again").trainer()
    assert again._saver._snapshot.restore(checkpoint).step == 4


def test_a_moving_average_that_is_not_in_the_checkpoint_is_missed(tiny) -> None:
    run = tiny(max_steps=2)
    run.trainer().fit()
    with pytest.raises(UserError, match="no moving average"):
        replace(run, resume="auto", ema_decay=0.9).trainer().fit()


def test_the_state_in_the_groups_is_plain_json(tiny) -> None:
    losses = Losses()
    run = tiny(**shipped("prodigy"), max_steps=3, callbacks=[losses])
    path = run.trainer().fit().checkpoint
    groups = json.loads((path / "loop.json").read_text())["optimizer"]["groups"]
    assert groups.keys() == {"unet_lora", "text_encoder"}
    assert groups["unet_lora"] == groups["text_encoder"]
    assert groups["unet_lora"]["k"] == 3
    assert losses.logged[3]["prodigy/d"] == groups["unet_lora"]["d"] > 0
