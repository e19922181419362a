"""Which layers get an adapter: by the ending of their name, by a pattern, or by a named set."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, final

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
    names = _layers(component)
    sets = UNET_SETS if name == "unet" else TEXT_SETS
    # peft takes an ending for whatever it fits, and fails on blocks: "0" is to_out.0 and down_blocks.0.
    own = set(names)
    others = (path for path, _ in component.named_modules() if path and path not in own)
    endings_of_others = {ending for path in others for ending in _all_endings(path)}
    wanted: dict[str, None] = {}
    for entry in entries:
        for target in sets.get(entry, (entry,)):
            matched = [path for path in names if _matches(path, target)]
            if not matched:
                raise _matches_nothing(name, target, names, sets)
            is_plain = not _is_pattern(target) and target not in endings_of_others
            wanted |= dict.fromkeys((target,) if is_plain else matched)
    return list(wanted)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSizes:
    """Rank and alpha of one layer's adapter."""

    rank: int
    alpha: float


def layer_sizes(
    layers: Mapping[str, Sequence[str]],
    *,
    rank: int,
    alpha: float,
    rank_pattern: Mapping[str, int],
    alpha_pattern: Mapping[str, float],
    keeps_alpha: bool = False,
) -> dict[str, dict[str, LayerSizes]]:
    """Layers whose adapter has another rank or alpha than most, by component and name.

    Args:
        layers: names of the layers that get an adapter, by component.
        rank: of most layers.
        alpha: of most layers.
        rank_pattern: endings of names or patterns over whole names (as in `resolve_targets`), and the rank of
            the layers that match. Of several that match, the last one counts.
        alpha_pattern: the same for alpha.
        keeps_alpha: whether layers with a rank of their own have the alpha of the others; else it is in
            proportion, so that alpha / rank is the same.

    Raises:
        UserError: an entry that matches no layer.
    """
    for key, pattern in (("rank_pattern", rank_pattern), ("alpha_pattern", alpha_pattern)):
        for entry in pattern:
            if not any(_matches(path, entry) for paths in layers.values() for path in paths):
                raise _gives_nothing(f"adapter.{key}", entry, layers)
    sizes: dict[str, dict[str, LayerSizes]] = {}
    for name, paths in layers.items():
        sizes[name] = {}
        for path in paths:
            own_rank = _last(path, rank_pattern, rank)
            usual = alpha if keeps_alpha else alpha * own_rank / rank
            own = LayerSizes(rank=own_rank, alpha=_last(path, alpha_pattern, usual))
            if own != LayerSizes(rank=rank, alpha=alpha):
                sizes[name][path] = own
    return sizes


def matched_layers(component: nn.Module, targets: Sequence[str]) -> list[str]:
    """The layers that get an adapter, in the order of the component.

    Args:
        component: without adapters yet.
        targets: from `resolve_targets`.
    """
    whole = set(targets)
    # Whole names are many and endings few.
    endings = tuple(f".{target}" for target in targets)
    return [path for path in _layers(component) if path in whole or path.endswith(endings)]


def _layers(component: nn.Module) -> list[str]:
    return [path for path, module in component.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def _last(path: str, pattern: Mapping[str, Any], default: Any) -> Any:
    matched = [value for entry, value in pattern.items() if _matches(path, entry)]
    return matched[-1] if matched else default


def _all_endings(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _matches(path: str, target: str) -> bool:
    if _is_pattern(target):
        return fnmatchcase(path, target)
    return path == target or path.endswith(f".{target}")


def _is_pattern(target: str) -> bool:
    return any(sign in target for sign in _PATTERN_SIGNS)


def _matches_nothing(
    name: str, target: str, names: Sequence[str], sets: dict[str, tuple[str, ...]]
) -> UserError:
    near = _near(target, names, sets)
    key = "adapter.target_modules" if name == "unet" else "adapter.text_target_modules"
    return UserError(
        f"{key}: the target module {target} matches nothing in the {name}. Use endings of its layers' names, "
        f"such as {', '.join(near or sets['diffusers'])}, a pattern over whole names with *, or a set: "
        f"{' or '.join(sets)}."
    )


def _gives_nothing(key: str, entry: str, layers: Mapping[str, Sequence[str]]) -> UserError:
    names = [path for paths in layers.values() for path in paths]
    near = _near(entry, names, ())
    return UserError(
        f"{key}: {entry} matches none of the layers that get an adapter. Use endings of their names"
        + (f", such as {', '.join(near)}," if near else "")
        + " or a pattern over whole names with *, or add the layer to adapter.target_modules."
    )


def _near(target: str, names: Sequence[str], sets: Iterable[str]) -> list[str]:
    candidates = {*names, *sets, *(ending for path in names for ending in _endings(path))}
    return difflib.get_close_matches(target, sorted(candidates), n=_NUM_NEAR, cutoff=0.5)


def _endings(path: str) -> list[str]:
    """The shortest endings that say something: a number alone does not (`to_out.0`)."""
    parts = path.split(".")
    first = next((i for i in range(len(parts) - 1, -1, -1) if not parts[i].isdigit()), 0)
    return [".".join(parts[start:]) for start in range(max(0, first - 2), first + 1)]
