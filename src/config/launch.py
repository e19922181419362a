"""Starts the processes of a run: from `accelerate=...` to accelerate's own launcher with the same file.

`sh train_run.sh accelerate=multi_gpu` comes here before anything of the run: the configuration has passed its
gates, and this process itself becomes the launcher, so that a signal meant for the run reaches it.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.config.accelerate_schema import ALL_VISIBLE, AccelerateConfig
from src.errors import UserError

if TYPE_CHECKING:
    from src.config.cli import Job

# Set by the run scripts: only there may the program turn into its own launcher.
_ALLOWED = "DARKROOM_LAUNCH"
_WORLD_SIZE = "WORLD_SIZE"
_DEFAULT_PORT = 29500
_LAUNCHER = Path(__file__).resolve().parents[1] / "launcher.py"
# Seconds from a signal until the launcher kills: a step and a checkpoint must fit, also of a large model.
_SECONDS_TO_SAVE = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What accelerate's launcher has to be told beside its file.

    Attributes:
        num_processes: on all machines together.
        num_machines: each with a launcher of its own.
        machine_rank: which of them this is.
        main_process_ip: address of machine 0; None on a single machine.
        main_process_port: where the processes meet; 0 is a free one.
    """

    num_processes: int
    num_machines: int
    machine_rank: int
    main_process_ip: str | None
    main_process_port: int

    def flags(self) -> list[str]:
        """As `accelerate launch` takes them; they win over its file."""
        values = {
            "num_processes": self.num_processes,
            "num_machines": self.num_machines,
            "machine_rank": self.machine_rank,
            "main_process_ip": self.main_process_ip,
            "main_process_port": self.main_process_port,
        }
        return [
            part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))
        ]


def is_started(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher has started this process."""
    return _WORLD_SIZE in environment


def world_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes the launcher announced, 1 without one."""
    return int(environment.get(_WORLD_SIZE, "1"))


def start_processes(accelerate: AccelerateConfig, job: "Job") -> None:
    """Goes on where this process is one of those that the configuration asks for; else becomes the launcher.

    Args:
        accelerate: the checked block.
        job: whose run it is.

    Raises:
        UserError: nobody is there to launch, or something that this machine has to say is missing.
    """
    if may_launch(accelerate):
        _launch(plan_launch(accelerate, os.environ), job)
    require_as_configured(accelerate)


def may_launch(accelerate: AccelerateConfig, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is to become the launcher of the run."""
    return accelerate.is_distributed and not is_started(environment) and _ALLOWED in environment


def require_as_configured(accelerate: AccelerateConfig, environment: Mapping[str, str] = os.environ) -> None:
    """Compares what a launcher has started with the configuration.

    Raises:
        UserError: there is no launcher where one is needed, or it started another number of processes.
    """
    if not accelerate.is_distributed:
        return
    if not is_started(environment):
        raise UserError(
            "accelerate=... asks for several processes, and none were started. Use sh train_run.sh with the "
            "same arguments; or accelerate launch --config_file conf/accelerate/<option>.yaml train.py ..."
        )
    started = world_size(environment)
    if accelerate.num_processes not in (ALL_VISIBLE, started):
        raise UserError(
            f"accelerate.num_processes={accelerate.num_processes}, but the launcher started {started}. Give "
            "both the same number, or leave the start to sh train_run.sh."
        )


def _launch(plan: Launch, job: "Job") -> None:
    """Becomes accelerate's launcher, which starts this program again in each of the processes."""
    if job.is_named_by_the_time and plan.num_machines > 1:
        raise UserError(
            "Several machines would name the run by different seconds. Give it a name: run.name=my_run."
        )
    # Once for all of them: processes read the clock in different seconds, and behind a ClearML agent the name
    # is not among the arguments.
    name = job.name.replace("\\", "\\\\").replace("'", "\\'")
    arguments = [*sys.argv[1:], f"run.name='{name}'"]
    assert job.accelerate_file is not None
    # -P: what lies beside that file is no library.
    launcher = [sys.executable, "-P", str(_LAUNCHER), "--config_file", str(job.accelerate_file)]
    environment = {name: value for name, value in os.environ.items() if name != _ALLOWED}
    # Settings that accelerate does not pass on: Slurm's warning goes to the processes like other signals.
    environment.setdefault("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    environment.setdefault("PET_SHUTDOWN_TIMEOUT", str(_SECONDS_TO_SAVE))
    sys.stdout.flush()
    program = str(Path(sys.argv[0]).resolve())
    os.execve(sys.executable, [*launcher, *plan.flags(), program, *arguments], environment)


def plan_launch(accelerate: AccelerateConfig, environment: Mapping[str, str]) -> Launch:
    """What is started where; what the configuration leaves open is read from the environment.

    Raises:
        UserError: it is not there either, or there is no GPU to count.
    """
    num_machines = _number("num_machines", accelerate.num_machines, environment, "NNODES", "SLURM_NNODES")
    machine_rank = _number("machine_rank", accelerate.machine_rank, environment, "NODE_RANK", "SLURM_NODEID")
    if machine_rank >= num_machines:
        raise UserError(
            f"accelerate.machine_rank={machine_rank} must be less than "
            f"accelerate.num_machines={num_machines}: they count from 0."
        )
    address, port = accelerate.main_process_ip, accelerate.main_process_port
    if num_machines > 1:
        address = address or environment.get("MASTER_ADDR") or environment.get("SLURM_LAUNCH_NODE_IPADDR")
        if address is None:
            raise UserError(
                "accelerate.main_process_ip is not known: the address of the machine of rank 0. Set it, or "
                "MASTER_ADDR (Slurm sets SLURM_LAUNCH_NODE_IPADDR)."
            )
        # A free port of one machine means nothing to the others.
        port = port or int(environment.get("MASTER_PORT", _DEFAULT_PORT))
    num_processes = accelerate.num_processes
    if num_processes == ALL_VISIBLE:
        num_processes = num_machines * _visible_gpus()
    if num_processes % num_machines:
        raise UserError(
            f"accelerate.num_processes={num_processes} is the number on all machines together and must "
            f"divide by accelerate.num_machines={num_machines}."
        )
    return Launch(
        num_processes=num_processes,
        num_machines=num_machines,
        machine_rank=machine_rank,
        main_process_ip=address,
        main_process_port=port or 0,
    )


def _number(key: str, value: int | None, environment: Mapping[str, str], *names: str) -> int:
    if value is not None:
        return value
    for name in names:
        text = environment.get(name, "")
        if text.isdecimal():
            return int(text)
    raise UserError(
        f"accelerate.{key} is not known. Set it, or one of {', '.join(names)} in the environment."
    )


def _visible_gpus() -> int:
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        raise UserError(
            "accelerate.num_processes=-1 is one for each GPU, and no GPU is visible here. "
            "accelerate=multi_cpu tries several processes on the CPU."
        )
    return count
