"""An error on one rank ends the others as well, also where they wait for it inside a collective.

gloo's waits end when a process dies. NCCL's go on until their own limit of minutes, and a launcher that stops
the others by a signal reaches only the code behind that wait. torch's kills what is left on its own machine
after 30 seconds, without a word on why, and on other machines nothing.
"""

import logging
import os
import threading
from typing import Any

import torch
from torch.distributed import distributed_c10d

from src.training.observers import describe

_log = logging.getLogger(__name__)
_KEY = "darkroom/failed"
_SECONDS_BETWEEN_LOOKS = 2.0
# For a rank that can still end by itself: it learns of the failure at its next collective. Less than the 30
# of torch's launcher, so that the log says why.
_SECONDS_OF_GRACE = 15.0


class FailureWatch:
    """While entered, looks from a thread whether another rank has failed, and then ends this process.

    Nothing is saved on the way: the process may be anywhere in a step. In a single process it does nothing.

    Args:
        rank: of this process.
        num_ranks: of the run.
    """

    def __init__(self, *, rank: int, num_ranks: int) -> None:
        self._rank = rank
        self._is_alone = num_ranks == 1
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._store: Any = None

    def __enter__(self) -> "FailureWatch":
        if not self._is_alone:
            # A connection of its own: waits on the shared one would hold this one up.
            self._store = distributed_c10d._get_default_store().clone()
            self._ended.clear()
            self._thread = threading.Thread(target=self._watch, name="failure-watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=_SECONDS_OF_GRACE)
            self._thread = None

    def stand_down(self) -> None:
        """This rank knows of a failure, and saves what there is: it is not to be ended on the way."""
        self._ended.set()

    def tell(self, error: BaseException) -> None:
        """Says that this rank has failed. The first to say so is remembered."""
        if self._is_alone:
            return
        try:
            self._store.compare_set(_KEY, "", f"{self._rank} {describe(error)}")
        except (RuntimeError, torch.distributed.DistError) as failure:
            _log.debug("Other ranks could not be told (%s).", failure)

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                if not self._store.check([_KEY]):
                    continue
                rank, _, cause = self._store.get(_KEY).decode(errors="replace").partition(" ")
            except (RuntimeError, torch.distributed.DistError) as failure:
                _log.debug("Other ranks cannot be looked at any more (%s).", failure)
                return
            if int(rank) == self._rank or self._ended.wait(_SECONDS_OF_GRACE):
                return
            message = f"Rank {rank} failed ({cause}), and rank {self._rank} still waits for it: it ends now."
            _log.error("%s The last checkpoint stays the newest.", message)
            logging.shutdown()
            os._exit(1)
