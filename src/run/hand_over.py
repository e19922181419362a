"""`queue=...`: the run is handed to a ClearML agent instead of being carried out here."""

from contextlib import suppress

from src.config.cli import Job
from src.config.launch import world_size
from src.config.schema import TrainConfig
from src.errors import UserError
from src.loggers.clearml_queue import enqueue
from src.loggers.clearml_session import is_on_agent


def hand_over(config: TrainConfig, job: Job) -> bool:
    """Puts the run into the queue that the configuration names.

    Returns:
        Whether it was handed over. False without a queue, and on the agent, where the run is to go on.

    Raises:
        UserError: there is no server, or it has no such queue, or several processes would each hand it over.
    """
    if config.queue is None:
        return False
    if (num_processes := world_size()) > 1 and not is_on_agent():
        raise UserError(
            f"queue={config.queue} under a launcher of {num_processes} processes would make as many tasks. "
            "Start one: sh train_run.sh with the same arguments; the agent starts those of accelerate=..."
        )
    block = config.logger["clearml"]
    page = enqueue(
        config.queue,
        project=block["project"],
        task_name=job.name,
        tags=block["tags"],
        output_uri=block["output_uri"],
        offline=block["offline"],
    )
    if page is None:
        return False
    # Hydra has made it; nothing will ever be in it.
    with suppress(OSError):
        job.run_dir.rmdir()
    print(f"Waits in the queue {config.queue}: {page}\nNothing runs here; the agent's log is on that page.")
    return True
