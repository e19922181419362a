"""A job that fills a cache under a limit beside another one: a process of its own, for tests."""

from multiprocessing.synchronize import Barrier
from pathlib import Path

from src.data.cache_limit import Inventory, lease, on_disk
from src.data.cache_room import Projection, hold_limit, make_room
from src.data.encode import EncodedDataset
from src.data.latent_cache import LatentCache
from src.data.text_cache import TextCache
from src.files import write_json_atomic
from tests.data.pictures import TinyEncoders, photo_records

SIZE = (32, 24)
ENTRY = on_disk(4096)


def fill_beside(folder: Path, number: int, limit_bytes: int, together: Barrier) -> None:
    """Does what a run does before it trains, step by step together with the other job."""
    cache, encoders = folder / "cache", TinyEncoders()
    # Each has eight photos of its own.
    records, hashes = photo_records(folder / f"photos{number}", 16)
    records = records[:8] if number == 1 else records[8:]
    dataset = EncodedDataset(
        records,
        hashes=hashes,
        sizes={record.id: SIZE for record in records},
        seed=0,
        encode_images=encoders.images,
        encode_text=encoders.text,
        latent_cache=LatentCache(cache / "latents", vae_hash="vae"),
        text_cache=TextCache(cache / "texts", text_hash="text"),
    )
    with lease(cache, is_needed=True):
        sizes, num_texts = dataset.num_missing()
        wanted = Projection(
            num_images=sizes.total(),
            num_texts=num_texts,
            image_bytes=sizes.total() * ENTRY,
            text_bytes=num_texts * ENTRY,
        )
        fits = make_room(wanted, cache_dir=cache, limit_bytes=limit_bytes)
        together.wait(60)
        dataset.fill()
        together.wait(60)
        held = Inventory([cache / "latents", cache / "texts"]).num_bytes
        together.wait(60)
        hold_limit(cache, limit_bytes)
        together.wait(60)
        sizes, num_texts = dataset.num_missing()
        seen = {"fits": fits, "held": held, "lost": sizes.total() + num_texts}
        write_json_atomic(folder / f"job{number}.json", seen)
        together.wait(60)
