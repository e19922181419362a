"""What a run was made of: written into the run folder, and in short form into the adapter's header."""

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.files import sha256_file

_PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "numpy",
    "pillow",
    "pillow-heif",
    "timm",
    "open-clip-torch",
    "hydra-core",
    "omegaconf",
)


def dataset_hash(content_hashes: Mapping[str, str], captions: Mapping[str, str]) -> str:
    """One hash over all images' contents and captions, independent of their order.

    Args:
        content_hashes: sample id to the SHA-256 of its file.
        captions: sample id to caption.
    """
    digest = hashlib.sha256()
    for sample_id in sorted(content_hashes):
        digest.update(f"{sample_id}\0{content_hashes[sample_id]}\0{captions[sample_id]}\0".encode())
    return digest.hexdigest()


def collect_lineage(
    *,
    root: Path,
    config: Mapping[str, Any],
    content_hashes: Mapping[str, str],
    captions: Mapping[str, str],
    attribution: str | None,
    split: Mapping[str, list[str]],
    held_out_files: Mapping[str, str],
    class_images: Mapping[str, str],
    class_captions: Mapping[str, str],
    base_hash: str,
    architecture: str,
    resolution: tuple[int, int],
    buckets: Mapping[tuple[int, int], int],
    prompt_chunks: int | None = None,
) -> dict[str, Any]:
    """Gathers everything needed to say which data, code, weights and settings made an adapter.

    Args:
        root: the project's folder, with its git history and lock file if they are there.
        config: the resolved configuration.
        content_hashes: sample id to the SHA-256 of its file.
        captions: sample id to caption.
        attribution: whom to credit for the data, if anybody.
        split: "train" and "validation" to sample ids.
        held_out_files: absolute path of each held-out image to its SHA-256, to score against later.
        class_images: the same as `content_hashes` for the class images of prior preservation, if any.
        class_captions: their captions.
        base_hash: hash of the base model's weights.
        architecture: the base model's architecture.
        resolution: (width, height) of the training images in pixels, which the configuration may leave open.
        prompt_chunks: chunks that every prompt was encoded as; None without long prompts.
        buckets: numbers of images by (width, height), where each is trained near its own shape.
    """
    lock = root / "poetry.lock"
    return {
        "architecture": architecture,
        "base_model": config["model"]["path"],
        "base_model_hash": base_hash,
        "dataset": config["dataset"]["name"],
        "resolution": "x".join(map(str, resolution)),
        "prompt_chunks": prompt_chunks,
        "buckets": {f"{width}x{height}": count for (width, height), count in buckets.items()},
        "dataset_hash": dataset_hash(content_hashes, captions),
        "attribution": attribution,
        "images": dict(content_hashes),
        "split": dict(split),
        "held_out_files": dict(held_out_files),
        "class_images": dict(class_images),
        "class_images_hash": dataset_hash(class_images, class_captions) if class_images else None,
        "seeds": {"trainer": config["trainer"]["seed"], "split": config["dataset"]["split_seed"]},
        "git": git_state(root),
        "lock_hash": sha256_file(lock) if lock.is_file() else None,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def short_form(lineage: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """The strings for a safetensors header: enough to find the run and its ingredients again.

    What only the model knows, its architecture and hash among it, the export adds.
    """
    git = lineage["git"] or {}
    dataset = config["dataset"]
    credit = {"darkroom.attribution": lineage["attribution"]} if lineage["attribution"] else {}
    return {
        "darkroom.run": str(config["run"]["name"]),
        "darkroom.base_model": str(lineage["base_model"]),
        "darkroom.dataset": lineage["dataset"],
        "darkroom.dataset_hash": lineage["dataset_hash"],
        **credit,
        # Not "darkroom.placeholder": an export says so where an embedding was trained for it.
        "darkroom.trigger_word": dataset["placeholder"] or "",
        "darkroom.resolution": lineage["resolution"],
        "darkroom.seed": str(lineage["seeds"]["trainer"]),
        "darkroom.git_commit": (git.get("commit") or "") + ("-dirty" if git.get("diff") else ""),
    }


def git_state(root: Path) -> dict[str, str] | None:
    """Commit and uncommitted changes, or None where there is no git or no repository."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit.strip(), "diff": _git(root, "diff", "HEAD") or ""}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
