"""What several ranks do together costs one process nothing and changes nothing (two: test_distributed.py)."""

import pytest
import torch
from torch import nn

from src.training.accelerator import Agreement
from src.training.sharding import gather_all, is_sharded, sharded_like, whole


def test_one_process_has_the_whole_share():
    alone = Agreement()
    assert (alone.rank, alone.num_ranks, alone.is_main) == (0, 1, True)
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert alone.do_shares(lambda: (1, 2, 3)) == [1, 2, 3]
    alone.raise_for_all(None)
    with pytest.raises(ZeroDivisionError):
        alone.do_shares(lambda: [1 // 0])
    with pytest.raises(KeyError):
        alone.raise_for_all(KeyError("x"))


def test_what_is_not_sharded_passes_through():
    module = nn.Linear(2, 2)
    weight = module.weight
    assert not is_sharded(module)
    with whole(module):
        assert type(module) is nn.Linear
        assert module.weight is weight
    assert gather_all({"w": weight}, is_kept=True)["w"] is weight
    assert gather_all({"w": weight}, is_kept=False) == {}
    other = torch.zeros(2, 2)
    assert sharded_like(other, weight) is other
