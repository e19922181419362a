"""From the dataset's configuration to records and split. Free of torch: looking at data begins at once."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from src.config.checks import parse_size
from src.config.dataset_schema import DatasetConfig
from src.config.schema import TrainConfig
from src.config.targets import build
from src.data.buckets import BucketRules, bucket_rules, describe_buckets
from src.data.data_manager import DataManager
from src.data.mask_problems import find_masks, hidden_mask_warnings, num_unused
from src.data.masks import MaskSource
from src.data.preflight import DatasetReport, none_left, refuse, survey_dataset, too_few
from src.data.readers.common import read_attribution
from src.data.records import ReadResult, few
from src.data.split import Split, split_file_path, split_records, split_warnings
from src.models.locate import cached_resolution, native_resolution
from src.models.schedule import check_schedule
from src.run.class_folder import ClassImages, survey_class_folder

log = logging.getLogger(__name__)
NO_BUCKETS_YET = (
    "Buckets are known when the base model is on this machine; until then set dataset.resolution to see them."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedData:
    """A dataset that is present, read, checked and split.

    Attributes:
        result: what the reader found, without what was left out.
        report: what the preflight saw; its problems are what was left out.
        split: training and validation records.
        class_images: what accompanies the training images; those that the base model draws come later.
        masks: what of each image is to be learned, by record id; empty without masks.
    """

    result: ReadResult
    report: DatasetReport
    split: Split
    class_images: ClassImages | None = None
    masks: Mapping[str, MaskSource] = field(default_factory=dict)

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
    is_skipping = config.dataset.on_problem == "skip"
    result, masks = with_masks(config, read_dataset(config))
    report = survey(config, result, size=size, decode_all=is_skipping)
    class_images = survey_class_folder(config, report, size=size, decode_all=is_skipping)
    _refuse_problems(config, report, class_images)
    left_out = [*report.problems, *([] if class_images is None else class_images.problems)]
    if left_out:
        log.warning(
            "Left out by dataset.on_problem=skip for %d problem%s (all in skipped.json): %s",
            len(left_out),
            "" if len(left_out) == 1 else "s",
            few([str(problem) for problem in left_out]),
        )
    for warning in [] if class_images is None else class_images.warnings:
        log.warning("%s", warning)
    hidden = (
        hidden_mask_warnings(masks, report.sizes, report.training_sizes)
        if config.dataset.crop == "center"
        else []
    )
    for warning in [*report.warnings, *hidden]:
        log.warning("%s", warning)
    split = split_dataset(config, report)
    for warning in split_warnings(split, report.group_keys):
        log.warning("%s", warning)
    return PreparedData(
        result=replace(result, records=report.records),
        report=report,
        split=split,
        class_images=class_images,
        masks=masks,
    )


def with_masks(config: TrainConfig, result: ReadResult) -> tuple[ReadResult, dict[str, MaskSource]]:
    """Adds to what a reader found what is wrong with the masks.

    Returns:
        That, and the masks by record id; none without masks.
    """
    dataset = config.dataset
    if dataset.masks == "none":
        unused = num_unused(result.records)
        remedy = "set dataset.masks=files, or move them away"
        warning = [f"{unused} images have masks, which are not used: {remedy}."] if unused else []
        return replace(result, warnings=[*result.warnings, *warning]), {}
    found = find_masks(
        result.records,
        kind=dataset.masks,
        folder=Path(dataset.path),
        memo_file=Path(config.paths.cache_dir) / "inspections" / f"{_folder_key(dataset)}-masks.json",
    )
    return replace(result, problems=[*result.problems, *found.problems]), found.sources


def survey(
    config: TrainConfig, result: ReadResult, *, size: tuple[int, int] | None, decode_all: bool
) -> DatasetReport:
    """Looks at all of a dataset, as configured; see `survey_dataset`."""
    return survey_dataset(
        result,
        resolution=size,
        bucket_rules=None if size is None else rules_of(config.dataset, size=size),
        memo_file=Path(config.paths.cache_dir) / "inspections" / f"{_folder_key(config.dataset)}.json",
        near_duplicates=config.dataset.near_duplicates,
        decode_all=decode_all,
    )


def _refuse_problems(config: TrainConfig, report: DatasetReport, class_images: ClassImages | None) -> None:
    """See `refuse`; of dataset and class images at once."""
    dataset = config.dataset
    problems, shortage = report.problems, too_few(report)
    name = f"dataset {dataset.name} ({dataset.path})"
    if class_images is not None and (class_images.problems or not class_images.records):
        of_class = f"class images ({dataset.class_images.path})"
        name = f"{name} and its {of_class}" if problems else of_class
        problems = [*problems, *class_images.problems]
        shortage = shortage or none_left(class_images.problems, class_images.records)
    refuse(problems, name=name, on_problem=dataset.on_problem, shortage=shortage)


def split_dataset(config: TrainConfig, report: DatasetReport, *, keep: bool = True) -> Split:
    """Splits what is sound.

    Args:
        config: the run's configuration.
        report: what the preflight saw.
        keep: whether sides that are new are kept for later runs.
    """
    dataset = config.dataset
    folder = Path(config.paths.data_dir) / "splits" / _folder_key(dataset)
    return split_records(
        report.records,
        report.hashes,
        split_seed=dataset.split_seed,
        validation_fraction=dataset.validation_fraction,
        split_file=split_file_path(
            folder, split_seed=dataset.split_seed, validation_fraction=dataset.validation_fraction
        ),
        group_keys=report.group_keys,
        keep=keep,
    )


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


def training_size(config: TrainConfig) -> tuple[int, int]:
    """(width, height) of the training images in pixels: as configured, or as the base model was made for.

    Looks at the base model's configurations in any case: one that is missing, not supported or cannot be
    trained as configured is refused before any work.
    """
    model, resolution = config.model, config.dataset.resolution
    assert model.path is not None
    where: dict[str, Any] = {
        "architecture": model.architecture,
        "revision": model.revision,
        "variant": model.variant,
    }
    native = native_resolution(model.path, **where)
    kind, is_zero = config.trainer.prediction_type, config.trainer.zero_terminal_snr
    weighting = config.trainer.loss_weighting
    if kind != "auto" or is_zero or weighting == "debiased":
        check_schedule(
            model.path,
            **where,
            prediction_type=kind,
            zero_terminal_snr=is_zero,
            loss_weighting=weighting,
        )
    return parse_size("dataset.resolution", native if resolution is None else resolution)


def known_training_size(config: TrainConfig) -> tuple[int, int] | None:
    """The same if it is known: a base model on the hub is not downloaded for its size alone."""
    if Path(str(config.model.path)).exists():
        return training_size(config)
    resolution = config.dataset.resolution
    if resolution is None:
        resolution = cached_resolution(str(config.model.path), revision=config.model.revision)
    return None if resolution is None else parse_size("dataset.resolution", resolution)


def _folder_key(dataset: DatasetConfig) -> str:
    """A folder name for what is kept about a dataset: its name, and which folder it is."""
    return f"{dataset.name}-{hashlib.sha256(str(Path(dataset.path).resolve()).encode()).hexdigest()[:8]}"


def describe(config: TrainConfig, data: PreparedData, *, num_processes: int = 1) -> str:
    """A line: how many images, where from, how split. With buckets a second one: how they fill these."""
    line = (
        f"Data: {data.report.num_records} captioned images from {config.dataset.path}, "
        f"{len(data.split.train)} to train on, {len(data.split.validation)} held out"
    )
    if not config.dataset.buckets.enabled:
        return line
    if not data.report.training_sizes:
        return f"{line}\n{NO_BUCKETS_YET}"
    batch_size = config.trainer.batch_size * num_processes
    trained_at = {record.id: data.report.training_sizes[record.id] for record in data.split.train}
    return f"{line}\n{describe_buckets(trained_at, batch_size=batch_size)}"
