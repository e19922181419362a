"""What to say and do when a step does not fit into memory."""

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from src.data.batches import Batch
from src.errors import UserError

# torch's words for the host's memory, and for a GPU's where its own error class is not used.
_WORDS = (
    "not enough memory",
    "out of memory",
    "can't allocate memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)


class OutOfMemory(UserError):
    """A step did not fit. The message names it, its images, and what to change."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, on the device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)


def let_go(error: BaseException) -> None:
    """Frees what a failed computation still holds, so that there is memory to save the weights with.

    The error's traceback keeps all local variables alive, and with them the graph of the failed step.
    """
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def explained(step: int, in_work: Callable[[], Batch | None], *, remedies: Sequence[str]) -> Iterator[None]:
    """Around a step: where memory runs out, says so in the user's terms.

    Args:
        step: the step that is taken, from 1.
        in_work: the batch whose forward or backward pass is going on, None in between.
        remedies: what to change, the cheapest first.

    Raises:
        OutOfMemory: the step did not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = _message(step, in_work(), error, remedies)
        let_go(error)
        raise OutOfMemory(message) from error


def _message(step: int, batch: Batch | None, error: BaseException, remedies: Sequence[str]) -> str:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if batch is None:
        what = "while the weights were updated"
    else:
        # All images of a batch have one size, that of their bucket.
        height, width = batch.target_sizes[0].tolist()
        what = f"with a batch of {len(batch.ids)} images of {width}x{height} pixels on one process"
    return (
        f"Out of memory at step {step}, {what} ({first_line.rstrip('.')}). Change until it fits, in this "
        f"order: {'; '.join(remedies)}."
    )
