"""Means of a few scalars over the steps between two logs, kept on the device until they are asked for."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


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

    def add(self, values: Float[Tensor, " k"]) -> None:
        """Adds the scalars of one step."""
        is_finite = values.isfinite()
        self._sums += torch.where(is_finite, values, 0.0)
        self._num_finite += is_finite
        self.count += 1

    def read(self) -> tuple[dict[str, float], dict[str, int]]:
        """The means so far by name, without those that were never finite; and how often each was not."""
        assert self.count > 0, "nothing was added"
        sums, num_finite = torch.stack([self._sums, self._num_finite]).tolist()
        columns = list(zip(self.names, sums, num_finite, strict=True))
        means = {name: total / num for name, total, num in columns if num > 0}
        return means, {name: self.count - int(num) for name, _, num in columns}

    def reset(self) -> None:
        """Begins anew."""
        self._sums.zero_()
        self._num_finite.zero_()
        self.count = 0

    def to_json(self) -> dict[str, object]:
        """Plain values for a checkpoint, so that the first log after a resume covers all its steps."""
        return {
            "names": self.names,
            "count": self.count,
            "sums": self._sums.tolist(),
            "num_finite": self._num_finite.tolist(),
        }

    def load_json(self, value: dict[str, object]) -> None:
        """The inverse of `to_json`. Sums under other names are of other components and dropped."""
        if value["names"] == self.names and "num_finite" in value:
            self.count = int(str(value["count"]))
            self._sums.copy_(torch.tensor(value["sums"]))
            self._num_finite.copy_(torch.tensor(value["num_finite"]))
