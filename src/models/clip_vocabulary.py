"""CLIP's full tokenizers without a hub, from the vocabulary inside open_clip's wheel.

A single-file checkpoint carries no tokenizer. open_clip's differs from transformers' in the names of the two
special tokens only; the ids agree.
"""

import json
from pathlib import Path

from transformers import CLIPTokenizer

_START, _END = "<|startoftext|>", "<|endoftext|>"
_NUM_TOKENS = 49408
_MODEL_MAX_LENGTH = 77


def write_clip_tokenizer(folder: Path, *, pad_token: str = _END) -> None:
    """Writes vocab.json, merges.txt and the settings of Stable Diffusion's tokenizer.

    Args:
        folder: made if need be.
        pad_token: SDXL's second tokenizer pads with "!", all others with the end token.
    """
    # Takes a second, for timm and more; few models need it.
    from open_clip.tokenizer import SimpleTokenizer

    source = SimpleTokenizer()
    renamed = {"<start_of_text>": _START, "<end_of_text>": _END}
    tokens = {renamed.get(token, token): index for token, index in source.encoder.items()}
    assert len(tokens) == _NUM_TOKENS
    assert (tokens[_START], tokens[_END]) == (_NUM_TOKENS - 2, _NUM_TOKENS - 1)
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    settings = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": pad_token}
    settings |= {"tokenizer_class": "CLIPTokenizer"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "model_max_length": _MODEL_MAX_LENGTH}), encoding="utf-8"
    )


def write_clip_tokenizers(folder: Path, *, count: int) -> list[CLIPTokenizer]:
    """Writes the first one or both tokenizers into a model folder and loads them."""
    for index, name in enumerate(("tokenizer", "tokenizer_2")[:count]):
        write_clip_tokenizer(folder / name, pad_token="!" if index else _END)
    return [CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2")[:count]]
