"""Stable Diffusion 1.x."""

from typing import Any, ClassVar, Literal, final

from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline
from jaxtyping import Float, Int
from torch import Tensor

from src.models.base import Denoiser, DiffusionModel, TextEmbeddings
from src.models.prompts import in_chunks


@final
class StableDiffusion15Denoiser(Denoiser):
    """UNet and one CLIP text encoder; nothing is conditioned on sizes."""

    def encode_text(self, token_ids: Int[Tensor, "1 b t"]) -> TextEmbeddings:
        """The encoder's last hidden state after its final layer norm, and no pooled embedding."""
        encoder = self.get_submodule("text_encoder")
        hidden = encoder(in_chunks(encoder, token_ids[0])).last_hidden_state
        return hidden.reshape(*token_ids.shape[1:], -1), None

    def added_conditions(
        self,
        pooled: Float[Tensor, "b p"] | None,
        original_sizes: Int[Tensor, "b 2"] | None,
        crop_top_lefts: Int[Tensor, "b 2"] | None,
        target_sizes: Int[Tensor, "b 2"] | None,
    ) -> dict[str, Tensor] | None:
        """None: SD1.x has no further conditions, and ignores what is given."""
        return None


@final
class StableDiffusion15Model(DiffusionModel):
    """Stable Diffusion 1.x, and what has its shape."""

    architecture: ClassVar[Literal["sd15", "sdxl"]] = "sd15"

    def make_pipeline(self, *, vae: AutoencoderKL, scheduler: Any) -> DiffusionPipeline:
        """StableDiffusionPipeline without the safety checker."""
        return StableDiffusionPipeline(
            unet=self.unet,
            vae=vae,
            text_encoder=self.text_encoders["text_encoder"],
            tokenizer=self.tokenizers[0],
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
