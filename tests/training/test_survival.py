"""What a run survives, and what it leaves behind where it does not."""

import gc
import os
import signal
import weakref
from dataclasses import replace

import pytest
import torch

from src.callbacks.base import Callback
from src.training.checkpoint import find_damage
from src.training.observers import release
from src.training.optimizer_step import OptimizerStep
from src.training.out_of_memory import OutOfMemory
from tests.training.test_resume import Losses
from tests.training.tiny import same


def test_out_of_memory_in_validation_leaves_training_as_it_was(tiny, held_out, caplog) -> None:
    """Raised in the denoiser's own forward pass, in eval mode and in the middle of the images."""
    settings = {"validate_every": 2, "log_every": 1, "max_steps": 6}
    losses, plain_losses = Losses(), Losses()
    plain = tiny("plain", held_out=held_out, callbacks=[plain_losses], **settings)
    assert plain.trainer().fit().failures == ()
    run = tiny("run", held_out=held_out, callbacks=[losses], **settings)
    trainer = run.trainer()
    calls = []

    def out_of_memory(module, arguments, output):
        if not module.training:
            calls.append(None)
            torch.randn(3)
            if len(calls) % 4 == 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    run.denoiser.register_forward_hook(out_of_memory)
    result = trainer.fit()
    assert (result.step, result.best) == (6, None)
    assert result.failures == tuple(
        f"validation at step {step}: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
        for step in (2, 4, 6)
    )
    assert "validation failed at step 2 and is skipped" in caplog.text
    assert run.denoiser.training
    assert same(plain.weights(), run.weights())
    assert losses.logged == plain_losses.logged


def test_nothing_of_a_failed_validation_waits_for_the_garbage_collector(tiny, held_out) -> None:
    run = tiny(held_out=held_out, validate_every=2, max_steps=3)
    kept: list[weakref.ref] = []
    alive: list[bool] = []

    class Watch(Callback):
        def on_step_end(self, view):
            alive.extend(reference() is not None for reference in kept)

    trainer = replace(run, callbacks=[Watch()])
    loop = trainer.trainer()

    def out_of_memory(module, arguments, output):
        if not module.training:
            kept.append(weakref.ref(output))
            raise torch.OutOfMemoryError("no room")

    trainer.denoiser.register_forward_hook(out_of_memory)
    gc.disable()
    try:
        loop.fit()
    finally:
        gc.enable()
    assert alive
    assert not any(alive)


@pytest.mark.parametrize("is_gpu", [False, True])
def test_the_cache_of_a_gpu_is_emptied_only_where_there_is_one(monkeypatch, is_gpu) -> None:
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(None))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: is_gpu)
    try:
        raise ValueError from torch.OutOfMemoryError("no room")
    except ValueError as error:
        release(error)
        traces = [error.__traceback__, error.__cause__.__traceback__]
    assert traces == [None, None]
    assert len(emptied) == int(is_gpu)


@pytest.mark.parametrize("error", [SystemExit(3), torch.OutOfMemoryError("no room"), AssertionError()])
def test_a_callback_that_tries_to_end_the_run_does_not(tiny, error) -> None:
    class Rude(Callback):
        def on_step_end(self, run):
            if run.state.step == 2:
                raise error

    plain = tiny("plain", max_steps=3)
    plain.trainer().fit()
    run = tiny("rude", max_steps=3, callbacks=[Rude()])
    result = run.trainer().fit()
    assert (result.step, len(result.failures)) == (3, 1)
    assert same(plain.weights(), run.weights())


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        *(pytest.param(error, marks=pytest.mark.slow) for error in (SystemExit(1), MemoryError())),
    ],
)
def test_whatever_ends_the_loop_the_last_good_step_is_saved(tiny, error, monkeypatch) -> None:
    """In the fourth step: three are done."""
    unbroken = tiny("unbroken", max_steps=5)
    unbroken.trainer().fit()
    run = tiny("run", max_steps=5)
    take = OptimizerStep.take

    def failing(self, before, shares):
        if before.step == 3:
            raise error
        return take(self, before, shares)

    with monkeypatch.context() as patch:
        patch.setattr(OptimizerStep, "take", failing)
        with pytest.raises((type(error), OutOfMemory)):
            run.trainer().fit()
    assert [path.name for path in run.checkpoints.iterdir()] == ["step_00000003"]
    assert find_damage(run.checkpoints / "step_00000003") is None
    resumed = replace(run, resume="auto")
    resumed.trainer().fit()
    assert same(unbroken.weights(), resumed.weights())


def test_a_loader_worker_that_is_killed_ends_the_run_with_a_checkpoint(tiny) -> None:
    """As the kernel does when memory runs out. Resumed without workers, it ends as if nothing had been."""
    import multiprocessing

    unbroken = tiny("unbroken", max_steps=16)
    unbroken.trainer().fit()

    class Kill(Callback):
        def on_step_end(self, run):
            if run.state.step == 3:
                for worker in multiprocessing.active_children():
                    os.kill(worker.pid, signal.SIGKILL)

    run = tiny("run", max_steps=16, num_workers=2, callbacks=[Kill()])
    with pytest.raises(RuntimeError, match="worker"):
        run.trainer().fit()
    (path,) = run.checkpoints.iterdir()
    assert 3 <= int(path.name.removeprefix("step_")) < 16
    resumed = replace(run, resume="auto", num_workers=0, callbacks=())
    assert resumed.trainer().fit().step == 16
    assert same(unbroken.weights(), resumed.weights())
