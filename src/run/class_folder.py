"""Class images from a folder of the user's, checked with the dataset that they accompany."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.config.schema import TrainConfig
from src.data.preflight import DatasetReport, check_dataset
from src.data.readers.class_images import read_class_images
from src.data.records import Problem, Record
from src.errors import DatasetProblems

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassImages:
    """What accompanies the training images.

    Attributes:
        records: the images, with ids that no training image has.
        hashes: SHA-256 of each one's file, by record id.
        sizes: (width, height) that each is trained at, by record id: one for all, whatever buckets there are.
        left_out: why others of the folder are not among them (`dataset.on_problem=skip`).
    """

    records: list[Record]
    hashes: Mapping[str, str]
    sizes: Mapping[str, tuple[int, int]]
    left_out: Sequence[Problem] = ()


def check_with_class_folder(
    config: TrainConfig, check: Callable[[], DatasetReport], *, size: tuple[int, int] | None
) -> tuple[DatasetReport, ClassImages | None]:
    """Checks the dataset, and with it the folder of class images where one is to be used.

    Args:
        config: the run's configuration.
        check: of the dataset.
        size: (width, height) of the training images in pixels, to warn of smaller ones; None if not known.

    Raises:
        UserError: the folder of class images is missing or holds no images.
        DatasetProblems: with all that must be mended in both; also where an image is in both.
    """
    path = config.dataset.class_images.path
    if config.trainer.prior_loss_weight is None or path is None:
        return check(), None
    found = read_class_images(
        path=Path(path), prompt=config.dataset.class_images.prompt, placeholder=config.dataset.placeholder
    )
    folder_key = hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()[:8]

    def check_class_images() -> DatasetReport:
        return check_dataset(
            found,
            resolution=size,
            name=f"class images ({path})",
            needs_split=False,
            memo_file=Path(config.paths.cache_dir) / "inspections" / f"class_images-{folder_key}.json",
            near_duplicates="never",
            on_problem=config.dataset.on_problem,
        )

    report, class_report = _all_at_once(check, check_class_images)
    for warning in class_report.warnings:
        log.warning("%s", warning)
    return report, ClassImages(
        records=class_report.records,
        hashes=class_report.hashes,
        sizes=class_report.training_sizes,
        left_out=class_report.problems,
    )


def _all_at_once(*checks: Callable[[], DatasetReport]) -> list[DatasetReport]:
    reports, errors = [], []
    for check in checks:
        try:
            reports.append(check())
        except DatasetProblems as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    problems = [problem for error in errors for problem in error.problems] or _in_both(*reports)
    if problems:
        raise DatasetProblems(
            f"{len(problems)} problems in the dataset and its class images. Mend them and start again:",
            problems,
        )
    return reports


def _in_both(report: DatasetReport, class_report: DatasetReport) -> list[str]:
    """Class images that training would see as the subject, too, or that it should never see."""
    name_of = {content: id for id, content in report.hashes.items()}
    return [
        f"{id}: is in the dataset as well, as {name_of[content]}. Class images are other things of the same "
        "kind: remove it from one of the folders."
        for id, content in class_report.hashes.items()
        if content in name_of
    ]
