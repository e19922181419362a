"""From the loaded model to the first step: python -m tests.data.benchmarks.start [--num-images N] [override ...].

Trains three steps twice in one folder, each time in a process of its own and with the defaults beside the overrides
given; the second time finds its caches warm. Prints for each when the model was there, when the first step was
done, and what lay between.
"""

import argparse
import cProfile
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data.pictures import photo_folder

ROOT = Path(__file__).parents[3]
_SHOWN = 25


def run(arguments: list[str], *, is_profiled: bool) -> None:
    """The program `train`, with the time taken where it counts."""
    import src.run.training as program
    from src.config.cli import main
    from src.loggers.clearml import bind_hydra
    from src.training.optimizer_step import OptimizerStep
    from train import prepare, train

    bind_hydra()
    profile = cProfile.Profile()
    began = time.perf_counter()
    at: dict[str, float] = {}

    def note(name: str) -> None:
        if name not in at:
            at[name] = time.perf_counter() - began
            print(f"  {at[name]:6.2f} s  {name}", flush=True)

    def noted(work: Callable[..., Any], name: str) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
            if name == "first step":
                note("first batch read")
            result = work(*args, **kwargs)
            note(name)
            if is_profiled and name == "model loaded":
                profile.enable()
            if is_profiled and name == "first step" and "shown" not in at:
                at["shown"] = 0.0
                profile.disable()
                pstats.Stats(profile).sort_stats("cumulative").print_stats(_SHOWN)
            return result

        return noting

    for name, label in (
        ("prepare_data", "data checked"),
        ("prepare_model", "model loaded"),
        ("lineage_of", "lineage known"),
        ("encode_sides", "caches looked through"),
        ("build_trainer", "loop built"),
        ("write_records", "records written"),
    ):
        setattr(program, name, noted(getattr(program, name), label))
    OptimizerStep.take = noted(OptimizerStep.take, "first step")  # type: ignore[method-assign]
    sys.argv = ["train.py", *arguments]
    main("train", {"train": train, "prepare": prepare})


def main() -> None:
    """Runs twice, or is one of the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--profile", action="store_true", help="also show what the time went to, the second time"
    )
    parser.add_argument("--num-images", type=int, help="train on so many tiny images instead")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    if options.one:
        run(overrides, is_profiled=options.profile)
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"paths.cache_dir={folder}/cache", f"paths.output_dir={folder}/out"]
        if options.num_images:
            photos = photo_folder(Path(folder, "photos"), options.num_images)
            paths += [f"dataset.path={photos}", "dataset.resolution=32", f"paths.data_dir={folder}/data"]
        for number in (1, 2):
            print(f"start {number}, load {os.getloadavg()[0]:.1f}", flush=True)
            profile = ["--profile"] if options.profile and number == 2 else []
            command = [sys.executable, "-m", "tests.data.benchmarks.start", "--one", *profile, *paths]
            command += [f"run.name=start{number}", "trainer.max_steps=2", "trainer.batch_size=1"]
            command += ["trainer.validate_every=null", "callbacks=none", *overrides]
            subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
