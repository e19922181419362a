"""Runs over photos of several shapes, and at a fixed size that is no square."""

import json
from pathlib import Path

import pytest

from src.errors import UserError
from src.training.checkpoint import list_checkpoints
from tests.end_to_end.workbench import Bench, assert_same_checkpoint, assert_same_tensors, images

FEW = (
    *("trainer.max_steps=4", "trainer.save_every=2", "trainer.batch_size=4", "trainer.keep_checkpoints=9"),
    *("trainer.num_validation_timesteps=1", "trainer.max_validation_images=4", "adapter.rank=4"),
)
BUCKETS = ("dataset.buckets.enabled=true", "dataset.crop=random", "dataset.flip=true", *FEW)


@pytest.mark.slow
def test_a_run_in_buckets_goes_on_exactly_and_with_no_other_rules(bench: Bench, tmp_path: Path) -> None:
    run = bench.train("buckets", "model=pocket_sdxl", *BUCKETS)
    lineage = json.loads((run / "lineage.json").read_text())
    assert lineage["buckets"] == {"64x64": 40, "56x72": 8, "72x56": 8}
    assert "Buckets: 64x64 (" in (run / "train.log").read_text()
    half = list_checkpoints(run / "checkpoints")[-1].parent / "step_00000002"
    line = ("model=pocket_sdxl", *BUCKETS, "trainer.num_workers=2", f"trainer.resume={half}")
    resumed = bench.train("resumed", *line)
    assert_same_checkpoint(*(folder / "checkpoints" / "step_00000004" for folder in (run, resumed)))
    assert_same_tensors(*(f / "adapter" / "pytorch_lora_weights.safetensors" for f in (run, resumed)))
    with pytest.raises(UserError, match=r"dataset\.buckets \(then .* max_crop 0\.1, now .* max_crop 0\.2"):
        bench.train("other", *line, "dataset.buckets.max_crop=0.2")


@pytest.mark.slow
def test_a_fixed_wide_size_trains_and_draws(bench: Bench) -> None:
    """128x72 are 32x18 latents here: 18 halves to 9, 5, 3, as the 90 of 1280x720 do with SD1.5."""
    run = bench.train("wide", "dataset.resolution=[128,72]", *FEW)
    assert json.loads((run / "lineage.json").read_text())["resolution"] == "128x72"
    drawn = bench.generate("wide", f"adapter.weights={run}", "num_images=1", "num_steps=2")
    assert {image.shape for image in images(drawn / "images" / "adapted").values()} == {(72, 128, 3)}
