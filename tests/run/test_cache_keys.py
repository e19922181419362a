"""Whoever filled a cache, and in which precision, must not change a run."""

import torch
from hydra import compose, initialize_config_dir

from src.config.build import PROJECT_ROOT, check_config, register
from src.models.load import load_model
from src.run.build_data import prepare_data
from src.run.build_encoded import encoded_dataset
from tests.data.pictures import photo_folder


def configuration(root, *overrides):
    register()
    own = [f"dataset.path={root / 'photos'}", f"paths.cache_dir={root / 'cache'}", f"paths.data_dir={root}"]
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        return check_config(compose("train", overrides=[*own, *overrides]))


def entries(model, root):
    """What the first training image is encoded to, through the caches of `root`."""
    config = configuration(root)
    data = prepare_data(config, size=(64, 64))
    dataset = encoded_dataset(
        data.split.train[:1],
        config=config,
        data=data,
        model=model,
        train=True,
        live_text=False,
    )
    num_missing = dataset.num_missing()
    dataset.fill()
    return num_missing, dataset.reader.text_cache.get(dataset.records[0].caption).hidden


def test_only_the_side_that_is_trained_on_is_mirrored_and_cropped_at_random(pocket_sd15, tmp_path):
    photo_folder(tmp_path / "photos", 5)
    config = configuration(tmp_path, "dataset.crop=random", "dataset.flip=true", "dataset.num_variants=4")
    data, model = prepare_data(config, size=(64, 64)), load_model(str(pocket_sd15))

    def variants(*, train):
        reader = encoded_dataset(
            data.split.train, config=config, data=data, model=model, train=train, live_text=False
        ).reader
        keys = [reader.variant_key(data.split.train[0].id, number) for number in range(reader.num_variants)]
        return [(key.crop, key.flip) for key in keys]

    assert variants(train=True) == [("random", False), ("random", True)] * 2
    assert variants(train=False) == [("center", False)]


def test_precisions_have_entries_of_their_own(pocket, tmp_path):
    photo_folder(tmp_path / "photos", 5)
    model = load_model(str(pocket))
    in_fp32 = entries(model, tmp_path)
    again = entries(model, tmp_path)
    assert again[0] == ({}, 0)
    assert torch.equal(again[1], in_fp32[1])
    model.to_device("cpu", torch.bfloat16)
    in_bf16 = entries(model, tmp_path)
    assert in_bf16[0] == ({}, 2), "the VAE still computes in fp32"
    assert not torch.equal(in_bf16[1], in_fp32[1])
    assert entries(load_model(str(pocket)), tmp_path)[0] == ({}, 0)


def test_whether_the_empty_prompt_is_zeroed_is_part_of_the_name(pocket_sdxl):
    model = load_model(str(pocket_sdxl))
    name = model.text_hash
    other = load_model(str(pocket_sdxl))
    other.force_zeros_for_empty_prompt = False
    assert other.text_hash != name
