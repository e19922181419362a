"""Kills itself by SIGKILL at many places of a tiny run, and goes on from what is left.

One process imports everything and forks a child for each attempt: only forks of a process that never ran a
backward pass can run one. Prints one JSON object: what each attempt left, as hashes.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from src.callbacks.base import Callback
from src.training import checkpoint
from src.training.checkpoint import find_damage, list_checkpoints, load_checkpoint
from src.training.optimizer_step import OptimizerStep
from tests.training.tiny import Tiny, make_images

# 14 images in batches of 4 are 4 micro-batches a pass, so a step of 3 runs across the passes' ends.
SETTINGS: dict[str, Any] = {"max_steps": 6, "accumulation": 3, "save_every": 2, "log_every": 4, "keep": 2}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DieAt(Callback):
    """In the middle of a pass and between two checkpoints."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, run) -> None:
        if run.state.step == self._step:
            _die()


def die_in_accumulation(number: int) -> None:
    """Dies after a backward pass: gradients are there, the optimiser has not stepped."""
    accumulate, calls = OptimizerStep._accumulate, []

    def counted(self, *arguments):
        loss = accumulate(self, *arguments)
        calls.append(None)
        if len(calls) == number:
            _die()
        return loss

    OptimizerStep._accumulate = counted


def die_after_write(number: int) -> None:
    """Dies after the n-th write that the second checkpoint makes durable: its files, the manifest, the folder."""
    write, sync, calls = checkpoint.Checkpointer.save, os.fsync, []

    def saving(self, *, step, **content):
        def counted(descriptor):
            sync(descriptor)
            calls.append(None)
            if len(calls) == number:
                _die()

        os.fsync = counted if step == 4 else sync
        return write(self, step=step, **content)

    checkpoint.Checkpointer.save = saving


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a fork that does the work, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def left_in(folder: Path) -> dict[str, Any]:
    """The newest checkpoint's contents as a hash, and what else lies there."""
    newest = load_checkpoint(list_checkpoints(folder)[-1])
    digest = hashlib.sha256(json.dumps([newest.documents["state"], newest.documents["loop"]]).encode())
    for group in sorted(newest.tensors):
        for name, tensor in sorted(newest.tensors[group].items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    return {"newest": newest.path.name, "hash": digest.hexdigest()}


def main(folder: Path) -> dict[str, Any]:
    records = make_images(folder / "images", 14)
    # What torch imports the first time that an optimiser is made: once, and not in each child.
    Tiny(folder=folder / "first", records=records).trainer()

    def attempt(name: str, prepare: Callable[[], None], **settings: Any) -> dict[str, Any]:
        run = Tiny(folder=folder / name, records=records, **(SETTINGS | settings))

        def killed() -> None:
            prepare()
            run.trainer().fit()

        code = in_child(killed)
        whole = [path.name for path in list_checkpoints(run.checkpoints) if find_damage(path) is None]
        broken = [path.name for path in list_checkpoints(run.checkpoints) if find_damage(path) is not None]
        resumed = in_child(lambda: run_again(replace(run, resume="auto", callbacks=())))
        outcome = {"code": code, "whole": whole, "broken": broken, "resumed": resumed}
        outcome |= left_in(run.checkpoints)
        outcome["rest"] = [path.name for path in run.checkpoints.glob(".*")]
        shutil.rmtree(run.folder)
        return outcome

    def run_again(run: Tiny) -> None:
        run.trainer().fit()

    def nothing() -> None:
        pass

    outcomes = {"unbroken": attempt("unbroken", nothing)}
    outcomes["mid-pass"] = attempt("mid-pass", nothing, callbacks=[DieAt(3)])
    for number in (2, 10, 11):
        outcomes[f"accumulation {number}"] = attempt(
            f"accumulation-{number}", lambda number=number: die_in_accumulation(number)
        )
    number, is_killed = 0, True
    while is_killed:
        number += 1
        outcome = attempt(f"write-{number}", lambda number=number: die_after_write(number))
        is_killed = outcome["code"] != 0
        outcomes[f"write {number}"] = outcome
    return outcomes


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]))))
