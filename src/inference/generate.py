"""Images from prompts: the same seed gives the same starting noise, whatever batch size or adapter."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from src.errors import UserError
from src.models.base import DiffusionModel
from src.randomness import address_seed

_MULTIPLE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImage:
    """An image and all that made it.

    Attributes:
        image: RGB.
        params: from `plan_images`.
    """

    image: Image.Image
    params: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """Its prompt."""
        return str(self.params["prompt"])


def generate(
    model: DiffusionModel,
    *,
    prompts: Sequence[str],
    negative_prompt: str = "",
    num_images: int = 1,
    num_steps: int = 25,
    guidance_scale: float = 5.0,
    seed: int = 0,
    width: int,
    height: int,
    scheduler: str = "dpmpp_2m",
    batch_size: int = 4,
    on_batch: Callable[[int, int], None] | None = None,
) -> list[GeneratedImage]:
    """Generates `num_images` images for each prompt, prompt after prompt.

    An image's noise is addressed by (seed, prompt, its index), so it does not depend on the batch size, the
    other prompts or what the model has learned: base and adapted model start from the same noise. Nor do the
    chunks of its prompt (`prompt_chunks` of its parameters) depend on other prompts than the negative one.

    Args:
        model: gives the pipeline. Its modules are in eval mode meanwhile, and as before afterwards.
        prompts: texts, all different.
        negative_prompt: what to lead away from, for every image.
        num_images: for each prompt.
        num_steps: denoising steps.
        guidance_scale: of classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598); 1 is without.
        seed: of the noise.
        width: in pixels, a multiple of 8.
        height: in pixels, a multiple of 8.
        scheduler: short name, see `src.models.schedulers`.
        batch_size: images at a time.
        on_batch: told (images done, images in all) after each batch.

    Raises:
        UserError: a prompt stands there twice, a size that no latent has, or an image that is not finite
            (half precision overflowed).
    """
    planned = plan_images(
        prompts=prompts,
        negative_prompt=negative_prompt,
        num_images=num_images,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        seed=seed,
        width=width,
        height=height,
        scheduler=scheduler,
    )
    return generate_planned(model, planned, batch_size=batch_size, on_batch=on_batch)


def generate_planned(
    model: DiffusionModel,
    planned: Sequence[Mapping[str, Any]],
    *,
    batch_size: int,
    on_batch: Callable[[int, int], None] | None = None,
) -> list[GeneratedImage]:
    """Generates some of what `plan_images` planned, or nothing; see `generate`.

    Raises:
        UserError: an image is not finite (half precision overflowed).
    """
    images: list[GeneratedImage] = []
    if not planned:
        return images
    pipeline = model.pipeline(planned[0]["scheduler"])
    with torch.no_grad(), _in_eval_mode(pipeline), _one_precision(pipeline):
        for batch in _batches(model, planned, batch_size):
            pictures = _run(model, pipeline, batch)
            images += [
                GeneratedImage(image=image, params=params)
                for image, params in zip(pictures, batch, strict=True)
            ]
            if on_batch is not None:
                on_batch(len(images), len(planned))
    return images


def plan_images(
    *, prompts: Sequence[str], num_images: int, seed: int, width: int, height: int, **settings: Any
) -> list[dict[str, Any]]:
    """What `generate` will make: each image's parameters as plain values, also for the PNG's metadata.

    `index` is which of its prompt's images one is, from 0. `noise_seed` alone gives the starting noise:
    `generator=torch.Generator("cpu").manual_seed(noise_seed)` in plain diffusers (fp32).

    Raises:
        UserError: a prompt stands there twice, or a size that no latent has.
    """
    assert prompts, "nothing to generate"
    if len(set(prompts)) < len(prompts):
        raise UserError("The same prompt stands twice in prompts. Give it once and raise num_images instead.")
    require_size(width, height)
    shared = {"seed": seed, "width": width, "height": height, **settings}
    return [
        {"prompt": prompt, "index": index, "noise_seed": noise_seed(seed, prompt, index), **shared}
        for prompt in prompts
        for index in range(num_images)
    ]


def noise_seed(seed: int, prompt: str, index: int) -> int:
    """The seed of one image's starting noise."""
    return address_seed(seed, "sample", prompt, index)


