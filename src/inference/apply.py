"""Puts trained weights onto a base model, from a checkpoint or from an adapter in diffusers' form."""

from typing import Any

import torch
from safetensors.torch import load_file

from src.errors import UserError
from src.files import read_json
from src.inference.resolve import AdapterSource
from src.models.adapter_strength import merge_adapter, set_adapter_scale
from src.models.adapters import AdapterSettings, attach, load_trainable_state
from src.models.apply import check_architecture, load_adapter, other_architecture
from src.models.base import DiffusionModel, is_own_weight
from src.models.detect import Architecture
from src.training.checkpoint import judged_weights


def require_same_architecture(architecture: Architecture, source: AdapterSource) -> None:
    """Refuses an adapter of another architecture than the base model's, before that is loaded.

    Raises:
        UserError: trained for another architecture.
    """
    if not source.is_checkpoint:
        check_architecture(architecture, source.path)
        return
    lineage = source.run_folder / "lineage.json" if source.run_folder is not None else None
    trained_for = read_json(lineage)["architecture"] if lineage is not None and lineage.is_file() else None
    if trained_for not in (None, architecture):
        raise other_architecture(source.path, trained_for, architecture)


def apply_adapter(
    model: DiffusionModel,
    source: AdapterSource,
    *,
    scale: float = 1.0,
    with_token_embedding: bool = True,
    merge: bool = False,
) -> None:
    """Makes the base model the trained one.

    Args:
        model: as loaded, with nothing attached.
        source: from `resolve_weights`.
        scale: strength; 0 without the token embedding is the base model exactly.
        with_token_embedding: whether to use the learned embedding of the placeholder, if there is one.
        merge: fold the adapter into the weights: faster, equal up to rounding.

    Raises:
        UserError: it does not fit the model, or the checkpoint's run is not there to say what it holds.
    """
    if source.is_checkpoint:
        _apply_checkpoint(model, source, scale)
        if not with_token_embedding:
            # Without its token, the placeholder is read as the ordinary word it was.
            model.tokenizers = list(model.base_tokenizers)
    else:
        load_adapter(model, source.path, scale=scale, with_token_embedding=with_token_embedding)
    if merge:
        merge_adapter(model)


@torch.no_grad()
def _apply_checkpoint(model: DiffusionModel, source: AdapterSource, scale: float) -> None:
    config = source.run_config()
    if config is None:
        raise UserError(
            f"The checkpoint {source.path} is not inside its run folder, whose config.yaml says what was "
            "trained. Give the checkpoint in its run folder, or the run's adapter folder."
        )
    if scale != 0:
        # Runs from before there was a choice do not say.
        trainer = config.get("trainer", {})
        model.schedule.use(
            prediction_type=trainer.get("prediction_type", "auto"),
            zero_terminal_snr=trainer.get("zero_terminal_snr", False),
        )
    state = load_file(judged_weights(source.path))
    dtype = model.unet.dtype
    groups = attach(model, settings_of_run(config), seed=0)
    full = [item for group in groups if group.kind == "full" for item in group.parameters]
    base = {name: parameter.clone() for name, parameter in full} if scale != 1 else {}
    try:
        load_trainable_state(model, state)
    except UserError as error:
        raise UserError(
            f"{source.path} does not fit this base model. Use the one that it was trained on (model.path in "
            f"{source.run_folder}/config.yaml)."
        ) from error
    for name, parameter in full:
        if scale != 1:
            parameter.copy_(base[name].lerp(parameter, scale))
    # Trained in fp32, with what no prediction uses; at inference all of a model computes in one precision.
    components = {name.split(".", 1)[0] for name, _ in full}
    for name, parameter in model.denoiser.named_parameters():
        if name.split(".", 1)[0] in components and is_own_weight(name):
            parameter.data = parameter.data.to(dtype)
    set_adapter_scale(model, scale)
    model.denoiser.requires_grad_(False).eval()


def settings_of_run(config: dict[str, Any]) -> AdapterSettings:
    """What a run trained, from its resolved configuration."""
    settings = {**config["adapter"], "placeholder": config["dataset"]["placeholder"]}
    for name in ("target_modules", "text_target_modules"):
        modules = settings.pop(name, None)
        if modules:
            settings[name] = (modules,) if isinstance(modules, str) else tuple(modules)
    for name in ("rank_pattern", "alpha_pattern"):
        settings[name] = settings.get(name) or {}
    return AdapterSettings(**settings)
