"""Which trained weights are meant: `best`, `last`, a step, or a path."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.models.adapter_files import find_adapter_files
from src.training.checkpoint import MANIFEST, find_damage, list_checkpoints, read_manifest

_log = logging.getLogger(__name__)
_RUNS = ("train/*", "sweeps/*/*")
_TRAIN_HINT = "Train one first: sh train_run.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSource:
    """Trained weights on disk.

    Attributes:
        path: a checkpoint, an adapter folder in diffusers' form, or one adapter file.
        is_checkpoint: whether it is a checkpoint, which is applied with the settings of its run.
        run_folder: the run it comes from, None for files from elsewhere.
        step: optimiser steps it was trained for, where that is known.
    """

    path: Path
    is_checkpoint: bool
    run_folder: Path | None
    step: int | None

    @property
    def name(self) -> str:
        """A short name for metadata and titles."""
        place = self.run_folder.name if self.run_folder is not None else self.path.name
        return place if self.step is None else f"{place} step {self.step}"

    def run_config(self) -> dict[str, Any] | None:
        """The resolved configuration of the run, None where there is none."""
        import yaml

        if self.run_folder is None or not (self.run_folder / "config.yaml").is_file():
            return None
        config: dict[str, Any] = yaml.safe_load((self.run_folder / "config.yaml").read_text(encoding="utf-8"))
        return config


def resolve_weights(weights: str | int, *, output_dir: Path, run_name: str | None = None) -> AdapterSource:
    """Finds the weights that `adapter.weights` means.

    Args:
        weights: `best` (lowest validation loss), `last`, a step, or the path of an adapter file, an adapter
            folder, a checkpoint or a run folder (its best).
        output_dir: `paths.output_dir`; runs are in its folders `train` and `sweeps`.
        run_name: the run that `best`, `last` and a step refer to; None for the one that was trained last.

    Raises:
        UserError: nothing is trained yet, or there is nothing of that name, or it is damaged.
    """
    text = str(weights)
    if text in ("best", "last") or text.isdecimal():
        return _of_run(_find_run(output_dir, run_name), text)
    path = Path(text)
    if not path.exists():
        raise UserError(
            f"adapter.weights={text}: there is no such file or folder. Give best, last, a step, or the path "
            "of an adapter file, adapter folder, checkpoint or run folder."
        )
    if path.is_dir() and ((path / MANIFEST).exists() or path.name.startswith("step_")):
        return _checkpoint(path)
    if path.is_dir() and _is_run(path):
        return _of_run(path, "best")
    if path.is_dir() and path.name == "checkpoints" and list_checkpoints(path):
        return _of_run(path.parent, "best")
    return _export(path)


def _is_run(folder: Path) -> bool:
    return bool(list_checkpoints(folder / "checkpoints")) or (folder / "adapter").is_dir()


def _find_run(output_dir: Path, name: str | None) -> Path:
    """A run by its name, a sweep's job by `<name>/<job>`, or the newest of all."""
    folders = [folder for pattern in _RUNS for folder in output_dir.glob(pattern)]
    places = {_run_name(folder): folder for folder in folders if _is_run(folder)}
    if not places:
        raise UserError(f"No trained adapter found under {output_dir}. {_TRAIN_HINT}")
    if name is not None and name in places:
        return places[name]
    newest = sorted(places, key=lambda known: _last_written(places[known]))
    if name is None:
        return places[newest[-1]]
    shown = ", ".join(reversed(newest[-5:]))
    raise UserError(f"adapter.run={name}: no trained run of that name under {output_dir}. Newest: {shown}.")


def _run_name(run: Path) -> str:
    return run.name if run.parent.name == "train" else f"{run.parent.name}/{run.name}"


def _last_written(run: Path) -> float:
    written = [*list_checkpoints(run / "checkpoints")[-1:], run / "adapter"]
    return max(path.stat().st_mtime for path in written if path.exists())


def _of_run(run: Path, which: str) -> AdapterSource:
    checkpoints = list_checkpoints(run / "checkpoints")
    if not checkpoints:
        if which != "best":
            raise UserError(
                f"The run {run} has no checkpoints any more, only its best adapter. Set adapter.weights=best."
            )
        return _export(run / "adapter")
    if which.isdecimal():
        return _of_step(checkpoints, int(which), run)
    damages = {path: find_damage(path) for path in checkpoints}
    whole = [path for path, damage in damages.items() if damage is None]
    for path, damage in damages.items():
        if damage is not None:
            _log.warning("Skipping the damaged checkpoint %s: %s.", path, damage)
    if not whole:
        raise UserError(f"All checkpoints of {run} are damaged. Train again: sh train_run.sh")
    if which == "last":
        return _checkpoint(whole[-1])
    manifest = read_manifest(whole[-1])
    assert manifest is not None, "it was found whole"
    if manifest["best_step"] is None:
        _log.warning("Nothing was validated in %s, so there is no best adapter; its last one is taken.", run)
        return _checkpoint(whole[-1])
    return _of_step(checkpoints, manifest["best_step"], run)


def _of_step(checkpoints: list[Path], step: int, run: Path) -> AdapterSource:
    for path in checkpoints:
        if _step(path) == step:
            return _checkpoint(path)
    kept = ", ".join(str(number) for number in sorted(_step(path) for path in checkpoints))
    raise UserError(
        f"adapter.weights={step}: the run {run} has no checkpoint of that step. Kept are the steps {kept}."
    )


def _checkpoint(path: Path) -> AdapterSource:
    damage = find_damage(path)
    if damage is not None:
        raise UserError(f"The checkpoint {path} is damaged: {damage}. Choose another one (adapter.weights).")
    run = path.resolve().parent.parent
    return AdapterSource(path=path, is_checkpoint=True, run_folder=run, step=_step(path))


def _export(path: Path) -> AdapterSource:
    find_adapter_files(path)  # says what is missing
    folder = path if path.is_dir() else path.parent
    run = folder.resolve().parent if folder.resolve().name == "adapter" else None
    if run is not None and not (run / "config.yaml").is_file():
        run = None
    return AdapterSource(path=path, is_checkpoint=False, run_folder=run, step=None)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))
