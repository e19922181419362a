"""From the configuration to the parts of a training run: model, adapter, batches, trainer, observers."""

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from src.data.loader import step_batches
from src.data.order import Position, num_micro_batches
from src.data.records import Record
from src.errors import UserError
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
from src.models.prompts import cut_warnings
from src.run.build_data import PreparedData
from src.run.build_encoded import encoded_dataset, fill_cache
from src.run.drawn_class_images import base_and_drawn_images
from src.run.room_agreement import Room, agree_on_room, hold_cache_limit
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


def load_base_and_data(
    config: TrainConfig,
    data: PreparedData,
    *,
    size: tuple[int, int],
    accelerator: Accelerator,
    agreement: Agreement,
) -> tuple[DiffusionModel, PreparedData]:
    """Loads the base model, and completes the data by what it draws."""
    weight = config.trainer.prior_loss_weight
    model, drawn = base_and_drawn_images(
        config,
        load=functools.partial(load_base, config.model),
        dtype=DTYPES[accelerator.mixed_precision],
        size=size,
        accelerator=accelerator,
        agreement=agreement,
    )
    data = data if drawn is None else replace(data, class_images=drawn)
    if data.class_images is not None and accelerator.is_main_process:
        log.info("Class images: %d, trained on with weight %g", len(data.class_images.records), weight)
    return model, data


def prepare_model(
    config: TrainConfig, model: DiffusionModel, accelerator: Accelerator
) -> list[TrainableGroup]:
    """Attaches to the base model what is trained, and moves both to the device."""
    settings = adapter_settings(config.adapter, placeholder=config.dataset.placeholder)
    groups = attach(model, settings, seed=config.trainer.seed)
    if config.trainer.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    model.to_device(accelerator.device, DTYPES[accelerator.mixed_precision])
    return groups


def trains_text(config: AdapterConfig) -> bool:
    """Whether embeddings change while training, so that the loop encodes the text itself."""
    modes = (config.text_encoder, config.text_encoder_2)
    return config.token_embedding == "train" or any(mode != "frozen" for mode in modes)


def fix_prompt_chunks(config: TrainConfig, data: PreparedData, model: DiffusionModel) -> None:
    """Settles how long prompts are in this run, and says which texts will not be seen to their end.

    With long prompts every caption is encoded as as many chunks as the longest of the dataset needs, on both
    sides of the split: a sample's loss does not depend on its neighbours, nor the number on the split.
    """
    records = [*data.result.records, *([] if data.class_images is None else data.class_images.records)]
    if config.model.long_prompts:
        most = config.model.max_prompt_chunks
        model.use_chunks(1, max_chunks=most)
        num_chunks = max(model.chunks_of(record.caption) for record in records)
        model.use_chunks(num_chunks, max_chunks=most)
        log.info("Prompts are encoded as %d x %d tokens", num_chunks, model.chunk_size)
    texts = [(record.id, record.caption) for record in records]
    texts += [(f"dataset.prompts[{index}]", text) for index, text in enumerate(config.dataset.prompts)]
    texts.append(("dataset.negative_prompt", config.dataset.negative_prompt))
    for warning in cut_warnings(model, texts):
        log.warning("%s", warning)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSides:
    """The dataset as training sees it, and as it is measured: without crops, flips and caption dropout.

    Class images, where there are any, are trained on and not measured.
    """

    train: EncodedDataset
    probe: EncodedDataset
    held_out: EncodedDataset
    class_images: EncodedDataset | None


def encode_sides(
    config: TrainConfig,
    data: PreparedData,
    *,
    model: DiffusionModel,
    accelerator: Accelerator,
    agreement: Agreement,
) -> EncodedSides:
    """Both sides of the split, their caches filled by all processes together."""
    live_text = trains_text(config.adapter)
    if live_text and config.dataset.cache:
        log.info("Texts are encoded at each step and not kept: a text encoder or an embedding is trained")

    def make(*, keep_text: bool) -> EncodedSides:
        def side(records: list[Record], *, train: bool) -> EncodedDataset:
            return encoded_dataset(
                records,
                config=config,
                data=data,
                model=model,
                train=train,
                live_text=live_text,
                keep_text=keep_text,
            )

        drawn = None if data.class_images is None else side(data.class_images.records, train=True)
        return EncodedSides(
            train=side(data.split.train, train=True),
            probe=side(data.split.train, train=False),
            held_out=side(data.split.validation, train=False),
            class_images=drawn,
        )

    sides = make(keep_text=True)
    if config.dataset.cache:
        room = agree_on_room(
            config,
            list(_filled(sides).values()),
            # Its centre crops are among the others, or encoded when they are first measured.
            [sides.probe] if config.dataset.crop == "random" else [],
            model=model,
            is_main=accelerator.is_main_process,
            agreement=agreement,
        )
        if room is Room.NOT_FOR_TEXT:
            sides = make(keep_text=False)
        if room is not Room.NOTHING_TO_DO:
            ranks = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
            for what, dataset in _filled(sides).items():
                fill_cache(dataset, what=what, **ranks)
            agreement.wait()
        if accelerator.is_main_process:
            hold_cache_limit(config)
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


def _filled(sides: EncodedSides) -> dict[str, EncodedDataset]:
    """What is encoded before training, by name."""
    named = {"training images": sides.train, "validation images": sides.held_out}
    return named if sides.class_images is None else {**named, "class images": sides.class_images}


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
        num_micro_batches=num_micro_batches(
            train.ids, global_batch_size=trainer.batch_size * world_size, bucket_of=train.sizes
        ),
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
            class_images=sides.class_images,
        )

    validator = Validator(
        denoiser=model.denoiser,
        accelerator=accelerator,
        held_out=ImageSet(ids=sides.held_out.ids, sizes=sides.held_out.sizes, batch=sides.held_out.batch),
        train=ImageSet(ids=sides.probe.ids, sizes=sides.probe.sizes, batch=sides.probe.batch),
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
        prior_loss_weight=trainer.prior_loss_weight,
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
