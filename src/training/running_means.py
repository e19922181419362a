"""Means and largest values of a few scalars between two logs, on the device until they are asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """The largest value of a window, and how many steps before its end it was."""

    value: float
    steps_ago: int


class RunningMeans:
    """Sums on the device; one copy to the host each time the means are read.

    Only finite values count: fp16's scaler skips a step whose gradient overflows, and that step's norm would
    be all that is left of the others' mean.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = list(names)
        self.count = 0
        self._sums = torch.zeros(len(self.names), device=device)
        self._num_finite = torch.zeros(len(self.names), device=device)
        self._largest = torch.full((len(self.names),), -torch.inf, device=device)
        # Counted in the window, so that float32 holds it exactly.
        self._largest_at = torch.zeros(len(self.names), device=device)

    def add(self, values: Float[Tensor, " k"]) -> None:
        """Adds the scalars of one step."""
        is_finite = values.isfinite()
        self._sums += torch.where(is_finite, values, 0.0)
        self._num_finite += is_finite
        self.count += 1
        is_larger = is_finite & (values > self._largest)
        self._largest = torch.where(is_larger, values, self._largest)
        self._largest_at = torch.where(is_larger, float(self.count), self._largest_at)

    def read(self) -> tuple[dict[str, float], dict[str, int], dict[str, Worst]]:
        """Means, how often each was not finite, and the largest values, by name.

        What was never finite has neither mean nor largest value.
        """
        assert self.count > 0, "nothing was added"
        table = torch.stack([self._sums, self._num_finite, self._largest, self._largest_at]).T.tolist()
        columns = list(zip(self.names, table, strict=True))
        finite = [(name, row) for name, row in columns if row[1] > 0]
        means = {name: total / num for name, (total, num, _, _) in finite}
        worst = {
            name: Worst(value=value, steps_ago=self.count - int(at)) for name, (_, _, value, at) in finite
        }
        return means, {name: self.count - int(row[1]) for name, row in columns}, worst

    def reset(self) -> None:
        """Begins anew."""
        self._sums.zero_()
        self._num_finite.zero_()
        self._largest.fill_(-torch.inf)
        self._largest_at.zero_()
        self.count = 0

    def to_json(self) -> dict[str, object]:
        """Plain values for a checkpoint, so that the first log after a resume covers all its steps."""
        return {
            "names": self.names,
            "count": self.count,
            "sums": self._sums.tolist(),
            "num_finite": self._num_finite.tolist(),
            # JSON has no infinity.
            "largest": [value if math.isfinite(value) else None for value in self._largest.tolist()],
            "largest_at": self._largest_at.tolist(),
        }

    def load_json(self, value: dict[str, Any]) -> None:
        """The inverse of `to_json`. Sums under other names are of other components and dropped."""
        if value["names"] == self.names and "num_finite" in value:
            self.count = int(str(value["count"]))
            self._sums.copy_(torch.tensor(value["sums"]))
            self._num_finite.copy_(torch.tensor(value["num_finite"]))
        if value["names"] == self.names and "largest" in value:
            largest = [-torch.inf if number is None else number for number in value["largest"]]
            self._largest.copy_(torch.tensor(largest))
            self._largest_at.copy_(torch.tensor(value["largest_at"]))
