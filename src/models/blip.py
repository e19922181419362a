"""BLIP (Li et al. 2022, arXiv 2201.12086): a sentence for an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import BlipForConditionalGeneration, BlipProcessor

from src.errors import UserError
from src.files import read_json
from src.models.devices import choose_device
from src.models.hub import fetch_from_hub, is_hub_id
from src.models.quiet import quiet_libraries
from src.models.weight_files import PLAIN, choose

_KEY = "captioner.model"
_REMEDY = (
    "Set captioner.model=Salesforce/blip-image-captioning-large, or another BLIP that writes captions, as "
    "safetensors."
)
# What the library raises for files that are damaged or of another kind.
_LOAD_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError)


class Blip:
    """A BLIP captioning model, in fp32 and greedy, so that the same image gives the same words.

    Args:
        model: Hub id (`owner/name`) or a folder as transformers saves it.
        device: "auto", "cuda", "mps" or "cpu".
        max_new_tokens: The most tokens of a caption, those of a prefix not counted.

    Raises:
        UserError: the model is neither here nor can be fetched, is damaged, or is no BLIP.
    """

    def __init__(self, model: str, *, device: str, max_new_tokens: int) -> None:
        self.device = choose_device(device, key="captioner.device")
        self._max_new_tokens = max_new_tokens
        folder = _folder(model)
        self._processor, self._model = _load(folder)
        self._model.requires_grad_(False).eval().to(self.device)

    def pixels(self, image: Image.Image) -> Float[Tensor, "3 h w"]:
        """An RGB image as the model sees it: resized to the model's own size, whatever its shape."""
        found: Tensor = self._processor(images=image, return_tensors="pt")["pixel_values"][0]
        return found

    def describe(self, pixels: Sequence[Float[Tensor, "3 h w"]], *, prefix: str | None = None) -> list[str]:
        """What stands on each image, in lower case as the model's vocabulary is.

        Args:
            pixels: Of each image; see `pixels`.
            prefix: Words that the model goes on from. They are not part of the result.
        """
        batch = torch.stack(list(pixels)).to(self.device)
        inputs: dict[str, Tensor] = {}
        num_given = 1  # the token that begins a sentence
        if prefix is not None:
            text = self._processor(text=prefix, return_tensors="pt")
            inputs = {name: text[name].repeat(len(batch), 1) for name in ("input_ids", "attention_mask")}
            inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            # `generate` drops the last one, which would end the sentence, and returns the others as well.
            num_given = inputs["input_ids"].shape[1] - 1
        with torch.inference_mode():
            tokens = self._model.generate(
                pixel_values=batch, max_new_tokens=self._max_new_tokens, do_sample=False, **inputs
            )
        texts: list[str] = self._processor.batch_decode(tokens[:, num_given:], skip_special_tokens=True)
        return [text.strip() for text in texts]


def _folder(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    if not is_hub_id(model):
        raise UserError(f"{_KEY}={model}: there is no such folder, and no hub id looks like this. {_REMEDY}")
    return fetch_from_hub(model, revision=None, variants=(PLAIN,), key=_KEY)


def _load(folder: Path) -> tuple[Any, Any]:
    """Processor and model, every weight of it from the file."""
    _require_blip(folder)
    if choose([file.name for file in folder.iterdir()], (PLAIN,)) is None:
        # As of Salesforce/blip-image-captioning-base on the hub.
        raise UserError(
            f"{_KEY}: {folder} holds no safetensors weights; others can run code when opened. {_REMEDY}"
        )
    try:
        with quiet_libraries(errors_only=True):
            processor = BlipProcessor.from_pretrained(folder, local_files_only=True)
            loaded: Any = BlipForConditionalGeneration.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except _LOAD_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"The captioning model in {folder} cannot be loaded ({reason}). Copy it again."
        ) from error
    model, report = loaded
    if report["missing_keys"]:
        raise UserError(
            f"The captioning model in {folder} lacks {len(report['missing_keys'])} weights, the first "
            f"{sorted(report['missing_keys'])[0]}. {_REMEDY}"
        )
    return processor, model


def _require_blip(folder: Path) -> None:
    try:
        kind = read_json(folder / "config.json").get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{_KEY}={folder} has no readable config.json. {_REMEDY}") from error
    if kind != "blip":
        raise UserError(f"{_KEY}={folder} is a model of the kind {kind}, not blip. {_REMEDY}")
