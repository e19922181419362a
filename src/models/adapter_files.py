"""Adapter files, looked at without torch: what is in a folder, a file's header, its architecture."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from src.errors import UserError
from src.models.detect import Shapes
from src.models.safetensors_header import SafetensorsHeader, read_header

LORA_FILE = "pytorch_lora_weights.safetensors"
# The same adapter for ComfyUI and A1111: LoRA and DoRA, or LoHa and LoKr.
KOHYA_FILE = "kohya_lora.safetensors"
LYCORIS_FILE = "lycoris.safetensors"
# LoHa and LoKr, a folder a component.
PEFT_FOLDER = "peft"
PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
EMBEDDING_FILE = "learned_embeds.safetensors"
MODEL_FOLDER = "model"
FULL_UNET = "diffusion_pytorch_model.safetensors"
# diffusers' name for the LoRA configuration in the header: rank, alpha, target modules.
LORA_METADATA = "lora_adapter_metadata"
OUR_PREFIX = "darkroom."

_CROSS_ATTENTION = re.compile(
    r"attn2[._](?:processor\.)?to_[kv](?:_lora)?\.(?:lora[._])?(?:A\.|down\.|linear)"
)
_TEXT_WIDTHS = {768: "sd15", 2048: "sdxl", 1024: "Stable Diffusion 2.x", 1280: "the SDXL refiner"}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """The parts of an adapter that are there."""

    lora: Path | None
    peft: Path | None
    embedding: Path | None
    model: Path | None

    def with_headers(self) -> list[Path]:
        """A file of each part whose header says what it is, the adapter's first."""
        weights = [] if self.peft is None else sorted(self.peft.glob(f"*/{PEFT_WEIGHTS}"))
        whole = None if self.model is None else self.model / "unet" / FULL_UNET
        return [file for file in (self.lora, *weights[:1], self.embedding, whole) if file is not None]


def find_adapter_files(path: Path) -> AdapterFiles:
    """The parts of an adapter, in a folder that `save_adapter` wrote or from one file.

    A LoRA file that was trained together with an embedding brings the embedding beside it.

    Raises:
        UserError: nothing is there, or the embedding that belongs to it is missing.
    """
    if path.is_dir():
        folder = path.parent if path.name == PEFT_FOLDER else path
        lora, embedding, model = folder / LORA_FILE, folder / EMBEDDING_FILE, folder / MODEL_FOLDER
        peft = folder / PEFT_FOLDER
    elif path.is_file():
        lora, peft, embedding = _beside(path)
        model = Path()
    else:
        raise UserError(f"The adapter {path} does not exist. Check adapter.weights.")
    files = AdapterFiles(
        lora=lora if lora.is_file() else None,
        peft=peft if peft.name == PEFT_FOLDER and any(peft.glob(f"*/{PEFT_CONFIG}")) else None,
        embedding=embedding if embedding.is_file() else None,
        model=model if (model / "model_index.json").is_file() else None,
    )
    if not any((files.lora, files.peft, files.embedding, files.model)):
        raise UserError(
            f"{path} holds no adapter: none of {LORA_FILE}, {PEFT_FOLDER}/, {EMBEDDING_FILE} and "
            f"{MODEL_FOLDER}/ is there. Check adapter.weights."
        )
    return files


def _beside(path: Path) -> tuple[Path, Path, Path]:
    """LoRA file, peft folder and embedding that one file stands for; `Path()` is none."""
    nothing = Path()
    if path.name == EMBEDDING_FILE:
        return nothing, nothing, path
    header = read_header(path)
    lora, peft = path, nothing
    if any(".hada_" in name or ".lokr_" in name for name in header.shapes):
        lora = nothing
        peft = path.parent.parent if path.name == PEFT_WEIGHTS else path.with_name(PEFT_FOLDER)
        if not peft.is_dir() and not any(key.startswith(OUR_PREFIX) for key in header.metadata):
            raise UserError(
                f"{path} is a LoHa or LoKr of another program. Only Darkroom's own are read here, from the "
                f"folder {PEFT_FOLDER}/ that it writes: use the program that the file is for."
            )
        if not peft.is_dir():
            raise UserError(
                f"{path} is a LoHa or LoKr, which is read from the folder {PEFT_FOLDER}/ of its adapter. "
                "Copy that beside it, or give the adapter's folder."
            )
    embedding = nothing
    if header.metadata.get(f"{OUR_PREFIX}placeholder"):
        embedding = (lora if peft == nothing else peft).with_name(EMBEDDING_FILE)
        if not embedding.is_file():
            raise UserError(
                f"{path} was trained together with a token embedding, but {embedding.name} is not beside "
                "it. Copy it there, too."
            )
    return lora, peft, embedding


def read_adapter_header(path: Path) -> dict[str, Any]:
    """What a LoRA or embedding file says about itself.

    Returns:
        architecture ("sd15", "sdxl", another name or None), components (unet, text_encoder, ...; none in
        a file of peft's), rank, alpha (None where the file does not say), placeholder, metadata (all entries
        of the header).
    """
    header = read_header(path)
    lora = json.loads(header.metadata.get(LORA_METADATA, "{}"))
    ranks = [value for key, value in lora.items() if key.endswith(".r")]
    alphas = [value for key, value in lora.items() if key.endswith(".lora_alpha")]
    names = {name.split(".", 1)[0] for name in header.shapes}
    return {
        "architecture": adapter_architecture(header),
        "components": sorted(names & {"unet", "text_encoder", "text_encoder_2"}),
        "rank": ranks[0] if ranks else None,
        "alpha": alphas[0] if alphas else None,
        "placeholder": header.metadata.get(f"{OUR_PREFIX}placeholder"),
        "metadata": header.metadata,
    }


def adapter_architecture(header: SafetensorsHeader) -> str | None:
    """Which base an adapter was trained for: as its header says, else from its keys and shapes.

    Returns:
        "sd15", "sdxl", the name of an unsupported one, or None where nothing tells (an adapter of text
        encoders only, or of a model of unusual size).
    """
    if said := header.metadata.get(f"{OUR_PREFIX}architecture"):
        return said
    shapes: Shapes = header.shapes
    if any("text_encoder_2." in name or name.startswith("lora_te2_") for name in shapes):
        return "sdxl"
    if any(
        name.startswith(("transformer.", "lora_transformer_")) or "double_blocks" in name for name in shapes
    ):
        return "Stable Diffusion 3 or FLUX"
    for name, shape in shapes.items():
        if _CROSS_ATTENTION.search(name) and len(shape) >= 2:
            return _TEXT_WIDTHS.get(shape[1])
    return None
