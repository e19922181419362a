"""The command `train`: from photos to an adapter and its evidence."""

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from src.callbacks.base import Callback
from src.config.build import PROJECT_ROOT
from src.config.cli import Job, Outcome
from src.config.schema import TrainConfig
from src.errors import UserError
from src.files import require_writable
from src.lineage import short_form
from src.loggers.multi import MultiLogger
from src.logs import run_log
from src.models.adapters import TrainableGroup, load_trainable_state
from src.models.base import DiffusionModel
from src.models.export import save_adapter
from src.redact import redact
from src.run.adapter_card import write_adapter_card
from src.run.build_callbacks import build_callbacks
from src.run.build_data import PreparedData, describe, ensure_files, prepare_data, training_size
from src.run.build_model import fix_prompt_chunks, load_base_and_data, prepare_model
from src.run.build_sides import encode_sides
from src.run.build_trainer import build_trainer, check_optimizer
from src.run.memory_preflight import memory_preflight, samplers_of
from src.run.records import hashes_of, lineage_of, must_match, where_lines, write_records, write_result
from src.run.room_agreement import cache_lease
from src.run.trackers import open_logger
from src.training.accelerator import Agreement, make_accelerator
from src.training.checkpoint import Checkpointer, judged_weights
from src.training.must_match import Scalar, require_continuable
from src.training.observers import describe as describe_error
from src.training.phase_memory import PhaseMemory
from src.training.resume import resolve as resolve_resume
from src.training.saving import checkpoint_bytes
from src.training.sharding import whole
from src.training.state import TrainResult

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
    agreement = Agreement(accelerator)
    is_main = accelerator.is_main_process
    require_writable(job.run_dir)
    with run_log(job.run_dir / "train.log", is_main=is_main):
        checkpoint = _checkpoint_to_continue(job.run_dir, trainer.resume)
        agreed = functools.partial(
            must_match,
            config,
            num_processes=accelerator.num_processes,
            mixed_precision=accelerator.mixed_precision,
        )
        require_same = _continuity_check(checkpoint, allow_changes=trainer.resume_changed == "allow")
        require_same(agreed({}, size=None))
        check_optimizer(config.optimizer)
        ensure_files(config)
        size = training_size(config)
        data = _prepare_main_first(config, size=size, is_main=is_main, agreement=agreement)
        require_same(agreed(hashes_of(data), size=size))
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
        checkpointer = Checkpointer(job.run_dir / "checkpoints", keep=trainer.keep_checkpoints)
        weights = [parameter for group in groups for _, parameter in group.parameters]
        has_average = trainer.ema_decay is not None or config.optimizer.averages_weights
        checkpointer.require_space(
            checkpoint_bytes(weights, optimizer=config.optimizer.class_name, has_average=has_average)
        )
        lineage = lineage_of(config, job, data, model, size=size)
        require_same(agreed(lineage, size=size))
        with cache_lease(config), open_logger(config, job, is_main=is_main) as logger:
            memory.use(logger)
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
                must_match=agreed(lineage, size=size),
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
            loop.restore()
            # Only now: a run that cannot be continued keeps the records that say what it was.
            if is_main:
                write_records(job, {**lineage, "resumed_with_changes": list(loop.changes)}, logger)
            result = loop.fit()
            _export(
                result,
                model,
                config=config,
                job=job,
                metadata=short_form(lineage, job.resolved),
                logger=logger,
                is_main=is_main,
            )
            agreement.wait()
            logger.close("completed" if result.received_signal is None else "aborted", result.stop_reason)
        outcome = _outcome(result, callbacks, seconds=time.monotonic() - started)
        if is_main:
            write_result(job.run_dir, result, outcome)
            for line in _last_lines(job, result, logger):
                log.info("%s", line)
        return outcome


