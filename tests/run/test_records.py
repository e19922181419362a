"""What a checkpoint must agree in to be continued."""

import functools
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir

from src.config.build import PROJECT_ROOT, check_config, register
from src.config.cli import Job
from src.config.dataset_schema import BucketsConfig, DatasetConfig
from src.config.sweep import write_row
from src.errors import UserError
from src.files import write_json_atomic
from src.run.build_data import rules_of
from src.run.records import must_match, write_config
from src.training.must_match import SPLIT, require_continuable


@functools.cache
def configuration(*overrides):
    register()
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        return check_config(compose("train", overrides=list(overrides)))


def agreement(*overrides, size=(64, 64), num_processes=1, chunks=None, lineage=None):
    config = configuration(*overrides)
    if lineage is None:
        lineage = {"base_model_hash": "0", "dataset_hash": "1", "prompt_chunks": chunks}
        lineage["class_images_hash"] = "2"
    return must_match(
        config,
        lineage,
        size=size,
        num_processes=num_processes,
        mixed_precision=config.trainer.mixed_precision,
    )


@pytest.mark.parametrize(
    "override",
    [
        # The same tensors would mean another LoRA: their product is scaled by alpha / rank.
        "adapter.alpha=3",
        "adapter.rank=3",
        "adapter.method=lokr",
        "adapter.rslora=true",
        "adapter.rank_pattern={to_k:4}",
        "trainer.seed=1",
        "trainer.batch_size=2",
        "dataset.split_seed=1",
        "dataset.crop=random",
        "dataset.buckets.enabled=true",
        "dataset.cache_precision=fp16",
        "dataset.background=black",
        "adapter.dropout=0.5",
        "trainer.min_snr_gamma=null",
        "trainer.prior_loss_weight=1",
        "trainer.max_grad_norm=2",
        "trainer.ema_decay=0.99",
        "optimizer=prodigy",
        "trainer.mixed_precision=bf16",
        "optimizer.algorithm.weight_decay=0.1",
    ],
)
def test_what_changes_the_numbers_that_come_next(override):
    assert agreement(override) != agreement()


def test_the_order_of_patterns_is_agreed_on():
    """Of several that match a layer the last one counts."""
    one = agreement("adapter.alpha_pattern={to_k:1,mid_block.*:4}")
    assert one != agreement("adapter.alpha_pattern={mid_block.*:4,to_k:1}")


def test_what_is_off_by_default_is_not_spoken_of():
    """A checkpoint from before there was such a thing can be continued: these are the names of that time."""
    assert agreement().keys() == {
        *("optimizer.algorithm", "dataset.placeholder", "dataset.background", "adapter.dropout"),
        *("trainer.min_snr_gamma", "trainer.max_grad_norm", "trainer.mixed_precision"),
        *("trainer.num_validation_timesteps", "trainer.max_validation_images", "base_model_hash"),
        *("dataset_hash", "dataset.split_seed", "dataset.validation_fraction", "dataset.resolution"),
        *("dataset.crop", "dataset.flip", "dataset.num_variants", "adapter.rank", "adapter.alpha"),
        *("trainer.seed", "trainer.caption_dropout", "trainer.gradient_accumulation_steps"),
        # Compared only where the checkpoint has it.
        SPLIT,
        "global batch size",
    }
    assert agreement("dataset.cache=false", "dataset.cache_precision=fp16") == agreement()


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.long_prompts=true"],
        ["dataset.buckets.enabled=true"],
        ["trainer.prior_loss_weight=1", "dataset.class_images.path=toys"],
    ],
)
def test_what_is_not_known_yet_agrees_with_what_it_will_be(overrides, tmp_path):
    path = tmp_path / "step_00000001"
    path.mkdir()
    write_json_atomic(path / "loop.json", {"must_match": agreement(*overrides, chunks=2)})
    require_continuable(path, agreement(*overrides, lineage={}, size=None))
    with pytest.raises(UserError, match=r"trainer\.seed \(then 0, now 1\)\. Set them back"):
        require_continuable(path, agreement(*overrides, "trainer.seed=1", lineage={}, size=None))
    with pytest.raises(UserError, match="now unset"):
        require_continuable(path, agreement(lineage={}, size=None))


