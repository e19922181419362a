"""Opening and ending a ClearML task without the SDK's traps. Read with docs/clearml.md and its tests."""

import atexit
import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.loggers.protocol import Status
from src.redact import redact_value, redact_yaml

log = logging.getLogger(__name__)

_CACHE_VARIABLE = "CLEARML_CACHE_DIR"
_PROBE_TIMEOUT = (2.0, 5.0)  # seconds to connect, to answer
# What the SDK is not to hook into: it would report TensorBoard's scalars twice, upload every torch.save and
# patch plotting. Hydra stays: overrides can then be edited and run again by a ClearML agent.
_UNWANTED = (
    "scikit, joblib, matplotlib, tensorflow, tensorboard, tfdefines, pytorch, megengine, xgboost, catboost, "
    "fastai, lightgbm, gradio, jsonargparse"
)
_FRAMEWORKS = dict.fromkeys(_UNWANTED.split(", "), False) | {"hydra": True, "detect_repository": True}

_LONGEST_PAUSE = 30.0  # seconds between two attempts to send the same thing
# That a run may take to save and end after an abort in the web interface, before the SDK ends the process.
_ABORT_SECONDS = 900.0
# Set when the current task is left behind: its threads are not to try any longer.
_left_behind = threading.Event()
# CLEARML_CACHE_DIR when it is ours and not the user's, so that the next run in this process can move it.
_own_cache_dir: str | None = None