def require_size(width: int, height: int) -> None:
    """Refuses sizes that do not divide into latents.

    Raises:
        UserError: a side is not a positive multiple of 8.
    """
    for name, side in (("width", width), ("height", height)):
        if side <= 0 or side % _MULTIPLE:
            lower = max(_MULTIPLE, side // _MULTIPLE * _MULTIPLE)
            raise UserError(
                f"{name}={side} is not a positive multiple of {_MULTIPLE}. The nearest are {lower} and "
                f"{lower + _MULTIPLE}."
            )


def _batches(
    model: DiffusionModel, planned: Sequence[Mapping[str, Any]], batch_size: int
) -> Iterator[list[dict[str, Any]]]:
    """Neighbours of one number of chunks, which their parameters then say: they can be drawn together."""
    chunked = [
        {**params, "prompt_chunks": model.chunks_of(params["prompt"], params["negative_prompt"])}
        for params in planned
    ]
    for _, group in groupby(chunked, key=lambda params: params["prompt_chunks"]):
        alike = list(group)
        for start in range(0, len(alike), batch_size):
            yield alike[start : start + batch_size]


def _run(model: DiffusionModel, pipeline: Any, batch: Sequence[Mapping[str, Any]]) -> list[Image.Image]:
    settings = batch[0]
    width, height = settings["width"], settings["height"]
    generators = [torch.Generator("cpu").manual_seed(params["noise_seed"]) for params in batch]
    factor = pipeline.vae_scale_factor
    channels = pipeline.unet.config.in_channels
    latents = starting_noise(generators, channels=channels, height=height // factor, width=width // factor)
    num_chunks = settings["prompt_chunks"]
    prompts = model.encode_prompts([params["prompt"] for params in batch], num_chunks)
    # SDXL's configuration may ask for zeros where nothing is to be led away from: ours for an empty text.
    negative = model.encode_prompts([settings["negative_prompt"]] * len(batch), num_chunks)
    pixels = pipeline(
        **_embeddings("", *prompts),
        **_embeddings("negative_", *negative),
        num_inference_steps=settings["num_steps"],
        guidance_scale=settings["guidance_scale"],
        width=width,
        height=height,
        latents=latents.to(pipeline.unet.device, pipeline.unet.dtype),
        generator=generators,
        output_type="pt",
    ).images
    if not torch.isfinite(pixels).all():
        raise UserError(
            "Generated images hold NaN: half precision overflowed, most often in SDXL's own VAE. Set "
            "model.vae_path=madebyollin/sdxl-vae-fp16-fix or inference.mixed_precision=no."
        )
    images: list[Image.Image] = pipeline.image_processor.postprocess(
        pixels, output_type="pil", do_denormalize=[False] * len(batch)
    )
    return images


def _embeddings(
    prefix: str, hidden: Float[Tensor, "b t d"], pooled: Float[Tensor, "b p"] | None
) -> dict[str, Tensor]:
    """Embeddings as the pipelines take them, SDXL's with the pooled ones."""
    given = {f"{prefix}prompt_embeds": hidden}
    return given if pooled is None else {**given, f"{prefix}pooled_prompt_embeds": pooled}


def starting_noise(
    generators: Sequence[torch.Generator], *, channels: int, height: int, width: int
) -> Float[Tensor, "b c h w"]:
    """Standard normal latents, one generator an image, as diffusers draws them from a list of generators."""
    return torch.cat([torch.randn(1, channels, height, width, generator=each) for each in generators])


@contextmanager
def _in_eval_mode(pipeline: Any) -> Iterator[None]:
    modules = [
        module
        for component in pipeline.components.values()
        if isinstance(component, nn.Module)
        for module in component.modules()
    ]
    modes = [(module, module.training) for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training


def _one_precision(pipeline: Any) -> Any:
    """Autocast where parts differ in precision: one trained in full, in fp32, beside frozen ones in bf16."""
    names = ("unet", "text_encoder", "text_encoder_2")
    parts = [getattr(pipeline, name) for name in names if getattr(pipeline, name, None) is not None]
    dtypes = {part.dtype for part in parts}
    if len(dtypes) == 1:
        return nullcontext()
    lowest = min(dtypes, key=lambda dtype: dtype.itemsize)
    return torch.autocast(pipeline.unet.device.type, dtype=lowest)
