"""The loop over images of several shapes."""

from dataclasses import replace

import pytest
import torch

from src.data.order import Draw, Position, micro_batches
from src.training.accelerator import make_accelerator
from tests.training.test_resume import KillAt, Losses, _outcome
from tests.training.tiny import BUCKETS, same


@pytest.fixture
def buckets(tiny, held_out):
    def make(name="run", **settings):
        return tiny(name, buckets=True, held_out=held_out, **settings)

    return make


# 14 images, 5 + 5 + 4 in the three buckets: batches of 4, 4, 4, 1 and 1 make a pass.
@pytest.mark.parametrize(("killed_after", "num_workers"), [(2, 0), (4, 2), (5, 1), (7, 0)])
def test_killed_and_resumed_equals_unbroken(buckets, killed_after, num_workers) -> None:
    settings = {"max_steps": None, "num_epochs": 2, "log_every": 2, "validate_every": 4}
    unbroken_losses, resumed_losses = Losses(), Losses()
    unbroken = buckets("unbroken", **settings, callbacks=[unbroken_losses])
    assert unbroken.trainer().fit().step == 10
    killed = buckets("killed", **settings, callbacks=[KillAt(killed_after), resumed_losses])
    assert killed.trainer().fit().step == killed_after
    resumed = replace(killed, resume="auto", num_workers=num_workers, callbacks=[resumed_losses])
    assert resumed.trainer().fit().step == 10
    for left, right in zip(_outcome(unbroken), _outcome(resumed), strict=True):
        assert same(left, right)
    assert resumed_losses.logged == unbroken_losses.logged


def test_a_step_weighs_its_samples_alike_whatever_their_batches(buckets) -> None:
    """A pass in one step: five batches of 4, 4, 4, 1 and 1, and the mean over 14 samples, not over batches."""
    losses = Losses()
    run = buckets(max_steps=1, accumulation=5, log_every=1, dropout=0.0, lr=1e-12, callbacks=[losses])
    trainer = run.trainer()
    dataset = run.validator(make_accelerator(device="cpu"))._sets[1]
    groups = list(next_pass(run.records, dataset.sizes, batch_size=4))
    assert sorted(map(len, groups)) == [1, 1, 4, 4, 4]
    trainer.fit()
    alone = []
    for record in run.records:
        one = replace(run, records=[record], held_out=[], callbacks=[own := Losses()], accumulation=1)
        one = replace(one, folder=run.folder / record.id)
        one.trainer().fit()
        alone.append(own.logged[1]["loss/train"])
    assert losses.logged[1]["loss/train"] == pytest.approx(sum(alone) / 14, rel=1e-5)


def next_pass(records, sizes, *, batch_size):
    ids = [record.id for record in records]
    plan = micro_batches(
        ids, seed=0, global_batch_size=batch_size, start=Position(), bucket_of={id: sizes[id] for id in ids}
    )
    for micro_batch in plan:
        if micro_batch.position.pass_number:
            return
        yield micro_batch.draws


def test_validation_does_not_depend_on_its_batches(buckets, held_out) -> None:
    run = buckets()
    run.trainer()

    def measure(**overrides):
        return run.validator(make_accelerator(device="cpu"), **overrides).measure()

    expected = measure(batch_size=1)
    assert {BUCKETS[int(record.path.stem) % 3] for record in held_out} == set(BUCKETS)
    for batch_size in (2, 3, 8):
        for table, other in zip(measure(batch_size=batch_size), expected, strict=True):
            assert torch.allclose(table, other, rtol=1e-5, atol=0)
    # Each image on its own: rows stay with their images where batches take them out of turn.
    validator = run.validator(make_accelerator(device="cpu"))
    run.denoiser.eval()
    for images, ids, table in zip(validator._sets, validator._ids, expected, strict=True):
        for row, id in enumerate(ids):
            with torch.no_grad():
                loss = validator._measure_batch(images.batch([Draw(id=id, pass_number=0)], [1.0]))
            assert torch.allclose(loss[0], table[row], rtol=1e-5, atol=0)
