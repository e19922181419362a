"""From the configuration to the loop: optimiser, batches, validation, checkpoints."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from src.callbacks.base import Callback
from src.config.optimizer_schema import OptimizerConfig
from src.config.schema import TrainConfig
from src.config.targets import resolve
from src.data.loader import step_batches
from src.data.order import Position, num_micro_batches
from src.diffusion.timesteps import TimestepSampling
from src.errors import UserError
from src.loggers.multi import MultiLogger
from src.models.adapters import (
    TrainableGroup,
    load_trainable_state,
    trainable_state,
)
from src.models.base import DiffusionModel
from src.run.build_sides import EncodedSides
from src.run.memory_settings import remedies
from src.training.checkpoint import Checkpointer
from src.training.objective import Objective
from src.training.optimizer_step import Share
from src.training.optimizers import call_quietly, make_optimizer
from src.training.phase_memory import PhaseMemory
from src.training.plan import Plan
from src.training.trainer import Trainer
from src.training.validation import ImageSet, Validator


def check_optimizer(config: OptimizerConfig) -> None:
    """Makes the optimiser once for a parameter of no use: its own checks of its settings come before work.

    Raises:
        UserError: what the optimiser says against them.
    """
    algorithm, settings = resolve("optimizer.algorithm", config.algorithm)
    try:
        call_quietly(algorithm, [torch.nn.Parameter(torch.zeros(1))], lr=config.lr, **settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer.algorithm ({config.algorithm['_target_']}): {error}.") from error


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
    configured: Mapping[str, Any],
    memory: PhaseMemory,
    size: tuple[int, int],
) -> Trainer:
    """Puts the loop together."""
    trainer, world_size, train = config.trainer, accelerator.num_processes, sides.train
    algorithm, settings = resolve("optimizer.algorithm", config.optimizer.algorithm)
    optimizer = make_optimizer(
        groups,
        algorithm=functools.partial(algorithm, **settings),
        lr=config.optimizer.lr,
        lr_text_encoder=config.optimizer.lr_text_encoder,
        lr_text_encoder_2=config.optimizer.lr_text_encoder_2,
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
        warmup_steps=config.optimizer.warmup_steps or 0,
        warmup_epochs=config.optimizer.warmup_epochs,
        min_lr_ratio=config.optimizer.min_lr_ratio,
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
        min_snr_gamma=trainer.min_snr_cap,
        is_debiased=trainer.loss_weighting == "debiased",
        noise_offset=trainer.noise_offset,
        timesteps=TimestepSampling(
            distribution=trainer.timestep_sampling,
            first=trainer.min_timestep,
            end=trainer.max_timestep,
            mean=trainer.logit_normal_mean,
            std=trainer.logit_normal_std,
        ),
        unmasked_weight=trainer.unmasked_weight,
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
        ema_decay=trainer.ema_decay,
        configured=configured,
        allow_resume_changes=trainer.resume_changed == "allow",
        save_every_minutes=trainer.save_every_minutes,
        wait_for_space=trainer.on_full_disk == "wait",
        spike_factor=trainer.spike_factor,
        memory=memory,
        memory_remedies=remedies(config, size=size),
    )
