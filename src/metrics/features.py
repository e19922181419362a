"""Feature extractors that judge images: DINO through timm, CLIP through open_clip.

Both take a name, whose weights come from the Hugging Face hub or its cache, or a local folder, or a name with
a local weights file. Only safetensors are read. Features are of unit length, in fp32, on the CPU.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from src.errors import UserError

_BATCH_SIZE = 32
_TIMEOUT_SECONDS = 5.0
_OFFLINE_REMEDY = (
    "Connect to the network once, give a local folder or file instead, or take the built-in miniature: "
    "metrics=default."
)


class ImageFeatureExtractor(ABC):
    """Turns images into vectors whose cosine says how alike they are.

    Attributes:
        label: says which model judged; part of every metric's name, because scores of different models cannot
            be compared.
    """

    def __init__(self, *, label: str, device: str = "cpu") -> None:
        if not label or any(character in label for character in "/[]"):
            raise UserError(
                f"The label {label!r} of a metrics model must be a word without '/', '[' and ']'."
            )
        self.label = label
        self.device = torch.device(device)

    @abstractmethod
    def images(self, images: Sequence[Image.Image]) -> Float[Tensor, "b d"]:
        """Features of RGB images of any size, of unit length, fp32, on the CPU."""

    @abstractmethod
    def to(self, device: torch.device | str) -> None:
        """Moves the model to where it computes."""


class DinoExtractor(ImageFeatureExtractor):
    """The class token of a self-supervised ViT: DINO (Caron et al. 2021, arXiv 2104.14294) or DINOv2.

    Args:
        model: a timm name (`vit_small_patch16_224.dino`: the one DreamBench uses,
            `vit_small_patch14_dinov2.lvd142m`) or a folder with timm's config.json and model.safetensors.
        weights: a .safetensors file to take the weights of a named model from.
        label: see `ImageFeatureExtractor`.
        device: where to compute.

    Raises:
        UserError: the name is unknown, or the weights are neither here nor can be fetched.
    """

    def __init__(self, *, model: str, label: str, weights: str | None = None, device: str = "cpu") -> None:
        super().__init__(label=label, device=device)
        import timm

        settings: dict[str, Any] = {"pretrained": True, "num_classes": 0}
        if _is_folder(model, "metrics.dino.model"):
            _require_files(Path(model), ["config.json"], ["model.safetensors"])
            name = f"local-dir:{model}"
        else:
            name = model
            if not timm.is_model(model.partition(".")[0]):
                raise UserError(
                    f"metrics.dino.model={model} is no model of timm. Try vit_small_patch16_224.dino."
                )
            file = weights or _from_hub(
                _timm_repository(model), "model.safetensors", f"metrics.dino.model={model}"
            )
            settings["pretrained_cfg_overlay"] = {"file": _require_safetensors(file), "source": "file"}
        self._model = _load(lambda: timm.create_model(name, **settings), "metrics.dino.model", model)
        self._model.requires_grad_(False).eval().to(self.device)
        self._transform = timm.data.create_transform(
            **timm.data.resolve_model_data_config(self._model), is_training=False
        )

    def images(self, images: Sequence[Image.Image]) -> Float[Tensor, "b d"]:
        """See `ImageFeatureExtractor.images`."""
        return _in_batches(images, self._transform, self._model, self.device)

    def to(self, device: torch.device | str) -> None:
        """See `ImageFeatureExtractor.to`."""
        self.device = torch.device(device)
        self._model.to(self.device)


class ClipExtractor(ImageFeatureExtractor):
    """Images and texts in CLIP's common space (Radford et al. 2021, arXiv 2103.00020).

    Args:
        model: a name of open_clip (`ViT-B-32`) or a folder with open_clip_config.json and
            open_clip_model.safetensors.
        pretrained: for a name: the tag of its weights (`openai`) or a .safetensors file.
        label: see `ImageFeatureExtractor`.
        device: where to compute.

    Raises:
        UserError: name or tag are unknown, or the weights are neither here nor can be fetched.
    """

    def __init__(self, *, model: str, label: str, pretrained: str | None = None, device: str = "cpu") -> None:
        super().__init__(label=label, device=device)
        import open_clip

        settings: dict[str, Any] = {}
        if _is_folder(model, "metrics.clip.model"):
            _require_files(
                Path(model),
                ["open_clip_config.json"],
                ["open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"],
            )
            name = f"local-dir:{model}"
        else:
            name = model
            settings = _open_clip_weights(model, pretrained)
        self._model, self._transform = _load(
            lambda: open_clip.create_model_from_pretrained(name, **settings), "metrics.clip.model", model
        )
        self._model.requires_grad_(False).eval().to(self.device)
        self._tokenize = open_clip.get_tokenizer(name)

    def images(self, images: Sequence[Image.Image]) -> Float[Tensor, "b d"]:
        """See `ImageFeatureExtractor.images`."""
        return _in_batches(images, self._transform, self._model.encode_image, self.device)

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Features of texts, of unit length; what goes beyond the context length (77 tokens) is not seen."""
        return _in_batches(
            texts, lambda text: self._tokenize([text])[0], self._model.encode_text, self.device
        )

    def to(self, device: torch.device | str) -> None:
        """See `ImageFeatureExtractor.to`."""
        self.device = torch.device(device)
        self._model.to(self.device)


