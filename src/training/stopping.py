"""Why all ranks stop at a step boundary although the plan goes on."""

import signal

from src.training.accelerator import Agreement
from src.training.signals import StopSignals

# Above all signal numbers: what ranks tell each other when a callback of the main one asks for the end.
_CALLBACK_STOP = 1000


def agreed_stop(agreement: Agreement, signals: StopSignals, *, requested: str | None) -> str | None:
    """The reason to stop now, None to go on. Every rank must call it, at the same place.

    Args:
        agreement: between the ranks.
        signals: of this process; takes over a signal that another one received.
        requested: what a callback of the main process wants.
    """
    code = 0 if signals.received is None else int(signals.received)
    code = agreement.largest(_CALLBACK_STOP if requested is not None else code)
    if code == _CALLBACK_STOP:
        return requested or "callback of the main process"
    if code > 0:
        signals.received = signal.Signals(code)
        return f"signal {signals.received.name}"
    return None
