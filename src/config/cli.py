"""Around Hydra's main: the gates run first, errors become one line, a sweep's failing job becomes a row."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src.config import sweep
from src.config.arguments import parse_arguments
from src.config.build import PROJECT_ROOT, check_config, plain, register
from src.config.composition import VERSION_BASE, Root, compose_root
from src.config.explain import CompositionError, disk_message, explain
from src.config.launch import world_size
from src.config.run_signals import Terminated, single_run
from src.config.schema import InferenceConfig, TrainConfig
from src.config.sweep_signals import SIGNALS, Stopped
from src.errors import UserError

# At its import, which may be anybody's, it warns on some CPUs of matrices in 4 bits, which nothing here has.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
CONFIG_DIR = PROJECT_ROOT / "conf"
EXIT_USAGE = 2
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
# Exit codes above are 128 plus the number of a signal.
_SIGNAL_BASE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a command needs beside its configuration.

    Attributes:
        run_dir: the folder Hydra made for this job.
        name: what trackers call it: the run's name, with the job's number in a sweep.
        resolved: the whole configuration as plain containers, for records.
        overrides: what was given on the command line.
        in_sweep: whether this is a job of a multirun.
        is_named_by_the_time: whether a second process would call the run something else.
        accelerate_file: where the block `accelerate` comes from; None if this program has none.
    """

    run_dir: Path
    name: str
    resolved: dict[str, Any]
    overrides: Sequence[str]
    in_sweep: bool
    is_named_by_the_time: bool = False
    accelerate_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command gives back.

    Attributes:
        exit_code: the process's exit code.
        objective: the value for Hydra's sweepers, if the command has one.
        results: figures for the sweep's table, in the order of its columns.
        notes: what went wrong without ending the command, one line each.
    """

    exit_code: int = 0
    objective: float | None = None
    results: dict[str, float]
    notes: Sequence[str] = ()


Command = Callable[[Any, Job], Outcome]


def main(config_name: str, commands: dict[str, Command]) -> None:
    """Runs one of the commands as Hydra and the command line say, and exits the process.

    Args:
        config_name: the root configuration, unless `-cn` names another.
        commands: the value of the key `command` to the function that carries it out.
    """
    # Hydra then raises instead of printing its own advice, and the errors are worded here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    register()
    arguments = parse_arguments()
    extra_folder = Path(arguments.config_dir).resolve() if arguments.config_dir else None
    root = Root(name=arguments.config_name or config_name, folder=CONFIG_DIR, extra_folder=extra_folder)

    def explained(error: Exception) -> str:
        return explain(error, root=root, overrides=arguments.overrides, builds_on=config_name)

    runner = _Runner(commands, explained)
    exit_code = 0
    try:
        if arguments.multirun:
            _check_sweep_first(root, arguments.overrides)
            runner.fixed_keys = sweep.fixed_keys(arguments.overrides)
        elif not (arguments.help or arguments.hydra_help or arguments.shell_completion):
            _check_first(root, arguments.overrides, will_run=arguments.cfg is None)
        hydra_main = hydra.main(version_base=VERSION_BASE, config_path=str(CONFIG_DIR), config_name=root.name)
        if arguments.multirun:
            exit_code = _run_sweep(hydra_main(runner))
        else:
            with single_run():
                hydra_main(runner)()
        if runner.error is not None:
            raise runner.error
    except UserError as error:
        _fail(str(error), EXIT_USAGE)
    except CompositionError as error:
        _fail(explained(error), EXIT_USAGE)
    except OSError as error:
        message = disk_message(error)
        if message is None:
            raise
        _fail(message, EXIT_FAILED)
    except Terminated as error:
        _fail(f"Stopped by {error}. The same command starts again.", _SIGNAL_BASE + error.number)
    except KeyboardInterrupt:
        # While the loop trains, Ctrl-C asks it to stop and save; this is before or after.
        _fail("Stopped by Ctrl-C. The same command starts again.", EXIT_INTERRUPTED)
    except Exception as error:
        traceback.print_exception(error)
        _fail(
            f"Unexpected {type(error).__name__}; the lines above say where. What was saved before stays.",
            EXIT_FAILED,
        )
    sys.exit(runner.exit_code or exit_code)


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _check_sweep_first(root: Root, overrides: Sequence[str]) -> None:
    """Composes each value of a sweep once before anything is written.

    What cannot be composed refuses the sweep, as Hydra's own sweeper would, and so does a mistake that all
    its jobs share. A value that the gates refuse is one failed job.

    Raises:
        UserError: no job would run; or the folder holds another sweep, whose runs are not to be continued.
    """
    refusals: list[UserError] = []
    lines = sweep.one_at_a_time(overrides)
    for line in lines:
        config = compose_root(root, line, with_hydra=True)
        folder = Path(config.hydra.sweep.dir)
        is_continued = OmegaConf.select(config, "trainer.resume") not in (None, "never")
        if OmegaConf.select(config, "hydra.launcher.max_num_timeout") and "trainer" in config:
            _require_resume(str(config.trainer.resume))
        if not is_continued and sweep.has_results(folder):
            remedy = " or set trainer.resume=auto to continue its runs" if "trainer" in config else ""
            raise UserError(f"{folder} already holds a sweep. Give another run.name{remedy}.")
        try:
            checked = check_config(compose_root(root, line))
            if isinstance(checked, TrainConfig):
                _refuse_in_sweeps(checked)
        except UserError as error:
            refusals.append(error)
    if len(refusals) == len(lines):
        raise refusals[0]


def _require_resume(resume: str) -> None:
    if resume != "auto":
        raise UserError(
            "hydra.launcher.max_num_timeout puts a job into the queue again, and "
            f"trainer.resume={resume} would not go on there. Add trainer.resume=auto."
        )


def _refuse_in_sweeps(config: TrainConfig) -> None:
    if config.accelerate.is_distributed:
        raise UserError("A sweep (-m) runs each job in one process: take accelerate=... away.")
    if config.queue is not None:
        raise UserError(
            "queue=... hands one run to a ClearML agent and does not go with a sweep (-m). Call once for "
            "each job, or queue a task and clone it in ClearML."
        )


def _run_sweep(run: Callable[[], None]) -> int:
    """Runs all jobs, tells what came of them, also of a sweep that was stopped, and returns the exit code."""
    error: BaseException | None = None
    # For jobs in processes of their own. Slurm's warning is to be a signal that the loop saves on.
    paths = [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    with SIGNALS.sweep():
        try:
            run()
        except (Exception, KeyboardInterrupt) as raised:
            error = raised
    rows = sweep.read_rows()
    if rows:
        sweep.write_table(rows)
    if SIGNALS.received is not None:
        print(
            f"The sweep was stopped by {SIGNALS.received.name}. Continue with: the same command, "
            f"run.name={sweep.SweepTable.folder and sweep.SweepTable.folder.name} trainer.resume=auto"
        )
        return _SIGNAL_BASE + SIGNALS.received
    if error is not None and (not rows or any(row["status"] == sweep.COMPLETED for _, row in rows)):
        raise error
    # Where no job has completed, a sweeper's own complaint (Optuna's: no best trial) says nothing more.
    return EXIT_FAILED if any(row["status"] != sweep.COMPLETED for _, row in rows) else 0


@contextmanager
def _no_trace_of_a_refusal(run_dir: Path) -> Iterator[None]:
    """Removes the folder that Hydra made for a command that was refused before it left more than a log."""
    is_new = not any(run_dir.iterdir())
    try:
        yield
    except (UserError, OSError, KeyboardInterrupt):
        if is_new:
            # Another rank may be doing the same.
            with suppress(OSError):
                left = list(run_dir.iterdir())
                if all(path.suffix == ".log" for path in left):
                    for path in left:
                        path.unlink()
                    run_dir.rmdir()
                    run_dir.parent.rmdir()  # outputs/train, if this would have been the first run
        raise


def _check_first(root: Root, overrides: Sequence[str], *, will_run: bool) -> None:
    """Composes once before Hydra does, so that a refused configuration leaves no output folder behind."""
    config = compose_root(root, overrides)
    checked = check_config(config, import_external=will_run and _needs_external(config))
    if isinstance(checked, TrainConfig) and checked.queue is not None and root.name != "train":
        raise UserError(
            f"queue={checked.queue}: a ClearML agent runs conf/train.yaml and not -cn {root.name}."
        )
    if isinstance(checked, InferenceConfig) and world_size() > 1:
        raise UserError(
            f"Generation is one process, and the launcher started {world_size()}. Start it without one; for "
            "several GPUs once on each, with a part of the prompts."
        )
    if will_run and world_size() > 1 and _is_named_by_the_time(config):
        raise UserError(
            "Several processes (WORLD_SIZE) read the clock at different moments and would name the run "
            "differently. Give it a name: run.name=my_run."
        )


def _is_named_by_the_time(config: DictConfig) -> bool:
    return "${now:" in str(OmegaConf.to_container(config.run, resolve=False)["name"])  # type: ignore[index,call-overload]


def _needs_external(config: DictConfig) -> bool:
    # To look at data takes no optimiser, and importing torch for one would take longer.
    return OmegaConf.select(config, "command") != "inspect"


def _option_file(group: str) -> Path | None:
    """The file of a group's chosen option: the user's own folder is looked at first, as Hydra does."""
    runtime = HydraConfig.get().runtime
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    files = [folder / group / f"{runtime.choices.get(group)}.yaml" for folder in folders]
    return next((file for file in files if file.is_file()), None)


class _Runner:
    """The function Hydra calls for each job. Keeps what main does not return: exit code and error."""

    def __init__(self, commands: dict[str, Command], explained: Callable[[Exception], str]) -> None:
        self._commands = commands
        self._explained = explained
        self.fixed_keys: set[str] = set()
        self.exit_code = 0
        self.error: Exception | None = None
        # Hydra names the application after the calling file and looks for these on the function.
        self.__name__ = "main"
        self.__module__ = "__main__"

    def __call__(self, config: DictConfig) -> float | None:
        runtime = HydraConfig.get()
        run_dir, overrides = Path(runtime.runtime.output_dir), list(runtime.overrides.task)
        if runtime.mode == RunMode.MULTIRUN:
            return self._sweep_job(config, run_dir, overrides, number=runtime.job.num)
        try:
            with _no_trace_of_a_refusal(run_dir):
                outcome = self._run(config, run_dir, overrides, name=str(config.run.name), in_sweep=False)
        except Exception as error:
            # Raised again behind Hydra's main, which would add lines of its own.
            self.error = error
            return None
        self.exit_code = outcome.exit_code
        return outcome.objective

    def _run(
        self, config: DictConfig, run_dir: Path, overrides: Sequence[str], *, name: str, in_sweep: bool
    ) -> Outcome:
        checked = check_config(config, import_external=_needs_external(config))
        job = Job(
            run_dir=run_dir,
            name=name,
            resolved=plain(config),
            overrides=overrides,
            in_sweep=in_sweep,
            is_named_by_the_time=_is_named_by_the_time(config),
            accelerate_file=_option_file("accelerate"),
        )
        return self._command(checked)(checked, job)

    def _sweep_job(
        self, config: DictConfig, run_dir: Path, overrides: Sequence[str], *, number: int
    ) -> float | None:
        """Runs one job of a sweep; its failure is a row of the table and ends nothing else.

        Returns:
            The objective. None if there is none: Optuna's sweeper ends at NaN, and counts None as failed.
        """
        pairs = [override.partition("=") for override in overrides]
        swept = {key: value for key, _, value in pairs if key.lstrip("+~") not in self.fixed_keys}
        outcome: Outcome | None = None
        has_begun = False
        try:
            with SIGNALS.job():
                has_begun = True
                sweep.write_row(run_dir, swept, sweep.RUNNING)
                print(
                    f"\nJob {number}: {' '.join(f'{key}={value}' for key, value in swept.items())}",
                    flush=True,
                )
                name = f"{config.run.name}/{number}"
                outcome = self._run(config, run_dir, overrides, name=name, in_sweep=True)
                if outcome.exit_code > _SIGNAL_BASE:
                    SIGNALS.note(outcome.exit_code - _SIGNAL_BASE)
                    raise Stopped
        except KeyboardInterrupt:
            if has_begun:
                results = {} if outcome is None else outcome.results
                sweep.write_row(run_dir, swept, sweep.STOPPED, results=results)
            if SIGNALS.owns_sweep:
                raise
            SIGNALS.hand_on()
            return None
        except Exception as error:
            message = self._message(error)
            print(f"error: job {number}: {message}", file=sys.stderr, flush=True)
            sweep.write_row(run_dir, swept, sweep.FAILED, notes=[message.split("\n")[0]])
            return None
        status = sweep.COMPLETED if outcome.exit_code == 0 else sweep.FAILED
        sweep.write_row(run_dir, swept, status, results=outcome.results, notes=outcome.notes)
        return outcome.objective

    def _message(self, error: Exception) -> str:
        if isinstance(error, UserError):
            return str(error)
        if isinstance(error, CompositionError):
            return self._explained(error)
        if isinstance(error, OSError) and (message := disk_message(error)) is not None:
            return message
        traceback.print_exception(error)
        return f"Unexpected {type(error).__name__}: {error}"

    def _command(self, config: TrainConfig | InferenceConfig) -> Command:
        if config.command not in self._commands:
            raise UserError(
                f"command={config.command} is not one of this program: {', '.join(self._commands)}."
            )
        return self._commands[config.command]
