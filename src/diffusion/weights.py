"""Weights of timesteps in the training loss."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def snr(alphas_cumprod: Float[Tensor, " t"], timesteps: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Signal-to-noise ratio alpha_bar_t / (1 - alpha_bar_t) (Kingma et al. 2021, arXiv 2107.00630)."""
    alpha_bar = alphas_cumprod[timesteps]
    return alpha_bar / (1 - alpha_bar)


def min_snr_weights(snr: Float[Tensor, " b"], gamma: float, prediction_type: str) -> Float[Tensor, " b"]:
    """Min-SNR-gamma weights (Hang et al. 2023, arXiv 2303.09556, section 3.4).

    Min(SNR, gamma) weighs the error of x_0. The same error in terms of epsilon is SNR times larger, of v
    SNR + 1 times.

    Args:
        snr: signal-to-noise ratio of each sample's timestep, zero at the end of a zero-SNR schedule.
        gamma: the cap, 5 in the paper.
        prediction_type: "epsilon" or "v_prediction".
    """
    if prediction_type == "epsilon":
        # min(SNR, gamma) / SNR, written so that it is 1 and not 0/0 where the SNR is zero.
        return torch.clamp(gamma / snr, max=1.0)
    assert prediction_type == "v_prediction", prediction_type
    return torch.clamp(snr, max=gamma) / (snr + 1)
