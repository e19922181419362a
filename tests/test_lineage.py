"""What an adapter says of its origin."""

import torch
from safetensors.torch import save_file

from src.config.build import PROJECT_ROOT
from src.lineage import collect_lineage, short_form
from src.models.adapter_files import find_adapter_files

CONFIG = {
    "run": {"name": "my_toy"},
    "model": {"path": "owner/base"},
    # Left open: the base model decides.
    "dataset": {"name": "subject", "placeholder": "sksToy", "resolution": None, "split_seed": 0},
    "trainer": {"seed": 7},
}


def header(attribution=None):
    lineage = collect_lineage(
        buckets={},
        root=PROJECT_ROOT,
        config=CONFIG,
        content_hashes={"a.png": "00", "b.png": "01"},
        captions={"a.png": "a", "b.png": "b"},
        attribution=attribution,
        split={"train": ["a.png"], "validation": ["b.png"]},
        held_out_files={},
        class_images={},
        class_captions={},
        base_hash="02",
        architecture="sd15",
        resolution=(512, 768),
    )
    return short_form(lineage, CONFIG)


def test_the_header_says_the_size_that_was_trained_at():
    said = header()
    assert said["darkroom.resolution"] == "512x768"
    assert (said["darkroom.run"], said["darkroom.seed"]) == ("my_toy", "7")
    assert all(isinstance(value, str) for value in said.values())
    # What the export says of the model; twice would be two truths.
    assert not {"darkroom.architecture", "darkroom.base_model_hash"} & said.keys()


def test_the_header_says_whom_to_credit_for_the_data():
    assert header("Author: Somebody")["darkroom.attribution"] == "Author: Somebody"
    assert "darkroom.attribution" not in header()


def test_a_lora_of_a_dataset_with_a_placeholder_stands_alone(tmp_path):
    # Only an embedding that was trained with it has to lie beside it.
    file = tmp_path / "toy.safetensors"
    save_file({"unet.to_q.lora.down.weight": torch.ones(1, 1)}, file, metadata=header())
    assert find_adapter_files(file).lora == file
