"""The command `train`: from photos to an adapter and its evidence."""

import functools
import logging
import time
from collections.abc import Sequence
from typing import Any

import torch

from src.config.cli import Job, Outcome
from src.config.schema import TrainConfig
from src.errors import UserError
from src.files import require_writable
from src.lineage import short_form
from src.loggers.multi import MultiLogger
from src.logs import run_log
from src.models.adapters import TrainableGroup, trainable_state
from src.models.base import DiffusionModel
from src.redact import redact
from src.run.build_callbacks import build_callbacks
from src.run.build_data import PreparedData, describe, ensure_files, prepare_data, training_size
from src.run.build_model import fix_prompt_chunks, load_base_and_data, prepare_model
from src.run.build_sides import encode_sides
from src.run.build_trainer import build_trainer, check_optimizer
from src.run.continuing import Continuity
from src.run.memory_preflight import memory_preflight, samplers_of
from src.run.records import hashes_of, lineage_of, write_records, write_result
from src.run.results import export_best, last_lines, outcome_of
from src.run.room_agreement import cache_lease
from src.run.trackers import open_logger
from src.training.accelerator import Agreement, make_accelerator
from src.training.checkpoint import Checkpointer
from src.training.observers import describe as describe_error
from src.training.phase_memory import PhaseMemory
from src.training.saving import checkpoint_bytes
from src.training.sharding import whole
from src.training.state import TrainResult
from src.training.trainer import Trainer

log = logging.getLogger(__name__)


def run_training(config: TrainConfig, job: Job) -> Outcome:
    """Trains as configured and leaves the adapter and its evidence in the run folder."""
    started = time.monotonic()
    trainer = config.trainer
    accelerator = make_accelerator(
        mixed_precision=trainer.mixed_precision,
        device=trainer.device,
        deterministic=trainer.deterministic,
        use_cpu=config.accelerate.use_cpu,
    )
    agreement, is_main = Agreement(accelerator), accelerator.is_main_process
    require_writable(job.run_dir)
    with run_log(job.run_dir / "train.log", is_main=is_main):
        continuity = Continuity(
            config,
            run_dir=job.run_dir,
            num_processes=accelerator.num_processes,
            mixed_precision=accelerator.mixed_precision,
        )
        continuity.require({}, size=None)
        check_optimizer(config.optimizer)
        ensure_files(config)
        size = training_size(config)
        data = _prepare_main_first(config, size=size, is_main=is_main, agreement=agreement)
        continuity.require(hashes_of(data), size=size)
        log.info("%s", describe(config, data, num_processes=accelerator.num_processes))
        # Before the base model: judges that are missing or prompts that are wrong are found at once.
        callbacks = build_callbacks(config, data, size=size)
        memory = PhaseMemory(job.run_dir, accelerator.device, is_main=is_main)
        with memory.phase("load"):
            model, data = load_base_and_data(
                config, data, size=size, accelerator=accelerator, agreement=agreement
            )
            groups = prepare_model(config, model, accelerator)
        fix_prompt_chunks(config, data, model)
        log.info("%s", _describe_model(config, model, groups, size=size, device=accelerator.device))
        _require_space(config, job, groups)
        lineage = lineage_of(config, job, data, model, size=size)
        continuity.require(lineage, size=size)
        continuity.require_trained(trainable_state(model))
        with cache_lease(config), open_logger(config, job, is_main=is_main) as logger:
            with memory.phase("cache"):
                sides = encode_sides(config, data, model=model, accelerator=accelerator, agreement=agreement)
            make_loop = functools.partial(
                build_trainer,
                accelerator=accelerator,
                model=model,
                groups=groups,
                sides=sides,
                logger=logger,
                run_dir=job.run_dir,
                must_match=continuity.must_match(lineage, size=size),
                configured=redact(job.resolved),
                memory=memory,
                size=size,
            )
            if trainer.memory_preflight:
                memory_preflight(
                    config,
                    make_loop=functools.partial(make_loop, callbacks=[]),
                    model=model,
                    sides=sides,
                    samplers=samplers_of(config, callbacks),
                    accelerator=accelerator,
                    agreement=agreement,
                    size=size,
                )
            loop = make_loop(config, callbacks=callbacks)
            result = _train(loop, config, job, model=model, lineage=lineage, logger=logger, is_main=is_main)
            agreement.wait()
            logger.close("completed" if result.received_signal is None else "aborted", result.stop_reason)
        outcome = outcome_of(result, callbacks, seconds=time.monotonic() - started)
        if is_main:
            write_result(job.run_dir, result, outcome)
            for line in last_lines(job, result, logger):
                log.info("%s", line)
        return outcome


def _train(
    loop: Trainer,
    config: TrainConfig,
    job: Job,
    *,
    model: DiffusionModel,
    lineage: dict[str, Any],
    logger: MultiLogger,
    is_main: bool,
) -> TrainResult:
    """Runs the loop, and hands over the best adapter unless a signal ended it."""
    loop.restore()
    # Only now: a run that cannot be continued keeps the records that say what it was.
    if is_main:
        write_records(job, {**lineage, "resumed_with_changes": list(loop.changes)}, logger)
    result = loop.fit()
    if result.received_signal is None:
        metadata = short_form(lineage, job.resolved)
        with whole(model.denoiser):
            if is_main:
                export_best(result, model, config=config, job=job, metadata=metadata, logger=logger)
    return result


def _require_space(config: TrainConfig, job: Job, groups: Sequence[TrainableGroup]) -> None:
    """Room for two checkpoints, before anything is encoded."""
    weights = [parameter for group in groups for _, parameter in group.parameters]
    has_average = config.trainer.ema_decay is not None or config.optimizer.averages_weights
    num_bytes = checkpoint_bytes(weights, optimizer=config.optimizer.class_name, has_average=has_average)
    Checkpointer(job.run_dir / "checkpoints", keep=config.trainer.keep_checkpoints).require_space(num_bytes)


def _prepare_main_first(
    config: TrainConfig, *, size: tuple[int, int], is_main: bool, agreement: Agreement
) -> PreparedData:
    """The data, on every rank. The main one looks at all images, the others read what it remembers of them.

    Raises:
        UserError: what is wrong with it; on every rank.
    """
    data = failure = None
    if is_main:
        try:
            data = prepare_data(config, size=size)
        except Exception as error:  # whatever it is, the others wait for word of it
            failure = error
    # In full: the launcher ends the main one with the first that fails, maybe before it has printed this.
    cause = str(failure) if isinstance(failure, UserError) else describe_error(failure) if failure else None
    cause = agreement.from_main(cause)
    if cause is not None:
        raise failure or UserError(cause)
    return prepare_data(config, size=size) if data is None else data


def _describe_model(
    config: TrainConfig,
    model: DiffusionModel,
    groups: Sequence[TrainableGroup],
    *,
    size: tuple[int, int],
    device: torch.device,
) -> str:
    counts = {group.name: sum(p.numel() for _, p in group.parameters) for group in groups}
    trained = ", ".join(f"{name} ({count:,} parameters)" for name, count in counts.items())
    width, height = size
    return (
        f"Model: {config.model.path} ({model.architecture}) on {device}, {width}x{height} pixels; "
        f"training {trained}"
    )
