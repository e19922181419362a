"""One optimiser step: accumulate, clip, check, step. Nothing in it waits for the device."""

from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from src.data.batches import Batch
from src.data.order import MicroBatch
from src.errors import UserError
from src.randomness import forked_rng
from src.training.objective import MicroLoss, Objective
from src.training.optimizers import ParameterGroup
from src.training.state import TrainState

Share = tuple[MicroBatch, Batch]


class NonFiniteError(UserError):
    """A loss or gradient was not finite. The weights are those before that step.

    Attributes:
        last_good: where the run was before it; None if that is where it is now.
    """

    def __init__(self, message: str, *, last_good: TrainState | None) -> None:
        self.last_good = last_good
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What it takes to name the cause of a bad step afterwards."""

    before: TrainState
    ids: tuple[tuple[str, ...], ...]
    timesteps: tuple[Int[Tensor, "_"], ...]
    losses: tuple[Float[Tensor, "_"], ...]


class OptimizerStep:
    """Takes optimiser steps, and never one with numbers that are not finite.

    A bad step is masked on the device and so are all that follow; the host learns of it when it calls
    `check`. Fused optimisers of torch can be masked without a word to the host. Others cost one host sync a
    step, and so does fp16 gradient scaling with them.

    Args:
        accelerator: gives precision, gradient scaling and collectives.
        denoiser: as `accelerator.prepare` returned it.
        optimizer: as `accelerator.prepare` returned it.
        groups: what is trained; each gets its own gradient norm.
        objective: the loss.
        max_grad_norm: the total gradient norm is clipped to it, None for no clipping.
        seed: of module dropout.
        num_records: steps that can lie between two calls of `check`.

    Attributes:
        scalar_names: names of the scalars that a step returns.
        is_updating: true while weights are written; after an error in there they are of no step.
    """

    def __init__(
        self,
        *,
        accelerator: Accelerator,
        denoiser: nn.Module,
        optimizer: AcceleratedOptimizer,
        groups: Sequence[ParameterGroup],
        objective: Objective,
        max_grad_norm: float | None,
        seed: int,
        num_records: int,
    ) -> None:
        self.scalar_names = [
            "loss/train",
            "grad_norm/total",
            *(f"grad_norm/{group.name}" for group in groups),
        ]
        self.is_updating = False
        self._accelerator = accelerator
        self._denoiser = denoiser
        self._optimizer = optimizer
        self._parameters = [[parameter for _, parameter in group.parameters] for group in groups]
        self._objective = objective
        self._max_grad_norm = max_grad_norm
        self._seed = seed
        self._records: deque[_Record] = deque(maxlen=num_records)
        # The first bad step, -1 for none. It stays on the device, like everything it is computed from.
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=accelerator.device)

    def take(self, before: TrainState, shares: Sequence[Share]) -> Float[Tensor, "k"]:
        """Takes one step on an accumulation group.

        Args:
            before: where the run is.
            shares: the group's micro-batches, each with this rank's share of it.

        Returns:
            The scalars of `scalar_names`, on the device, the same on all ranks.
        """
        num_samples = sum(len(micro_batch.draws) for micro_batch, _ in shares)
        self._optimizer.zero_grad()
        losses = []
        for index, (micro_batch, batch) in enumerate(shares):
            is_last = index + 1 == len(shares)
            with nullcontext() if is_last else self._accelerator.no_sync(self._denoiser):
                losses.append(self._accumulate(micro_batch, batch, num_samples))
        self._records.append(
            _Record(
                before=before,
                ids=tuple(tuple(batch.ids) for _, batch in shares),
                timesteps=tuple(loss.timesteps for loss in losses),
                losses=tuple(loss.per_sample for loss in losses),
            )
        )
        loss = torch.stack([loss.total.detach() for loss in losses]).sum() / num_samples
        if self._accelerator.num_processes > 1:
            loss = self._accelerator.reduce(loss, reduction="sum")
        norms = self._clip()
        self._step(before.step + 1, loss, norms)
        return torch.cat([loss[None], norms])

    def _accumulate(self, micro_batch: MicroBatch, batch: Batch, num_samples: int) -> MicroLoss:
        rank, position = self._accelerator.process_index, micro_batch.position
        with forked_rng(self._seed, "module", position.pass_number, position.index, rank):
            loss = self._objective(self._denoiser, batch, device=self._accelerator.device)
            # DDP averages over ranks, we divide by the samples of all of them.
            scaled = loss.total * (self._accelerator.num_processes / num_samples)
            if self._accelerator.scaler is not None:
                # The scaler decides on its own which steps to skip: what is latched must look bad to it. A
                # product, because torch.where would give the loss a gradient of zero, not of NaN.
                scaled = scaled * torch.where(self._bad_step >= 0, torch.nan, 1.0)
            self._accelerator.backward(scaled)
        return loss

    def _clip(self) -> Float[Tensor, "k"]:
        """Clips the gradients; returns the norms before that, in total and of each group."""
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.unscale_(self._optimizer.optimizer)
        norms = torch.stack(
            [
                get_total_norm([p.grad for p in parameters if p.grad is not None]).to(
                    self._accelerator.device
                )
                for parameters in self._parameters
            ]
        )
        total = torch.linalg.vector_norm(norms)
        if self._max_grad_norm is not None:
            everything = [parameter for parameters in self._parameters for parameter in parameters]
            clip_grads_with_norm_(everything, self._max_grad_norm, total)
        return torch.cat([total[None], norms])

    def _step(self, step: int, loss: Float[Tensor, ""], norms: Float[Tensor, "k"]) -> None:
        is_finite = torch.isfinite(loss)
        if self._accelerator.scaler is None:
            is_finite = is_finite & torch.isfinite(norms[0])
        # With fp16 scaling an overflowing gradient is daily business: the scaler skips it and scales down.
        is_first = (self._bad_step < 0) & ~is_finite
        self._bad_step = torch.where(is_first, step, self._bad_step)
        optimizer = self._optimizer.optimizer
        is_masked_by_host = False
        if self._accelerator.scaler is None:
            if getattr(optimizer, "_step_supports_amp_scaling", False):
                # The interface that torch's GradScaler has with fused optimisers.
                optimizer.grad_scale, optimizer.found_inf = None, (self._bad_step >= 0).float()
            else:
                is_masked_by_host = int(self._bad_step) >= 0
        if not is_masked_by_host:
            self.is_updating = True
            self._optimizer.step()
            self.is_updating = False

    def last_good(self) -> TrainState | None:
        """Where the run was before the first bad step, None if there was none. No collectives."""
        bad_step = int(self._bad_step)
        return None if bad_step < 0 else self._record_of(bad_step).before

    def check(self) -> None:
        """Asks the device whether a step was bad. All ranks must call it at the same place.

        Raises:
            NonFiniteError: naming the step, its samples and timesteps.
        """
        bad_step = int(self._bad_step)
        if bad_step < 0:
            self._check_scale()
            self._records.clear()
            return
        record = self._record_of(bad_step)
        samples = self._gather(_describe(record))
        raise NonFiniteError(
            f"Loss or gradient was not finite at step {bad_step}; the weights of step {bad_step - 1} were "
            f"kept. Samples: {', '.join(samples)}. Look at these images, lower optimizer.lr or "
            f"trainer.max_grad_norm, or use trainer.mixed_precision=no.",
            last_good=record.before,
        )

    def _record_of(self, step: int) -> _Record:
        return next(record for record in self._records if record.before.step + 1 == step)

    def _check_scale(self) -> None:
        scaler = self._accelerator.scaler
        if scaler is not None and scaler.get_scale() < 1 and self._records:
            raise NonFiniteError(
                f"Gradients overflow fp16 at any scale, last at step {self._records[-1].before.step + 1}. "
                "Use trainer.mixed_precision=bf16 or no.",
                last_good=None,  # steps that the scaler skipped count as steps
            )

    def _gather(self, names: list[str]) -> list[str]:
        if self._accelerator.num_processes == 1:
            return names
        everywhere: list[list[str]] = [[] for _ in range(self._accelerator.num_processes)]
        torch.distributed.all_gather_object(everywhere, names)
        return [name for rank_names in everywhere for name in rank_names]


def _describe(record: _Record) -> list[str]:
    """Names the samples whose own loss is not finite, or all of them where only a gradient was not."""
    samples = [
        (sample_id, timestep, loss)
        for ids, timesteps, losses in zip(record.ids, record.timesteps, record.losses, strict=True)
        for sample_id, timestep, loss in zip(ids, timesteps.tolist(), losses.isfinite().tolist(), strict=True)
    ]
    bad = [sample for sample in samples if not sample[2]]
    return [f"{sample_id} (timestep {timestep})" for sample_id, timestep, _ in bad or samples]
