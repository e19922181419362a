"""What can be configured, with types and ranges. Hydra composes into these; nothing else reads a DictConfig.

Field comments are the documentation of each key and stand in the YAML files of conf/ as well. A field that
OmegaConf cannot type (a number or a pair, a `_target_` block) is `Any` here and checked in `__post_init__`.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from src.checks import require_choice
from src.config.accelerate_schema import AccelerateConfig
from src.config.adapter_schema import AdapterConfig
from src.config.checks import (
    expand_home,
    parse_size,
    require_at_least,
    require_between,
    require_positive,
)
from src.config.choices import (
    ARCHITECTURES,
    COMPONENTS,
    DEVICES,
    PRECISIONS,
    SAMPLERS,
)
from src.config.dataset_schema import DatasetConfig
from src.config.optimizer_schema import OptimizerConfig
from src.config.trainer_schema import UNMASKED_WEIGHT, TrainerConfig
from src.errors import UserError


@dataclass(slots=True, kw_only=True)
class SuggestedConfig:
    """Values for keys of the same names that are not given; None is no suggestion. Checked where they go."""

    token_embedding: str | None = None
    target_modules: list[str] | None = None
    batch_size: int | None = None
    max_steps: int | None = None
    lr: float | None = None
    lr_token_embedding: float | None = None
    schedule: str | None = None
    warmup_steps: int | None = None


@dataclass(slots=True, kw_only=True)
class ModelConfig:
    """The base model."""

    name: str = MISSING
    path: str | None = None
    vae_path: str | None = None
    architecture: str = "auto"
    revision: str | None = None
    variant: str | None = None
    dvc: str | None = None
    long_prompts: bool | None = None
    max_prompt_chunks: int = 3
    # What the model learns best with; defaults of adapter, trainer and optimizer ask here first.
    suggested: SuggestedConfig = field(default_factory=SuggestedConfig)
    suggested_for: str | None = None

    def __post_init__(self) -> None:
        require_choice("model.architecture", self.architecture, ARCHITECTURES)
        # One chunk is what there is without long prompts.
        require_at_least("model.max_prompt_chunks", self.max_prompt_chunks, 2)
        self.path = self.path and expand_home(self.path)
        self.vae_path = self.vae_path and expand_home(self.vae_path)


@dataclass(slots=True, kw_only=True)
class MetricsConfig:
    """The models that judge generated images; `dvc` is the DVC file that brings the built-in ones."""

    dino: Any = None
    clip: Any = None
    dvc: str | None = None


@dataclass(slots=True, kw_only=True)
class PathsConfig:
    """Where things are read and written."""

    root_dir: str = MISSING
    data_dir: str = MISSING
    output_dir: str = MISSING
    cache_dir: str = MISSING
    cache_limit_gb: float | None = None

    def __post_init__(self) -> None:
        require_positive("paths.cache_limit_gb", self.cache_limit_gb)


@dataclass(slots=True, kw_only=True)
class InspectConfig:
    """What `-cn inspect` shows."""

    max_images: int = 480

    def __post_init__(self) -> None:
        require_at_least("inspect.max_images", self.max_images, 1)


@dataclass(slots=True, kw_only=True)
class RunConfig:
    """The run's own name."""

    name: str = MISSING
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.name or self.name in {".", ".."} or "/" in self.name or "\\" in self.name:
            raise UserError(f"run.name={self.name!r} must be a plain folder name, without slashes.")


