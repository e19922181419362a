"""From the dataset's configuration to records, split and encoded batches."""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from src.config.schema import DatasetConfig, TrainConfig
from src.config.targets import build
from src.data.buckets import BucketRules, bucket_rules, describe_buckets
from src.data.data_manager import DataManager
from src.data.encode import EncodedDataset, EncodeText, rounded_text
from src.data.images import parse_colour
from src.data.latent_cache import LatentCache
from src.data.preflight import DatasetReport, check_dataset
from src.data.readers.common import read_attribution
from src.data.records import ReadResult, Record
from src.data.split import Split, split_file_path, split_records, split_warnings
from src.data.text_cache import TextCache
from src.models.base import DiffusionModel
from src.run.class_images import ClassImages, check_with_class_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedData:
    """A dataset that is present, read, checked and split.

    Attributes:
        result: what the reader found.
        report: what the preflight saw.
        split: training and validation records.
        class_images: what accompanies the training images; those that the base model draws come later.
    """

    result: ReadResult
    report: DatasetReport
    split: Split
    class_images: ClassImages | None = None

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of every image's file, class images included, by record id."""
        of_class = {} if self.class_images is None else self.class_images.hashes
        assert self.report.hashes.keys().isdisjoint(of_class)
        return {**self.report.hashes, **of_class}

    @property
    def training_sizes(self) -> dict[str, tuple[int, int]]:
        """(width, height) that every image is trained at, class images included, by record id."""
        of_class = {} if self.class_images is None else self.class_images.sizes
        return {**self.report.training_sizes, **of_class}


def ensure_files(config: TrainConfig) -> None:
    """Makes the dataset and the built-in models present and verified.

    Raises:
        UserError: with every way that was tried.
    """
    root = Path(config.paths.root_dir)
    data_manager(config.dataset, root=root).ensure()
    ensure_assets(config.model.dvc, config.metrics.dvc, root=root)


def ensure_assets(*targets: str | None, root: Path) -> None:
    """Makes built-in models present; they come through DVC like data. None stands for "not built in"."""
    for target in sorted({target for target in targets if target is not None}):
        DataManager.from_target(target, root=root).ensure()


def data_manager(config: DatasetConfig, *, root: Path) -> DataManager:
    """The manager of a dataset. It minds the DVC file for the folder that it tracks only."""
    return DataManager(
        path=config.path,
        dvc_target=config.dvc,
        url=config.url,
        sha256=config.sha256,
        yandex_api=config.yandex_api,
        source=build("dataset.source", config.source) if config.source is not None else None,
        root=root,
        companions=(),
    )


def read_dataset(config: TrainConfig) -> ReadResult:
    """Runs the reader of `dataset.reader`. A file in the folder that says whom to credit counts before it."""
    path = Path(config.dataset.path)
    result: ReadResult = build(
        "dataset.reader",
        config.dataset.reader,
        path=path,
        placeholder=config.dataset.placeholder,
        cache_dir=Path(config.paths.cache_dir),
    )
    return replace(result, attribution=read_attribution(path) or result.attribution)


def prepare_data(config: TrainConfig, *, size: tuple[int, int] | None) -> PreparedData:
    """Reads, checks and splits the dataset; all problems are listed at once, before any work.

    Args:
        config: the run's configuration.
        size: (width, height) of the training images in pixels, or that whose area their buckets have; None if
            it is not known.

    Raises:
        UserError: with all that must be mended.
    """
    dataset = config.dataset
    result = read_dataset(config)

    def check() -> DatasetReport:
        return check_dataset(
            result,
            resolution=size,
            bucket_rules=None if size is None else rules_of(dataset, size=size),
            name=f"dataset {dataset.name} ({dataset.path})",
            memo_file=Path(config.paths.cache_dir) / "inspections" / f"{_folder_key(dataset)}.json",
            near_duplicates=dataset.near_duplicates,
        )

    report, class_images = check_with_class_folder(config, check, size=size)
    for warning in report.warnings:
        log.warning("%s", warning)
    folder = Path(config.paths.data_dir) / "splits" / _folder_key(dataset)
    split = split_records(
        result.records,
        report.hashes,
        split_seed=dataset.split_seed,
        validation_fraction=dataset.validation_fraction,
        split_file=split_file_path(
            folder, split_seed=dataset.split_seed, validation_fraction=dataset.validation_fraction
        ),
        group_keys=report.group_keys,
    )
    for warning in split_warnings(split, report.group_keys):
        log.warning("%s", warning)
    return PreparedData(result=result, report=report, split=split, class_images=class_images)


