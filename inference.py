"""Generates with a trained adapter. `python inference.py --help` lists what can be set."""

from src.config.cli import Job, Outcome, main
from src.config.schema import InferenceConfig
from src.loggers.clearml import bind_hydra


def generate(config: InferenceConfig, job: Job) -> Outcome:
    """The command `generate`."""
    from src.run.inference import run_inference

    return run_inference(config, job)


if __name__ == "__main__":
    # ClearML records a Hydra application only if it is imported before Hydra's main runs.
    bind_hydra()
    main("inference", {"generate": generate})
