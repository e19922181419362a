"""The third gate: which callables a `_target_` may name, and with which keywords.

Hydra's `_target_` can run any callable of any installed package (CVE-2026-68508, CVE-2026-106439), and
block-lists are passed by aliases. So each place in the configuration has an exact list of allowed targets,
compared before anything is imported, and their keywords are compared with the signature before anything is
built.
"""

import ast
import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from src.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place in the configuration that holds `_target_` blocks.

    Attributes:
        targets: the dotted names allowed there.
        runtime: keywords that the program itself passes and that a configuration may not.
    """

    targets: frozenset[str]
    runtime: frozenset[str]


SLOTS = {
    "dataset.reader": Slot(
        targets=frozenset(
            {
                "src.data.readers.subject.read_subject",
                "src.data.readers.arasaac.read_arasaac",
                "src.data.readers.coco.read_coco",
                "src.data.readers.imagefolder.read_imagefolder",
                "src.data.readers.bdd100k.read_bdd100k",
            }
        ),
        runtime=frozenset({"path", "placeholder", "cache_dir"}),
    ),
    "dataset.source": Slot(
        targets=frozenset(
            {
                "src.data.sources.arasaac.ArasaacSource",
                "src.data.sources.coco.CocoSource",
                "src.data.sources.huggingface.HuggingfaceSource",
            }
        ),
        runtime=frozenset(),
    ),
    "captioner": Slot(
        targets=frozenset({"src.captioning.blip.BlipCaptioner", "src.captioning.llm.LlmCaptioner"}),
        runtime=frozenset({"subject"}),
    ),
    "optimizer.algorithm": Slot(
        targets=frozenset(
            {
                "torch.optim.AdamW",
                "torch.optim.Adam",
                "torch.optim.SGD",
                "bitsandbytes.optim.AdamW8bit",
                "transformers.optimization.Adafactor",
                "prodigyopt.Prodigy",
                "schedulefree.AdamWScheduleFree",
            }
        ),
        # The warm-up is the schedule's, which resumes with the step.
        runtime=frozenset(
            {"params", "lr", "fused", "foreach", "warmup_steps", "args", "is_paged", "fsdp_in_use"}
        ),
    ),
    "callbacks": Slot(
        targets=frozenset(
            {
                "src.callbacks.scalars.ScalarsCallback",
                "src.callbacks.progress.ProgressCallback",
                "src.callbacks.machine_load.MachineLoadCallback",
                "src.callbacks.samples.SampleImages",
            }
        ),
        runtime=frozenset(
            {
                "prompts",
                "clip_prompts",
                "negative_prompt",
                "resolution",
                "held_out",
                "held_out_captions",
                "load_image",
                "dino",
                "clip",
            }
        ),
    ),
    "logger": Slot(
        targets=frozenset(
            {
                "src.loggers.clearml.ClearmlLogger",
                "src.loggers.tensorboard.TensorboardLogger",
                "src.loggers.wandb.WandbLogger",
            }
        ),
        runtime=frozenset({"run_dir", "run_name", "cache_dir"}),
    ),
    "metrics.dino": Slot(targets=frozenset({"src.metrics.features.DinoExtractor"}), runtime=frozenset()),
    "metrics.clip": Slot(targets=frozenset({"src.metrics.features.ClipExtractor"}), runtime=frozenset()),
}
_NAMED_SLOTS = ("callbacks", "logger")


def iterate_blocks(config: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields (slot, full key, block) for each `_target_` block of a composed configuration."""
    for slot in SLOTS:
        value: Any = config
        for part in slot.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not value:
            continue
        if slot in _NAMED_SLOTS:
            for name, block in value.items():
                if block is not None:
                    yield slot, f"{slot}.{name}", block
        else:
            yield slot, slot, value


def check_blocks(config: dict[str, Any]) -> None:
    """Checks each `_target_` block against the allow-list, and the keywords of ours against the signature.

    Args:
        config: the composed and resolved configuration, as plain containers.

    Raises:
        UserError: a target is not allowed, a keyword is unknown, missing, or not the configuration's to set.
    """
    blocks = list(iterate_blocks(config))
    for slot, key, block in blocks:
        _check_target(slot, key, block)
    _refuse_targets_elsewhere(config, {id(block) for _, _, block in blocks}, "")
    for slot, key, block in blocks:
        if _is_own(block):
            _check_keywords(slot, key, block)


