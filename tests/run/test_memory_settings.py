"""The order in which settings are tried, and how they are written."""

from dataclasses import replace
from itertools import pairwise

from src.run.memory_settings import MemorySettings, remedies, shrunk, smaller
from tests.run.test_class_images import compose

LIMITED = ("trainer.memory_preflight=true", "model.path=/models/x", "model=sdxl")


def steps(*overrides, size=(1024, 1024)):
    _, config = compose(*overrides, *LIMITED)
    start = MemorySettings.of(config, size=size)
    return config, start, list(smaller(config, start))


def test_each_one_takes_less_and_the_global_batch_stays():
    config, start, ladder = steps("trainer.batch_size=6")
    written = [start.overrides_of(settings) for settings in ladder]
    assert written[0] == ["trainer.gradient_checkpointing=true"]
    assert all(set(before[:1]) <= set(after) for before, after in pairwise(written))
    batches = [(settings.batch_size, settings.gradient_accumulation_steps) for settings in ladder[1:4]]
    assert batches == [(3, 2), (2, 3), (1, 6)]
    assert "trainer.base_precision=int8" in written[4]
    assert written[-1][-1] == "dataset.resolution=512"
    # Each is a configuration that passes the schema.
    assert all(settings.applied(config).trainer.batch_size == settings.batch_size for settings in ladder)
    assert MemorySettings.of(ladder[-1].applied(config), size=ladder[-1].size) == ladder[-1]


def test_what_is_on_already_is_not_tried():
    given = ("trainer.gradient_checkpointing=true", "trainer.batch_size=1", "trainer.base_precision=int8")
    config, start, ladder = steps(*given, size=(1280, 720))
    assert {settings.batch_size for settings in ladder} == {1}
    assert ladder[-1] == replace(start, size=(640, 320), has_8bit_optimizer=ladder[-1].has_8bit_optimizer)
    assert start.overrides_of(ladder[-1])[-1] == "dataset.resolution=[640,320]"
    assert "trainer.gradient_checkpointing=true" not in remedies(config, size=(1280, 720))
    _, _, ladder = steps("adapter=full")
    assert {settings.base_precision for settings in ladder} == {"auto"}


def test_what_shards_refuse_is_no_remedy():
    full = ("adapter=full", "adapter.token_embedding=frozen", "model=sdxl", "model.path=/models/x")
    for accelerate, is_proposed in (("none", True), ("fsdp", False)):
        _, config = compose(*full, f"accelerate={accelerate}")
        proposed = remedies(config, size=(1024, 1024))
        assert any("dataset.resolution" in remedy for remedy in proposed)
        for word in ("optimizer=adamw_8bit", "trainer.memory_preflight=true"):
            assert any(word in remedy for remedy in proposed) == is_proposed


def test_shrunk_sizes_can_be_halved_by_the_unet():
    assert shrunk((512, 512), 0.75) == (384, 384)
    assert shrunk((64, 64), 0.75) == (48, 48)
    assert shrunk((1216, 832), 0.5) == (576, 384)
    assert shrunk((8, 8), 0.5) == (8, 8)
