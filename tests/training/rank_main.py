"""One rank of a tiny run, started by torchrun: trains, validates, and writes what it saw."""

import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch

from src.callbacks.base import Callback
from src.data.order import Position
from src.training.accelerator import make_accelerator
from src.training.evaluation_weights import MovingAverage
from src.training.optimizer_step import OptimizerStep
from src.training.sharding import whole
from src.training.validation import Validator
from tests.training import tiny
from tests.training.tiny import Tiny, make_class_images, make_images


class Record(Callback):
    def __init__(self) -> None:
        self.losses: dict[int, dict[str, float]] = {}
        self.curves: dict[int, list[float]] = {}

    def on_log(self, run, scalars):
        self.losses[run.state.step] = {k: v for k, v in scalars.items() if not k.startswith("throughput/")}

    def on_validation_end(self, run, result):
        self.curves[run.state.step] = [*result.curve.values(), *result.train_curve.values()]


def _addresses(batch):
    """What noise and timestep of each sample depend on."""
    return [f"{id} {number}" for id, number in zip(batch.ids, batch.pass_numbers, strict=True)]


def main(folder: Path, settings: dict) -> None:
    """Runs with the settings; `signal_rank` and `signal_step` say who gets a SIGTERM and when."""
    signal_rank, signal_step = settings.pop("signal", (None, None))
    failing_rank, failing_step = settings.pop("failing", (None, None))
    failing_in = settings.pop("failing_in", "step")
    stuck = tuple(settings.pop("stuck", (None, None)))
    elsewhere = settings.pop("elsewhere", None)
    unwritable = settings.pop("unwritable", False)
    alone = settings.pop("rehearsing_rank", None)
    images = make_images(folder / f"images{os.environ.get('RANK', '0')}", 20)
    num_class_images = settings.pop("num_class_images", 0)
    class_folder = folder / f"class_images{os.environ.get('RANK', '0')}"
    class_images = make_class_images(class_folder, num_class_images) if num_class_images else []
    accelerator = make_accelerator(device="cpu")
    record = Record()
    run = Tiny(
        # Another disk than the other ranks see.
        folder=folder / "elsewhere" if accelerator.process_index == elsewhere else folder,
        records=images[:13],
        held_out=images[13:],
        class_records=class_images,
        dropout=0.0,
        log_every=1,
        accelerator=accelerator,
        callbacks=[record],
        **settings,
    )
    trainer = run.trainer()
    seen: list[list[list]] = []
    take = OptimizerStep.take

    def watched(self, before, shares, **settings):
        batches = [batch for _, batch in shares] + [b.class_images for _, b in shares if b.class_images]
        seen.append([[_addresses(batch), batch.weights.tolist()] for batch in batches])
        if (accelerator.process_index, before.step) == (signal_rank, signal_step):
            os.kill(os.getpid(), 15)
        fail("step", before.step)
        if (accelerator.process_index, before.step) == stuck:
            # As inside a collective: no exception and no signal ends it.
            while True:
                time.sleep(60)
        steps.append(before.step)
        return take(self, before, shares, **settings)

    def fail(place, step):
        if (place, accelerator.process_index, step) == (failing_in, failing_rank, failing_step):
            raise OSError("this rank is broken")

    steps = [-1]
    OptimizerStep.take = watched
    measure, step_batches = Validator.measure, tiny.step_batches

    def measured(self):
        fail("validation", steps[-1] + 1)
        return measure(self)

    def loaded(*arguments, **keywords):
        for number, share in enumerate(step_batches(*arguments, **keywords)):
            fail("loader", number)
            yield share

    applied = MovingAverage.applied

    @contextmanager
    def failing_applied(self):
        fail("applied", steps[-1] + 1)
        with applied(self):
            yield

    Validator.measure, tiny.step_batches, MovingAverage.applied = measured, loaded, failing_applied
    if alone is not None:
        if accelerator.process_index == alone:
            trainer.rehearse(next(trainer._batches(Position())))
            trainer.rehearse_validation()
        (folder / f"rank{accelerator.process_index}.json").write_text(json.dumps({"steps": len(steps) - 1}))
        torch.distributed.destroy_process_group()
        return
    if unwritable and accelerator.is_main_process:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        (run.checkpoints / ".tmp-step_00000002").symlink_to("/nowhere/at/all")
    try:
        result = trainer.fit()
    except Exception:
        # The worst order: the launcher sees the other rank's end first, and this one never prints its error.
        if unwritable and accelerator.is_main_process:
            time.sleep(30)
        raise
    with whole(run.denoiser):
        weights = {name: tensor.flatten().tolist() for name, tensor in run.weights().items()}
    (folder / f"rank{accelerator.process_index}.json").write_text(
        json.dumps(
            {
                "world_size": accelerator.num_processes,
                "step": result.step,
                "stop_reason": result.stop_reason,
                "failures": list(result.failures),
                "exit_code": result.exit_code,
                "losses": record.losses,
                "curves": record.curves,
                "seen": seen,
                "weights": weights,
            }
        )
    )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
