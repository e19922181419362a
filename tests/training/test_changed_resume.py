"""A run that is resumed with another configuration says so, and goes on only where it can."""

import json
import logging
from dataclasses import replace

import pytest
import torch

from src.errors import UserError
from src.training.checkpoint import load_checkpoint
from src.training.config_changes import config_changes
from src.training.must_match import SPLIT, is_another_ruler, require_agreement
from tests.training.tiny import same


def test_the_difference_is_shown(tiny, caplog) -> None:
    run = tiny(max_steps=2, configured={"trainer": {"max_steps": 2, "resume": "never"}, "prompts": ["a"]})
    run.trainer().fit()
    now = {"trainer": {"max_steps": 4, "resume": "auto", "new": None}, "prompts": ["a"]}
    with caplog.at_level(logging.INFO):
        replace(run, max_steps=4, resume="auto", configured=now).trainer().fit()
        assert (
            "changed since step_00000002:\n  trainer.max_steps: 2 -> 4\n  trainer.new: unset -> null"
            in caplog.text
        )
        caplog.clear()
        replace(run, max_steps=4, resume="auto", configured=now).trainer().fit()
    assert "The configuration has changed" not in caplog.text


def test_what_differs_is_told_apart() -> None:
    then = {"a": {"b": [1, 2], "c": True, "d": "x"}, "e": {}}
    assert config_changes(then, then) == []
    # A block that is switched off is one change, and one that is switched on.
    off = {"a": None, "e": {}}
    assert config_changes(then, off) == ["a: a block of settings -> null"]
    assert config_changes(off, then) == ["a: null -> a block of settings"]
    assert config_changes(then, {"a": {"b": [1], "c": True}, "e": {"f": 0.5}}) == [
        "a.b: [1, 2] -> [1]",
        'a.d: "x" -> unset',
        "e: {} -> unset",
        "e.f: unset -> 0.5",
    ]


THEN = {"trainer.seed": 0, "adapter.rank": 4, "optimizer.algorithm": 'torch.optim.AdamW {"eps": 1e-8}'}


def test_what_cannot_be_continued_is_refused_whatever_is_allowed(tmp_path) -> None:
    """The remedy is named only where it is one."""
    with pytest.raises(UserError, match=r"trainer\.seed \(then 0, now 1\).*resume_changed=allow goes on"):
        require_agreement(tmp_path, THEN, THEN | {"trainer.seed": 1})
    with pytest.raises(UserError, match=r"adapter\.rank.*trainer\.seed") as refused:
        require_agreement(tmp_path, THEN, THEN | {"trainer.seed": 1, "adapter.rank": 8})
    assert "allow" not in str(refused.value)
    for fixed in (
        {"adapter.rank": 8},
        {"adapter.alpha": 1},
        {"base_model_hash": "1"},
        {"dataset.placeholder": "sks"},
        {"optimizer.algorithm": "torch.optim.SGD {}"},
        {"optimizer": "SGD"},
        {"trainer.prediction_type": "v_prediction"},
        {"trainer.zero_terminal_snr": True},
        {"trainer.ema_decay": 0.999},
        {"dataset.split_seed": 1},
        {"dataset.validation_fraction": 0.3},
    ):
        with pytest.raises(UserError, match=r"which trainer\.resume_changed=allow does not cover") as refused:
            require_agreement(tmp_path, THEN, THEN | fixed | {"trainer.seed": 1}, allow_changes=True)
        assert "trainer.seed" not in str(refused.value)
    changes = {
        "trainer.seed": 1,
        "adapter.dropout": 0.5,
        "adapter.rank_dropout": 0.1,
        "optimizer.algorithm": "torch.optim.AdamW {}",
    }
    assert set(require_agreement(tmp_path, THEN, THEN | changes, allow_changes=True)) == set(changes)
    assert not any(map(is_another_ruler, ("dataset.masks", "masks_hash", "trainer.unmasked_weight")))


def test_other_images_held_out(tmp_path) -> None:
    """Where a split was lost, some that were trained would judge. Where the data has grown, sides stay."""
    then = THEN | {"dataset_hash": "a", SPLIT: "1"}
    with pytest.raises(
        UserError, match=r"split_hash, the images that are held out, \(then 1, now 2\)"
    ) as refused:
        require_agreement(tmp_path, then, then | {SPLIT: "2"})
    assert "allow" not in str(refused.value)
    with pytest.raises(UserError, match="does not cover: split_hash"):
        require_agreement(tmp_path, then, then | {SPLIT: "2"}, allow_changes=True)
    grown = then | {SPLIT: "2", "dataset_hash": "b"}
    assert set(require_agreement(tmp_path, then, grown, allow_changes=True)) == {SPLIT, "dataset_hash"}
    # Of a checkpoint from before it was kept nothing is known.
    assert require_agreement(tmp_path, THEN, THEN | {SPLIT: "2"}) == {}
    assert is_another_ruler(SPLIT)


