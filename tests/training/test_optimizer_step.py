"""Accumulation, clipping, and steps that are not finite."""

import re
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch

from src.callbacks.base import Callback
from src.data.order import pass_order
from src.errors import UserError
from src.training.accelerator import make_accelerator
from src.training.checkpoint import load_checkpoint
from src.training.optimizer_step import NonFiniteError
from tests.training.test_resume import Losses
from tests.training.tiny import NAN_CAPTION, same

ALGORITHMS = {
    "fused AdamW": torch.optim.AdamW,
    "fused SGD": partial(torch.optim.SGD, momentum=0.9),
    "host-masked Adamax": torch.optim.Adamax,
}


def _with_nan(records):
    """The last image of pass 0 gets a caption whose embedding is NaN."""
    victim = pass_order([r.id for r in records], seed=0, pass_number=0)[9]
    return victim, [replace(r, caption=NAN_CAPTION) if r.id == victim else r for r in records]


def _break_after(trainer, num_micro_batches):
    """The images vanish after some micro-batches."""
    batches = trainer._batches

    def failing(position):
        yield from islice(batches(position), num_micro_batches)
        raise OSError("disk gone")

    trainer._batches = failing


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=list(ALGORITHMS))
@pytest.mark.parametrize("max_grad_norm", [1.0, None])
def test_nan_stops_the_run_and_never_reaches_the_weights(tiny, records, algorithm, max_grad_norm) -> None:
    """NaN in step 3 (images 8 to 11) is noticed at the log of step 5, and step 2 is what is left."""
    victim, records_with_nan = _with_nan(records)
    settings = {"log_every": 5, "algorithm": algorithm, "max_grad_norm": max_grad_norm, "dropout": 0.0}
    settings["records"] = records_with_nan
    good = tiny("good", **settings, max_steps=2, schedule="constant")
    good.trainer().fit()
    run = tiny("run", **settings, max_steps=20, schedule="constant")
    with pytest.raises(
        NonFiniteError, match=rf"at step 3; .* step 2 were kept.* {victim} \(timestep \d+\)\."
    ) as info:
        run.trainer().fit()
    assert str(info.value).count("timestep ") == 1, "only the culprit is named"
    assert all(tensor.isfinite().all() for tensor in run.weights().values())
    assert same(good.weights(), run.weights())

    checkpoint, expected = (load_checkpoint(r.checkpoints / "step_00000002") for r in (run, good))
    assert same(checkpoint.tensors["optimizer"], expected.tensors["optimizer"])
    assert checkpoint.documents["state"] == expected.documents["state"]


def test_a_checkpoint_is_never_taken_of_a_bad_step(tiny, records) -> None:
    _, records_with_nan = _with_nan(records)
    run = tiny(records=records_with_nan, log_every=100, save_every=4, max_steps=20, dropout=0.0)
    with pytest.raises(NonFiniteError, match="at step 3"):
        run.trainer().fit()
    assert [path.name for path in run.checkpoints.iterdir()] == ["step_00000002"]


def test_another_error_after_an_unnoticed_bad_step_saves_the_last_good_one(tiny, records) -> None:
    _, records_with_nan = _with_nan(records)

    run = tiny(records=records_with_nan, log_every=100, max_steps=20, dropout=0.0)
    trainer = run.trainer()
    _break_after(trainer, 4)
    with pytest.raises(OSError, match="disk gone"):
        trainer.fit()
    assert [path.name for path in run.checkpoints.iterdir()] == ["step_00000002"]


def test_an_error_leaves_a_checkpoint_from_which_the_run_goes_on(tiny) -> None:
    unbroken = tiny("unbroken")
    unbroken.trainer().fit()
    seen = []

    class Witness(Callback):
        def on_exception(self, run, error):
            seen.append((run.state.step, str(error)))

    run = tiny("run", callbacks=[Witness()])
    trainer = run.trainer()
    _break_after(trainer, 5)
    with pytest.raises(OSError, match="disk gone"):
        trainer.fit()
    assert seen == [(5, "disk gone")]
    resumed = replace(run, resume="auto", callbacks=())
    assert resumed.trainer().fit().step == 10
    assert same(unbroken.weights(), resumed.weights())


