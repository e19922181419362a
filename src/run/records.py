"""What a run leaves in its folder beside weights and images, and the last lines that it prints."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from src.config.cli import Job, Outcome
from src.config.dataset_schema import ClassImagesConfig
from src.config.schema import TrainConfig
from src.config.trainer_schema import TrainerConfig
from src.data.buckets import bucket_counts
from src.data.records import Record
from src.files import read_json, write_json_atomic, write_text_atomic
from src.lineage import collect_lineage, dataset_hash
from src.loggers.multi import MultiLogger
from src.redact import redact
from src.run.build_data import PreparedData, rules_of
from src.training.must_match import SPLIT, UNKNOWN

if TYPE_CHECKING:
    from src.models.base import DiffusionModel
    from src.training.state import TrainResult

_LABEL_WIDTH = 18
# What of the adapter is off by default, and how it is then.
_ADAPTER_OFF: dict[str, Any] = {
    "method": "lora",
    "rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "rank_dropout": 0.0,
    "lokr_factor": None,
    "num_token_vectors": 1,
}


def lineage_of(
    config: TrainConfig, job: Job, data: PreparedData, model: "DiffusionModel", *, size: tuple[int, int]
) -> dict[str, Any]:
    """What the run is made of: data, split, weights, settings, code, versions."""
    class_images = data.class_images
    lineage = collect_lineage(
        root=Path(config.paths.root_dir),
        config=job.resolved,
        content_hashes=data.report.hashes,
        captions=captions_of(data.result.records),
        attribution=data.result.attribution,
        split={
            "train": [record.id for record in data.split.train],
            "validation": [record.id for record in data.split.validation],
        },
        held_out_files={
            str(record.path.resolve()): data.report.hashes[record.id] for record in data.split.validation
        },
        class_images={} if class_images is None else dict(class_images.hashes),
        class_captions={} if class_images is None else captions_of(class_images.records),
        base_hash=model.base_hash,
        architecture=model.architecture,
        resolution=size,
        prompt_chunks=model.num_chunks if model.max_chunks > 1 else None,
        buckets=bucket_counts(data.report.training_sizes) if config.dataset.buckets.enabled else {},
    )
    return {**lineage, **_hashes_of_parts(data), "skipped": skipped(data)}


def hashes_of(data: PreparedData) -> dict[str, Any]:
    """What the lineage will say of the data's contents, before there is a model."""
    class_images = data.class_images
    return {
        "dataset_hash": dataset_hash(data.report.hashes, captions_of(data.result.records)),
        **_hashes_of_parts(data),
        "class_images_hash": None
        if class_images is None
        else dataset_hash(class_images.hashes, captions_of(class_images.records)),
    }


def _hashes_of_parts(data: PreparedData) -> dict[str, str | None]:
    # By content: an image that is renamed is the same.
    contents = {data.report.hashes[record.id] for record in data.split.validation}
    return {
        "masks_hash": masks_hash(data),
        SPLIT: dataset_hash({each: each for each in contents}, dict.fromkeys(contents, "held out")),
    }


def masks_hash(data: PreparedData) -> str | None:
    """One hash over the masks of all images that are used; None without masks."""
    used = [record.id for record in data.result.records if record.id in data.masks]
    if not used:
        return None
    return dataset_hash({id: data.masks[id].content for id in used}, dict.fromkeys(used, "mask"))


def captions_of(records: Sequence[Record]) -> dict[str, str]:
    """Captions by record id."""
    return {record.id: record.caption for record in records}


