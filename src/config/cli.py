"""Around Hydra's main: the gates run first, errors become one line, a sweep's failing job becomes a row."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from src.config import sweep
from src.config.build import PROJECT_ROOT, check_config, plain, register
from src.config.composition import VERSION_BASE, Root, compose_root
from src.config.explain import CompositionError, explain
from src.config.schema import InferenceConfig, TrainConfig
from src.errors import UserError

CONFIG_DIR = PROJECT_ROOT / "conf"
EXIT_USAGE = 2
EXIT_FAILED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a command needs beside its configuration.

    Attributes:
        run_dir: the folder Hydra made for this job.
        name: what trackers call it: the run's name, with the job's number in a sweep.
        resolved: the whole configuration as plain containers, for records.
        overrides: what was given on the command line.
        in_sweep: whether this is a job of a multirun.
    """

    run_dir: Path
    name: str
    resolved: dict[str, Any]
    overrides: Sequence[str]
    in_sweep: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command gives back.

    Attributes:
        exit_code: the process's exit code.
        objective: the value for Hydra's sweepers, if the command has one.
        results: figures for the sweep's table.
    """

    exit_code: int = 0
    objective: float | None = None
    results: dict[str, float]


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
    sys.argv[1:] = _flags_first(sys.argv[1:])
    arguments = get_args_parser().parse_args()
    extra_folder = Path(arguments.config_dir).resolve() if arguments.config_dir else None
    root = Root(name=arguments.config_name or config_name, folder=CONFIG_DIR, extra_folder=extra_folder)
    runner = _Runner(commands)
    try:
        if not (arguments.multirun or arguments.help or arguments.hydra_help or arguments.shell_completion):
            _check_first(root, arguments.overrides, will_run=arguments.cfg is None)
        hydra.main(version_base=VERSION_BASE, config_path=str(CONFIG_DIR), config_name=root.name)(runner)()
        if runner.error is not None:
            raise runner.error
    except UserError as error:
        _fail(str(error), EXIT_USAGE)
    except CompositionError as error:
        _fail(explain(error, root=root, overrides=arguments.overrides, builds_on=config_name), EXIT_USAGE)
    except OSError as error:
        if error.filename is None:
            raise
        _fail(
            f"Cannot write or read {error.filename} ({error.strerror}). Choose another folder "
            "(paths.output_dir, paths.cache_dir) or change its permissions.",
            EXIT_FAILED,
        )
    sys.exit(runner.exit_code or sweep.exit_code())


def _flags_first(arguments: Sequence[str]) -> list[str]:
    """Sorts flags before overrides, so that `a=1 --cfg job b=2` works; argparse alone refuses it."""
    is_override = re.compile(r"[~+]{0,2}[A-Za-z_][\w./@-]*=|~[A-Za-z_]").match
    overrides = [argument for argument in arguments if is_override(argument)]
    return [argument for argument in arguments if not is_override(argument)] + overrides


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _check_first(root: Root, overrides: Sequence[str], *, will_run: bool) -> None:
    """Composes once before Hydra does, so that a refused configuration leaves no output folder behind."""
    check_config(compose_root(root, overrides), import_external=will_run)


class _Runner:
    """The function Hydra calls for each job. Keeps what main does not return: exit code and error."""

    def __init__(self, commands: dict[str, Command]) -> None:
        self._commands = commands
        self.exit_code = 0
        self.error: Exception | None = None
        # Hydra names the application after the calling file and looks for these on the function.
        self.__name__ = "main"
        self.__module__ = "__main__"

    def __call__(self, config: DictConfig) -> float | None:
        runtime = HydraConfig.get()
        in_sweep = runtime.mode == RunMode.MULTIRUN
        run_dir = Path(runtime.runtime.output_dir)
        name = f"{config.run.name}/{runtime.job.num}" if in_sweep else str(config.run.name)
        overrides = list(runtime.overrides.task)
        try:
            checked = check_config(config)
            job = Job(
                run_dir=run_dir, name=name, resolved=plain(config), overrides=overrides, in_sweep=in_sweep
            )
            outcome = self._command(checked)(checked, job)
        except Exception as error:
            if not in_sweep:
                # Raised again behind Hydra's main, which would add lines of its own.
                self.error = error
                return None
            sweep.record_failure(run_dir, overrides, error)
            return float("nan")
        if in_sweep:
            sweep.record(run_dir, overrides, outcome.results, failed=outcome.exit_code != 0)
        self.exit_code = self.exit_code or outcome.exit_code
        return outcome.objective

    def _command(self, config: TrainConfig | InferenceConfig) -> Command:
        if config.command not in self._commands:
            raise UserError(
                f"command={config.command} is not one of this program: {', '.join(self._commands)}."
            )
        return self._commands[config.command]
