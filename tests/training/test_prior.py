"""Prior preservation: class images beside the training images, each with a loss of its own."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from src.data.loader import step_batches
from src.data.order import Position
from src.training.bad_steps import NonFiniteError
from src.training.checkpoint import load_checkpoint
from src.training.objective import Objective
from tests.training.test_resume import KillAt, Losses
from tests.training.tiny import (
    ALPHAS_CUMPROD,
    NAN_CAPTION,
    TinyDenoiser,
    make_class_images,
    make_dataset,
    same,
    tokenize,
)


@pytest.fixture(scope="session")
def class_records(tmp_path_factory):
    """5 of them: with 14 training images they are used almost three times a pass."""
    return make_class_images(tmp_path_factory.mktemp("class_images"), 5)


def _first_batch(records, class_records, batch_size=4):
    batches = step_batches(
        make_dataset(records),
        seed=0,
        batch_size=batch_size,
        start=Position(),
        class_images=make_dataset(class_records),
    )
    return next(iter(batches))[1]


def _gradients(denoiser):
    return {name: p.grad.clone() for name, p in denoiser.named_parameters() if p.grad is not None}


def test_the_gradient_is_that_of_the_instance_loss_and_the_weighted_prior_loss(tiny, class_records) -> None:
    """loss = mean over training images + weight * mean over class images, computed here by autograd."""
    weight = 0.7
    losses = Losses()
    settings = {"dropout": 0.0, "max_steps": 1, "log_every": 1, "max_grad_norm": None, "callbacks": [losses]}
    run = tiny(class_records=class_records, prior_loss_weight=weight, **settings)
    trainer = run.trainer()
    taken = {}
    run.optimizer.register_step_pre_hook(lambda *_: taken.update(_gradients(run.denoiser)))
    trainer.fit()

    denoiser = TinyDenoiser(dropout=0.0)
    denoiser.table.requires_grad_(False)
    batch = _first_batch(run.records, class_records)
    assert all(id.startswith("class:") for id in batch.class_images.ids)
    assert len(batch.class_images.ids) == len(batch.ids) == 4
    objective = Objective(
        prediction_type="epsilon",
        alphas_cumprod=ALPHAS_CUMPROD,
        min_snr_gamma=5.0,
        seed=0,
        tokenize=tokenize,
    )
    instance, prior = (
        objective(denoiser, each, device=torch.device("cpu")).total / 4
        for each in (batch, batch.class_images)
    )
    (instance + weight * prior).backward()
    expected = _gradients(denoiser)
    assert taken.keys() == expected.keys() == run.weights().keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(taken[name], gradient, rtol=1e-5, atol=1e-7)
    assert losses.logged[1]["loss/train"] == pytest.approx(instance.item(), rel=1e-6)
    assert losses.logged[1]["loss/prior"] == pytest.approx(prior.item(), rel=1e-6)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_weight_zero_is_the_run_without_class_images(tiny, held_out, class_records, accumulation) -> None:
    """Bit for bit, with dropout: the class images' pass takes no random number from the training images'."""
    plain, zero, one = Losses(), Losses(), Losses()
    settings = {"held_out": held_out, "accumulation": accumulation, "validate_every": 5}
    without = tiny("without", **settings, callbacks=[plain])
    result = without.trainer().fit()
    settings["class_records"] = class_records
    with_zero = tiny("zero", **settings, prior_loss_weight=0.0, callbacks=[zero])
    assert with_zero.trainer().fit().losses["loss/validation"] == result.losses["loss/validation"]
    assert same(without.weights(), with_zero.weights())
    for step, scalars in plain.logged.items():
        assert {name: zero.logged[step][name] for name in scalars} == scalars
        assert zero.logged[step].keys() - scalars.keys() == {"loss/prior"}
    with_one = tiny("one", **settings, prior_loss_weight=1.0, callbacks=[one])
    with_one.trainer().fit()
    assert not same(without.weights(), with_one.weights())


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("accumulation", "killed_after"), [(1, 6), (3, 4)])
def test_killed_and_resumed_equals_unbroken(
    tiny, class_records, num_workers, accumulation, killed_after
) -> None:
    settings = {"class_records": class_records, "prior_loss_weight": 1.0, "accumulation": accumulation}
    logged = [Losses(), Losses()]
    unbroken = tiny("unbroken", **settings, callbacks=[logged[0]])
    unbroken.trainer().fit()
    settings["num_workers"] = num_workers
    killed = tiny("killed", **settings, callbacks=[KillAt(killed_after)])
    assert killed.trainer().fit().step == killed_after
    resumed = replace(killed, resume="auto", callbacks=[logged[1]])
    assert resumed.trainer().fit().step == 10
    one, other = (load_checkpoint(run.checkpoints / "step_00000010") for run in (unbroken, resumed))
    for part in ("weights", "optimizer"):
        assert same(one.tensors[part], other.tensors[part])
    for step, scalars in logged[1].logged.items():
        assert scalars == logged[0].logged[step]


def test_an_accumulated_step_equals_one_large_batch(tiny, class_records) -> None:
    settings = {"dropout": 0.0, "log_every": 1, "num_epochs": 2, "max_steps": None, "prior_loss_weight": 2.0}
    settings["class_records"] = class_records
    small, large = Losses(), Losses()
    tiny("small", **settings, batch_size=4, accumulation=4, callbacks=[small]).trainer().fit()
    tiny("large", **settings, batch_size=14, callbacks=[large]).trainer().fit()
    assert large.logged.keys() == {1, 2}
    for step, scalars in large.logged.items():
        assert small.logged[step] == pytest.approx(scalars, rel=1e-5)


def test_nan_in_a_class_image_stops_the_run_and_names_it(tiny, records, class_records) -> None:
    batches = step_batches(
        make_dataset(records),
        seed=0,
        batch_size=4,
        start=Position(),
        class_images=make_dataset(class_records),
    )
    first, second = (set(batch.class_images.ids) for _, batch in islice(batches, 2))
    (victim,) = sorted(second - first)[:1]
    broken = [replace(r, caption=NAN_CAPTION) if r.id == victim else r for r in class_records]
    run = tiny(class_records=broken, prior_loss_weight=1.0, log_every=5, dropout=0.0)
    with pytest.raises(NonFiniteError, match=rf"at step 2; .*Samples: {victim} "):
        run.trainer().fit()
    assert all(tensor.isfinite().all() for tensor in run.weights().values())


def test_a_trained_text_encoder_reads_the_class_captions(tiny, class_records) -> None:
    """Without cached embeddings the captions are encoded in the loop, those of class images, too."""
    run = tiny(class_records=class_records, prior_loss_weight=1.0, text=False, max_steps=1)
    trainer = run.trainer()
    before = run.denoiser.table.weight.detach().clone()
    trainer.fit()
    moved = (run.denoiser.table.weight != before).any(dim=1).nonzero().flatten().tolist()
    ids = set(tokenize(["a photo of a toy"]).flatten().tolist())
    assert ids <= set(moved)
