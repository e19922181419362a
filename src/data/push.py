"""An exported dataset to the Hugging Face hub; only when asked, and private."""

from __future__ import annotations

import os
import re
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from src.errors import UserError

_KEY = "dataset.push_to_hub"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TIMEOUT_SECONDS = 10.0
_MAX_REASON = 300
# What the hub puts into a new repository by itself.
_OF_THE_HUB = frozenset({".gitattributes", "README.md"})


def require_hub(repository: str) -> None:
    """Refuses before any work what could not be pushed at its end.

    Raises:
        UserError: no hub id, no network wanted, no access token, or a repository that everybody can see or
            that holds files: they would stay, and two exports be mixed.
    """
    if not _HUB_ID.fullmatch(repository):
        raise UserError(f"{_KEY}={repository} is no hub id. Write owner/name.")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        raise UserError(f"{_KEY} needs the hub, and HF_HUB_OFFLINE is set. Unset it, or leave {_KEY} out.")
    if get_token() is None:
        raise UserError(
            f"{_KEY} needs an access token with the right to write. Put it as HF_TOKEN into the environment "
            "or .env, or run: hf auth login"
        )
    try:
        info = HfApi().dataset_info(repository, timeout=_TIMEOUT_SECONDS)
    except RepositoryNotFoundError:
        return  # it will be made
    except Exception as error:  # The hub's client passes on errors of three HTTP libraries.
        raise UserError(f"{_KEY}: the hub cannot be reached ({_reason(error)}).") from error
    if not info.private:
        raise UserError(
            f"{_KEY}={repository} is there and everybody can see it. Choose another name; a new dataset is "
            "private until you make it public on its page."
        )
    files = [file.rfilename for file in info.siblings or [] if file.rfilename not in _OF_THE_HUB]
    if files:
        raise UserError(
            f"{_KEY}={repository} is there and holds {len(files)} files, such as {min(files)}, which would "
            "be mixed with this export. Choose another name, or delete them on its page."
        )


def push_folder(folder: Path, repository: str) -> str:
    """Uploads a folder to a private dataset of the hub, which is made if it is not there.

    Returns:
        The dataset's address.

    Raises:
        UserError: the hub refuses. The folder stays, so that the upload can be tried again.
    """
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repository,
            repo_type="dataset",
            commit_message="Dataset exported by Darkroom",
        )
    except Exception as error:  # See above.
        raise UserError(
            f"{_KEY}: the upload to {repository} failed ({_reason(error)}). The export stays in {folder}; "
            f"try again with: hf upload {repository} {folder} --repo-type dataset"
        ) from error
    return f"https://huggingface.co/datasets/{repository}"


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_REASON]
