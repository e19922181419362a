"""What a checkpoint and a run must agree in for one to be continued by the other. Free of torch."""

import json
from collections.abc import Mapping
from pathlib import Path

from src.errors import UserError
from src.files import read_json

Scalar = str | int | float | bool | None
# Stands for a value that cannot be said before more is read, and agrees with all.
UNKNOWN = "not known yet"
# The images that are held out, by content.
SPLIT = "split_hash"
_UNSET = "unset"

# What decides which tensors are trained and what they mean. With other values the weights of a checkpoint are
# no weights of this run, whatever their shapes. And what decides which images are held out: with other values
# some that were trained would be.
_FIXED = (
    *("adapter.", "base_model_hash", "dataset.placeholder", "optimizer"),
    *("trainer.prediction_type", "trainer.zero_terminal_snr"),
    *("dataset.split_seed", "dataset.validation_fraction"),
)
_FREE = ("adapter.dropout", "adapter.rank_dropout")
# What is no key of the configuration.
_EXPLAINED = {
    "global batch size": "global batch size, trainer.batch_size times the number of processes",
    SPLIT: f"{SPLIT}, the images that are held out,",
}
# Settings of optimisers that decide which tensors they keep, and of what shape.
_SHAPING = ("amsgrad", "beta1", "min_8bit_size", "momentum", "slice_p")
# How the loss on held-out images is measured: with other values the best so far is of another ruler.
_MEASURE = (
    "trainer.num_validation_timesteps",
    "trainer.max_validation_images",
    "trainer.mixed_precision",
    "trainer.ema_decay",
    "trainer.base_precision",
)
# The loss on held-out images knows nothing of masks and class images, and takes them as they are.
_NO_MEASURE = (
    *("trainer.", "adapter.", "optimizer", "global batch size", "dataset.masks", "masks_hash"),
    *("dataset.class_images.", "class_images_hash", "dataset.flip", "dataset.num_variants"),
)


def require_continuable(path: Path, must_match: Mapping[str, Scalar], *, allow_changes: bool = False) -> None:
    """Compares a checkpoint with what is known of this run (see `UNKNOWN`), before any work for it.

    Raises:
        UserError: it is of a run that this one cannot continue.
    """
    before = read_json(path / "loop.json")["must_match"]
    require_agreement(path, before, must_match, allow_changes=allow_changes)


def require_agreement(
    path: Path, before: Mapping[str, Scalar], now: Mapping[str, Scalar], *, allow_changes: bool = False
) -> dict[str, tuple[Scalar, Scalar]]:
    """Compares all values by name; one that is missing is another than all others.

    Args:
        path: the checkpoint, for the message.
        before: its values.
        now: those of this run.
        allow_changes: let pass what changes the numbers that come next and nothing that is trained.

    Returns:
        What differs all the same: the values then and now by name.

    Raises:
        UserError: naming what differs.
    """
    different = {
        key: (before.get(key, _UNSET), now.get(key, _UNSET))
        for key in sorted(before.keys() | now.keys())
        if now.get(key) != UNKNOWN and not _is_same(key, before.get(key, _UNSET), now.get(key, _UNSET))
    }
    fixed = {key: values for key, values in different.items() if _is_fixed(key, *values)}
    if SPLIT in different and "dataset_hash" not in different:
        # Some that were trained are held out now, and nothing of the data is new.
        fixed[SPLIT] = different[SPLIT]
    refused = fixed if allow_changes else different
    if not refused:
        return different
    listed = ", ".join(
        f"{_EXPLAINED.get(key, key)} (then {then}, now {value})" for key, (then, value) in refused.items()
    )
    if allow_changes:
        cause = f"because these differ, which trainer.resume_changed=allow does not cover: {listed}"
    else:
        cause = f"because these differ: {listed}"
    remedy = "Set them back, or start anew with another run.name."
    if not fixed:
        remedy += " trainer.resume_changed=allow goes on with the new values."
    raise UserError(f"{path} cannot be continued, {cause}. {remedy}")


def _is_same(key: str, then: Scalar, now: Scalar) -> bool:
    if key == "optimizer.algorithm":
        # A name and its settings, in whatever order.
        (name, _, settings), (other, _, others) = str(then).partition(" "), str(now).partition(" ")
        return name == other and json.loads(settings or "{}") == json.loads(others or "{}")
    # The checkpoints of before it was kept say nothing of it.
    return then == now or (key == SPLIT and then == _UNSET)


def is_another_ruler(key: str) -> bool:
    """Whether losses on held-out images of another value of this key cannot be compared.

    >>> is_another_ruler("trainer.seed"), is_another_ruler("dataset_hash")
    (False, True)
    """
    return key in _MEASURE or not key.startswith(_NO_MEASURE)


def _kind_of_optimizer(value: Scalar) -> tuple[str, list[object]]:
    """An optimiser's name and what its state's shapes depend on, of its name and its settings."""
    name, _, settings = str(value).partition(" ")
    given = json.loads(settings or "{}")
    return name, [given.get(key) for key in _SHAPING]


def _is_fixed(key: str, then: Scalar, now: Scalar) -> bool:
    if key == "optimizer.algorithm":
        return _kind_of_optimizer(then) != _kind_of_optimizer(now)
    if key == "trainer.ema_decay":
        # A checkpoint has an average or none; only the pace of one can change.
        return _UNSET in (then, now)
    return key.startswith(_FIXED) and key not in _FREE
