"""Checks of values that configuration, readers and sources share. Each names the key and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from src.errors import UserError
from src.redact import redact_text


def require_choice(key: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuses a value outside a closed list, with the nearest allowed one."""
    allowed = list(choices)
    if value not in allowed:
        near = difflib.get_close_matches(str(value), map(str, allowed), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"{key}={value} is not one of: {', '.join(map(str, allowed))}.{hint}")


def is_web_address(text: str) -> bool:
    """Whether a text is an http(s) address with a host and, if any, a port.

    >>> is_web_address("https://example.org:8443/a b.zip"), is_web_address("http://example.org:x/")
    (True, False)
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port  # a port that is no number is a ValueError
        host.encode("idna")
        if "[" in parts.netloc or host.replace(".", "").isdecimal():
            ip_address(host)
    except ValueError:
        return False
    is_plain = bool(host) and text.isprintable() and not any(c.isspace() for c in parts.netloc)
    return is_plain and text.lower().startswith(("http://", "https://"))


def require_web_address(key: str, value: Any) -> None:
    """Refuses what is no http(s) address."""
    if not isinstance(value, str) or not is_web_address(value):
        raise UserError(
            f"{key}={redact_text(str(value))} must be an address that begins with https:// or http://, "
            "with a host and, if any, a port that is a number."
        )


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
