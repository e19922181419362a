"""A few steps of a real UNet in miniature, ready to train."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from src.callbacks.base import Callback
from src.data.encode import EncodedDataset
from src.data.loader import step_batches
from src.data.order import num_micro_batches
from src.data.records import Record
from src.loggers.jsonl import JsonlLogger
from src.models.adapters import AdapterSettings, attach, load_trainable_state, trainable_state
from src.models.base import DiffusionModel
from src.models.eight_bit import WeightPrecision, to_eight_bits
from src.models.load import load_model
from src.training.accelerator import make_accelerator
from src.training.checkpoint import Checkpointer
from src.training.objective import Objective
from src.training.optimizers import make_optimizer
from src.training.plan import Plan
from src.training.trainer import Trainer


@dataclass
class Run:
    """What trains, and what is trained."""

    model: DiffusionModel
    trainer: Trainer


def make_run(
    model_folder: Path,
    folder: Path,
    *,
    settings: AdapterSettings,
    records: Sequence[Record],
    callbacks: Sequence[Callback],
    max_steps: int,
    resume: str = "never",
    algorithm: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    lr: float = 1e-2,
    ema_decay: float | None = None,
    base_precision: WeightPrecision | None = None,
) -> Run:
    """Loads a model, attaches what is to be trained, and makes a trainer with batches of two images."""
    model = load_model(str(model_folder))
    groups = attach(model, settings, seed=0)
    if base_precision is not None:
        to_eight_bits(model.unet, base_precision)
    dataset = EncodedDataset(
        records,
        hashes={record.id: record.id for record in records},
        sizes={record.id: (64, 64) for record in records},
        seed=0,
        encode_images=model.encode_images,
    )
    logger = JsonlLogger(run_dir=folder)
    logger.start()
    num_batches = num_micro_batches(dataset.ids, global_batch_size=2)
    trainer = Trainer(
        plan=Plan(num_micro_batches=num_batches, max_steps=max_steps, log_every=1),
        accelerator=make_accelerator(device="cpu"),
        model=model,
        denoiser=model.denoiser,
        groups=groups,
        trainable_state=functools.partial(trainable_state, model),
        load_trainable_state=functools.partial(load_trainable_state, model),
        optimizer=make_optimizer(groups, algorithm=algorithm, lr=lr),
        objective=Objective(
            prediction_type=model.prediction_type,
            alphas_cumprod=model.alphas_cumprod,
            min_snr_gamma=5.0,
            seed=0,
            tokenize=model.tokenize,
        ),
        batches=lambda position: step_batches(dataset, seed=0, batch_size=2, start=position),
        validator=None,
        checkpointer=Checkpointer(folder / "checkpoints", keep=1),
        callbacks=callbacks,
        logger=logger,
        output_dir=folder,
        seed=0,
        must_match={"base": model.base_hash},
        max_grad_norm=1.0,
        resume=resume,
        ema_decay=ema_decay,
    )
    return Run(model, trainer)
