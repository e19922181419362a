"""Whether an offline session of ClearML holds what was reported. Free of the SDK."""

import json
import zipfile
from pathlib import Path

_SCALAR = "training_stats_scalar"


def require_whole(archive: Path, *, num_scalars: int) -> None:
    """Counts the scalars in a session's zip: on a full disk the SDK's threads end without a word.

    Args:
        archive: the zip.
        num_scalars: that were reported.

    Raises:
        OSError: it is not there, damaged, or holds fewer.
    """
    try:
        with zipfile.ZipFile(archive) as session, session.open("metrics.jsonl") as lines:
            num_kept = sum(event["type"] == _SCALAR for line in lines for event in json.loads(line))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise OSError(f"the offline session {archive} cannot be read ({error})") from error
    if num_kept < num_scalars:
        raise OSError(
            f"the offline session {archive} holds {num_kept} of {num_scalars} numbers; is the disk full?"
        )