def rules_of(dataset: DatasetConfig, *, size: tuple[int, int]) -> BucketRules | None:
    """What buckets must be like, None where all images are trained at one size."""
    buckets = dataset.buckets
    if not buckets.enabled:
        return None
    return bucket_rules(
        size,
        step=buckets.step,
        min_side=buckets.min_side,
        max_upscale=buckets.max_upscale,
        max_crop=buckets.max_crop,
    )


def encoded_dataset(
    records: list[Record],
    *,
    config: TrainConfig,
    data: PreparedData,
    model: DiffusionModel,
    train: bool,
    live_text: bool,
    keep_text: bool = True,
) -> EncodedDataset:
    """One side of the split behind the caches.

    Args:
        records: that side.
        config: the run's configuration.
        data: the whole dataset.
        model: its frozen encoders.
        train: whether crops, flips and caption dropout apply; the validation side is measured without them.
        live_text: whether the loop encodes the text, because something there is trained.
        keep_text: whether there is room for embeddings in the cache. Where there is not they are the same.
    """
    dataset = config.dataset
    cache_dir, precision = Path(config.paths.cache_dir), dataset.cache_precision
    latent_cache = text_cache = None
    encode_text: EncodeText | None = None if live_text else model.encode_prompts
    if dataset.cache:
        # Computed in another precision an entry has other last bits; who filled the cache must not matter.
        vae_key = f"{model.vae_hash}-{model.vae.dtype}"
        latent_cache = LatentCache(cache_dir / "latents", vae_hash=vae_key, precision=precision)
    if dataset.cache and encode_text is not None:
        if keep_text:
            text_cache = TextCache(cache_dir / "texts", text_hash=_text_key(model), precision=precision)
        else:
            encode_text = rounded_text(encode_text, precision)
    return EncodedDataset(
        records,
        hashes=data.hashes,
        sizes=data.training_sizes,
        crop=dataset.crop if train else "center",
        flip=dataset.flip and train,
        num_variants=dataset.num_variants if train else 1,
        seed=config.trainer.seed,
        crop_seed=dataset.split_seed,
        encode_images=model.encode_images,
        latent_cache=latent_cache,
        encode_text=encode_text,
        text_cache=text_cache,
        caption_dropout=config.trainer.caption_dropout if train else 0.0,
        background=parse_colour(dataset.background),
    )


def _text_key(model: DiffusionModel) -> str:
    precisions = sorted({str(encoder.dtype) for encoder in model.text_encoders.values()})
    # One chunk is encoded as without long prompts: such entries are shared.
    chunks = [f"chunks{model.num_chunks}"] if model.num_chunks > 1 else []
    return "-".join([model.text_hash, model.tokenizer_hash, *precisions, *chunks])


def fill_cache(dataset: EncodedDataset, *, what: str, rank: int, world_size: int) -> None:
    """Encodes what the caches lack, with a progress bar."""
    with tqdm(desc=f"Encoding {what}", unit="entry", disable=None if rank == 0 else True, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        dataset.fill(progress, rank=rank, world_size=world_size)


def _folder_key(dataset: DatasetConfig) -> str:
    """A folder name for what is kept about a dataset: its name, and which folder it is."""
    return f"{dataset.name}-{hashlib.sha256(str(Path(dataset.path).resolve()).encode()).hexdigest()[:8]}"


def describe(config: TrainConfig, data: PreparedData) -> str:
    """A line: how many images, where from, how split. With buckets a second one: how they fill these."""
    line = (
        f"Data: {data.report.num_records} captioned images from {config.dataset.path}, "
        f"{len(data.split.train)} to train on, {len(data.split.validation)} held out"
    )
    if not config.dataset.buckets.enabled:
        return line
    if not data.report.training_sizes:
        return f"{line}\nBuckets: known when the base model is there; or set dataset.resolution"
    trained_at = {record.id: data.report.training_sizes[record.id] for record in data.split.train}
    return f"{line}\n{describe_buckets(trained_at, batch_size=config.trainer.batch_size)}"
