"""Every experiment that ships trains on the pocket model, on a set of the kind that it asks for."""

import json
import math
from pathlib import Path

import pytest

from src.config.cli import CONFIG_DIR
from src.training.checkpoint import list_checkpoints
from tests.data.pictures import noise_image, photo_folder
from tests.data.test_bdd100k import frame, place
from tests.end_to_end.workbench import Bench, scalars

pytestmark = pytest.mark.slow
NUM_IMAGES = 10
# A search is a sweep over runs that other tests start.
EXPERIMENTS = sorted(
    file.stem for file in (CONFIG_DIR / "experiment").glob("*.yaml") if "optuna" not in file.stem
)
QUICK = (
    *("trainer.max_steps=2", "trainer.num_epochs=null", "trainer.batch_size=2", "trainer.log_every=1"),
    *("trainer.num_validation_timesteps=1", "trainer.max_validation_images=2", "optimizer.warmup_steps=0"),
    *("callbacks.samples=null", "callbacks.machine_load=null", "callbacks.progress=null"),
    *("logger=[]", "metrics=none"),
)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small folder of each kind of dataset but the demo's, by its option's name."""
    root = tmp_path_factory.mktemp("sets")
    names = [f"{number}.png" for number in range(NUM_IMAGES)]
    driving = place(root / "driving", *(frame(f"{number}.jpg") for number in range(NUM_IMAGES)))
    imagefolder, coco = root / "imagefolder", root / "coco"
    for folder in (imagefolder, coco / "val2017", coco / "annotations"):
        folder.mkdir(parents=True)
    for number, name in enumerate(names):
        noise_image(number, (96, 80)).save(imagefolder / name)
        noise_image(number, (96, 80)).save(coco / "val2017" / name)
    lines = [json.dumps({"file_name": name, "text": f"picture {name}"}) for name in names]
    (imagefolder / "metadata.jsonl").write_text("\n".join(lines))
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": number, "image_id": number, "caption": "a slowly moving car"}
            for number in range(NUM_IMAGES)
        ],
    }
    (coco / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    masked = photo_folder(root / "masked", NUM_IMAGES)
    (masked / "masks").mkdir()
    for photo in masked.glob("*.png"):
        noise_image(99).convert("L").save(masked / "masks" / photo.name)
    return {
        "masked": masked,
        "driving": driving,
        "imagefolder": imagefolder,
        "coco": coco,
        "arasaac": pictograms(root / "arasaac"),
    }


def pictograms(folder: Path) -> Path:
    folder.mkdir()
    rows = ["id,title,keywords,categories"]
    for number in range(1, NUM_IMAGES + 1):
        noise_image(number, (96, 96)).save(folder / f"{number}.png")
        rows.append(f"{number},word {number},word|thing,things")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


def more(experiment: str, sets: dict[str, Path]) -> list[str]:
    """What an experiment needs beside the demo photos, small."""
    return {
        "masked_loss": [f"dataset.path={sets['masked']}"],
        "prior_preservation": ["dataset.class_images.num=2", "dataset.class_images.num_steps=1"],
    }.get(experiment, [])


def dataset_of(experiment: str) -> str | None:
    for line in (CONFIG_DIR / "experiment" / f"{experiment}.yaml").read_text().splitlines():
        if "override /dataset:" in line:
            return line.split(":")[1].strip()
    return None


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_it_trains_the_pocket(bench: Bench, sets: dict[str, Path], experiment: str) -> None:
    kind = dataset_of(experiment)
    model = "pocket_sdxl" if experiment.endswith("sdxl") else "pocket"
    given = [] if kind in (None, "subject") else [f"dataset.path={sets[kind]}", "dataset.source=null"]
    size = "[128,72]" if kind == "driving" else "64"
    run = bench.train_observed(
        f"experiment_{experiment}",
        f"experiment={experiment}",
        f"model={model}",
        f"dataset.resolution={size}",
        *given,
        *more(experiment, sets),
        *QUICK,
    )
    losses = [value for name, _, value in scalars(run) if name == "loss/train"]
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert [checkpoint.name for checkpoint in list_checkpoints(run / "checkpoints")][-1] == "step_00000002"
    assert any((run / "adapter").rglob("*.safetensors"))
