"""Ctrl-C at moments that nobody chose: work is stopped by a real signal, again and again, until it is done."""

import itertools
import os
import random
import signal
import threading
from collections.abc import Callable

_MORE_TIMES = 20


def interrupted_often(
    work: Callable[[], object], check: Callable[[], object], *, times: int, longest: float
) -> int:
    """Starts the work so many times and stops it after up to `longest` seconds; `check` looks at what is left.

    The moments differ from one run of the tests to the next. If none came before the work's end, as on a fast
    machine, earlier ones are tried: it has been stopped at least once. After the last time it is left alone.

    Returns:
        How often it was stopped before its end.
    """
    moments = random.Random()
    num_stopped = 0
    before = signal.signal(signal.SIGUSR2, signal.default_int_handler)
    try:
        for number in itertools.count():
            if number >= times:
                if num_stopped:
                    break
                assert number < times + _MORE_TIMES, "the work was never stopped"
                longest /= 2
            delay = moments.uniform(0.0, longest)
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGUSR2))
            try:
                timer.start()
                try:
                    work()
                finally:
                    timer.cancel()
                    timer.join()
            except KeyboardInterrupt:
                num_stopped += 1
            check()
    finally:
        signal.signal(signal.SIGUSR2, before)
    work()
    check()
    return num_stopped