@dataclass(slots=True, kw_only=True)
class TrainConfig:
    """Everything of `python train.py`."""

    command: str = "train"
    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(max_steps=1))
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    captioner: Any = None
    paths: PathsConfig = field(default_factory=PathsConfig)
    inspect: InspectConfig = field(default_factory=InspectConfig)
    accelerate: AccelerateConfig = field(default_factory=AccelerateConfig)
    queue: str | None = None
    run: RunConfig = field(default_factory=RunConfig)
    experiment: Any = None

    def __post_init__(self) -> None:
        if self.model.path is None:
            raise UserError(
                "model.path is not set. Give a hub id, a diffusers folder or a .safetensors file."
            )
        self._check_command()
        if self.accelerate.is_sharded:
            self._refuse_with_shards()
        self.accelerate.require_device("trainer.device", self.trainer.device)
        self._check_optimizer()
        self._check_masks()
        self._check_adapter()

    def _check_command(self) -> None:
        require_choice("command", self.command, ("train", "prepare", "caption", "inspect"))
        if self.accelerate.is_distributed and self.command != "train":
            raise UserError(f"-cn {self.command} is one process: accelerate=... is for training.")
        if self.queue is not None and (self.command != "train" or not self.logger.get("clearml")):
            raise UserError(
                f"queue={self.queue} hands a training run to a ClearML agent: it goes with train and with "
                "clearml among the loggers (logger=[clearml])."
            )
        if (self.captioner is not None) != (self.command == "caption"):
            raise UserError("A captioner goes with: sh train_run.sh -cn caption captioner=... (blip or llm).")
        exports = self.dataset.export is not None or self.dataset.push_to_hub is not None
        if exports and self.command != "prepare":
            raise UserError("dataset.export and dataset.push_to_hub are for: sh train_run.sh -cn prepare")
        if self.dataset.push_to_hub is not None and self.dataset.export is None:
            raise UserError("dataset.push_to_hub needs dataset.export, the folder that is uploaded.")
        if self.dataset.class_images.path is not None and self.trainer.prior_loss_weight is None:
            raise UserError(
                "dataset.class_images.path is set, but class images are not used without "
                "trainer.prior_loss_weight. Set trainer.prior_loss_weight=1, or take the path away."
            )

    def _check_optimizer(self) -> None:
        if self.trainer.ema_decay is not None and self.optimizer.averages_weights:
            raise UserError(
                f"trainer.ema_decay={self.trainer.ema_decay}: schedule-free averages the weights by itself. "
                "Set trainer.ema_decay=null, or choose another optimizer."
            )
        if self.optimizer.lr_text_encoder_2 is not None and self.adapter.text_encoder_2 == "frozen":
            raise UserError(
                f"optimizer.lr_text_encoder_2={self.optimizer.lr_text_encoder_2}, but the second text "
                "encoder is frozen. Set adapter.text_encoder_2=lora, or optimizer.lr_text_encoder_2=null."
            )

    def _check_adapter(self) -> None:
        full = [name for name in COMPONENTS if getattr(self.adapter, name) == "full"]
        if self.trainer.base_precision != "auto" and full:
            raise UserError(
                f"trainer.base_precision={self.trainer.base_precision} keeps the UNet in 8 bits, but with "
                f"adapter.{full[0]}=full a whole model is trained and saved. Set "
                f"trainer.base_precision=auto, or adapter.{full[0]}=lora."
            )
        if self.adapter.token_embedding == "train" and not self.dataset.placeholder:
            raise UserError(
                "adapter.token_embedding=train needs dataset.placeholder, the word that is trained."
            )
        placeholder = self.dataset.placeholder or ""
        if self.adapter.num_token_vectors > 1 and placeholder != placeholder.lower():
            # Its tokenizer writes small letters, and diffusers looks for the word as it was added.
            raise UserError(
                f"adapter.num_token_vectors={self.adapter.num_token_vectors} needs a placeholder in small "
                f"letters: diffusers would use the first vector of {placeholder} alone. Set "
                f"dataset.placeholder={placeholder.lower()}."
            )

    def _check_masks(self) -> None:
        weight, has_masks = self.trainer.unmasked_weight, self.dataset.masks != "none"
        if has_masks and weight == 1:
            raise UserError(
                f"dataset.masks={self.dataset.masks} changes nothing with trainer.unmasked_weight=1. "
                "Lower it, or set dataset.masks=none."
            )
        if not has_masks and weight != UNMASKED_WEIGHT:
            raise UserError(
                f"trainer.unmasked_weight={weight} is not used without masks. Take it away, or set "
                "dataset.masks=files or alpha."
            )

    def _refuse_with_shards(self) -> None:
        """Sharded is the UNet; a part that is trained beside it would go its own way in each process."""
        adapter = self.adapter
        modes = (adapter.unet, adapter.text_encoder, adapter.text_encoder_2, adapter.token_embedding)
        if modes != ("full", "frozen", "frozen", "frozen"):
            raise UserError(
                "accelerate.distributed_type=FSDP is for full fine-tuning of the UNet alone: adapter=full "
                "adapter.token_embedding=frozen. LoRA needs no shards: accelerate=multi_gpu is faster."
            )
        if self.optimizer.class_name != "AdamW":
            raise UserError(
                "accelerate.distributed_type=FSDP goes with optimizer=adamw only: most others keep a state "
                "of another shape than the weights, which cannot be cut as these are."
            )
        if self.trainer.mixed_precision == "fp16":
            raise UserError("accelerate.distributed_type=FSDP does not go with trainer.mixed_precision=fp16.")
        if self.trainer.memory_preflight:
            raise UserError(
                "trainer.memory_preflight=true measures one process at a time, which shards "
                "(accelerate.distributed_type=FSDP) do not allow."
            )


