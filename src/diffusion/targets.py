"""The forward process and what a denoiser is asked to predict.

Symbols are those of DDPM (Ho et al. 2020, arXiv 2006.11239): alpha_bar_t, x_0, epsilon. v is that of Salimans
and Ho 2022 (arXiv 2202.00512).
"""

from jaxtyping import Float, Int
from torch import Tensor


def sample_posterior(
    mean: Float[Tensor, "b c h w"], std: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """A latent from the VAE's posterior: mean + std * noise (Kingma and Welling, arXiv 1312.6114, eq. 10)."""
    return mean + std * noise


def add_noise(
    latents: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    alphas_cumprod: Float[Tensor, " t"],
) -> Float[Tensor, "b c h w"]:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon (DDPM, eq. 4)."""
    alpha, sigma = _alpha_sigma(timesteps, alphas_cumprod)
    return alpha * latents + sigma * noise


def training_target(
    prediction_type: str,
    latents: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    alphas_cumprod: Float[Tensor, " t"],
) -> Float[Tensor, "b c h w"]:
    """What the denoiser should say at a timestep.

    Args:
        prediction_type: "epsilon", the noise (DDPM, eq. 14), or "v_prediction", v_t = sqrt(alpha_bar_t)
            epsilon - sqrt(1 - alpha_bar_t) x_0 (Salimans and Ho 2022, section 4 and appendix D).
        latents: x_0.
        noise: epsilon.
        timesteps: one a sample.
        alphas_cumprod: alpha_bar_t of all timesteps.
    """
    if prediction_type == "epsilon":
        return noise
    assert prediction_type == "v_prediction", prediction_type
    alpha, sigma = _alpha_sigma(timesteps, alphas_cumprod)
    return alpha * noise - sigma * latents


def _alpha_sigma(
    timesteps: Int[Tensor, " b"], alphas_cumprod: Float[Tensor, " t"]
) -> tuple[Float[Tensor, "b 1 1 1"], Float[Tensor, "b 1 1 1"]]:
    alpha_bar = alphas_cumprod[timesteps][:, None, None, None]
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5
