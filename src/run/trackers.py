"""The chosen loggers of a run, behind one guard."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.config.cli import Job
from src.config.schema import InferenceConfig, TrainConfig
from src.config.targets import build
from src.loggers.multi import MultiLogger


@contextmanager
def open_logger(
    config: TrainConfig | InferenceConfig, job: Job, *, is_main: bool = True
) -> Iterator[MultiLogger]:
    """All chosen loggers behind one guard, open. An error closes them as failed; success is the caller's."""
    run = {"run_dir": job.run_dir, "run_name": job.name, "cache_dir": Path(config.paths.cache_dir)}
    loggers = {
        name: build("logger", block, **run) for name, block in config.logger.items() if block is not None
    }
    logger = MultiLogger(loggers, run_dir=job.run_dir, is_main=is_main)
    logger.start()
    try:
        logger.log_config(job.resolved)
        yield logger
    except BaseException as error:
        logger.close("aborted" if isinstance(error, KeyboardInterrupt) else "failed", str(error))
        raise
