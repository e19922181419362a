"""The command `generate`: a trained adapter beside its base model."""

import logging
from pathlib import Path

from tqdm import tqdm

from src.config.cli import Job, Outcome
from src.config.schema import InferenceConfig
from src.errors import UserError
from src.inference.apply import require_same_architecture
from src.inference.compare import Comparison, Judges, compare
from src.inference.resolve import AdapterSource, resolve_weights
from src.loggers.multi import MultiLogger
from src.logs import run_log
from src.metrics.evaluate import score_lines
from src.models.base import DiffusionModel
from src.run.build_callbacks import build_extractors
from src.run.build_data import ensure_assets
from src.run.build_inference import (
    base_architecture,
    base_model_config,
    build_judges,
    clip_words,
    prompts_of,
    sampling_settings,
    use_prompt_chunks,
    warn_of_other_base,
)
from src.run.build_model import DTYPES, load_base
from src.run.records import where_lines, write_config
from src.run.trackers import open_logger
from src.training.accelerator import make_accelerator

log = logging.getLogger(__name__)


def run_inference(config: InferenceConfig, job: Job) -> Outcome:
    """Generates with a trained adapter, beside the base model, and judges both."""
    with run_log(job.run_dir / "inference.log"):
        if (job.run_dir / "images").exists():
            raise UserError(f"{job.run_dir} already holds images. Give another run.name, or move it away.")
        source = resolve_weights(
            config.adapter.weights, output_dir=Path(config.paths.output_dir), run_name=config.adapter.run
        )
        prompts = prompts_of(config, source)
        base = base_model_config(config, source)
        ensure_assets(base.dvc, config.metrics.dvc, root=Path(config.paths.root_dir))
        accelerator = make_accelerator(
            mixed_precision=config.inference.mixed_precision,
            device=config.inference.device,
            group="inference",
        )
        require_same_architecture(base_architecture(base), source)
        dtype = DTYPES[accelerator.mixed_precision]
        model = load_base(base, dtype=dtype)
        model.to_device(accelerator.device, dtype)
        warn_of_other_base(model, source)
        use_prompt_chunks(config, source, model)
        log.info("Adapter: %s, on %s (%s)", source.path, base.path, accelerator.device)
        with open_logger(config, job) as logger:
            write_config(job)
            judges = build_judges(source, **build_extractors(config.metrics), device=accelerator.device)
            comparison = _generate(
                config, job, source=source, model=model, prompts=prompts, judges=judges, logger=logger
            )
            logger.close("completed")
        for line in [*score_lines(comparison.scores), *_where(job.run_dir, comparison, logger)]:
            log.info("%s", line)
        return Outcome(results={k: v for score in comparison.scores for k, v in score.scalars().items()})


def _generate(
    config: InferenceConfig,
    job: Job,
    *,
    source: AdapterSource,
    model: DiffusionModel,
    prompts: list[str],
    judges: Judges,
    logger: MultiLogger,
) -> Comparison:
    with tqdm(unit="image", disable=None, leave=False) as bar:

        def progress(what: str, done: int, total: int) -> None:
            bar.set_description(f"Generating ({what})")
            bar.total, bar.n = total, done
            bar.refresh()

        return compare(
            model,
            source,
            folder=job.run_dir,
            prompts=prompts,
            sampling=sampling_settings(config, source, native_resolution=model.native_resolution),
            logger=logger,
            judges=judges,
            clip_prompts=clip_words(prompts, source),
            scale=config.adapter.scale,
            with_token_embedding=config.adapter.token_embedding,
            merge=config.inference.merge,
            with_base=config.inference.compare,
            on_batch=progress,
        )


def _where(run_dir: Path, comparison: Comparison, logger: MultiLogger) -> list[str]:
    places = {"Grid": comparison.grid, "Images": run_dir / "images"}
    if comparison.scores:
        places["Scores"] = run_dir / "scores.json"
    return where_lines(places, logger)
