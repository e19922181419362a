"""One rank of several that sample together: -m tests.callbacks.sample_ranks FOLDER MODEL JUDGES FAILING_RANK."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from src.callbacks.base import RunView
from src.callbacks.samples import SampleImages
from src.inference import generate
from src.loggers.jsonl import JsonlLogger
from src.metrics.features import ClipExtractor, DinoExtractor
from src.models.adapters import attach
from src.models.load import load_model
from src.training.accelerator import Agreement, make_accelerator
from src.training.observers import Observers
from src.training.state import TrainState
from tests.callbacks.test_samples import PROMPTS, _learn, _load
from tests.models.common import settings_for


def main(folder: Path, model_path: str, judges: Path, failing_rank: int) -> None:
    """Samples at step 2, fails at step 4 on one rank, samples at step 6; each rank writes what it saw."""
    ranks = Agreement(make_accelerator(device="cpu"))
    photos = sorted((folder / "photos").iterdir())
    callback = SampleImages(
        every=2,
        num_images=2,
        num_steps=1,
        batch_size=1,
        prompts=PROMPTS,
        negative_prompt="blurry",
        resolution=(64, 64),
        held_out=photos,
        held_out_captions=["a toy"] * len(photos),
        load_image=_load,
        dino=DinoExtractor(model=str(judges / "dino"), label="pocket-random"),
        clip=ClipExtractor(model=str(judges / "clip"), label="pocket-random"),
    )
    model = load_model(model_path)
    attach(model, settings_for("sd15"), seed=1)
    observers = Observers([callback], module=model.denoiser, seed=0)
    out = folder / f"world{ranks.num_ranks}"
    logger = JsonlLogger(run_dir=out / f"log{ranks.rank}")
    logger.start()
    run = generate._run

    def counted(*args: Any) -> Any:
        drawn.extend(params["noise_seed"] for params in args[2])
        if (step, ranks.rank) == (4, failing_rank):
            raise torch.OutOfMemoryError("no memory left")
        return run(*args)

    generate._run = counted
    counts = {}
    for step in (0, 2, 4, 6):
        drawn: list[int] = []
        view = RunView(
            state=TrainState(step=step),
            start_step=0,
            max_steps=6,
            num_epochs=1.0,
            seed=0,
            output_dir=out,
            model=model,
            logger=logger,
            ranks=ranks,
        )
        observers.call("on_fit_start" if step == 0 else "on_step_end", view)
        counts[step] = len(drawn)
        if step == 0:
            _learn(model)
    seen = {"failures": observers.failures, "drawn": counts, "scores": callback.results()}
    (out / f"rank{ranks.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
