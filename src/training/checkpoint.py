"""Checkpoints that are whole or absent.

A checkpoint is a folder `step_00000100` of safetensors and JSON files with a manifest of their sizes and
hashes. It is written beside, under a name that no reader looks at, every file is synced to disk, the
manifest comes last, and then the folder is renamed into place. Only after that is an older one removed.
Whatever interrupts this, a folder that bears a checkpoint's name was complete once; what rots on disk
afterwards, its hashes tell.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from src.errors import FullDiskError, UserError
from src.files import fsync_folder, is_full_disk, read_json, require_free_space, require_writable, sha256_file

MANIFEST = "manifest.json"
# Files of the weights in training, and of those that are judged and handed over where they are others.
WEIGHTS, EVALUATION = "weights", "evaluation"
_FORMAT = 1
_NAME = re.compile(r"step_\d{8,}")
_STAGING = ".tmp-"
# Room for the JSON files and for what a file system adds.
_OVERHEAD_BYTES = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint holds: groups of tensors and plain values, both by file name without ending."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    documents: dict[str, Any]


class Checkpointer:
    """Writes checkpoints into one folder and removes old ones.

    Args:
        folder: the run's checkpoint folder.
        keep: how many of the newest to keep; the best is kept beside them.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is or would be."""
        return self.folder / f"step_{step:08d}"

    def prepare(self, num_bytes: int) -> None:
        """Proves before training that the folder can be written and holds two checkpoints of about this size.

        Raises:
            UserError: it cannot.
        """
        require_writable(self.folder)
        self.require_space(num_bytes)

    def save(
        self,
        *,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        documents: Mapping[str, Any],
        best_step: int | None,
        num_reserved: int = 2,
    ) -> Path:
        """Writes a checkpoint, then removes old ones.

        Args:
            step: optimiser steps done; a checkpoint of the same step is replaced.
            tensors: what goes into `<name>.safetensors`.
            documents: what goes into `<name>.json`.
            best_step: the step whose checkpoint is never removed.
            num_reserved: checkpoints of this size that must fit on the disk. One is enough for the last of a
                run.

        Returns:
            The checkpoint's folder.

        Raises:
            FullDiskError: the disk cannot hold it. Older checkpoints are untouched.
            UserError: it cannot be written for another reason; the same holds.
        """
        num_bytes = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
        self.require_space(num_bytes, num_checkpoints=num_reserved)
        target = self.path(step)
        staging = self.folder / f"{_STAGING}{target.name}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        replaced: Path | None = None
        try:
            staging.mkdir()
            self._write(staging, step=step, tensors=tensors, documents=documents, best_step=best_step)
            if target.exists():
                # A run that went back to an older checkpoint comes by here again; that older one stays
                # meanwhile.
                replaced = target.rename(self.folder / f"{_STAGING}replaced-{target.name}")
            staging.rename(target)
            fsync_folder(self.folder)
        except (OSError, SafetensorError) as error:
            if self._is_back(replaced, target):
                self._remove_leftovers()
            kind = FullDiskError if is_full_disk(error) else UserError
            raise kind(
                f"The checkpoint of step {step} could not be written to {target} ({error}). Earlier "
                f"checkpoints are intact. Free some space or choose another paths.output_dir, then set "
                f"trainer.resume=auto."
            ) from error
        self._rotate(best_step)
        self._remove_leftovers()
        return target

    def _write(
        self,
        folder: Path,
        *,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        documents: Mapping[str, Any],
        best_step: int | None,
    ) -> None:
        for name, group in tensors.items():
            path = folder / f"{name}.safetensors"
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in group.items()}, path)
            _sync_file(path)
        for name, document in documents.items():
            _write_json(folder / f"{name}.json", document)
        files = sorted(folder.iterdir())
        manifest = {
            "format": _FORMAT,
            "step": step,
            "best_step": best_step,
            # Steps alone do not tell which is newest: a run resumed from its best one writes lower steps
            # later.
            "generation": 1 + max((_generation(path) for path in list_checkpoints(self.folder)), default=0),
            "files": {
                path.name: {"size": path.stat().st_size, "sha256": sha256_file(path)} for path in files
            },
        }
        _write_json(folder / MANIFEST, {**manifest, "sha256": _hash(manifest)})
        fsync_folder(folder)

    def require_space(self, num_bytes: int, *, num_checkpoints: int = 2) -> None:
        """Proves, without writing anything, that the disk holds some checkpoints of about this size.

        Raises:
            FullDiskError: it does not.
        """
        what = "the next checkpoint" if num_checkpoints == 1 else f"the next {num_checkpoints} checkpoints"
        require_free_space(self.folder, num_checkpoints * (num_bytes + _OVERHEAD_BYTES), what)

    def _is_back(self, replaced: Path | None, target: Path) -> bool:
        """Gives a checkpoint its name again whose successor did not come into place."""
        if replaced is not None and not target.exists():
            try:
                replaced.rename(target)
            except OSError as error:
                _log.warning("Could not put %s back to %s (%s).", replaced, target, error)
                return False
        return True

    def _rotate(self, best_step: int | None) -> None:
        kept = set(list_checkpoints(self.folder)[-self._keep :])
        if best_step is not None:
            kept.add(self.path(best_step))
        for path in list_checkpoints(self.folder):
            if path not in kept and _generation(path) > 0:
                try:
                    # Out of sight first, so that an interrupted removal leaves no damaged checkpoint behind.
                    path.rename(self.folder / f"{_STAGING}removed-{path.name}")
                except OSError as error:
                    _log.warning("Could not remove the old checkpoint %s (%s).", path, error)

    def _remove_leftovers(self) -> None:
        for path in self.folder.glob(f"{_STAGING}*"):
            try:
                shutil.rmtree(path)
            except OSError as error:
                _log.warning("Could not remove %s (%s). It can be deleted by hand.", path, error)


def list_checkpoints(folder: Path) -> list[Path]:
    """All folders with a checkpoint's name, oldest first. Those with an unreadable manifest come first."""
    found = [path for path in folder.glob("step_*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (_generation(path), path.name))


def read_manifest(path: Path) -> dict[str, Any] | None:
    """A checkpoint's manifest, or None if it cannot be read or its own hash does not fit."""
    try:
        manifest = read_json(path / MANIFEST)
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.pop("sha256", None) != _hash(manifest):
        return None
    return manifest


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, None if every file has the size and hash of its manifest."""
    manifest = read_manifest(path)
    if manifest is None:
        return f"{MANIFEST} is missing or unreadable"
    if manifest["format"] != _FORMAT:
        return f"its format is {manifest['format']}, this version reads {_FORMAT}"
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["size"]:
            return f"{name} has {file.stat().st_size} bytes instead of {expected['size']}"
        if sha256_file(file) != expected["sha256"]:
            return f"{name} has another hash than when it was written"
    return None


def newest_whole(checkpoints: Sequence[Path]) -> tuple[Path | None, dict[Path, str]]:
    """The newest checkpoint without damage, None if there is none, and what is wrong with others.

    Args:
        checkpoints: oldest first, as `list_checkpoints` gives them. Of those older than the answer only the
            manifests are read.
    """
    newest, damages = None, {}
    for path in reversed(checkpoints):
        # One without a manifest may have been the newest of all: nothing else says where it belongs.
        damage = find_damage(path) if newest is None or read_manifest(path) is None else None
        if damage is not None:
            damages[path] = damage
            _log.warning("Skipping the damaged checkpoint %s: %s.", path, damage)
        elif newest is None:
            newest = path
    return newest, damages


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint that `find_damage` found whole; tensors on the CPU."""
    return Checkpoint(
        path=path,
        tensors={file.stem: load_file(file) for file in path.glob("*.safetensors")},
        documents={file.stem: read_json(file) for file in path.glob("*.json") if file.name != MANIFEST},
    )


def judged_weights(path: Path) -> Path:
    """The file of the weights of a checkpoint that are judged and handed over."""
    file = path / f"{EVALUATION}.safetensors"
    return file if file.is_file() else path / f"{WEIGHTS}.safetensors"


def _generation(path: Path) -> int:
    manifest = read_manifest(path)
    return 0 if manifest is None else int(manifest["generation"])


def _hash(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    _sync_file(path)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
