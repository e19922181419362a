"""Spikes are seen, named with their samples, and change nothing."""

import logging
import re
from dataclasses import replace

import pytest
import torch

from src.data.order import pass_order
from src.training.running_means import RunningMeans, Worst
from src.training.spikes import SpikeWatch
from src.training.state import TrainState
from tests.training import tiny as module
from tests.training.test_resume import KillAt, Losses
from tests.training.tiny import encode_text, same


def _look(watch: SpikeWatch, mean: float, value: float, *, last_step: int = 10, steps_ago: int = 3):
    worst = {"loss/train": Worst(value=value, steps_ago=steps_ago)}
    return watch.look({"loss/train": mean}, worst, last_step=last_step)


def test_what_counts_as_a_spike() -> None:
    watch = SpikeWatch(4.0, ["loss/train", "grad_norm/total"])
    for _ in range(5):
        assert _look(watch, 1.0, 100.0) == [], "nothing to compare with yet"
    assert _look(watch, 1.0, 3.9) == []
    (spike,) = _look(watch, 3.0, 4.1, last_step=70)
    assert (spike.name, spike.step, spike.value, spike.level) == ("loss/train", 67, 4.1, 1.0)
    assert str(spike) == "loss/train 4.1 at step 67 is 4 times its recent level of 1"
    assert watch.count == 1
    # One spike among the last windows does not move the level.
    assert len(_look(watch, 1000.0, 1000.0)) == 1
    assert len(_look(watch, 1.0, 4.1)) == 1
    # A run that settles on another level is told of until that is the usual one.
    told = [bool(_look(watch, 10.0, 20.0)) for _ in range(30)]
    assert 0 < sum(told) < 15
    assert not any(told[15:])


def test_none_looks_at_nothing_and_what_it_remembers_survives() -> None:
    off = SpikeWatch(None, ["loss/train"])
    for _ in range(9):
        assert _look(off, 1.0, 1e9) == []
    watch = SpikeWatch(4.0, ["loss/train"])
    for _ in range(6):
        _look(watch, 1.0, 9.0)
    again = SpikeWatch(4.0, ["loss/train"])
    again.load_json(watch.to_json())
    assert again.to_json() == watch.to_json()
    assert len(_look(again, 1.0, 9.0)) == 1
    again.load_json(None)


def test_the_largest_value_and_its_step() -> None:
    means = RunningMeans(["a", "b", "c"], torch.device("cpu"))
    for row in ([1.0, 5.0, torch.nan], [-2.0, 7.0, torch.nan], [3.0, 7.0, torch.inf], [2.0, 6.0, torch.nan]):
        means.add(torch.tensor(row))
    copy = RunningMeans(["a", "b", "c"], torch.device("cpu"))
    copy.load_json(means.to_json())
    for each in (means, copy):
        values, _, worst = each.read()
        assert values == {"a": 1.0, "b": 6.25}
        assert worst == {"a": Worst(value=3.0, steps_ago=1), "b": Worst(value=7.0, steps_ago=2)}
    means.reset()
    means.add(torch.tensor([-9.0, 0.0, 1.0]))
    assert means.read()[2]["a"] == Worst(value=-9.0, steps_ago=0)


LOUD = "a caption whose embedding is very large"


@pytest.fixture
def loud(records, monkeypatch):
    """The tenth image of pass 3 has a caption that makes its loss large. It comes in each pass."""

    def encode(captions):
        hidden, _ = encode_text(captions)
        hidden[[caption == LOUD for caption in captions]] *= 3e3
        return hidden, None

    monkeypatch.setattr(module, "encode_text", encode)
    victim = pass_order([r.id for r in records], seed=0, pass_number=3)[9]
    return victim, [replace(r, caption=LOUD) if r.id == victim else r for r in records]


SETTINGS = {"max_steps": 16, "log_every": 2, "dropout": 0.0, "lr": 1e-5, "save_every": 5, "keep": 9}


def test_a_spike_is_named_with_its_samples_and_survives_a_resume(tiny, loud, caplog) -> None:
    """One step in four has the image: the median is that of the others, and from log 6 on they are spikes."""
    victim, records = loud
    losses, plain_losses, resumed_losses = Losses(), Losses(), Losses()
    run = tiny("run", records=records, spike_factor=10.0, callbacks=[losses], **SETTINGS)
    result = run.trainer().fit()
    assert 0 < result.num_spikes <= 3
    each_step = Losses()
    tiny("each", records=records, callbacks=[each_step], **(SETTINGS | {"log_every": 1})).trainer().fit()
    step = int(re.search(r"loss/train [\d.e+]+ at step (\d+) is \d+ times", caplog.text)[1])
    shown = re.search(rf"loss/train ([\d.e+]+) at step {step} is", caplog.text)[1]
    assert f"{each_step.logged[step]['loss/train']:.4g}" == shown
    assert f"Samples of step {step}, largest loss first: {victim} (timestep " in caplog.text
    counts = [scalars["spikes/count"] for scalars in losses.logged.values()]
    assert counts == sorted(counts)
    assert counts[-1] == result.num_spikes

    # Looking changes nothing.
    plain = tiny("plain", records=records, callbacks=[plain_losses], **SETTINGS)
    assert plain.trainer().fit().num_spikes == 0
    assert same(plain.weights(), run.weights())
    without = {step: {k: v for k, v in s.items() if k != "spikes/count"} for step, s in losses.logged.items()}
    assert plain_losses.logged == without

    # Between two logs: the largest value so far and the levels come back.
    killed = tiny(
        "killed", records=records, spike_factor=10.0, callbacks=[KillAt(13), resumed_losses], **SETTINGS
    )
    killed.trainer().fit()
    resumed = replace(killed, resume="auto", callbacks=[resumed_losses])
    assert resumed.trainer().fit().num_spikes == result.num_spikes
    assert resumed_losses.logged == losses.logged


def test_a_calm_run_has_none(tiny, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert tiny(spike_factor=10.0, **SETTINGS).trainer().fit().num_spikes == 0
    assert caplog.text == ""
    assert TrainState().step == 0
