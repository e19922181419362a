"""One optimiser step: accumulate, clip, check, step. Nothing in it waits for the device."""

from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from src.data.batches import Batch
from src.data.order import MicroBatch
from src.randomness import forked_rng
from src.training.bad_steps import NonFiniteError, StepRecord, describe_bad, describe_largest
from src.training.evaluation_weights import EvaluationWeights
from src.training.objective import MicroLoss, Objective
from src.training.optimizers import ParameterGroup
from src.training.sharding import gathered
from src.training.state import TrainState

Share = tuple[MicroBatch, Batch]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One forward and backward pass of a step.

    Attributes:
        micro_batch: whose it is.
        batch: this rank's share of it, or the class images that accompany that.
        weight: of its loss.
        purpose: of module dropout, so that the two parts of a micro-batch share no numbers.
    """

    micro_batch: MicroBatch
    batch: Batch
    weight: float
    purpose: str


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
        evaluation: learns of each step.
        prior_loss_weight: lambda of prior preservation (DreamBooth, Ruiz et al. 2023, arXiv 2208.12242,
            eq. 2): weight of the class images' loss beside the training images'. None where there are none.

    Attributes:
        scalar_names: names of the scalars that a step returns.
        in_work: the batch whose forward or backward pass is going on, or failed; else None.
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
        evaluation: EvaluationWeights,
        prior_loss_weight: float | None = None,
    ) -> None:
        self.scalar_names = [
            "loss/train",
            *(["loss/prior"] if prior_loss_weight is not None else []),
            "grad_norm/total",
            *(f"grad_norm/{group.name}" for group in groups),
        ]
        self.in_work: Batch | None = None
        self.is_updating = False
        self._accelerator = accelerator
        self._denoiser = denoiser
        self._optimizer = optimizer
        self._parameters = [[parameter for _, parameter in group.parameters] for group in groups]
        self._objective = objective
        self._max_grad_norm = max_grad_norm
        self._seed = seed
        self._evaluation = evaluation
        self._prior_loss_weight = prior_loss_weight
        self._records: deque[StepRecord] = deque(maxlen=num_records)
        # The first bad step, -1 for none. It stays on the device, like everything it is computed from.
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=accelerator.device)

    def take(
        self, before: TrainState, shares: Sequence[Share], *, is_alone: bool = False
    ) -> Float[Tensor, " k"]:
        """Takes one step on an accumulation group.

        Args:
            before: where the run is.
            shares: the group's micro-batches, each with this rank's share of it.
            is_alone: without a word to other ranks, for a step that is taken back: only what it takes counts.

        Returns:
            The scalars of `scalar_names`, on the device, the same on all ranks.
        """
        num_samples = sum(len(micro_batch.draws) for micro_batch, _ in shares)
        self._optimizer.zero_grad()
        parts = [part for share in shares for part in self._parts(*share)]
        losses = []
        for index, part in enumerate(parts):
            is_sent = index + 1 == len(parts) and not is_alone
            with nullcontext() if is_sent else self._accelerator.no_sync(self._denoiser):
                losses.append(self._accumulate(part, num_samples))
        self._records.append(
            StepRecord(
                before=before,
                ids=tuple(tuple(part.batch.ids) for part in parts),
                timesteps=tuple(loss.timesteps for loss in losses),
                losses=tuple(loss.per_sample for loss in losses),
            )
        )
        totals = [loss.total.detach() for loss in losses]
        # Training images and class images take turns; there are as many of either.
        num_kinds = len(parts) // len(shares)
        sums = [torch.stack(totals[kind::num_kinds]).sum() for kind in range(num_kinds)]
        means = torch.stack(sums) / num_samples
        if self._accelerator.num_processes > 1 and not is_alone:
            means = self._accelerator.reduce(means, reduction="sum")
        norms = self._clip()
        self._step(before.step + 1, means, norms)
        return torch.cat([means, norms])

    def _parts(self, micro_batch: MicroBatch, batch: Batch) -> list[_Part]:
        """The passes of a micro-batch. Class images have one of their own, after the training images': it
        takes no more memory, and they may be of another size."""
        parts = [_Part(micro_batch=micro_batch, batch=batch, weight=1.0, purpose="module")]
        if self._prior_loss_weight is not None:
            assert batch.class_images is not None, "prior preservation without class images"
            weight, purpose = self._prior_loss_weight, "module of class images"
            parts.append(
                _Part(micro_batch=micro_batch, batch=batch.class_images, weight=weight, purpose=purpose)
            )
        return parts

    def _accumulate(self, part: _Part, num_samples: int) -> MicroLoss:
        rank, position = self._accelerator.process_index, part.micro_batch.position
        self.in_work = part.batch
        with forked_rng(self._seed, part.purpose, position.pass_number, position.index, rank):
            loss = self._objective(self._denoiser, part.batch, device=self._accelerator.device)
            # DDP averages over ranks, we divide by the samples of all of them.
            scaled = loss.total * (part.weight * self._accelerator.num_processes / num_samples)
            if self._accelerator.scaler is not None:
                # The scaler decides on its own which steps to skip: what is latched must look bad to it. A
                # product, because torch.where would give the loss a gradient of zero, not of NaN.
                scaled = scaled * torch.where(self._bad_step >= 0, torch.nan, 1.0)
            self._accelerator.backward(scaled)
        self.in_work = None
        return loss

    def _clip(self) -> Float[Tensor, " k"]:
        """Clips the gradients; returns the norms before that, in total and of each group."""
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.unscale_(self._optimizer.optimizer)
        norms = torch.stack(
            [
                gathered(get_total_norm([p.grad for p in parameters if p.grad is not None])).to(
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

    def _step(self, step: int, losses: Float[Tensor, " l"], norms: Float[Tensor, " k"]) -> None:
        is_finite = torch.isfinite(losses).all()
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
            self._evaluation.update(step, self._bad_step >= 0)
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
            return
        record = self._record_of(bad_step)
        samples = self._gather(describe_bad(record))
        raise NonFiniteError(
            f"Loss or gradient was not finite at step {bad_step}; the weights of step {bad_step - 1} were "
            f"kept. Samples: {', '.join(samples)}. Look at these images, lower optimizer.lr or "
            f"trainer.max_grad_norm, or use trainer.mixed_precision=no.",
            last_good=record.before,
        )

    def samples_of(self, step: int) -> list[str]:
        """The samples of a step since the last log, with timesteps and losses. All ranks must call it."""
        records = [record for record in self._records if record.before.step + 1 == step]
        return self._gather([name for record in records for name in describe_largest(record)])

    def _record_of(self, step: int) -> StepRecord:
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
