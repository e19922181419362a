"""Observers do not touch: losses are bit-identical with and without them, whatever they do."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from src.callbacks.base import Callback
from src.callbacks.machine_load import MachineLoadCallback
from src.callbacks.progress import ProgressCallback
from src.loggers.jsonl import JsonlLogger
from src.training.accelerator import Agreement
from src.training.observers import Observers
from src.training.state import StopRequest
from tests.callbacks.recorder import make_run
from tests.training.test_resume import Losses
from tests.training.tiny import same


class Rude(Callback):
    """Does in every hook all that an observer can do to a run by accident."""

    def _act(self, run):
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        run.model.eval()
        run.model.requires_grad_(False)
        torch.set_grad_enabled(False)
        run.model(
            torch.randn(2, 4, 3, 5),
            torch.tensor([1, 2]),
            hidden=torch.randn(2, 3, 6),
            original_sizes=torch.ones(2, 2, dtype=torch.int64),
            crop_top_lefts=torch.ones(2, 2, dtype=torch.int64),
            target_sizes=torch.ones(2, 2, dtype=torch.int64),
        )

    on_fit_start = on_step_end = _act

    def on_log(self, run, scalars):
        self._act(run)
        scalars.clear()

    def on_validation_end(self, run, result):
        self._act(run)

    def on_checkpoint(self, run, path, is_best):
        self._act(run)
        raise RuntimeError("the tracker is down")


class Backward(Callback):
    """Leaves gradients behind."""

    def on_step_end(self, run):
        for parameter in run.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.ones_like(parameter)


@pytest.mark.parametrize("callbacks", [[Rude()], [Backward()], [Rude(), Backward(), Rude()]])
def test_losses_are_bit_identical_with_and_without(tiny, held_out, callbacks) -> None:
    settings = {"held_out": held_out, "validate_every": 3, "save_every": 2, "log_every": 1}
    plain_losses, observed_losses = Losses(), Losses()
    plain = tiny("plain", **settings, callbacks=[plain_losses])
    observed = tiny("observed", **settings, callbacks=[observed_losses, *callbacks])
    expected, result = plain.trainer().fit(), observed.trainer().fit()
    assert plain_losses.logged == observed_losses.logged
    assert same(plain.weights(), observed.weights())
    assert result.best == expected.best
    assert torch.is_grad_enabled()


def test_the_control_a_callback_that_changes_weights_is_seen(tiny) -> None:
    class Meddler(Callback):
        def on_step_end(self, run):
            with torch.no_grad():
                run.model.out.weight += 1e-7

    plain, touched = tiny("plain"), tiny("touched", callbacks=[Meddler()])
    plain.trainer().fit()
    touched.trainer().fit()
    assert not same(plain.weights(), touched.weights())


def test_modes_flags_grad_mode_and_random_states_are_put_back(tiny, tmp_path) -> None:
    """One call, so that nothing in the loop can hide what a hook left behind."""
    run = tiny()
    run.trainer()
    module, view = run.denoiser, make_run(JsonlLogger(run_dir=tmp_path), tmp_path, step=1)
    module.dropout.eval()

    def seen():
        modes = [part.training for part in module.modules()]
        flags = [parameter.requires_grad for parameter in module.parameters()]
        # Not Python's own: the tests' type checker draws from it.
        states = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        return modes, flags, states, torch.is_grad_enabled()

    class OnStepEnd(Rude):
        def on_step_end(self, run):
            module.dropout.train()
            module.frozen.requires_grad_(True)
            self._act(replace(run, model=module))

    before = seen()
    observers = Observers([OnStepEnd()], module=module, seed=0)
    observers.call("on_step_end", view)
    assert observers.failures == []
    assert seen() == before


def test_hooks_that_touch_nothing_run_without_the_guard(tiny, tmp_path) -> None:
    """Progress at every step, and a callback with work now and then at the steps in between."""
    guarded = {}

    class NowAndThen(Callback):
        def needs_guard(self, hook, step):
            return step % 3 == 0

        def on_step_end(self, run):
            guarded[run.state.step] = torch.get_rng_state().tolist() != outside

    class Always(Callback):
        def on_step_end(self, run):
            assert torch.get_rng_state().tolist() != outside

    run = tiny()
    run.trainer()
    outside = torch.get_rng_state().tolist()
    observers = Observers([NowAndThen(), Always()], module=run.denoiser, seed=0)
    for step in range(1, 7):
        observers.call("on_step_end", make_run(JsonlLogger(run_dir=tmp_path), tmp_path, step=step))
    assert observers.failures == []
    assert guarded == {step: step in (3, 6) for step in range(1, 7)}
    assert torch.get_rng_state().tolist() == outside
    assert not ProgressCallback().needs_guard("on_step_end", 1)


def test_hooks_of_the_main_rank_alone_wait_for_no_other(tiny, tmp_path) -> None:
    """A callback on every rank that overrides them: the others are not there."""
    seen = []

    class Waiting(Agreement):
        def raise_for_all(self, failure):
            raise AssertionError("waits for ever")

    class OnEveryRank(Callback):
        on_every_rank = True

        def on_memory(self, run, scalars):
            seen.append(("on_memory", torch.get_rng_state().tolist() == outside))

        def on_exception(self, run, error):
            seen.append(("on_exception", torch.get_rng_state().tolist() == outside))

    run = tiny()
    run.trainer()
    outside = torch.get_rng_state().tolist()
    observers = Observers([OnEveryRank()], module=run.denoiser, seed=0)
    view = make_run(JsonlLogger(run_dir=tmp_path), tmp_path, ranks=Waiting())
    observers.call("on_memory", view, {})
    observers.call("on_exception", view, ValueError())
    assert observers.failures == []
    assert seen == [("on_memory", True), ("on_exception", False)]
    assert not MachineLoadCallback(seconds_between_samples=1).needs_guard("on_log", 1)


class Broken(Callback):
    def on_log(self, run, scalars):
        raise ValueError(f"cannot draw\nat step {run.state.step}")

    def on_fit_end(self, run, result):
        raise torch.OutOfMemoryError("while sampling")


def test_a_callback_that_fails_is_marked_and_training_goes_on(tiny, caplog) -> None:
    result = tiny(callbacks=[Broken()], max_steps=6, log_every=3).trainer().fit()
    assert result.step == 6
    assert result.failures == (
        "callback Broken.on_log at step 3: ValueError: cannot draw",
        "callback Broken.on_log at step 6: ValueError: cannot draw",
        "callback Broken.on_fit_end at step 6: OutOfMemoryError: while sampling",
    )
    assert "is skipped; training goes on" in caplog.text


def test_a_stop_request_ends_the_run_at_the_boundary(tiny, held_out) -> None:
    class OnLog(Callback):
        def on_log(self, run, scalars):
            return StopRequest("enough") if run.state.step >= 4 else None

    result = tiny(held_out=held_out, callbacks=[OnLog()], log_every=2).trainer().fit()
    assert (result.step, result.stop_reason, result.exit_code) == (4, "callback OnLog: enough", 0)
    assert result.checkpoint.name == "step_00000004"
    assert result.best.step == 4, "the end is validated"


def test_hooks_come_in_order(tiny, held_out) -> None:
    calls = []

    class Recorder(Callback):
        def on_fit_start(self, run):
            calls.append(f"start {run.state.step}/{run.max_steps}")

        def on_step_end(self, run):
            calls.append(f"step {run.state.step}")

        def on_log(self, run, scalars):
            calls.append("log")
            assert set(scalars) == {
                "loss/train",
                "grad_norm/total",
                "grad_norm/unet_lora",
                "grad_norm/text_encoder",
                "lr/unet_lora",
                "lr/text_encoder",
                "throughput/images_per_second",
                "throughput/seconds_per_step",
            }
            assert all(np.isfinite(list(scalars.values())))

        def on_validation_end(self, run, result):
            calls.append(f"validation {result.step} best {run.state.best.step}")

        def on_checkpoint(self, run, path, is_best):
            calls.append(f"{path.name[-1]} {is_best}")

        def on_fit_end(self, run, result):
            calls.append(f"end {result.stop_reason}")

    result = (
        tiny(
            callbacks=[Recorder()],
            held_out=held_out,
            max_steps=3,
            log_every=2,
            validate_every=2,
            save_every=1,
        )
        .trainer()
        .fit()
    )
    assert result.failures == ()
    assert calls == [
        "start 0/3",
        "step 1",
        "1 False",
        "step 2",
        "log",
        "validation 2 best 2",
        "2 True",
        "step 3",
        "log",
        "validation 3 best 3",
        "3 True",
        "end max_steps",
    ]
