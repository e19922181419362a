"""What a run goes on from, and what must then be as it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from src.config.schema import TrainConfig
from src.errors import UserError
from src.run.records import must_match
from src.training.must_match import Scalar, require_continuable
from src.training.resume import resolve as resolve_resume


@final
class Continuity:
    """The checkpoint that a run continues, if it continues one.

    Args:
        config: the run's.
        run_dir: its folder.
        num_processes: of the run.
        mixed_precision: "no", "fp16" or "bf16".

    Raises:
        UserError: there is nothing to continue, or a run that must not be written over.
    """

    def __init__(
        self, config: TrainConfig, *, run_dir: Path, num_processes: int, mixed_precision: str
    ) -> None:
        self._config = config
        self._num_processes = num_processes
        self._mixed_precision = mixed_precision
        self._checkpoint = _checkpoint_to_continue(run_dir, config.trainer.resume)

    def must_match(self, lineage: Mapping[str, Any], *, size: tuple[int, int] | None) -> dict[str, Scalar]:
        """See `src.run.records.must_match`."""
        return must_match(
            self._config,
            lineage,
            size=size,
            num_processes=self._num_processes,
            mixed_precision=self._mixed_precision,
        )

    def require(self, lineage: Mapping[str, Any], *, size: tuple[int, int] | None) -> None:
        """Compares what is known so far with the checkpoint: the earlier, the less is done in vain.

        Raises:
            UserError: the checkpoint is of a run that this one cannot continue.
        """
        if self._checkpoint is not None:
            allow_changes = self._config.trainer.resume_changed == "allow"
            now = self.must_match(lineage, size=size)
            require_continuable(self._checkpoint, now, allow_changes=allow_changes)


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
