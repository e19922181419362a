"""Checks of the options of readers and sources. Each names the key, the value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from src.errors import UserError


def require_whole_number(key: str, value: Any, *, least: int, most: int | None = None) -> None:
    """Refuses what is no whole number between `least` and `most`."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        limit = f"of at least {least}" if most is None else f"between {least} and {most}"
        raise UserError(f"{key}={value} must be a whole number {limit}.")


def require_flag(key: str, value: Any) -> None:
    """Refuses what is neither true nor false."""
    if not isinstance(value, bool):
        raise UserError(f"{key}={value} must be true or false.")


def require_known(key: str, value: Any, known: Sequence[Any]) -> None:
    """Refuses what is not on a list, with the nearest that is."""
    if value not in known:
        near = difflib.get_close_matches(str(value), [str(other) for other in known], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"{key}={value} is not one of: {', '.join(map(str, known))}.{hint}")


def require_web_address(key: str, value: Any) -> None:
    """Refuses what is no http(s) address."""
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        raise UserError(f"{key}={value} must be an address that begins with https:// or http://.")


def require_words(key: str, value: Any) -> None:
    """Refuses what is no list of texts."""
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) and word for word in value):
        raise UserError(f"{key}={value} must be a list of words, such as {key}=[one,two].")
