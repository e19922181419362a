"""From the configuration to the base model with what is trained on it."""

import logging
from dataclasses import replace

import torch
from accelerate import Accelerator

from src.config.adapter_schema import AdapterConfig
from src.config.schema import ModelConfig, TrainConfig
from src.models.adapter_checks import check_layers
from src.models.adapters import AdapterSettings, TrainableGroup, attach
from src.models.base import DiffusionModel
from src.models.eight_bit import to_eight_bits
from src.models.load import load_model
from src.models.prompts import cut_warnings
from src.run.build_data import PreparedData
from src.run.drawn_class_images import base_and_drawn_images
from src.training.accelerator import Agreement
from src.training.sharding import shard

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
        method=config.method,  # type: ignore[arg-type]
        rank=config.rank,
        alpha=config.alpha,
        rslora=config.rslora,
        rank_pattern=config.rank_pattern,
        alpha_pattern=config.alpha_pattern,
        dropout=config.dropout,
        rank_dropout=config.rank_dropout,
        lokr_factor=config.lokr_factor,
        target_modules=tuple(config.target_modules),
        text_target_modules=tuple(config.text_target_modules),
        placeholder=placeholder if config.token_embedding == "train" else None,
        initializer_word=config.initializer_word,
        num_token_vectors=config.num_token_vectors,
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
    settings = adapter_settings(config.adapter, placeholder=config.dataset.placeholder)

    def load() -> DiffusionModel:
        model = load_base(config.model)
        # Before hours of drawing, and of encoding.
        check_layers(model, settings)
        return model

    model, drawn = base_and_drawn_images(
        config,
        load=load,
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
    model.schedule.use(
        prediction_type=config.trainer.prediction_type, zero_terminal_snr=config.trainer.zero_terminal_snr
    )
    settings = adapter_settings(config.adapter, placeholder=config.dataset.placeholder)
    groups = attach(model, settings, seed=config.trainer.seed)
    if config.trainer.base_precision != "auto":
        # From the files' digits, and before it moves: the device never holds the weights of full size.
        to_eight_bits(model.unet, config.trainer.base_precision)  # type: ignore[arg-type]  # checked by the schema
    if config.trainer.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    model.to_device(accelerator.device, DTYPES[accelerator.mixed_precision])
    if config.accelerate.is_sharded:
        unet = model.unet
        blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
        groups = shard(unet, blocks, groups, accelerator=accelerator)
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
