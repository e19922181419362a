"""The average that is judged and handed over, and training that knows nothing of it."""

from dataclasses import replace

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from src.callbacks.base import Callback
from src.training.checkpoint import judged_weights, load_checkpoint
from src.training.evaluation_weights import MovingAverage, ema_decay
from tests.training.shipped_optimizers import AVERAGING, shipped
from tests.training.test_observers import Rude
from tests.training.test_resume import Losses
from tests.training.tiny import TinyDenoiser, groups_of, same

FALSE = torch.tensor(False)


class Weights(Callback):
    """Copies of the weights in training after each step, and of those that a callback sees under the guard."""

    def __init__(self, run, *, guarded: bool) -> None:
        self.run, self.guarded, self.seen = run, guarded, {}

    def needs_guard(self, hook, step):
        return self.guarded

    def on_step_end(self, run):
        self.seen[run.state.step] = {name: tensor.clone() for name, tensor in self.run.weights().items()}


def _fit(run, *extra):
    training, evaluation = Weights(run, guarded=False), Weights(run, guarded=True)
    run.callbacks = [training, evaluation, *extra]
    result = run.trainer().fit()
    assert result.failures == ()
    return training.seen, evaluation.seen, result


def test_the_moving_average_follows_its_formula(tiny) -> None:
    run = tiny(**shipped("ema"), max_steps=10)
    start = tiny("start")
    start.trainer()
    expected = {name: tensor.double() for name, tensor in start.weights().items()}
    training, evaluation, _ = _fit(run)
    for step in range(1, 11):
        decay = min(0.9, (1 + step) / (10 + step))
        for name, average in expected.items():
            expected[name] = decay * average + (1 - decay) * training[step][name]
            torch.testing.assert_close(evaluation[step][name].double(), expected[name], rtol=1e-5, atol=1e-7)
    assert not same(training[10], evaluation[10])
    assert [ema_decay(step, decay=0.9) for step in (1, 80, 81, 1000)] == [2 / 11, 0.9, 0.9, 0.9]


