"""Small checks shared by the schema's dataclasses. Each names the key, the value and what is allowed."""

import math
import os
from pathlib import Path
from typing import Any

from PIL import ImageColor

from src.errors import UserError


def require_at_least(key: str, value: float | None, minimum: float) -> None:
    """Refuses a number below a minimum; None (not set) passes."""
    if value is not None and not value >= minimum:
        raise UserError(f"{key}={value} must be at least {minimum}.")


def require_between(key: str, value: float, minimum: float, maximum: float) -> None:
    """Refuses a number outside a closed interval."""
    if not minimum <= value <= maximum:
        raise UserError(f"{key}={value} must lie between {minimum} and {maximum}.")


def require_positive(key: str, value: float | None) -> None:
    """Refuses zero, negative numbers, infinities and NaN; None (not set) passes."""
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise UserError(f"{key}={value} must be a positive number.")


def require_colour(key: str, value: str) -> None:
    """Refuses what is neither a colour's name nor "#rrggbb"."""
    try:
        ImageColor.getrgb(value)
    except ValueError as error:
        raise UserError(f"{key}={value} is no colour. Use a name such as white, or '#ffffff'.") from error


def parse_size(key: str, value: Any, *, multiple_of: int = 8) -> tuple[int, int]:
    """Reads a size given as one number (a square) or as [width, height], in pixels.

    Raises:
        UserError: it is neither, or a side is not a positive multiple of `multiple_of`.
    """
    sides = [value, value] if isinstance(value, int) else value
    if (
        isinstance(value, bool)
        or not isinstance(sides, list | tuple)
        or len(sides) != 2
        or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    ):
        raise UserError(f"{key}={value} must be a whole number or [width, height], for example {key}=512.")
    width, height = sides
    for side in (width, height):
        if side <= 0 or side % multiple_of:
            lower = max(multiple_of, side // multiple_of * multiple_of)
            upper = lower + multiple_of
            raise UserError(
                f"{key}={value}: {side} is not a positive multiple of {multiple_of}. "
                f"The nearest are {lower} and {upper}."
            )
    return width, height


def require_apart(key: str, path: str, other_key: str, other: str) -> None:
    """Refuses two folders of which one lies in the other, or is the other."""
    # Unlike pathlib's, it has an answer for links that lead in a circle.
    first, second = (Path(os.path.realpath(folder)) for folder in (path, other))
    if first.is_relative_to(second) or second.is_relative_to(first):
        raise UserError(f"{key}={path} and {other_key}={other} must not lie one in the other.")


def expand_home(path: str) -> str:
    """A leading `~` written out, which no shell does after the `=` of an override.

    >>> expand_home("data/~x")
    'data/~x'
    """
    return os.path.expanduser(path)  # noqa: PTH111 - an unknown user's ~name stays, where pathlib raises
