"""One new token in front of a frozen vocabulary: the placeholder that marks the subject.

Textual inversion (arXiv 2208.01618), section 4: only the new token's embedding is optimised.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTokenizer

from src.errors import UserError

if TYPE_CHECKING:
    from src.models.base import DiffusionModel


@final
class TokenEmbedding(nn.Module):
    """An embedding table with one further row of its own, in fp32 while it is trained.

    The row is kept apart from the table, so that neither weight decay nor an optimiser's state ever touches
    the table, and so that saving it needs no bookkeeping.
    """

    def __init__(self, table: nn.Embedding, *, row: Float[Tensor, " d"], token_id: int) -> None:
        super().__init__()
        self.table = table
        self.row = nn.Parameter(row)
        self.token_id = token_id

    @property
    def weight(self) -> Float[Tensor, "v d"]:
        """The frozen table, for code that asks an embedding for its size, device or precision."""
        return self.table.weight

    def forward(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        """Rows of the table, and the own row for the own token."""
        is_new = ids == self.token_id
        known = self.table(ids.masked_fill(is_new, 0))
        return torch.where(is_new[..., None], self.row.to(known.dtype), known)


def add_placeholder(
    model: "DiffusionModel",
    placeholder: str,
    *,
    initializer_word: str | None = None,
    rows: Sequence[Float[Tensor, " _"]] | None = None,
) -> dict[str, nn.Parameter]:
    """Gives every tokenizer and text encoder the new token.

    Added as diffusers' `load_textual_inversion` adds it, so that the same prompts give the same ids there:
    upper and lower case are the same, and it is found inside longer words.

    Args:
        model: its tokenizers are replaced by copies, the base ones are kept.
        placeholder: one word.
        initializer_word: starts from the mean of this word's token embeddings,
        rows: or from these, one for each text encoder.

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
        extended, token_id = _extend(tokenizer, placeholder)
        table = encoder.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        if rows is not None:
            row = rows[index].to(table.weight.device, torch.float32)
        else:
            row = _initial_row(tokenizer, table, initializer_word)
        embedding = TokenEmbedding(table, row=row.clone(), token_id=token_id)
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


def _extend(tokenizer: CLIPTokenizer, placeholder: str) -> tuple[CLIPTokenizer, int]:
    if len(tokenizer(placeholder).input_ids) == 3:
        raise UserError(
            f"The placeholder {placeholder} is a word that the model knows already. Choose a new one "
            "(dataset.placeholder), or set adapter.token_embedding=frozen to use the word as it is."
        )
    extended = copy.deepcopy(tokenizer)
    extended.add_tokens(placeholder)
    token_id = extended.convert_tokens_to_ids(placeholder)
    assert isinstance(token_id, int)
    assert token_id >= len(tokenizer), "an added token must be new"
    return extended, token_id


def _initial_row(tokenizer: CLIPTokenizer, table: nn.Embedding, word: str | None) -> Float[Tensor, " d"]:
    ids = tokenizer(word or "").input_ids[1:-1]
    if not ids:
        raise UserError(
            "A token embedding starts from a word's embedding: set adapter.initializer_word to what the "
            "subject is, such as toy."
        )
    return table.weight[ids].detach().float().mean(dim=0)