def prepare_sdk() -> None:
    """Settings that must stand before the first task. Imports clearml, which patches Hydra, but no torch."""
    from clearml.config import config_obj

    config_obj.set_overrides(
        {
            # A forked reporting process hangs when tasks follow each other: closing took up to 306 s.
            "sdk": {"development": {"report_use_subprocess": False}},
            # 240 retries with pauses of up to two minutes are hours. The SDK's background thread repeats a
            # series of retries for as long as the connection is down, so short interruptions still pass.
            "api": {
                "http": {
                    "retries": {"total": 4, "connect": 4, "read": 4, "status": 4, "backoff_max": 10.0},
                    "wait_on_maintenance_forever": False,
                }
            },
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """Whether to talk to a server, why not, and whether that was to be expected."""

    online: bool
    reason: str = ""
    is_wanted: bool = False


def choose_mode(offline: bool | str) -> Mode:
    """Decides between a server and an offline session, in a few seconds at most.

    Args:
        offline: True, False, or "auto": offline without credentials or without an answer from the server.
    """
    from clearml.backend_api import Session
    from clearml.backend_api.session.defs import (
        ENV_ACCESS_KEY,
        ENV_AUTH_TOKEN,
        ENV_OFFLINE_MODE,
        ENV_SECRET_KEY,
    )
    from clearml.config import config_obj

    if offline is True:
        return Mode(online=False, is_wanted=True, reason="logger.clearml.offline=true")
    if ENV_OFFLINE_MODE.get():
        return Mode(online=False, is_wanted=True, reason="CLEARML_OFFLINE_MODE is set")
    key = ENV_ACCESS_KEY.get(default=config_obj.get("api.credentials.access_key", None))
    secret = ENV_SECRET_KEY.get(default=config_obj.get("api.credentials.secret_key", None))
    has_credentials = bool((key and secret) or ENV_AUTH_TOKEN.get())
    if offline is False:
        return Mode(online=True)
    if not has_credentials:
        reason = "no credentials (docs/clearml.md says how to set them)"
        return Mode(online=False, is_wanted=True, reason=reason)
    host = Session.get_api_server_host()
    problem = _probe(host, (key, secret) if key and secret else None)
    return Mode(online=not problem, reason=f"the server {host} {problem}" if problem else "")


def _probe(host: str, credentials: tuple[str, str] | None) -> str:
    """Logs in once with short time limits; returns what is wrong, or nothing."""
    import requests
    from clearml.backend_api.session.defs import ENV_HOST_VERIFY_CERT
    from clearml.config import config_obj

    verify = ENV_HOST_VERIFY_CERT.get(default=config_obj.get("api.verify_certificate", True))
    try:
        answer = requests.get(
            f"{host}/{'auth.login' if credentials else 'debug.ping'}",
            auth=credentials,
            timeout=_PROBE_TIMEOUT,
            verify=verify if isinstance(verify, str) else str(verify).lower() not in ("false", "0"),
        )
        if answer.status_code == 401:
            return "does not accept the credentials"
        if answer.status_code != 200:
            return f"answers with error {answer.status_code}"
        is_clearml = answer.json()["meta"]["result_code"] == 200
        return (
            ""
            if is_clearml and (not credentials or answer.json()["data"]["token"])
            else "is no ClearML server"
        )
    except requests.exceptions.Timeout:
        return "does not answer in time"
    except requests.exceptions.ConnectionError:
        return "cannot be reached"
    except (ValueError, KeyError, TypeError, requests.exceptions.RequestException):
        return "does not answer like a ClearML API server (is it the API address, often port 8008?)"


def open_task(
    *, project: str, task_name: str, tags: Sequence[str], output_uri: bool | str, mode: Mode, folder: Path
) -> Any:
    """Opens a new main task and undoes what the SDK does to the process around it.

    Args:
        project: project name, with slashes for sub-projects.
        task_name: the task's name.
        tags: its labels.
        output_uri: where models go; True is the server's own file store.
        mode: online or offline.
        folder: where an offline session goes unless CLEARML_CACHE_DIR is set.

    Returns:
        The `clearml.Task`.
    """
    from clearml import Task
    from clearml.binding.environ_bind import PatchOsFork
    from clearml.config.cache import SessionCache
    from clearml.config.defs import PROC_MASTER_ID_ENV_VAR
    from clearml.debugging.log import LoggerRoot
    from clearml.utilities.check_updates import CheckPackageUpdates

    prepare_sdk()
    LoggerRoot.get_base_logger().setLevel(logging.WARNING)  # it tells much in the middle of the console
    # Set by a parent that had a task of its own: Task.init would return a stub that swallows everything.
    PROC_MASTER_ID_ENV_VAR.pop()
    _place_cache(folder)
    SessionCache.SESSION_CACHE_FOLDER = str(folder)  # else ~/.clearml
    CheckPackageUpdates._package_version_checked = True  # else it calls an update server, offline as well
    _set_offline(not mode.online)
    if mode.online:
        _make_patient(Task._get_default_session())
    _redact_hydra()
    Task.set_random_seed(None)  # else it seeds random, numpy and torch of the whole process
    # What is installed instead of an analysis of all sources, which takes longer than a short run.
    Task.force_requirements_env_freeze(force=True)
    task: Any = Task.init(
        project_name=project,
        task_name=task_name,
        tags=list(tags),
        reuse_last_task_id=False,
        output_uri=output_uri,
        auto_connect_arg_parser=False,  # also keeps environment variables out
        auto_connect_frameworks=_FRAMEWORKS,
        auto_resource_monitoring=False,
        auto_connect_streams=False,
    )
    # SIGTERM and SIGINT belong to the trainer, and a failure is reported by close().
    Task._remove_signal_hooks()
    Task._remove_exception_hooks()
    if mode.online:
        task.register_abort_callback(functools.partial(_end_run, task), _ABORT_SECONDS)
    # Else every forked data loader worker starts reporting threads and waits for them when it ends.
    PatchOsFork._current_task = None
    return task


def end_task(task: Any, *, status: Status, message: str, online: bool) -> None:
    """Sends what is left, sets the status and closes. An offline session becomes a zip file.

    Raises:
        RuntimeError: the server did not take everything.
    """
    task.flush(wait_for_uploads=True)
    _stop_watching(task)
    if status != "completed":
        if not online:
            # An imported session always ends as completed; a tag still tells.
            task.add_tags([status])
        elif status == "failed":
            task.mark_failed(status_reason="failed", status_message=message, force=True)
        else:
            task.mark_stopped(force=True, status_message=message)
        # close() would call the task completed.
        task.mark_completed = _do_nothing
    task.close()
    if online:
        _confirm(task, "stopped" if status == "aborted" else status)


def _end_run(task: Any) -> None:
    """What "Abort" in the web interface does: the run is ended as by SIGTERM, with a checkpoint.

    Called by the SDK in a thread of its own. If this returns while the SDK still watches the task, it ends
    the process without further ado, so this waits for `end_task`.
    """
    os.kill(os.getpid(), signal.SIGTERM)
    while getattr(task, "_dev_worker", None) is not None:
        time.sleep(0.2)


def _stop_watching(task: Any) -> None:
    """The SDK's watcher ends the process when it sees a status like those that `end_task` sets."""
    if task._dev_worker is not None:
        task._dev_worker.unregister()
        task._dev_worker = None


def is_on_agent() -> bool:
    """Whether a ClearML agent runs this process."""
    from clearml.config import running_remotely

    return bool(running_remotely())


def _confirm(task: Any, status: str) -> None:
    """The SDK does not tell when the server is not there any more: asks it."""
    if status == "completed" and is_on_agent():
        status = "in_progress"  # the agent itself calls it completed, when this process has ended
    ((told, _, _),) = task._get_tasks_status([task.id])
    told = getattr(told, "value", told)
    if told != status:
        raise RuntimeError(f"the server did not confirm the end of the task ({told} instead of {status})")
    if task.session.num_refused:
        raise RuntimeError(f"the server refused {task.session.num_refused} batches of events")


def leave_behind() -> None:
    """Forgets a task that cannot be ended, at once: the next one starts afresh and the process can end.

    The SDK's own shutdown waits for the server without limit, also when Python exits.
    """
    from clearml import Task
    from clearml.backend_interface.task.log import TaskHandler
    from clearml.binding.hydra_bind import PatchHydra

    global _left_behind  # noqa: PLW0603 (the SDK's main task is global as well)
    _left_behind.set()
    _left_behind = threading.Event()
    if (main_task := getattr(Task, "_Task__main_task", None)) is not None:
        _stop_watching(main_task)
    hook: Any = getattr(Task, "_Task__exit_hook", None)
    if hook is not None and hook._exit_callback is not None:
        atexit.unregister(hook._exit_callback)
    reporter: Any = getattr(getattr(Task, "_Task__main_task", None), "_Task__reporter", None)
    if reporter is not None:
        atexit.unregister(reporter._handle_program_exit)
    # logging.shutdown() closes all handlers that there ever were, and this one waits for its thread.
    handlers: list[Any] = getattr(logging, "_handlerList")  # noqa: B009
    handlers[:] = [reference for reference in handlers if not isinstance(reference(), TaskHandler)]
    PatchHydra.update_current_task(None)
    Task._reset_current_task_obj()
    getattr(Task, "_Task__update_master_pid_task")(task=None)  # noqa: B009 (a private name of the SDK)


def _make_patient(session: Any) -> None:
    """Adds a pause after each failure to send, an end when the task is left behind, and a count of refusals.

    The SDK tries for ever and, where the answer makes no sense, without any pause; events that the server
    refuses it drops.
    """
    session.num_refused = 0
    if hasattr(session.send, "__wrapped__"):
        return

    @functools.wraps(session.send)
    def send(*arguments: Any, __send: Callable[..., Any] = session.send, **keywords: Any) -> Any:
        left_behind = _left_behind
        try:
            answer = __send(*arguments, **keywords)
            failures.num = 0
            if getattr(arguments[0], "_action", "") == "add_batch" and not answer.ok():
                session.num_refused += 1
            return answer
        except Exception:
            failures.num = getattr(failures, "num", 0) + 1
            if left_behind.wait(min(_LONGEST_PAUSE, 2.0**failures.num)):
                # Not an Exception: those are what the SDK starts again after.
                raise SystemExit from None
            raise

    failures = threading.local()
    session.send = send


def _do_nothing(*_: object, **__: object) -> None:
    return None


def _place_cache(folder: Path) -> None:
    global _own_cache_dir  # noqa: PLW0603 (the SDK's setting is global as well)
    if os.environ.get(_CACHE_VARIABLE) in (None, _own_cache_dir):
        _own_cache_dir = str(folder.absolute())
        os.environ[_CACHE_VARIABLE] = _own_cache_dir


def _set_offline(offline: bool) -> None:
    """`Task.set_offline`, which also sets environment variables: for us only the user does that."""
    from clearml import Task
    from clearml.backend_api.session.defs import ENV_OFFLINE_MODE

    before = {key: os.environ.get(key) for key in ENV_OFFLINE_MODE.keys}
    try:
        Task.set_offline(offline)
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def _redact_hydra() -> None:
    """Hides secrets in what the SDK's Hydra binding keeps until the task exists."""
    from clearml.binding.hydra_bind import PatchHydra

    waiting = PatchHydra._last_untracked_state
    overrides = waiting.get("connect", {}).get("mutable", {})
    for key, value in overrides.items():
        overrides[key] = redact_value(key, value)
    text = waiting.get("_set_configuration")
    if text:
        text["config_text"] = redact_yaml(text["config_text"])
