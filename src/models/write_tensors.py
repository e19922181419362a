"""A file of an adapter, whole or not at all, and equal bytes for equal contents."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from src.files import require_free_space, write_bytes_atomic
from src.models.safetensors_header import with_sorted_header


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Writes a safetensors file.

    Args:
        path: its folder is made if need be.
        tensors: on any device.
        header: its free text entries.

    Raises:
        UserError: there is no space for it.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(held, metadata=dict(header))
    require_free_space(path.parent, len(data), path.name)
    write_bytes_atomic(path, with_sorted_header(data))
