"""Checks of the options of readers and sources. Each names the key, the value and what is allowed."""

from __future__ import annotations

from typing import Any

from src.checks import require_web_address  # noqa: F401  # the captioner takes it from here
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


def require_words(key: str, value: Any) -> None:
    """Refuses what is no list of texts."""
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) and word for word in value):
        raise UserError(f"{key}={value} must be a list of words, such as {key}=[one,two].")
