"""Stopped while images are encoded: one line, nothing half, and the same command goes on."""

import os
import random
import signal
import time

import pytest

from src.data import tensor_store
from src.data.tensor_store import TensorStore
from tests.bad_input.place import Done, Place, assert_refused
from tests.data.pictures import photo_folder

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138}


@pytest.mark.parametrize("number", CODES)
def test_a_signal_while_encoding(place: Place, monkeypatch, number) -> None:
    save = tensor_store.save
    saved = []

    def press(*arguments):
        saved.append(None)
        if len(saved) == 4:
            os.kill(os.getpid(), number)
        return save(*arguments)

    # A shell starts what it puts in the background with SIGINT ignored, and pytest may be there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(tensor_store, "save", press)
            done = place.run("train")
    finally:
        signal.signal(signal.SIGINT, before)
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert_refused(done, f"Stopped by {name}", "starts again")
    assert done.code == CODES[number]
    kept = entries(place)
    assert len(kept) == 3
    if number == signal.SIGTERM:
        assert place.run("train", "run.name=again").code == 0
        assert kept.items() <= entries(place).items()


def entries(place: Place) -> dict[str, int]:
    """The whole entries of the caches, and when they were made."""
    found = {}
    for path in (place.folder / "cache").rglob("*.safetensors"):
        assert TensorStore(path.parent.parent).read(path.stem) is not None
        found[path.name] = path.stat().st_ino
    return found


@pytest.mark.slow
def test_signals_at_any_moment_of_a_process(place: Place) -> None:
    """From the first entry on; by now and then the cache is full, and training gets the signal."""
    photo_folder(place.photos, 100)
    moments = random.Random()
    kept: dict[str, int] = {}
    for attempt in range(4):
        process = place.start("callbacks=none", "trainer.max_steps=1", f"run.name=try{attempt}")
        deadline = time.monotonic() + 40
        while process.poll() is None and len(entries(place)) <= len(kept) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(moments.uniform(0.0, 1.5))
        number = moments.choice(list(CODES))
        process.send_signal(number)
        out, err = process.communicate(timeout=200)
        if process.returncode not in (0, CODES[number]) or "Training from" not in out:
            assert_refused(Done(process.returncode, out, err), "Stopped by")
            assert process.returncode == CODES[number]
        now = entries(place)
        assert kept.items() <= now.items()
        kept = now
    assert place.run("train").code == 0
    assert kept.items() <= entries(place).items()