def test_the_schedule_free_average_follows_its_formula(tiny) -> None:
    """x is the mean of z over the steps, weighted by the squared largest rate so far (warm-up: 1/2, then 1)."""
    run = tiny(**shipped("schedule_free"), max_steps=6)
    zs = {}

    class Zs(Callback):
        def needs_guard(self, hook, step):
            return False

        def on_step_end(self, view):
            named = run.denoiser.named_parameters()
            state = run.optimizer.state
            zs[view.state.step] = {n: state[p]["z"].clone().double() for n, p in named if p in state}

    training, evaluation, _ = _fit(run, Zs())
    weights = [0.25, 1.0, 1.0, 1.0, 1.0, 1.0]
    for name in training[6]:
        mean = sum(weight * zs[step][name] for step, weight in enumerate(weights, start=1)) / sum(weights)
        torch.testing.assert_close(evaluation[6][name].double(), mean, rtol=1e-4, atol=1e-6)
        in_training = 0.1 * zs[6][name] + 0.9 * mean
        torch.testing.assert_close(training[6][name].double(), in_training, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", AVERAGING)
def test_validation_and_callbacks_do_not_disturb_training(tiny, held_out, case) -> None:
    """Also when they fail, and whatever they do to the model."""

    class Broken(Callback):
        def on_step_end(self, run):
            with torch.no_grad():
                run.model.out.weight.mul_(2.0)
            raise torch.OutOfMemoryError("while sampling")

    plain_losses, observed_losses = Losses(), Losses()
    plain = tiny("plain", **shipped(case), log_every=1, callbacks=[plain_losses])
    plain.trainer().fit()
    settings = {"held_out": held_out, "validate_every": 2, "save_every": 3, "log_every": 1}
    observed = tiny("observed", **shipped(case), **settings, callbacks=[observed_losses, Rude(), Broken()])
    result = observed.trainer().fit()
    assert sum("OutOfMemoryError" in failure for failure in result.failures) == 10
    for step, scalars in plain_losses.logged.items():
        assert observed_losses.logged[step] == scalars
    assert same(plain.weights(), observed.weights())
    left, right = (load_checkpoint(run.checkpoints / "step_00000010") for run in (plain, observed))
    assert all(same(tensors, right.tensors[group]) for group, tensors in left.tensors.items())


@pytest.mark.parametrize("case", AVERAGING)
def test_an_error_in_validation_puts_the_weights_back(tiny, held_out, case) -> None:
    plain = tiny("plain", **shipped(case))
    plain.trainer().fit()
    run = tiny("run", **shipped(case), held_out=held_out, validate_every=2)
    trainer = run.trainer()
    measure, calls = trainer._validator.measure, []

    def failing():
        calls.append(measure())
        raise torch.OutOfMemoryError("while validating")

    trainer._validator.measure = failing
    result = trainer.fit()
    assert len(result.failures) == len(calls) == 5
    assert same(plain.weights(), run.weights())


@pytest.mark.parametrize("case", AVERAGING)
def test_what_is_validated_is_what_is_saved_to_be_handed_over(tiny, held_out, case) -> None:
    run = tiny(**shipped(case), held_out=held_out, max_steps=6)
    result = run.trainer().fit()
    checkpoint = load_checkpoint(result.checkpoint)
    assert judged_weights(result.checkpoint).name == "evaluation.safetensors"
    assert same(checkpoint.tensors["weights"], run.weights())
    assert not same(checkpoint.tensors["evaluation"], run.weights())

    def validation(weights):
        fresh = tiny("fresh", held_out=held_out)
        trainer = fresh.trainer()
        fresh.load(weights)
        return trainer._validator.run(6).loss

    assert validation(checkpoint.tensors["evaluation"]) == result.best.value
    assert validation(checkpoint.tensors["weights"]) != result.best.value


def test_without_an_average_there_is_one_set_of_weights(tiny) -> None:
    run = tiny(max_steps=2)
    checkpoint = run.trainer().fit().checkpoint
    assert not (checkpoint / "evaluation.safetensors").exists()
    assert judged_weights(checkpoint).name == "weights.safetensors"


def test_a_masked_step_leaves_the_average_and_chunks_do_not_matter(monkeypatch) -> None:
    groups = groups_of(TinyDenoiser())
    whole = MovingAverage(groups, decay=0.5)
    monkeypatch.setattr("src.training.evaluation_weights._MAX_CHUNK", 60)
    chunked = MovingAverage(groups, decay=0.5)
    assert len(chunked._chunks) > 2
    before = {name: tensor.clone() for name, tensor in whole.export().items()}
    with torch.no_grad():
        for group in groups:
            for _, parameter in group.parameters:
                parameter.add_(1.0)
    whole.update(1, ~FALSE)
    assert same(whole.export(), before)
    whole.update(1, FALSE)
    chunked.update(1, FALSE)
    assert same(whole.export(), chunked.export())
    assert all(not torch.equal(tensor, before[name]) for name, tensor in whole.export().items())


def test_the_average_of_shards_is_that_of_whole_weights() -> None:
    """Weights as torch's FSDP holds them, of one process."""
    plain, sharded = TinyDenoiser(), TinyDenoiser()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        assert isinstance(sharded.out.weight, DTensor)
        averages = []
        for denoiser in (plain, sharded):
            average = MovingAverage(groups_of(denoiser), decay=0.5)
            trained = [p for p in denoiser.parameters() if p.requires_grad]
            with torch.no_grad():
                for parameter in trained:
                    parameter.add_(1.0)
            average.update(1, FALSE)
            before = _whole(dict(denoiser.named_parameters()))
            with average.applied():
                seen = _whole(dict(denoiser.named_parameters()))
            assert same(before, _whole(dict(denoiser.named_parameters())))
            assert not same(before, seen)
            averages.append((_whole(average.export()), seen))
        assert same(averages[0][0], averages[1][0])
        assert same(averages[0][1], averages[1][1])
    finally:
        torch.distributed.destroy_process_group()


def _whole(tensors):
    return {
        n: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone() for n, t in tensors.items()
    }


def test_a_run_with_more_steps_goes_on_with_its_average(tiny) -> None:
    """The checkpoint of a finished run, resumed: as if it had been planned longer (constant rate)."""
    settings = shipped("ema") | {"schedule": "constant"}
    planned = tiny("planned", **settings, max_steps=8)
    planned.trainer().fit()
    run = tiny("run", **settings, max_steps=4)
    run.trainer().fit()
    longer = replace(run, max_steps=8, resume="auto")
    longer.trainer().fit()
    left, right = (load_checkpoint(r.checkpoints / "step_00000008") for r in (planned, longer))
    assert same(left.tensors["evaluation"], right.tensors["evaluation"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_average_never_waits_for_the_gpu() -> None:
    denoiser = TinyDenoiser().cuda()
    average = MovingAverage(groups_of(denoiser), decay=0.9)
    is_masked = torch.tensor(False, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        average.update(1, is_masked)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_rehearsal_of_observers_has_the_weights_that_they_see(tiny) -> None:
    """And those of training beside them: a copy that memory must have room for."""
    run, seen = tiny(**shipped("ema"), max_steps=2), []
    trainer = run.trainer()
    trainer.fit()
    after = {name: tensor.clone() for name, tensor in run.weights().items()}
    trainer.rehearse_observer(lambda: seen.append({n: t.clone() for n, t in run.weights().items()}))
    assert not same(seen[0], after)
    assert same(run.weights(), after)
