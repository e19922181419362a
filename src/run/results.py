"""What a training run comes to: the adapter, its figures, the last lines."""

import logging
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from src.callbacks.base import Callback
from src.config.build import PROJECT_ROOT
from src.config.cli import Job, Outcome
from src.config.schema import TrainConfig
from src.loggers.multi import MultiLogger
from src.models.adapters import load_trainable_state
from src.models.base import DiffusionModel
from src.models.export import save_adapter
from src.run.adapter_card import write_adapter_card
from src.run.records import where_lines
from src.training.checkpoint import find_damage, judged_weights
from src.training.state import TrainResult

_log = logging.getLogger(__name__)


def export_best(
    result: TrainResult,
    model: DiffusionModel,
    *,
    config: TrainConfig,
    job: Job,
    metadata: dict[str, str],
    logger: MultiLogger,
) -> None:
    """Hands over the best adapter: the run's `adapter/` folder."""
    chosen, best = result.best_checkpoint or result.checkpoint, result.best
    if chosen is None:
        return
    # It may have been written days ago, and only the newest is looked at when a run goes on.
    if (damage := find_damage(chosen)) is not None and chosen != result.checkpoint:
        assert result.checkpoint is not None
        _log.error("The best checkpoint is damaged (%s). The adapter is that of the last step.", damage)
        chosen, best = result.checkpoint, None
    load_trainable_state(model, load_file(judged_weights(chosen)))
    folder = job.run_dir / "adapter"
    metadata = {**metadata, "darkroom.step": str(result.step if best is None else best.step)}
    save_adapter(model, folder, metadata=metadata)
    write_adapter_card(
        folder, config, metadata, architecture=model.architecture, loss=None if best is None else best.value
    )
    logger.log_model("adapter", folder, metadata)


def outcome_of(result: TrainResult, callbacks: Sequence[Callback], *, seconds: float) -> Outcome:
    """What the command reports of a run: exit code, objective for sweeps, figures."""
    results: dict[str, float] = {}
    if result.best is not None:
        results |= {"best_validation_loss": result.best.value, "best_step": float(result.best.step)}
    results |= {name.replace("/", "_"): value for name, value in result.losses.items()}
    for callback in callbacks:
        results |= callback.results()
    results |= {"steps": float(result.step), "seconds": seconds}
    value = None if result.best is None else result.best.value
    return Outcome(exit_code=result.exit_code, objective=value, results=results, notes=result.failures)


def last_lines(job: Job, result: TrainResult, logger: MultiLogger) -> list[str]:
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
