"""Models by hub id: from the local cache when they are there, else downloaded, and never a long wait."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from src.errors import UserError
from src.files import read_json
from src.models.weight_files import choose

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_TIMEOUT_SECONDS = 5.0
_WITHOUT = {
    "model.path": "model=pocket needs neither",
    "model.vae_path": "model.vae_path=null takes the VAE that model.path comes with",
    "captioner.model": "captioner=llm needs neither",
}
_LOCAL = {"captioner.model": "a local folder"}  # and for the others:
_LOCAL_DEFAULT = "a local diffusers folder or .safetensors file"
_CONFIGS = (".json", ".txt")
# What is not needed: the safety checker alone is 1.2 GB.
_IGNORED_FOLDERS = {"safety_checker", "feature_extractor", "image_encoder"}
_VOCABULARIES = (("vocab.json", "merges.txt"), ("tokenizer.json",))


def is_hub_id(path: str) -> bool:
    """Whether a path that does not exist could be a hub id, `owner/name`."""
    return _HUB_ID.match(path) is not None and not path.endswith((".safetensors", ".ckpt"))


def fetch_from_hub(
    repository: str, *, revision: str | None, variants: Sequence[str], key: str = "model.path"
) -> Path:
    """The local folder of a hub repository, downloaded if the cache has not all of it.

    Args:
        repository: `owner/name`.
        revision: branch, tag or commit.
        variants: weight variants in order of preference; one is downloaded.
        key: the configuration's key, for messages.

    Raises:
        UserError: not in the cache and the hub cannot be reached (within seconds), unknown, or gated.
    """
    if cached := _cached(repository, revision, variants):
        return cached
    try:
        info = HfApi().model_info(repository, revision=revision, timeout=_TIMEOUT_SECONDS)
        wanted = wanted_files([file.rfilename for file in info.siblings or []], variants)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except GatedRepoError as error:
        raise UserError(
            f"The hub asks for a login to give {repository}. Accept its licence on its page and put your "
            "access token as HF_TOKEN into the environment or .env."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"The hub's {repository} has no revision {revision}. Check model.revision."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"The hub has no model {repository} (or it is private), and no such local path exists. "
            f"Check {key}; for a private one set HF_TOKEN."
        ) from error
    except (OSError, HTTPError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"Model {repository} is not in the local cache and the hub cannot be reached ({reason[0]}). "
            f"Connect to the network, or point {key} to {_LOCAL.get(key, _LOCAL_DEFAULT)}, or HF_HOME to a "
            f"cache that holds it; {_WITHOUT[key]}."
        ) from error


def wanted_files(names: Sequence[str], variants: Sequence[str]) -> list[str]:
    """The files of a repository that loading needs: configurations, one variant of each part's weights."""
    wanted: list[str] = []
    folders: dict[str, list[str]] = {}
    for name in names:
        parts = PurePosixPath(name).parts
        if len(parts) <= 2 and parts[0] not in _IGNORED_FOLDERS:
            folders.setdefault(parts[0] if len(parts) == 2 else "", []).append(parts[-1])
    for folder, files in folders.items():
        weights = choose(files, variants)
        kept = [file for file in files if file.endswith(_CONFIGS) and ".index." not in file]
        kept += weights[1] if weights else []
        wanted += [f"{folder}/{file}" if folder else file for file in kept]
    return wanted


def cached_folder(repository: str, *, revision: str | None) -> Path | None:
    """What the local cache has of a hub repository, complete or not; None if nothing."""
    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _cached(repository: str, revision: str | None, variants: Sequence[str]) -> Path | None:
    folder = cached_folder(repository, revision=revision)
    return folder if folder is not None and _is_complete(folder, variants) else None


def _is_complete(folder: Path, variants: Sequence[str]) -> bool:
    """Whether a snapshot has all that loading needs; one of an interrupted download has not."""
    index = folder / "model_index.json"
    if not index.is_file():
        return _has_weights(folder, variants)  # a bare VAE
    parts = [
        folder / name
        for name, entry in read_json(index).items()
        # [library, class]; an optional part that is not there is [null, null].
        if isinstance(entry, list) and entry[0] is not None and name not in _IGNORED_FOLDERS
    ]
    return all(_has_part(part, variants) for part in parts)


def _has_part(part: Path, variants: Sequence[str]) -> bool:
    if part.name == "scheduler":
        return (part / "scheduler_config.json").is_file()
    if part.name.startswith("tokenizer"):
        # Without its configuration a tokenizer loads all the same, and pads with another token.
        return (part / "tokenizer_config.json").is_file() and any(
            all((part / name).is_file() for name in names) for names in _VOCABULARIES
        )
    return _has_weights(part, variants)


def _has_weights(part: Path, variants: Sequence[str]) -> bool:
    names = [file.name for file in part.iterdir() if file.is_file()] if part.is_dir() else []
    chosen = choose(names, variants)
    if chosen is None or "config.json" not in names:
        return False
    indexes = [name for name in chosen[1] if name.endswith(".json")]
    shards = {shard for name in indexes for shard in read_json(part / name)["weight_map"].values()}
    has_some = bool(indexes) or any("-of-" not in name for name in chosen[1])
    return has_some and shards <= set(chosen[1])
