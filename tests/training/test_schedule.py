"""Learning rates and the calendar are formulas."""

import math

import pytest

from src.data.order import Position
from src.training.plan import Plan, is_due
from src.training.schedule import learning_rate_factor
from src.training.state import TrainState


def _curve(schedule: str, warmup_steps: int, max_steps: int) -> list[float]:
    return [
        learning_rate_factor(step, schedule=schedule, warmup_steps=warmup_steps, max_steps=max_steps)
        for step in range(max_steps)
    ]


def test_curves() -> None:
    assert _curve("constant", 0, 3) == [1.0, 1.0, 1.0]
    assert _curve("constant", 4, 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert _curve("linear", 2, 6) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    expected = [0.5, 1.0, *(0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4))]
    assert _curve("cosine", 2, 6) == pytest.approx(expected, rel=1e-12)


def test_curves_with_a_floor() -> None:
    shares = [k / 4 for k in range(4)]
    linear = [0.5, 1.0, *(0.2 + 0.8 * (1 - p) for p in shares)]
    cosine = [0.5, 1.0, *(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * p)) for p in shares)]
    for schedule, expected in (("linear", linear), ("cosine", cosine)):
        seen = [
            learning_rate_factor(step, schedule=schedule, warmup_steps=2, max_steps=6, min_ratio=0.2)
            for step in range(6)
        ]
        assert seen == pytest.approx(expected, rel=1e-12)
    beyond = learning_rate_factor(9, schedule="cosine", warmup_steps=0, max_steps=5, min_ratio=0.2)
    assert beyond == pytest.approx(0.2)


def test_a_warm_up_in_passes() -> None:
    """4 micro-batches a pass, 3 a step: half a pass is 2/3 of a step, 2.25 passes are 3 steps."""
    for epochs, steps in ((0.0, 0), (0.5, 1), (2.25, 3), (0.1, 0)):
        plan = _plan(num_epochs=9, gradient_accumulation_steps=3, warmup_epochs=epochs)
        assert plan.total_warmup_steps == steps
    plan = _plan(max_steps=9, warmup_epochs=0.75)
    assert [plan.learning_rate_factor(step) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup_steps", [0, 5, 50])
def test_no_step_is_lost_at_rate_zero(schedule, warmup_steps) -> None:
    assert all(0 < factor <= 1 for factor in _curve(schedule, warmup_steps, 20))


def test_beyond_the_plan_the_rate_stays_at_the_end() -> None:
    assert learning_rate_factor(9, schedule="linear", warmup_steps=0, max_steps=5) == 0.0


def _plan(**settings) -> Plan:
    return Plan(num_micro_batches=4, **({"max_steps": None} | settings))


def test_the_earlier_end_counts() -> None:
    assert _plan(max_steps=10).total_steps == 10
    assert _plan(num_epochs=3).total_steps == 12
    assert _plan(num_epochs=3, gradient_accumulation_steps=5).total_steps == 3
    assert _plan(max_steps=10, num_epochs=3).total_steps == 10
    assert _plan(max_steps=10, num_epochs=2).total_steps == 8
    assert _plan(max_steps=10).total_epochs == 2.5
    assert _plan(num_epochs=3, gradient_accumulation_steps=5).total_epochs == 3.0


def test_end_reasons() -> None:
    plan = _plan(max_steps=10, num_epochs=2)
    assert plan.end_reason(TrainState(step=7, position=Position(pass_number=1, index=3))) is None
    assert plan.end_reason(TrainState(step=8, position=Position(pass_number=2, index=0))) == "num_epochs"
    assert plan.end_reason(TrainState(step=10, position=Position(pass_number=1))) == "max_steps"


def test_is_due() -> None:
    assert [step for step in range(1, 8) if is_due(step, 3)] == [3, 6]
    assert not is_due(3, None)


def test_state_survives_json() -> None:
    state = TrainState(step=3, position=Position(pass_number=1, index=2), num_samples=11).with_best(2, 0.125)
    assert TrainState.from_json(state.to_json()) == state
    assert TrainState.from_json(TrainState().to_json()) == TrainState()
