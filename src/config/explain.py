"""Rewords errors of composition: full key, nearest valid keys, file. Never Hydra's own advice to add `+`."""

import difflib
import errno
import re
from collections.abc import Sequence
from dataclasses import replace

import yaml
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config.composition import Root, compose_root

CompositionError = (HydraException, OmegaConfBaseException, yaml.YAMLError)
# Hydra's plugins from the optional packages, by the group that they add options to.
_OPTIONAL = {"hydra/sweeper": ("optuna",), "hydra/launcher": ("joblib", "submitit_local", "submitit_slurm")}


def explain(error: Exception, *, root: Root, overrides: Sequence[str], builds_on: str) -> str:
    """One or two lines for the user about an error that Hydra or OmegaConf raised.

    Args:
        error: a `CompositionError`.
        root: the root configuration that was being composed.
        overrides: the command line's overrides.
        builds_on: the program's own root, whose keys are the valid ones where `root` cannot be composed.
    """
    if isinstance(error, yaml.YAMLError):
        return f"A YAML file cannot be read: {' '.join(str(error).split())}"
    if isinstance(error, OverrideParseException):
        return (
            f"Cannot read the override {error.override}. Quote values with spaces, commas, = or brackets: "
            f"'key=\"a value\"'. ({_first_line(error)})"
        )
    if isinstance(error, MissingConfigException):
        return _missing_option(error)
    if ambiguous := re.search(r"Ambiguous value for argument '(.+)'", _first_line(error)):
        return (
            f"{ambiguous.group(1)} names several values. Add -m to run a job for each, or write "
            "key=[a,b] for a list and key='a,b' in quotes for one text."
        )
    unknown = _unknown_key(error)
    if unknown is not None:
        return _unknown_key_message(unknown, root, overrides, builds_on)
    cause = _omegaconf_cause(error)
    return _first_line(error) if cause is None else _bad_value(error, cause, root)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]


def _omegaconf_cause(error: BaseException | None) -> OmegaConfBaseException | None:
    while error is not None:
        if isinstance(error, OmegaConfBaseException):
            return error
        error = error.__cause__ or error.__context__
    return None


def _unknown_key(error: Exception) -> str | None:
    message = str(error)
    for pattern in (r"Could not override '([^']+)'", r"Could not delete(?: from config)?[ :]+'([^']+)'"):
        if found := re.search(pattern, message):
            return found.group(1).split("@")[0].replace("/", ".")
    cause = _omegaconf_cause(error)
    if cause is not None and re.search(r"Key '.*' (is )?not in|Unsupported|unexpected keyword", str(cause)):
        return str(cause.full_key) if cause.full_key else None
    return None


def _unknown_key_message(key: str, root: Root, overrides: Sequence[str], builds_on: str) -> str:
    config, choices = _compose_for_hints(root, overrides, builds_on)
    keys = sorted(_leaf_keys(config))
    leaf = key.rsplit(".", maxsplit=1)[-1]
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.75)
    near += [k for k in keys if k.rsplit(".", maxsplit=1)[-1] == leaf and k not in near]
    near = near or difflib.get_close_matches(key, keys, n=3, cutoff=0.55)
    group = (near[0] if near else key).split(".", maxsplit=1)[0]
    file = _file_of(group, choices, root)
    hint = f"Did you mean {' or '.join(near[:2])}?" if near else _keys_of(key, keys)
    return f"{key} is not a known key. {hint} ({file})"


def _keys_of(key: str, keys: Sequence[str]) -> str:
    group = key.split(".", maxsplit=1)[0]
    siblings = [k for k in keys if k.startswith(f"{group}.")]
    shown = siblings or sorted({k.split(".", maxsplit=1)[0] for k in keys})
    return f"Known: {', '.join(shown[:20])}{', ...' if len(shown) > 20 else ''}."


def _leaf_keys(config: DictConfig, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    container: dict[str, object] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    for name, value in container.items():
        keys |= _flatten(f"{prefix}{name}", value)
    return keys


def _flatten(key: str, value: object) -> set[str]:
    if isinstance(value, dict):
        return {key}.union(*(_flatten(f"{key}.{name}", child) for name, child in value.items()))
    return {key}


def _compose_for_hints(
    root: Root, overrides: Sequence[str], builds_on: str
) -> tuple[DictConfig, dict[str, str]]:
    """Composes what can be composed: with the chosen groups if they are right, else the defaults."""
    chosen = [
        o
        for o in overrides
        if re.match(r"^[a-z_/]+=[\w\[\],]+$", o) and (root.folder / o.split("=")[0]).is_dir()
    ]
    for name in (root.name, builds_on):
        for attempt in (chosen, []):
            try:
                config = compose_root(replace(root, name=name), attempt, with_hydra=True)
            except CompositionError:
                continue
            choices = {str(k): str(v) for k, v in config.hydra.runtime.choices.items()}
            OmegaConf.set_struct(config, False)
            del config["hydra"]
            return config, choices
    return OmegaConf.create({}), {}


def _file_of(group: str, choices: dict[str, str], root: Root) -> str:
    if root.is_users:
        return root.file
    choice = choices.get(group, "")
    if (root.folder / group / f"{choice}.yaml").is_file():
        return f"conf/{group}/{choice}.yaml"
    return f"conf/{group}/" if (root.folder / group).is_dir() else root.file


def _missing_option(error: MissingConfigException) -> str:
    options = list(error.options or [])
    wanted = str(error.missing_cfg_file or "")
    if not options:
        return _first_line(error)
    group, _, option = wanted.rpartition("/")
    if group in _OPTIONAL and option in _OPTIONAL[group]:
        return (
            f"{group}={option} needs packages that are not installed. Put DARKROOM_EXTRAS=1 in front of the "
            "command, and it installs them: DARKROOM_EXTRAS=1 sh train_run.sh ... (docs/installing.md)."
        )
    near = difflib.get_close_matches(option, options, n=2)
    hint = f"Did you mean {' or '.join(f'{group}={name}' for name in near)}? " if near else ""
    return f"{group}={option} does not exist. {hint}Options of {group}: {', '.join(options)} (conf/{group}/)."


def _bad_value(error: Exception, cause: OmegaConfBaseException, root: Root) -> str:
    problem = _first_line(cause)
    if isinstance(error, ConfigCompositionException):
        if found := re.search(r"Error merging override (.+)", str(error)):
            return f"{found.group(1).strip()}: {problem}."
        if found := re.search(r"In '([^']+)'", str(error)):
            key = f"{cause.full_key}: " if cause.full_key else ""
            return f"{key}{problem} (conf/{found.group(1)}.yaml)."
    key = str(cause.full_key) if cause.full_key else ""
    group = key.split(".", maxsplit=1)[0]
    return f"{key}: {problem} ({_file_of(group, {}, root)})." if key else problem


def disk_message(error: OSError) -> str | None:
    """What a user can do about an error of the file system; None if it is something else."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = "" if error.filename is None else f" for {error.filename}"
        return (
            f"No space left on the disk{place}. Free some, or choose another disk (paths.output_dir, "
            "paths.cache_dir, paths.data_dir)."
        )
    if error.filename is None:
        return None
    return (
        f"Cannot write or read {error.filename} ({error.strerror}). Choose another folder "
        "(paths.output_dir, paths.cache_dir, paths.data_dir) or change its permissions."
    )
