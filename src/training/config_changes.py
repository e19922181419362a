"""How a run's configuration differs from that of the run which wrote a checkpoint."""

import json
from collections.abc import Mapping
from typing import Any

from src.redact import flatten

_BLOCK = "a block of settings"
# They say how to go on, not what is trained.
_NOT_COMPARED = ("trainer.resume", "trainer.resume_changed")


def config_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each key that differs, in the order of the keys.

    >>> config_changes({"trainer": {"seed": 1, "max_steps": 4}}, {"trainer": {"seed": 1, "max_steps": 8}})
    ['trainer.max_steps: 4 -> 8']
    """
    before, after = flatten(then), flatten(now)
    # A block that is switched off or on is one change.
    for one, other in ((before, after), (after, before)):
        for key in [key for key, value in one.items() if value is None and key not in other]:
            inside = [name for name in other if name.startswith(f"{key}.")]
            for name in inside:
                del other[name]
            if inside:
                other[key] = _BLOCK
    different = [
        key
        for key in sorted(before.keys() | after.keys())
        if key not in _NOT_COMPARED and (key in before, before.get(key)) != (key in after, after.get(key))
    ]
    return [f"{key}: {_shown(before, key)} -> {_shown(after, key)}" for key in different]


def _shown(values: Mapping[str, Any], key: str) -> str:
    if values.get(key) == _BLOCK:
        return _BLOCK
    return json.dumps(values[key], ensure_ascii=False, default=str) if key in values else "unset"
