"""A BLIP of random weights, small enough to be made for a test."""

from pathlib import Path

import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

WORDS = "a photo of the toy on table in snow red blue dog house with and near old small green big"


def make_tiny_blip(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", *WORDS.split()]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizer.from_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **size,
            "encoder_hidden_size": 16,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 5,
            "eos_token_id": 3,
            "sep_token_id": 3,
        },
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    torch.manual_seed(1)
    model = BlipForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        # The usual small weights say the same of every image, and repeat the word before.
        if parameter.ndim > 1:
            parameter.data.normal_(std=2.0 if "crossattention" in name or "transform" in name else 0.5)
    model.text_decoder.cls.predictions.bias.data[: -len(WORDS.split())] = -100.0  # words only
    model.save_pretrained(folder)
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    processor.save_pretrained(folder)
    return folder
