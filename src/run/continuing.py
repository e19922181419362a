"""What a run goes on from, and what must then be as it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from safetensors import safe_open
from torch import Tensor

from src.config.schema import TrainConfig
from src.errors import UserError
from src.run.records import must_match
from src.training.checkpoint import WEIGHTS
from src.training.must_match import Scalar, require_continuable
from src.training.resume import resolve as resolve_resume

_Shape = tuple[int, ...]


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

    def require_trained(self, trained: Mapping[str, Tensor]) -> None:
        """Compares what is trained with the checkpoint's weights, before anything is encoded for them.

        Which layers have adapters is known only with the model. Checkpoints of all versions have the names.

        Args:
            trained: the trained weights by name, as in `src.models.adapters.trainable_state`.

        Raises:
            UserError: the checkpoint is of other weights, or of other shapes.
        """
        if self._checkpoint is None:
            return
        with safe_open(self._checkpoint / f"{WEIGHTS}.safetensors", framework="pt") as file:
            before = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        now = {name: tuple(tensor.shape) for name, tensor in trained.items()}
        if before != now:
            raise UserError(
                f"{self._checkpoint} cannot be continued: {_difference(before, now)}. Set adapter.* as it "
                "was (which components and layers are trained, adapter.target_modules among it), or start "
                "anew with another run.name."
            )


def _difference(before: Mapping[str, _Shape], now: Mapping[str, _Shape]) -> str:
    """What two sets of weights do not have in common, with the first name of each kind."""
    lost, new = sorted(before.keys() - now.keys()), sorted(now.keys() - before.keys())
    other = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
    kinds = {
        "it has {} that this run does not train": lost,
        "this run trains {} that it does not have": new,
        "{} are of another shape": other,
    }
    return "; ".join(
        kind.format(f"{len(names)} weights (such as {names[0]})") for kind, names in kinds.items() if names
    )


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
