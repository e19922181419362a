"""The command `prepare`: data alone."""

import logging
from pathlib import Path

from src.config.cli import Job, Outcome
from src.config.schema import TrainConfig
from src.data.data_manager import prepare
from src.data.export import export_image_folder, require_new_folder
from src.data.images import parse_colour
from src.data.push import push_folder, require_hub
from src.files import write_json_atomic
from src.logs import run_log
from src.run.build_data import (
    PreparedData,
    data_manager,
    describe,
    ensure_assets,
    known_training_size,
    prepare_data,
)
from src.run.records import skipped, write_skipped

log = logging.getLogger(__name__)


def run_prepare(config: TrainConfig, job: Job) -> Outcome:
    """Makes the data present, reads and checks it, splits it and, if asked, exports it; trains nothing."""
    with run_log(job.run_dir / "prepare.log"):
        dataset = config.dataset
        if dataset.export is not None:
            require_new_folder(Path(dataset.export))
        if dataset.push_to_hub is not None:
            require_hub(dataset.push_to_hub)
        root = Path(config.paths.root_dir)
        manager = data_manager(config.dataset, root=root)
        log.info("%s", prepare(manager))
        ensure_assets(config.model.dvc, config.metrics.dvc, root=root)
        data = prepare_data(config, size=known_training_size(config))
        log.info("%s", describe(config, data))
        # What the next stage of dvc.yaml depends on: only of a dataset that passed.
        prepare(manager, report=job.run_dir / "dataset.json")
        figures = {"images": data.report.num_images, "train": len(data.split.train)}
        figures["validation"] = len(data.split.validation)
        write_json_atomic(job.run_dir / "prepared.json", figures)
        write_skipped(job.run_dir, skipped(data))
        if dataset.export is not None:
            _export(config, data, Path(dataset.export))
        return Outcome(results={name: float(value) for name, value in figures.items()})


def _export(config: TrainConfig, data: PreparedData, folder: Path) -> None:
    dataset = config.dataset
    num_images = export_image_folder(
        data.split,
        folder,
        source=Path(dataset.path),
        name=dataset.name,
        background=parse_colour(dataset.background),
        attribution=data.result.attribution,
    )
    log.info("Exported %d images to %s", num_images, folder)
    if dataset.push_to_hub is not None:
        log.info("Uploaded, for your eyes only, to %s", push_folder(folder, dataset.push_to_hub))
