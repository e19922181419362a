"""A tiny real model, a tiny real dataset, and a trainer over both."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from src.callbacks.base import Callback
from src.data.encode import EncodedDataset
from src.data.loader import step_batches
from src.data.masks import MaskSource
from src.data.order import Position, num_micro_batches
from src.data.records import Record
from src.loggers.jsonl import JsonlLogger
from src.randomness import generator
from src.training.accelerator import make_accelerator
from src.training.checkpoint import Checkpointer
from src.training.objective import Objective
from src.training.optimizer_step import Share
from src.training.optimizers import make_optimizer
from src.training.phase_memory import PhaseMemory
from src.training.plan import Plan
from src.training.sharding import shard
from src.training.trainer import Trainer
from src.training.validation import ImageSet, Validator

ALPHAS_CUMPROD = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 100) ** 2, dim=0)
BUCKETS = ((16, 16), (20, 12), (12, 20))
NAN_CAPTION = "a caption whose embedding is not a number"


class TinyDenoiser(nn.Module):
    """Convolutions with dropout, conditioned on timestep, text and sizes; its first layer is frozen."""

    def __init__(self, *, dropout: float = 0.2) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.frozen = nn.Conv2d(4, 8, 3, padding=1).requires_grad_(False)
            self.condition = nn.Linear(3, 8)
            self.text = nn.Linear(6, 8)
            self.table = nn.Embedding(16, 6)
            self.out = nn.Conv2d(8, 4, 3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        noisy: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
        *,
        token_ids: Int[Tensor, "n b t"] | None = None,
        hidden: Float[Tensor, "b t d"] | None = None,
        pooled: Float[Tensor, "b p"] | None = None,
        original_sizes: Int[Tensor, "b 2"],
        crop_top_lefts: Int[Tensor, "b 2"],
        target_sizes: Int[Tensor, "b 2"],
    ) -> Float[Tensor, "b c h w"]:
        if hidden is None:
            assert token_ids is not None
            hidden = self.table(token_ids[0])
        time = torch.stack([timesteps / 100, (timesteps / 16).sin(), crop_top_lefts[:, 0] / 16], dim=1)
        conditions = self.condition(time) + self.text(hidden.mean(dim=1))
        features = nn.functional.silu(self.frozen(noisy) + conditions[:, :, None, None])
        return self.out(self.dropout(features))


@dataclass(frozen=True)
class Group:
    name: str
    parameters: list[tuple[str, nn.Parameter]]


def groups_of(denoiser: TinyDenoiser) -> list[Group]:
    named = [(name, p) for name, p in denoiser.named_parameters() if p.requires_grad]
    unet = [pair for pair in named if pair[0].split(".")[0] in {"condition", "out"}]
    text = [pair for pair in named if pair[0].split(".")[0] == "text"]
    token = [pair for pair in named if pair[0].split(".")[0] == "table"]
    return [Group("unet_lora", unet), Group("text_encoder", text), Group("token_embedding", token)]


def make_images(folder: Path, num_images: int) -> list[Record]:
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(num_images):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        path = folder / f"{index:02d}.png"
        Image.fromarray(pixels).save(path)
        records.append(Record(path=path, caption=f"caption {index % 5}", id=path.name))
    return records


def make_class_images(folder: Path, num_images: int) -> list[Record]:
    """Other pictures than those of `make_images`, in a folder of their own."""
    others = make_images(folder, 40)[40 - num_images :]
    return [replace(record, id=f"class:{record.id}", caption="a photo of a toy") for record in others]


def encode_images(pixels: Tensor) -> tuple[Tensor, Tensor]:
    small = nn.functional.avg_pool2d(pixels, 2)
    mean = torch.cat([small, small.mean(dim=1, keepdim=True)], dim=1)
    return mean, torch.full_like(mean, 0.1)


def encode_text(captions: list[str]) -> tuple[Tensor, None]:
    hidden = [torch.randn(3, 6, generator=generator("text", caption)) for caption in captions]
    embeddings = torch.stack(hidden)
    embeddings[[caption == NAN_CAPTION for caption in captions]] = torch.nan
    return embeddings, None


def tokenize(captions: Sequence[str]) -> Tensor:
    ids = [[len(caption) % 16, sum(caption.encode()) % 16, 1] for caption in captions]
    return torch.tensor([ids])


def make_masks(records: Sequence[Record]) -> dict[str, MaskSource]:
    """A disc for each image, in a place of its own."""
    sources = {}
    for number, record in enumerate(records):
        path = record.path.parent / "masks" / record.path.name
        path.parent.mkdir(exist_ok=True)
        across, down = np.meshgrid(np.arange(20), np.arange(20))
        is_inside = (across - 5 - number % 7) ** 2 + (down - 8) ** 2 < 25
        Image.fromarray(np.uint8(255 * is_inside)).save(path)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        sources[record.id] = MaskSource(path=path, is_alpha=False, content=content)
    return sources


def make_dataset(
    records: Sequence[Record],
    *,
    text: bool = True,
    caption_dropout: float = 0.2,
    buckets: bool = False,
    masks: Mapping[str, MaskSource] | None = None,
) -> EncodedDataset:
    return EncodedDataset(
        records,
        hashes={record.id: hashlib.sha256(record.path.read_bytes()).hexdigest() for record in records},
        sizes={record.id: BUCKETS[int(record.path.stem) % 3 if buckets else 0] for record in records},
        seed=0,
        crop="random",
        flip=True,
        num_variants=2,
        encode_images=encode_images,
        encode_text=encode_text if text else None,
        caption_dropout=caption_dropout,
        masks=masks,
    )


@dataclass(kw_only=True)
class Tiny:
    """Settings of a tiny run; `trainer()` builds it."""

    folder: Path
    records: list[Record]
    held_out: list[Record] = field(default_factory=list)
    max_steps: int | None = 10
    num_epochs: int | None = None
    batch_size: int = 4
    accumulation: int = 1
    num_workers: int = 0
    buckets: bool = False
    text: bool = True
    dropout: float = 0.2
    lr: float = 1e-2
    schedule: str = "cosine"
    ema_decay: float | None = None
    log_every: int = 3
    validate_every: int | None = None
    save_every: int | None = None
    keep: int = 2
    resume: str = "never"
    seed: int = 0
    callbacks: Sequence[Callback] = ()
    must_match: Mapping[str, Any] = field(default_factory=dict)
    algorithm: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    one_lr: bool = False
    warmup_steps: int = 2
    warmup_epochs: float | None = None
    min_lr_ratio: float = 0.0
    accelerator: Accelerator | None = None
    max_grad_norm: float | None = 1.0
    class_records: list[Record] = field(default_factory=list)
    prior_loss_weight: float | None = None
    configured: Mapping[str, Any] = field(default_factory=dict)
    allow_resume_changes: bool = False
    save_every_minutes: float | None = None
    wait_for_space: bool = False
    spike_factor: float | None = None
    memory: PhaseMemory | None = None
    caption_dropout: float = 0.2
    masks: bool = False
    objective: Mapping[str, Any] = field(default_factory=dict)
    sharded: bool = False
    denoiser: TinyDenoiser = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def trainer(self) -> Trainer:
        torch.manual_seed(torch.seed())  # nothing may depend on the global generator
        accelerator = self.accelerator or make_accelerator(device="cpu")
        self.denoiser = TinyDenoiser(dropout=self.dropout)
        if self.text:
            self.denoiser.table.requires_grad_(False)
        else:
            assert not any(record.caption == NAN_CAPTION for record in self.records)
        groups = [group for group in groups_of(self.denoiser) if group.parameters]
        if self.sharded:
            blocks = [self.denoiser.condition, self.denoiser.text]
            groups = shard(self.denoiser, blocks, groups, accelerator=accelerator)
        rates = {} if self.one_lr else {"lr_text_encoder": self.lr / 10, "lr_token_embedding": 0.1}
        self.optimizer = make_optimizer(groups, algorithm=self.algorithm, lr=self.lr, **rates)
        dataset = make_dataset(
            self.records,
            text=self.text,
            buckets=self.buckets,
            caption_dropout=self.caption_dropout,
            masks=make_masks(self.records) if self.masks else None,
        )
        class_images = make_dataset(self.class_records, text=self.text) if self.class_records else None

        def batches(position: Position) -> Iterator[Share]:
            return step_batches(
                dataset,
                seed=self.seed,
                batch_size=self.batch_size,
                start=position,
                rank=accelerator.process_index,
                world_size=accelerator.num_processes,
                num_workers=self.num_workers,
                class_images=class_images,
            )

        logger = JsonlLogger(run_dir=self.folder)
        logger.start()
        return Trainer(
            plan=Plan(
                num_micro_batches=num_micro_batches(
                    dataset.ids,
                    global_batch_size=self.batch_size * accelerator.num_processes,
                    bucket_of=dataset.sizes,
                ),
                max_steps=self.max_steps,
                num_epochs=self.num_epochs,
                gradient_accumulation_steps=self.accumulation,
                schedule=self.schedule,
                warmup_steps=self.warmup_steps,
                warmup_epochs=self.warmup_epochs,
                min_lr_ratio=self.min_lr_ratio,
                log_every=self.log_every,
                validate_every=self.validate_every,
                save_every=self.save_every,
            ),
            accelerator=accelerator,
            model=self.denoiser,
            denoiser=self.denoiser,
            groups=groups,
            trainable_state=self.weights,
            load_trainable_state=self.load,
            optimizer=self.optimizer,
            objective=Objective(
                **{
                    "prediction_type": "epsilon",
                    "alphas_cumprod": ALPHAS_CUMPROD,
                    "min_snr_gamma": 5.0,
                    "seed": self.seed,
                    "tokenize": tokenize,
                    **self.objective,
                }
            ),
            batches=batches,
            validator=self.validator(accelerator) if self.held_out else None,
            checkpointer=Checkpointer(self.checkpoints, keep=self.keep),
            callbacks=self.callbacks,
            logger=logger,
            output_dir=self.folder,
            seed=self.seed,
            must_match=self.must_match,
            max_grad_norm=self.max_grad_norm,
            resume=self.resume,
            prior_loss_weight=self.prior_loss_weight,
            ema_decay=self.ema_decay,
            configured=self.configured,
            allow_resume_changes=self.allow_resume_changes,
            save_every_minutes=self.save_every_minutes,
            wait_for_space=self.wait_for_space,
            spike_factor=self.spike_factor,
            memory=self.memory,
        )

    def validator(self, accelerator: Accelerator, **overrides: Any) -> Validator:
        settings = {"text": self.text, "caption_dropout": 0.0, "buckets": self.buckets}
        held_out = make_dataset(
            self.held_out, **settings, masks=make_masks(self.held_out) if self.masks else None
        )
        train = make_dataset(self.records, **settings)
        measured = {"num_timesteps": 4, "max_images": 8, "batch_size": 3, "seed": 0} | overrides
        return Validator(
            denoiser=self.denoiser,
            accelerator=accelerator,
            held_out=ImageSet(ids=held_out.ids, sizes=held_out.sizes, batch=held_out.batch),
            train=ImageSet(ids=train.ids, sizes=train.sizes, batch=train.batch),
            prediction_type="epsilon",
            alphas_cumprod=ALPHAS_CUMPROD,
            tokenize=tokenize,
            **measured,
        )

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.denoiser.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        assert state.keys() == self.weights().keys()
        for name, tensor in self.weights().items():
            tensor.copy_(state[name])


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
