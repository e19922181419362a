"""Datasets of the Hugging Face hub, or in a folder in a form that the package `datasets` reads."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from src.data.fetch_http import FetchError, Retries
from src.data.readers.captions import shown
from src.data.readers.common import is_text, text_of
from src.data.sources.huggingface_rows import Columns, choose_columns, write_image_folder
from src.errors import UserError
from src.files import require_free_space, write_text_atomic

KEY = "dataset.source"
_TIMEOUT_SECONDS = 5.0
_MAX_REASON = 300

_log = logging.getLogger(__name__)


class HuggingfaceSource:
    """One split of a dataset, written once as an image folder with `metadata.jsonl`.

    The images are written as they are stored, never decoded and never all in memory.

    Args:
        id: `owner/name` on the hub; or a folder of files that `datasets` reads (parquet, images, ...), or of
            `save_to_disk`.
        split: The split, also a part of one such as `train[:1000]`.
        subset: The dataset's configuration, where it has several.
        revision: Branch, tag or commit on the hub.
        image_column: None takes the only column of images.
        caption_column: None takes the only one with a usual name.

    Raises:
        UserError: no id, or an option that is no text.
    """

    def __init__(
        self,
        *,
        id: str | None,
        split: str = "train",
        subset: str | None = None,
        revision: str | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
    ) -> None:
        if id is None:
            raise UserError(
                f"{KEY}.id is not set. Give a dataset's id on the Hugging Face hub, owner/name, or a folder."
            )
        options = {"id": id, "split": split, "subset": subset, "revision": revision}
        options |= {"image_column": image_column, "caption_column": caption_column}
        for name, value in options.items():
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise UserError(f"{KEY}.{name}={value!r} must be a text.")
        self._folder: Path | None = None  # looked for when it is needed: what was brought stays without it
        self._id, self._split, self._subset, self._revision = id, split, subset, revision
        self._columns = Columns(image=image_column, caption=caption_column)
        self._origin = ", ".join(f"{name} {value}" for name, value in options.items() if value is not None)

    @property
    def origin(self) -> str:
        """What it brings, in words."""
        return f"a Hugging Face dataset ({self._origin})"

    def missing(self, path: Path) -> list[str]:
        """All of it or nothing: the folder appears whole."""
        return [] if path.is_dir() and any(path.iterdir()) else [f"split {self._split}"]

    def fetch(self, folder: Path, *, missing: Sequence[str], retries: Retries, progress: bool) -> Path:
        """Loads the dataset and writes the image folder; see `Source.fetch`.

        What `datasets` has downloaded stays in its own cache, so that a second try is quick.

        Raises:
            FetchError: it cannot be loaded, or holds too much that is unusable.
            UserError: there is no such folder, the package is not installed, the columns cannot be told, or
                not enough disk space.
        """
        self._folder = _existing_folder(self._id)
        datasets = _package()
        credit = None if self._folder is not None else self._ask_hub()
        loaded = self._load(datasets)
        columns = choose_columns(loaded.features, self._columns, datasets)
        share = len(loaded) / max(1, loaded.data.num_rows)
        require_free_space(folder, int(loaded.data.nbytes * share), "the dataset's images")
        whole = folder / "whole"
        shutil.rmtree(whole, ignore_errors=True)  # of a try that was stopped
        write_image_folder(
            loaded, whole, columns=columns, roots=self._roots(datasets), datasets=datasets, progress=progress
        )
        if credit is not None:
            write_text_atomic(whole / "ATTRIBUTION.txt", credit + "\n")
        return whole

    def _roots(self, datasets: Any) -> list[Path]:
        """Where image files may lie that rows only name: a row of somebody's may name any file."""
        if self._folder is not None:
            return [self._folder]
        from huggingface_hub.constants import HF_HUB_CACHE

        return [Path(datasets.config.HF_DATASETS_CACHE).resolve(), Path(HF_HUB_CACHE).resolve()]

    def _ask_hub(self) -> str:
        """Whom to credit; and a dataset that is not there, or no network, is found within seconds.

        Raises:
            FetchError: the hub does not know it, or cannot be reached.
        """
        link = f"https://huggingface.co/datasets/{self._id}"
        if _is_offline():
            # What the cache holds is taken; the hub is not asked for the licence.
            return f"Dataset {self._id} ({link}); see there for its licence."
        try:
            info = HfApi().dataset_info(self._id, revision=self._revision, timeout=_TIMEOUT_SECONDS)
        except GatedRepoError as error:
            raise FetchError(
                f"the hub asks for a login to give {self._id}. Accept its terms on its page and put your "
                "access token as HF_TOKEN into the environment or .env."
            ) from error
        except RevisionNotFoundError as error:
            raise FetchError(f"the hub's {self._id} has no revision {self._revision}.") from error
        except RepositoryNotFoundError as error:
            raise FetchError(
                f"the hub has no dataset {self._id} (or it is private), and there is no such folder. Check "
                f"{KEY}.id; for a private one set HF_TOKEN."
            ) from error
        except Exception as error:  # The hub's client passes on errors of three HTTP libraries.
            raise FetchError(
                f"the hub cannot be reached for {self._id} ({_reason(error)}). HF_HUB_OFFLINE=1 takes a copy "
                "that is in the cache of datasets."
            ) from error
        card = info.card_data.to_dict() if info.card_data is not None else {}
        licences = card.get("license")
        licence = ", ".join(licences) if isinstance(licences, list) else text_of(licences)
        return f"Dataset {self._id} ({link}), revision {info.sha}. Licence: {licence or 'not stated'}."

    def _load(self, datasets: Any) -> Any:
        """The dataset, memory-mapped.

        Raises:
            FetchError: with what `datasets` says.
        """
        name = str(self._folder or self._id)
        try:
            if self._folder is not None and _is_saved(self._folder):
                saved = datasets.load_from_disk(name)
                if isinstance(saved, datasets.DatasetDict):
                    if self._split not in saved:
                        raise FetchError(
                            f"{name} has no split {self._split}. It has: {', '.join(saved)}. Set {KEY}.split."
                        )
                    saved = saved[self._split]
                return saved
            return datasets.load_dataset(name, name=self._subset, split=self._split, revision=self._revision)
        except UserError:
            raise
        except Exception as error:  # Anything may come from there; each kind says what is wrong.
            offline = " HF_HUB_OFFLINE=1 is set, so nothing is downloaded." if _is_offline() else ""
            raise FetchError(
                f"datasets cannot load {name}, split {self._split} ({_reason(error)}).{offline} "
                f"Check {KEY}.id, {KEY}.split, {KEY}.subset and {KEY}.revision."
            ) from error


def _existing_folder(id: str) -> Path | None:
    """The folder that an id names; None for a hub id.

    Raises:
        UserError: it is neither.
    """
    try:
        folder = Path(id).expanduser()
        if folder.exists():
            return folder.resolve()
    except (RuntimeError, ValueError, OSError):  # nobody's home, a name with NUL or too long
        pass
    if id.startswith(("/", "~", ".")) or id.count("/") > 1 or not is_text(id):
        raise UserError(f"{KEY}.id={shown(id)}: there is no such folder, and no hub id looks like this.")
    return None


def _package() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "dataset=huggingface needs the package datasets, which is optional. Install it by starting once "
            "with DARKROOM_EXTRAS=1, or with: pip install 'datasets>=5.2,<6'"
        ) from error
    return datasets


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _is_offline() -> bool:
    on = {"1", "true", "yes", "on"}
    return any(os.environ.get(name, "").lower() in on for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_REASON]
