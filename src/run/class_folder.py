"""Class images from a folder of the user's, looked at with the dataset that they accompany."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.config.schema import TrainConfig
from src.data.preflight import DatasetReport, survey_dataset
from src.data.readers.class_images import read_class_images
from src.data.records import Problem, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassImages:
    """What accompanies the training images.

    Attributes:
        records: the images, with ids that no training image has.
        hashes: SHA-256 of each one's file, by record id.
        sizes: (width, height) that each is trained at, by record id: one for all, whatever buckets there are.
        problems: what must be mended in their folder, or was left out (`dataset.on_problem=skip`).
        warnings: what a user should know and may leave as it is.
    """

    records: list[Record]
    hashes: Mapping[str, str]
    sizes: Mapping[str, tuple[int, int]]
    problems: Sequence[Problem] = ()
    warnings: Sequence[str] = ()


def survey_class_folder(
    config: TrainConfig, report: DatasetReport, *, size: tuple[int, int] | None, decode_all: bool
) -> ClassImages | None:
    """Looks at the folder of class images; None where none is to be used.

    Args:
        config: the run's configuration.
        report: of the dataset: an image that is in both is a problem.
        size: (width, height) of the training images in pixels, to warn of smaller ones; None if not known.
        decode_all: see `survey_dataset`.

    Raises:
        UserError: the folder is missing or holds no images.
    """
    path = config.dataset.class_images.path
    if config.trainer.prior_loss_weight is None or path is None:
        return None
    found = read_class_images(
        path=Path(path), prompt=config.dataset.class_images.prompt, placeholder=config.dataset.placeholder
    )
    folder_key = hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()[:8]
    seen = survey_dataset(
        found,
        resolution=size,
        memo_file=Path(config.paths.cache_dir) / "inspections" / f"class_images-{folder_key}.json",
        near_duplicates="never",
        decode_all=decode_all,
    )
    shared = _in_both(report, seen)
    kept = [record for record in seen.records if record.id not in shared]
    return ClassImages(
        records=kept,
        hashes={record.id: seen.hashes[record.id] for record in kept},
        sizes={record.id: seen.training_sizes[record.id] for record in kept if seen.training_sizes},
        problems=[*seen.problems, *shared.values()],
        warnings=seen.warnings,
    )


def _in_both(report: DatasetReport, class_report: DatasetReport) -> dict[str, Problem]:
    """Class images that training would see as the subject, too, or that it should never see."""
    name_of = {content: id for id, content in report.hashes.items()}
    return {
        record.id: Problem(
            file=record.id,
            message=f"is in the dataset as well, as {name_of[content]}. Class images are other things of the "
            "same kind: remove it from one of the folders.",
            is_skippable=True,
            images=(record.path,),
        )
        for record in class_report.records
        if (content := class_report.hashes[record.id]) in name_of
    }
