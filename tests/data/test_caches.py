import hashlib
import json
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src import files
from src.data.images import PIXELS_VERSION
from src.data.latent_cache import LatentCache, LatentEntry, VariantKey, latent_entry_bytes
from src.data.tensor_store import TensorStore, entry_key
from src.data.text_cache import TextCache, TextEntry, text_entry_bytes
from src.errors import UserError

VARIANT = VariantKey(size=(64, 32), crop="random", flip=False, background=(255, 255, 255), crop_number=1)


def latent_entry(seed=0):
    moments = torch.randn(2, 4, 4, 8, generator=torch.Generator().manual_seed(seed))
    return LatentEntry(moments=moments, original_size=(640, 480), crop_top_left=(3, 5))


def test_latents_come_back_as_they_went(tmp_path):
    cache = LatentCache(tmp_path, vae_hash="vae")
    key, entry = VARIANT.hash("sha"), latent_entry()
    assert cache.get(key) is None
    assert not cache.claim(key)
    num_bytes = cache.put(key, entry)
    again = LatentCache(tmp_path, vae_hash="vae").get(key)
    assert torch.equal(again.moments, entry.moments)
    assert (again.original_size, again.crop_top_left) == ((640, 480), (3, 5))
    assert cache.claim(key)
    assert cache.path(key).parent.name == key[:2]
    assert abs(num_bytes - latent_entry_bytes((64, 32))) < 300


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_rounded_as_announced(tmp_path, precision):
    cache = LatentCache(tmp_path, vae_hash="vae", precision=precision)
    cache.put("ab", latent_entry())
    assert torch.equal(cache.get("ab").moments, cache.rounded(latent_entry()).moments)
    assert not torch.equal(cache.get("ab").moments, latent_entry().moments)


def test_everything_that_changes_an_entry_changes_its_place(tmp_path):
    base = {"size": (64, 32), "crop": "random", "flip": False, "background": (255, 255, 255)}
    changes = [
        {},
        {"size": (32, 64)},
        {"crop": "center"},
        {"flip": True},
        {"background": (0, 0, 0)},
        {"crop_number": 1},
        {"crop_seed": 1},
    ]
    keys = {VariantKey(**{**base, **change}).hash("sha") for change in changes}
    assert len(keys | {VariantKey(**base).hash("other")}) == len(changes) + 1
    folders = {
        LatentCache(tmp_path, vae_hash=vae, precision=precision).path("ab")
        for vae in ("a", "b")
        for precision in ("fp32", "fp16")
    }
    assert len(folders) == 4


def test_centre_crops_do_not_depend_on_seeds():
    center = {"size": (64, 32), "crop": "center", "flip": True, "background": (255, 255, 255)}
    assert VariantKey(**center, crop_seed=1, crop_number=3).hash("a") == VariantKey(**center).hash("a")


def test_text_embeddings_come_back_as_they_went(tmp_path):
    cache = TextCache(tmp_path, text_hash="clip")
    for text, pooled in (("", torch.randn(3)), ("sksToy на пляже", None)):
        hidden = torch.randn(5, 6)
        assert cache.get(text) is None
        num_bytes = cache.put(text, TextEntry(hidden=hidden, pooled=pooled))
        again = cache.get(text)
        assert torch.equal(again.hidden, hidden)
        assert (again.pooled is None) == (pooled is None)
        assert pooled is None or torch.equal(again.pooled, pooled)
        assert abs(num_bytes - text_entry_bytes(5, 6)) < 200
    assert TextCache(tmp_path, text_hash="other").get("") is None


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damage_is_always_found(tmp_path, data):
    cache = LatentCache(tmp_path, vae_hash="vae")
    cache.put("abcd", latent_entry())
    path = cache.path("abcd")
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 300))
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "zero"]))
    if kind == "flip":
        damaged = whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :]
    else:
        damaged = {"cut": whole[:at], "grow": whole + b"\0", "zero": bytes(at)}[kind]
    path.write_bytes(damaged)
    read = cache.get("abcd")
    # Only what does not matter to the content, such as a space in the header, may pass.
    assert read is None or torch.equal(read.moments, latent_entry().moments)
    if at >= len(whole) - 2 * 4 * 4 * 8 * 4 or kind != "flip":
        assert read is None
    path.write_bytes(whole)


def test_an_entry_in_the_wrong_place_is_found(tmp_path):
    cache = LatentCache(tmp_path, vae_hash="vae")
    cache.put("ab", latent_entry())
    shutil.copy(cache.path("ab"), cache.path("ab").with_name("abc.safetensors"))
    assert cache.get("abc") is None


def _write_often(folder: Path) -> None:
    cache = LatentCache(folder, vae_hash="vae")
    for number in range(150):
        cache.put(f"ab{number % 3}", latent_entry(number % 3))


def test_two_processes_write_and_one_reads_the_same_entries(tmp_path, caplog):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    cache = LatentCache(tmp_path, vae_hash="vae")
    num_read = 0
    while any(writer.is_alive() for writer in writers):
        for number in range(3):
            entry = cache.get(f"ab{number}")
            if entry is not None:
                assert torch.equal(entry.moments, latent_entry(number).moments)
                num_read += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert num_read
    assert "damaged" not in caplog.text
    assert len(list(tmp_path.rglob("*.*"))) == 3


def test_a_full_disk_is_named_and_leaves_nothing_half(tmp_path, monkeypatch):
    store = TensorStore(tmp_path)
    store.write("aa", {"x": torch.ones(3)}, {})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(UserError, match=r"no space left on the disk.*paths\.cache_dir"):
        store.write("ab", {"x": torch.ones(3)}, {})
    assert store.read("aa") is not None
    assert store.read("ab") is None
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["aa.safetensors"]


def test_keys_hold_their_parts_apart():
    assert len({entry_key("a", "bc"), entry_key("ab", "c"), entry_key(1), entry_key("1"), entry_key()}) == 5


def test_keys_are_what_they_always_were():
    """Hashes of JSON, whoever computes them: entries from before are found."""

    def key(*parts):
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    for parts in (("",), ('a "red"\ttoy\n', -3), ("Hündchen 狗", "x\\y", 0), ()):
        assert entry_key(*parts) == key(*parts)
    variant = VariantKey(
        size=(32, 24), crop="random", flip=True, background=(1, 2, 3), crop_seed=7, crop_number=5
    )
    own = (32, 24, "random", 1, 1, 2, 3, 7, 5)
    assert variant.hash("ab" * 32) == key(PIXELS_VERSION, "ab" * 32, *own)
    assert replace(variant, crop="center").hash("cd") == key(
        PIXELS_VERSION, "cd", 32, 24, "center", *own[3:-2]
    )