@dataclass(slots=True, kw_only=True)
class AdapterSourceConfig:
    """Which adapter is used for generation, and how strongly."""

    weights: Any = "best"
    run: str | None = None
    scale: float = 1.0
    token_embedding: bool = True

    def __post_init__(self) -> None:
        require_between("adapter.scale", self.scale, -10.0, 10.0)
        if isinstance(self.weights, bool) or not isinstance(self.weights, str | int):
            raise UserError(
                f"adapter.weights={self.weights} must be best, last, a step, or the path of an adapter file, "
                "run folder or checkpoint folder."
            )
        if isinstance(self.weights, str):
            self.weights = expand_home(self.weights)


@dataclass(slots=True, kw_only=True)
class GenerationConfig:
    """How generation is carried out."""

    merge: bool = True
    compare: bool = True
    scheduler: str = "dpmpp_2m"
    batch_size: int = 4
    device: str = "auto"
    mixed_precision: str = "auto"

    def __post_init__(self) -> None:
        require_choice("inference.scheduler", self.scheduler, SAMPLERS)
        require_at_least("inference.batch_size", self.batch_size, 1)
        require_choice("inference.device", self.device, DEVICES)
        require_choice("inference.mixed_precision", self.mixed_precision, PRECISIONS)


@dataclass(slots=True, kw_only=True)
class InferenceConfig:
    """Everything of `python inference.py`."""

    command: str = "generate"
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterSourceConfig = field(default_factory=AdapterSourceConfig)
    prompts: Any = None
    negative_prompt: str | None = None
    num_images: int = 2
    num_steps: int = 25
    guidance_scale: float = 5.0
    seed: int = 0
    width: int | None = None
    height: int | None = None
    inference: GenerationConfig = field(default_factory=GenerationConfig)
    logger: dict[str, Any] = field(default_factory=dict)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    run: RunConfig = field(default_factory=RunConfig)
    experiment: Any = None

    def __post_init__(self) -> None:
        require_choice("command", self.command, ("generate",))
        if isinstance(self.prompts, str):
            self.prompts = [self.prompts]
        if self.prompts is not None and (
            not isinstance(self.prompts, list)
            or not self.prompts
            or not all(isinstance(prompt, str) for prompt in self.prompts)
        ):
            raise UserError(
                f'prompts={self.prompts} must be a text or a list of texts: prompts=\'["a cat","a dog"]\'.'
            )
        for name in ("num_images", "num_steps"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("guidance_scale", self.guidance_scale, 0.0)
        require_at_least("seed", self.seed, 0)
        for name in ("width", "height"):
            if getattr(self, name) is not None:
                parse_size(name, getattr(self, name))
