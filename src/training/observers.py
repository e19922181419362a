"""Calls callbacks so that they cannot change training, whatever they do."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from src.callbacks.base import Callback, RunView
from src.randomness import forked_rng
from src.training.state import StopRequest

_log = logging.getLogger(__name__)


@contextmanager
def untouched(module: nn.Module, *address: int | str) -> Iterator[None]:
    """Gives a block its own random state, and puts modes, requires_grad and grad mode back after it."""
    modes = [(part, part.training) for part in module.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    grad_mode = torch.is_grad_enabled()
    try:
        with forked_rng(*address):
            yield
    finally:
        torch.set_grad_enabled(grad_mode)
        for part, is_training in modes:
            part.training = is_training
        for parameter, is_trainable in trainable:
            parameter.requires_grad_(is_trainable)


def describe(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


class Observers:
    """The callbacks of a run.

    Attributes:
        failures: one line for each call that raised; training went on.
    """

    def __init__(self, callbacks: Sequence[Callback], *, module: nn.Module, seed: int) -> None:
        self.failures: list[str] = []
        self._callbacks = list(callbacks)
        self._module = module
        self._seed = seed

    def call(self, hook: str, run: RunView, *arguments: Any) -> str | None:
        """Calls a hook of every callback; returns the first reason given for stopping."""
        reason = None
        for callback in self._callbacks:
            name = type(callback).__name__
            # Most hooks of most callbacks do nothing, and forking random states takes time at each step.
            if getattr(type(callback), hook) is getattr(Callback, hook):
                continue
            try:
                with untouched(self._module, self._seed, "callback", name, hook, run.state.step):
                    answer = getattr(callback, hook)(run, *arguments)
            except Exception as error:
                self.mark(f"callback {name}.{hook}", run.state.step, error)
                continue
            if isinstance(answer, StopRequest) and reason is None:
                reason = f"callback {name}: {answer.reason}"
        return reason

    def mark(self, what: str, step: int, error: BaseException) -> None:
        """Reports a failure that training survives and remembers it for the run's result."""
        self.failures.append(f"{what} at step {step}: {describe(error)}")
        _log.error("%s failed at step %d and is skipped; training goes on.", what, step, exc_info=error)
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
