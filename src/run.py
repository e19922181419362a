"""The commands: what the mains call with a checked configuration."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from src.assemble_data import PreparedData, ensure_assets, ensure_files, prepare_data
from src.assemble_inference import (
    base_model_config,
    build_judges,
    clip_words,
    prompts_of,
    sampling_settings,
    warn_of_other_base,
)
from src.assemble_training import (
    DTYPES,
    build_callbacks,
    build_extractors,
    build_logger,
    build_trainer,
    encode_sides,
    load_base,
    prepare_model,
    warn_of_long_captions,
)
from src.config.cli import Job, Outcome
from src.config.schema import InferenceConfig, TrainConfig
from src.files import read_json, require_writable, write_json_atomic, write_text_atomic
from src.inference.compare import Comparison, Judges, compare
from src.inference.resolve import AdapterSource, resolve_weights
from src.lineage import collect_lineage, short_form
from src.loggers.multi import MultiLogger
from src.logs import run_log
from src.metrics.evaluate import score_lines
from src.models.adapters import load_trainable_state
from src.models.base import DiffusionModel
from src.models.export import save_adapter
from src.training.accelerator import make_accelerator
from src.training.checkpoint import load_checkpoint
from src.training.resume import resolve as resolve_resume
from src.training.state import TrainResult

log = logging.getLogger(__name__)


def run_prepare(config: TrainConfig, job: Job) -> Outcome:
    """Makes the data present, reads and checks it, and splits it; trains nothing."""
    with run_log(job.run_dir / "prepare.log"):
        ensure_files(config)
        data = prepare_data(config)
        log.info("%s", _describe(config, data))
        figures = {"images": data.report.num_images, "train": len(data.split.train)}
        figures["validation"] = len(data.split.validation)
        write_json_atomic(job.run_dir / "prepared.json", figures)
        return Outcome(results={name: float(value) for name, value in figures.items()})


def run_training(config: TrainConfig, job: Job) -> Outcome:
    """Trains as configured and leaves the adapter and its evidence in the run folder."""
    started = time.monotonic()
    trainer = config.trainer
    accelerator = make_accelerator(
        mixed_precision=trainer.mixed_precision, device=trainer.device, deterministic=trainer.deterministic
    )
    is_main = accelerator.is_main_process
    with run_log(job.run_dir / "train.log", is_main=is_main):
        require_writable(job.run_dir)
        resolve_resume(trainer.resume, folder=job.run_dir / "checkpoints")
        ensure_files(config)
        data = prepare_data(config)
        log.info("%s", _describe(config, data))
        model, groups = prepare_model(config, accelerator)
        warn_of_long_captions(data, model)
        log.info("%s", _describe_model(config, model, groups, accelerator.device))
        lineage = _lineage(config, job, data, model)
        logger = build_logger(
            config.logger,
            run_dir=job.run_dir,
            run_name=job.name,
            cache_dir=Path(config.paths.cache_dir),
            is_main=is_main,
        )
        logger.start()
        try:
            logger.log_config(job.resolved)
            if is_main:
                _write_records(job, lineage, logger)
            sides = encode_sides(config, data, model, accelerator)
            fit = build_trainer(
                config,
                accelerator=accelerator,
                model=model,
                groups=groups,
                sides=sides,
                callbacks=build_callbacks(config, data),
                logger=logger,
                run_dir=job.run_dir,
                must_match=_must_match(config, lineage, accelerator.num_processes),
            ).fit
            result = fit()
            if is_main and result.received_signal is None:
                _export(result, model, job, short_form(lineage, job.resolved), logger)
            accelerator.wait_for_everyone()
        except BaseException as error:
            logger.close("aborted" if isinstance(error, KeyboardInterrupt) else "failed", str(error))
            raise
        logger.close("completed" if result.received_signal is None else "aborted", result.stop_reason)
        outcome = _outcome(result, seconds=time.monotonic() - started, objective=config.objective)
        if is_main:
            _write_result(job.run_dir, result, outcome)
            _say_where(job.run_dir, result, logger)
        return outcome


def run_inference(config: InferenceConfig, job: Job) -> Outcome:
    """Generates with a trained adapter, beside the base model, and judges both."""
    with run_log(job.run_dir / "inference.log"):
        source = resolve_weights(
            config.adapter.weights, output_dir=Path(config.paths.output_dir), run_name=config.adapter.run
        )
        prompts = prompts_of(config, source)
        base = base_model_config(config, source)
        ensure_assets(root=Path(config.paths.root_dir), dvc=base.dvc)
        accelerator = make_accelerator(
            mixed_precision=config.inference.mixed_precision, device=config.inference.device
        )
        model = load_base(base)
        model.to_device(accelerator.device, DTYPES[accelerator.mixed_precision])
        warn_of_other_base(model, source)
        log.info("Adapter: %s, on %s (%s)", source.path, base.path, accelerator.device)
        logger = build_logger(
            config.logger,
            run_dir=job.run_dir,
            run_name=job.name,
            cache_dir=Path(config.paths.cache_dir),
            is_main=True,
        )
        logger.start()
        try:
            logger.log_config(job.resolved)
            _write_config(job)
            judges = build_judges(source, **build_extractors(config.metrics), device=accelerator.device)
            comparison = _generate(
                config, job, source=source, model=model, prompts=prompts, judges=judges, logger=logger
            )
        except BaseException as error:
            logger.close("aborted" if isinstance(error, KeyboardInterrupt) else "failed", str(error))
            raise
        logger.close("completed")
        for line in [*score_lines(comparison.scores), *_where(job.run_dir, comparison, logger)]:
            log.info("%s", line)
        return Outcome(results={k: v for score in comparison.scores for k, v in score.scalars().items()})


def _generate(
    config: InferenceConfig,
    job: Job,
    *,
    source: AdapterSource,
    model: DiffusionModel,
    prompts: list[str],
    judges: Judges,
    logger: MultiLogger,
) -> Comparison:
    with tqdm(unit="image", disable=None, leave=False) as bar:

        def progress(what: str, done: int, total: int) -> None:
            bar.set_description(f"Generating ({what})")
            bar.total, bar.n = total, done
            bar.refresh()

        return compare(
            model,
            source,
            folder=job.run_dir,
            prompts=prompts,
            sampling=sampling_settings(config, source, native_resolution=model.native_resolution),
            logger=logger,
            judges=judges,
            clip_prompts=clip_words(prompts, source),
            scale=config.adapter.scale,
            with_token_embedding=config.adapter.token_embedding,
            merge=config.inference.merge,
            with_base=config.inference.compare,
            on_batch=progress,
        )


def _where(run_dir: Path, comparison: Comparison, logger: MultiLogger) -> list[str]:
    return [
        f"Grid:        {comparison.grid.resolve()}",
        f"Images:      {(run_dir / 'images').resolve()}",
        f"Scores:      {(run_dir / 'scores.json').resolve()}",
        *logger.where().splitlines(),
    ]


def _describe(config: TrainConfig, data: PreparedData) -> str:
    width, height = data.size
    return (
        f"Data: {data.report.num_records} captioned images from {config.dataset.path}, "
        f"{len(data.split.train)} to train on, {len(data.split.validation)} held out, at {width}x{height}"
    )


def _describe_model(
    config: TrainConfig, model: DiffusionModel, groups: list[Any], device: torch.device
) -> str:
    sizes = {group.name: sum(p.numel() for _, p in group.parameters) for group in groups}
    trained = ", ".join(f"{name} ({size:,} parameters)" for name, size in sizes.items())
    return f"Model: {config.model.path} ({model.architecture}) on {device}; training {trained}"


def _lineage(config: TrainConfig, job: Job, data: PreparedData, model: DiffusionModel) -> dict[str, Any]:
    return collect_lineage(
        root=Path(config.paths.root_dir),
        config=job.resolved,
        content_hashes=data.report.hashes,
        captions={record.id: record.caption for record in data.result.records},
        split={
            "train": [record.id for record in data.split.train],
            "validation": [record.id for record in data.split.validation],
        },
        held_out_files={
            str(record.path.resolve()): data.report.hashes[record.id] for record in data.split.validation
        },
        base_hash=model.base_hash,
        architecture=model.architecture,
    )


def _must_match(config: TrainConfig, lineage: dict[str, Any], num_processes: int) -> dict[str, Any]:
    """What decides which numbers come next; a checkpoint of other values cannot be continued exactly."""
    trainer, dataset = config.trainer, config.dataset
    return {
        "base_model_hash": lineage["base_model_hash"],
        "dataset_hash": lineage["dataset_hash"],
        "dataset.split_seed": dataset.split_seed,
        "dataset.validation_fraction": dataset.validation_fraction,
        "dataset.resolution": str(dataset.resolution),
        "dataset.crop": dataset.crop,
        "dataset.flip": dataset.flip,
        "dataset.num_variants": dataset.num_variants,
        "trainer.seed": trainer.seed,
        "trainer.caption_dropout": trainer.caption_dropout,
        "trainer.gradient_accumulation_steps": trainer.gradient_accumulation_steps,
        "global batch size": trainer.batch_size * num_processes,
    }


def _write_records(job: Job, lineage: dict[str, Any], logger: MultiLogger) -> None:
    """What the run was made of, before it does anything: a resumed run keeps its predecessor's records."""
    config_file = _write_config(job)
    lineage_file = job.run_dir / "lineage.json"
    earlier = read_json(lineage_file) if lineage_file.exists() else None
    resumed_from = [] if earlier is None else [*earlier.pop("resumed_from", []), earlier]
    write_json_atomic(lineage_file, {**lineage, "resumed_from": resumed_from})
    logger.log_artifact("config", config_file)
    logger.log_artifact("lineage", lineage_file)


