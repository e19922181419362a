"""What of a run goes into a checkpoint, and how it comes back."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from src.data.order import Position
from src.errors import UserError
from src.training.checkpoint import EVALUATION, WEIGHTS, Checkpoint
from src.training.config_changes import config_changes
from src.training.evaluation_weights import EvaluationWeights
from src.training.must_match import Scalar, is_another_ruler, require_agreement
from src.training.optimizers import export_group_state, export_state, import_group_state, import_state
from src.training.running_means import RunningMeans
from src.training.sharding import gather_all, sharded_like
from src.training.spikes import SpikeWatch
from src.training.state import TrainState

_log = logging.getLogger(__name__)
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
        evaluation: the weights that are judged and handed over.
        accelerator: has the gradient scaler, if there is one.
        means: scalars since the last log.
        spikes: what is remembered of the logs before.
        must_match: what must be the same for a run to be continued (seed, base model, data, batch size, ...).
        allow_changes: go on with other values where the trained tensors stay what they are.
        configured: the run's configuration without secrets; kept, and compared when a run is resumed.
        num_micro_batches: in one pass over the data.
        changes: one line for each value that was not the same when the run, or one before it, was resumed.
    """

    trainable_state: Callable[[], Mapping[str, Tensor]]
    load_trainable_state: Callable[[Mapping[str, Tensor]], None]
    optimizer: Optimizer
    names: Sequence[str]
    evaluation: EvaluationWeights
    accelerator: Accelerator
    means: RunningMeans
    spikes: SpikeWatch
    must_match: Mapping[str, Scalar]
    allow_changes: bool
    configured: Mapping[str, Any]
    num_micro_batches: int
    changes: list[str] = field(default_factory=list)

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
            "config": dict(self.configured),
            "loop": {
                "must_match": dict(self.must_match),
                "changes": list(self.changes),
                "num_micro_batches": self.num_micro_batches,
                "means": self.means.to_json(),
                "spikes": self.spikes.to_json(),
                "gradient_scaler": None if scaler is None else scaler.state_dict(),
                "optimizer": {
                    "class": type(self.optimizer).__name__,
                    "scalars": scalars,
                    "groups": export_group_state(self.optimizer),
                },
            },
        }
        groups = {WEIGHTS: dict(self.trainable_state()), "optimizer": tensors}
        if evaluation := self.evaluation.export():
            groups[EVALUATION] = evaluation
        is_kept = self.accelerator.is_main_process
        return {name: gather_all(group, is_kept=is_kept) for name, group in groups.items()}, documents

    def restore(self, checkpoint: Checkpoint) -> TrainState:
        """Puts everything back and says where the run was, and how its configuration has changed since.

        Raises:
            UserError: the checkpoint is of a run that this one cannot continue.
        """
        loop = checkpoint.documents["loop"]
        allowed = self._check(checkpoint, loop["must_match"], loop["optimizer"]["class"])
        try:
            self.load_trainable_state(self._cut(checkpoint.tensors[WEIGHTS], self.trainable_state()))
        except UserError as error:
            raise UserError(
                f"{checkpoint.path} cannot be continued. {error} Or start anew with another run.name."
            ) from error
        tensors = self._cut(checkpoint.tensors["optimizer"], self._parameter_of_state(checkpoint))
        import_state(self.optimizer, self.names, tensors, loop["optimizer"]["scalars"])
        # Checkpoints of earlier versions are of optimisers that keep nothing there.
        import_group_state(self.optimizer, loop["optimizer"].get("groups", {}))
        self.evaluation.load(self._cut(checkpoint.tensors.get(EVALUATION, {}), self.trainable_state()))
        if self.accelerator.scaler is not None and loop["gradient_scaler"] is not None:
            self.accelerator.scaler.load_state_dict(loop["gradient_scaler"])
        self.means.load_json(loop["means"])
        self.spikes.load_json(loop.get("spikes"))
        state = TrainState.from_json(checkpoint.documents["state"])
        self._tell_changes(checkpoint)
        self.changes[:] = loop.get("changes", [])
        return self._changed(state, allowed, loop.get("num_micro_batches")) if allowed else state

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

    def _check(
        self, checkpoint: Checkpoint, saved: Mapping[str, Scalar], saved_class: str
    ) -> dict[str, tuple[Scalar, Scalar]]:
        before = {**saved, "optimizer": saved_class}
        now = {**self.must_match, "optimizer": type(self.optimizer).__name__}
        return require_agreement(checkpoint.path, before, now, allow_changes=self.allow_changes)

    def _tell_changes(self, checkpoint: Checkpoint) -> None:
        if (then := checkpoint.documents.get("config")) is None:
            return  # from before there was such a file
        if lines := config_changes(then, self.configured):
            _log.info(
                "The configuration has changed since %s:\n  %s", checkpoint.path.name, "\n  ".join(lines)
            )

    def _changed(
        self, state: TrainState, allowed: Mapping[str, tuple[Scalar, Scalar]], num_before: int | None
    ) -> TrainState:
        """Makes a state one of this run, which has other values than that which the checkpoint is of."""
        lines = [f"step {state.step}: {key} {then} -> {now}" for key, (then, now) in allowed.items()]
        self.changes.extend(lines)
        _log.warning(
            "Going on with other values than before (trainer.resume_changed=allow); what comes is neither "
            "the old run's nor that of a run with these values from the start: %s.",
            "; ".join(lines),
        )
        if state.best is not None and any(map(is_another_ruler, allowed)):
            _log.warning(
                "Validation losses are not comparable with those before; the run looks for a new best one."
            )
            state = replace(state, best=None)
        return replace(state, position=self._nearest(state.position, num_before or self.num_micro_batches))

    def _nearest(self, position: Position, num_before: int) -> Position:
        """The same share of the pass, in micro-batches of another size or over other images, rounded down."""
        index = position.index * self.num_micro_batches // num_before
        return replace(position, index=min(index, self.num_micro_batches - 1))
