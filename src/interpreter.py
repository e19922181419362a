"""The interpreter that runs us, as a command that a user can paste."""

import shlex
import sys
from pathlib import Path


def python() -> str:
    """Its path: short from the folder that it is in, `.venv/bin/python` as a rule."""
    path, here = Path(sys.executable), Path.cwd()
    # A bare name would be looked up on PATH.
    is_inside = path.is_relative_to(here) and path.parent != here
    return shlex.quote(str(path.relative_to(here) if is_inside else path))
