"""Shards of one process: what is whole inside, and what an error leaves."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.distributed import HashStore
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from src.callbacks.base import Callback
from src.errors import UserError
from src.training.accelerator import Agreement, RankError, make_accelerator
from src.training.checkpoint import Checkpointer, find_damage, load_checkpoint
from src.training.observers import Observers
from src.training.optimizers import export_state, make_optimizer, parameter_names
from src.training.sharding import is_sharded, shard, whole
from tests.callbacks.recorder import Recorder, make_run
from tests.training.tiny import TinyDenoiser, groups_of, same


@pytest.fixture
def process_group():
    """Of this process alone."""
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def sharded(process_group):
    """A tiny denoiser in shards, all of them here, and its groups."""
    denoiser = TinyDenoiser()
    denoiser.table.requires_grad_(False)
    groups = [group for group in groups_of(denoiser) if group.parameters]
    blocks = [denoiser.condition, denoiser.text]
    return denoiser, shard(denoiser, blocks, groups, accelerator=make_accelerator(device="cpu"))


def test_an_error_while_gathering_leaves_all_in_shards(sharded, monkeypatch) -> None:
    denoiser, _ = sharded
    parts = [part for part in denoiser.modules() if isinstance(part, FSDPModule)]
    assert len(parts) == 3
    before = [type(part) for part in parts]
    unshard = FSDPModule.unshard

    def run_out(self: FSDPModule) -> None:
        if self is parts[-1]:
            raise torch.OutOfMemoryError("no room for it")
        unshard(self)

    def seen() -> list[type]:
        return [type(part) for part in parts]

    def are_shards() -> set[bool]:
        return {hasattr(parameter, "placements") for parameter in denoiser.parameters()}

    monkeypatch.setattr(FSDPModule, "unshard", run_out)
    with pytest.raises(torch.OutOfMemoryError), whole(denoiser):
        pass
    assert (seen(), are_shards()) == (before, {True})
    monkeypatch.undo()
    with whole(denoiser):
        assert not is_sharded(denoiser)
        assert are_shards() == {False}
    assert (seen(), are_shards()) == (before, {True})


def test_state_in_shards_is_exported_without_copies(sharded) -> None:
    """A shard has no address of its own: all say 0, as if they shared their memory."""
    _, groups = sharded
    optimizer = make_optimizer(groups, algorithm=torch.optim.AdamW, lr=0.1)
    for group in groups:
        for _, parameter in group.parameters:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors, _ = export_state(optimizer, parameter_names(groups))
    own = {id(value) for state in optimizer.state.values() for value in state.values()}
    moments = [tensor for name, tensor in tensors.items() if name.endswith("exp_avg")]
    assert len(moments) > 1
    assert all(isinstance(tensor, DTensor) for tensor in moments)
    assert {id(tensor) for tensor in moments} <= own


class _Elsewhere(Agreement):
    """Another rank has failed wherever failures are compared."""

    def raise_for_all(self, failure: Exception | SystemExit | None) -> None:
        raise failure or RankError("rank 1: no memory left")


def test_nothing_is_gathered_where_another_rank_did_not_come(sharded, tmp_path, monkeypatch) -> None:
    """It would wait there for ever."""

    class OnEveryRank(Callback):
        on_every_rank = True

        def on_step_end(self, run):
            raise AssertionError("reached")

    denoiser, _ = sharded
    gathers = []
    monkeypatch.setattr(FSDPModule, "unshard", gathers.append)
    observers = Observers([OnEveryRank()], module=denoiser, seed=0)
    observers.call("on_step_end", make_run(Recorder(), tmp_path, ranks=_Elsewhere()))
    assert observers.failures == [
        "callback OnEveryRank.on_step_end at step 0: RankError: rank 1: no memory left"
    ]
    assert gathers == []


def test_an_exit_in_shared_work_is_told_to_all(sharded) -> None:
    told = []

    class Told(Agreement):
        def raise_for_all(self, failure: Exception | SystemExit | None) -> None:
            told.append(type(failure))
            super().raise_for_all(failure)

    ranks = Told()
    ranks._group = torch.distributed.new_group(backend="gloo")
    for work in (lambda: ranks.do_shares(sys.exit), lambda: ranks.entered(_Exits()).__enter__()):
        with pytest.raises(SystemExit):
            work()
    assert told == [SystemExit, SystemExit]


class _Exits:
    def __enter__(self) -> None:
        sys.exit()

    def __exit__(self, *_: object) -> None:
        """Never reached."""


def test_what_was_put_together_for_a_save_that_failed_is_saved_after_all(
    process_group, tiny, monkeypatch
) -> None:
    """One process cannot gather, but may still have what all of them gathered at that step."""
    save, attempts = Checkpointer.save, []

    def refused_once(self: Checkpointer, *, step: int, **settings: Any) -> Path:
        attempts.append(step)
        if attempts == [1, 2]:
            raise UserError("the disk does not answer")
        return save(self, step=step, **settings)

    run = tiny(sharded=True, max_steps=3, save_every=1)
    trainer = run.trainer()
    monkeypatch.setattr(Checkpointer, "save", refused_once)
    with pytest.raises(UserError, match="does not answer"):
        trainer.fit()
    assert attempts == [1, 2, 2]
    path = run.checkpoints / "step_00000002"
    assert find_damage(path) is None
    assert same(
        load_checkpoint(path).tensors["weights"], {n: t.full_tensor() for n, t in run.weights().items()}
    )
    assert trainer._saver._gathered is None
