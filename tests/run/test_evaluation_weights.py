"""The adapter, and inference from a checkpoint, have the average where there is one."""

import pytest
from safetensors.torch import load_file

from src.config.build import check_config, plain, register
from src.config.cli import CONFIG_DIR, Job
from src.config.composition import Root, compose_root
from src.inference.apply import apply_adapter
from src.inference.resolve import resolve_weights
from src.models.adapters import trainable_state
from src.models.load import load_model
from src.run.training import run_training
from tests.data.pictures import photo_folder
from tests.training.tiny import same


@pytest.mark.parametrize("override", ["optimizer=schedule_free", "trainer.ema_decay=0.9"])
def test_what_is_handed_over_is_the_average(pocket_sd15, tmp_path, override):
    photo_folder(tmp_path / "photos", 6)
    overrides = [
        override,
        f"model.path={pocket_sd15}",
        f"dataset.path={tmp_path / 'photos'}",
        "dataset.resolution=32",
        f"paths.data_dir={tmp_path}",
        f"paths.cache_dir={tmp_path / 'cache'}",
        "trainer.device=cpu",
        "trainer.batch_size=2",
        "trainer.max_steps=3",
        "trainer.num_validation_timesteps=2",
        "callbacks=none",
        "logger=[]",
        "metrics=none",
        "run.name=run",
        "optimizer.warmup_steps=0",
    ]
    register()
    composed = compose_root(Root(name="train", folder=CONFIG_DIR), overrides)
    run = tmp_path / "run"
    job = Job(run_dir=run, name="run", resolved=plain(composed), overrides=overrides, in_sweep=False)
    assert run_training(check_config(composed), job).exit_code == 0

    checkpoint = run / "checkpoints" / "step_00000003"
    average, in_training = (
        load_file(checkpoint / f"{name}.safetensors") for name in ("evaluation", "weights")
    )
    assert average.keys() == in_training.keys()
    moved = [name for name in average if not average[name].equal(in_training[name])]
    assert len(moved) > len(average) / 2

    exported = load_file(run / "adapter" / "pytorch_lora_weights.safetensors")
    lora = {name.replace(".default.", "."): tensor for name, tensor in average.items() if ".lora_" in name}
    assert same({name: tensor.float() for name, tensor in exported.items()}, lora)

    model = load_model(str(pocket_sd15))
    apply_adapter(model, resolve_weights(str(checkpoint), output_dir=tmp_path))
    model.denoiser.requires_grad_(True)
    applied = {name: tensor for name, tensor in trainable_state(model).items() if name in average}
    assert same(applied, average)
