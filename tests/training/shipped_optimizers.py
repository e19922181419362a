"""Every option of conf/optimizer as a tiny run can use it, and the moving average beside one of them."""

from functools import cache, partial
from typing import Any

import yaml

from src.config.cli import CONFIG_DIR
from src.config.targets import resolve

OPTIONS = tuple(sorted(file.stem for file in (CONFIG_DIR / "optimizer").glob("*.yaml")))
CASES = (*OPTIONS, "ema")
AVERAGING = ("ema", "schedule_free")


@cache
def shipped(case: str) -> dict[str, Any]:
    """Settings of a tiny run: the option's own, with blocks that a tiny model fills, and a rate that it needs."""
    if case == "ema":
        return {**shipped("adamw"), "ema_decay": 0.9}
    content = yaml.safe_load((CONFIG_DIR / "optimizer" / f"{case}.yaml").read_text(encoding="utf-8"))
    small = {"adamw_8bit": {"min_8bit_size": 100}, "prodigy": {"d0": 1e-3}}.get(case, {})
    target, settings = resolve("optimizer.algorithm", {**content["algorithm"], **small})
    settings = {"algorithm": partial(target, **settings)}
    if case == "prodigy":
        settings |= {"lr": 1.0, "one_lr": True}
    if case == "schedule_free":
        settings |= {"schedule": "constant"}
    return settings
