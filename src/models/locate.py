"""Where a base model is and what it is, without the libraries that load it: these take seconds to import."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from src.errors import UserError
from src.files import read_json
from src.models.detect import Architecture, detect_folder, detect_single_file
from src.models.hub import cached_folder, fetch_from_hub, is_hub_id
from src.models.weight_files import variants_to_try

CONFIGS = Path(__file__).parent / "configs"


def native_resolution(
    path: str,
    *,
    architecture: Literal["auto", "sd15", "sdxl"] = "auto",
    revision: str | None = None,
    variant: str | None = None,
) -> int:
    """The side in pixels of the square images that a model was made for, from its configurations alone.

    Args:
        path: see `load_model`; a hub id that is not in the cache is downloaded.
        architecture: see `load_model`.
        revision: see `load_model`.
        variant: see `load_model`.

    Raises:
        UserError: missing, unsupported, or another architecture than asked for.
    """
    place, found = look_at(path, architecture=architecture, revision=revision, variant=variant)
    return _resolution_of(place if place.is_dir() else CONFIGS / found)


def cached_resolution(path: str, *, revision: str | None = None) -> int | None:
    """What `native_resolution` says of a hub id, if the local cache knows it; nothing is downloaded."""
    folder = cached_folder(path, revision=revision) if is_hub_id(path) else None
    if folder is None or not all((folder / part / "config.json").is_file() for part in ("unet", "vae")):
        return None
    return _resolution_of(folder)


def _resolution_of(folder: Path) -> int:
    unet, vae = read_json(folder / "unet" / "config.json"), read_json(folder / "vae" / "config.json")
    return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)


def architecture_of(
    path: str,
    *,
    architecture: Literal["auto", "sd15", "sdxl"] = "auto",
    revision: str | None = None,
    variant: str | None = None,
) -> Architecture:
    """The architecture of a model, without loading it; arguments and errors as of `native_resolution`."""
    return look_at(path, architecture=architecture, revision=revision, variant=variant)[1]


def look_at(
    path: str, *, architecture: str, revision: str | None, variant: str | None
) -> tuple[Path, Architecture]:
    """Where a model is on this machine, and what it is; arguments and errors as of `native_resolution`."""
    variants = variants_to_try(variant, from_hub=not Path(path).exists())
    place = local_path(path, revision=revision, variants=variants, key="model.path")
    found = detect_folder(place) if place.is_dir() else detect_single_file(place)
    _require_architecture(path, found, architecture)
    return place, found


def _require_architecture(path: str, found: Architecture, asked_for: str) -> None:
    if asked_for not in ("auto", found):
        raise UserError(
            f"{path} is {found}, but model.architecture={asked_for}. Set model.architecture=auto, or give "
            f"another model.path."
        )


def local_path(path: str, *, revision: str | None, variants: Sequence[str], key: str) -> Path:
    """Where a model is on this machine; a hub id that is not in the cache is downloaded.

    Args:
        path: see `load_model`.
        revision: see `load_model`.
        variants: of the weight files, in order of preference.
        key: model.path or model.vae_path, for messages.

    Raises:
        UserError: missing.
    """
    place = Path(path)
    if place.exists():
        return place
    if is_hub_id(path):
        return fetch_from_hub(path, revision=revision, variants=variants, key=key)
    raise UserError(
        f"{key}={path} does not exist. Give a local diffusers folder, a single .safetensors file or a hub id "
        "(owner/name)."
    )
