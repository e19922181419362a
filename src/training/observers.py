"""Calls callbacks so that they cannot change training, whatever they do."""

import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from src.callbacks.base import ALONE, Callback, RunView
from src.randomness import forked_rng
from src.training.accelerator import Agreement
from src.training.evaluation_weights import EvaluationWeights
from src.training.sharding import whole
from src.training.state import StopRequest

_log = logging.getLogger(__name__)


class Guard:
    """Keeps a module's modes and requires_grad flags, and all random states, from what a block does.

    Args:
        module: its parts are listed here, once: walking SDXL's takes longer than some steps. Make the guard
            when nothing more is attached to it.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parts = list(module.modules())
        self._parameters = list(module.parameters())

    @contextmanager
    def untouched(self, *address: int | str) -> Iterator[None]:
        """Gives a block its own random state, and puts modes, requires_grad and grad mode back after it."""
        modes = [part.training for part in self._parts]
        trainable = [parameter.requires_grad for parameter in self._parameters]
        grad_mode = torch.is_grad_enabled()
        try:
            with forked_rng(*address):
                yield
        finally:
            torch.set_grad_enabled(grad_mode)
            for part, is_training in zip(self._parts, modes, strict=True):
                if part.training != is_training:
                    part.training = is_training
            for parameter, is_trainable in zip(self._parameters, trainable, strict=True):
                if parameter.requires_grad != is_trainable:
                    parameter.requires_grad_(is_trainable)


def describe(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def release(error: BaseException) -> None:
    """Gives back at once the memory that a failure holds: frames of its traceback have their tensors.

    Out of memory is the failure that matters here; the next step needs what it could not get.
    """
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Observers:
    """The callbacks of a run.

    Args:
        callbacks: in the order in which they are called.
        module: what they could touch.
        seed: of the run.
        evaluation: the weights that they see, where they may touch the model at all; None for those in
            training.

    Attributes:
        failures: one line for each call that raised; training went on.
    """

    def __init__(
        self,
        callbacks: Sequence[Callback],
        *,
        module: nn.Module,
        seed: int,
        evaluation: EvaluationWeights | None = None,
    ) -> None:
        self.failures: list[str] = []
        self._callbacks = list(callbacks)
        self._module = module
        self._guard = Guard(module)
        self._evaluation = evaluation
        self._seed = seed

    def call(self, hook: str, run: RunView, *arguments: Any) -> str | None:
        """Calls a hook of every callback; returns the first reason given for stopping."""
        reason = None
        for callback in self._callbacks:
            name = type(callback).__name__
            # Most hooks of most callbacks do nothing, and the guard takes time at each step.
            if getattr(type(callback), hook) is getattr(Callback, hook):
                continue
            try:
                answer = self._ask(callback, hook, run, *arguments)
            except (Exception, SystemExit) as error:
                # An exit, too: a library that a callback calls does not decide when the run ends.
                self.mark(f"callback {name}.{hook}", run.state.step, error)
                continue
            if isinstance(answer, StopRequest) and reason is None:
                reason = f"callback {name}: {answer.reason}"
        return reason

    def _ask(self, callback: Callback, hook: str, run: RunView, *arguments: Any) -> StopRequest | None:
        step = run.state.step
        address = (self._seed, "callback", type(callback).__name__, hook, step)
        with ExitStack() as entered:
            if hook != "on_memory" and callback.needs_guard(hook, step):
                if callback.on_every_rank and hook not in ALONE:
                    # In there they wait for each other: a rank that cannot go there is to be missed now.
                    entered.enter_context(run.ranks.entered(self._untouched_on_all(run.ranks, *address)))
                else:
                    # Sharded weights are whole only with all ranks there.
                    entered.enter_context(self._applied())
                    entered.enter_context(self._guard.untouched(*address))
            answer: StopRequest | None = getattr(callback, hook)(run, *arguments)
        return answer

    @contextmanager
    def _untouched_on_all(self, ranks: Agreement, *address: int | str) -> Iterator[None]:
        with ranks.entered(self._applied()), whole(self._module), self._guard.untouched(*address):
            yield

    def _applied(self) -> AbstractContextManager[None]:
        return nullcontext() if self._evaluation is None else self._evaluation.applied()

    def mark(self, what: str, step: int, error: BaseException) -> None:
        """Reports a failure that training survives and remembers it for the run's result."""
        self.failures.append(f"{what} at step {step}: {describe(error)}")
        # As text: a record with the traceback would keep its frames alive as long as a handler keeps it.
        trace = "".join(traceback.format_exception(error)).rstrip()
        _log.error("%s failed at step %d and is skipped; training goes on.\n%s", what, step, trace)
        release(error)
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
