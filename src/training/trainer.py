"""The one training loop."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from src.callbacks.base import Callback, RunView
from src.data.order import Position
from src.errors import FullDiskError
from src.loggers.protocol import Logger
from src.training.accelerator import Agreement
from src.training.accumulation import step_groups
from src.training.checkpoint import Checkpointer
from src.training.evaluation_weights import make_evaluation_weights
from src.training.failure_watch import FailureWatch
from src.training.must_match import Scalar
from src.training.objective import Objective
from src.training.observers import Observers, describe
from src.training.optimizer_step import OptimizerStep, Share
from src.training.optimizers import ParameterGroup, estimated_rates, parameter_names, set_learning_rates
from src.training.out_of_memory import explained
from src.training.phase_memory import PhaseMemory
from src.training.plan import Plan, is_due
from src.training.running_means import RunningMeans
from src.training.saving import Saver
from src.training.sharding import prepare, whole
from src.training.signals import StopSignals
from src.training.snapshot import Snapshot
from src.training.spikes import SpikeWatch, report_spikes
from src.training.state import TrainResult, TrainState
from src.training.stopping import agreed_stop
from src.training.stopwatch import Stopwatch
from src.training.validation import Validator

_log = logging.getLogger(__name__)


class Trainer:
    """Trains until the planned end, a signal, or a callback's request.

    Args:
        plan: when the run ends and what is due when.
        accelerator: from `make_accelerator`.
        model: what callbacks get to see.
        denoiser: the module to train.
        groups: what of it is trained.
        trainable_state: the trained weights by name.
        load_trainable_state: puts them back, strictly.
        optimizer: from `make_optimizer` over the same groups.
        objective: the loss.
        batches: the endless micro-batches from a position on, each with this rank's share of it.
        validator: None to validate never.
        checkpointer: where checkpoints go.
        callbacks: observers.
        logger: handed to callbacks; the loop itself logs nothing to it.
        output_dir: the run folder, handed to callbacks.
        seed: of the run.
        must_match: what a checkpoint must agree in to be continued.
        max_grad_norm: None for no clipping.
        prior_loss_weight: of the class images' loss; None where batches have none.
        ema_decay: of the moving average of the weights that is judged and handed over; None for none.
        resume: see `resolve`.
        configured: the run's configuration without secrets, kept in its checkpoints for comparison.
        allow_resume_changes: continue a checkpoint that does not agree in `must_match`, where that can be.
        save_every_minutes: minutes between checkpoints, beside the plan's steps.
        wait_for_space: on a full disk wait; else end the run with an error.
        spike_factor: how many times their recent level loss and gradient norm are reported as spikes.
        memory: measures memory at the end of each phase.
        memory_remedies: what to change when a step does not fit into memory, the cheapest first.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        accelerator: Accelerator,
        model: Any,
        denoiser: nn.Module,
        groups: Sequence[ParameterGroup],
        trainable_state: Callable[[], Mapping[str, Tensor]],
        load_trainable_state: Callable[[Mapping[str, Tensor]], None],
        optimizer: Optimizer,
        objective: Objective,
        batches: Callable[[Position], Iterator[Share]],
        validator: Validator | None,
        checkpointer: Checkpointer,
        callbacks: Sequence[Callback],
        logger: Logger,
        output_dir: Path,
        seed: int,
        must_match: Mapping[str, Scalar],
        max_grad_norm: float | None,
        resume: str,
        prior_loss_weight: float | None = None,
        ema_decay: float | None = None,
        configured: Mapping[str, Any] = MappingProxyType({}),
        allow_resume_changes: bool = False,
        save_every_minutes: float | None = None,
        wait_for_space: bool = False,
        spike_factor: float | None = None,
        memory: PhaseMemory | None = None,
        memory_remedies: Sequence[str] = ("a smaller batch",),
    ) -> None:
        self._plan = plan
        self._accelerator = accelerator
        self._model = model
        self._denoiser = denoiser
        self._optimizer = optimizer
        self._batches = batches
        self._validator = validator
        self._logger = logger
        self._output_dir = output_dir
        self._seed = seed
        self._resume = resume
        self._memory_remedies = memory_remedies
        wrapped_denoiser, wrapped_optimizer = prepare(accelerator, denoiser, optimizer)
        self._evaluation = make_evaluation_weights(groups, optimizer=optimizer, ema_decay=ema_decay)
        self._optimizer_step = OptimizerStep(
            accelerator=accelerator,
            denoiser=wrapped_denoiser,
            optimizer=wrapped_optimizer,
            groups=groups,
            objective=objective,
            max_grad_norm=max_grad_norm,
            seed=seed,
            num_records=plan.log_every,
            evaluation=self._evaluation,
            prior_loss_weight=prior_loss_weight,
        )
        self._means = RunningMeans(self._optimizer_step.scalar_names, accelerator.device)
        self._spikes = SpikeWatch(spike_factor, ["loss/train", "grad_norm/total"])
        self._agreement = Agreement(accelerator)
        self._snapshot = Snapshot(
            trainable_state=trainable_state,
            load_trainable_state=load_trainable_state,
            optimizer=optimizer,
            names=parameter_names(groups),
            evaluation=self._evaluation,
            accelerator=accelerator,
            means=self._means,
            spikes=self._spikes,
            must_match=must_match,
            allow_changes=allow_resume_changes,
            configured=configured,
            num_micro_batches=plan.num_micro_batches,
        )
        self._signals = StopSignals()
        self._failure_watch = FailureWatch(
            rank=accelerator.process_index, num_ranks=accelerator.num_processes
        )
        self._saver = Saver(
            checkpointer,
            self._snapshot,
            accelerator=accelerator,
            agreement=self._agreement,
            signals=self._signals,
            every_minutes=save_every_minutes,
            wait_for_space=wait_for_space,
        )
        is_main = accelerator.is_main_process
        seen_by = [callback for callback in callbacks if is_main or callback.on_every_rank]
        self._observers = Observers(seen_by, module=denoiser, seed=seed, evaluation=self._evaluation)
        self._stopwatch = Stopwatch()
        if memory is None:
            memory = PhaseMemory(output_dir, accelerator.device, is_main=False)
        self._memory = memory
        self._state = TrainState()
        self._start_step = 0
        self._is_restored = False
        self._requested_stop: str | None = None
        self._losses: dict[str, float] = {}
        self._validated_step: int | None = None

    @property
    def changes(self) -> tuple[str, ...]:
        """What was not the same when the run was resumed; see `Snapshot`."""
        return tuple(self._snapshot.changes)

    def restore(self) -> None:
        """Checks the disk and loads the checkpoint to resume from, so that a run that cannot be continued is
        refused before anything of it is written over. `fit` does it where it was not done before.

        Raises:
            UserError: the disk is full or read-only, or there is nothing that this run could continue.
        """
        self._state = self._saver.begin(self._resume)
        self._start_step = self._state.step
        self._is_restored = True

    def rehearse(self, share: Share) -> None:
        """Takes steps on one micro-batch, as `fit` would, for what they need of memory.

        Weights, optimiser and all else change as in training, and nothing is saved or logged. Ranks do not
        wait for each other: on one of them there may be too little memory. The caller puts the model back and
        makes another trainer for the run.
        """
        self._denoiser.train()
        shares = [share] * min(2, self._plan.gradient_accumulation_steps)
        # The second one begins with the optimiser's state in place, the second micro-batch with gradients.
        for _ in range(2):
            self._optimizer_step.take(self._state, shares, is_alone=True)

    def rehearse_validation(self) -> None:
        """Measures one batch, the one that takes the most memory."""
        if self._validator is not None:
            with self._evaluation.applied():
                self._validator.rehearse()

    def rehearse_observer(self, work: Callable[[], None]) -> None:
        """Does what a callback would do, with the weights that callbacks see and those of training kept."""
        with self._evaluation.applied():
            work()

    def fit(self) -> TrainResult:
        """Trains.

        Raises:
            UserError: it cannot start or go on. What was trained until then is saved.
        """
        with self._signals, self._failure_watch:
            try:
                self._begin()
                reason = self._loop()
                return self._end(reason)
            except BaseException as error:
                # Also an exit or an interrupt that some library raises: what was trained is not its to lose.
                self._failure_watch.stand_down()
                self._rescue(error)
                self._failure_watch.tell(error)
                raise

    def _begin(self) -> None:
        if not self._is_restored:
            self.restore()
        self._denoiser.train()
        start, end = self._start_step, self._plan.total_steps
        if start >= end:
            _log.warning("Step %d is trained already, and %d are planned: no step is taken.", start, end)
        else:
            _log.info("Training from step %d to step %d.", start, end)
        self._observe("on_fit_start")
        self._tell_memory()

    def _loop(self) -> str:
        with closing(step_groups(self._batches(self._state.position), self._plan)) as groups:
            self._stopwatch = Stopwatch()
            while True:
                reason = self._plan.end_reason(self._state) or agreed_stop(
                    self._agreement, self._signals, requested=self._requested_stop
                )
                if reason is not None:
                    return reason
                self._step(next(groups))

    def _step(self, shares: Sequence[Share]) -> None:
        rates = set_learning_rates(self._optimizer, self._plan.learning_rate_factor(self._state.step))
        work = self._optimizer_step
        with explained(self._state.step + 1, lambda: work.in_work, remedies=self._memory_remedies):
            self._means.add(work.take(self._state, shares))
        num_samples = sum(len(micro_batch.draws) for micro_batch, _ in shares)
        self._state = replace(
            self._state,
            step=self._state.step + 1,
            position=shares[-1][0].next_position,
            num_samples=self._state.num_samples + num_samples,
        )
        self._stopwatch.add(num_samples)
        self._observe("on_step_end")
        step, is_end = self._state.step, self._plan.end_reason(self._state) is not None
        if is_end or is_due(step, self._plan.log_every):
            self._log_scalars(rates)
        is_best = (is_end or is_due(step, self._plan.validate_every)) and self._validate()
        if is_best or is_end or is_due(step, self._plan.save_every) or self._saver.is_time():
            self._save(num_reserved=1 if is_end else 2)

    def _end(self, reason: str) -> TrainResult:
        is_interrupted = reason.startswith("signal")
        is_best = False
        # A callback may have ended the run at a step at which nothing else was due.
        if not is_interrupted and self._state.step > 0:
            if self._means.count > 0:
                self._log_scalars({group["name"]: group["lr"] for group in self._optimizer.param_groups})
            is_best = self._validated_step != self._state.step and self._validate()
        if self._state.step > 0 and (is_best or self._saver.saved_step != self._state.step):
            self._save(num_reserved=1)
        best = self._state.best
        result = TrainResult(
            step=self._state.step,
            stop_reason=reason,
            best=best,
            best_checkpoint=None if best is None else self._saver.path(best.step),
            checkpoint=self._saver.path(self._state.step) if self._state.step > 0 else None,
            losses=dict(self._losses),
            failures=tuple(self._observers.failures),
            changes=self.changes,
            num_spikes=self._spikes.count,
            received_signal=self._signals.received if is_interrupted else None,
        )
        _log.info("Stopped after step %d: %s.", result.step, reason)
        self._observe("on_fit_end", result)
        return replace(result, failures=tuple(self._observers.failures))

    def _log_scalars(self, rates: Mapping[str, float]) -> None:
        self._optimizer_step.check()
        means, num_not_finite, worst = self._means.read()
        scalars = {
            **means,
            **{f"lr/{name}": rate for name, rate in rates.items()},
            **estimated_rates(self._optimizer),
            **self._stopwatch.read(),
        }
        if self._accelerator.scaler is not None:
            # The scaler does not tell on which steps it skipped, but those are the ones without a norm.
            scalars["gradient_scaling/skipped_steps"] = float(num_not_finite["grad_norm/total"])
        if self._spikes.factor is not None:
            spikes = self._spikes.look(means, worst, last_step=self._state.step)
            report_spikes(spikes, agreement=self._agreement, samples_of=self._optimizer_step.samples_of)
            scalars["spikes/count"] = float(self._spikes.count)
        self._means.reset()
        self._losses.update({name: means[name] for name in means if name.startswith("loss/")})
        self._observe("on_log", scalars)
        self._memory.measure("train")
        self._tell_memory()

    def _validate(self) -> bool:
        """Validates; says whether this is the best step so far. A failure is reported and skipped."""
        if self._validator is None:
            return False
        self._optimizer_step.check()
        step, failure, tables, started = self._state.step, None, [], time.monotonic()
        self._validated_step = step
        with self._stopwatch.paused(), self._memory.phase("validate"):
            try:
                # Gathering shards waits for all ranks: it begins only where all of them have come so far.
                with self._agreement.entered(self._evaluation.applied()), whole(self._denoiser):
                    tables = self._validator.measure()
            except Exception as error:
                failure = error
            if self._agreement.largest(int(failure is not None)):
                failure = failure or RuntimeError("it failed on another rank")
                self._observers.mark("validation", step, failure)
                return False
            result = self._validator.combine(tables, step=step, started=started)
        self._losses.update({"loss/validation": result.loss, "loss/train_probe": result.train_loss})
        best = self._state.best
        is_best = math.isfinite(result.loss) and (best is None or result.loss < best.value)
        if is_best:
            self._state = self._state.with_best(step, result.loss)
        self._observe("on_validation_end", result)
        self._tell_memory()
        return is_best

    def _save(self, *, num_reserved: int) -> None:
        self._optimizer_step.check()
        with self._stopwatch.paused(), self._memory.phase("save"):
            self._saver.save(self._state, num_reserved=num_reserved)
        best, step = self._state.best, self._state.step
        self._observe("on_checkpoint", self._saver.path(step), best is not None and best.step == step)
        self._tell_memory()

    def _tell_memory(self) -> None:
        for scalars in self._memory.take():
            self._observe("on_memory", scalars)

    def _rescue(self, error: BaseException) -> None:
        """Saves the last good state after an error, and tells the callbacks."""
        try:
            last_good = self._optimizer_step.last_good()
            if last_good is not None:
                self._state = last_good
                self._means.reset()
            if self._optimizer_step.is_updating:
                _log.error("It failed while weights were changed: the last checkpoint stays the newest.")
            elif self._state.step > self._start_step:
                self._saver.rescue(self._state)
        except Exception as second:
            # The first error is the one to report; this one only says why there is no newer checkpoint.
            if not (isinstance(error, FullDiskError) and isinstance(second, FullDiskError)):
                _log.error("The state at the failure could not be saved (%s).", describe(second))
        self._saver.tell_what_is_lost(self._state, start_step=self._start_step)
        self._observe("on_exception", error)

    def _observe(self, hook: str, *arguments: Any) -> None:
        """Calls the callbacks and remembers if one of them asks for the end of the run."""
        view = RunView(
            state=self._state,
            start_step=self._start_step,
            max_steps=self._plan.total_steps,
            num_epochs=self._plan.total_epochs,
            seed=self._seed,
            output_dir=self._output_dir,
            model=self._model,
            logger=self._logger,
            ranks=self._agreement,
        )
        with self._stopwatch.paused():
            reason = self._observers.call(hook, view, *arguments)
        self._requested_stop = self._requested_stop or reason
