"""What training and inference see of a diffusion model: one abstract model over SD1.5 and SDXL."""

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTokenizer, PreTrainedModel

from src.models.chunks import count_tokens, num_chunks_needed
from src.models.prompts import tokenize
from src.models.quiet import quiet_libraries
from src.models.schedulers import PredictionType, Schedule, make_scheduler
from src.models.weights_hash import weights_hash

TextEmbeddings = tuple[Float[Tensor, "b t d"], Float[Tensor, "b p"] | None]


class Denoiser(nn.Module, ABC):
    """The UNet and the text encoders: everything that can be trained, and what accelerate wraps."""

    def __init__(self, *, unet: UNet2DConditionModel, text_encoders: Mapping[str, PreTrainedModel]) -> None:
        super().__init__()
        self.unet = unet
        self.encoder_names = tuple(text_encoders)
        for name, encoder in text_encoders.items():
            self.add_module(name, encoder)

    @abstractmethod
    def encode_text(self, token_ids: Int[Tensor, "n b t"]) -> TextEmbeddings:
        """Hidden states for cross attention and, for SDXL, the pooled embedding. Differentiable.

        Args:
            token_ids: one layer for each of the n text encoders. Longer ones than an encoder takes are
                chunks, each encoded by itself; their hidden states stand one after the other, and the pooled
                embedding is that of the first.
        """

    def is_used(self, parameter_name: str) -> bool:
        """Whether a parameter takes part in a prediction. One that does not must not be trained.

        It would never get a gradient, and data-parallel training waits for one from every parameter.
        """
        return True

    @abstractmethod
    def added_conditions(
        self,
        pooled: Float[Tensor, "b p"] | None,
        original_sizes: Int[Tensor, "b 2"] | None,
        crop_top_lefts: Int[Tensor, "b 2"] | None,
        target_sizes: Int[Tensor, "b 2"] | None,
    ) -> dict[str, Tensor] | None:
        """The UNet's conditions beside the text; None where an architecture has none."""

    def forward(
        self,
        noisy: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
        *,
        token_ids: Int[Tensor, "n b t"] | None = None,
        hidden: Float[Tensor, "b t d"] | None = None,
        pooled: Float[Tensor, "b p"] | None = None,
        original_sizes: Int[Tensor, "b 2"] | None = None,
        crop_top_lefts: Int[Tensor, "b 2"] | None = None,
        target_sizes: Int[Tensor, "b 2"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Predicts the noise (or v) of noisy latents.

        Args:
            noisy: noisy latents, scaled.
            timesteps: 0 to the number of training timesteps, exclusive.
            token_ids: prompts to encode here, for runs that train a text encoder or a token embedding.
            hidden: otherwise their hidden states, encoded before.
            pooled: and their pooled embeddings (SDXL).
            original_sizes: (height, width) of the photo before resizing and cropping (SDXL, arXiv 2307.01952,
                section 2.2).
            crop_top_lefts: (top, left) of the crop in the resized photo.
            target_sizes: (height, width) of the crop.
        """
        if hidden is None:
            assert token_ids is not None, "a denoiser needs token_ids or hidden"
            hidden, pooled = self.encode_text(token_ids)
        dtype = self.unet.dtype
        conditions = self.added_conditions(pooled, original_sizes, crop_top_lefts, target_sizes)
        prediction: Tensor = self.unet(
            noisy.to(dtype),
            timesteps,
            encoder_hidden_states=hidden.to(dtype),
            added_cond_kwargs=conditions,
            return_dict=False,
        )[0]
        return prediction


class DiffusionModel(ABC):
    """A latent diffusion model: VAE, UNet, text encoders, tokenizers and noise schedule.

    All weights are frozen and in eval mode after loading; `src.models.adapters.attach` frees what is trained.

    Attributes:
        architecture: "sd15" or "sdxl".
        denoiser: the UNet and the text encoders as one module.
        tokenizers: one for each text encoder, with the placeholder where one is trained.
        base_tokenizers: the same as they came, without the placeholder.
        placeholder: the trained token, if any.
        schedule: noise schedule and prediction type: the model's own, or those that it is trained to.
        num_chunks: chunks that every prompt is encoded as, if nothing else is said (see `use_chunks`).
        max_chunks: the most that a long prompt may have; what is beyond is not seen.
    """

    architecture: ClassVar[Literal["sd15", "sdxl"]]

    def __init__(
        self,
        *,
        denoiser: Denoiser,
        vae: AutoencoderKL,
        tokenizers: Sequence[CLIPTokenizer],
        scheduler_config: Mapping[str, Any],
        weight_files: Mapping[str, Sequence[Path]],
    ) -> None:
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.vae = vae.eval().requires_grad_(False)
        self.base_tokenizers = list(tokenizers)
        self.tokenizers = list(tokenizers)
        self.placeholder: str | None = None
        self.num_chunks, self.max_chunks = 1, 1
        self.schedule = Schedule(scheduler_config)
        self._weight_files = {name: list(files) for name, files in weight_files.items()}
        self._vae_copies: dict[torch.dtype, AutoencoderKL] = {}

    @abstractmethod
    def make_pipeline(self, *, vae: AutoencoderKL, scheduler: Any) -> DiffusionPipeline:
        """The architecture's diffusers pipeline over this model's own modules."""

    @property
    def unet(self) -> UNet2DConditionModel:
        """The UNet, shared with the denoiser."""
        return self.denoiser.unet

    @property
    def text_encoders(self) -> dict[str, PreTrainedModel]:
        """The text encoders by their diffusers names, shared with the denoiser."""
        return {name: getattr(self.denoiser, name) for name in self.denoiser.encoder_names}

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """diffusers' configuration of the schedule."""
        return self.schedule.config

    @property
    def noise_scheduler(self) -> DDPMScheduler:
        """The training schedule (DDPM) made of it."""
        return self.schedule.training

    @property
    def prediction_type(self) -> PredictionType:
        """What the UNet predicts, from the scheduler's configuration, or is trained to predict."""
        value: PredictionType = self.noise_scheduler.config.prediction_type
        return value

    @property
    def alphas_cumprod(self) -> Float[Tensor, " t"]:
        """The noise schedule: alpha-bar of each training timestep, fp32 on the CPU."""
        return self.noise_scheduler.alphas_cumprod

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return int(self.vae.config.latent_channels)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels to a latent cell, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def native_resolution(self) -> int:
        """The side of the square images that the model was made for, in pixels."""
        return int(self.unet.config.sample_size) * self.vae_scale_factor

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.denoiser.parameters()).device

    def to_device(self, device: torch.device | str, dtype: torch.dtype | None = None) -> None:
        """Moves everything; frozen weights take `dtype`, trained ones stay as they are (fp32).

        The VAE computes in fp32. Only where its configuration says that fp16 is safe (force_upcast false, as
        in the fp16-fix VAE of SDXL) and fp16 is asked for does it follow: SDXL's own VAE gives NaN there, and
        bf16's eight bits are too few for latents that are encoded once and kept.
        """
        named = list(self.denoiser.named_parameters())
        # In a component that is trained in full, what no prediction uses stays in fp32 with the rest.
        full = {name.split(".")[0] for name, tensor in named if tensor.requires_grad and is_own_weight(name)}
        for name, tensor in named:
            if dtype is not None and not tensor.requires_grad and name.split(".")[0] not in full:
                # Before it moves: the device never holds the whole model in the files' precision.
                tensor.data = tensor.data.to(dtype)
        self.denoiser.to(device)
        is_safe = dtype == torch.float16 and not self.vae.config.force_upcast
        with quiet_libraries(
            errors_only=True
        ):  # It warns of modules to keep in fp32, and of an empty list of them.
            self.vae.to(device=device, dtype=dtype if is_safe else torch.float32)
        self._vae_copies.clear()

    def enable_gradient_checkpointing(self) -> None:
        """Trades compute for memory in the UNet and the text encoders; works while they are in train mode."""
        self.unet.enable_gradient_checkpointing()
        for encoder in self.text_encoders.values():
            encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    @torch.no_grad()
    def encode_images(
        self, pixels: Float[Tensor, "b 3 height width"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Mean and standard deviation of the VAE's posterior, times its scaling factor, in fp32.

        Args:
            pixels: in [-1, 1].
        """
        with torch.autocast(self.device.type, enabled=False):
            posterior = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist
        factor = float(self.vae.config.scaling_factor)
        return posterior.mean.float() * factor, posterior.std.float() * factor

    def use_chunks(self, num_chunks: int, *, max_chunks: int) -> None:
        """Lets prompts be longer than the text encoder takes: they are encoded in chunks of 75 tokens.

        Args:
            num_chunks: of every prompt, also of a shorter one. It is the same for all prompts of a training
                run, because empty chunks change what the UNet sees: a sample's loss must not depend on how
                long its neighbours' captions are.
            max_chunks: of a prompt that is drawn and needs more (see `chunks_of`).
        """
        assert 1 <= num_chunks <= max_chunks
        self.num_chunks, self.max_chunks = num_chunks, max_chunks

    def tokenize(self, prompts: Sequence[str], num_chunks: int | None = None) -> Int[Tensor, "n b t"]:
        """Token ids for each of the n text encoders, padded and cut to so many chunks, on the CPU.

        Args:
            prompts: texts.
            num_chunks: 77 ids each; None for the model's own number.
        """
        return tokenize(self.tokenizers, prompts, num_chunks or self.num_chunks)

    @property
    def chunk_size(self) -> int:
        """Tokens of a prompt in one chunk, without start and end."""
        return int(min(tokenizer.model_max_length for tokenizer in self.tokenizers)) - 2

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt before it is cut, without start and end."""
        return count_tokens(self.tokenizers, prompt)

    def chunks_of(self, *prompts: str) -> int:
        """Chunks that prompts need which are used together, within the model's least and most.

        A prompt and its negative one have the same number, the larger one.
        """
        needed = max(num_chunks_needed(self.tokenizers, prompt) for prompt in prompts)
        return max(self.num_chunks, min(needed, self.max_chunks))

    def encode_text(self, token_ids: Int[Tensor, "n b t"]) -> TextEmbeddings:
        """See `Denoiser.encode_text`."""
        return self.denoiser.encode_text(token_ids)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str], num_chunks: int | None = None) -> TextEmbeddings:
        """Embeddings of prompts, without gradients: what a cache keeps. Arguments as of `tokenize`."""
        return self.encode_text(self.tokenize(prompts, num_chunks).to(self.device))

    def pipeline(self, scheduler: str = "dpmpp_2m", *, progress: bool = False) -> DiffusionPipeline:
        """A diffusers pipeline that shares this model's modules, adapters included.

        Args:
            scheduler: dpmpp_2m, euler, ddim or unipc, made from `scheduler_config`.
            progress: whether to show a bar over the denoising steps.
        """
        made = make_scheduler(scheduler, self.scheduler_config)
        pipeline = self.make_pipeline(vae=self._vae_in(self.unet.dtype), scheduler=made)
        pipeline.set_progress_bar_config(disable=not progress)
        return pipeline

    def _vae_in(self, dtype: torch.dtype) -> AutoencoderKL:
        # diffusers' pipelines decode in the UNet's precision, or upcast by themselves where the VAE needs it.
        if self.vae.dtype == dtype:
            return self.vae
        if dtype not in self._vae_copies:
            with quiet_libraries(errors_only=True):
                self._vae_copies[dtype] = copy.deepcopy(self.vae).to(dtype)
        return self._vae_copies[dtype]

    def stored_weights(self, component: str) -> list[Path]:
        """The files that hold a component's weights and nothing else; none of a single file, or if gone."""
        *weights, config = self._weight_files[component]
        is_own = all(file.parent == config.parent and file.is_file() for file in weights)
        return [file for file in weights if file.suffix == ".safetensors"] if is_own else []

    @cached_property
    def base_hash(self) -> str:
        """What the weights and configurations were before any training: UNet, text encoders and VAE."""
        return weights_hash(self._weight_files, sorted(self._weight_files))

    @cached_property
    def vae_hash(self) -> str:
        """The same of the VAE alone: part of a cached latent's name."""
        return weights_hash(self._weight_files, ["vae"])

    @cached_property
    def text_hash(self) -> str:
        """The same of the text encoders alone: part of a cached embedding's name."""
        return weights_hash(self._weight_files, list(self.denoiser.encoder_names))

    @property
    def tokenizer_hash(self) -> str:
        """The vocabularies, added tokens included: part of a cached embedding's name."""
        digest = hashlib.sha256()
        for tokenizer in self.tokenizers:
            settings = [
                sorted(tokenizer.get_vocab().items()),
                tokenizer.pad_token,
                tokenizer.model_max_length,
            ]
            digest.update(json.dumps(settings).encode())
        return digest.hexdigest()


def is_adapter_weight(name: str) -> bool:
    """Whether a parameter belongs to an adapter of any method (LoRA and DoRA, LoHa, LoKr)."""
    return any(part in name for part in (".lora_", ".hada_", ".lokr_"))


def is_own_weight(name: str) -> bool:
    """Whether a parameter is a component's own, not an adapter's or the added token's."""
    return not is_adapter_weight(name) and not name.endswith("token_embedding.row")