def test_an_accumulated_step_equals_one_large_batch(tiny) -> None:
    """Also with the partial batch at the end of a pass: the loss is divided by the samples that there are."""
    settings = {"dropout": 0.0, "log_every": 1, "num_epochs": 2, "max_steps": None}
    small_losses, large_losses = Losses(), Losses()
    small = tiny("small", **settings, batch_size=4, accumulation=4, callbacks=[small_losses])
    large = tiny("large", **settings, batch_size=14, accumulation=1, callbacks=[large_losses])
    assert small.trainer().fit().step == large.trainer().fit().step == 2
    for step, scalars in large_losses.logged.items():
        assert small_losses.logged[step] == pytest.approx(scalars, rel=1e-5)
    for name, tensor in large.weights().items():
        torch.testing.assert_close(small.weights()[name], tensor, rtol=1e-4, atol=1e-6)


def test_accumulation_runs_across_passes(tiny) -> None:
    """4 micro-batches a pass and 3 a step: 8 steps are 24 micro-batches, 6 passes of 14 images."""
    result = tiny(accumulation=3, max_steps=8).trainer().fit()
    state = load_checkpoint(result.checkpoint).documents["state"]
    assert state["num_samples"] == 6 * 14
    assert state["position"] == {"pass_number": 6, "index": 0}


def test_gradient_norms_are_those_before_clipping(tiny) -> None:
    free, clipped = Losses(), Losses()
    tiny("free", log_every=1, max_steps=1, max_grad_norm=None, callbacks=[free]).trainer().fit()
    tiny("clipped", log_every=1, max_steps=1, max_grad_norm=1e-3, callbacks=[clipped]).trainer().fit()
    scalars = free.logged[1]
    assert scalars == clipped.logged[1]
    parts = [scalars["grad_norm/unet_lora"], scalars["grad_norm/text_encoder"]]
    assert scalars["grad_norm/total"] == pytest.approx(sum(part**2 for part in parts) ** 0.5, rel=1e-6)


def test_clipping_bounds_the_step(tiny) -> None:
    run = tiny(max_steps=1, max_grad_norm=1e-3, algorithm=torch.optim.SGD, lr=2.0, schedule="constant")
    trainer = run.trainer()
    before = {name: tensor.clone() for name, tensor in run.weights().items()}
    trainer.fit()
    # The warm-up's first factor is 1/2, so the rate is 1.0 and the text encoder's a tenth of it.
    moved = sum((run.weights()[n] - before[n]).pow(2).sum() for n in before if not n.startswith("text"))
    assert 0 < moved.sqrt().item() <= 1e-3 * 1.001


def test_frozen_weights_stay_and_trained_ones_move(tiny) -> None:
    run = tiny(max_steps=3, text=False)
    trainer = run.trainer()
    before = {name: p.detach().clone() for name, p in run.denoiser.named_parameters()}
    trainer.fit()
    moved = {name for name, p in run.denoiser.named_parameters() if not torch.equal(before[name], p)}
    assert moved == {name for name, p in run.denoiser.named_parameters() if p.requires_grad}
    assert "frozen.weight" not in moved


class _Scaled:
    """fp16's gradient scaler, which accelerate makes for GPUs only, on the CPU."""

    @staticmethod
    def accelerator(init_scale: float):
        accelerator = make_accelerator(device="cpu")
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=4)
        return accelerator

    @staticmethod
    def overflowing(run):
        """The trainer of a run whose gradients overflow at a scale of 2**127, and at one a bit lower, too."""
        trainer = run.trainer()
        run.denoiser.out.weight.register_hook(lambda gradient: gradient * 16)
        return trainer


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=list(ALGORITHMS))
def test_gradient_scaling_changes_nothing_but_the_rounding(tiny, algorithm) -> None:
    plain = tiny("plain", algorithm=algorithm)
    plain.trainer().fit()
    scaled = tiny("scaled", algorithm=algorithm, accelerator=_Scaled.accelerator(1024.0))
    scaled.trainer().fit()
    assert same(plain.weights(), scaled.weights()), "powers of two round nothing"


def test_the_scaler_skips_overflows_and_survives_a_resume(tiny) -> None:
    """1e38 overflows fp32 at first; the scale halves until it fits, and the run goes on."""
    settings = {"max_steps": 40, "save_every": 20, "schedule": "constant"}
    losses = Losses()
    unbroken = tiny("unbroken", **settings, accelerator=_Scaled.accelerator(2.0**127), callbacks=[losses])
    result = _Scaled.overflowing(unbroken).fit()
    scale = load_checkpoint(result.checkpoint).documents["loop"]["gradient_scaler"]["scale"]
    assert 1 < scale <= 2.0**127
    assert sum(scalars["gradient_scaling/skipped_steps"] for scalars in losses.logged.values()) > 0
    resumed = tiny(
        "resumed",
        **settings,
        accelerator=_Scaled.accelerator(2.0**127),
        resume=str(unbroken.checkpoints / "step_00000020"),
    )
    _Scaled.overflowing(resumed).fit()
    assert same(unbroken.weights(), resumed.weights())


