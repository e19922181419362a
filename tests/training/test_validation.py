"""Validation is a ruler."""

from dataclasses import replace

import pytest
import torch

from src.callbacks.base import Callback
from src.data.order import Draw
from src.diffusion.noise import addressed_noise
from src.training.accelerator import make_accelerator
from src.training.checkpoint import find_damage, read_manifest
from src.training.resume import resolve
from src.training.state import StopRequest
from src.training.validation import select_images
from tests.training.tiny import ALPHAS_CUMPROD, Tiny, encode_text, same


@pytest.fixture
def run(tiny, held_out) -> Tiny:
    made = tiny(held_out=held_out)
    made.trainer()
    return made


def _measure(run: Tiny, **overrides):
    return run.validator(make_accelerator(device="cpu"), **overrides).run(0)


def test_the_same_each_time_and_for_each_batch_size(run) -> None:
    torch.randn(3)
    first = _measure(run)
    assert replace(_measure(run), seconds=first.seconds) == first
    for batch_size in (1, 2, 8):
        other = _measure(run, batch_size=batch_size)
        assert other.loss == pytest.approx(first.loss, rel=1e-5)
        assert other.train_loss == pytest.approx(first.train_loss, rel=1e-5)
        assert list(other.curve.values()) == pytest.approx(list(first.curve.values()), rel=1e-5)


def test_it_is_the_plain_error_of_each_image_at_each_timestep(run, held_out) -> None:
    """The same arithmetic written out once more, image by image."""
    result = _measure(run)
    run.denoiser.eval()
    dataset = run.validator(make_accelerator(device="cpu"))._sets[0]
    expected = {12: 0.0, 37: 0.0, 62: 0.0, 87: 0.0}
    for record in held_out:
        batch = dataset.batch([Draw(id=record.id, pass_number=0)], [1.0])
        noise = addressed_noise([record.id], [0], [0], seed=0, shape=(4, 8, 8), purpose="validation")
        for timestep in expected:
            alpha_bar = ALPHAS_CUMPROD[timestep]
            prediction = run.denoiser(
                alpha_bar.sqrt() * batch.mean + (1 - alpha_bar).sqrt() * noise,
                torch.tensor([timestep]),
                hidden=encode_text([record.caption])[0],
                original_sizes=batch.original_sizes,
                crop_top_lefts=batch.crop_top_lefts,
                target_sizes=batch.target_sizes,
            )
            expected[timestep] += ((prediction - noise) ** 2).mean().item() / len(held_out)
    assert list(result.curve) == list(expected)
    assert list(result.curve.values()) == pytest.approx(list(expected.values()), rel=1e-5)
    assert result.loss == pytest.approx(sum(expected.values()) / 4, rel=1e-5)


def test_the_probe_is_as_large_as_what_is_held_out(run, records, held_out) -> None:
    assert _measure(run).num_images == len(held_out) == 6
    assert _measure(run, max_images=2).num_images == 2
    ids = [record.id for record in records]
    probe = select_images(ids, num_images=6, seed=0)
    assert len(probe) == 6
    assert set(probe) <= set(ids)
    assert select_images(ids[::-1], num_images=6, seed=0) == probe
    assert select_images(ids, num_images=6, seed=1) != probe


def test_the_seed_of_the_split_alone_decides(tiny, held_out) -> None:
    results = []
    for seed in (0, 1):
        run = tiny(held_out=held_out, seed=seed)
        run.trainer()
        results.append(_measure(run))
    assert replace(results[1], seconds=results[0].seconds) == results[0]
    assert _measure(run, seed=5).loss != results[0].loss


def test_validation_does_not_touch_training(tiny, held_out) -> None:
    with_validation = tiny("with", held_out=held_out, validate_every=1)
    without = tiny("without")
    with_validation.trainer().fit()
    without.trainer().fit()
    assert same(with_validation.weights(), without.weights())
    assert with_validation.denoiser.training


class _Results(Callback):
    def __init__(self) -> None:
        self.results = []

    def on_validation_end(self, run, result) -> None:
        self.results.append((result, run.state.best))


def test_every_n_steps_and_at_the_end_with_the_best_kept(tiny, held_out) -> None:
    results = _Results()
    run = tiny(held_out=held_out, validate_every=4, callbacks=[results], keep=1)
    result = run.trainer().fit()
    assert [r.step for r, _ in results.results] == [4, 8, 10]
    losses = {r.step: r.loss for r, _ in results.results}
    assert result.best.value == min(losses.values())
    assert losses[result.best.step] == result.best.value
    assert result.best_checkpoint.is_dir()
    assert result.losses["loss/validation"] == losses[10]
    assert results.results[-1][1] == result.best


def test_a_failing_validation_is_marked_and_training_goes_on(tiny, held_out, tmp_path) -> None:
    broken = tiny(
        "broken", held_out=[replace(r, path=tmp_path / "gone.png") for r in held_out], validate_every=5
    )
    for record in held_out:
        (tmp_path / "gone.png").write_bytes(record.path.read_bytes())
    trainer = broken.trainer()
    (tmp_path / "gone.png").unlink()
    result = trainer.fit()
    assert (result.step, result.best, len(result.failures)) == (10, None, 2)
    assert result.failures[0].startswith("validation at step 5: ")
    plain = tiny("plain")
    plain.trainer().fit()
    assert same(plain.weights(), broken.weights())


def test_a_best_step_found_at_an_early_end_is_in_its_checkpoint(tiny, held_out) -> None:
    """The callback's request comes after the step was saved and before the last validation."""

    class Stop(Callback):
        def on_checkpoint(self, run, path, is_best):
            return StopRequest("enough")

    result = tiny(held_out=held_out, save_every=3, callbacks=[Stop()]).trainer().fit()
    assert (result.step, result.best.step) == (3, 3)
    assert find_damage(result.checkpoint) is None
    assert read_manifest(result.checkpoint)["best_step"] == 3
    assert resolve("best", folder=result.checkpoint.parent) == result.best_checkpoint


def test_masks_do_not_touch_it(tiny, held_out) -> None:
    """Nor do weights, offset and range of timesteps: runs that learn otherwise are measured alike."""
    plain = tiny("plain", held_out=held_out)
    other = tiny("other", held_out=held_out, masks=True, objective={"noise_offset": 0.1})
    results = []
    for run in (plain, other):
        run.trainer()
        results.append(_measure(run))
    assert (
        run.validator(make_accelerator(device="cpu"))
        ._sets[0]
        .batch([Draw(id=held_out[0].id, pass_number=0)], [1.0])
        .masks
        is not None
    ), "they are there"
    assert replace(results[0], seconds=0.0) == replace(results[1], seconds=0.0)
