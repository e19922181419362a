"""Learning rates as a pure function of the step, so that a resumed run cannot have another one."""

import math


def learning_rate_factor(
    step: int, *, schedule: str, warmup_steps: int, max_steps: int, min_ratio: float = 0.0
) -> float:
    """What the base learning rate is multiplied by.

    Linear warm-up over the first `warmup_steps`: (step + 1) / warmup_steps, so that no step is lost at zero.
    After it, with p the share of the remaining steps that is done, in [0, 1), and m the `min_ratio`: constant
    1, linear m + (1 - m) (1 - p), cosine m + (1 - m) (1 + cos(pi p)) / 2 (SGDR, arXiv 1608.03983, eq. 5,
    without restarts). A resumed run with more steps than first planned follows the curve of the new plan from
    where it is.

    Args:
        step: optimiser steps done before the one that uses this factor.
        schedule: "constant", "cosine" or "linear".
        warmup_steps: length of the warm-up.
        max_steps: the planned number of steps.
        min_ratio: where linear and cosine end.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = min((step - warmup_steps) / max(max_steps - warmup_steps, 1), 1.0)
    if schedule == "linear":
        return min_ratio + (1.0 - min_ratio) * (1.0 - progress)
    assert schedule == "cosine", schedule
    return min_ratio + (1.0 - min_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))
