"""The card of an adapter: what it is, what it was made of, and whom to credit, beside its weights."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from src.config.schema import TrainConfig
from src.files import write_text_atomic
from src.models.adapter_files import LORA_FILE, OUR_PREFIX
from src.models.hub import is_hub_id

CARD = "README.md"
_TAGS = {"sd15": "stable-diffusion", "sdxl": "stable-diffusion-xl"}


def write_adapter_card(
    folder: Path, config: TrainConfig, metadata: Mapping[str, str], *, architecture: str, loss: float | None
) -> None:
    """Writes README.md, with the front matter of the Hugging Face hub's model cards.

    Args:
        folder: of the adapter, already there.
        config: the run's configuration.
        metadata: what the headers of its files say.
        architecture: of the base model.
        loss: on the held-out images, if it was measured.
    """
    about = {key.removeprefix(OUR_PREFIX): value for key, value in metadata.items()}
    write_text_atomic(
        folder / CARD,
        "\n".join(
            [
                *_front_matter(folder, about, architecture=architecture),
                *_facts(about, architecture=architecture, loss=loss),
                *_schedule(config),
                *_use(config),
                *_credit(about.get("attribution")),
            ]
        )
        + "\n",
    )


def _front_matter(folder: Path, about: Mapping[str, str], *, architecture: str) -> list[str]:
    lora = ["lora"] if (folder / LORA_FILE).exists() else []
    matter = {"library_name": "diffusers", "tags": [*lora, _TAGS[architecture], "text-to-image"]}
    if is_hub_id(about["base_model"]):
        matter["base_model"] = about["base_model"]
    return ["---", yaml.safe_dump(matter, sort_keys=True).strip(), "---", ""]


def _facts(about: Mapping[str, str], *, architecture: str, loss: float | None) -> list[str]:
    rows = {
        "base model": f"{about['base_model']} ({architecture})",
        "dataset": f"{about['dataset']}, hash {about['dataset_hash'][:12]}",
        "word that marks the subject": about["trigger_word"] or "none",
        "resolution": about["resolution"],
        "steps": about["step"],
        "seed": about["seed"],
        "validation loss": "not measured" if loss is None else f"{loss:.4f}",
    }
    lines = [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows.items()]
    return [f"# {about['run']}", "", "Trained with Darkroom.", "", "| | |", "|---|---|", *lines, ""]


def _schedule(config: TrainConfig) -> list[str]:
    """How to sample, where it is not as the base model is sampled."""
    kind, is_zero = config.trainer.prediction_type, config.trainer.zero_terminal_snr
    if kind == "auto" and not is_zero:
        return []
    changes = [] if kind == "auto" else [f'prediction_type="{kind}"']
    changes += ["rescale_betas_zero_snr=True", 'timestep_spacing="trailing"'] if is_zero else []
    return [
        "## Sampling",
        "",
        "Trained to another noise schedule or prediction than its base model's. In diffusers:",
        "",
        "```python",
        "pipeline.scheduler = DDIMScheduler.from_config(",
        f"    pipeline.scheduler.config, {', '.join(changes)}",
        ")",
        "```",
        "",
    ]


def _use(config: TrainConfig) -> list[str]:
    prompts = [f"- {prompt}" for prompt in config.dataset.prompts]
    return ["## Prompts that were sampled while training", "", *prompts, ""] if prompts else []


def _credit(attribution: str | None) -> list[str]:
    return [] if attribution is None else ["## Licence and credit of the training data", "", attribution, ""]
