"""Prompts as token ids; those longer than CLIP's text encoder takes in chunks, each encoded by itself."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import CLIPTokenizer

from src.models.chunks import spelled_out, split_prompt, unseen_text

if TYPE_CHECKING:
    from src.models.base import DiffusionModel

_MAX_LISTED = 10
_MAX_SHOWN = 300


def tokenize(
    tokenizers: Sequence[CLIPTokenizer], prompts: Sequence[str], num_chunks: int = 1
) -> Int[Tensor, "n b t"]:
    """Token ids of each tokenizer, 77 a chunk: start, up to 75 of the prompt, end, padding.

    One chunk is what diffusers' pipelines make, cut at the token limit. Of several, those that a prompt does
    not fill are like the empty prompt.
    """
    return torch.stack(
        [
            _one_chunk(tokenizer, prompts) if num_chunks == 1 else _chunks(tokenizer, prompts, num_chunks)
            for tokenizer in tokenizers
        ]
    )


def in_chunks(encoder: Any, token_ids: Int[Tensor, "b t"]) -> Int[Tensor, "_ chunk"]:
    """All chunks of all prompts below each other, as an encoder takes them."""
    return token_ids.reshape(-1, min(token_ids.shape[1], encoder.config.max_position_embeddings))


def cut_warnings(model: "DiffusionModel", texts: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each text of which the text encoder will not see the end, the first few by name.

    Args:
        model: knows how many chunks a prompt may have.
        texts: pairs of a name, to find the text by, and the text.
    """
    warnings = []
    for name, text in texts:
        if unseen := unseen_text(model.tokenizers, text, model.max_chunks):
            more = f" and {len(unseen) - _MAX_SHOWN} more characters" if len(unseen) > _MAX_SHOWN else ""
            warnings.append(
                f"{name}: {model.count_tokens(text)} tokens are more than fit. "
                f"Not seen: {unseen[:_MAX_SHOWN]!r}{more}."
            )
    if not warnings:
        return []
    size = model.chunk_size
    limit, remedy = (
        (f"{size} tokens", "set model.long_prompts=true")
        if model.max_chunks == 1
        else (f"{model.max_chunks} chunks of {size} tokens", "raise model.max_prompt_chunks")
    )
    num_more = len(warnings) - _MAX_LISTED
    rest = [f"{num_more} more texts do not fit."] if num_more > 0 else []
    advice = f"The text encoder takes {limit}: shorten the texts, or {remedy}."
    return [*warnings[:_MAX_LISTED], *rest, advice]


def _one_chunk(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Int[Tensor, "b t"]:
    ids: Tensor = tokenizer(
        [spelled_out(tokenizer, prompt) for prompt in prompts],
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


def _chunks(tokenizer: CLIPTokenizer, prompts: Sequence[str], num_chunks: int) -> Int[Tensor, "b t"]:
    rows = []
    for prompt in prompts:
        parts = [chunk.token_ids for chunk in split_prompt(tokenizer, prompt)][:num_chunks]
        parts += [[]] * (num_chunks - len(parts))
        rows.append([token for part in parts for token in _framed(tokenizer, part)])
    return torch.tensor(rows)


def _framed(tokenizer: CLIPTokenizer, ids: list[int]) -> list[int]:
    marked = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    return marked + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(marked))