def _write_config(job: Job) -> Path:
    path = job.run_dir / "config.yaml"
    write_text_atomic(path, yaml.safe_dump(job.resolved, sort_keys=False, allow_unicode=True))
    return path


def _export(
    result: TrainResult, model: DiffusionModel, job: Job, metadata: dict[str, str], logger: MultiLogger
) -> None:
    """Hands over the best adapter: the run's `adapter/` folder."""
    chosen = result.best_checkpoint or result.checkpoint
    if chosen is None:
        return
    load_trainable_state(model, load_checkpoint(chosen).tensors["weights"])
    step = str(result.step if result.best is None else result.best.step)
    folder = job.run_dir / "adapter"
    save_adapter(model, folder, metadata={**metadata, "darkroom.step": step})
    logger.log_model("adapter", folder, {**metadata, "darkroom.step": step})


def _outcome(result: TrainResult, *, seconds: float, objective: str) -> Outcome:
    results = {name.replace("/", "_"): value for name, value in result.losses.items()}
    if result.best is not None:
        results |= {"best_validation_loss": result.best.value, "best_step": float(result.best.step)}
    results |= {"steps": float(result.step), "seconds": seconds}
    value = result.best.value if objective == "validation_loss" and result.best is not None else None
    return Outcome(exit_code=result.exit_code, objective=value, results=results)


