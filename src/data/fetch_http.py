"""Asking over HTTP(S): which addresses and redirects are followed, what is tried again, and how patiently."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from src.checks import is_web_address
from src.errors import UserError

_T = TypeVar("_T")
_MAX_REDIRECTS = 5
# Seconds. A server that asks for more patience than this is better asked again by a person.
_LONGEST_WAIT = 300.0
# Far above what an API answers with; a server that sends more means harm, or is no API.
_MAX_JSON_BYTES = 16 << 20
_CHUNK = 1 << 16
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class FetchError(UserError):
    """Data could not be brought here; the message says why."""


class PassingError(Exception):
    """A failure that may be gone at the next attempt, `wait` seconds from now at the earliest."""

    def __init__(self, message: str, *, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and how patiently a download is tried: waits grow as pause, 2 pause, 4 pause..."""

    attempts: int = 4
    pause: float = 1.0
    connect_timeout: float = 10.0
    read_timeout: float = 60.0


def shown(url: str) -> str:
    """A URL as it may be printed: without user, password, query and fragment, which can hold secrets."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "What was to be fetched"  # of what cannot be taken apart any part may be a secret
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def _check_url(url: str, *, after: str | None = None) -> None:
    if not is_web_address(url):
        origin = "" if after is None else f"{shown(after)} redirects to something else: "
        raise FetchError(f"{origin}{shown(url)} is no http(s) address. Check the address.")
    scheme = urlsplit(url).scheme.lower()
    if after is not None and urlsplit(after).scheme.lower() == "https" and scheme != "https":
        raise FetchError(f"{shown(after)} redirects from https to {shown(url)}; refused.")


def open_url(
    url: str, *, headers: dict[str, str], retries: Retries, stream: bool, session: Any = None
) -> Any:
    """GET that follows at most five redirects, each checked, and returns the `requests.Response`.

    Args:
        url: the address.
        headers: of the request, beside the program's name.
        retries: for its timeouts.
        stream: leave the body to be read in pieces.
        session: a `requests.Session` of the caller's thread, to keep connections open between requests.

    Raises:
        FetchError: no address, a redirect leads somewhere it must not, or there are too many.
    """
    import requests

    _check_url(url)
    for _ in range(_MAX_REDIRECTS + 1):
        try:
            response = (session or requests).get(
                url,
                headers={"User-Agent": "darkroom", **headers},
                stream=stream,
                timeout=(retries.connect_timeout, retries.read_timeout),
                allow_redirects=False,
            )
        except ValueError as error:  # of the libraries below, on addresses that only they refuse
            raise FetchError(f"{shown(url)} cannot be asked ({type(error).__name__}).") from error
        if response.status_code not in {301, 302, 303, 307, 308} or "Location" not in response.headers:
            return response
        response.close()
        try:
            target = urljoin(url, response.headers["Location"])
        except ValueError:
            target = response.headers["Location"]
        _check_url(target, after=url)
        url = target
    raise FetchError(f"{shown(url)}: more than {_MAX_REDIRECTS} redirects.")


def with_retries(
    action: Callable[[], _T],
    *,
    retries: Retries,
    what: str,
    sleep: Callable[[float], object] | None = None,
) -> _T:
    """Calls `action` until it succeeds; network errors and passing HTTP statuses are tried again.

    Args:
        action: what is tried.
        retries: how often and how patiently; a server that asks for a longer pause is given it.
        what: how messages call it.
        sleep: waits so many seconds, instead of `time.sleep`.

    Returns:
        What `action` returned.

    Raises:
        FetchError: it still fails at the last attempt, or at once for what cannot pass.
    """
    import requests

    reason, wait = "", 0.0
    for attempt in range(retries.attempts):
        if attempt:
            (sleep or time.sleep)(max(wait, retries.pause * 2 ** (attempt - 1)))
        try:
            return action()
        except PassingError as error:
            reason, wait = str(error), error.wait
        except (requests.RequestException, ConnectionError, TimeoutError) as error:
            reason, wait = type(error).__name__, 0.0
    raise FetchError(f"{what}: {reason}, {retries.attempts} attempts.")


def retry_after(headers: Any) -> float:
    """Seconds that a server asks to wait (Retry-After: a number or a date; RFC 9110, 10.2.3), or 0."""
    value = str(headers.get("Retry-After", "")).strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        wait = date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)
    except (ValueError, OverflowError):  # the latter of a time zone days away
        return 0.0
    return max(0.0, wait.total_seconds())


def check_status(response: Any, what: str) -> None:
    """Sorts HTTP statuses: fine (2xx), passing (tried again), final.

    Raises:
        FetchError: a final one, such as 404, or a server that wants to be left alone for long.
    """
    status = response.status_code
    if status in _PASSING_STATUS:
        wait = retry_after(response.headers)
        if wait > _LONGEST_WAIT:
            raise FetchError(
                f"{what}: the server answered {status} and asks to wait {wait / 60:.0f} minutes. "
                "Start again then."
            )
        raise PassingError(f"the server answered {status}", wait=wait)
    if not 200 <= status < 300:
        raise FetchError(f"{what}: the server answered {status}. Check the address.")


def get_json(url: str, *, retries: Retries, what: str) -> dict[str, Any]:
    """GET of a JSON object, tried again like a download.

    Raises:
        FetchError: it cannot be had, or the answer is something else or too long.
    """
    found: dict[str, Any] = {}

    def attempt() -> None:
        headers = {"Accept": "application/json"}
        data = bytearray()
        with open_url(url, headers=headers, retries=retries, stream=True) as response:
            check_status(response, what)
            for chunk in response.iter_content(_CHUNK):
                data += chunk
                if len(data) > _MAX_JSON_BYTES:
                    raise FetchError(f"{what}: the answer is longer than {_MAX_JSON_BYTES} bytes.")
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise FetchError(f"{what}: the answer is no JSON.") from error
        if not isinstance(value, dict):
            raise FetchError(f"{what}: the answer is no JSON object.")
        found.update(value)

    with_retries(attempt, retries=retries, what=what)
    return found
