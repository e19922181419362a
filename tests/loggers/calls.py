"""One call of every kind, for any logger."""

from pathlib import Path

from src.loggers.protocol import Logger


def log_everything(logger: Logger, files: Path) -> None:
    logger.log_config({"trainer": {"max_steps": 4, "seed": 1}, "prompts": ["a toy", "a dog"]})
    logger.log_scalars({"loss/train": 0.5, "throughput/images_per_second": 3}, step=1)
    logger.log_scalars({"loss/train": 0.25, "loss/validation": float("nan")}, step=2)
    logger.log_image("samples", "a toy", files / "toy.png", 2)
    logger.log_curve(
        "loss by timestep", "validation", [(1, 0.5), (500, 0.125)], 2, x_label="timestep", y_label="loss"
    )
    logger.log_table("results", "all", [{"rank": 4, "loss": 0.5}, {"rank": 8, "loss": 0.25}], 2)
    logger.log_text("the first line")
    logger.log_artifact("config", files / "toy.png")
    logger.log_model("adapter", files / "adapter.safetensors", {"base": "pocket"})
