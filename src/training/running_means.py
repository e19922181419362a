"""Means of a few scalars over the steps between two logs, kept on the device until they are asked for."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class RunningMeans:
    """Sums on the device; one copy to the host each time the means are read."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = list(names)
        self.count = 0
        self._sums = torch.zeros(len(self.names), device=device)

    def add(self, values: Float[Tensor, "k"]) -> None:
        """Adds the scalars of one step."""
        self._sums += values
        self.count += 1

    def read(self) -> dict[str, float]:
        """The means so far, by name."""
        assert self.count > 0, "nothing was added"
        return {name: total / self.count for name, total in zip(self.names, self._sums.tolist(), strict=True)}

    def reset(self) -> None:
        """Begins anew."""
        self._sums.zero_()
        self.count = 0

    def to_json(self) -> dict[str, object]:
        """Plain values for a checkpoint, so that the first log after a resume covers all its steps."""
        return {"names": self.names, "count": self.count, "sums": self._sums.tolist()}

    def load_json(self, value: dict[str, object]) -> None:
        """The inverse of `to_json`. Sums under other names are of other components and dropped."""
        if value["names"] == self.names:
            self.count = int(str(value["count"]))
            self._sums.copy_(torch.tensor(value["sums"]))