def _write_result(run_dir: Path, result: TrainResult, outcome: Outcome) -> None:
    write_json_atomic(
        run_dir / "result.json",
        {
            "stop_reason": result.stop_reason,
            "failures": list(result.failures),
            "best_step": None if result.best is None else result.best.step,
            **outcome.results,
        },
    )


def _say_where(run_dir: Path, result: TrainResult, logger: MultiLogger) -> None:
    """The last lines of a run: what came of it and where it is."""
    lines = [f"Trained {result.step} steps ({result.stop_reason})."]
    if result.best is not None:
        lines.append(f"Lowest validation loss {result.best.value:.4f} at step {result.best.step}.")
    lines += [f"Failed and skipped: {failure}" for failure in result.failures]
    if (run_dir / "adapter").is_dir():
        lines.append(f"Adapter:     {(run_dir / 'adapter').resolve()}")
    if (run_dir / "images").is_dir():
        lines.append(f"Images:      {(run_dir / 'images').resolve()}")
    lines += [f"Log:         {(run_dir / 'train.log').resolve()}", *logger.where().splitlines()]
    if result.received_signal is not None:
        lines.append(f"Continue with: the same command, run.name={run_dir.name} trainer.resume=auto")
    else:
        lines.append("Generate with it: sh infer_run.sh")
    for line in lines:
        log.info("%s", line)
