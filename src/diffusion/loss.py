"""The error of a prediction."""

import torch
from jaxtyping import Float
from torch import Tensor


def per_sample_loss(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    masks: Float[Tensor, "b h w"] | None = None,
    *,
    unmasked_weight: float = 0.0,
) -> Float[Tensor, " b"]:
    """Mean squared error of each sample over its channels and cells, in fp32 (DDPM, L_simple, eq. 14).

    With masks it is a weighted mean: w = u + (1 - u) m weighs a cell with mask m, and the sum is divided by
    that of the weights. So a mask says where a sample's error counts and not how much the sample counts, and
    a mask of ones changes nothing. A sample whose mask is 0 everywhere, as in a crop beside the object, has
    loss 0: it would be learned as background alone, at full weight.

    Args:
        prediction: of the denoiser.
        target: what it should have said.
        masks: the part of each cell that is to be learned, 0 to 1.
        unmasked_weight: u, the weight of the rest.
    """
    error = (prediction.float() - target.float()).pow(2)
    if masks is None:
        return error.mean(dim=(1, 2, 3))
    # u + (1 - u) m, written so that it is exactly 1 where the mask is.
    weights = 1 - (1 - unmasked_weight) * (1 - masks.float())
    weighted = (error * weights[:, None]).mean(dim=(1, 2, 3))
    loss = weighted / weights.mean(dim=(1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(masks.amax(dim=(1, 2)) > 0, loss, 0.0)
