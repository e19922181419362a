"""One real worst-case step before the run: what it takes, and if that is too much, what would fit."""

import gc
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from src.callbacks.base import Callback
from src.callbacks.samples import SampleImages
from src.config.schema import TrainConfig
from src.data.batches import Batch
from src.data.cache_room import gigabytes
from src.data.encode import EncodedDataset
from src.data.order import Draw, MicroBatch, Position, rank_share
from src.errors import UserError
from src.models.base import DiffusionModel
from src.models.eight_bit import is_eight_bit, to_eight_bits
from src.run.build_sides import EncodedSides
from src.run.memory_settings import MemorySettings, smaller
from src.training.accelerator import Agreement
from src.training.memory_meter import MemoryMeter
from src.training.observers import Guard
from src.training.optimizer_step import Share
from src.training.out_of_memory import is_out_of_memory, let_go
from src.training.trainer import Trainer

log = logging.getLogger(__name__)
_STEP, _VALIDATION, _SAMPLES = PHASES = ("training step", "validation", "sample images")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """What came of trying some settings.

    Attributes:
        peaks: bytes by phase, of the rank that took most.
        failed: the phase that does not fit; None if all do.
    """

    peaks: Mapping[str, int]
    failed: str | None

    def __str__(self) -> str:
        return ", ".join(f"{name} {gigabytes(peak)}" for name, peak in self.peaks.items())


def samplers_of(config: TrainConfig, callbacks: Sequence[Callback]) -> dict[str, SampleImages]:
    """The callbacks that draw images, by their names in the configuration."""
    names = [name for name, block in config.callbacks.items() if block is not None]
    named = zip(names, callbacks, strict=True)
    return {name: callback for name, callback in named if isinstance(callback, SampleImages)}


