"""The error of a prediction."""

from jaxtyping import Float
from torch import Tensor


def per_sample_loss(
    prediction: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Mean squared error of each sample over its channels and cells, in fp32 (DDPM, L_simple, eq. 14)."""
    return (prediction.float() - target.float()).pow(2).mean(dim=(1, 2, 3))
