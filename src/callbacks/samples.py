"""Sample images of fixed prompts and seeds while training, beside the base model's, with their scores."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from src.callbacks.base import Callback, RunView
from src.errors import UserError
from src.inference.generate import GeneratedImage, generate_planned, plan_images, require_size
from src.inference.grids import comparison_grid, save_png
from src.inference.outputs import by_prompt, load_images, save_images
from src.metrics.evaluate import (
    Features,
    Reference,
    Score,
    join_rows,
    measure_images,
    measure_photos,
    score_features,
    split_rows,
)
from src.metrics.features import ClipExtractor, ImageFeatureExtractor
from src.models.adapters import adapter_disabled
from src.models.base import is_own_weight
from src.models.schedulers import require_scheduler
from src.randomness import address_seed
from src.training.state import TrainResult

_log = logging.getLogger(__name__)
_MAX_PHOTOS = 64
_THUMBNAIL = 384


class SampleImages(Callback):
    """Generates with the adapter every `every` steps and at the end, and scores what comes out.

    Before the first step the base model draws the same prompts from the same noise: the floor of all scores.
    Several processes draw and judge an equal share each; the main one writes, shows and scores.
    Files: images/base/, images/step_<step>/ and the grid images/step_<step>.png in the run folder.

    Args:
        every: steps between samples.
        num_images: for each prompt.
        num_steps: denoising steps.
        guidance_scale: of classifier-free guidance.
        seed: of the noise; not the run's, so that runs of different seeds show the same samples.
        width: in pixels, None for the training resolution.
        height: in pixels, None for the training resolution.
        scheduler: short name, see `src.models.schedulers`.
        batch_size: images at a time.
        prompts: all different.
        negative_prompt: for every image.
        resolution: (width, height) of training.
        held_out: validation photos; training never sees them.
        held_out_captions: a caption for each, as CLIP should read it; without, CLIP-T has no ceiling.
        load_image: reads a photo upright, in sRGB.
        clip_prompts: the prompts as CLIP should read them (see `words_for_clip`), None for as they are.
        dino: judges subject fidelity, or None.
        clip: judges prompt fidelity, or None.
    """

    on_every_rank = True

    def __init__(
        self,
        *,
        every: int = 100,
        num_images: int = 1,
        num_steps: int = 20,
        guidance_scale: float = 5.0,
        seed: int = 0,
        width: int | None = None,
        height: int | None = None,
        scheduler: str = "dpmpp_2m",
        batch_size: int = 4,
        prompts: Sequence[str],
        negative_prompt: str,
        resolution: tuple[int, int],
        held_out: Sequence[Path],
        load_image: Callable[[Path], Image.Image],
        dino: ImageFeatureExtractor | None,
        clip: ClipExtractor | None,
        held_out_captions: Sequence[str] = (),
        clip_prompts: Sequence[str] | None = None,
    ) -> None:
        counts = {"every": every, "num_images": num_images, "num_steps": num_steps, "batch_size": batch_size}
        for name, count in counts.items():
            if count < 1:
                raise UserError(f"callbacks.samples.{name}={count} must be at least 1.")
        if not prompts or len(set(prompts)) < len(prompts):
            raise UserError("dataset.prompts must hold at least one prompt, and none twice.")
        size = (width or resolution[0], height or resolution[1])
        require_size(*size)
        self._asked_size = (width, height)
        require_scheduler("callbacks.samples.scheduler", scheduler)
        self._every = every
        self._prompts = list(prompts)
        self._words = dict(zip(self._prompts, clip_prompts or self._prompts, strict=True))
        self._settings: dict[str, Any] = {
            "negative_prompt": negative_prompt,
            "num_images": num_images,
            "num_steps": num_steps,
            "guidance_scale": guidance_scale,
            "seed": seed,
            "width": size[0],
            "height": size[1],
            "scheduler": scheduler,
            "batch_size": batch_size,
        }
        self._held_out, self._captions = _pick(held_out, held_out_captions)
        self._load_image = load_image
        self._dino, self._clip = dino, clip
        self._base: list[GeneratedImage] = []
        self._base_features: Features | None = None
        self._text_features: Tensor | None = None
        self._reference: Reference | None = None
        self._photos: list[Image.Image] = []
        self._sampled_step: int | None = None
        self._scores: list[Score] = []

    @property
    def batch_size(self) -> int:
        """Images at a time."""
        return int(self._settings["batch_size"])

    def rehearse(self, model: Any, *, resolution: tuple[int, int], batch_size: int) -> None:
        """Draws one full batch in two denoising steps, for what it needs of memory, and keeps nothing of it.

        Args:
            model: the diffusion model.
            resolution: (width, height) of training, where no other size was asked for.
            batch_size: images at a time.
        """
        width, height = self._asked_size
        size = {"width": width or resolution[0], "height": height or resolution[1]}
        settings = {**self._settings, **size, "batch_size": batch_size, "num_steps": 2}
        # Longer prompts take more memory: those of the most chunks.
        negative = settings["negative_prompt"]
        prompts = sorted(self._prompts, key=lambda prompt: -model.chunks_of(prompt, negative))
        del settings["batch_size"]
        planned = plan_images(prompts=prompts, **settings)[:batch_size]
        generate_planned(model, planned, batch_size=batch_size)

    def needs_guard(self, hook: str, step: int) -> bool:
        """Not at the end of a step after which no samples are due."""
        return hook != "on_step_end" or self._is_due(step)

    def on_fit_start(self, run: RunView) -> None:
        """Draws the base model's images and looks at the held-out photos once."""
        self._base = self._base_images(run)
        photos = list(zip(self._held_out, self._captions or [""] * len(self._held_out), strict=True))

        def look() -> list[dict[str, Tensor]]:
            share = run.ranks.share(photos)
            with self._judges_on(run.model.device):
                reference = measure_photos(
                    (self._load_image(path) for path, _ in share),
                    captions=[caption for _, caption in share] if self._captions else [],
                    dino=self._dino,
                    clip=self._clip,
                )
            return split_rows(reference)

        try:
            self._reference = join_rows(Reference, run.ranks.do_shares(look))
        finally:
            if run.ranks.is_main:
                self._show_base(run)

    def _show_base(self, run: RunView) -> None:
        for name, path in save_images(self._base, run.output_dir / "images" / "base").items():
            run.logger.log_image("base", name, path, run.state.step)
        num_columns = (2 if self._base else 1) * self._settings["num_images"]
        for path in self._held_out[:num_columns]:
            photo = self._load_image(path)
            photo.thumbnail((_THUMBNAIL, _THUMBNAIL))
            self._photos.append(photo)

    def on_step_end(self, run: RunView) -> None:
        """Samples where it is due."""
        if self._is_due(run.state.step):
            self._sample(run)

    def on_fit_end(self, run: RunView, result: TrainResult) -> None:
        """Samples what came out, unless the last step did, or whoever stopped the run waits for its end."""
        if self._sampled_step != run.state.step and result.received_signal is None:
            self._sample(run)

    def _is_due(self, step: int) -> bool:
        return step % self._every == 0

    def _sample(self, run: RunView) -> None:
        self._sampled_step = run.state.step
        self._scores = []  # were the next one to fail, the last one's would pass for its scores
        own: list[GeneratedImage] = []

        def draw() -> list[GeneratedImage]:
            own.extend(self._draw(run))
            return own

        images = run.ranks.do_shares(draw)
        rows: list[dict[str, Tensor]] = []
        try:
            rows = run.ranks.do_shares(lambda: self._judge(run, own))
        finally:
            # What was drawn is shown, also where it cannot be judged. Nothing waits for other ranks any more.
            if run.ranks.is_main:
                self._show(run, images)
        if run.ranks.is_main:
            self._score(run, join_rows(Features, rows))

    def _draw(self, run: RunView) -> list[GeneratedImage]:
        """This rank's share of the images."""
        settings = {key: value for key, value in self._settings.items() if key != "batch_size"}
        planned = run.ranks.share(plan_images(prompts=self._prompts, **settings))
        return generate_planned(run.model, planned, batch_size=self._settings["batch_size"])

    def _judge(self, run: RunView, own: Sequence[GeneratedImage]) -> list[dict[str, Tensor]]:
        """What the judges see in this rank's images. On the main one also, once, what they compare with."""
        with self._judges_on(run.model.device):
            if run.ranks.is_main and self._base_features is None:
                self._base_features = self._measure(self._base)
                self._text_features = (
                    None if self._clip is None else self._clip.texts(self._words_of_images())
                )
            return split_rows(self._measure(own))

    def _words_of_images(self) -> list[str]:
        return [self._words[prompt] for prompt in self._prompts for _ in range(self._settings["num_images"])]

    def _measure(self, images: Sequence[GeneratedImage]) -> Features:
        return measure_images([image.image for image in images], dino=self._dino, clip=self._clip)

    def _show(self, run: RunView, images: Sequence[GeneratedImage]) -> None:
        step = run.state.step
        folder = run.output_dir / "images" / f"step_{step:08d}"
        for name, path in save_images(images, folder, {"step": step}).items():
            run.logger.log_image("samples", name, path, step)
        grid = comparison_grid(
            prompts=self._prompts,
            adapted=by_prompt(images, self._settings["num_images"]),
            base=by_prompt(self._base, self._settings["num_images"]),
            photos=self._photos,
        )
        path = folder.with_suffix(".png")
        save_png(grid, path, {"prompts": self._prompts, "step": step, **self._settings})
        run.logger.log_image("samples", "grid", path, step)

    def _score(self, run: RunView, features: Features) -> None:
        self._scores = score_features(
            samples=features,
            prompts=self._words_of_images(),
            texts=self._text_features,
            base=self._base_features or Features(),
            held_out=self._reference,
            labels={
                name: judge.label for name, judge in (("dino", self._dino), ("clip", self._clip)) if judge
            },
            seed=self._settings["seed"],
        )
        scalars = {name: value for score in self._scores for name, value in score.scalars().items()}
        if scalars:
            run.logger.log_scalars(scalars, run.state.step)

    def results(self) -> dict[str, float]:
        """The last samples' scores with their floor and ceiling."""
        return {
            name: value
            for score in self._scores
            for name, value in score.scalars().items()
            if not name.endswith(("_low", "_high"))
        }

    @contextmanager
    def _judges_on(self, device: torch.device) -> Iterator[None]:
        """Between samples the judges wait on the CPU: training needs the GPU's memory."""
        judges = [judge for judge in (self._dino, self._clip) if judge is not None]
        try:
            for judge in judges:
                judge.to(device)
            yield
        finally:
            for judge in judges:
                judge.to("cpu")

    def _base_images(self, run: RunView) -> list[GeneratedImage]:
        """The base model's images; nothing on other ranks than the main one."""
        if run.start_step > 0:
            kept = self._kept_base_images(run) if run.ranks.is_main else None
            # The main one's word: others may see another disk.
            if run.ranks.largest(int(kept is not None)):
                return kept or []
            if _trains_base_weights(run.model):
                _log.warning(
                    "The base model's samples are not in %s and its weights have been trained since: samples "
                    "are shown and scored without them.",
                    run.output_dir / "images" / "base",
                )
                return []

        def draw() -> list[GeneratedImage]:
            with adapter_disabled(run.model), run.model.schedule.own():
                return self._draw(run)

        return run.ranks.do_shares(draw)

    def _kept_base_images(self, run: RunView) -> list[GeneratedImage] | None:
        """A resumed run has the images that it drew before, if they were drawn in the same way."""
        settings = {key: value for key, value in self._settings.items() if key != "batch_size"}
        planned = plan_images(prompts=self._prompts, **settings)
        try:
            return load_images(planned, run.output_dir / "images" / "base")
        except Exception as error:  # whatever it is: the other ranks wait for word of it
            _log.warning("The base model's samples cannot be read and are drawn again (%s).", error)
            return None


def _trains_base_weights(model: Any) -> bool:
    trained = [name for name, parameter in model.denoiser.named_parameters() if parameter.requires_grad]
    return any(is_own_weight(name) for name in trained)


def _pick(photos: Sequence[Path], captions: Sequence[str]) -> tuple[list[Path], list[str]]:
    """As many photos as make a firm ceiling, the same ones in every run, and their captions."""
    order = sorted(range(len(photos)), key=lambda index: address_seed("held_out", photos[index].name))
    chosen = sorted(order[:_MAX_PHOTOS])
    return [photos[index] for index in chosen], [captions[index] for index in chosen if captions]
