"""From Hydra's DictConfig to checked dataclasses: the only code, with the mains, that sees OmegaConf."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError

from src.config.schema import InferenceConfig, TrainConfig
from src.config.targets import check_blocks, check_external_blocks
from src.errors import UserError
from src.words import article

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def register() -> None:
    """Tells Hydra the schema and OmegaConf our resolvers. Must run before composition; may run twice."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="inference_schema", node=InferenceConfig)
    OmegaConf.register_new_resolver("project_root", lambda: str(PROJECT_ROOT), replace=True)
    # A default that steps back when another key is set: max_steps when num_epochs is given.
    OmegaConf.register_new_resolver(
        "unless_set", lambda other, default: default if other is None else None, replace=True
    )
    OmegaConf.register_new_resolver(
        "or_else", lambda value, default: default if value is None else value, replace=True
    )
    OmegaConf.register_new_resolver(
        "if_set", lambda other, value, default: default if other is None else value, replace=True
    )
    OmegaConf.register_new_resolver("article", lambda word: article(str(word)), replace=True)
    OmegaConf.register_new_resolver("suggested", _suggested, replace=True)
    # A folder beside another one, however that is written: a slash at the end would make it one inside.
    OmegaConf.register_new_resolver("beside", lambda path, suffix: f"{Path(path)}{suffix}", replace=True)
    # A folder of its own for what has a name with slashes and brackets: a dataset's id and split.
    OmegaConf.register_new_resolver(
        "folder_name", lambda text: re.sub(r"[^\w-]+", "_", str(text)).strip("_"), replace=True
    )


def _suggested(key: str, default: Any, *, _root_: DictConfig) -> Any:
    """What the base model suggests for a key, else the default.

    A suggestion speaks of one folder, if it names one, and not of a model that takes its place.
    """
    model = _root_.model
    value = model.suggested[key]
    is_meant = model.suggested_for is None or _is_same_path(model.path, model.suggested_for)
    return default if value is None or not is_meant else value


def _is_same_path(path: str | None, other: str) -> bool:
    return path is not None and Path(path).expanduser().resolve() == Path(other).resolve()


def check_config(config: DictConfig, *, import_external: bool = True) -> TrainConfig | InferenceConfig:
    """Runs the gates after composition: `_target_` blocks, then types and ranges.

    Args:
        config: the composed configuration, without Hydra's own node.
        import_external: import packages other than this one to check what is said to them. False keeps `--cfg
            job` free of torch; it is then checked when the run starts.

    Raises:
        UserError: with the key, its value and what is allowed.
        ConfigKeyError: a key that the schema does not have.
    """
    schema = OmegaConf.get_type(config)
    if schema not in (TrainConfig, InferenceConfig):
        raise UserError(
            "This configuration does not build on train or inference. "
            "Begin your YAML file with: defaults: [train, _self_] (or [inference, _self_])."
        )
    _refuse_unknown(config)
    _refuse_missing(config)
    container = plain(config)
    check_blocks(container)
    checked = OmegaConf.to_object(config)
    assert isinstance(checked, TrainConfig | InferenceConfig)
    # Last: whoever made another mistake need not wait for the imports.
    if import_external:
        check_external_blocks(container)
    return checked


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain containers, for logging and for the run folder."""
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _refuse_unknown(config: DictConfig, prefix: str = "") -> None:
    """A key that was added by `+` or `++` where the schema has none; OmegaConf lets them pass."""
    known = {field.name for field in fields(OmegaConf.get_type(config))}  # type: ignore[arg-type]
    for name in map(str, config):
        if name not in known:
            error = ConfigKeyError(f"Key '{name}' is not in the schema")
            error.full_key = f"{prefix}{name}"
            raise error
        child = config._get_node(name)
        if isinstance(child, DictConfig) and is_dataclass(OmegaConf.get_type(child)):
            _refuse_unknown(child, f"{prefix}{name}.")


def _refuse_missing(config: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"Not set: {', '.join(missing)}. Give a value, for example {missing[0]}=...")