def _in_batches(
    items: Sequence[Any],
    prepare: Callable[[Any], Tensor],
    encode: Callable[[Tensor], Tensor],
    device: torch.device,
) -> Float[Tensor, "b d"]:
    assert len(items) > 0, "no features of nothing"
    features = []
    # Inside a training step autocast may be on; scores are always computed in fp32.
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for start in range(0, len(items), _BATCH_SIZE):
            batch = torch.stack([prepare(item) for item in items[start : start + _BATCH_SIZE]])
            features.append(nn.functional.normalize(encode(batch.to(device)).float(), dim=-1).cpu())
    return torch.cat(features)


def _is_folder(model: str, key: str) -> bool:
    if Path(model).is_dir():
        return True
    if "/" in model or "\\" in model:
        raise UserError(
            f"{key}={model}: there is no such folder. `python train.py -cn prepare` brings the built-in; "
            "otherwise give another folder or the name of a model."
        )
    return False


def _require_files(folder: Path, all_of: list[str], one_of: list[str]) -> None:
    missing = [name for name in all_of if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in one_of):
        missing.append(" or ".join(one_of))
    if missing:
        raise UserError(
            f"The metrics model in {folder} lacks {', '.join(missing)}. Point to a complete folder."
        )


def _require_safetensors(file: str) -> str:
    if Path(file).suffix != ".safetensors" or not Path(file).is_file():
        raise UserError(f"The metrics weights {file} are no .safetensors file. Give the path of one.")
    return file


def _timm_repository(model: str) -> str:
    import timm

    config = timm.get_pretrained_cfg(model)
    if config is None or not config.hf_hub_id:
        raise UserError(
            f"metrics.dino.model={model} has no weights on the hub. Give its tag (as in "
            "vit_small_patch16_224.dino), or a file with metrics.dino.weights=..."
        )
    return f"{config.hf_hub_id}{model}" if config.hf_hub_id.endswith("/") else config.hf_hub_id


def _open_clip_weights(model: str, pretrained: str | None) -> dict[str, Any]:
    """Arguments for open_clip that name a local file and repeat what the tag says about preprocessing."""
    import open_clip

    if open_clip.get_model_config(model) is None:
        raise UserError(f"metrics.clip.model={model} is no model of open_clip. Try ViT-B-32.")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is not None and Path(pretrained).suffix == ".safetensors":
        return {"pretrained": _require_safetensors(pretrained)}
    if pretrained not in tags:
        raise UserError(
            f"metrics.clip.pretrained={pretrained} is neither a .safetensors file nor one of {model}'s tags: "
            f"{', '.join(tags)}."
        )
    config = open_clip.get_pretrained_cfg(model, pretrained)
    repository = str(config.get("hf_hub", "")).rpartition("/")[0]
    key = f"metrics.clip.pretrained={pretrained}"
    settings = {"pretrained": _from_hub(repository, "open_clip_model.safetensors", key)}
    renamed = {"mean": "image_mean", "std": "image_std", "interpolation": "image_interpolation"}
    settings |= {ours: config[theirs] for theirs, ours in renamed.items() if theirs in config}
    # OpenAI's weights need the quick GELU; open_clip only warns when a name without it is combined with them.
    return settings | {"force_quick_gelu": bool(config.get("quick_gelu", False))}


def _from_hub(repository: str, filename: str, key: str) -> str:
    """The path of a hub file: from the cache, else downloaded; without a network it fails within seconds."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    try:
        return hf_hub_download(repository, filename, local_files_only=True)
    except LocalEntryNotFoundError:
        pass
    try:
        # The download itself retries for half a minute where there is no network; this question does not.
        HfApi().model_info(repository, timeout=_TIMEOUT_SECONDS)
        return hf_hub_download(repository, filename)
    except (OSError, HTTPError) as error:
        raise UserError(
            f"{key}: the weights ({repository}/{filename} on the Hugging Face hub) are not in the cache "
            f"and cannot be fetched ({type(error).__name__}). {_OFFLINE_REMEDY}"
        ) from error


def _load(create: Callable[[], Any], key: str, model: str) -> Any:
    try:
        return create()
    except (
        Exception
    ) as error:  # both libraries say in many ways, assertions among them, that weights do not fit
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{key}={model} cannot be loaded: {reason}. Fetch it again, or choose another model."
        ) from error