def test_class_images_are_another_agreement_by_how_they_are_drawn_or_what_is_in_their_folder():
    config = configuration("trainer.prior_loss_weight=1")

    def of(content="2", **settings):
        dataset = replace(config.dataset, class_images=replace(config.dataset.class_images, **settings))
        return must_match(
            replace(config, dataset=dataset),
            {"class_images_hash": content},
            size=(64, 64),
            num_processes=1,
            mixed_precision="no",
        )

    assert of(content="3") == of()
    others = {"num": 9, "seed": 9, "num_steps": 9, "batch_size": 9, "guidance_scale": 9.0}
    for name, value in {**others, "prompt": "a photo of a cup", "scheduler": "ddim"}.items():
        assert of(**{name: value}) != of()
    assert of(path="toys", content="3") != of(path="toys")
    assert of(path="toys", seed=9) == of(path="toys")


def objective_agreement(masks="none", lineage=None, **settings):
    config = configuration()
    return must_match(
        replace(
            config,
            dataset=replace(config.dataset, masks=masks),
            trainer=replace(config.trainer, **settings),
        ),
        {"masks_hash": "2"} if lineage is None else lineage,
        size=(64, 64),
        num_processes=1,
        mixed_precision="no",
    )


def test_what_is_learned_is_agreed_on():
    logit_normal = {"timestep_sampling": "logit_normal"}
    v_plain = {"prediction_type": "v_prediction", "loss_weighting": "none"}
    settings = [
        {},
        {"loss_weighting": "debiased"},
        {"loss_weighting": "none"},
        {"noise_offset": 0.1},
        {"prediction_type": "v_prediction"},
        v_plain,
        {**v_plain, "zero_terminal_snr": True},
        logit_normal,
        {**logit_normal, "logit_normal_mean": 1.0},
        {**logit_normal, "logit_normal_std": 2.0},
        {"min_timestep": 1},
        {"max_timestep": 999},
        {"masks": "files"},
        {"masks": "alpha"},
        {"masks": "files", "unmasked_weight": 0.2},
        {"masks": "files", "lineage": {"masks_hash": "3"}},
    ]
    seen = [tuple(objective_agreement(**each).items()) for each in settings]
    assert len(set(seen)) == len(settings)
    assert objective_agreement() == objective_agreement(lineage={"masks_hash": "3"})
    assert objective_agreement(min_snr_gamma=None) == objective_agreement(loss_weighting="none")


def test_masks_that_are_not_known_yet_agree_with_what_they_will_be(tmp_path):
    path = tmp_path / "step_00000001"
    path.mkdir()
    write_json_atomic(path / "loop.json", {"must_match": objective_agreement(masks="files")})
    require_continuable(path, objective_agreement(masks="files", lineage={}))
    with pytest.raises(UserError, match="masks_hash"):
        require_continuable(path, objective_agreement(masks="files", lineage={"masks_hash": "3"}))


def test_another_number_of_chunks_is_another_run():
    assert agreement("model.long_prompts=true", chunks=2) != agreement("model.long_prompts=true", chunks=3)
    # Samples would be drawn otherwise.
    assert agreement("model.long_prompts=true", chunks=1) != agreement()
    assert agreement("model.max_prompt_chunks=5") == agreement()


def test_other_rules_of_buckets_are_another_agreement():
    def rules(**settings):
        dataset = DatasetConfig(name="a", path="b", buckets=BucketsConfig(enabled=True, **settings))
        return str(rules_of(dataset, size=(64, 64)))

    others = [rules(step=16), rules(min_side=40), rules(max_upscale=2.0), rules(max_crop=0.2)]
    assert len({rules(), *others}) == 5
    # What is compared is what held: a default written out is the same.
    assert rules(step=8, min_side=32, max_upscale=1.0, max_crop=0.1) == rules()


def test_what_may_change():
    assert agreement("optimizer.warmup_epochs=1", "optimizer.min_lr_ratio=0.1") == agreement()
    assert agreement("optimizer.lr=1e-3", "trainer.max_steps=9", "trainer.num_workers=2") == agreement()
    two_processes = agreement("trainer.batch_size=2", num_processes=2)
    assert two_processes == agreement("trainer.batch_size=4")


def test_no_secret_is_written(tmp_path):
    resolved = {"dataset": {"url": "https://me:hunter2@host/x.zip?token=hunter3", "resolution": 64}}
    job = Job(run_dir=tmp_path, name="a", resolved=resolved, overrides=[], in_sweep=False)
    text = write_config(job).read_text()
    assert "hunter" not in text
    assert "host/x.zip" in text
    write_row(tmp_path, {"dataset.url": resolved["dataset"]["url"], "hub.token": "hunter4"}, "running")
    assert "hunter" not in (tmp_path / "job.json").read_text()
