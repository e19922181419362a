"""How many tokens a caption has, by a base model's tokenizers alone: no weights, no torch."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from transformers import CLIPTokenizer

from src.errors import UserError
from src.models.chunks import add_tokens, count_tokens, unseen_text
from src.models.detect import detect_folder, detect_single_file
from src.models.hub import cached_folder, is_hub_id

_FOLDERS = ("tokenizer", "tokenizer_2")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounter:
    """What a base model says of a prompt, without the model.

    Attributes:
        tokenizers: One a text encoder.
        max_chunks: That a prompt may have.
    """

    tokenizers: Sequence[CLIPTokenizer]
    max_chunks: int

    @property
    def chunk_size(self) -> int:
        """Tokens of a prompt in one chunk, without start and end."""
        return int(min(tokenizer.model_max_length for tokenizer in self.tokenizers)) - 2

    def count(self, prompt: str) -> int:
        """Tokens of a prompt before it is cut, without start and end."""
        return count_tokens(self.tokenizers, prompt)

    def unseen(self, prompt: str) -> str:
        """The end of a prompt that the text encoders do not see."""
        return unseen_text(self.tokenizers, prompt, self.max_chunks)


def token_counter(
    path: str,
    *,
    revision: str | None = None,
    placeholder: str | None = None,
    num_vectors: int = 1,
    max_chunks: int = 1,
) -> TokenCounter | None:
    """Counts with the tokenizers of a base model that is on this machine; None if it is not.

    Args:
        path: hub id, diffusers folder or single file; nothing is downloaded.
        revision: of a hub id.
        placeholder: a word that gets a token of its own, if one is trained,
        num_vectors: or so many tokens.
        max_chunks: that a prompt may have.

    Raises:
        UserError: it is there, and no model that is supported.
    """
    place: Path | None = Path(path)
    if not Path(path).exists():
        place = cached_folder(path, revision=revision) if is_hub_id(path) else None
    if place is None:
        return None
    num_tokenizers = 2 if (detect_folder if place.is_dir() else detect_single_file)(place) == "sdxl" else 1
    tokenizers = (
        [load_tokenizer(place / name) for name in _FOLDERS[:num_tokenizers]]
        if place.is_dir()
        else _clip_tokenizers(num_tokenizers)
    )
    if placeholder is not None:
        for tokenizer in tokenizers:
            add_tokens(tokenizer, placeholder, num_vectors)
    return TokenCounter(tokenizers=tokenizers, max_chunks=max_chunks)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Loads the tokenizer of a diffusers folder.

    Raises:
        UserError: it is not there.
    """
    if not folder.is_dir():
        raise UserError(f"The tokenizer folder {folder} is missing. Copy or download the model again.")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust tokenizers raise it bare; others are OSError, ValueError, KeyError
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"The tokenizer in {folder} is damaged ({reason[0]}). Copy or download the model again."
        ) from error


def _clip_tokenizers(number: int) -> list[CLIPTokenizer]:
    # Imports torch, and is needed for single files only.
    from src.models.clip_vocabulary import write_clip_tokenizers

    with tempfile.TemporaryDirectory() as folder:
        return write_clip_tokenizers(Path(folder), count=number)
