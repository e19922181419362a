"""A run on a base in 8 bits: its adapter is for the base as it is, and it is continued in kind."""

import json

import pytest
import torch
from safetensors.torch import load_file

from src.errors import UserError
from src.models.adapters import adapter_layers
from src.models.export import load_adapter
from src.models.load import load_model
from tests.run.test_class_images import train
from tests.run.test_memory_preflight import place

__all__ = ["place"]


def test_the_adapter_is_for_the_base_as_it_is(place, tmp_path, pocket_sd15):
    settings = [*place, "trainer.batch_size=2", "trainer.base_precision=int8", "callbacks.samples=null"]
    logged, lineage = train(tmp_path / "run", *settings)
    assert {"loss/train", "loss/validation"} <= {name for _, name, _ in logged}
    model = load_model(str(pocket_sd15))
    assert lineage["base_model_hash"] == model.base_hash
    adapter = tmp_path / "run" / "adapter"
    load_adapter(model, adapter)
    assert adapter_layers(model.unet)
    tensors = load_file(adapter / "pytorch_lora_weights.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(".lora" in name for name in tensors)
    loop = json.loads(next((tmp_path / "run" / "checkpoints").glob("*2/loop.json")).read_text())
    assert loop["must_match"]["trainer.base_precision"] == "int8"
    with pytest.raises(UserError, match=r"trainer\.base_precision"):
        train(
            tmp_path / "run", *place, "trainer.batch_size=2", "callbacks.samples=null", "trainer.resume=auto"
        )
