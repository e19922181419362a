"""What of a run goes into a checkpoint, and how it comes back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from src.errors import UserError
from src.training.checkpoint import Checkpoint
from src.training.must_match import Scalar, require_agreement
from src.training.optimizers import export_state, import_state
from src.training.running_means import RunningMeans
from src.training.sharding import gather_all, sharded_like
from src.training.state import TrainState

# Tensors by file and name, and documents by file.
Taken = tuple[dict[str, dict[str, Tensor]], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that changes while training, to be taken and put back together.

    Attributes:
        trainable_state: the trained weights by name; not copied.
        load_trainable_state: puts them back, strictly.
        optimizer: the bare optimiser.
        names: of its parameters, in its order.
        accelerator: has the gradient scaler, if there is one.
        means: scalars since the last log.
        must_match: what must be the same for a run to be continued (seed, base model, data, batch size, ...).
    """

    trainable_state: Callable[[], Mapping[str, Tensor]]
    load_trainable_state: Callable[[Mapping[str, Tensor]], None]
    optimizer: Optimizer
    names: Sequence[str]
    accelerator: Accelerator
    means: RunningMeans
    must_match: Mapping[str, Scalar]

    @property
    def is_sharded(self) -> bool:
        """Whether taking it needs all processes."""
        return any(isinstance(tensor, DTensor) for tensor in self.trainable_state().values())

    def take(self, state: TrainState) -> Taken:
        """The tensors and documents of a checkpoint, on the main process. Shards take all processes."""
        tensors, scalars = export_state(self.optimizer, self.names)
        scaler = self.accelerator.scaler
        documents = {
            "state": state.to_json(),
            "loop": {
                "must_match": dict(self.must_match),
                "means": self.means.to_json(),
                "gradient_scaler": None if scaler is None else scaler.state_dict(),
                "optimizer": {"class": type(self.optimizer).__name__, "scalars": scalars},
            },
        }
        is_kept = self.accelerator.is_main_process
        weights = gather_all(self.trainable_state(), is_kept=is_kept)
        return {"weights": weights, "optimizer": gather_all(tensors, is_kept=is_kept)}, documents

    def restore(self, checkpoint: Checkpoint) -> TrainState:
        """Puts everything back and says where the run was.

        Raises:
            UserError: the checkpoint is of a run that this one cannot continue.
        """
        loop = checkpoint.documents["loop"]
        self._check(checkpoint, loop["must_match"], loop["optimizer"]["class"])
        try:
            self.load_trainable_state(self._cut(checkpoint.tensors["weights"], self.trainable_state()))
        except UserError as error:
            raise UserError(
                f"{checkpoint.path} cannot be continued. {error} Or start anew with another run.name."
            ) from error
        tensors = self._cut(checkpoint.tensors["optimizer"], self._parameter_of_state(checkpoint))
        import_state(self.optimizer, self.names, tensors, loop["optimizer"]["scalars"])
        if self.accelerator.scaler is not None and loop["gradient_scaler"] is not None:
            self.accelerator.scaler.load_state_dict(loop["gradient_scaler"])
        self.means.load_json(loop["means"])
        return TrainState.from_json(checkpoint.documents["state"])

    def _cut(self, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors in the shards of this run, if it has any."""
        return {
            name: sharded_like(tensor, own[name]) if name in own else tensor
            for name, tensor in tensors.items()
        }

    def _parameter_of_state(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """The parameter that each tensor of the optimiser's state belongs to."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        own = dict(zip(self.names, parameters, strict=True))
        pairs = [(full, full.rpartition("/")[0]) for full in checkpoint.tensors["optimizer"]]
        return {full: own[name] for full, name in pairs if name in own}

    def _check(self, checkpoint: Checkpoint, saved: Mapping[str, Scalar], saved_class: str) -> None:
        before = {**saved, "optimizer": saved_class}
        now = {**self.must_match, "optimizer": type(self.optimizer).__name__}
        require_agreement(checkpoint.path, before, now)
