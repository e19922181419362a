"""New tokens beside a frozen vocabulary: the placeholder that marks the subject, one vector or several.

Textual inversion (arXiv 2208.01618), section 4: only the new tokens' embeddings are optimised.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTokenizer

from src.errors import UserError
from src.models.chunks import add_tokens
from src.randomness import generator

if TYPE_CHECKING:
    from src.models.base import DiffusionModel


# How far the second vector and further ones start from the word, in its own standard deviations.
_SPREAD = 0.1


@final
class TokenEmbedding(nn.Module):
    """An embedding table with further rows of its own, in fp32 while they are trained.

    The rows are kept apart from the table, so that neither weight decay nor an optimiser's state ever touches
    the table, and so that saving them needs no bookkeeping.
    """

    def __init__(self, table: nn.Embedding, *, rows: Float[Tensor, "n d"], first_id: int) -> None:
        """Takes the frozen table, and the rows of the tokens `first_id`, `first_id` + 1, ..."""
        super().__init__()
        self.table = table
        # One vector has no axis for their number: so are the checkpoints that have it.
        self.row = nn.Parameter(rows[0] if len(rows) == 1 else rows)
        self.first_id = first_id

    @property
    def weight(self) -> Float[Tensor, "v d"]:
        """The frozen table, for code that asks an embedding for its size, device or precision."""
        return self.table.weight

    @property
    def rows(self) -> Float[Tensor, "n d"]:
        """The own rows."""
        return self.row.reshape(-1, self.row.shape[-1])

    def forward(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        """Rows of the table, and the own rows for the own tokens."""
        rows = self.rows
        is_new = (ids >= self.first_id) & (ids < self.first_id + len(rows))
        known: Tensor = self.table(ids.masked_fill(is_new, 0))
        # One by one: the gradient of an indexed row is summed in an order that a GPU does not repeat.
        for index, row in enumerate(rows):
            known = torch.where((ids == self.first_id + index)[..., None], row.to(known.dtype), known)
        return known


def add_placeholder(
    model: "DiffusionModel",
    placeholder: str,
    *,
    initializer_word: str | None = None,
    num_vectors: int = 1,
    rows: Sequence[Float[Tensor, "n _"]] | None = None,
) -> dict[str, nn.Parameter]:
    """Gives every tokenizer and text encoder the new token, or as many as it has vectors.

    Added as diffusers' `load_textual_inversion` adds them, so that the same prompts give the same ids there:
    upper and lower case are the same, and it is found inside longer words. Further vectors are the tokens
    <placeholder>_1, <placeholder>_2, ... (see `spelled_out`).

    Args:
        model: its tokenizers are replaced by copies, the base ones are kept.
        placeholder: one word.
        initializer_word: each vector starts from the mean of this word's token embeddings; further ones a
            little beside it, or they would stay equal,
        num_vectors: so many,
        rows: or they start from these, a matrix for each text encoder.

    Returns:
        The encoders' rows.

    Raises:
        UserError: the placeholder is no single word or known already, or the initializer word is empty.
    """
    if model.placeholder is not None:
        raise UserError(
            f"The model already has the placeholder {model.placeholder}: one can be added at a time."
        )
    if not placeholder or placeholder.split() != [placeholder]:
        raise UserError(
            f"The placeholder {placeholder!r} is not one word. Choose one like sksToy (dataset.placeholder)."
        )
    tokenizers: list[CLIPTokenizer] = []
    added: dict[str, nn.Parameter] = {}
    for index, (name, encoder) in enumerate(model.text_encoders.items()):
        tokenizer = model.base_tokenizers[index]
        table = encoder.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        start = (
            _initial_rows(tokenizer, table, initializer_word, address=(placeholder, name), number=num_vectors)
            if rows is None
            else rows[index].to(table.weight.device, torch.float32)
        )
        extended, first_id = _extend(tokenizer, placeholder, len(start))
        embedding = TokenEmbedding(table, rows=start.clone(), first_id=first_id)
        encoder.set_input_embeddings(embedding)
        tokenizers.append(extended)
        added[name] = embedding.row
    model.tokenizers = tokenizers
    model.placeholder = placeholder
    return added


def token_embeddings(model: "DiffusionModel") -> dict[str, TokenEmbedding]:
    """The added token's embedding of each text encoder; empty where there is none."""
    tables = {name: encoder.get_input_embeddings() for name, encoder in model.text_encoders.items()}
    return {name: table for name, table in tables.items() if isinstance(table, TokenEmbedding)}


def _extend(tokenizer: CLIPTokenizer, placeholder: str, number: int) -> tuple[CLIPTokenizer, int]:
    if len(tokenizer(placeholder).input_ids) == 3:
        raise UserError(
            f"The placeholder {placeholder} is a word that the model knows already. Choose a new one "
            "(dataset.placeholder), or set adapter.token_embedding=frozen to use the word as it is."
        )
    extended = copy.deepcopy(tokenizer)
    add_tokens(extended, placeholder, number)
    token_id = extended.convert_tokens_to_ids(placeholder)
    assert isinstance(token_id, int)
    assert token_id >= len(tokenizer), "an added token must be new"
    assert len(extended) == token_id + number, "the tokens of a placeholder follow each other"
    return extended, token_id


def _initial_rows(
    tokenizer: CLIPTokenizer, table: nn.Embedding, word: str | None, *, address: tuple[str, str], number: int
) -> Float[Tensor, "n d"]:
    ids = tokenizer(word or "").input_ids[1:-1]
    if not ids:
        raise UserError(
            "A token embedding starts from a word's embedding: set adapter.initializer_word to what the "
            "subject is, such as toy."
        )
    mean = table.weight[ids].detach().float().mean(dim=0)
    rows = mean.repeat(number, 1)
    if number > 1:
        noise = torch.randn(number - 1, mean.shape[0], generator=generator("token vectors", *address))
        rows[1:] += _SPREAD * mean.std() * noise.to(mean.device)
    return rows
