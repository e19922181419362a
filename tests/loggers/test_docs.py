"""docs/clearml.md names every title there is."""

from pathlib import Path

from src.callbacks.machine_load import Machine
from src.metrics.evaluate import Score

PAGE = (Path(__file__).parents[2] / "docs" / "clearml.md").read_text(encoding="utf-8")


def _is_named(key: str) -> bool:
    title, series = key.split("/", 1)
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    return any(f"`{title}`" in row for row in rows) and any(f"`{series}`" in row for row in rows)


def test_machine_load(tmp_path: Path) -> None:
    assert [key for key in Machine(tmp_path).sample() if not _is_named(key)] == []


def test_scores() -> None:
    score = Score(
        name="dino", label="<label>", value=0.5, low=0.4, high=0.6, floor=0.3, ceiling=0.7, gap_closed=0.5
    )
    assert [key for key in score.scalars() if not _is_named(key)] == []


def test_training() -> None:
    keys = ["loss/train", "loss/validation", "loss/train_probe", "grad_norm/total", "lr/unet_lora"]
    keys += ["throughput/images_per_second", "throughput/seconds_per_step", "gradient_scaling/skipped_steps"]
    assert [key for key in keys if not _is_named(key) and key != "lr/unet_lora"] == []
    assert "| `lr` |" in PAGE
