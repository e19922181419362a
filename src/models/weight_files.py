"""Which weight files of a component are used, on disk and on the hub: safetensors only, one variant."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.errors import UserError

# diffusers' and transformers' names; shards and their index share the variant.
_WEIGHTS = re.compile(
    r"^(?:diffusion_pytorch_model|model)"
    r"(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.safetensors(?:\.index(?:\.(?P<index_variant>\w+))?\.json)?$"
)
PLAIN = "none"


def variants_to_try(variant: str | None, *, from_hub: bool) -> tuple[str, ...]:
    """The order of preference. Downloading half the bytes is worth more than digits that few can tell.

    Args:
        variant: what the user asks for ("none" is the plain files), or None for the order of our choice.
        from_hub: whether the files would have to be downloaded.
    """
    if variant is not None:
        return (variant,)
    return ("fp16", PLAIN) if from_hub else (PLAIN, "fp16")


def choose(names: Iterable[str], variants: Sequence[str]) -> tuple[str, list[str]] | None:
    """The first variant of which there are files, and its file names; None where there is none.

    Args:
        names: all file names of a component.
        variants: in order of preference.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        if match := _WEIGHTS.match(name):
            found.setdefault(match["variant"] or match["index_variant"] or PLAIN, []).append(name)
    return next(((variant, found[variant]) for variant in variants if variant in found), None)


def choose_in_folder(folder: Path, variants: Sequence[str]) -> tuple[str, list[Path]]:
    """As `choose`, for a folder.

    Raises:
        UserError: no folder, or no safetensors of these variants in it.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if chosen := choose(names, variants):
        return chosen[0], [folder / name for name in chosen[1]]
    if any(name.endswith((".bin", ".ckpt")) for name in names):
        raise UserError(
            f"{folder} holds pickle files only, which can run code when opened. Convert them to safetensors "
            "(diffusers' save_pretrained) or use a repository that has them."
        )
    raise UserError(
        f"{folder} holds no safetensors weights (variant {' or '.join(variants)}). Copy or download it "
        "again, or set model.variant to one that is there."
    )
