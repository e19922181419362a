"""Stable Diffusion XL (base)."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedModel

from src.models.base import Denoiser, DiffusionModel, TextEmbeddings
from src.models.prompts import in_chunks, tokenize


@final
class StableDiffusionXLDenoiser(Denoiser):
    """UNet and two CLIP text encoders; conditioned on pooled text and on sizes (arXiv 2307.01952)."""

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        text_encoders: Mapping[str, PreTrainedModel],
        zeroed_token_ids: Int[Tensor, "2 t"] | None,
    ) -> None:
        """See `Denoiser`.

        Args:
            unet: the UNet.
            text_encoders: text_encoder and text_encoder_2.
            zeroed_token_ids: the prompt whose embeddings are zero, as the model was trained: the empty one.
        """
        super().__init__(unet=unet, text_encoders=text_encoders)
        self.zeroed_token_ids: Tensor | None
        self.register_buffer("zeroed_token_ids", zeroed_token_ids, persistent=False)

    def encode_text(self, token_ids: Int[Tensor, "2 b t"]) -> TextEmbeddings:
        """Both encoders' hidden states before their last layer, side by side; pooled from the second.

        Zero is a prompt that is empty in all its chunks; an empty one behind others is encoded as it is.
        """
        outputs = [
            encoder(in_chunks(encoder, ids), output_hidden_states=True)
            for encoder, ids in zip(map(self.get_submodule, self.encoder_names), token_ids, strict=True)
        ]
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        hidden = hidden.reshape(*token_ids.shape[1:], -1)
        num_chunks = len(outputs[1].text_embeds) // token_ids.shape[1]
        pooled = outputs[1].text_embeds[::num_chunks]
        if self.zeroed_token_ids is not None:
            zeroed = self.zeroed_token_ids.repeat(1, num_chunks)
            is_kept = (token_ids != zeroed[:, None]).any(dim=2).any(dim=0)
            hidden = hidden * is_kept[:, None, None].to(hidden.dtype)
            pooled = pooled * is_kept[:, None].to(pooled.dtype)
        return hidden, pooled

    def is_used(self, parameter_name: str) -> bool:
        """Not the first encoder's last layer and final norm: its hidden states are taken before them."""
        encoder: Any = self.get_submodule("text_encoder")
        last = encoder.config.num_hidden_layers - 1
        unused = rf"text_encoder\.(text_model\.)?(encoder\.layers\.{last}\.|final_layer_norm\.)"
        return re.match(unused, parameter_name) is None

    def added_conditions(
        self,
        pooled: Float[Tensor, "b p"] | None,
        original_sizes: Int[Tensor, "b 2"] | None,
        crop_top_lefts: Int[Tensor, "b 2"] | None,
        target_sizes: Int[Tensor, "b 2"] | None,
    ) -> dict[str, Tensor] | None:
        """The pooled text and the six numbers original size, crop and target size."""
        assert pooled is not None, "SDXL needs the pooled embedding"
        assert original_sizes is not None, "SDXL needs original_sizes"
        assert crop_top_lefts is not None, "SDXL needs crop_top_lefts"
        assert target_sizes is not None, "SDXL needs target_sizes"
        time_ids = torch.cat([original_sizes, crop_top_lefts, target_sizes], dim=1)
        # fp32 whatever the UNet's precision: bf16 cannot tell 1023 from 1024.
        return {
            "text_embeds": pooled.to(self.unet.dtype),
            "time_ids": time_ids.to(device=pooled.device, dtype=torch.float32),
        }


@final
class StableDiffusionXLModel(DiffusionModel):
    """Stable Diffusion XL base, and what has its shape."""

    architecture: ClassVar[Literal["sd15", "sdxl"]] = "sdxl"

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        text_encoders: Mapping[str, PreTrainedModel],
        vae: AutoencoderKL,
        tokenizers: Sequence[CLIPTokenizer],
        scheduler_config: Mapping[str, Any],
        weight_files: Mapping[str, Sequence[Path]],
        force_zeros_for_empty_prompt: bool = True,
    ) -> None:
        """See `DiffusionModel`; `force_zeros_for_empty_prompt` is the entry of model_index.json."""
        self.force_zeros_for_empty_prompt = force_zeros_for_empty_prompt
        zeroed = tokenize(tokenizers, [""])[:, 0] if force_zeros_for_empty_prompt else None
        super().__init__(
            denoiser=StableDiffusionXLDenoiser(
                unet=unet, text_encoders=text_encoders, zeroed_token_ids=zeroed
            ),
            vae=vae,
            tokenizers=tokenizers,
            scheduler_config=scheduler_config,
            weight_files=weight_files,
        )

    @cached_property
    def text_hash(self) -> str:
        """See `DiffusionModel.text_hash`; whether the empty prompt is zeroed belongs to it."""
        return f"{super().text_hash}-zeros{int(self.force_zeros_for_empty_prompt)}"

    def make_pipeline(self, *, vae: AutoencoderKL, scheduler: Any) -> DiffusionPipeline:
        """StableDiffusionXLPipeline without a watermark."""
        return StableDiffusionXLPipeline(
            unet=self.unet,
            vae=vae,
            text_encoder=self.text_encoders["text_encoder"],
            text_encoder_2=self.text_encoders["text_encoder_2"],
            tokenizer=self.tokenizers[0],
            tokenizer_2=self.tokenizers[1],
            scheduler=scheduler,
            force_zeros_for_empty_prompt=self.force_zeros_for_empty_prompt,
            add_watermarker=False,
        )