def test_steps_that_the_scaler_skips_are_counted_and_not_averaged(tiny) -> None:
    """At a scale of 2**127 the first steps overflow; after that the mean is that of the steps taken."""
    settings = {"max_steps": 24, "save_every": 5, "keep": 9, "schedule": "constant", "max_grad_norm": None}
    each, rarely, resumed_rarely = Losses(), Losses(), Losses()

    def fit(name, **more):
        run = tiny(name, **settings, accelerator=_Scaled.accelerator(2.0**127), **more)
        _Scaled.overflowing(run).fit()
        return run

    fit("each", log_every=1, callbacks=[each])
    run = fit("rarely", log_every=12, callbacks=[rarely])
    norms = {step: s["grad_norm/total"] for step, s in each.logged.items() if "grad_norm/total" in s}
    skipped = {step for step, s in each.logged.items() if s["gradient_scaling/skipped_steps"]}
    assert 1 in skipped
    assert skipped == set(range(1, 25)) - set(norms)
    for first, last in ((1, 12), (13, 24)):
        taken = [norms[step] for step in range(first, last + 1) if step in norms]
        assert rarely.logged[last]["grad_norm/total"] == pytest.approx(sum(taken) / len(taken), rel=1e-5)
        assert rarely.logged[last]["gradient_scaling/skipped_steps"] == last - first + 1 - len(taken)

    # In the middle of an interval that has a skipped step.
    checkpoint = run.checkpoints / "step_00000005"
    assert not {"Infinity", "NaN"} & set(re.findall(r"\w+", (checkpoint / "loop.json").read_text()))
    fit("resumed", log_every=12, callbacks=[resumed_rarely], resume=str(checkpoint))
    assert resumed_rarely.logged == rarely.logged


def test_nan_latches_with_gradient_scaling_too(tiny, records) -> None:
    _, records_with_nan = _with_nan(records)
    settings = {"records": records_with_nan, "dropout": 0.0, "schedule": "constant"}
    good = tiny("good", **settings, max_steps=2)
    good.trainer().fit()
    run = tiny("run", **settings, max_steps=20, log_every=10, accelerator=_Scaled.accelerator(2.0))
    with pytest.raises(NonFiniteError, match="at step 3"):
        run.trainer().fit()
    assert same(good.weights(), run.weights())


def test_bf16_autocast_trains(tiny, held_out) -> None:
    accelerator = make_accelerator(device="cpu", mixed_precision="bf16")
    run = tiny(accelerator=accelerator, held_out=held_out)
    result = run.trainer().fit()
    assert result.step == 10
    assert all(tensor.dtype == torch.float32 for tensor in run.weights().values())
    plain = tiny("plain", held_out=held_out).trainer().fit()
    assert result.losses["loss/validation"] == pytest.approx(plain.losses["loss/validation"], rel=0.05)
    assert result.losses != plain.losses


def test_precisions_and_devices_that_are_not_there() -> None:
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        make_accelerator(device="cpu", mixed_precision="fp16")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"trainer\.device=cuda is not available"):
            make_accelerator(device="cuda")
        with pytest.raises(UserError, match=r"inference\.device=cuda .* Use inference\.device=auto"):
            make_accelerator(device="cuda", group="inference")
    assert make_accelerator(device="cpu").mixed_precision == "no"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mixed_precision", ["no", "bf16", "fp16"])
def test_a_step_never_waits_for_the_gpu(tiny, mixed_precision) -> None:
    run = tiny(
        accelerator=make_accelerator(device="cuda", mixed_precision=mixed_precision),
        log_every=100,
        max_steps=9,
    )
    trainer = run.trainer()
    take = trainer._optimizer_step.take

    def strict(before, shares):
        # The first step allocates the optimiser's state.
        torch.cuda.set_sync_debug_mode("error" if before.step > 1 else "default")
        try:
            return take(before, shares)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    trainer._optimizer_step.take = strict
    assert trainer.fit().step == 9
