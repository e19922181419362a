"""Steps whose loss or gradient is far above what was usual: seen at the log, at no cost in a step."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from src.training.accelerator import Agreement
from src.training.running_means import Worst

_log = logging.getLogger(__name__)
# A few windows make a level, and no more than these are recent.
_FEWEST = 5
_MOST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Spike:
    """One step that stands out.

    Attributes:
        name: of the scalar.
        step: where it was.
        value: what it was.
        level: the median of the last windows' means.
    """

    name: str
    step: int
    value: float
    level: float

    def __str__(self) -> str:
        """What to tell the user."""
        return (
            f"{self.name} {self.value:.4g} at step {self.step} is {self.value / self.level:.0f} times its "
            f"recent level of {self.level:.4g}"
        )


class SpikeWatch:
    """Compares the largest value of a log window with the median of the means of the last windows.

    The median of up to 20 windows does not move with a spike among them, nor does a run that settles on
    another level go on being reported. The first 5 windows of a run are compared with nothing.

    Args:
        factor: how many times the recent level is a spike; None looks at nothing.
        names: of the scalars to look at.

    Attributes:
        count: windows with a spike so far, those before a resume included.
    """

    def __init__(self, factor: float | None, names: Iterable[str]) -> None:
        self.factor = factor
        self.count = 0
        self._levels: dict[str, deque[float]] = {name: deque(maxlen=_MOST) for name in names}

    def look(self, means: Mapping[str, float], worst: Mapping[str, Worst], *, last_step: int) -> list[Spike]:
        """Looks at one window and remembers it.

        Args:
            means: of the window by name.
            worst: its largest values.
            last_step: of the window.
        """
        if self.factor is None:
            return []
        spikes = []
        for name, levels in self._levels.items():
            if name not in means:
                continue  # never finite in this window
            level = median(levels) if len(levels) >= _FEWEST else 0.0
            if level > 0 and worst[name].value > self.factor * level:
                step = last_step - worst[name].steps_ago
                spikes.append(Spike(name=name, step=step, value=worst[name].value, level=level))
            levels.append(means[name])
        self.count += bool(spikes)
        return spikes

    def to_json(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"count": self.count, "levels": {name: list(levels) for name, levels in self._levels.items()}}

    def load_json(self, value: Mapping[str, Any] | None) -> None:
        """The inverse of `to_json`; None is from before there was such a thing."""
        if value is not None:
            self.count = int(value["count"])
            for name, levels in self._levels.items():
                levels.extend(value["levels"].get(name, []))


def report_spikes(
    spikes: Sequence[Spike], *, agreement: Agreement, samples_of: Callable[[int], list[str]]
) -> None:
    """Logs spikes with the samples of the last of them. Every rank must call it, at the same place.

    Args:
        spikes: of this window, which all ranks see alike.
        agreement: between the ranks.
        samples_of: names a step's samples of all ranks, none where they are not known any more.
    """
    step = agreement.largest(max((spike.step for spike in spikes), default=0))
    if step == 0:
        return
    samples = ", ".join(samples_of(step))
    for spike in spikes:
        _log.warning("%s.", spike)
    _log.warning("Samples of step %d, largest loss first: %s", step, samples or "not known any more")
