"""Keeps diffusers and transformers from talking where our own checks and lines say what matters."""

from collections.abc import Iterator
from contextlib import contextmanager

import diffusers.utils.logging
import transformers.utils.logging


@contextmanager
def quiet_libraries(*, errors_only: bool = False) -> Iterator[None]:
    """No progress bars inside: both libraries draw one for each part, and a whole model loads in seconds.

    Args:
        errors_only: no warnings either, where every case they speak of is checked by the caller.
    """
    modules = (transformers.utils.logging, diffusers.utils.logging)
    shown = [module.is_progress_bar_enabled() for module in modules]
    levels = [module.get_verbosity() for module in modules]
    for module in modules:
        module.disable_progress_bar()
        if errors_only:
            module.set_verbosity_error()
    try:
        yield
    finally:
        for module, was_shown, level in zip(modules, shown, levels, strict=True):
            module.set_verbosity(level)
            if was_shown:
                module.enable_progress_bar()
