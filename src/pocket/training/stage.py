"""The loop that all training stages of the pocket share: seeded, resumable, with moving averages of weights.

A stage's batches are functions of (seed, step), so going on needs nothing but the step, the weights and the
optimiser's state.
"""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from src.files import write_json_atomic

log = logging.getLogger(__name__)

_CHECKPOINT = "checkpoint.pt"
_SECONDS_BETWEEN_CHECKPOINTS = 120.0
_SECONDS_BETWEEN_LINES = 20.0
Losses = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How one model is trained.

    Attributes:
        name: for messages.
        folder: where its checkpoint and report go.
        steps: optimiser steps.
        batch_size: images in one step.
        lr: the peak learning rate of AdamW; warm-up is linear, then it follows a half cosine to zero.
        warmup_steps: steps until the peak.
        cycle_steps: of the first cosine, each further one being twice as long (SGDR, Loshchilov & Hutter
            2017, arXiv 1608.03983); None for one cosine over all steps.
        weight_decay: AdamW's.
        ema_decay: of the weights' moving average, which is what the stage hands over; None for the weights.
        seed: of initial weights and batches.
        builds_on: a digest of what the stage takes from earlier ones, and of its own code.
    """

    name: str
    folder: Path
    steps: int
    batch_size: int
    lr: float
    warmup_steps: int = 200
    cycle_steps: int | None = None
    weight_decay: float = 0.01
    ema_decay: float | None = 0.999
    seed: int = 0
    builds_on: str = ""

    @property
    def plan(self) -> dict[str, Any]:
        """All but the folder: what a checkpoint must have been made with to be gone on from."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}

    def lr_factor(self, step: int) -> float:
        """The share of the peak learning rate at a step, from 0 on."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        start, length = 0, self.cycle_steps or self.steps
        while self.cycle_steps is not None and step >= start + length:
            start, length = start + length, 2 * length
        end, start = start + length, max(start, self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - start) / max(1, end - start))))


def run_stage(
    stage: Stage,
    model: nn.Module,
    losses: Callable[[int], Losses],
    *,
    after_step: Callable[[int], None] | None = None,
) -> nn.Module:
    """Trains `model` in place and returns what to keep of it: the moving average, or itself.

    Args:
        stage: how.
        model: everything that is trained; its buffers are kept in the checkpoint as well.
        losses: a step's loss by part; "loss" is what is minimised, the others are reported.
        after_step: called after each step, for what moves with the weights.

    Raises:
        ValueError: the folder holds a checkpoint of another plan.
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        _decay_groups(model, stage.weight_decay), lr=stage.lr, betas=(0.9, 0.99), fused=True
    )
    average = _average(model, stage.ema_decay)
    state = _load(stage, model, optimizer, average)
    device = next(model.parameters()).device
    started = saved = told = time.monotonic()
    seconds_before, history = state["seconds"], state["history"]
    with tqdm(total=stage.steps, initial=state["step"], desc=stage.name, disable=None) as bar:
        for step in range(state["step"], stage.steps):
            for group in optimizer.param_groups:
                group["lr"] = stage.lr * stage.lr_factor(step)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                parts = losses(step)
            optimizer.zero_grad()
            parts["loss"].backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if average is not None:
                average.update_parameters(model)
            if after_step is not None:
                after_step(step)
            bar.update()
            now = time.monotonic()
            if now - told > _SECONDS_BETWEEN_LINES or step + 1 == stage.steps:
                told = now
                seconds = seconds_before + now - started
                history.append({"step": step + 1, "seconds": round(seconds, 1), **_numbers(parts)})
                speed = (step + 1 - state["step"]) * stage.batch_size / (now - started)
                bar.set_postfix({name: f"{value:.4f}" for name, value in _numbers(parts).items()})
                log.info(
                    "%s step %d/%d %s %.0f images/s",
                    stage.name,
                    step + 1,
                    stage.steps,
                    _numbers(parts),
                    speed,
                )
            if now - saved > _SECONDS_BETWEEN_CHECKPOINTS or step + 1 == stage.steps:
                saved = now
                seconds = seconds_before + now - started
                _save(stage, model, optimizer, average, step=step + 1, seconds=seconds, history=history)
    return model if average is None else average.module


def _numbers(parts: Losses) -> dict[str, float]:
    return {name: round(float(value.detach()), 5) for name, value in parts.items()}


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Biases, norms and single numbers are not decayed."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _average(model: nn.Module, decay: float | None) -> torch.optim.swa_utils.AveragedModel | None:
    if decay is None:
        return None

    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        # The first steps count for more, so that the random start is soon forgotten.
        torch._foreach_lerp_(averaged, current, max(1 - decay, 1 / (1 + 0.2 * float(count))))

    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=update, use_buffers=False)


def _load(
    stage: Stage,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: torch.optim.swa_utils.AveragedModel | None,
) -> dict[str, Any]:
    path = stage.folder / _CHECKPOINT
    if not path.exists():
        return {"step": 0, "seconds": 0.0, "history": []}
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["plan"] != stage.plan:
        raise ValueError(
            f"{path} is of another plan or other code, or builds on other results. Delete it to begin anew."
        )
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    if average is not None:
        average.load_state_dict(saved["average"])
    log.info("%s goes on at step %d.", stage.name, saved["step"])
    _report(stage, saved)
    return {name: saved[name] for name in ("step", "seconds", "history")}


def _save(
    stage: Stage,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: torch.optim.swa_utils.AveragedModel | None,
    *,
    step: int,
    seconds: float,
    history: list[dict[str, float]],
) -> None:
    state = {
        "step": step,
        "plan": stage.plan,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    state |= {} if average is None else {"average": average.state_dict()}
    # The past belongs to the position: kept in one file, they cannot disagree after a crash.
    state |= {"seconds": seconds, "history": history, "machine": _machine()}
    partial = stage.folder / f".{_CHECKPOINT}.partial"
    torch.save(state, partial)
    partial.replace(stage.folder / _CHECKPOINT)
    _report(stage, state)


def _report(stage: Stage, state: Mapping[str, Any]) -> None:
    """What the model card takes its figures from."""
    report = {"seconds": round(state["seconds"], 1), "history": state["history"], **state["machine"]}
    write_json_atomic(stage.folder / "report.json", report)


def _machine() -> dict[str, Any]:
    return {"device": device_name(), "threads": torch.get_num_threads(), "torch": str(torch.__version__)}


def device_name() -> str:
    """The GPU's or the CPU's name."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu = torch.backends.cpu.get_cpu_capability() if platform.machine() in ("x86_64", "AMD64") else ""
    return f"{_cpu_name()} {cpu}".strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
