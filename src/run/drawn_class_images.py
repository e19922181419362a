"""Class images for prior preservation that the base model draws once and keeps."""

import gc
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from src.config.schema import TrainConfig
from src.data.readers.class_images import class_image_id
from src.data.records import Record
from src.errors import UserError
from src.inference.class_images import ClassImageRecipe, ClassImageStore
from src.models.base import DiffusionModel
from src.run.class_folder import ClassImages
from src.training.accelerator import Agreement

log = logging.getLogger(__name__)


def base_and_drawn_images(
    config: TrainConfig,
    *,
    load: Callable[[], DiffusionModel],
    dtype: torch.dtype,
    size: tuple[int, int],
    accelerator: Accelerator,
    agreement: Agreement,
) -> tuple[DiffusionModel, ClassImages | None]:
    """The base model as `load` gives it, and the images that it drew, now or in an earlier run.

    Args:
        config: the run's configuration.
        load: loads the base model.
        dtype: the precision that it draws in.
        size: (width, height) of the images in pixels.
        accelerator: gives the device, and processes to share the work.
        agreement: lets them wait for each other.

    Returns:
        The model on the CPU, nothing attached; and None where no class images are to be drawn.

    Raises:
        UserError: the images cannot be drawn or kept.
    """
    model, block = load(), config.dataset.class_images
    if config.trainer.prior_loss_weight is None or block.path is not None:
        return model, None
    if config.model.long_prompts:
        # As many as this prompt needs. What the run's captions need is known when the adapter is attached.
        model.use_chunks(1, max_chunks=config.model.max_prompt_chunks)
    store = ClassImageStore(_recipe(config, model, dtype=dtype, size=size), Path(config.paths.cache_dir))
    groups = store.missing_groups(block.num)
    if groups:
        model.to_device(accelerator.device, dtype)
        _draw(
            store, model, groups, num_images=block.num, batch_size=block.batch_size, accelerator=accelerator
        )
        # Not the same one: half precision has taken digits from its weights. The old one goes first.
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        model = load()
    agreement.wait()
    found = store.find(block.num)
    if len(found) < block.num:
        raise UserError(
            f"{block.num - len(found)} of {block.num} class images are not in {store.folder} or damaged. "
            "paths.cache_dir must be one folder for all processes. Start again to have them drawn anew."
        )
    paths = {class_image_id(f"{number:06d}"): image for number, image in sorted(found.items())}
    return model, ClassImages(
        records=[Record(path=image.path, caption=block.prompt, id=id) for id, image in paths.items()],
        hashes={id: image.sha256 for id, image in paths.items()},
        sizes=dict.fromkeys(paths, size),
    )


def _recipe(
    config: TrainConfig, model: DiffusionModel, *, dtype: torch.dtype, size: tuple[int, int]
) -> ClassImageRecipe:
    block = config.dataset.class_images
    return ClassImageRecipe(
        base_hash=model.base_hash,
        precision=str(dtype).removeprefix("torch."),
        prompt=block.prompt,
        num_steps=block.num_steps,
        guidance_scale=block.guidance_scale,
        scheduler=block.scheduler,
        seed=block.seed,
        width=size[0],
        height=size[1],
        batch_size=block.batch_size,
        num_chunks=model.chunks_of(block.prompt),
    )


def _draw(
    store: ClassImageStore,
    model: DiffusionModel,
    groups: list[int],
    *,
    num_images: int,
    batch_size: int,
    accelerator: Accelerator,
) -> None:
    rank, world_size = accelerator.process_index, accelerator.num_processes
    # By number and not by place: a list that was made a moment later may be shorter.
    mine = [group for group in groups if group % world_size == rank]
    if accelerator.is_main_process:
        log.info("The base model draws class images, %d in all, to %s", num_images, store.folder)
    hidden = None if accelerator.is_main_process else True
    total = len(mine) * batch_size
    with tqdm(desc="Drawing class images", unit="image", total=total, disable=hidden, leave=False) as bar:
        for group in mine:
            store.draw(model, group)
            bar.update(batch_size)
