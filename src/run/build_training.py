"""From the configuration to the parts of a training run: model, adapter, batches, trainer, observers."""

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from src.callbacks.base import Callback
from src.config.schema import (
    AdapterConfig,
    MetricsConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from src.config.targets import build, resolve
from src.data.encode import EncodedDataset
from src.data.images import load_image, parse_colour
from src.data.latent_cache import latent_entry_bytes
from src.data.loader import step_batches
from src.data.order import Position, num_micro_batches
from src.data.preflight import token_warnings
from src.data.records import Record
from src.data.text_cache import text_entry_bytes
from src.errors import UserError
from src.files import require_free_space
from src.loggers.multi import MultiLogger
from src.metrics.evaluate import words_for_clip
from src.models.adapters import (
    AdapterSettings,
    TrainableGroup,
    attach,
    load_trainable_state,
    trainable_state,
)
from src.models.base import DiffusionModel
from src.models.load import load_model
from src.run.build_data import PreparedData
from src.run.build_encoded import encoded_dataset, fill_cache
from src.training.accelerator import Agreement
from src.training.checkpoint import Checkpointer
from src.training.objective import Objective
from src.training.optimizer_step import Share
from src.training.optimizers import make_optimizer
from src.training.plan import Plan
from src.training.trainer import Trainer
from src.training.validation import ImageSet, Validator

log = logging.getLogger(__name__)
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_base(config: ModelConfig, *, dtype: torch.dtype = torch.float32) -> DiffusionModel:
    """Loads the base model that a configuration names.

    Args:
        config: of the model.
        dtype: precision of its UNet and text encoders. What will be trained needs all digits of the files.
    """
    assert config.path is not None
    return load_model(
        config.path,
        vae_path=config.vae_path,
        architecture=config.architecture,  # type: ignore[arg-type]  # checked by the schema
        revision=config.revision,
        variant=config.variant,
        torch_dtype=dtype,
    )


def adapter_settings(config: AdapterConfig, *, placeholder: str | None) -> AdapterSettings:
    """What `attach` needs of a configuration."""
    return AdapterSettings(
        unet=config.unet,  # type: ignore[arg-type]  # checked by the schema
        text_encoder=config.text_encoder,  # type: ignore[arg-type]
        text_encoder_2=config.text_encoder_2,  # type: ignore[arg-type]
        token_embedding=config.token_embedding,  # type: ignore[arg-type]
        rank=config.rank,
        alpha=config.alpha,
        dropout=config.dropout,
        target_modules=tuple(config.target_modules),
        text_target_modules=tuple(config.text_target_modules),
        placeholder=placeholder if config.token_embedding == "train" else None,
        initializer_word=config.initializer_word,
    )


def prepare_model(
    config: TrainConfig, accelerator: Accelerator
) -> tuple[DiffusionModel, list[TrainableGroup]]:
    """Loads the base model, attaches what is trained, and moves both to the device."""
    model = load_base(config.model)
    settings = adapter_settings(config.adapter, placeholder=config.dataset.placeholder)
    groups = attach(model, settings, seed=config.trainer.seed)
    if config.trainer.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    model.to_device(accelerator.device, DTYPES[accelerator.mixed_precision])
    return model, groups


def trains_text(config: AdapterConfig) -> bool:
    """Whether embeddings change while training, so that the loop encodes the text itself."""
    modes = (config.text_encoder, config.text_encoder_2)
    return config.token_embedding == "train" or any(mode != "frozen" for mode in modes)


def warn_of_long_captions(data: PreparedData, model: DiffusionModel) -> None:
    """Says which captions the text encoder will not see to their end."""
    for warning in token_warnings(data.result.records, model.count_tokens, model.token_limit):
        log.warning("%s", warning)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSides:
    """The dataset as training sees it, and as it is measured: without crops, flips and caption dropout."""

    train: EncodedDataset
    probe: EncodedDataset
    held_out: EncodedDataset


def encode_sides(
    config: TrainConfig,
    data: PreparedData,
    *,
    size: tuple[int, int],
    model: DiffusionModel,
    accelerator: Accelerator,
    agreement: Agreement,
) -> EncodedSides:
    """Both sides of the split at a size in pixels, their caches filled by all processes together."""
    live_text = trains_text(config.adapter)

    def side(records: list[Record], *, train: bool) -> EncodedDataset:
        return encoded_dataset(
            records, config=config, data=data, size=size, model=model, train=train, live_text=live_text
        )

    sides = EncodedSides(
        train=side(data.split.train, train=True),
        probe=side(data.split.train, train=False),
        held_out=side(data.split.validation, train=False),
    )
    if config.dataset.cache:
        if accelerator.is_main_process:
            _announce_encoding([sides.train, sides.held_out], size=size, model=model, config=config)
        ranks = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
        fill_cache(sides.train, what="training images", **ranks)
        fill_cache(sides.held_out, what="validation images", **ranks)
        agreement.wait()
    return sides


def check_optimizer(config: OptimizerConfig) -> None:
    """Makes the optimiser once for a parameter of no use: its own checks of its settings come before work.

    Raises:
        UserError: what the optimiser says against them.
    """
    algorithm, settings = resolve("optimizer.algorithm", config.algorithm)
    try:
        algorithm([torch.nn.Parameter(torch.zeros(1))], lr=config.lr, **settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer.algorithm ({config.algorithm['_target_']}): {error}.") from error


def _announce_encoding(
    sides: Sequence[EncodedDataset], *, size: tuple[int, int], model: DiffusionModel, config: TrainConfig
) -> None:
    """Says what will be encoded and how large it gets, and refuses what the disk cannot hold."""
    missing = [side.num_missing() for side in sides]
    num_images, num_texts = sum(images for images, _ in missing), sum(texts for _, texts in missing)
    if num_images + num_texts == 0:
        return
    latent = latent_entry_bytes(size, channels=model.latent_channels, factor=model.vae_scale_factor)
    num_bytes = num_images * latent + num_texts * (_text_bytes(model) if num_texts else 0)
    cache_dir = Path(config.paths.cache_dir)
    log.info(
        "Encoding %d images and %d texts, %.1f MB in %s", num_images, num_texts, num_bytes / 1e6, cache_dir
    )
    require_free_space(cache_dir, num_bytes, "the caches (dataset.cache=false does without)")


def _text_bytes(model: DiffusionModel) -> int:
    hidden, pooled = model.encode_prompts([""])
    _, num_tokens, width = hidden.shape
    return text_entry_bytes(num_tokens, width, pooled_width=0 if pooled is None else pooled.shape[1])


def build_trainer(
    config: TrainConfig,
    *,
    accelerator: Accelerator,
    model: DiffusionModel,
    groups: Sequence[TrainableGroup],
    sides: EncodedSides,
    callbacks: Sequence[Callback],
    logger: MultiLogger,
    run_dir: Path,
    must_match: dict[str, Any],
) -> Trainer:
    """Puts the loop together."""
    trainer, world_size, train = config.trainer, accelerator.num_processes, sides.train
    algorithm, settings = resolve("optimizer.algorithm", config.optimizer.algorithm)
    optimizer = make_optimizer(
        groups,
        algorithm=functools.partial(algorithm, **settings),
        lr=config.optimizer.lr,
        lr_text_encoder=config.optimizer.lr_text_encoder,
        lr_token_embedding=config.optimizer.lr_token_embedding,
    )
    plan = Plan(
        num_micro_batches=num_micro_batches(train.ids, global_batch_size=trainer.batch_size * world_size),
        max_steps=trainer.max_steps,
        num_epochs=trainer.num_epochs,
        gradient_accumulation_steps=trainer.gradient_accumulation_steps,
        schedule=config.optimizer.schedule,
        warmup_steps=config.optimizer.warmup_steps,
        log_every=trainer.log_every,
        validate_every=trainer.validate_every,
        save_every=trainer.save_every,
    )

    def batches(start: Position) -> Iterator[Share]:
        return step_batches(
            train,
            seed=trainer.seed,
            batch_size=trainer.batch_size,
            start=start,
            rank=accelerator.process_index,
            world_size=world_size,
            num_workers=trainer.num_workers,
        )

    validator = Validator(
        denoiser=model.denoiser,
        accelerator=accelerator,
        held_out=ImageSet(ids=sides.held_out.ids, batch=sides.held_out.batch),
        train=ImageSet(ids=sides.probe.ids, batch=sides.probe.batch),
        prediction_type=model.prediction_type,
        alphas_cumprod=model.alphas_cumprod,
        tokenize=model.tokenize,
        num_timesteps=trainer.num_validation_timesteps,
        max_images=trainer.max_validation_images,
        batch_size=trainer.batch_size,
        seed=config.dataset.split_seed,
    )
    objective = Objective(
        prediction_type=model.prediction_type,
        alphas_cumprod=model.alphas_cumprod,
        min_snr_gamma=trainer.min_snr_gamma,
        seed=trainer.seed,
        tokenize=model.tokenize,
    )
    return Trainer(
        plan=plan,
        accelerator=accelerator,
        model=model,
        denoiser=model.denoiser,
        groups=groups,
        trainable_state=functools.partial(trainable_state, model),
        load_trainable_state=functools.partial(load_trainable_state, model),
        optimizer=optimizer,
        objective=objective,
        batches=batches,
        validator=validator,
        checkpointer=Checkpointer(run_dir / "checkpoints", keep=trainer.keep_checkpoints),
        callbacks=callbacks,
        logger=logger,
        output_dir=run_dir,
        seed=trainer.seed,
        must_match=must_match,
        max_grad_norm=trainer.max_grad_norm,
        resume=trainer.resume,
    )


def build_extractors(config: MetricsConfig) -> dict[str, Any]:
    """The judging models by name; None where switched off."""
    return {
        "dino": build("metrics.dino", config.dino) if config.dino else None,
        "clip": build("metrics.clip", config.clip) if config.clip else None,
    }


def build_callbacks(config: TrainConfig, data: PreparedData, *, size: tuple[int, int]) -> list[Callback]:
    """All chosen callbacks, each with those of the run's values that it asks for."""
    chosen = {name: block for name, block in config.callbacks.items() if block is not None}
    dataset, held_out = config.dataset, data.split.validation
    background = parse_colour(dataset.background)
    for_clip = functools.partial(
        words_for_clip, placeholder=dataset.placeholder, class_word=dataset.class_word
    )
    runtime: dict[str, Any] = {
        "prompts": dataset.prompts,
        "clip_prompts": [for_clip(prompt) for prompt in dataset.prompts],
        "negative_prompt": dataset.negative_prompt,
        "resolution": size,
        "held_out": [record.path for record in held_out],
        "held_out_captions": [for_clip(record.caption) for record in held_out],
        "load_image": functools.partial(load_image, background=background),
    }
    if any(block["_target_"].endswith(".SampleImages") for block in chosen.values()):
        runtime |= build_extractors(config.metrics)
    return [build("callbacks", block, **runtime) for block in chosen.values()]
