"""What of a configuration decides its memory, and what to change first when it is too much."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from src.config.choices import COMPONENTS
from src.config.schema import TrainConfig
from src.config.targets import SLOTS

_ADAMS = ("torch.optim.AdamW", "torch.optim.Adam")
_ADAM_8BIT = "bitsandbytes.optim.AdamW8bit"
_SHRINKING = (0.75, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """Settings that a run's memory depends on, as far as they are tried.

    Attributes:
        gradient_checkpointing: recompute activations in the backward pass.
        batch_size: images of a micro-batch on one process.
        gradient_accumulation_steps: times as many make a step.
        base_precision: of the UNet's frozen weights.
        has_8bit_optimizer: whether AdamW's moments are kept in 8 bits.
        size: (width, height) of the training images.
    """

    gradient_checkpointing: bool
    batch_size: int
    gradient_accumulation_steps: int
    base_precision: str
    has_8bit_optimizer: bool
    size: tuple[int, int]

    @classmethod
    def of(cls, config: TrainConfig, *, size: tuple[int, int]) -> "MemorySettings":
        """Those of a configuration."""
        trainer = config.trainer
        return cls(
            gradient_checkpointing=trainer.gradient_checkpointing,
            batch_size=trainer.batch_size,
            gradient_accumulation_steps=trainer.gradient_accumulation_steps,
            base_precision=trainer.base_precision,
            has_8bit_optimizer=config.optimizer.algorithm["_target_"] == _ADAM_8BIT,
            size=size,
        )

    def applied(self, config: TrainConfig) -> TrainConfig:
        """The configuration with these settings; the size is the business of the data."""
        trainer = replace(
            config.trainer,
            gradient_checkpointing=self.gradient_checkpointing,
            batch_size=self.batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            base_precision=self.base_precision,
        )
        optimizer, algorithm = config.optimizer, config.optimizer.algorithm
        if self.has_8bit_optimizer and algorithm["_target_"] != _ADAM_8BIT:
            optimizer = replace(optimizer, algorithm={**algorithm, "_target_": _ADAM_8BIT})
        return replace(config, trainer=trainer, optimizer=optimizer)

    def overrides_of(self, other: "MemorySettings") -> list[str]:
        """What to write on the command line to come from these to other ones."""
        found = []
        if other.gradient_checkpointing != self.gradient_checkpointing:
            found.append(f"trainer.gradient_checkpointing={str(other.gradient_checkpointing).lower()}")
        if other.batch_size != self.batch_size:
            found.append(f"trainer.batch_size={other.batch_size}")
            found.append(f"trainer.gradient_accumulation_steps={other.gradient_accumulation_steps}")
        if other.base_precision != self.base_precision:
            found.append(f"trainer.base_precision={other.base_precision}")
        if other.has_8bit_optimizer != self.has_8bit_optimizer:
            found.append("optimizer=adamw_8bit")
        if other.size != self.size:
            width, height = other.size
            found.append(f"dataset.resolution={width if width == height else f'[{width},{height}]'}")
        return found


def smaller(config: TrainConfig, start: MemorySettings) -> Iterator[MemorySettings]:
    """Settings that take less and less memory, each on top of those before it.

    In the order of what they cost: time (checkpointing), time (small batches; the same gradient but for
    rounding), exactness of frozen weights, exactness of the optimiser's moments, and last what the adapter
    gets to see.
    """
    now = start
    if not now.gradient_checkpointing:
        now = replace(now, gradient_checkpointing=True)
        yield now
    for factor in range(2, start.batch_size + 1):
        if start.batch_size % factor == 0:
            now = replace(
                now,
                batch_size=start.batch_size // factor,
                gradient_accumulation_steps=start.gradient_accumulation_steps * factor,
            )
            yield now
    if now.base_precision == "auto" and "full" not in {getattr(config.adapter, name) for name in COMPONENTS}:
        now = replace(now, base_precision="int8")
        yield now
    # Over shards neither this nor a trial goes.
    if not config.accelerate.is_sharded and _has_8bit_optimizer(config.optimizer.algorithm):
        now = replace(now, has_8bit_optimizer=True)
        yield now
    for share in _SHRINKING:
        size = shrunk(start.size, share)
        if size != now.size:
            now = replace(now, size=size)
            yield now


def remedies(config: TrainConfig, *, size: tuple[int, int]) -> list[str]:
    """The same for a message: each change by itself, as overrides."""
    before, found = MemorySettings.of(config, size=size), []
    for settings in smaller(config, before):
        change = " ".join(before.overrides_of(settings))
        if settings.has_8bit_optimizer != before.has_8bit_optimizer:
            change += " (in a new run: its state is of another kind)"
        found.append(change)
        before = settings
    if config.trainer.memory_preflight or config.accelerate.is_sharded:
        return found
    return [*found, "trainer.memory_preflight=true tries them before a run"]


def shrunk(size: tuple[int, int], share: float) -> tuple[int, int]:
    """A smaller (width, height) of about the same shape, in multiples that the UNet halves without a rest."""
    step = 64 if min(size) >= 256 else 8
    width, height = (max(step, int(side * share) // step * step) for side in size)
    return width, height


def _has_8bit_optimizer(algorithm: dict[str, Any]) -> bool:
    return (
        algorithm["_target_"] in _ADAMS
        and _ADAM_8BIT in SLOTS["optimizer.algorithm"].targets
        and importlib.util.find_spec("bitsandbytes") is not None
    )
