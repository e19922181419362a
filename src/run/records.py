"""What a run leaves in its folder beside weights and images, and the last lines that it prints."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from src.config.cli import Job, Outcome
from src.config.schema import TrainConfig
from src.files import read_json, write_json_atomic, write_text_atomic
from src.lineage import collect_lineage
from src.loggers.multi import MultiLogger
from src.redact import redact
from src.run.build_data import PreparedData

if TYPE_CHECKING:
    from src.models.base import DiffusionModel
    from src.training.state import TrainResult

_LABEL_WIDTH = 18


def lineage_of(
    config: TrainConfig, job: Job, data: PreparedData, model: "DiffusionModel", *, size: tuple[int, int]
) -> dict[str, Any]:
    """What the run is made of: data, split, weights, settings, code, versions."""
    lineage = collect_lineage(
        root=Path(config.paths.root_dir),
        config=job.resolved,
        content_hashes=data.report.hashes,
        captions={record.id: record.caption for record in data.result.records},
        attribution=data.result.attribution,
        split={
            "train": [record.id for record in data.split.train],
            "validation": [record.id for record in data.split.validation],
        },
        held_out_files={
            str(record.path.resolve()): data.report.hashes[record.id] for record in data.split.validation
        },
        base_hash=model.base_hash,
        architecture=model.architecture,
        resolution=size,
    )
    return {**lineage, "skipped": skipped(data)}


def skipped(data: PreparedData) -> list[dict[str, str]]:
    """What was left out of the dataset (`dataset.on_problem=skip`), and why."""
    return [{"file": problem.file, "reason": problem.message} for problem in data.report.problems]


def write_skipped(run_dir: Path, entries: list[dict[str, str]]) -> Path | None:
    """The same as skipped.json. None is written, and an earlier one removed, where nothing was left out."""
    file = run_dir / "skipped.json"
    if not entries:
        file.unlink(missing_ok=True)
        return None
    write_json_atomic(file, entries)
    return file


def must_match(
    config: TrainConfig,
    lineage: dict[str, Any],
    *,
    size: tuple[int, int],
    num_processes: int,
    mixed_precision: str,
) -> dict[str, Any]:
    """What decides which numbers come next; a checkpoint of other values cannot be continued exactly.

    Not among them: learning rates, schedule and length, which people change on purpose to go on longer.
    """
    trainer, dataset = config.trainer, config.dataset
    algorithm = {key: value for key, value in config.optimizer.algorithm.items() if key != "_target_"}
    placeholder = dataset.placeholder if config.adapter.token_embedding == "train" else None
    return {
        "optimizer.algorithm": f"{config.optimizer.algorithm['_target_']} {json.dumps(algorithm)}",
        "dataset.placeholder": placeholder,
        "dataset.background": dataset.background,
        "adapter.dropout": config.adapter.dropout,
        "trainer.min_snr_gamma": trainer.min_snr_gamma,
        "trainer.max_grad_norm": trainer.max_grad_norm,
        "trainer.mixed_precision": mixed_precision,
        "trainer.num_validation_timesteps": trainer.num_validation_timesteps,
        "trainer.max_validation_images": trainer.max_validation_images,
        "base_model_hash": lineage["base_model_hash"],
        "dataset_hash": lineage["dataset_hash"],
        "dataset.split_seed": dataset.split_seed,
        "dataset.validation_fraction": dataset.validation_fraction,
        "dataset.resolution": "x".join(map(str, size)),
        "dataset.crop": dataset.crop,
        "dataset.flip": dataset.flip,
        "dataset.num_variants": dataset.num_variants,
        "adapter.rank": config.adapter.rank,
        "adapter.alpha": config.adapter.alpha,
        "trainer.seed": trainer.seed,
        "trainer.caption_dropout": trainer.caption_dropout,
        "trainer.gradient_accumulation_steps": trainer.gradient_accumulation_steps,
        "global batch size": trainer.batch_size * num_processes,
    }


def write_records(job: Job, lineage: dict[str, Any], logger: MultiLogger) -> None:
    """What the run was made of, before it does anything: a resumed run keeps its predecessor's records."""
    config_file = write_config(job)
    lineage_file = job.run_dir / "lineage.json"
    earlier = read_json(lineage_file) if lineage_file.exists() else None
    resumed_from = [] if earlier is None else [*earlier.pop("resumed_from", []), earlier]
    write_json_atomic(lineage_file, {**lineage, "resumed_from": resumed_from})
    logger.log_artifact("config", config_file)
    logger.log_artifact("lineage", lineage_file)
    if (skipped_file := write_skipped(job.run_dir, lineage["skipped"])) is not None:
        logger.log_artifact("skipped", skipped_file)


def write_config(job: Job) -> Path:
    """The resolved configuration as config.yaml, without secrets: it goes to trackers and is passed on."""
    path = job.run_dir / "config.yaml"
    write_text_atomic(path, yaml.safe_dump(redact(job.resolved), sort_keys=False, allow_unicode=True))
    return path


def write_result(run_dir: Path, result: "TrainResult", outcome: Outcome) -> None:
    """How the run ended, as result.json."""
    write_json_atomic(
        run_dir / "result.json",
        {
            "stop_reason": result.stop_reason,
            "failures": list(result.failures),
            "best_step": None if result.best is None else result.best.step,
            **outcome.results,
        },
    )


def where_lines(places: Mapping[str, Path], logger: MultiLogger) -> list[str]:
    """Labels and places in two columns, what the loggers left included."""
    lines = [f"{label}: {place.resolve()}" for label, place in places.items()] + logger.where().splitlines()
    return [_in_columns(line) for line in lines]


def _in_columns(line: str) -> str:
    label, colon, place = line.partition(": ")
    is_pair = bool(colon) and not line.startswith(" ") and len(label) < _LABEL_WIDTH
    return f"{label + ':':<{_LABEL_WIDTH}} {place}" if is_pair else line
