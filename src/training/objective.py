"""The loss of one micro-batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from src.data.batches import Batch
from src.diffusion.loss import per_sample_loss
from src.diffusion.noise import addressed_noise, offset_noise
from src.diffusion.targets import add_noise, sample_posterior, training_target
from src.diffusion.timesteps import UNIFORM, TimestepSampling, addressed_timesteps
from src.diffusion.weights import debiased_weights, min_snr_weights, snr

Addresses = tuple[Sequence[str], Sequence[int], Sequence[int]]
Tokenize = Callable[[Sequence[str]], Int[Tensor, "n b t"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroLoss:
    """What one rank's share of a micro-batch comes to.

    Attributes:
        total: sum of the weighted losses of its samples, to be differentiated.
        per_sample: each sample's loss before it is weighted by its timestep, on the device.
        timesteps: each sample's timestep, on the CPU.
    """

    total: Float[Tensor, ""]
    per_sample: Float[Tensor, " b"]
    timesteps: Int[Tensor, " b"]


class Objective:
    """Denoising loss with addressed randomness, so that a sample's loss does not depend on its batch.

    Args:
        prediction_type: "epsilon" or "v_prediction", as the base model was trained.
        alphas_cumprod: its noise schedule.
        min_snr_gamma: cap of the min-SNR weights, None for weight 1 at each timestep.
        seed: the run's seed.
        tokenize: prompts to token ids, for batches without embeddings.
        is_debiased: weights of debiased estimation, in place of min-SNR weights.
        noise_offset: strength of `offset_noise`, 0 for plain noise.
        timesteps: how they are distributed.
        unmasked_weight: of what a batch's masks leave out.
    """

    def __init__(
        self,
        *,
        prediction_type: str,
        alphas_cumprod: Float[Tensor, " t"],
        min_snr_gamma: float | None,
        seed: int,
        tokenize: Tokenize,
        is_debiased: bool = False,
        noise_offset: float = 0.0,
        timesteps: TimestepSampling = UNIFORM,
        unmasked_weight: float = 0.0,
    ) -> None:
        assert min_snr_gamma is None or not is_debiased, "one kind of weights at a time"
        self._prediction_type = prediction_type
        self._alphas_cumprod = alphas_cumprod
        self._min_snr_gamma = min_snr_gamma
        self._seed = seed
        self._tokenize = tokenize
        self._is_debiased = is_debiased
        self._noise_offset = noise_offset
        self._timesteps = timesteps
        self._unmasked_weight = unmasked_weight

    def __call__(self, denoiser: nn.Module, batch: Batch, *, device: torch.device) -> MicroLoss:
        """Draws latents, noise and timesteps, predicts, and weighs the errors.

        Args:
            denoiser: the wrapped denoiser, in train mode.
            batch: one rank's share of a micro-batch.
            device: where to compute.
        """
        addresses = (batch.ids, batch.pass_numbers, batch.draws)
        shape = batch.mean.shape[1:]
        timesteps = addressed_timesteps(
            *addresses,
            seed=self._seed,
            num_train_timesteps=len(self._alphas_cumprod),
            sampling=self._timesteps,
        )
        posterior = addressed_noise(*addresses, seed=self._seed, shape=shape, purpose="posterior")
        noise = to_device(self._noise(addresses, shape), device)
        latents = sample_posterior(
            to_device(batch.mean, device), to_device(batch.std, device), to_device(posterior, device)
        )
        self._alphas_cumprod = self._alphas_cumprod.to(device)
        on_device = to_device(timesteps, device)
        noisy = add_noise(latents, noise, on_device, self._alphas_cumprod)
        target = training_target(self._prediction_type, latents, noise, on_device, self._alphas_cumprod)
        prediction = denoiser(noisy, on_device, **conditions(batch, self._tokenize, device))
        masks = None if batch.masks is None else to_device(batch.masks, device)
        per_sample = per_sample_loss(prediction, target, masks, unmasked_weight=self._unmasked_weight)
        weights = to_device(batch.weights, device) * self._weights(on_device)
        total = (weights * per_sample).sum()
        return MicroLoss(total=total, per_sample=per_sample.detach(), timesteps=timesteps)

    def _noise(self, addresses: Addresses, shape: torch.Size) -> Float[Tensor, "b c h w"]:
        noise = addressed_noise(*addresses, seed=self._seed, shape=shape, purpose="noise")
        if self._noise_offset == 0:
            return noise
        return offset_noise(noise, *addresses, seed=self._seed, strength=self._noise_offset)

    def _weights(self, timesteps: Int[Tensor, " b"]) -> Float[Tensor, " b"] | float:
        """Of each sample's timestep."""
        if self._is_debiased:
            return debiased_weights(snr(self._alphas_cumprod, timesteps), self._prediction_type)
        if self._min_snr_gamma is None:
            return 1.0
        ratio = snr(self._alphas_cumprod, timesteps)
        return min_snr_weights(ratio, self._min_snr_gamma, self._prediction_type)


def conditions(batch: Batch, tokenize: Tokenize, device: torch.device) -> dict[str, Any]:
    """What a denoiser is told beside noisy latents and timesteps: text, cached or as token ids, and sizes."""
    text: dict[str, Tensor | None] = (
        {"token_ids": tokenize(batch.captions)}
        if batch.embeddings is None
        else {"hidden": batch.embeddings.hidden, "pooled": batch.embeddings.pooled}
    )
    sizes = {
        "original_sizes": batch.original_sizes,
        "crop_top_lefts": batch.crop_top_lefts,
        "target_sizes": batch.target_sizes,
    }
    return {
        name: None if tensor is None else to_device(tensor, device)
        for name, tensor in {**text, **sizes}.items()
    }


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies to the device without making the host wait for it: that takes page-locked memory."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
