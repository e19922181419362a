"""The command `inspect`: what the data are, and everything that is wrong with them."""

import logging
from dataclasses import replace
from pathlib import Path

from src.config.cli import Job, Outcome
from src.config.schema import TrainConfig
from src.data.buckets import bucket_counts
from src.data.data_manager import prepare
from src.data.images import parse_colour
from src.data.overview.findings import CaptionTokens, Findings, count_caption_tokens, gather
from src.data.overview.write import Overview, write_overview
from src.data.preflight import DatasetReport, none_left, too_few
from src.data.records import Problem, Record, few
from src.data.split import Split, split_warnings
from src.errors import UserError
from src.files import require_writable
from src.loggers.multi import MultiLogger
from src.logs import run_log
from src.run.build_data import (
    NO_BUCKETS_YET,
    data_manager,
    ensure_assets,
    known_training_size,
    read_dataset,
    split_dataset,
    survey,
    with_masks,
)
from src.run.class_folder import survey_class_folder
from src.run.records import where_lines, write_config
from src.run.trackers import open_logger

log = logging.getLogger(__name__)

# Problems that the console lists; the page lists all.
_MAX_LISTED = 20
_EXIT_PROBLEMS = 1


def run_inspect(config: TrainConfig, job: Job) -> Outcome:
    """Makes the data present, looks at all of it, and writes a page; keeps no split and trains nothing."""
    require_writable(job.run_dir)
    with run_log(job.run_dir / "inspect.log"):
        log.info("%s", prepare(data_manager(config.dataset, root=Path(config.paths.root_dir))))
        findings = find(config)
        for problem in findings.problems[:_MAX_LISTED]:
            log.error("%s", problem)
        for warning in findings.warnings:
            log.warning("%s", warning)
        with open_logger(config, job) as logger:
            write_config(job)
            overview = write_overview(
                findings,
                job.run_dir,
                max_images=config.inspect.max_images,
                background=parse_colour(config.dataset.background),
            )
            _log_to_trackers(findings, overview, logger)
            logger.close("completed")
        num_problems = len(findings.problems)
        for line in where_lines({"Page": overview.page, "For programs": overview.summary}, logger):
            log.info("%s", line)
        log.info("%s", f"Problems: {num_problems}" if num_problems else "No problems")
        results = {"images": float(len(findings.images)), "problems": float(num_problems)}
        return Outcome(exit_code=_EXIT_PROBLEMS if num_problems else 0, results=results)


def find(config: TrainConfig) -> Findings:
    """Looks at all of a dataset that is present.

    Raises:
        UserError: there is nothing to look at: no folder, no images in it, or no file of captions where the
            reader needs one.
    """
    dataset = config.dataset
    problems: list[Problem] = []
    warnings: list[str] = []
    _fetch_model(config, warnings)
    result, _ = with_masks(config, read_dataset(config))
    size = known_training_size(config)
    if dataset.buckets.enabled and size is None:
        warnings.append(NO_BUCKETS_YET)
    report = survey(config, result, size=size, decode_all=True)
    problems += report.problems
    warnings += report.warnings
    _look_at_class_folder(config, report, problems, warnings, size=size)
    split = None
    if (shortage := too_few(report)) is None:
        split = _planned_split(config, report, problems)
    elif not report.problems:
        problems.append(Problem(file=dataset.path, message=shortage))
    if split is not None:
        warnings += split_warnings(split, report.group_keys)
    tokens = _caption_tokens(config, result.records, warnings)
    return gather(
        title=dataset.name,
        folder=Path(dataset.path),
        result=result,
        report=report,
        problems=problems,
        warnings=warnings,
        split=split,
        has_near=report.has_near,
        tokens=tokens,
        training_size=size,
        buckets=bucket_counts(report.training_sizes) if dataset.buckets.enabled else {},
    )


def _fetch_model(config: TrainConfig, warnings: list[str]) -> None:
    """Brings the built-in model, which sizes and tokens depend on; without it a warning says so."""
    try:
        ensure_assets(config.model.dvc, root=Path(config.paths.root_dir))
    except UserError as error:
        warnings.append(str(error))


def _look_at_class_folder(
    config: TrainConfig,
    report: DatasetReport,
    problems: list[Problem],
    warnings: list[str],
    *,
    size: tuple[int, int] | None,
) -> None:
    """Adds what is wrong with the class images, which are on none of the sheets."""
    try:
        found = survey_class_folder(config, report, size=size, decode_all=True)
    except UserError as error:
        problems.append(Problem(file="class images", message=str(error)))
        return
    if found is not None:
        problems += [replace(problem, images=()) for problem in found.problems]
        warnings += found.warnings
        if shortage := none_left(found.problems, found.records):
            problems.append(Problem(file="class images", message=shortage))


def _planned_split(config: TrainConfig, report: DatasetReport, problems: list[Problem]) -> Split | None:
    """The sides that training would have; that there are none is a problem like others."""
    try:
        return split_dataset(config, report, keep=False)
    except UserError as error:
        problems.append(Problem(file="split", message=str(error)))
        return None


def _caption_tokens(config: TrainConfig, records: list[Record], warnings: list[str]) -> CaptionTokens | None:
    """Counts tokens if the base model is there; if not, a warning says so: to look at data needs none."""
    from src.models.tokens import token_counter

    model = config.model
    placeholder = config.dataset.placeholder if config.adapter.token_embedding == "train" else None
    try:
        counter = token_counter(
            str(model.path),
            revision=model.revision,
            placeholder=placeholder,
            num_vectors=config.adapter.num_token_vectors,
            max_chunks=model.max_prompt_chunks if model.long_prompts else 1,
        )
    except UserError as error:
        warnings.append(f"Tokens of captions are not counted: {error}")
        return None
    if counter is None:
        warnings.append(
            f"Tokens of captions are not counted: the base model {model.path} is not on this machine."
        )
        return None
    tokens = count_caption_tokens(
        records,
        count=counter.count,
        unseen=counter.unseen,
        chunk_size=counter.chunk_size,
        max_chunks=counter.max_chunks,
    )
    if tokens.lost:
        names = few([lost.name for lost in tokens.lost])
        warnings.append(
            f"The text encoder will not see the end of {len(tokens.lost)} of {len(records)} captions "
            f"({tokens.room} fit): {names}. The page shows what is lost."
        )
    return tokens


def _log_to_trackers(findings: Findings, overview: Overview, logger: MultiLogger) -> None:
    for picture in overview.pictures:
        logger.log_image("inspect", picture.stem, picture, step=0)
    if findings.problems:
        rows = [{"file": problem.file, "problem": problem.message} for problem in findings.problems]
        logger.log_table("inspect", "problems", rows, step=0)
    logger.log_artifact("inspection", overview.page)
    logger.log_artifact("inspection for programs", overview.summary)
