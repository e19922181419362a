"""Prompts as token ids; those longer than CLIP's text encoder takes in chunks, each encoded by itself."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import CLIPTokenizer

if TYPE_CHECKING:
    from src.models.base import DiffusionModel

# A chunk ends after its last comma if that leaves fewer of its tokens empty.
_COMMA_REACH = 20
_MAX_LISTED = 10
_MAX_SHOWN = 300
_NUMBER_AROUND_COMMA = re.compile(r"\d,\d")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of a prompt that the text encoder takes at once.

    Attributes:
        token_ids: without start, end and padding.
        start: where its text begins in the prompt.
    """

    token_ids: list[int]
    start: int


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


def split_prompt(tokenizer: CLIPTokenizer, prompt: str) -> list[Chunk]:
    """The chunks of a prompt, at least one.

    A chunk ends after its last comma if that leaves fewer than 20 tokens empty, else at the end of a word,
    that is before white space. Only a word that no chunk can hold is torn.
    """
    encoded = _encode(tokenizer, prompt)
    ids, spans = encoded.input_ids, encoded.offset_mapping
    size = tokenizer.model_max_length - 2
    chunks, start = [], 0
    while len(ids) - start > size:
        end = _chunk_end(prompt, spans, start, start + size)
        chunks.append(Chunk(token_ids=ids[start:end], start=spans[start][0]))
        start = end
    chunks.append(Chunk(token_ids=ids[start:], start=spans[start][0] if start < len(ids) else 0))
    return chunks


def num_chunks_needed(tokenizers: Sequence[CLIPTokenizer], prompt: str) -> int:
    """How many chunks hold all of a prompt."""
    if _surely_fits(tokenizers, prompt):
        return 1
    return max(len(split_prompt(tokenizer, prompt)) for tokenizer in tokenizers)


def unseen_text(tokenizers: Sequence[CLIPTokenizer], prompt: str, max_chunks: int) -> str:
    """The end of a prompt that so many chunks do not hold, from the first word that is not whole."""
    if _surely_fits(tokenizers, prompt):
        return ""
    return max((_unseen(tokenizer, prompt, max_chunks) for tokenizer in tokenizers), key=len)


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


def _encode(tokenizer: CLIPTokenizer, prompt: str) -> Any:
    """Token ids, and which part of the prompt each one stands for (`offset_mapping`)."""
    return tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)


def _one_chunk(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Int[Tensor, "b t"]:
    ids: Tensor = tokenizer(
        list(prompts),
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


def _surely_fits(tokenizers: Sequence[CLIPTokenizer], prompt: str) -> bool:
    """Most captions need no counting: a token is at least a character of plain text."""
    return prompt.isascii() and len(prompt) <= min(each.model_max_length for each in tokenizers) - 2


def _chunk_end(prompt: str, spans: Sequence[tuple[int, int]], start: int, limit: int) -> int:
    """Which token begins the next chunk, for a chunk that begins at token `start` and must end by `limit`."""
    for end in range(limit, max(start, limit - _COMMA_REACH), -1):
        if _ends_with_comma(prompt, spans, end):
            return end
    for end in range(limit, start, -1):
        if _starts_word(prompt, spans, end):
            return end
    return limit


def _ends_with_comma(prompt: str, spans: Sequence[tuple[int, int]], end: int) -> bool:
    """Whether a comma stands before a token, and none of a number such as 1,000."""
    place = spans[end - 1][1]
    return prompt[place - 1] == "," and not _NUMBER_AROUND_COMMA.match(prompt[max(0, place - 2) : place + 1])


def _starts_word(prompt: str, spans: Sequence[tuple[int, int]], index: int) -> bool:
    return any(character.isspace() for character in prompt[spans[index - 1][1] : spans[index][0]])


def _unseen(tokenizer: CLIPTokenizer, prompt: str, max_chunks: int) -> str:
    if max_chunks > 1:
        chunks = split_prompt(tokenizer, prompt)
        return prompt[chunks[max_chunks].start :].strip() if len(chunks) > max_chunks else ""
    spans = _encode(tokenizer, prompt).offset_mapping
    first = tokenizer.model_max_length - 2
    if len(spans) <= first:
        return ""
    words = (
        i for i in range(first, 0, -1) if _starts_word(prompt, spans, i) or _ends_with_comma(prompt, spans, i)
    )
    return prompt[spans[next(words, first)][0] :].strip()
