"""What a checkpoint must agree in to be continued."""

import pytest
from hydra import compose, initialize_config_dir

from src.config.build import PROJECT_ROOT, check_config, register
from src.config.cli import Job
from src.config.schema import BucketsConfig, DatasetConfig
from src.config.sweep import write_row
from src.run.build_data import rules_of
from src.run.records import must_match, write_config


def agreement(*overrides, size=(64, 64), num_processes=1, chunks=None):
    register()
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        config = check_config(compose("train", overrides=list(overrides)))
    lineage = {"base_model_hash": "0", "dataset_hash": "1", "prompt_chunks": chunks, "class_images_hash": "2"}
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
        "trainer.seed=1",
        "trainer.batch_size=2",
        "dataset.split_seed=1",
        "dataset.crop=random",
        "dataset.buckets.enabled=true",
        "dataset.background=black",
        "adapter.dropout=0.5",
        "trainer.min_snr_gamma=null",
        "trainer.prior_loss_weight=1",
        "trainer.max_grad_norm=2",
        "trainer.mixed_precision=bf16",
        "optimizer.algorithm.weight_decay=0.1",
    ],
)
def test_what_changes_the_numbers_that_come_next(override):
    assert agreement(override) != agreement()


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
