"""What a run hands over."""

import json

from src.config.build import plain
from src.config.cli import Job
from src.lineage import short_form
from src.loggers.multi import MultiLogger
from src.models.adapters import attach
from src.models.export import read_adapter_header
from src.models.load import load_model
from src.run.build_model import adapter_settings
from src.run.results import export_best
from src.training.state import Best, TrainResult
from tests.run.test_class_images import compose, place, train

__all__ = ["place"]


def test_a_best_checkpoint_that_was_damaged_is_not_handed_over(place, pocket_sd15, tmp_path, caplog):
    train(tmp_path / "run", *place, "trainer.save_every=1", "trainer.keep_checkpoints=9")
    composed, config = compose(*place, "run.name=run")
    job = Job(run_dir=tmp_path / "run", name="run", resolved=plain(composed), overrides=[], in_sweep=False)
    model = load_model(str(pocket_sd15))
    attach(model, adapter_settings(config.adapter, placeholder=None), seed=0)
    folder = tmp_path / "run/checkpoints"
    best = folder / "step_00000001"
    result = TrainResult(
        step=3,
        stop_reason="max_steps",
        best=Best(step=1, value=0.5),
        best_checkpoint=best,
        checkpoint=folder / "step_00000003",
        losses={},
    )
    lineage = json.loads((tmp_path / "run/lineage.json").read_text())
    metadata = short_form(lineage, job.resolved)
    logger = MultiLogger({}, run_dir=tmp_path, is_main=False)
    for is_damaged, step in ((False, "1"), (True, "3")):
        if is_damaged:
            content = bytearray((best / "weights.safetensors").read_bytes())
            content[-1] ^= 4
            (best / "weights.safetensors").write_bytes(content)
        export_best(result, model, config=config, job=job, metadata=metadata, logger=logger)
        header = read_adapter_header(tmp_path / "run/adapter/pytorch_lora_weights.safetensors")
        assert header["metadata"]["darkroom.step"] == step
        assert ("The best checkpoint is damaged (weights.safetensors" in caplog.text) == is_damaged
