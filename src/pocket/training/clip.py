"""Trains the pocket's judge of prompts: a small CLIP on pictures and captions of the pocket world.

The symmetric contrastive loss of CLIP (Radford et al. 2021, arXiv 2103.00020, figure 3), with one change: in
a world this small a batch holds the same caption more than once, and every picture of it counts as right.
Each picture is also seen under the captions that leave out view and light.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from src.pocket.training.batches import blurred, to_pixels
from src.pocket.training.stage import Stage, run_stage
from src.pocket.world.surroundings import SURROUNDINGS
from src.pocket.world.world_set import WorldSet
from src.randomness import address_seed, generator

_LARGEST_SCALE = 100.0
_PLACES_IN_A_BATCH = 4
# The world's longest caption has 26 tokens.
CLIP_CONTEXT = 40


def clip_config(*, image_size: int, vocab_size: int, context_length: int) -> dict[str, Any]:
    """open_clip's configuration of the judge."""
    return {
        "embed_dim": 128,
        # timm's smallest ResNet, 0.4 million parameters. With batches of few places it told more objects
        # apart than a ViT of 1 million did without them after three times as long.
        "vision_cfg": {
            "image_size": image_size,
            "timm_model_name": "test_resnet",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
        },
        "text_cfg": {
            "context_length": context_length,
            "vocab_size": vocab_size,
            # Any name makes open_clip read the tokenizer beside the weights.
            "hf_tokenizer_name": "pocket",
            "width": 128,
            "heads": 4,
            "layers": 3,
        },
    }


def train_clip(
    stage: Stage,
    world: WorldSet,
    *,
    tokenizer: Any,
    vocab_size: int,
    context_length: int,
    device: torch.device,
) -> open_clip.CLIP:
    """Trains from random weights.

    Args:
        stage: how.
        world: pictures and captions.
        tokenizer: texts to (n, context_length) token ids.
        vocab_size: of the tokenizer.
        context_length: of the tokenizer.
        device: where.
    """
    torch.manual_seed(address_seed(stage.seed, "clip"))
    config = clip_config(
        image_size=world.pixels.shape[1], vocab_size=vocab_size, context_length=context_length
    )
    model = open_clip.CLIP(**config).to(device)
    full, short = tokenizer(world.captions), tokenizer([_short(caption) for caption in world.captions])

    places = by_place(world.captions)

    def draw(among: int, random: torch.Generator) -> Int[Tensor, " _"]:
        return torch.randint(among, (stage.batch_size // _PLACES_IN_A_BATCH,), generator=random)

    def losses(step: int) -> dict[str, Tensor]:
        random = generator(stage.seed, "clip", step)
        picks = torch.cat([place[draw(len(place), random)] for place in _some(places, random)])
        is_short = torch.rand(stage.batch_size, 1, generator=random) < 0.3
        token_ids = torch.where(is_short, short[picks], full[picks]).to(device)
        images = _augmented(to_pixels(world, picks), random).to(device)
        image_features = model.encode_image(images, normalize=True)
        text_features = model.encode_text(token_ids, normalize=True)
        logits = model.logit_scale.exp() * image_features @ text_features.T
        is_right = (token_ids[:, None] == token_ids[None]).all(dim=-1)
        loss = (multi_positive_loss(logits, is_right) + multi_positive_loss(logits.T, is_right)) / 2
        accuracy = is_right.gather(1, logits.argmax(dim=1, keepdim=True)).float().mean()
        return {"loss": loss, "accuracy": accuracy}

    def cap_scale(step: int) -> None:
        with torch.no_grad():
            model.logit_scale.clamp_(max=torch.tensor(_LARGEST_SCALE).log().item())

    trained = run_stage(stage, model, losses, after_step=cap_scale).eval()
    assert isinstance(trained, open_clip.CLIP)
    return trained


def _some(places: Sequence[Tensor], random: torch.Generator) -> list[Tensor]:
    """A batch shows few places: captions of one place differ in little but the object and its colour."""
    return [places[k] for k in torch.randint(len(places), (_PLACES_IN_A_BATCH,), generator=random).tolist()]


def by_place(captions: Sequence[str]) -> list[Int[Tensor, " _"]]:
    """Positions of the captions that name the same surroundings; of pictograms and the like, which name none,
    in a group of their own."""
    groups: dict[str, list[int]] = {}
    for k, caption in enumerate(captions):
        named = (p.name for p in SURROUNDINGS if p.phrase in caption or p.short_phrase in caption)
        groups.setdefault(next(named, ""), []).append(k)
    return [torch.tensor(group) for group in groups.values()]


def multi_positive_loss(logits: Float[Tensor, "b b"], is_right: Bool[Tensor, "b b"]) -> Tensor:
    """Cross-entropy against the even distribution over all right answers of a row."""
    targets = is_right.float() / is_right.sum(dim=1, keepdim=True)
    return F.cross_entropy(logits, targets)


def _short(caption: str) -> str:
    return caption.split(", ", maxsplit=1)[0]


def _augmented(images: Float[Tensor, "b c s s"], random: torch.Generator) -> Float[Tensor, "b c s s"]:
    """Shifted by up to four pixels, lighter or darker, softer; not mirrored: left and right have names."""
    size = images.shape[-1]
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    shifts: Sequence[list[int]] = torch.randint(0, 9, (len(images), 2), generator=random).tolist()
    moved = torch.stack(
        [image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, shifts, strict=True)]
    )
    gain = 1 + 0.15 * torch.randn(len(images), 1, 1, 1, generator=random)
    return blurred(((moved + 1) * gain - 1).clamp(-1, 1), random)
