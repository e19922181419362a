"""What of a run goes into a checkpoint, and how it comes back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer

from src.errors import UserError
from src.training.checkpoint import EVALUATION, WEIGHTS, Checkpoint
from src.training.evaluation_weights import EvaluationWeights
from src.training.must_match import Scalar, require_agreement
from src.training.optimizers import export_group_state, export_state, import_group_state, import_state
from src.training.running_means import RunningMeans
from src.training.state import TrainState


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that changes while training, to be taken and put back together.

    Attributes:
        trainable_state: the trained weights by name; not copied.
        load_trainable_state: puts them back, strictly.
        optimizer: the bare optimiser.
        names: of its parameters, in its order.
        evaluation: the weights that are judged and handed over.
        accelerator: has the gradient scaler, if there is one.
        means: scalars since the last log.
        must_match: what must be the same for a run to be continued (seed, base model, data, batch size, ...).
    """

    trainable_state: Callable[[], Mapping[str, Tensor]]
    load_trainable_state: Callable[[Mapping[str, Tensor]], None]
    optimizer: Optimizer
    names: Sequence[str]
    evaluation: EvaluationWeights
    accelerator: Accelerator
    means: RunningMeans
    must_match: Mapping[str, Scalar]

    def take(self, state: TrainState) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """The tensors and documents of a checkpoint."""
        tensors, scalars = export_state(self.optimizer, self.names)
        scaler = self.accelerator.scaler
        documents = {
            "state": state.to_json(),
            "loop": {
                "must_match": dict(self.must_match),
                "means": self.means.to_json(),
                "gradient_scaler": None if scaler is None else scaler.state_dict(),
                "optimizer": {
                    "class": type(self.optimizer).__name__,
                    "scalars": scalars,
                    "groups": export_group_state(self.optimizer),
                },
            },
        }
        groups = {WEIGHTS: dict(self.trainable_state()), "optimizer": tensors}
        evaluation = self.evaluation.export()
        return (groups | {EVALUATION: evaluation} if evaluation else groups), documents

    def restore(self, checkpoint: Checkpoint) -> TrainState:
        """Puts everything back and says where the run was.

        Raises:
            UserError: the checkpoint is of a run that this one cannot continue.
        """
        loop = checkpoint.documents["loop"]
        self._check(checkpoint, loop["must_match"], loop["optimizer"]["class"])
        try:
            self.load_trainable_state(checkpoint.tensors[WEIGHTS])
        except UserError as error:
            raise UserError(
                f"{checkpoint.path} cannot be continued. {error} Or start anew with another run.name."
            ) from error
        import_state(
            self.optimizer, self.names, checkpoint.tensors["optimizer"], loop["optimizer"]["scalars"]
        )
        # Checkpoints of earlier versions are of optimisers that keep nothing there.
        import_group_state(self.optimizer, loop["optimizer"].get("groups", {}))
        self.evaluation.load(checkpoint.tensors.get(EVALUATION, {}))
        if self.accelerator.scaler is not None and loop["gradient_scaler"] is not None:
            self.accelerator.scaler.load_state_dict(loop["gradient_scaler"])
        self.means.load_json(loop["means"])
        return TrainState.from_json(checkpoint.documents["state"])

    def _check(self, checkpoint: Checkpoint, saved: Mapping[str, Scalar], saved_class: str) -> None:
        before = {**saved, "optimizer": saved_class}
        now = {**self.must_match, "optimizer": type(self.optimizer).__name__}
        require_agreement(checkpoint.path, before, now)
