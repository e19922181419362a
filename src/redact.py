"""Keeps passwords and tokens out of what is recorded."""

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_SECRET_NAME = r"(?:\w*_)?(?:token|password|passwd|secret|api_?key|access_?key|credentials?)"
_SECRET_KEY = re.compile(_SECRET_NAME, re.IGNORECASE)
_SECRET_LINE = re.compile(
    rf"""^([ \t]*{_SECRET_NAME}:[ \t]+)(?!(?:null|''|"")[ \t]*$)\S.*$""", re.IGNORECASE | re.MULTILINE
)
# https://user:password@host, https://token@host, and keys given in an address such as ?token=...
# (Hydra writes a backslash before the colons of a sweep's overrides.)
_USER_IN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*\\?://)[^/\s@'\"]+@", re.IGNORECASE)
_KEY_IN_ADDRESS = re.compile(
    r"([?&][^=&\s'\"]*(?:token|password|secret|signature|key)=)[^&\s'\"]+", re.IGNORECASE
)


def redact_text(text: str) -> str:
    """Hides user names and passwords in addresses, and keys passed in their query.

    >>> redact_text("https://me:pw@host/data.zip?token=abc")
    'https://***@host/data.zip?token=***'
    """
    return _KEY_IN_ADDRESS.sub(rf"\1{HIDDEN}", _USER_IN_ADDRESS.sub(rf"\1{HIDDEN}@", text))


def redact_yaml(text: str) -> str:
    """The same, and the values of keys that are named like secrets.

    >>> redact_yaml("hub:\\n  token: abc\\n")
    'hub:\\n  token: ***\\n'
    """
    return redact_text(_SECRET_LINE.sub(rf"\1{HIDDEN}", text))


def redact(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested configuration without secrets: by the name of the key, and inside addresses."""
    return {key: redact_value(str(key), value) for key, value in config.items()}


def redact_value(key: str, value: Any) -> Any:
    """A value without secrets: hidden where the last part of its key names one, else inside addresses."""
    key = key.rpartition(".")[2]
    if isinstance(value, Mapping):
        return redact(value)
    if isinstance(value, (list, tuple)):
        return [redact_value(key, item) for item in value]
    if isinstance(value, str):
        return HIDDEN if value and _SECRET_KEY.fullmatch(key) else redact_text(value)
    return value


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names; lists stay values.

    >>> flatten({"trainer": {"seed": 1}})
    {'trainer.seed': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat
