"""Validation as a ruler: the same images, noise and timesteps each time, whatever the batch or world size."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from src.data.batches import Batch
from src.data.order import Draw
from src.diffusion.loss import per_sample_loss
from src.diffusion.noise import addressed_noise
from src.diffusion.targets import add_noise, training_target
from src.diffusion.timesteps import validation_timesteps
from src.randomness import address_seeds
from src.training.objective import Tokenize, conditions, to_device
from src.training.observers import Guard
from src.training.state import ValidationResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Images that can be encoded.

    Attributes:
        ids: their names.
        sizes: what must be the same of all images in a batch, by name (`EncodedDataset.sizes`).
        batch: makes a batch of some of them, without caption dropout (`EncodedDataset.batch`).
    """

    ids: Sequence[str]
    sizes: Mapping[str, Hashable]
    batch: Callable[[Sequence[Draw], Sequence[float]], Batch]


class Validator:
    """Mean squared error on held-out images and on a probe of as many training images.

    Each image is measured at each of the equally spaced timesteps, always with the same noise, which is
    addressed by the image's id. The latent is the posterior's mean. There are no weights and no caption
    dropout.

    Args:
        denoiser: not wrapped for DDP: ranks work on shares of their own and need not keep step.
        accelerator: after `prepare` of the denoiser, so that the precision is that of training.
        held_out: images that are never trained on.
        train: the training images, of which a probe is taken.
        prediction_type: "epsilon" or "v_prediction".
        alphas_cumprod: the noise schedule.
        tokenize: prompts to token ids, for batches without embeddings.
        num_timesteps: equally spaced timesteps.
        max_images: at most as many of either set, chosen by their address.
        batch_size: images in one forward pass.
        seed: `dataset.split_seed`, so that runs with different training seeds are measured alike.
    """

    def __init__(
        self,
        *,
        denoiser: nn.Module,
        accelerator: Accelerator,
        held_out: ImageSet,
        train: ImageSet,
        prediction_type: str,
        alphas_cumprod: Float[Tensor, " t"],
        tokenize: Tokenize,
        num_timesteps: int,
        max_images: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.timesteps = validation_timesteps(num_timesteps, len(alphas_cumprod))
        self._denoiser = denoiser
        self._accelerator = accelerator
        self._sets = (held_out, train)
        num_images = min(max_images, len(held_out.ids))
        self._ids = [select_images(images.ids, num_images=num_images, seed=seed) for images in self._sets]
        self._prediction_type = prediction_type
        self._alphas_cumprod = alphas_cumprod
        self._tokenize = tokenize
        self._batch_size = batch_size
        self._seed = seed

    def measure(self) -> list[Float[Tensor, "images timesteps"]]:
        """This rank's share: a table for each set, zero where others measure. No collectives inside."""
        self._alphas_cumprod = self._alphas_cumprod.to(self._accelerator.device)
        with Guard(self._denoiser).untouched(self._seed, "validation"), torch.no_grad():
            self._denoiser.eval()
            return [self._measure_set(*pair) for pair in zip(self._sets, self._ids, strict=True)]

    def rehearse(self) -> None:
        """Measures at one timestep this rank's batch with the most pixels, for what it needs of memory."""
        self._alphas_cumprod = self._alphas_cumprod.to(self._accelerator.device)
        with Guard(self._denoiser).untouched(self._seed, "validation"), torch.no_grad():
            self._denoiser.eval()
            for images, ids in zip(self._sets, self._ids, strict=True):
                rows = range(self._accelerator.process_index, len(ids), self._accelerator.num_processes)
                sizes = [images.sizes[id] for id in ids]
                chunks = list(_chunks(rows, sizes, self._batch_size))
                if chunks:
                    largest = max(chunks, key=lambda chunk: len(chunk) * _num_pixels(sizes[chunk[0]]))
                    draws = [Draw(id=ids[row], pass_number=0) for row in largest]
                    self._measure_batch(images.batch(draws, [1.0] * len(draws)), self.timesteps[:1])

    def combine(
        self, tables: Sequence[Float[Tensor, "images timesteps"]], *, step: int, started: float
    ) -> ValidationResult:
        """Adds up the ranks' tables. Every rank must call it, after `measure` succeeded on all of them."""
        if self._accelerator.num_processes > 1:
            tables = [self._accelerator.reduce(table, reduction="sum") for table in tables]
        # In float64 and always in the same order: the mean is that of the table, however it was filled.
        held_out, probe = (table.cpu().double().mean(dim=0).tolist() for table in tables)
        return ValidationResult(
            step=step,
            loss=sum(held_out) / len(held_out),
            curve=dict(zip(self.timesteps, held_out, strict=True)),
            train_loss=sum(probe) / len(probe),
            train_curve=dict(zip(self.timesteps, probe, strict=True)),
            num_images=len(self._ids[0]),
            seconds=time.monotonic() - started,
        )

    def run(self, step: int) -> ValidationResult:
        """Measures and combines. Every rank must call it."""
        started = time.monotonic()
        return self.combine(self.measure(), step=step, started=started)

    def _measure_set(self, images: ImageSet, ids: Sequence[str]) -> Float[Tensor, "images timesteps"]:
        table = torch.zeros(len(ids), len(self.timesteps), device=self._accelerator.device)
        rows = range(self._accelerator.process_index, len(ids), self._accelerator.num_processes)
        for chunk in _chunks(rows, [images.sizes[id] for id in ids], self._batch_size):
            batch = images.batch([Draw(id=ids[row], pass_number=0) for row in chunk], [1.0] * len(chunk))
            table[chunk] = self._measure_batch(batch)
        return table

    def _measure_batch(self, batch: Batch, at: Sequence[int] | None = None) -> Float[Tensor, "b timesteps"]:
        device = self._accelerator.device
        noise = addressed_noise(
            batch.ids,
            batch.pass_numbers,
            batch.draws,
            seed=self._seed,
            shape=batch.mean.shape[1:],
            purpose="validation",
        )
        latents, noise = to_device(batch.mean, device), to_device(noise, device)
        given = conditions(batch, self._tokenize, device)
        losses = []
        for timestep in self.timesteps if at is None else at:
            timesteps = torch.full((len(batch.ids),), timestep, device=device)
            noisy = add_noise(latents, noise, timesteps, self._alphas_cumprod)
            target = training_target(self._prediction_type, latents, noise, timesteps, self._alphas_cumprod)
            losses.append(per_sample_loss(self._denoiser(noisy, timesteps, **given), target))
        return torch.stack(losses, dim=1)


def _chunks(rows: Iterable[int], sizes: Sequence[Hashable], length: int) -> Iterator[list[int]]:
    """Rows in chunks of at most so many, each of images of one size."""
    of_size = defaultdict[Hashable, list[int]](list)
    for row in rows:
        of_size[sizes[row]].append(row)
    for same in of_size.values():
        yield from (same[start : start + length] for start in range(0, len(same), length))


def _num_pixels(size: Hashable) -> int:
    return math.prod(size) if isinstance(size, tuple) else 1


def select_images(ids: Sequence[str], *, num_images: int, seed: int) -> list[str]:
    """The first images by the order of their addresses: the same whatever else is in the set's listing."""
    ordered = [id for _, id in sorted(zip(address_seeds(seed, "validation", each=ids), ids, strict=True))]
    return ordered[:num_images]
