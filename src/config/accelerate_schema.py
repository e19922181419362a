"""How many processes a run has and where, in the words of accelerate's own files; see `schema.py`."""

from dataclasses import dataclass

from src.checks import require_choice
from src.config.checks import require_at_least, require_between
from src.config.choices import DISTRIBUTED_TYPES
from src.errors import UserError

# num_processes: as many as there are GPUs.
ALL_VISIBLE = -1


@dataclass(slots=True, kw_only=True)
class AccelerateConfig:
    """What a file in conf/accelerate holds. accelerate launch reads the same file; the names are its own."""

    distributed_type: str = "NO"
    # None leaves it to trainer.device.
    use_cpu: bool | None = None
    num_processes: int = 1
    num_machines: int | None = 1
    machine_rank: int | None = 0
    main_process_ip: str | None = None
    main_process_port: int | None = None
    same_network: bool = False

    def __post_init__(self) -> None:
        require_choice("accelerate.distributed_type", self.distributed_type, DISTRIBUTED_TYPES)
        require_at_least("accelerate.num_machines", self.num_machines, 1)
        require_at_least("accelerate.machine_rank", self.machine_rank, 0)
        if self.main_process_port is not None:
            require_between("accelerate.main_process_port", self.main_process_port, 0, 65535)
        if self.num_processes != ALL_VISIBLE:
            require_at_least("accelerate.num_processes", self.num_processes, 1)
        if self.distributed_type == "NO" and (self.num_processes != 1 or self.num_machines != 1):
            raise UserError(
                f"accelerate.num_processes={self.num_processes} on {self.num_machines} machines does not go "
                "with accelerate.distributed_type=NO. Use accelerate=multi_gpu, multi_node or multi_cpu."
            )
        if self.use_cpu and self.num_processes == ALL_VISIBLE:
            raise UserError(
                "accelerate.num_processes=-1 counts GPUs. With accelerate.use_cpu=true give a number."
            )

    @property
    def is_distributed(self) -> bool:
        """Whether a launcher has to start the processes."""
        return self.distributed_type != "NO"

    @property
    def is_sharded(self) -> bool:
        """Whether weights, gradients and optimiser states lie in shards, one a process (FSDP)."""
        return self.distributed_type == "FSDP"

    def require_device(self, key: str, device: str) -> None:
        """Refuses a device that `use_cpu` contradicts.

        Args:
            key: of the device.
            device: "auto", "cpu", "cuda" or "mps".

        Raises:
            UserError: it does.
        """
        if self.use_cpu is None or device == "auto":
            return
        if self.use_cpu != (device == "cpu"):
            raise UserError(
                f"{key}={device} contradicts accelerate.use_cpu={str(self.use_cpu).lower()}. Leave "
                f"{key}=auto, or choose another accelerate=..."
            )