def skipped(data: PreparedData) -> list[dict[str, str]]:
    """What was left out of the dataset and its class images (`dataset.on_problem=skip`), and why."""
    problems = [*data.report.problems, *([] if data.class_images is None else data.class_images.problems)]
    return [{"file": problem.file, "reason": problem.message} for problem in problems]


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
    lineage: Mapping[str, Any],
    *,
    size: tuple[int, int] | None,
    num_processes: int,
    mixed_precision: str,
) -> dict[str, Any]:
    """What decides which numbers come next; a checkpoint of other values cannot be continued exactly.

    Not among them: learning rates, schedule and length, which people change on purpose to go on longer.

    Args:
        config: the run's configuration.
        lineage: of the run, or as much of it as is known.
        size: (width, height) of the training images; None if it is not known yet.
        num_processes: of the run.
        mixed_precision: "no", "fp16" or "bf16".

    Returns:
        The values by name, `UNKNOWN` where it is too early to say.
    """
    trainer, dataset = config.trainer, config.dataset
    algorithm = {key: value for key, value in config.optimizer.algorithm.items() if key != "_target_"}
    placeholder = dataset.placeholder if config.adapter.token_embedding == "train" else None
    return {
        **_chosen(config, lineage, size=size),
        "optimizer.algorithm": f"{config.optimizer.algorithm['_target_']} {json.dumps(algorithm)}",
        "dataset.placeholder": placeholder,
        "dataset.background": dataset.background,
        "adapter.dropout": config.adapter.dropout,
        "trainer.min_snr_gamma": trainer.min_snr_cap,
        "trainer.max_grad_norm": trainer.max_grad_norm,
        "trainer.mixed_precision": mixed_precision,
        "trainer.num_validation_timesteps": trainer.num_validation_timesteps,
        "trainer.max_validation_images": trainer.max_validation_images,
        "base_model_hash": lineage.get("base_model_hash", UNKNOWN),
        "dataset_hash": lineage.get("dataset_hash", UNKNOWN),
        SPLIT: lineage.get(SPLIT, UNKNOWN),
        "dataset.split_seed": dataset.split_seed,
        "dataset.validation_fraction": dataset.validation_fraction,
        "dataset.resolution": UNKNOWN if size is None else "x".join(map(str, size)),
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


def _chosen(
    config: TrainConfig, lineage: Mapping[str, Any], *, size: tuple[int, int] | None
) -> dict[str, Any]:
    """The same of what is off by default, where it is on: else a run agrees with older ones that lack it."""
    trainer, dataset, chosen = config.trainer, config.dataset, _objective(config.trainer)
    if trainer.prior_loss_weight is not None:
        chosen["trainer.prior_loss_weight"] = trainer.prior_loss_weight
        chosen |= _class_images(dataset.class_images, lineage)
    if trainer.ema_decay is not None:
        chosen["trainer.ema_decay"] = trainer.ema_decay
    if trainer.base_precision != "auto":
        chosen["trainer.base_precision"] = trainer.base_precision
    if config.model.long_prompts:
        chosen["prompt chunks"] = lineage.get("prompt_chunks", UNKNOWN)
        chosen["model.max_prompt_chunks"] = config.model.max_prompt_chunks
    if dataset.masks != "none":
        chosen["dataset.masks"] = dataset.masks
        chosen["trainer.unmasked_weight"] = trainer.unmasked_weight
        chosen["masks_hash"] = lineage.get("masks_hash", UNKNOWN)
    for name, value in _ADAPTER_OFF.items():
        if (own := getattr(config.adapter, name)) != value:
            # Of a mapping of layers the last match counts: its order is part of it.
            chosen[f"adapter.{name}"] = json.dumps(list(own.items())) if isinstance(own, dict) else own
    if dataset.buckets.enabled:
        chosen["dataset.buckets"] = UNKNOWN if size is None else str(rules_of(dataset, size=size))
    if dataset.cache and dataset.cache_precision != "fp32":
        chosen["dataset.cache_precision"] = dataset.cache_precision
    return chosen


def _objective(trainer: TrainerConfig) -> dict[str, Any]:
    """What is learned, where it is not what it is by default."""
    default = TrainerConfig(max_steps=1)
    names = [
        *("noise_offset", "prediction_type", "zero_terminal_snr", "timestep_sampling"),
        *("logit_normal_mean", "logit_normal_std", "min_timestep", "max_timestep"),
    ]
    chosen = {
        f"trainer.{name}": getattr(trainer, name)
        for name in names
        if getattr(trainer, name) != getattr(default, name)
    }
    if trainer.loss_weighting == "debiased":
        # The others are told apart by the cap of min_snr.
        chosen["trainer.loss_weighting"] = trainer.loss_weighting
    return chosen


def _class_images(block: ClassImagesConfig, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Of a folder what is in it, of drawn images how: drawn anew by another GPU they have other last bits.

    Base model, size, precision and chunks are compared for the training in any case.
    """
    if block.path is not None:
        return {"class_images_hash": lineage.get("class_images_hash", UNKNOWN)}
    return {f"dataset.class_images.{name}": value for name, value in asdict(block).items() if name != "path"}


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
            "resumed_with_changes": list(result.changes),
            "num_spikes": result.num_spikes,
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
