"""What a checkpoint and a run must agree in for one to be continued by the other. Free of torch."""

from collections.abc import Mapping
from pathlib import Path

from src.errors import UserError
from src.files import read_json

Scalar = str | int | float | bool | None
# Stands for a value that cannot be said before more is read, and agrees with all.
UNKNOWN = "not known yet"


def require_continuable(path: Path, must_match: Mapping[str, Scalar]) -> None:
    """Compares a checkpoint with what is known of this run (see `UNKNOWN`), before any work for it.

    Raises:
        UserError: it is of a run that this one cannot continue.
    """
    require_agreement(path, read_json(path / "loop.json")["must_match"], must_match)


def require_agreement(path: Path, before: Mapping[str, Scalar], now: Mapping[str, Scalar]) -> None:
    """Compares all values by name; one that is missing is another than all others.

    Raises:
        UserError: naming what differs.
    """
    different = [
        f"{key} (then {before.get(key, 'unset')}, now {now.get(key, 'unset')})"
        for key in sorted(before.keys() | now.keys())
        if now.get(key) != UNKNOWN and before.get(key, "unset") != now.get(key, "unset")
    ]
    if different:
        raise UserError(
            f"{path} cannot be continued, because these differ: {', '.join(different)}. "
            "Set them back, or start anew with another run.name."
        )
