"""accelerate's launcher with the end of a command of ours: the run's exit code, its reason in the last lines.

Run as a script by `src.config.launch`. By itself accelerate ends with 1 and with a traceback of its own,
which hides what the run has said.
"""

import logging
import signal
import sys


def main() -> int:
    """Starts the processes as `accelerate launch` does, with its arguments.

    Returns:
        128 plus the signal that ended it, else the exit code of the process that failed first, else 0.
    """
    from accelerate.commands.launch import main as launch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # Which processes torch watches and stops is nothing that a user can do something about.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        launch()
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            # It could not say so itself.
            print(
                f"error: Rank {rank} was ended by {signal.Signals(-failure.exitcode).name}.", file=sys.stderr
            )
            return 128 - failure.exitcode
        return int(failure.exitcode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
