"""A run folder as training leaves it: real checkpoints, a real export, the configuration."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from src.models.adapters import AdapterSettings, trainable_state
from src.models.base import DiffusionModel
from src.models.export import save_adapter
from src.training.checkpoint import Checkpointer


def write_config(run: Path, settings: AdapterSettings, **others: Any) -> None:
    adapter = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(settings).items()}
    placeholder = adapter.pop("placeholder")
    run.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({"adapter": adapter, "dataset": {"placeholder": placeholder}, **others})
    (run / "config.yaml").write_text(text, encoding="utf-8")


def write_checkpoint(run: Path, model: DiffusionModel | None, *, step: int, best_step: int | None) -> Path:
    return Checkpointer(run / "checkpoints", keep=9).save(
        step=step,
        tensors={"weights": trainable_state(model) if model is not None else {}},
        documents={"state": {"step": step}},
        best_step=best_step,
    )


def write_export(run: Path, model: DiffusionModel) -> Path:
    save_adapter(model, run / "adapter", metadata={})
    return run / "adapter"
