"""Generates with the base model and with the adapter, side by side, and judges both."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from src.files import require_writable, write_json_atomic
from src.inference.apply import apply_adapter
from src.inference.generate import GeneratedImage, generate
from src.inference.grids import comparison_grid, save_png
from src.inference.outputs import by_prompt, save_images
from src.inference.resolve import AdapterSource
from src.loggers.protocol import Logger
from src.metrics.evaluate import Reference, Score, evaluate_samples, table_rows
from src.metrics.features import ClipExtractor, ImageFeatureExtractor
from src.models.base import DiffusionModel
from src.models.prompts import cut_warnings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """How images are generated; the fields are the arguments of `generate`."""

    negative_prompt: str
    num_images: int
    num_steps: int
    guidance_scale: float
    seed: int
    width: int
    height: int
    scheduler: str
    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """What scores the images.

    Attributes:
        dino: judges subject fidelity, or None.
        clip: judges prompt fidelity, or None.
        held_out: the photos that training never saw, measured by both; None where they are not known.
        photos: a few of them to look at.
    """

    dino: ImageFeatureExtractor | None = None
    clip: ClipExtractor | None = None
    held_out: Reference | None = None
    photos: Sequence[Image.Image] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a generation batch left behind.

    Attributes:
        grid: the picture with all images.
        images: the adapted model's files by name.
        base_images: the base model's; empty without comparison.
        scores: empty without judges.
    """

    grid: Path
    images: dict[str, Path]
    base_images: dict[str, Path]
    scores: list[Score]


def compare(
    model: DiffusionModel,
    source: AdapterSource,
    *,
    folder: Path,
    prompts: Sequence[str],
    sampling: SamplingSettings,
    logger: Logger,
    judges: Judges | None = None,
    clip_prompts: Sequence[str] | None = None,
    scale: float = 1.0,
    with_token_embedding: bool = True,
    merge: bool = True,
    with_base: bool = True,
    on_batch: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Fills the folder of a generation batch: images/adapted/, images/base/, grid.png, scores.json.

    The base images come first, from the model as it was loaded; only then the adapter is put on.

    Args:
        model: the base model, nothing attached.
        source: the trained weights.
        folder: of this batch.
        prompts: texts, all different.
        sampling: how.
        logger: gets images, grid and scores at the step that the weights were trained to (0 if unknown).
        judges: what scores the images, if anything.
        clip_prompts: the prompts as CLIP should read them (see `words_for_clip`), None for as they are.
        scale: the adapter's strength.
        with_token_embedding: whether to use the learned embedding.
        merge: fold the LoRA into the weights.
        with_base: whether to generate with the base model as well.
        on_batch: told ("base" or "adapted", images done, images in all).

    Raises:
        UserError: see `generate` and `apply_adapter`.
    """
    require_writable(folder)
    said = _warn_of_cut_prompts(model, prompts, sampling.negative_prompt)
    base = _generate(model, "base", prompts, sampling, on_batch) if with_base else []
    apply_adapter(model, source, scale=scale, with_token_embedding=with_token_embedding, merge=merge)
    # A trained placeholder is one token, so that less may be cut.
    _warn_of_cut_prompts(model, prompts, sampling.negative_prompt, said=said)
    adapted = _generate(model, "adapted", prompts, sampling, on_batch)
    made_with = {"model_hash": model.base_hash[:16]}
    base_files = save_images(base, folder / "images" / "base", made_with)
    files = save_images(
        adapted, folder / "images" / "adapted", {**made_with, "adapter": source.name, "adapter_scale": scale}
    )
    judges = judges or Judges()
    grid = folder / "grid.png"
    picture = comparison_grid(
        prompts=prompts,
        adapted=by_prompt(adapted, sampling.num_images),
        base=by_prompt(base, sampling.num_images),
        photos=judges.photos,
    )
    save_png(picture, grid, {**asdict(sampling), **made_with, "prompts": list(prompts)})
    words = dict(zip(prompts, clip_prompts or prompts, strict=True))
    scores = evaluate_samples(
        samples=[image.image for image in adapted],
        prompts=[words[image.prompt] for image in adapted],
        base_samples=[image.image for image in base],
        held_out=judges.held_out,
        dino=judges.dino,
        clip=judges.clip,
        seed=sampling.seed,
    )
    write_json_atomic(folder / "scores.json", [asdict(score) for score in scores])
    result = Comparison(grid=grid, images=files, base_images=base_files, scores=scores)
    _show(result, logger, source.step or 0)
    return result


def _warn_of_cut_prompts(
    model: DiffusionModel, prompts: Sequence[str], negative_prompt: str, *, said: Sequence[str] = ()
) -> list[str]:
    """Says which prompts the model will not see to their end, unless that was said before."""
    texts = [(f"prompts[{index}]", prompt) for index, prompt in enumerate(prompts)]
    warnings = cut_warnings(model, [*texts, ("negative_prompt", negative_prompt)])
    for warning in warnings:
        if warning not in said:
            _log.warning("%s", warning)
    return warnings


def _generate(
    model: DiffusionModel,
    what: str,
    prompts: Sequence[str],
    sampling: SamplingSettings,
    on_batch: Callable[[str, int, int], None] | None,
) -> list[GeneratedImage]:
    def tell(done: int, total: int) -> None:
        if on_batch is not None:
            on_batch(what, done, total)

    return generate(model, prompts=prompts, on_batch=tell, **asdict(sampling))


def _show(result: Comparison, logger: Logger, step: int) -> None:
    logger.log_image("samples", "grid", result.grid, step)
    for title, files in (("samples", result.images), ("base", result.base_images)):
        for name, path in files.items():
            logger.log_image(title, name, path, step)
    if result.scores:
        logger.log_table("scores", "adapted beside base", table_rows(result.scores), step)
        for score in result.scores:
            logger.log_scalars(score.scalars(), step)