def memory_preflight(
    config: TrainConfig,
    *,
    make_loop: Callable[[TrainConfig], Trainer],
    model: DiffusionModel,
    sides: EncodedSides,
    samplers: Mapping[str, SampleImages],
    accelerator: Accelerator,
    agreement: Agreement,
    size: tuple[int, int],
) -> None:
    """Tries a step on the largest batch, a validation batch and a batch of samples, and takes it all back.

    The run that follows is the one without it, bit for bit. On several processes each tries its own share;
    what is said is of the one that takes most.

    Args:
        config: the run's.
        make_loop: makes the loop of a configuration, without callbacks.
        model: with what is trained attached, on the device.
        sides: the encoded data.
        samplers: the callbacks that draw images, by name.
        accelerator: the run's, before it has prepared anything.
        agreement: between the ranks.
        size: (width, height) of the training images.

    Raises:
        UserError: it does not fit; with the first settings that were tried and do.
    """
    limit = config.trainer.memory_limit_gb
    meter = MemoryMeter(accelerator.device, limit=None if limit is None else int(limit * 1e9))
    rehearsal = _Rehearsal(
        config, make_loop, model=model, sides=sides, accelerator=accelerator, agreement=agreement, meter=meter
    )
    start = MemorySettings.of(config, size=size)
    batches = {name: sampler.batch_size for name, sampler in samplers.items()}
    first = rehearsal.attempt(start, start, samplers, batches)
    log.info("Memory preflight, at the peak: %s.", first)
    if first.failed is None:
        return
    ladder, trial, settings, best = smaller(config, start), first, start, dict(batches)
    while trial.failed is not None:
        if trial.failed == _SAMPLES and max(best.values()) > 1:
            best = {name: max(1, batch_size // 2) for name, batch_size in best.items()}
        else:
            following = next(ladder, None)
            if following is None:
                break
            settings = following
        trial = rehearsal.attempt(settings, start, samplers, best)
        log.info("Memory preflight with %s: %s.", _overrides(start, settings, batches, best), trial)
    raise UserError(_message(first, trial, _overrides(start, settings, batches, best), accelerator, limit))


class _Rehearsal:
    """Tries settings on the real model, and puts it back."""

    def __init__(
        self,
        config: TrainConfig,
        make_loop: Callable[[TrainConfig], Trainer],
        *,
        model: DiffusionModel,
        sides: EncodedSides,
        accelerator: Accelerator,
        agreement: Agreement,
        meter: MemoryMeter,
    ) -> None:
        self._config = config
        self._make_loop = make_loop
        self._model = model
        self._sides = sides
        self._accelerator = accelerator
        self._agreement = agreement
        self._meter = meter

    def attempt(
        self,
        settings: MemorySettings,
        start: MemorySettings,
        samplers: Mapping[str, SampleImages],
        batch_sizes: Mapping[str, int],
    ) -> _Trial:
        """Goes through all phases until one does not fit."""
        # What is on the model stays there: after the first attempt the run ends in any case.
        if settings.gradient_checkpointing and not start.gradient_checkpointing:
            self._model.enable_gradient_checkpointing()
        if settings.base_precision != start.base_precision and not is_eight_bit(self._model.unet):
            to_eight_bits(self._model.unet, settings.base_precision)  # type: ignore[arg-type]
        failed = None
        with _undone(self._model, self._accelerator, seed=self._config.trainer.seed):
            self._meter.begin([self._model.denoiser, self._model.vae])
            for name, work in self._phases(settings, start, samplers, batch_sizes).items():
                if not self._fits(name, work):
                    failed = name
                    break
        # One number after the other: the phases are the same ones on all ranks.
        failed = self._agreed(failed)
        peaks = {name: self._agreement.largest(self._meter.peaks.get(name, 0)) for name in PHASES}
        return _Trial(peaks={name: peak for name, peak in peaks.items() if peak > 0}, failed=failed)

    def _phases(
        self,
        settings: MemorySettings,
        start: MemorySettings,
        samplers: Mapping[str, SampleImages],
        batch_sizes: Mapping[str, int],
    ) -> dict[str, Callable[[], None]]:
        share = settings.size[0] / start.size[0]
        loops: list[Trainer] = []

        def step() -> None:
            loops.append(self._make_loop(settings.applied(self._config)))
            loops[0].rehearse(self._largest_share(settings.batch_size, share))

        def validate() -> None:
            loops[0].rehearse_validation()

        def draw() -> None:
            for name, sampler in samplers.items():
                sampler.rehearse(self._model, resolution=settings.size, batch_size=batch_sizes[name])

        def sample() -> None:
            loops[0].rehearse_observer(draw)

        phases = {_STEP: step, _VALIDATION: validate}
        if samplers:
            phases[_SAMPLES] = sample
        return phases

    def _fits(self, name: str, work: Callable[[], None]) -> bool:
        try:
            with self._meter.phase(name):
                work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            let_go(error)
            return False
        return self._meter.exceeded() is None

    def _agreed(self, failed: str | None) -> str | None:
        code = self._agreement.largest(0 if failed is None else len(PHASES) - PHASES.index(failed))
        return None if code == 0 else PHASES[len(PHASES) - code]

    def _largest_share(self, batch_size: int, share: float) -> Share:
        """This rank's part of the micro-batch with most pixels, with its class images."""
        train, class_images = self._sides.train, self._sides.class_images
        draws, batch = self._largest_batch(train, batch_size, share)
        if class_images is not None:
            _, others = self._largest_batch(class_images, batch_size, share)
            batch = replace(batch, class_images=others)
        micro_batch = MicroBatch(position=Position(), next_position=Position(index=1), draws=tuple(draws))
        return micro_batch, batch

    def _largest_batch(
        self, dataset: EncodedDataset, batch_size: int, share: float
    ) -> tuple[list[Draw], Batch]:
        world_size = self._accelerator.num_processes
        of_size: dict[tuple[int, int], list[str]] = {}
        for id in dataset.ids:
            of_size.setdefault(dataset.sizes[id], []).append(id)
        # A bucket's batch is never larger than the bucket.
        ids = max(
            (ids[: batch_size * world_size] for ids in of_size.values()),
            key=lambda ids: len(ids) * math.prod(dataset.sizes[ids[0]]),
        )
        draws = [Draw(id=id, pass_number=0) for id in ids]
        rank = self._accelerator.process_index
        own = rank_share(draws, rank=rank, world_size=world_size, batch_size=batch_size)
        batch = dataset.batch(*own)
        return draws, batch if share == 1 else _cut(batch, share)


def _cut(batch: Batch, share: float) -> Batch:
    """The same batch as if its images were smaller: memory asks for shapes, not for what is in them."""
    height, width = (max(1, int(side * share)) for side in batch.mean.shape[-2:])
    target_sizes = (batch.target_sizes * share).to(batch.target_sizes.dtype)
    mean, std = (moment[..., :height, :width].contiguous() for moment in (batch.mean, batch.std))
    masks = None if batch.masks is None else batch.masks[..., :height, :width].contiguous()
    return replace(batch, mean=mean, std=std, masks=masks, target_sizes=target_sizes)


@contextmanager
def _undone(model: DiffusionModel, accelerator: Accelerator, *, seed: int) -> Iterator[None]:
    """Takes back what a loop does to model and accelerator: weights, modes, wrappers, random states."""
    denoiser = model.denoiser
    trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    weights = [parameter.detach().to("cpu", copy=True) for parameter in trained]
    attributes = dict(denoiser.__dict__)
    scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
    counts = {name: len(getattr(accelerator, name)) for name in ("_models", "_optimizers")}
    try:
        with Guard(denoiser).untouched(seed, "memory preflight"):
            yield
    finally:
        for parameter in denoiser.parameters():
            parameter.grad = None
        with torch.no_grad():
            for parameter, weight in zip(trained, weights, strict=True):
                parameter.copy_(weight)
        # `accelerator.prepare` replaces the denoiser's forward, to compute in the run's precision.
        denoiser.__dict__.clear()
        denoiser.__dict__.update(attributes)
        for name, count in counts.items():
            del getattr(accelerator, name)[count:]
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(scaler)
            # By optimisers' ids, which may come again. A step that failed half-way leaves its own.
            accelerator.scaler._per_optimizer_states.clear()
        gc.collect()
        if accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(accelerator.device)


def _overrides(
    start: MemorySettings, settings: MemorySettings, before: Mapping[str, int], batches: Mapping[str, int]
) -> str:
    changed = [name for name in batches if batches[name] != before[name]]
    samples = [f"callbacks.{name}.batch_size={batches[name]}" for name in changed]
    return " ".join([*start.overrides_of(settings), *samples])


def _message(
    first: _Trial, last: _Trial, overrides: str, accelerator: Accelerator, limit: float | None
) -> str:
    if limit is not None:
        room = f"trainer.memory_limit_gb={limit:g}"
    elif accelerator.device.type == "cuda":
        total = torch.cuda.get_device_properties(accelerator.device).total_memory
        room = f"the {gigabytes(total)} of this GPU"
    else:
        room = "the memory of this machine"
    problem = f"The run does not fit into {room}: {first.failed} takes too much (at the peak: {first})."
    if last.failed is not None:
        return f"{problem} Nor did anything that was tried, up to {overrides} ({last}). Use a smaller model."
    return f"{problem} It fits with: {overrides} ({last})."
