"""Weights of timesteps in the training loss.

A weight is that of the squared error of what the model predicts. The squared error of x_0 is SNR times larger
in terms of epsilon, and SNR + 1 times in terms of v (Salimans and Ho 2022, arXiv 2202.00512, section 4). So a
weight w of the error of x_0 is w / SNR of that of epsilon and w / (SNR + 1) of that of v.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Where there is next to no noise 1 / sqrt(SNR) would vanish; kohya's sd-scripts stop at the same ratio.
_MAX_DEBIASED_SNR = 1000.0


def snr(alphas_cumprod: Float[Tensor, " t"], timesteps: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Signal-to-noise ratio alpha_bar_t / (1 - alpha_bar_t) (Kingma et al. 2021, arXiv 2107.00630)."""
    alpha_bar = alphas_cumprod[timesteps]
    return alpha_bar / (1 - alpha_bar)


def min_snr_weights(snr: Float[Tensor, " b"], gamma: float, prediction_type: str) -> Float[Tensor, " b"]:
    """Min-SNR-gamma weights (Hang et al. 2023, arXiv 2303.09556, section 3.4).

    Min(SNR, gamma) weighs the error of x_0.

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


def debiased_weights(snr: Float[Tensor, " b"], prediction_type: str) -> Float[Tensor, " b"]:
    """Debiased estimation (Yu et al. 2023, arXiv 2310.08442): 1 / sqrt(SNR) for epsilon.

    That is sqrt(SNR) for the error of x_0, and so sqrt(SNR) / (SNR + 1) for v, which is zero where the signal
    is gone. The paper has epsilon only; for v kohya's sd-scripts weigh otherwise, by 1 / (SNR + 1).

    Args:
        snr: signal-to-noise ratio of each sample's timestep, above zero for epsilon.
        prediction_type: "epsilon" or "v_prediction".
    """
    capped = torch.clamp(snr, max=_MAX_DEBIASED_SNR)
    if prediction_type == "epsilon":
        return capped.rsqrt()
    assert prediction_type == "v_prediction", prediction_type
    return capped.sqrt() / (capped + 1)
