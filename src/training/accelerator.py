"""Device, precision and processes: what accelerate is asked for, and what ranks tell each other."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs

from src.errors import UserError
from src.models.devices import choose_device

# Ranks wait here while the main one samples or saves, which may take longer than a collective's usual limit.
_AGREEMENT_TIMEOUT = timedelta(hours=12)
_T = TypeVar("_T")


def make_accelerator(
    *,
    mixed_precision: str = "auto",
    device: str = "auto",
    deterministic: bool = False,
    use_cpu: bool | None = None,
    group: str = "trainer",
) -> Accelerator:
    """Makes the accelerator of a run. A process may make several, one after the other (a sweep).

    Args:
        mixed_precision: "auto" (bf16 on a GPU that has it, else "no"), "no", "fp16" or "bf16".
        device: "auto" (cuda, mps, cpu), "cuda", "mps" or "cpu".
        deterministic: only algorithms that give the same bits each time; slower on a GPU.
        use_cpu: True for the CPU, False for a GPU, None as `device` says.
        group: whose keys these are, for messages.

    Raises:
        UserError: the device is not there, or cannot do the precision.
    """
    device = choose_device("cpu" if use_cpu else device, key=f"{group}.device")
    if use_cpu is False and device == "cpu":
        raise UserError(
            "accelerate.use_cpu=false asks for a GPU, and there is none. Choose another accelerate=..."
        )
    if mixed_precision == "auto":
        mixed_precision = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "no"
    if mixed_precision == "fp16" and device == "cpu":
        raise UserError(
            f"{group}.mixed_precision=fp16 needs a GPU. Use {group}.mixed_precision=no or bf16 on a CPU."
        )
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = False
    # FSDP is ours (`sharding.py`), its launcher accelerate's: which would have it wrap the model as well.
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    # accelerate keeps its settings in class attributes and refuses others in the same process.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    GradientState._reset_state()
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        cpu=device == "cpu",
        # No buffer of a model changes while training, and weights in 8 bits are buffers: without this DDP
        # would send them round at each step.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    # accelerate launch --cpu --num_processes 2 starts one process and says nothing.
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        raise UserError(
            f"The launcher announced {expected} processes (WORLD_SIZE), accelerate sees "
            f"{accelerator.num_processes}. Start with accelerate launch or torchrun and compare its settings."
        )
    return accelerator


class Agreement:
    """Lets all ranks see the largest of their numbers, or the main one's words, or work in shares.

    It does not touch the accelerator's own queue. It is also the place where ranks wait for the main one.

    Args:
        accelerator: None for a single process.

    Attributes:
        rank: which one this is.
        num_ranks: how many there are.
    """

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self.rank = 0 if accelerator is None else accelerator.process_index
        self.num_ranks = 1 if accelerator is None else accelerator.num_processes
        # gloo also beside NCCL, whose waits end after ten minutes.
        self._group: Any = (
            torch.distributed.new_group(backend="gloo", timeout=_AGREEMENT_TIMEOUT)
            if self.num_ranks > 1
            else None
        )

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Waits for all ranks, as long as sampling, scoring or saving on the main one takes."""
        self.largest(0)

    def largest(self, value: int) -> int:
        """The largest value of all ranks. Every rank must call it, at the same place."""
        if self._group is None:
            return value
        tensor = torch.tensor(value)
        torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX, group=self._group)
        return int(tensor)

    def from_main(self, text: str | None) -> str | None:
        """The main rank's text, on every rank. Every rank must call it, at the same place."""
        if self._group is None:
            return text
        texts = [text]
        torch.distributed.broadcast_object_list(texts, src=0, group=self._group)
        return texts[0]

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """Every n-th item, from this rank's own on: what it is to work on."""
        return items[self.rank :: self.num_ranks]

    def do_shares(self, work: Callable[[], Sequence[_T]]) -> list[_T]:
        """Every rank works on its share. Every rank must call it, at the same place.

        Args:
            work: gives the results of what `share` gave this rank, in that order.

        Returns:
            All results in the order of all items, on the main rank; nothing on the others.

        Raises:
            Exception: on every rank if the work failed on one: its error there, `RankError` on the others.
        """
        if self._group is None:
            return list(work())
        results: Sequence[_T] = []
        failure: Exception | SystemExit | None = None
        try:
            results = work()
        except (Exception, SystemExit) as error:  # an exit, too, would leave the others waiting
            failure = error
        self.raise_for_all(failure)
        shares: list[Any] | None = [None] * self.num_ranks if self.is_main else None
        torch.distributed.gather_object(list(results), shares, dst=0, group=self._group)
        if shares is None:
            return []
        num_items = sum(map(len, shares))
        return [shares[index % self.num_ranks][index // self.num_ranks] for index in range(num_items)]

    @contextmanager
    def entered(self, context: AbstractContextManager[object]) -> Iterator[None]:
        """Enters a context on all ranks or on none. Every rank must call it, at the same place.

        Raises:
            Exception: as `raise_for_all`, if it cannot be entered on one.
        """
        with ExitStack() as stack:
            failure: Exception | SystemExit | None = None
            try:
                stack.enter_context(context)
            except (Exception, SystemExit) as error:
                failure = error
            self.raise_for_all(failure)
            yield

    def raise_for_all(self, failure: Exception | SystemExit | None) -> None:
        """Raises on every rank if something failed on one. Every rank must call it, at the same place.

        Raises:
            Exception: this rank's own failure; `RankError` for another's.
        """
        if self._group is None:
            if failure is not None:
                raise failure
            return
        own = None if failure is None else f"{type(failure).__name__}: {failure}"
        failures: list[str | None] = [None] * self.num_ranks
        torch.distributed.all_gather_object(failures, own, group=self._group)
        if failure is not None:
            raise failure
        for rank, cause in enumerate(failures):
            if cause is not None:
                raise RankError(f"rank {rank}: {cause}")


class RankError(RuntimeError):
    """Work that ranks shared failed on another one."""
