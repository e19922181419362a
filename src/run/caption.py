"""The command `caption`: captions for images that have none, to be reviewed before training."""

import logging
from collections.abc import Mapping
from pathlib import Path

from src.captioning.base import Captioner, Subject
from src.captioning.work import Report, write_captions
from src.config.cli import EXIT_FAILED, Job, Outcome
from src.config.dataset_schema import DatasetConfig
from src.config.schema import TrainConfig
from src.config.targets import build
from src.data.captions_file import CaptionsFile, open_captions_file
from src.data.images import parse_colour
from src.data.manifest import Manifest
from src.data.readers.known import KnownCaptions, known_captions
from src.errors import UserError
from src.files import write_json_atomic
from src.logs import run_log
from src.run.build_data import data_manager

log = logging.getLogger(__name__)

_SUBJECT = "src.data.readers.subject.read_subject"
_FOLDER = "src.data.readers.imagefolder.read_imagefolder"


def run_caption(config: TrainConfig, job: Job) -> Outcome:
    """Makes the data present, and writes a caption for each image without one into its `metadata.jsonl`."""
    with run_log(job.run_dir / "caption.log"):
        dataset = config.dataset
        is_subject = _is_subject(dataset)
        data_manager(dataset, root=Path(config.paths.root_dir)).ensure()
        folder = Path(dataset.path)
        with open_captions_file(folder) as file:
            known = known_captions(
                folder, photos=is_subject, caption_column=dataset.reader.get("caption_column")
            )
            for warning in known.warnings:
                log.warning("%s", warning)
            log.info("%s", _found(known, folder))
            figures = {"images": len(known.images), "had_captions": len(known.images) - len(known.without)}
            if not known.without:
                write_json_atomic(job.run_dir / "captioned.json", figures)
                return Outcome(results={name: float(value) for name, value in figures.items()})
            _require_own_file(folder, file)
            subject = None
            if is_subject and dataset.placeholder:
                subject = Subject(placeholder=dataset.placeholder, class_word=dataset.class_word)
            captioner: Captioner = build("captioner", config.captioner, subject=subject)
            report = _write(captioner, known, file, background=dataset.background)
        return _conclude(report, captioner, known, file.path, job=job, figures=figures)


def _is_subject(dataset: DatasetConfig) -> bool:
    target = dataset.reader["_target_"]
    if target not in (_SUBJECT, _FOLDER):
        raise UserError(
            f"dataset={dataset.name} brings captions of its own. Captions are written for "
            "dataset=imagefolder, huggingface and subject."
        )
    return bool(target == _SUBJECT)


def _require_own_file(folder: Path, file: CaptionsFile) -> None:
    """A file that was downloaded is compared with what came; adding to it would look like damage.

    Raises:
        UserError: it was.
    """
    manifest = Manifest(folder, with_times=False)
    if file.path.name in manifest.read().get("files", {}):
        raise UserError(
            f"{file.path} was downloaded with the images and is kept as it came. Copy the folder and set "
            f"dataset.path to the copy, or remove {manifest.path} to make it your own."
        )


def _found(known: KnownCaptions, folder: Path) -> str:
    by_hand = len(known.listed) - known.num_by_captioner + len(known.elsewhere)
    return (
        f"{len(known.images)} images in {folder}: {by_hand} with captions by hand, {known.num_by_captioner} "
        f"by a captioner, {len(known.without)} without"
    )


def _write(captioner: Captioner, known: KnownCaptions, file: CaptionsFile, *, background: str) -> Report:
    copies = dict(known.elsewhere)

    def write(captions: Mapping[str, str]) -> None:
        if copies:
            # One kind of file is read for all images, so it must have the others' captions, too.
            file.add(copies, column=known.column, captioner=None)
            copies.clear()
        file.add(captions, column=known.column, captioner=captioner.label)

    try:
        return write_captions(captioner, known.without, write=write, background=parse_colour(background))
    finally:
        # Also when it is stopped or fails: it was used, and may have cost something.
        if (summary := captioner.summary()) is not None:
            log.info("%s: %s", captioner.label, summary)


def _conclude(
    report: Report,
    captioner: Captioner,
    known: KnownCaptions,
    path: Path,
    *,
    job: Job,
    figures: dict[str, int],
) -> Outcome:
    for problem in report.problems:
        log.warning("%s", problem)
    log.info(
        "%d captions written by %s to %s, %d problems",
        report.num_written,
        captioner.label,
        path,
        len(report.problems),
    )
    if report.stopped is not None:
        log.info(
            "Stopped by %s: %d images are left. The same command goes on.", report.stopped, report.num_left
        )
    if report.num_written:
        log.info("%s", _next_step(known, path))
    results = {
        **figures,
        "written": report.num_written,
        "problems": len(report.problems),
        "left": report.num_left,
        **captioner.figures(),
    }
    write_json_atomic(job.run_dir / "captioned.json", results)
    return Outcome(
        exit_code=EXIT_FAILED if report.problems else 0,
        results={name: float(value) for name, value in results.items()},
        notes=[f"{len(report.problems)} images have no caption"] if report.problems else [],
    )


def _next_step(known: KnownCaptions, path: Path) -> str:
    if known.rival is not None:
        return (
            f"Review {path.name}, which has the captions of {known.rival} as well, then rename "
            f"{known.rival}: as long as it is there, training reads it instead."
        )
    return f"Review {path.name} before training."