def test_settings_of_an_optimiser_have_no_order(tmp_path) -> None:
    then = {"optimizer.algorithm": 'torch.optim.AdamW {"eps": 1e-8, "weight_decay": 0.1}'}
    now = {"optimizer.algorithm": 'torch.optim.AdamW {"weight_decay": 0.1, "eps": 1e-8}'}
    assert require_agreement(tmp_path, then, now) == {}
    with pytest.raises(UserError, match=r"optimizer\.algorithm"):
        require_agreement(tmp_path, then, {"optimizer.algorithm": 'torch.optim.AdamW {"eps": 1e-8}'})


def test_an_allowed_change_goes_on_with_a_mark_that_stays(tiny, held_out, caplog) -> None:
    run = tiny(max_steps=3, held_out=held_out, must_match={"trainer.seed": 0})
    run.trainer().fit()
    before = load_checkpoint(run.checkpoints / "step_00000003")
    changed = replace(run, seed=1, must_match={"trainer.seed": 1}, max_steps=5, resume="auto")
    with pytest.raises(UserError, match=r"trainer\.seed \(then 0, now 1\)"):
        changed.trainer().fit()
    changed = replace(changed, allow_resume_changes=True)
    trainer = changed.trainer()
    trainer.restore()
    assert same(changed.weights(), before.tensors["weights"])
    assert trainer.changes == ("step 3: trainer.seed 0 -> 1",)
    result = trainer.fit()
    assert (result.step, result.changes) == (5, ("step 3: trainer.seed 0 -> 1",))
    assert "trainer.resume_changed=allow" in caplog.text
    # Under the seed that the run has now, nothing is changed; what was, is still said.
    again = replace(changed, max_steps=6, allow_resume_changes=False)
    assert again.trainer().fit().changes == ("step 3: trainer.seed 0 -> 1",)
    # The control: with the old seed the steps would have been others.
    other = replace(run, folder=run.folder.parent / "other", max_steps=5)
    other.trainer().fit()
    after = load_checkpoint(changed.checkpoints / "step_00000005").tensors["weights"]
    assert not same(after, other.weights())


@pytest.mark.parametrize(("batch_size", "num_images", "index"), [(2, 14, 3), (14, 14, 0), (4, 4, 0)])
def test_another_batch_size_or_other_images_go_on_at_the_same_share_of_the_pass(
    tiny, records, batch_size, num_images, index
) -> None:
    """Two of the four micro-batches of a pass are done: half of it, in whatever there is now."""
    run = tiny(max_steps=6, must_match={"global batch size": 4, "dataset_hash": 14})
    run.trainer().fit()
    changed = replace(
        run,
        batch_size=batch_size,
        records=records[:num_images],
        must_match={"global batch size": batch_size, "dataset_hash": num_images},
        allow_resume_changes=True,
        resume="auto",
    )
    trainer = changed.trainer()
    trainer.restore()
    assert (trainer._state.position.pass_number, trainer._state.position.index) == (1, index)
    assert replace(changed, max_steps=8).trainer().fit().step == 8


def test_a_best_step_of_another_ruler_counts_no_more(tiny, held_out) -> None:
    run = tiny(max_steps=2, held_out=held_out, must_match={"dataset_hash": "a", "trainer.seed": 0})
    assert run.trainer().fit().best.step == 2
    changed = replace(run, resume="auto", allow_resume_changes=True)
    for must_match, best in (
        ({"dataset_hash": "a", "trainer.seed": 1}, 2),
        ({"dataset_hash": "b", "trainer.seed": 0}, None),
    ):
        trainer = replace(changed, must_match=must_match).trainer()
        trainer.restore()
        assert (trainer._state.best and trainer._state.best.step) == best
    for key in ("dataset_hash", "trainer.ema_decay", "trainer.base_precision"):
        assert is_another_ruler(key)
    free = ("global batch size", "adapter.dropout", "optimizer.algorithm", "dataset.flip")
    for key in (*free, "dataset.class_images.seed", "class_images_hash", "dataset.num_variants"):
        assert not is_another_ruler(key)


def test_another_optimiser_class_or_other_weights_are_refused_whatever_is_allowed(tiny) -> None:
    run = tiny(max_steps=2)
    run.trainer().fit()
    changed = replace(run, resume="auto", allow_resume_changes=True)
    with pytest.raises(UserError, match=r"optimizer \(then AdamW, now SGD\)"):
        replace(changed, algorithm=torch.optim.SGD).trainer().fit()


def test_settings_of_an_optimiser_may_change_where_its_state_keeps_its_shape(tmp_path) -> None:
    def algorithm(**settings):
        return {"optimizer.algorithm": f"prodigyopt.Prodigy {json.dumps(settings)}"}

    before = algorithm(d_coef=1.0, slice_p=1)
    after = algorithm(d_coef=2.0, slice_p=1)
    assert require_agreement(tmp_path, before, after, allow_changes=True).keys() == before.keys()
    with pytest.raises(UserError, match="does not cover"):
        require_agreement(tmp_path, before, algorithm(d_coef=1.0, slice_p=11), allow_changes=True)
    assert is_another_ruler("trainer.ema_decay")
