"""The weights that are judged and handed over, where those are not the weights in training.

An average over steps is less noisy than the last step: an exponential moving average that is kept beside
training, or the average of an optimiser that keeps one by itself (schedule-free). Validation, samples, the
best step and the exported adapter all use the same, and training goes on from its own weights, bit for bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from src.errors import UserError
from src.training.optimizers import ParameterGroup

# Parameters of one update of the moving average: its differences are in memory beside them.
_MAX_CHUNK = 1 << 26


class EvaluationWeights(ABC):
    """Weights of evaluation beside those of training.

    Args:
        groups: what is trained.
    """

    def __init__(self, groups: Sequence[ParameterGroup]) -> None:
        self._named = {name: parameter for group in groups for name, parameter in group.parameters}
        self._is_applied = False

    @abstractmethod
    def update(self, step: int, is_masked: Bool[Tensor, ""]) -> None:
        """Takes note of new weights. Must not wait for the device.

        Args:
            step: optimiser steps done, this one included.
            is_masked: on the device: the step changed nothing, because its numbers were not finite.
        """

    @abstractmethod
    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the evaluation weights inside, and after it those of training, bit for bit."""

    @abstractmethod
    def export(self) -> dict[str, Tensor]:
        """The evaluation weights by name for a checkpoint; empty where they are those of training."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from those of a checkpoint, after the weights and the optimiser came back.

        Raises:
            UserError: they are not there.
        """

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Puts the weights of training back, whatever happens inside."""
        assert not self._is_applied, "evaluation weights are applied already"
        # Copies, not a way back by arithmetic, which would round; and made before, as memory may be short
        # after.
        kept = {name: parameter.detach().clone() for name, parameter in self._named.items()}
        self._is_applied = True
        try:
            yield
        finally:
            self._put(kept)
            self._is_applied = False

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        torch._foreach_copy_(_local(self._named.values()), _local(values[name] for name in self._named))


@final
class TrainingWeights(EvaluationWeights):
    """No others than those in training."""

    def update(self, step: int, is_masked: Bool[Tensor, ""]) -> None:
        """Nothing."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Changes nothing."""
        yield

    def export(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing."""


@final
class MovingAverage(EvaluationWeights):
    """Exponential moving average: after step n it is e_n = d_n e_(n-1) + (1 - d_n) w_n.

    d_n = min(decay, (1 + n) / (10 + n)), the warm-up that TensorFlow's ExponentialMovingAverage introduced
    and diffusers' `EMAModel` kept: early on, the average forgets the untrained start quickly. Averaging
    iterates is Polyak and Juditsky's (1992, doi 10.1137/0330046). Not `EMAModel` itself, because that cannot
    leave out a masked step without asking the device.

    Args:
        groups: what is trained.
        decay: in (0, 1).
    """

    def __init__(self, groups: Sequence[ParameterGroup], *, decay: float) -> None:
        super().__init__(groups)
        assert 0 < decay < 1, decay
        self._decay = decay
        self._average = {name: parameter.detach().clone() for name, parameter in self._named.items()}
        sizes = [parameter.numel() for parameter in self._named.values()]
        self._chunks = list(_chunks(sizes, _MAX_CHUNK))

    @torch.no_grad()
    def update(self, step: int, is_masked: Bool[Tensor, ""]) -> None:
        """Moves the average towards the weights, on the device."""
        share = torch.where(is_masked, 0.0, 1 - ema_decay(step, decay=self._decay))
        averages, weights = _local(self._average.values()), _local(self._named.values())
        for chunk in self._chunks:
            differences = torch._foreach_sub(weights[chunk], averages[chunk])  # type: ignore[arg-type]
            torch._foreach_mul_(differences, share)
            torch._foreach_add_(averages[chunk], differences)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average inside."""
        with self._kept():
            self._put(self._average)
            yield

    def export(self) -> dict[str, Tensor]:
        """The average; not copied."""
        return dict(self._average)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from an average."""
        if tensors.keys() != self._average.keys():
            raise UserError(
                "The checkpoint has no moving average of what this run trains. Set trainer.ema_decay as it "
                "was."
            )
        torch._foreach_copy_(_local(self._average.values()), _local(tensors[name] for name in self._average))


@final
class OptimizersAverage(EvaluationWeights):
    """The average that a schedule-free optimiser keeps (Defazio et al. 2024, arXiv 2405.15682, eq. 4).

    It holds z, the model y in training and x in evaluation, with y = (1 - beta_1) z + beta_1 x.

    Args:
        groups: what is trained.
        optimizer: with the methods `eval` and `train`, which change the weights in place.
    """

    def __init__(self, groups: Sequence[ParameterGroup], *, optimizer: Any) -> None:
        super().__init__(groups)
        self._optimizer = optimizer

    def update(self, step: int, is_masked: Bool[Tensor, ""]) -> None:
        """Nothing: the optimiser's step was all."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has x inside."""
        with self._kept():
            try:
                self._optimizer.eval()
                yield
            finally:
                # Its own way back rounds; what it leaves is written over.
                self._optimizer.train()

    def export(self) -> dict[str, Tensor]:
        """A copy of x, on the CPU."""
        with self.applied():
            return {name: parameter.detach().to("cpu", copy=True) for name, parameter in self._named.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing: x follows from the weights and the optimiser's state."""


def make_evaluation_weights(
    groups: Sequence[ParameterGroup], *, optimizer: Optimizer, ema_decay: float | None
) -> EvaluationWeights:
    """Chooses what is judged and handed over.

    Args:
        groups: what is trained, on its device.
        optimizer: the bare one.
        ema_decay: of a moving average, None for none, as with an optimiser that averages by itself.
    """
    if hasattr(optimizer, "eval"):
        assert ema_decay is None, "a moving average of what is averaged already"
        return OptimizersAverage(groups, optimizer=optimizer)
    return TrainingWeights(groups) if ema_decay is None else MovingAverage(groups, decay=ema_decay)


def ema_decay(step: int, *, decay: float) -> float:
    """The moving average's decay at a step: min(decay, (1 + step) / (10 + step)).

    Args:
        step: optimiser steps done, this one included.
        decay: what it grows to.
    """
    return min(decay, (1 + step) / (10 + step))


def _local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this process holds of them: all, or its shards, which share their memory."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def _chunks(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Neighbours that have at most so many numbers together, or one alone that has more."""
    start = total = 0
    for index, size in enumerate(sizes):
        if total and total + size > most:
            yield slice(start, index)
            start, total = index, 0
        total += size
    if sizes:
        yield slice(start, len(sizes))
