"""Prompts that are longer than CLIP's text encoder takes, in chunks. Of tokens alone: no torch."""

import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from transformers import CLIPTokenizer

# A chunk ends after its last comma if that leaves fewer of its tokens empty.
_COMMA_REACH = 20
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


def add_tokens(tokenizer: CLIPTokenizer, placeholder: str, num_vectors: int) -> None:
    """Adds a placeholder's tokens, named as diffusers' `load_textual_inversion` names them."""
    for token in (placeholder, *(f"{placeholder}_{index}" for index in range(1, num_vectors))):
        tokenizer.add_tokens(token)


def spelled_out(tokenizer: CLIPTokenizer, prompt: str) -> str:
    """A prompt in which a placeholder of several vectors is followed by its further tokens.

    As diffusers' pipelines do it (`maybe_convert_prompt`): "sks" becomes "sks sks_1". They replace only the
    spelling that was added, so that "SKS" stays the first vector alone; here it brings all of them, as the
    tokenizer finds the token in any case. The placeholder itself must be in small letters, because the
    tokenizer's own tokens are compared, which have no capitals.
    """
    several = _further_tokens(tokenizer.added_tokens_encoder)
    if not several:
        return prompt
    found = set(tokenizer.tokenize(prompt, verbose=False))
    for token, more in several.items():
        if token in found:
            spelled = " ".join([token, *more]).replace("\\", r"\\")
            # As the tokenizer finds it: in any case, inside words, and in the composed form of Unicode.
            composed = unicodedata.normalize("NFC", prompt)
            prompt = re.sub(re.escape(token), spelled, composed, flags=re.IGNORECASE)
    return prompt


def split_prompt(tokenizer: CLIPTokenizer, prompt: str) -> list[Chunk]:
    """The chunks of a prompt, at least one.

    A chunk ends after its last comma if that leaves fewer than 20 tokens empty, else at the end of a word,
    that is before white space. Only a word that no chunk can hold is torn. A placeholder of several vectors
    is spelled out first and counts as one word, and places are those of the text that comes of it.
    """
    prompt = spelled_out(tokenizer, prompt)
    encoded = _encode(tokenizer, prompt)
    ids, spans = encoded.input_ids, _joined(tokenizer, encoded)
    size = tokenizer.model_max_length - 2
    chunks, start = [], 0
    while len(ids) - start > size:
        end = _chunk_end(prompt, spans, start, start + size)
        chunks.append(Chunk(token_ids=ids[start:end], start=spans[start][0]))
        start = end
    chunks.append(Chunk(token_ids=ids[start:], start=spans[start][0] if start < len(ids) else 0))
    return chunks


def count_tokens(tokenizers: Sequence[CLIPTokenizer], prompt: str) -> int:
    """Tokens of a prompt before it is cut, without start and end."""
    return max(len(each(spelled_out(each, prompt), verbose=False).input_ids) for each in tokenizers) - 2


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


def _encode(tokenizer: CLIPTokenizer, prompt: str) -> Any:
    """Token ids, and which part of the prompt each one stands for (`offset_mapping`)."""
    return tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)


def _joined(tokenizer: CLIPTokenizer, encoded: Any) -> list[tuple[int, int]]:
    """Where each token stands, without a gap before a placeholder's further vectors: none starts a word."""
    added = tokenizer.added_tokens_encoder
    further = {added[token] for tokens in _further_tokens(added).values() for token in tokens}
    spans: list[tuple[int, int]] = list(encoded.offset_mapping)
    for index, token_id in enumerate(encoded.input_ids):
        if index > 0 and token_id in further:
            spans[index] = (spans[index - 1][1], spans[index][1])
    return spans


def _further_tokens(added: Mapping[str, int]) -> dict[str, list[str]]:
    """The placeholders of several vectors, each with the tokens that follow it."""
    return {
        token: list(itertools.takewhile(added.__contains__, (f"{token}_{i}" for i in itertools.count(1))))
        for token in added
        if f"{token}_1" in added
    }


def _surely_fits(tokenizers: Sequence[CLIPTokenizer], prompt: str) -> bool:
    """Most captions need no counting: a token is at least a character of plain text."""
    longest = max(len(spelled_out(each, prompt)) for each in tokenizers)
    return prompt.isascii() and longest <= min(each.model_max_length for each in tokenizers) - 2


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
        spelled = spelled_out(tokenizer, prompt)
        return spelled[chunks[max_chunks].start :].strip() if len(chunks) > max_chunks else ""
    prompt = spelled_out(tokenizer, prompt)
    spans = _joined(tokenizer, _encode(tokenizer, prompt))
    first = tokenizer.model_max_length - 2
    if len(spans) <= first:
        return ""
    words = (
        i for i in range(first, 0, -1) if _starts_word(prompt, spans, i) or _ends_with_comma(prompt, spans, i)
    )
    return prompt[spans[next(words, first)][0] :].strip()
