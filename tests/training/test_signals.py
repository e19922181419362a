"""Signals ask the loop to stop; they never interrupt it."""

import os
import signal
import threading

import pytest

from src.callbacks.base import Callback
from src.training.checkpoint import find_damage
from src.training.signals import StopSignals
from tests.training.test_resume import KillAt


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_first_signal_counts_and_handlers_come_back(number, capfd) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert signals.received == number
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == number
    assert signal.getsignal(number) is before
    printed = capfd.readouterr().err
    assert f"{number.name}: stopping after this step" in printed
    assert "SIGTERM: already stopping" in printed


def test_another_thread_goes_without() -> None:
    handlers = []

    def enter() -> None:
        with StopSignals():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [before]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]
)
def test_a_signal_ends_the_run_with_a_checkpoint_and_no_validation(tiny, held_out, number, code) -> None:
    validated = []

    class Watch(Callback):
        def on_validation_end(self, run, result):
            validated.append(result.step)

    result = tiny(held_out=held_out, callbacks=[KillAt(5, number), Watch()]).trainer().fit()
    assert (result.step, result.stop_reason, result.exit_code) == (5, f"signal {number.name}", code)
    assert result.checkpoint.name == "step_00000005"
    assert validated == []


def test_a_second_signal_while_saving_does_no_damage(tiny, monkeypatch) -> None:
    """The signals arrive between the files of the checkpoint that the first one asked for."""
    real = os.fsync

    def interrupted(descriptor: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    result = tiny(callbacks=[KillAt(3)]).trainer().fit()
    assert result.exit_code == 143
    assert find_damage(result.checkpoint) is None


def test_a_signal_at_the_last_step_is_a_finished_run(tiny) -> None:
    result = tiny(max_steps=3, callbacks=[KillAt(3)]).trainer().fit()
    assert (result.stop_reason, result.exit_code) == ("max_steps", 0)
