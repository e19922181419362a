"""From records to encoded batches, behind the caches."""

from pathlib import Path

from tqdm import tqdm

from src.config.schema import TrainConfig
from src.data.encode import EncodedDataset, EncodeText, rounded_text
from src.data.images import parse_colour
from src.data.latent_cache import LatentCache
from src.data.records import Record
from src.data.text_cache import TextCache
from src.models.base import DiffusionModel
from src.run.build_data import PreparedData


def encoded_dataset(
    records: list[Record],
    *,
    config: TrainConfig,
    data: PreparedData,
    model: DiffusionModel,
    train: bool,
    live_text: bool,
    keep_text: bool = True,
) -> EncodedDataset:
    """One side of the split behind the caches.

    Args:
        records: that side.
        config: the run's configuration.
        data: the whole dataset.
        model: its frozen encoders.
        train: whether crops, flips and caption dropout apply; the validation side is measured without them.
        live_text: whether the loop encodes the text, because something there is trained.
        keep_text: whether there is room for embeddings in the cache. Where there is not they are the same.
    """
    dataset = config.dataset
    cache_dir, precision = Path(config.paths.cache_dir), dataset.cache_precision
    latent_cache = text_cache = None
    encode_text: EncodeText | None = None if live_text else model.encode_prompts
    if dataset.cache:
        # Computed in another precision an entry has other last bits; who filled the cache must not matter.
        vae_key = f"{model.vae_hash}-{model.vae.dtype}"
        latent_cache = LatentCache(cache_dir / "latents", vae_hash=vae_key, precision=precision)
    if dataset.cache and encode_text is not None:
        if keep_text:
            text_cache = TextCache(cache_dir / "texts", text_hash=_text_key(model), precision=precision)
        else:
            encode_text = rounded_text(encode_text, precision)
    return EncodedDataset(
        records,
        hashes=data.hashes,
        sizes=data.training_sizes,
        crop=dataset.crop if train else "center",
        flip=dataset.flip and train,
        num_variants=dataset.num_variants if train else 1,
        seed=config.trainer.seed,
        crop_seed=dataset.split_seed,
        encode_images=model.encode_images,
        latent_cache=latent_cache,
        encode_text=encode_text,
        text_cache=text_cache,
        caption_dropout=config.trainer.caption_dropout if train else 0.0,
        background=parse_colour(dataset.background),
        masks=data.masks,
    )


def _text_key(model: DiffusionModel) -> str:
    precisions = sorted({str(encoder.dtype) for encoder in model.text_encoders.values()})
    # One chunk is encoded as without long prompts: such entries are shared.
    chunks = [f"chunks{model.num_chunks}"] if model.num_chunks > 1 else []
    return "-".join([model.text_hash, model.tokenizer_hash, *precisions, *chunks])


def fill_cache(dataset: EncodedDataset, *, what: str, rank: int, world_size: int) -> None:
    """Encodes what the caches lack, with a progress bar."""
    with tqdm(desc=f"Encoding {what}", unit="entry", disable=None if rank == 0 else True, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        dataset.fill(progress, rank=rank, world_size=world_size)
