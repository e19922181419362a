"""The loss of one micro-batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from src.data.batches import Batch
from src.diffusion.loss import per_sample_loss
from src.diffusion.noise import addressed_noise
from src.diffusion.targets import add_noise, sample_posterior, training_target
from src.diffusion.timesteps import addressed_timesteps
from src.diffusion.weights import min_snr_weights, snr

Tokenize = Callable[[Sequence[str]], Int[Tensor, "n b t"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroLoss:
    """What one rank's share of a micro-batch comes to.

    Attributes:
        total: sum of the weighted losses of its samples, to be differentiated.
        per_sample: each sample's plain loss, on the device.
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
    """

    def __init__(
        self,
        *,
        prediction_type: str,
        alphas_cumprod: Float[Tensor, " t"],
        min_snr_gamma: float | None,
        seed: int,
        tokenize: Tokenize,
    ) -> None:
        self._prediction_type = prediction_type
        self._alphas_cumprod = alphas_cumprod
        self._min_snr_gamma = min_snr_gamma
        self._seed = seed
        self._tokenize = tokenize

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
            *addresses, seed=self._seed, num_train_timesteps=len(self._alphas_cumprod)
        )
        posterior = addressed_noise(*addresses, seed=self._seed, shape=shape, purpose="posterior")
        noise = to_device(addressed_noise(*addresses, seed=self._seed, shape=shape, purpose="noise"), device)
        latents = sample_posterior(
            to_device(batch.mean, device), to_device(batch.std, device), to_device(posterior, device)
        )
        self._alphas_cumprod = self._alphas_cumprod.to(device)
        on_device = to_device(timesteps, device)
        noisy = add_noise(latents, noise, on_device, self._alphas_cumprod)
        target = training_target(self._prediction_type, latents, noise, on_device, self._alphas_cumprod)
        prediction = denoiser(noisy, on_device, **conditions(batch, self._tokenize, device))
        per_sample = per_sample_loss(prediction, target)
        weights = to_device(batch.weights, device)
        if self._min_snr_gamma is not None:
            ratio = snr(self._alphas_cumprod, on_device)
            weights = weights * min_snr_weights(ratio, self._min_snr_gamma, self._prediction_type)
        total = (weights * per_sample).sum()
        return MicroLoss(total=total, per_sample=per_sample.detach(), timesteps=timesteps)


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
