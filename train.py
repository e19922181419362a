"""Trains an adapter. `python train.py --help` lists what can be set."""

from src.config.cli import Job, Outcome, main
from src.config.launch import start_processes
from src.config.schema import TrainConfig
from src.loggers.clearml import bind_hydra


def train(config: TrainConfig, job: Job) -> Outcome:
    """The command `train`."""
    from src.run.hand_over import hand_over

    if hand_over(config, job):
        return Outcome(results={})
    start_processes(config.accelerate, job)
    from src.run.training import run_training

    return run_training(config, job)


def prepare(config: TrainConfig, job: Job) -> Outcome:
    """The command `prepare` (-cn prepare): data only."""
    from src.run.prepare import run_prepare

    return run_prepare(config, job)


def caption(config: TrainConfig, job: Job) -> Outcome:
    """The command `caption` (-cn caption): writes captions for images that have none."""
    from src.run.caption import run_caption

    return run_caption(config, job)


def inspect(config: TrainConfig, job: Job) -> Outcome:
    """The command `inspect` (-cn inspect): what the data are and what is wrong with them."""
    from src.run.inspect import run_inspect

    return run_inspect(config, job)


if __name__ == "__main__":
    # ClearML records a Hydra application only if it is imported before Hydra's main runs.
    bind_hydra()
    main("train", {"train": train, "prepare": prepare, "caption": caption, "inspect": inspect})
