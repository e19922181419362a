"""Where a model computes."""

import torch

from src.errors import UserError


def choose_device(device: str, *, key: str) -> str:
    """The device to use.

    Args:
        device: "auto" (cuda, mps, cpu: the first that is there), "cuda", "mps" or "cpu".
        key: The configuration's key, for messages.

    Raises:
        UserError: it is none of them, or not on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, is_there in available.items() if is_there)
    if device not in available:
        raise UserError(f"{key}={device} is not one of: auto, {', '.join(available)}.")
    if not available[device]:
        raise UserError(f"{key}={device} is not available on this machine. Use {key}=auto.")
    return device
