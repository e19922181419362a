"""COCO's captions without adverbs, kept in a file so that only the first start has to make them."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from src.data.adverbs.removal import RULES_VERSION, remove_adverbs_from_all
from src.data.adverbs.tagger import tagger_version
from src.data.readers.common import MAX_CAPTION
from src.errors import UserError
from src.files import one_at_a_time, require_writable, sha256_file, write_bytes_atomic

# Each has to load the tagger; more would wait for the one that writes.
_MAX_PROCESSES = 8
_MAX_SHOWN = 100
_MAX_REASON = 200

# What a file raises that is other JSON than COCO's, beside wrong texts.
COCO_FAULTS = (ValueError, KeyError, TypeError, OverflowError, RecursionError)

_log = logging.getLogger(__name__)


def text_in(item: dict[str, Any], key: str) -> str:
    """A text of COCO's JSON; null is the empty one.

    Raises:
        TypeError: it is something else.
    """
    value = item[key]
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{key} is no text but {json.dumps(value)[:_MAX_SHOWN]}")
    return value or ""


def no_coco(annotations: Path, error: Exception) -> UserError:
    """Says why a file is not what it should be."""
    reason = f"{type(error).__name__}: {error}"[:_MAX_REASON]
    return UserError(f"{annotations} is not COCO's captions JSON ({reason}). Unpack it again.")


def captions_without_adverbs(annotations: Path, *, folder: Path, num_processes: int | None = None) -> Path:
    """Makes a file like COCO's captions JSON whose captions have no adverbs, unless it is there.

    Each annotation has its original in `original_caption`, and `adverbs` beside them says what the file was
    made of and by: the source's SHA-256, the version of the rules and that of the tagger. The file's name is
    made of the same, so after a change of any of them it is made again. It appears whole or not at all.

    Args:
        annotations: COCO's captions JSON; it is not changed.
        folder: where such files are kept.
        num_processes: worker processes; None takes one a core, eight at most.

    Returns:
        The file.

    Raises:
        UserError: the annotations are not COCO's captions JSON, the tagger is not installed, or the folder
            cannot be written.
    """
    made_of = {
        "rules": RULES_VERSION,
        "tagger": tagger_version(),
        "source": annotations.name,
        "sha256": sha256_file(annotations),
    }
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
    prepared = folder / f"{annotations.stem}-without-adverbs-{key}.json"
    if prepared.exists():
        return prepared
    require_writable(folder)
    # Jobs of a sweep start together and want the same file.
    with one_at_a_time(prepared.with_suffix(".lock")):
        if not prepared.exists():
            _write(annotations, prepared, made_of=made_of, num_processes=num_processes)
    return prepared


def _write(annotations: Path, prepared: Path, *, made_of: dict[str, Any], num_processes: int | None) -> None:
    try:
        content = json.loads(annotations.read_bytes())
        originals = [text_in(item, "caption") for item in content["annotations"]]
    except COCO_FAULTS as error:
        raise no_coco(annotations, error) from error
    processes = num_processes or min(os.cpu_count() or 1, _MAX_PROCESSES)
    # What is too long to be one is refused when it is read; here it would only take long.
    captions = [original if len(original) <= MAX_CAPTION else "" for original in originals]
    removed = remove_adverbs_from_all(captions, num_processes=processes, progress=True)
    for item, original, caption in zip(content["annotations"], originals, removed.captions, strict=True):
        item["caption"], item["original_caption"] = caption or original, original
    counts = {
        "changed": removed.num_changed,
        "unchanged": removed.num_unchanged,
        "would_be_empty": removed.num_would_be_empty,
    }
    write_bytes_atomic(prepared, json.dumps(content | {"adverbs": made_of | counts}).encode())
    _log.info(
        "Removed adverbs from %d of %d captions of %s (%d would have become empty and were kept): %s",
        removed.num_changed,
        len(originals),
        annotations.name,
        removed.num_would_be_empty,
        prepared,
    )
