"""Weights, gradients and optimiser state in shards, one a process: FSDP, by torch's `fully_shard`.

For full fine-tuning, where a process cannot hold them all. It is torch's own and not accelerate's wrapper,
which puts other parameters in the place of those that the optimiser has. Parameters become `DTensor`s of the
whole shape; forward and backward passes gather them block by block. All else of a run works on whole weights:
inside `whole` each process has them, and what is saved is put together first, so a checkpoint does not tell
how many processes wrote it. Without shards everything here passes through what it is given.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

_Group = TypeVar("_Group", bound=Any)


def shard(
    root: nn.Module, blocks: Sequence[nn.Module], groups: Sequence[_Group], *, accelerator: Accelerator
) -> list[_Group]:
    """Shards a module in place, over all processes. Before anything holds on to its parameters.

    Args:
        root: holds every trained parameter. All processes have the same weights in it.
        blocks: parts of it that are gathered one at a time; the rest is gathered with the root.
        groups: what is trained (dataclasses with `parameters`, pairs of name and parameter).
        accelerator: says where.

    Returns:
        The groups with the parameters that took the old ones' places.
    """
    names = {id(parameter): name for name, parameter in root.named_parameters()}
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for module in (*blocks, root):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    new = dict(root.named_parameters())
    return [
        replace(group, parameters=[(label, new[names[id(old)]]) for label, old in group.parameters])
        for group in groups
    ]


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` was applied to a module or a part of it."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Whole weights inside, on every process: it can be used as if it were alone, and need not keep step.

    Every process must enter it at the same place. What is written to the weights inside is lost.
    """
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    # What was changed so far: gathering may run out of memory half-way.
    gathered_parts: list[tuple[FSDPModule, type[FSDPModule]]] = []
    hooked: list[tuple[nn.Module, Any]] = []
    try:
        for part in parts:
            gathered_parts.append((part, type(part)))
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
            # Under its own name, which is written into what is saved.
            part.__class__ = type(part).__mro__[2]
        # These would put the shards back before anything is saved.
        for child in {id(child): child for part in parts for child in part.modules()}.values():
            if child._state_dict_pre_hooks:
                hooked.append((child, child._state_dict_pre_hooks))
                child._state_dict_pre_hooks = type(child._state_dict_pre_hooks)()
        yield
    finally:
        for child, hooks in hooked:
            child._state_dict_pre_hooks = hooks
        for changed, sharded_class in gathered_parts:
            changed.__class__ = sharded_class
            changed.reshard()
            changed.set_reshard_after_forward(True, recurse=False)


def prepare(accelerator: Accelerator, denoiser: nn.Module, optimizer: Optimizer) -> tuple[Any, Any]:
    """`accelerator.prepare`, without DDP around what is sharded."""
    if not is_sharded(denoiser):
        wrapped_denoiser, wrapped_optimizer = accelerator.prepare(denoiser, optimizer)
        return wrapped_denoiser, wrapped_optimizer
    return accelerator.prepare_model(denoiser, evaluation_mode=True), accelerator.prepare_optimizer(optimizer)


def gathered(tensor: Tensor) -> Tensor:
    """A whole tensor of a sharded one. Then every process must call it, at the same place."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_all(tensors: Mapping[str, Tensor], *, is_kept: bool) -> dict[str, Tensor]:
    """Whole tensors, on the CPU where they were sharded; nothing where they are not kept.

    Every process must call it, at the same place.
    """
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = gathered(tensor)
        if is_kept:
            kept[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return kept


def sharded_like(tensor: Tensor, own: Tensor) -> Tensor:
    """A whole tensor, cut as another one of its shape is. Each process has the whole: nothing is sent."""
    if not isinstance(own, DTensor) or tensor.shape != own.shape:
        return tensor
    moved = tensor.to(own.device)
    with torch.no_grad():
        return distribute_tensor(moved, own.device_mesh, own.placements, src_data_rank=None)
