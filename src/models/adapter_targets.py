"""Which layers get an adapter: by the ending of their name, by a pattern, or by a named set."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from src.errors import UserError

UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
# What the scripts of that name adapt by default. kohya: all linear layers and 1x1 convolutions of the
# UNet's transformers, and of the text encoders' layers.
UNET_SETS = {
    "diffusers": UNET_TARGETS,
    "kohya": (*UNET_TARGETS, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
}
TEXT_SETS = {"diffusers": TEXT_TARGETS, "kohya": (*TEXT_TARGETS, "fc1", "fc2")}

_PATTERN_SIGNS = "*?["
_NUM_NEAR = 4


def resolve_targets(name: str, component: nn.Module, entries: Sequence[str]) -> list[str]:
    """The layers meant, in the form that peft takes: endings as they are, and whole names of the others.

    Args:
        name: of the component, for messages.
        component: the UNet or a text encoder, without adapters yet.
        entries: endings (`to_q`), patterns over a layer's whole name (`up_blocks.*attn2.to_k`: `*` stands
            for anything, dots included, `?` for one sign), or the names of sets (`diffusers`, `kohya`).

    Raises:
        UserError: an entry that matches no linear layer and no convolution.
    """
    names = [path for path, module in component.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    sets = UNET_SETS if name == "unet" else TEXT_SETS
    wanted: dict[str, None] = {}
    for entry in entries:
        for target in sets.get(entry, (entry,)):
            is_pattern = any(sign in target for sign in _PATTERN_SIGNS)
            matched = [path for path in names if _matches(path, target, is_pattern=is_pattern)]
            if not matched:
                raise _matches_nothing(name, target, names, sets)
            wanted |= dict.fromkeys(matched if is_pattern else (target,))
    return list(wanted)


def _matches(path: str, target: str, *, is_pattern: bool) -> bool:
    return fnmatchcase(path, target) if is_pattern else path == target or path.endswith(f".{target}")


def _matches_nothing(
    name: str, target: str, names: Sequence[str], sets: dict[str, tuple[str, ...]]
) -> UserError:
    endings = {ending for path in names for ending in _endings(path)}
    candidates = {*names, *endings, *sets}
    near = difflib.get_close_matches(target, sorted(candidates), n=_NUM_NEAR, cutoff=0.5)
    key = "adapter.target_modules" if name == "unet" else "adapter.text_target_modules"
    return UserError(
        f"{key}: the target module {target} matches nothing in the {name}. Use endings of its layers' names, "
        f"such as {', '.join(near or sets['diffusers'])}, a pattern over whole names with *, or a set: "
        f"{' or '.join(sets)}."
    )


def _endings(path: str) -> list[str]:
    """The shortest endings that say something: a number alone does not (`to_out.0`)."""
    parts = path.split(".")
    first = next((i for i in range(len(parts) - 1, -1, -1) if not parts[i].isdigit()), 0)
    return [".".join(parts[start:]) for start in range(max(0, first - 2), first + 1)]
