"""Which checkpoint a run starts from. Never a silent start from step 0."""

from pathlib import Path

from src.errors import UserError
from src.training.checkpoint import MANIFEST, find_damage, list_checkpoints, newest_whole, read_manifest


def resolve(resume: str, *, folder: Path) -> Path | None:
    """Finds the checkpoint to resume from.

    Args:
        resume: "never"; "auto": the newest whole one, or a start if none was ever written; "latest": the
            newest whole one; "best": the one with the lowest validation loss; or the path of a checkpoint, a
            run folder or its checkpoint folder.
        folder: this run's own checkpoint folder.

    Returns:
        A whole checkpoint, or None to start from step 0.

    Raises:
        UserError: there is none where one is asked for, all are damaged, or a start would write among another
            run's checkpoints.
    """
    own = list_checkpoints(folder)
    if resume == "never":
        _refuse_mixing(own, folder, "trainer.resume=never")
        return None
    if resume == "auto":
        return _newest_whole(own, folder) if own else None
    if resume == "latest":
        return _newest_whole(own, folder)
    if resume == "best":
        return _best(own, folder)
    path = _from_path(Path(resume))
    if path.resolve().parent != folder.resolve():
        _refuse_mixing(own, folder, f"trainer.resume={resume}")
    return path


def _newest_whole(checkpoints: list[Path], folder: Path) -> Path:
    if not checkpoints:
        raise UserError(
            f"There is no checkpoint to resume from in {folder}. Compare run.name and paths.output_dir with "
            f"the run you mean, or set trainer.resume=auto to start if there is none."
        )
    found, damages = newest_whole(checkpoints)
    if found is None:
        listed = "; ".join(f"{path.name}: {damage}" for path, damage in damages.items())
        raise UserError(
            f"All checkpoints in {folder} are damaged ({listed}). Restore one from a backup, or start anew "
            f"with another run.name."
        )
    return found


def _best(checkpoints: list[Path], folder: Path) -> Path:
    newest = _newest_whole(checkpoints, folder)
    manifest = read_manifest(newest)
    assert manifest is not None
    if manifest["best_step"] is None:
        raise UserError(
            f"The run in {folder} has no best checkpoint yet, because nothing was validated. "
            "Set trainer.resume=latest."
        )
    best = folder / f"step_{manifest['best_step']:08d}"
    return newest if best == newest else _whole(best)


def _from_path(path: Path) -> Path:
    if (path / MANIFEST).exists() or path.name.startswith("step_"):
        return _whole(path)
    for folder in (path / "checkpoints", path):
        if list_checkpoints(folder):
            return _newest_whole(list_checkpoints(folder), folder)
    raise UserError(
        f"trainer.resume={path} is neither a run folder with checkpoints nor a checkpoint. "
        "Known words are never, auto, latest and best."
    )


def _whole(path: Path) -> Path:
    if not path.is_dir():
        raise UserError(f"There is no checkpoint {path}. Set trainer.resume=latest for the newest one.")
    damage = find_damage(path)
    if damage is not None:
        raise UserError(
            f"The checkpoint {path} is damaged: {damage}. Set trainer.resume=auto for the newest whole one."
        )
    return path


def _refuse_mixing(own: list[Path], folder: Path, setting: str) -> None:
    if own:
        raise UserError(
            f"{folder} already holds checkpoints (newest {own[-1].name}) and {setting} would write among "
            f"them. Set trainer.resume=auto to continue that run, or give another run.name."
        )