def _checkpoint_to_continue(run_dir: Path, resume: str) -> Path | None:
    """Looks for the checkpoint to start from, and refuses to write over another run.

    Raises:
        UserError: also where the checkpoints were removed and only the adapter is left.
    """
    checkpoint, own = resolve_resume(resume, folder=run_dir / "checkpoints"), run_dir / "checkpoints"
    is_continued = checkpoint is not None and checkpoint.resolve().parent == own.resolve()
    if not is_continued and (run_dir / "adapter").exists():
        raise UserError(
            f"{run_dir / 'adapter'} holds a trained adapter, which trainer.resume={resume} would replace. "
            "Give another run.name, or move that folder away."
        )
    return checkpoint


def _continuity_check(
    checkpoint: Path | None, *, allow_changes: bool
) -> Callable[[Mapping[str, Scalar]], None]:
    """Compares what is known of the run with the checkpoint that it continues, if it continues one."""
    if checkpoint is None:
        return lambda must_match: None
    return functools.partial(require_continuable, checkpoint, allow_changes=allow_changes)


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


def _export(
    result: TrainResult,
    model: DiffusionModel,
    *,
    config: TrainConfig,
    job: Job,
    metadata: dict[str, str],
    logger: MultiLogger,
    is_main: bool,
) -> None:
    """Hands over the best adapter: the run's `adapter/` folder. Sharded weights need every rank for it.

    Not of a run that a signal stopped: it is to be continued.
    """
    if result.received_signal is not None:
        return
    with whole(model.denoiser):
        if is_main:
            _save_adapter(result, model, config=config, job=job, metadata=metadata, logger=logger)


def _save_adapter(
    result: TrainResult,
    model: DiffusionModel,
    *,
    config: TrainConfig,
    job: Job,
    metadata: dict[str, str],
    logger: MultiLogger,
) -> None:
    chosen = result.best_checkpoint or result.checkpoint
    if chosen is None:
        return
    load_trainable_state(model, load_file(judged_weights(chosen)))
    best, folder = result.best, job.run_dir / "adapter"
    metadata = {**metadata, "darkroom.step": str(result.step if best is None else best.step)}
    save_adapter(model, folder, metadata=metadata)
    write_adapter_card(
        folder, config, metadata, architecture=model.architecture, loss=None if best is None else best.value
    )
    logger.log_model("adapter", folder, metadata)


def _outcome(result: TrainResult, callbacks: Sequence[Callback], *, seconds: float) -> Outcome:
    results: dict[str, float] = {}
    if result.best is not None:
        results |= {"best_validation_loss": result.best.value, "best_step": float(result.best.step)}
    results |= {name.replace("/", "_"): value for name, value in result.losses.items()}
    for callback in callbacks:
        results |= callback.results()
    results |= {"steps": float(result.step), "seconds": seconds}
    value = None if result.best is None else result.best.value
    return Outcome(exit_code=result.exit_code, objective=value, results=results, notes=result.failures)


def _last_lines(job: Job, result: TrainResult, logger: MultiLogger) -> list[str]:
    """What came of the run and where it is."""
    run_dir = job.run_dir
    lines = [f"Trained {result.step} steps ({result.stop_reason})."]
    if result.best is not None:
        lines.append(f"Lowest validation loss {result.best.value:.4f} at step {result.best.step}.")
    lines += [f"Failed and skipped: {failure}" for failure in result.failures]
    lines += [f"Resumed with another value: {change}" for change in result.changes]
    if result.num_spikes:
        lines.append(
            f"Logs with a spike of loss or gradient: {result.num_spikes} (named above and in the log)."
        )
    places = {"Adapter": run_dir / "adapter", "Images": run_dir / "images", "Log": run_dir / "train.log"}
    lines += where_lines({label: place for label, place in places.items() if place.exists()}, logger)
    if result.received_signal is None:
        lines.append(f"Generate with it: sh infer_run.sh{_arguments_for_inference(run_dir)}")
    elif not job.in_sweep:
        lines.append(f"Continue with: the same command, run.name={run_dir.name} trainer.resume=auto")
    return lines


def _arguments_for_inference(run_dir: Path) -> str:
    """The run by name: the newest one, which is meant without a name, may soon be another."""
    is_default = run_dir.resolve().parent == PROJECT_ROOT / "outputs" / "train"
    return f" adapter.run={run_dir.name}" if is_default else f" adapter.weights={run_dir.resolve()}"
