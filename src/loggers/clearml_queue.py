"""ClearML's remote execution: a task is made here, put into a queue, and carried out by an agent.

The agent checks out the task's commit, applies its diff and runs the same program. ClearML's Hydra binding
then adds the task's `Hydra` section, edited or not, to the command line before Hydra composes.
"""

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.loggers.clearml_session import choose_mode, is_on_agent, leave_behind, open_task

log = logging.getLogger(__name__)


def let_agent_launch() -> None:
    """On an agent the program may start the processes of `accelerate=...`: nobody else is there to do it."""
    if is_on_agent():
        os.environ.setdefault("DARKROOM_LAUNCH", "1")


def enqueue(
    queue: str,
    *,
    project: str,
    task_name: str,
    tags: Sequence[str],
    output_uri: bool | str,
    offline: bool | str,
) -> str | None:
    """Makes the task of this run and puts it into a queue.

    It does what the SDK's `execute_remotely` does without its end, which leaves the process at once, whatever
    is still to be written.

    Args:
        queue: its name.
        project: project name, with slashes for sub-projects.
        task_name: the task's name.
        tags: labels of the task.
        output_uri: where models go, see `ClearmlLogger`.
        offline: see `ClearmlLogger`.

    Returns:
        The task's page; None on an agent, which is to carry the run out.

    Raises:
        UserError: there is no server, or it has no such queue, and no task was made; or the task that was
            made could not be put into the queue.
    """
    if is_on_agent():
        return None
    mode = choose_mode(offline)
    if not mode.online:
        raise UserError(f"queue={queue} needs a ClearML server: {mode.reason}.")
    from clearml import Task

    session: Any = Task._get_default_session()
    _require_queue(session, queue)
    with tempfile.TemporaryDirectory() as folder:
        task = open_task(
            project=project,
            task_name=task_name,
            tags=tags,
            output_uri=output_uri,
            mode=mode,
            folder=Path(folder),
        )
        page = str(task.get_output_log_web_page())
        try:
            # Waits until commit, diff and packages are recorded: the agent needs them.
            task.close()
            task.mark_stopped(force=True)
            Task.enqueue(task, queue_name=queue)
        except Exception as error:
            # Of the SDK's own kinds, or the connection's.
            raise UserError(
                f"queue={queue}: the task {page} was made and could not be put into the queue "
                f"({type(error).__name__}: {error}). Enqueue it there, or delete it and start again."
            ) from error
        finally:
            leave_behind()
    return page


def _require_queue(session: Any, name: str) -> None:
    from clearml.backend_api.services import queues

    answer = session.send(queues.GetAllRequest(only_fields=["name"]))
    if not answer.ok():
        raise UserError(f"queue={name}: the ClearML server does not tell its queues.")
    known = sorted(queue.name for queue in answer.response.queues or [])
    if name not in known:
        raise UserError(f"queue={name} is not on the ClearML server. There: {', '.join(known) or 'none'}.")