def check_external_blocks(config: dict[str, Any]) -> None:
    """Checks the keywords of blocks of other packages, which are imported for it: torch takes two seconds.

    Args:
        config: that passed `check_blocks`.

    Raises:
        UserError: as `check_blocks`, or a package is not installed.
    """
    for slot, key, block in iterate_blocks(config):
        if not _is_own(block):
            _check_keywords(slot, key, block)


def _is_own(block: dict[str, Any]) -> bool:
    return str(block["_target_"]).startswith("src.")


def build(slot: str, block: dict[str, Any], **runtime: Any) -> Any:
    """Imports a block's target and calls it with its keywords and those of the runtime it accepts."""
    target, keywords = resolve(slot, block)
    accepted = _signature(block["_target_"]).names
    return target(**keywords, **{name: value for name, value in runtime.items() if name in accepted})


def resolve(slot: str, block: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Imports a block's target; returns it with the block's keywords, nothing called yet."""
    _check_target(slot, slot, block)
    keywords = {key: value for key, value in block.items() if key != "_target_"}
    return _import(block["_target_"]), keywords


def _import(target: str) -> Callable[..., Any]:
    module, _, name = target.rpartition(".")
    package = target.partition(".")[0]
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise UserError(
            f"{target} needs the package {package}, which is not installed. Put DARKROOM_EXTRAS=1 in front "
            "of the command, and it installs it: DARKROOM_EXTRAS=1 sh train_run.sh ... (docs/installing.md)."
        ) from error
    return found


def _check_target(slot: str, key: str, block: Any) -> None:
    if not isinstance(block, dict) or not isinstance(block.get("_target_"), str):
        raise UserError(f"{key} must be a block with a _target_, not {block!r}.")
    target, allowed = block["_target_"], SLOTS[slot].targets
    if target not in allowed:
        raise UserError(
            f"{key}._target_={target} is not allowed. Allowed there: {', '.join(sorted(allowed))} "
            "(the list is in src/config/targets.py)."
        )


def _refuse_targets_elsewhere(value: Any, known: set[int], key: str) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, dict) and "_target_" in value and id(value) not in known:
        raise UserError(f"{key}: a _target_ is not allowed here.")
    for name, child in items:
        _refuse_targets_elsewhere(child, known, f"{key}.{name}" if key else str(name))


@dataclass(frozen=True, slots=True)
class _Keywords:
    names: tuple[str, ...]
    required: frozenset[str]
    any_keyword: bool


def _check_keywords(slot: str, key: str, block: dict[str, Any]) -> None:
    signature, runtime = _signature(block["_target_"]), SLOTS[slot].runtime
    given = set(block) - {"_target_"}
    for name in sorted(given & runtime):
        raise UserError(f"{key}.{name} is set by the program and cannot be configured there.")
    allowed = [name for name in signature.names if name not in runtime]
    for name in sorted(given - set(allowed)):
        if not signature.any_keyword:
            near = difflib.get_close_matches(name, allowed, n=3)
            hint = f" Did you mean {', '.join(f'{key}.{n}' for n in near)}?" if near else ""
            raise UserError(
                f"{key}.{name} is not known.{hint} Known there: {', '.join(allowed) or 'nothing'}."
            )
    for name in sorted(signature.required - given - runtime):
        raise UserError(f"{key}.{name} is missing. {block['_target_']} needs it.")


@cache
def _signature(target: str) -> _Keywords:
    if target.startswith("src."):
        return _signature_from_source(target)
    parameters = inspect.signature(_import(target)).parameters.values()
    usable = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return _Keywords(
        tuple(p.name for p in usable),
        frozenset(p.name for p in usable if p.default is p.empty),
        any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _signature_from_source(target: str) -> _Keywords:
    """Reads a signature of this package from its source, so that a typo is found before torch is imported."""
    module, _, name = target.rpartition(".")
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"{module} is in the allow-list and does not exist"
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    definition = next((n for n in tree.body if getattr(n, "name", None) == name), None)
    assert definition is not None, f"{target} is in the allow-list and does not exist"
    if isinstance(definition, ast.ClassDef):
        definition = next((n for n in definition.body if getattr(n, "name", None) == "__init__"), None)
        if definition is None:
            return _Keywords((), frozenset(), False)
    assert isinstance(definition, ast.FunctionDef)
    arguments = definition.args
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    required = frozenset(argument.arg for argument, default in keywords if default is None)
    names = tuple(argument.arg for argument in arguments.kwonlyargs)
    return _Keywords(names, required, arguments.kwarg is not None)
